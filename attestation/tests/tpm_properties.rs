//! Whatever is changed at random in TPM evidence, a log or a paravisor's report: no panic, and no yes that it should not get.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

mod common;
mod support;

use std::sync::OnceLock;

use casemate_attestation::azure::{HclReport, VerifiedHardware};
use casemate_attestation::eventlog::ccel::CcelTable;
use casemate_attestation::eventlog::{
    Basis, Claim, LogKind, QuotedRegisters, Register, Replay, replay,
};
use casemate_attestation::tpm::{
    Attest, AttestationKey, Bank, HostedIn, PinnedTpmRoot, PublicKey, QuoteSignature, TpmAnchors,
    TpmEvidence, verify_ak_certificate, verify_tpm_quote,
};
use casemate_attestation::{Sha256Digest, TdxVerdict};
use proptest::prelude::*;

use common::tdx::{verdict_over, verdict_with};
use support::certificates::{intermediate, intermediate_key, leaf, root, root_key};
use support::log::*;
use support::*;

/// Accepted evidence, made once.
fn good() -> &'static TpmEvidence {
    static GOOD: OnceLock<TpmEvidence> = OnceLock::new();
    GOOD.get_or_init(|| case().evidence())
}

/// The log of a trust domain's boot, made once.
fn domain_log() -> &'static [u8] {
    static LOG: OnceLock<Vec<u8>> = OnceLock::new();
    LOG.get_or_init(domain)
}

fn rtmrs(replay: &Replay) -> QuotedRegisters {
    let registers = replay.registers(Bank::Sha384).unwrap();
    let rtmrs = std::array::from_fn(|number| {
        let register = Register::Rtmr(u8::try_from(number).unwrap());
        let value = registers.get(&register);
        value.map_or([0; 48], |value| value.as_slice().try_into().unwrap())
    });
    QuotedRegisters::of_tdx(&verdict_with(&rtmrs))
}

/// What the hardware proves, without where it stands in the log.
fn proven(claims: &[Claim]) -> Vec<String> {
    let proven = claims
        .iter()
        .filter(|claim| claim.basis == Basis::HardwareProven);
    proven
        .map(|claim| format!("{} {:?}", claim.register, claim.value))
        .collect()
}

fn td_blob() -> (Vec<u8>, [u8; 64]) {
    let n = base64::Engine::encode(
        &base64::engine::general_purpose::URL_SAFE_NO_PAD,
        ak().modulus(),
    );
    let runtime = format!(
        r#"{{"keys":[{{"kid":"HCLAkPub","key_ops":["sign"],"kty":"RSA","e":"AQAB","n":"{n}"}}]}}"#
    );
    let length = u32::try_from(runtime.len()).unwrap();
    let mut data = [0; 64];
    data[..32].copy_from_slice(Sha256Digest::of(runtime.as_bytes()).as_bytes());
    let mut report = vec![0; 1184];
    report[0] = 0x81;
    report[128..192].copy_from_slice(&data);
    let mut blob = b"HCLA".to_vec();
    for number in [2, 1236 + length, 2, 0, 0, 0, 0] {
        blob.extend(number.to_le_bytes());
    }
    blob.extend(report);
    for number in [20 + length, 1, 4, 1, length] {
        blob.extend(number.to_le_bytes());
    }
    blob.extend(runtime.as_bytes());
    blob.extend([0; 32]);
    (blob, data)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let _ = Attest::parse(&bytes);
        let _ = AttestationKey::parse(&bytes);
        let _ = PublicKey::from_spki(&bytes);
        let _ = HclReport::parse(&bytes);
        let _ = CcelTable::parse(&bytes);
        let _ = replay(&bytes, LogKind::Tcg2);
        let _ = replay(&[header(&[(0x0b, 32)]), bytes.clone()].concat(), LogKind::Ccel);
        let _ = verify_ak_certificate(&bytes, std::slice::from_ref(&bytes), &anchors(ak()), NOW);
    }

    #[test]
    fn a_quote_with_any_byte_changed_is_refused(
        part in 0..3_usize, place in any::<prop::sample::Index>(), change in 1..=255_u8,
    ) {
        let mut evidence = good().clone();
        match (part, &mut evidence.signature) {
            (0, _) => *place.get_mut(&mut evidence.message) ^= change,
            (1, QuoteSignature::Tpmt(bytes)) => *place.get_mut(bytes) ^= change,
            _ => {
                let register = u8::try_from(place.index(8)).unwrap();
                evidence.registers.get_mut(&register).unwrap()[place.index(32)] ^= change;
            }
        }
        let judged = verify_tpm_quote(&evidence, NONCE, &policy(), &anchors(ak()), NOW);
        prop_assert!(judged.is_err());
    }

    #[test]
    fn a_quote_cut_or_lengthened_is_refused(cut in any::<prop::sample::Index>(), more in proptest::collection::vec(any::<u8>(), 1..9)) {
        let mut evidence = good().clone();
        evidence.message.truncate(cut.index(good().message.len()));
        let judge = |evidence: &TpmEvidence| verify_tpm_quote(evidence, NONCE, &policy(), &anchors(ak()), NOW);
        prop_assert!(judge(&evidence).is_err());
        evidence.message = [&good().message[..], &more].concat();
        prop_assert!(judge(&evidence).is_err());
    }

    #[test]
    fn what_the_hardware_proves_survives_no_edit_of_the_log(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let genuine = replay(domain_log(), LogKind::Ccel).unwrap();
        let quoted = rtmrs(&genuine);
        let all = proven(genuine.confirm(&quoted).unwrap().claims().unwrap().all());
        prop_assert!(all.iter().any(|claim| claim == "RTMR 0 SecureBoot(true)"));
        let mut edited = domain_log().to_vec();
        for (place, value) in edits {
            *place.get_mut(&mut edited) = value;
        }
        let Ok(replay) = replay(&edited, LogKind::Ccel) else { return Ok(()) };
        let Ok(confirmed) = replay.confirm(&quoted) else { return Ok(()) };
        let Ok(claims) = confirmed.claims() else { return Ok(()) };
        for claim in proven(claims.all()) {
            prop_assert!(all.contains(&claim), "{}", claim);
        }
    }

    #[test]
    fn a_paravisor_report_with_any_byte_changed_is_refused(
        place in any::<prop::sample::Index>(), change in 1..=255_u8,
    ) {
        static GOOD: OnceLock<(Vec<u8>, TdxVerdict)> = OnceLock::new();
        let (blob, verdict) = GOOD.get_or_init(|| {
            let (blob, report_data) = td_blob();
            (blob, verdict_over(&report_data))
        });
        let hardware = VerifiedHardware::Tdx(verdict);
        prop_assert!(HclReport::parse(blob).unwrap().bind(&hardware).is_ok());
        let mut edited = blob.clone();
        *place.get_mut(&mut edited) ^= change;
        let bound = HclReport::parse(&edited).is_ok_and(|hcl| hcl.bind(&hardware).is_ok());
        // The header's version is 1 or 2, and a TDREPORT counts by its type and report data alone: it is no evidence.
        let position = place.index(blob.len());
        let does_not_count = position == 4
            || position == 34
            || (36..32 + 128).contains(&position)
            || (32 + 192..32 + 1024).contains(&position);
        prop_assert!(!bound || does_not_count, "byte {}", position);
    }
}

/// Every byte of a chain, not only those that a random draw hits: tags outside the signed part belong to nobody's signature.
#[test]
fn a_chain_is_refused_whichever_byte_is_changed() {
    let chain = [
        leaf().sign(ak(), intermediate_key()),
        intermediate().sign(intermediate_key(), root_key()),
    ];
    let root = root().sign(root_key(), root_key());
    let root = PinnedTpmRoot::new(&root, HostedIn::Machine);
    let anchors = TpmAnchors::new(vec![root], Vec::new());
    for which in 0..2 {
        for place in 0..chain[which].len() {
            for change in [0x01, 0x20, 0x40, 0x80, 0xff] {
                let mut changed = chain.clone();
                changed[which][place] ^= change;
                let [leaf, above] = changed;
                let judged = verify_ak_certificate(&leaf, &[above], &anchors, NOW);
                assert!(
                    judged.is_err(),
                    "certificate {which}, byte {place}, {change:#x}"
                );
            }
        }
    }
}

#[test]
fn a_quote_is_refused_whichever_byte_is_changed() {
    let judge = |evidence: &TpmEvidence| {
        verify_tpm_quote(evidence, NONCE, &policy(), &anchors(ak()), NOW).is_ok()
    };
    assert!(judge(good()));
    for change in [0x01, 0x80, 0xff] {
        for place in 0..good().message.len() {
            let mut evidence = good().clone();
            evidence.message[place] ^= change;
            assert!(!judge(&evidence), "message, byte {place}");
        }
        let QuoteSignature::Tpmt(signature) = &good().signature else {
            panic!("a signature that names its scheme")
        };
        for place in 0..signature.len() {
            let mut changed = signature.clone();
            changed[place] ^= change;
            let signature = QuoteSignature::Tpmt(changed);
            let evidence = TpmEvidence {
                signature,
                ..good().clone()
            };
            assert!(!judge(&evidence), "signature, byte {place}");
        }
    }
}
