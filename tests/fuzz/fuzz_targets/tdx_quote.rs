//! A quote with its collateral, through the whole appraisal under a private root. Input: a length of
//! two bytes, the quote, and the collateral's JSON. Nothing is accepted but what was signed.
#![no_main]

use casemate_attestation::tdx::{
    Expected, TdxCollateral, TdxMeasurement, TdxPolicy, TdxQuote, TdxRejection, TdxRoot,
    TdxVerdict, verify_tdx_quote,
};
use casemate_attestation::{ChipId, Measurement, UnixTime};
use libfuzzer_sys::fuzz_target;

const ROOT: &[u8] = include_bytes!("../seeds/tdx-root.der");
const EVIDENCE: &[u8] = include_bytes!("../seeds/tdx_quote/evidence");

fuzz_target!(init: seeds(), |bytes: &[u8]| {
    let (quote, collateral) = evidence(bytes);
    if let Ok(read) = TdxQuote::parse(quote) {
        assert_eq!(read.bytes(), &quote[..quote.len() - read.trailing_zeros()]);
        assert!(read.bytes().starts_with(read.signed_bytes()));
    }
    let Ok(collateral) = TdxCollateral::from_json(collateral) else {
        return;
    };
    let again = collateral.to_json().map(|json| TdxCollateral::from_json(&json));
    assert_eq!(again.as_ref(), Ok(&Ok(collateral.clone())));
    if let Ok(verdict) = appraise(quote, &collateral, &private()) {
        let (genuine, _) = evidence(EVIDENCE);
        assert!(genuine.starts_with(verdict.quote().signed_bytes()));
    }
});

fn seeds() {
    let (quote, collateral) = evidence(EVIDENCE);
    let Ok(collateral) = TdxCollateral::from_json(collateral) else {
        panic!("the seed is out of date: scripts/fuzz seeds");
    };
    let accepted = appraise(quote, &collateral, &private()).is_ok();
    assert!(accepted, "the seed is out of date: scripts/fuzz seeds");
    assert!(appraise(quote, &collateral, &TdxRoot::intel()).is_err());
}

fn private() -> TdxRoot {
    TdxRoot::private(ROOT)
}

fn evidence(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (length, rest) = bytes.split_at(bytes.len().min(2));
    let length = length
        .iter()
        .fold(0, |length, byte| length << 8 | usize::from(*byte));
    rest.split_at(length.min(rest.len()))
}

/// What the seed's platform is, as `attestation/tests/common/tdx/mod.rs` makes it.
fn appraise(
    quote: &[u8],
    collateral: &TdxCollateral,
    root: &TdxRoot,
) -> Result<TdxVerdict, TdxRejection> {
    let mut platform = [0; 64];
    platform[..16].fill(0xa1);
    platform[16..32].fill(0xb2);
    let measurement = TdxMeasurement {
        mrtd: Measurement::from_bytes([0x22; 48]),
        rtmrs: [const { Expected::NotJudged }; 4],
    };
    let Ok(policy) = TdxPolicy::new(vec![measurement], vec![ChipId::from_bytes(platform)], 20)
    else {
        panic!("a policy with one of everything");
    };
    verify_tdx_quote(
        quote,
        collateral,
        &[0x44; 64],
        &policy,
        root,
        UnixTime::from_secs(1_772_323_200),
    )
}
