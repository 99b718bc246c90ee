//! A report with its certificates and revocation list, through the whole appraisal. Input: three lengths of two bytes
//! (report, endorsement certificate, intermediate), the three, and the list. Nothing that a fuzzer makes is genuine.
#![no_main]

use std::collections::BTreeMap;

use casemate_attestation::snp::{PinnedRoot, SnpReport, verify_snp_report};
use casemate_attestation::{ChipId, HardwareEvidence, Measurement, Product, SnpPolicy, TcbVersion, UnixTime};
use libfuzzer_sys::fuzz_target;

fn take<'a>(rest: &mut &'a [u8], length: usize) -> &'a [u8] {
    let (taken, left) = rest.split_at(length.min(rest.len()));
    *rest = left;
    taken
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(report) = SnpReport::parse(bytes) {
        assert_eq!(report.signed_bytes(), &bytes[..0x2a0]);
        assert!((2..=5).contains(&report.version()));
    }
    let mut rest = bytes;
    let lengths: Vec<usize> = take(&mut rest, 6).chunks(2).map(|pair| pair.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte))).collect();
    let [report, vek, intermediate] = lengths[..] else { return };
    let evidence = HardwareEvidence {
        report: take(&mut rest, report).to_vec(),
        vek: take(&mut rest, vek).to_vec(),
        intermediate: take(&mut rest, intermediate).to_vec(),
        crl: rest.to_vec(),
    };
    let floors = BTreeMap::from([(Product::Genoa, TcbVersion::default())]);
    let (measurement, chip) = (Measurement::from_bytes([1; 48]), ChipId::from_bytes([1; 64]));
    let Ok(policy) = SnpPolicy::new(vec![measurement], vec![chip], floors) else { panic!("policy") };
    let now = UnixTime::from_secs(1_772_323_200);
    assert!(verify_snp_report(&evidence, &[0; 64], &policy, &PinnedRoot::amd(), now).is_err());
});
