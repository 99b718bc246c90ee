//! Numbers, rotation, crashes, full disks, and what no record can hold.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use casemate_attestation::{Sha256Digest, UnixTime};
use serde_json::Value;

use super::file::AuditFile;
use super::*;

const NOW: UnixTime = UnixTime::from_secs(1_790_000_000);

fn event() -> AuditEvent {
    AuditEvent::Refused {
        step: Step::Request,
        principal: None,
        leaf: None,
        session: None,
        reason: "body_too_long",
    }
}

fn numbers(path: &Path) -> Vec<u64> {
    let text = fs::read_to_string(path).unwrap();
    let number = |line| {
        serde_json::from_str::<Value>(line).unwrap()["seq"]
            .as_u64()
            .unwrap()
    };
    text.lines().map(number).collect()
}

fn log(path: &Path) -> AuditLog {
    // The thread of a dropped log closes its file a moment later.
    for _ in 0..500 {
        match AuditLog::open(path, Durability::Disk) {
            Err(AuditError::InUse { .. }) => {
                std::thread::sleep(std::time::Duration::from_millis(10))
            }
            opened => return opened.unwrap(),
        }
    }
    panic!("the log stays in use")
}

#[test]
fn numbers_go_on_across_restart_and_rotation() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let first = log(&path);
    assert_eq!(first.record_blocking(NOW, event()).unwrap(), 1);
    assert_eq!(first.record_blocking(NOW, event()).unwrap(), 2);
    fs::rename(&path, folder.path().join("audit.log.1")).unwrap();
    assert_eq!(first.record_blocking(NOW, event()).unwrap(), 3);
    drop(first);
    assert_eq!(log(&path).record_blocking(NOW, event()).unwrap(), 4);
    fs::remove_file(folder.path().join("audit.log.1")).unwrap();
    fs::rename(&path, folder.path().join("audit.log.2")).unwrap();
    assert_eq!(log(&path).record_blocking(NOW, event()).unwrap(), 5);
    assert_eq!(numbers(&folder.path().join("audit.log.2")), [3, 4]);
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

#[test]
fn a_cut_line_is_taken_away_and_damage_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    drop(
        AuditFile::open(&path, Durability::Disk)
            .unwrap()
            .append(&[(NOW, event())], true),
    );
    let mut text = fs::read_to_string(&path).unwrap();
    text.push_str("{\"seq\":2,\"ti");
    fs::write(&path, &text).unwrap();
    let mut file = AuditFile::open(&path, Durability::Disk).unwrap();
    assert_eq!(file.append(&[(NOW, event())], true).unwrap(), 2);
    drop(file);
    assert_eq!(numbers(&path), [1, 2]);
    fs::write(&path, "not a record\n").unwrap();
    assert!(matches!(
        AuditFile::open(&path, Durability::Disk),
        Err(AuditError::Damaged { .. })
    ));
}

#[test]
fn what_cannot_be_recorded_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let audit = log(&path);
    audit.record_blocking(NOW, event()).unwrap();
    assert!(matches!(
        AuditLog::open(&path, Durability::Disk),
        Err(AuditError::InUse { .. })
    ));
    // The log is moved away and something that cannot be opened stands in its place.
    fs::rename(&path, folder.path().join("audit.log.1")).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(matches!(
        audit.record_blocking(NOW, event()),
        Err(AuditError::Io { .. })
    ));
    fs::remove_dir(&path).unwrap();
    assert_eq!(audit.record_blocking(NOW, event()).unwrap(), 2);

    let open = folder.path().join("open.log");
    fs::write(&open, "").unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(
        AuditLog::open(&open, Durability::Disk),
        Err(AuditError::OpenToOthers { .. })
    ));
}

#[test]
fn every_decision_is_one_line_and_no_line_is_lost_under_load() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let audit = log(&path);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let audit = audit.clone();
            scope.spawn(move || {
                for _ in 0..50 {
                    audit.record_blocking(NOW, event()).unwrap();
                }
            });
        }
    });
    assert_eq!(numbers(&path), (1..=400).collect::<Vec<_>>());
}

#[test]
fn a_record_holds_names_digests_and_codes_only() {
    let event = AuditEvent::Answer {
        session: SessionId([7; 16]),
        principal: "spiffe://acme/team/a/ada".parse().unwrap(),
        team: "a".parse().unwrap(),
        model: Sha256Digest::of(b"model"),
        prompt_tokens_band: 3,
        output_tokens_band: 4,
        reason: "stop",
        mark_epoch: None,
        noted: Vec::new(),
    };
    let value = serde_json::to_value(&event).unwrap();
    let fields: Vec<_> = value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let mut expected = [
        "kind",
        "session",
        "principal",
        "team",
        "model",
        "prompt_tokens_band",
        "output_tokens_band",
        "reason",
    ];
    expected.sort_unstable();
    let mut sorted = fields.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, expected);
    assert_eq!(value["kind"], "answer");
    // Text with spaces or line ends, as prompts have, fits into none of the names.
    assert!(
        "MARKER secret prompt"
            .parse::<crate::policy::TeamName>()
            .is_err()
    );
    assert!(
        "spiffe://acme/MARKER secret\nprompt"
            .parse::<crate::policy::Principal>()
            .is_err()
    );
}
