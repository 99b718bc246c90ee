//! A machine with GPUs whose session was recorded: the saved folder is judged as the session was, and what was changed in it is
//! refused for what it is.

#![cfg(feature = "test-chip")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

use std::fs;
use std::path::Path;

use casemate_attestation::nvidia::{DriverMode, OcspAnswers, PinnedGpuRoot};
use casemate_attestation::test_chip::{PRODUCT, TCB, TestChip, TestGpu};
use casemate_attestation::{
    Batch, Context, DeviceSet, Direction, EvidenceProvider, FleetChip, FleetDevice, FleetList,
    Nonce, Platform, ReferenceValues, Sha256Digest, SnpMeasurement, SnpReference, TrustAnchors,
    UnixTime,
};
use casemate_client::exit::ExitCode;
use casemate_client::recorded::beside::{Beside, Session};
use casemate_client::recorded::judge::{judge, judge_under_roots};
use casemate_client::recorded::{Asked, Policy, Recorded, Subject, folder, save};
use casemate_client::report::Report;
use serde_json::{Value, json};

const SEED: [u8; 32] = [21; 32];
/// 2026-03-01T00:00:00Z.
const NOW: UnixTime = UnixTime::from_secs(1_772_323_200);

fn session(context: Context) -> Session {
    Session {
        direction: Direction::Server,
        exporter: [1; 32],
        server_leaf: Sha256Digest::of(b"server"),
        client_leaf: Sha256Digest::of(b"client"),
        nonce: Nonce::from_bytes([2; 32]),
        context,
        batch: None,
    }
}

/// What a machine with these GPUs said in its session, whose report served a batch.
fn recorded(chip: &TestChip, gpus: &[u32]) -> Recorded {
    let nonce = *session(Context::absent()).binding().device_nonce();
    let answer = |number: &u32| TestGpu::of_seed(&SEED, *number).evidence(&nonce);
    let about = Sha256Digest::of(b"a certificate of nobody's chain");
    let answers = OcspAnswers::new([(about, vec![1])]);
    let devices = DeviceSet::new(DriverMode::On, gpus.iter().map(answer).collect(), &answers);
    let context = Context {
        device_evidence: devices.digest(),
        models: vec![Sha256Digest::of(b"model")],
        ..Context::absent()
    };
    let mut session = session(context);
    let other = Session {
        nonce: Nonce::from_bytes([3; 32]),
        ..session.clone()
    };
    let batch = Batch::new(&[other.binding(), session.binding()]).unwrap();
    session.batch = batch.path(1);
    assert_eq!(session.report_data(), batch.report_data());
    Recorded {
        subject: Subject::Hardware {
            platform: Platform::TestChip,
            evidence: chip.evidence(&batch.report_data()).unwrap(),
        },
        asked: Asked::ReportData(Box::new(batch.report_data())),
        at: Some(NOW),
        beside: Some(Box::new(Beside { devices, session })),
    }
}

fn policy(chip: &TestChip, gpus: &[u32]) -> Policy {
    let device = |number: &u32| FleetDevice {
        kind: TestGpu::KIND,
        device_key: TestGpu::of_seed(&SEED, *number).device_key(),
        label: String::new(),
    };
    let section = SnpReference {
        measurements: vec![SnpMeasurement {
            until: None,
            measurement: TestChip::default_measurement(),
            label: String::new(),
        }],
        tcb_floor: [(PRODUCT, TCB)].into(),
        ..SnpReference::default()
    };
    Policy {
        reference: ReferenceValues {
            test_chip: Some(section),
            nvidia: Some(TestGpu::reference()),
            ..ReferenceValues::default()
        },
        fleet: FleetList {
            chips: vec![FleetChip {
                platform: Platform::TestChip,
                chip_id: chip.chip_id(),
                names: Vec::new(),
                label: String::new(),
                tpm: None,
                devices: gpus.iter().map(device).collect(),
            }],
        },
    }
}

fn verdict(recorded: &Recorded, policy: &Policy, chip: &TestChip) -> (ExitCode, String) {
    let anchors = TrustAnchors::test_chip(chip.root_der())
        .with_private_gpu_root(PinnedGpuRoot::private(&TestGpu::root_der(&SEED)));
    let mut report = Report::default();
    judge_under_roots(recorded, policy, anchors, NOW, &mut report);
    (report.exit_code(), report.to_string())
}

fn edit(folder: &Path, change: impl FnOnce(&mut Value)) {
    let path = folder.join("expected.json");
    let mut index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut index);
    fs::write(path, index.to_string()).unwrap();
}

#[test]
fn a_saved_machine_with_gpus_is_judged_as_its_session_was() {
    let chip = TestChip::from_seed(&SEED, NOW);
    let place = tempfile::tempdir().unwrap();
    let (session, right) = (recorded(&chip, &[1, 2]), policy(&chip, &[1, 2]));
    let copy = place.path().join("saved");
    save::write(&copy, &session, NOW).unwrap();
    let again = folder::read(&copy, None).unwrap();
    assert_eq!(again.asked, session.asked);
    let (was, is) = (
        session.beside.as_ref().unwrap(),
        again.beside.as_ref().unwrap(),
    );
    assert_eq!(is.session, was.session);
    assert_eq!(is.devices.devices, was.devices.devices);

    let before = verdict(&session, &right, &chip);
    assert_eq!(before.0, ExitCode::Done, "{}", before.1);
    assert!(before.1.contains("PASS evidence.P-39"), "{}", before.1);
    assert_eq!(verdict(&again, &right, &chip), before);
    // The vendors' roots know neither the chip nor its GPUs.
    let mut report = Report::default();
    judge(&again, Some(&right), NOW, &mut report);
    assert_ne!(report.exit_code(), ExitCode::Done);
    // Another policy is another verdict, of both.
    for gpus in [&[][..], &[1], &[1, 2, 3], &[1, 3]] {
        let other = policy(&chip, gpus);
        let refused = verdict(&session, &other, &chip);
        assert_eq!(refused.0, ExitCode::Rejected, "{gpus:?}: {}", refused.1);
        assert_eq!(verdict(&again, &other, &chip), refused);
    }
    // A device's folder by itself is one like any other.
    let alone = folder::read(&copy.join("device-0"), None).unwrap();
    assert!(matches!(
        alone.subject,
        Subject::Device { nonce: Some(_), .. }
    ));
}

#[test]
fn what_was_changed_in_a_saved_machine_with_gpus_is_refused_by_name() {
    let chip = TestChip::from_seed(&SEED, NOW);
    let right = policy(&chip, &[1, 2]);
    let changed = |change: &dyn Fn(&Path)| {
        let place = tempfile::tempdir().unwrap();
        let copy = place.path().join("saved");
        save::write(&copy, &recorded(&chip, &[1, 2]), NOW).unwrap();
        change(&copy);
        match folder::read(&copy, None) {
            Ok(recorded) => verdict(&recorded, &right, &chip),
            Err(error) => (error.exit_code(), error.to_string()),
        }
    };
    let of_index = |change: fn(&mut Value)| changed(&|copy| edit(copy, change));
    let rejected = |(code, text): (ExitCode, String), rule: &str| {
        assert_eq!(code, ExitCode::Rejected, "{text}");
        assert!(
            text.contains(&format!("FAIL evidence.{rule} ")),
            "{rule}: {text}"
        );
    };
    rejected(
        of_index(|it| it["devices"]["mode"] = json!("dev-tools")),
        "P-38",
    );
    rejected(
        of_index(|it| it["devices"]["folders"] = json!(["device-0"])),
        "P-38",
    );
    // Reports of another session, whose digest this one's report signs nowhere.
    let swapped = changed(&|copy| {
        let nonce = casemate_attestation::nvidia::GpuNonce::recorded([9; 32]);
        let report = TestGpu::of_seed(&SEED, 1).evidence(&nonce).report;
        fs::write(copy.join("device-0/report.bin"), report).unwrap();
    });
    rejected(swapped, "P-38");
    let other = of_index(|it| {
        it["session"]["nonce"] = json!("07".repeat(32));
        it.as_object_mut().unwrap().remove("asked_with");
    });
    rejected(other, "S16");
    for (change, word) in [
        (
            (|it| it["session"]["nonce"] = json!("07".repeat(32))) as fn(&mut Value),
            "asked_with",
        ),
        (|it| it["session"]["more"] = json!(1), "session"),
        (|it| it["session"] = Value::Null, "session"),
        (|it| it["devices"]["mode"] = Value::Null, "devices"),
        (
            |it| it["devices"]["folders"] = json!(vec!["device-0"; 65]),
            "more than 64",
        ),
        (|it| it["devices"]["folders"] = json!([1]), "devices"),
    ] {
        let (code, text) = of_index(change);
        assert_eq!(code, ExitCode::Malformed, "{text}");
        assert!(text.contains(word), "{word}: {text}");
    }
    // A folder that names itself is read as a device's, which it is not.
    let itself = of_index(|it| it["devices"]["folders"] = json!(["."]));
    assert_ne!(itself.0, ExitCode::Done, "{}", itself.1);
}
