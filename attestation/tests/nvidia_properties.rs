//! Whatever is changed at random in a GPU's evidence: no panic, and no yes that it should not get.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

#[path = "support/spdm.rs"]
mod spdm;

use std::sync::OnceLock;

use casemate_attestation::nvidia::{
    DeviceEvidence, GpuPolicy, GpuReport, GpuVerdict, NvidiaRejection, OcspAnswers, PinnedGpuRoot,
    verify_device,
};
use proptest::prelude::*;

use spdm::*;

/// Accepted evidence and its root, made once.
fn good() -> &'static (DeviceEvidence, Vec<PinnedGpuRoot>) {
    static GOOD: OnceLock<(DeviceEvidence, Vec<PinnedGpuRoot>)> = OnceLock::new();
    GOOD.get_or_init(|| {
        let case = case();
        (case.evidence(), case.roots())
    })
}

fn judge(evidence: &DeviceEvidence) -> Result<GpuVerdict, NvidiaRejection> {
    let policy = GpuPolicy::new(parts()).unwrap();
    let nonce = casemate_attestation::nvidia::GpuNonce::recorded(NONCE);
    verify_device(
        evidence,
        &nonce,
        &policy,
        &good().1,
        &OcspAnswers::none(),
        ON,
        NOW,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_or_refused(report in proptest::collection::vec(any::<u8>(), 0..4200), chain in "\\PC{0,400}") {
        if let Ok(read) = GpuReport::parse(&report) {
            prop_assert_eq!(read.signed().len() + 96 + read.unread(), report.len());
        }
        let judged = judge(&DeviceEvidence { report, chain: chain.into_bytes() });
        prop_assert!(judged.is_err());
    }

    #[test]
    fn any_opaque_data_are_read_or_refused(opaque in proptest::collection::vec(any::<u8>(), 0..600)) {
        static KEY: OnceLock<Key> = OnceLock::new();
        let report = Report { opaque: Some(opaque), ..Report::gpu() };
        let _ = GpuReport::parse(&report.sign(KEY.get_or_init(Key::new)));
    }

    #[test]
    fn a_report_with_some_bytes_changed_is_refused(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 1..4),
    ) {
        let mut changed = good().0.clone();
        for (place, change) in edits {
            let place = place.index(changed.report.len());
            changed.report[place] ^= change;
        }
        prop_assume!(changed != good().0);
        prop_assert!(judge(&changed).is_err());
    }

    #[test]
    fn a_report_cut_is_refused_and_one_lengthened_is_the_same(
        cut in any::<prop::sample::Index>(), more in proptest::collection::vec(any::<u8>(), 1..99),
    ) {
        let whole = &good().0;
        let report = whole.report[..cut.index(whole.report.len())].to_vec();
        let judged = judge(&DeviceEvidence { report, chain: whole.chain.clone() });
        prop_assert!(judged.is_err());
        let report = [whole.report.clone(), more.clone()].concat();
        let verdict = judge(&DeviceEvidence { report, chain: whole.chain.clone() });
        prop_assert_eq!(verdict.unwrap().report().unread(), more.len());
    }

    #[test]
    fn a_chain_with_its_text_edited_says_the_same_or_is_refused(
        place in any::<prop::sample::Index>(), letter in any::<u8>(),
    ) {
        let mut changed = good().0.clone();
        let place = place.index(changed.chain.len());
        changed.chain[place] = letter;
        if let Ok(verdict) = judge(&changed) {
            let genuine = judge(&good().0).unwrap();
            prop_assert_eq!(verdict.leaf_key(), genuine.leaf_key());
            let squeezed = |text: &[u8]| {
                let text = text.iter().filter(|byte| !byte.is_ascii_whitespace());
                text.copied().collect::<Vec<u8>>()
            };
            prop_assert_eq!(squeezed(&changed.chain), squeezed(&good().0.chain));
        }
    }
}

#[test]
fn a_chain_is_refused_whichever_byte_of_a_certificate_is_changed() {
    let case = case();
    let whole = case.ders();
    let policy = GpuPolicy::new(parts()).unwrap();
    let report = case.evidence().report;
    for certificate in 0..whole.len() {
        for place in 0..whole[certificate].len() {
            let mut chain = whole.clone();
            chain[certificate][place] ^= 0x20;
            let changed = DeviceEvidence {
                report: report.clone(),
                chain: pem(&chain),
            };
            let judged = verify_device(
                &changed,
                &case.nonce,
                &policy,
                &case.roots(),
                &case.answers,
                ON,
                NOW,
            );
            assert!(judged.is_err(), "certificate {certificate}, byte {place}");
        }
    }
}
