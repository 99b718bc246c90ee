//! A quote with its signature, key and register values, through the whole appraisal. Input: three
//! lengths of two bytes (message, signature, public area), the three, and the values of PCR 0 to 23.
//! Nothing is accepted but the message that the TPM signed, with the values that it quoted. The seed
//! is a software TPM's: `fuzz_seed` of `scripts/tpm-fixture FOLDER NONCE`, with the nonce below.
#![no_main]

use std::collections::BTreeMap;

use casemate_attestation::UnixTime;
use casemate_attestation::tpm::{
    Attest, AttestationKey, Bank, EnrolledKey, HostedIn, KeyEvidence, PublicKey, QuoteSignature,
    TpmAnchors, TpmEvidence, TpmPolicy, TpmRejection, TpmVerdict, verify_ak_certificate,
    verify_tpm_quote,
};
use libfuzzer_sys::fuzz_target;

const QUOTE: &[u8] = include_bytes!("../seeds/tpm_attest/quote");
const NONCE: &[u8] = b"a nonce for the software TPM 32b";
const NOW: UnixTime = UnixTime::from_secs(1_772_323_200);

fuzz_target!(init: seeds(), |bytes: &[u8]| {
    let _ = Attest::parse(bytes);
    let _ = AttestationKey::parse(bytes);
    let _ = PublicKey::from_spki(bytes);
    let _ = verify_ak_certificate(bytes, &[bytes.to_vec()], &anchors(), NOW);
    let evidence = evidence(bytes);
    if appraise(&evidence, &anchors()).is_ok() {
        let genuine = self::evidence(QUOTE);
        assert_eq!(evidence.message, genuine.message);
        assert_eq!(evidence.registers, genuine.registers);
    }
});

fn seeds() {
    let genuine = evidence(QUOTE);
    assert!(
        appraise(&genuine, &anchors()).is_ok(),
        "the seed is out of date"
    );
    assert!(appraise(&genuine, &TpmAnchors::default()).is_err());
}

fn evidence(bytes: &[u8]) -> TpmEvidence {
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
    let (message, signature, area) = (take(0), take(1), take(2));
    let values = rest.chunks_exact(32).take(24).map(<[u8]>::to_vec);
    TpmEvidence {
        message,
        signature: QuoteSignature::Tpmt(signature),
        registers: (0..24).zip(values).collect(),
        key: KeyEvidence::PublicArea(area),
    }
}

/// The seed's key is enrolled, and no other.
fn anchors() -> TpmAnchors {
    let KeyEvidence::PublicArea(area) = evidence(QUOTE).key else {
        panic!("a public area");
    };
    let Ok(key) = AttestationKey::parse(&area) else {
        panic!("the seed's key is out of date");
    };
    TpmAnchors::new(Vec::new(), vec![EnrolledKey::new(&key, HostedIn::Machine)])
}

fn appraise(evidence: &TpmEvidence, anchors: &TpmAnchors) -> Result<TpmVerdict, TpmRejection> {
    let expected = BTreeMap::from([(16, vec![vec![0; 32]])]);
    let Ok(policy) = TpmPolicy::new(Bank::Sha256, (0..24).collect(), expected) else {
        panic!("a policy with one of everything");
    };
    verify_tpm_quote(evidence, NONCE, &policy, anchors, NOW)
}
