//! A look at one device: what is genuine by itself is refused or shown, and what would need a list or a guest is compared with nothing.

use casemate_attestation::CheckResult;
use casemate_attestation::nvidia::{
    DeviceKind, DeviceLook, NvidiaRejection, PinnedGpuRoot, look_at_device,
};

use super::same;
use super::spdm::*;

fn look(case: &Case, nonce: Option<[u8; 32]>) -> Result<DeviceLook, NvidiaRejection> {
    let (evidence, roots) = (case.evidence(), case.roots());
    look_at_device(&evidence, nonce, &roots, &case.answers, case.now)
}

/// The words of a rule's lines, which say that they are no more than information.
fn shown<'a>(look: &'a DeviceLook, id: &str) -> Vec<&'a str> {
    let lines = look.checks.iter().filter(|line| line.id == id);
    let words = |line: &'a casemate_attestation::Check| {
        assert_eq!(line.result, CheckResult::Info, "{}", line.text);
        line.text.as_str()
    };
    lines.map(words).collect()
}

#[test]
fn a_look_at_a_gpu_tells_what_its_report_says_and_that_no_list_was_asked() {
    let case = case();
    let found = look(&case, Some(NONCE)).unwrap();
    let ids: Vec<_> = found.checks.iter().map(|line| line.id).collect();
    let all = [
        "N1", "N2", "N3", "N4", "N5", "N6", "N7", "N8", "N9", "N9", "N11",
    ];
    assert_eq!(ids, all);
    let versions = format!("compared with nothing: driver {DRIVER} and VBIOS {VBIOS}");
    assert_eq!(shown(&found, "N7"), [versions]);
    assert_eq!(
        shown(&found, "N8"),
        ["compared with nothing: 64 measurements"]
    );
    let [together, mode] = shown(&found, "N9")[..] else {
        panic!("two lines");
    };
    assert_eq!(together, "report says single GPU");
    assert!(mode.contains("is in no report"), "{mode}");
    assert!(shown(&found, "N11")[0].contains("does not say which machine"));
    let verdict = case.judge().unwrap();
    assert_eq!(found.kind, DeviceKind::Gpu);
    assert_eq!(found.device_key, verdict.device_key());
    assert_eq!(found.leaf_key, verdict.leaf_key());
    assert_eq!(found.revocation_until, None);
    // Nobody said what it was asked for with.
    let unasked = look(&case, None).unwrap();
    assert!(shown(&unasked, "N2")[0].starts_with("compared with nothing"));
}

#[test]
fn a_look_at_a_switch_tells_its_firmware() {
    let mut case = case();
    case.report = Report::switch([1; 8], &[[2; 8]; 8]);
    let found = look(&case, Some(NONCE)).unwrap();
    let firmware = format!("compared with nothing: switch firmware {SWITCH}");
    assert_eq!(shown(&found, "N7"), [firmware]);
    assert_eq!(
        shown(&found, "N9")[0],
        "report does not say how its device works together with others"
    );
    assert_eq!(found.kind, DeviceKind::Switch);
}

#[test]
fn a_look_refuses_what_needs_no_list_to_be_wrong() {
    let refused = |change: fn(&mut Case)| {
        let mut case = case();
        change(&mut case);
        look(&case, Some(NONCE)).unwrap_err()
    };
    let other = refused(|case| case.report.nonce[0] ^= 1);
    same(other, NvidiaRejection::RequestNonce, "N2");
    let stranger = refused(|case| case.signer = Some(Key::new()));
    same(stranger, NvidiaRejection::ReportSignature, "N4");
    let firmware = refused(|case| case.report.set(20, &[0xf2; 48]));
    same(firmware, NvidiaRejection::FirmwareIdMismatch, "N5");
    let silent = refused(|case| case.report.drop(6));
    same(silent, NvidiaRejection::VersionMissing, "N7");
    let case = case();
    let roots = [PinnedGpuRoot::nvidia()];
    let found = look_at_device(&case.evidence(), None, &roots, &case.answers, case.now);
    same(found.unwrap_err(), NvidiaRejection::NoPinnedRoot, "N3");
}
