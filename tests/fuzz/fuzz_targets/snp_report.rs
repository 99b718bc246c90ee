//! A report with its certificates and revocation list, through the whole appraisal under the test
//! chip's root. Input: three lengths of two bytes (report, endorsement certificate, intermediate),
//! the three, and the list. Nothing is accepted but the report that the chip signed.
#![no_main]

use std::collections::BTreeMap;

use casemate_attestation::snp::{PinnedRoot, SnpReport, SnpVerdict, verify_snp_report};
use casemate_attestation::test_chip::TestChip;
use casemate_attestation::{
    Product, SnpEvidence, SnpPolicy, SnpRejection, TcbVersion, UnixTime,
};
use libfuzzer_sys::fuzz_target;

const ROOT: &[u8] = include_bytes!("../seeds/test-chip-root.der");
const REPORT: &[u8] = include_bytes!("../seeds/snp_report/report");
const EVIDENCE: &[u8] = include_bytes!("../seeds/snp_report/evidence");

fuzz_target!(init: seeds(), |bytes: &[u8]| {
    if let Ok(report) = SnpReport::parse(bytes) {
        assert_eq!(report.signed_bytes(), &bytes[..0x2a0]);
        assert!((2..=5).contains(&report.version()));
    }
    if let Ok(verdict) = appraise(&evidence(bytes), &test_chip()) {
        assert_eq!(verdict.report().signed_bytes(), &REPORT[..0x2a0]);
    }
});

fn seeds() {
    let genuine = evidence(EVIDENCE);
    let accepted = appraise(&genuine, &test_chip()).is_ok();
    assert!(accepted, "the seed is out of date: scripts/fuzz seeds");
    assert!(appraise(&genuine, &PinnedRoot::amd()).is_err());
}

fn test_chip() -> [PinnedRoot; 1] {
    [PinnedRoot::private(Product::Genoa, ROOT)]
}

fn evidence(bytes: &[u8]) -> SnpEvidence {
    let (lengths, mut rest) = bytes.split_at(bytes.len().min(6));
    let mut take = |index: usize| {
        let len = lengths
            .chunks_exact(2)
            .nth(index)
            .map_or(0, |pair| usize::from(pair[0]) << 8 | usize::from(pair[1]));
        let (taken, left) = rest.split_at(len.min(rest.len()));
        rest = left;
        taken.to_vec()
    };
    let (report, vek, intermediate) = (take(0), take(1), take(2));
    SnpEvidence {
        report,
        vek,
        intermediate,
        crl: rest.to_vec(),
    }
}

fn appraise(evidence: &SnpEvidence, roots: &[PinnedRoot]) -> Result<SnpVerdict, SnpRejection> {
    let chip = SnpReport::parse(REPORT)?.chip_id();
    let floors = BTreeMap::from([(Product::Genoa, TcbVersion::default())]);
    let Ok(policy) = SnpPolicy::new(vec![TestChip::default_measurement()], vec![chip], floors)
    else {
        panic!("a policy with one of everything");
    };
    verify_snp_report(
        evidence,
        &[0; 64],
        &policy,
        roots,
        UnixTime::from_secs(1_772_323_200),
    )
}
