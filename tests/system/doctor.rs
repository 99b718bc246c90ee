//! `casemate doctor --guest` on a machine that is no guest: what a process gives up holds, and what is open is told.

use serde_json::Value;

use super::place::{casemate, text};

fn checks() -> Vec<(String, String, String)> {
    let output = casemate()
        .args(["doctor", "--guest", "--json"])
        .output()
        .unwrap();
    let said = text(&output);
    assert!(
        matches!(output.status.code(), Some(0 | 10)),
        "{:?}: {said}",
        output.status
    );
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let word = |check: &Value, key: &str| check[key].as_str().unwrap().to_owned();
    let checks = document["checks"].as_array().unwrap().iter();
    checks
        .map(|check| {
            (
                word(check, "outcome"),
                word(check, "id"),
                word(check, "text"),
            )
        })
        .collect()
}

#[test]
fn a_closed_process_can_do_nothing_that_is_tried() {
    let checks = checks();
    let of = |id: &str| checks.iter().find(|(_, it, _)| it == id).unwrap();
    if of("process.closed").0 != "PASS" {
        println!(
            "SKIP this kernel or user cannot close a process: {}",
            of("process.closed").2
        );
        assert_eq!(of("try").0, "SKIP", "an open process tried nothing");
        return;
    }
    let tried: Vec<_> = checks
        .iter()
        .filter(|(_, id, _)| id.starts_with("try."))
        .collect();
    assert!(tried.len() >= 20, "{tried:?}");
    let possible: Vec<_> = tried
        .iter()
        .filter(|(outcome, _, _)| outcome == "FAIL")
        .collect();
    assert!(possible.is_empty(), "{possible:?}");
    for id in [
        "try.process",
        "try.mount",
        "try.module",
        "try.executable_memory",
        "try.trace",
        "try.ipv6",
        "try.system",
        "try.listen",
    ] {
        assert_eq!(of(id).0, "PASS", "{:?}", of(id));
    }
    for id in [
        "process.no_new_privileges",
        "process.system_calls",
        "process.memory_locked",
        "process.core_dumps",
    ] {
        assert_eq!(of(id).0, "PASS", "{:?}", of(id));
    }
    // This machine is no image, and that is said.
    assert_eq!(of("mount.root").0, "FAIL");
}
