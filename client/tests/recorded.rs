//! Recorded evidence: every folder of the shared evidence gets its verdict from the command's own code, a request is judged as
//! its policy says, and what is saved is read back as the same.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

use std::path::{Path, PathBuf};

use casemate_attestation::snp::SnpReport;
use casemate_attestation::{HardwareEvidence, UnixTime};
use casemate_client::exit::ExitCode;
use casemate_client::recorded::judge::judge;
use casemate_client::recorded::request::Request;
use casemate_client::recorded::{Asked, RecordedError, Subject, folder};
use casemate_client::report::{Outcome, Report, Verdict};
use serde_json::{Value, json};

/// A folder of the shared evidence. `None`, said aloud, where it is missing; a failure in continuous integration.
fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../shared/evidence")
        .join(name);
    if path.is_dir() {
        return Some(path);
    }
    let ci = std::env::var_os("CI").is_some();
    assert!(!ci, "shared evidence {name} is missing");
    println!("SKIP shared evidence {name} is missing");
    None
}

fn index(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path.join("expected.json")).unwrap()).unwrap()
}

/// Looks at a folder as the command does.
fn look(path: &Path) -> (ExitCode, Report) {
    let mut report = Report::default();
    match folder::read(path, None) {
        Ok(recorded) => {
            let at = recorded.at.unwrap_or(UnixTime::from_secs(1_790_000_000));
            judge(&recorded, None, at, &mut report);
        }
        Err(error) => report.refuse(&error.check_id(), &error, error.exit_code()),
    }
    (report.exit_code(), report)
}

/// Every folder of a platform with what its verdict says, and what came out.
fn every(platform: &str, mut check: impl FnMut(&str, &Value, ExitCode, &Report)) {
    let Some(folder) = shared(platform) else {
        return;
    };
    let mut seen = 0;
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("expected.json").is_file())
        .collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let (code, report) = look(&path);
        println!("{name:40} {code:?}");
        check(&name, &index(&path), code, &report);
        seen += 1;
    }
    assert!(seen > 0, "{platform} has no folder");
}

fn refused(code: ExitCode) -> bool {
    matches!(code, ExitCode::Rejected | ExitCode::Malformed)
}

#[test]
fn reports_of_the_shared_evidence_get_their_verdict() {
    every(
        "snp",
        |name, expected, code, report| match expected["verdict"].as_str().unwrap() {
            "accept" => {
                assert_eq!(code, ExitCode::Done, "{name}: {report}");
                assert_eq!(report.verdict(), Verdict::Genuine);
                let unasked = |line: &&casemate_client::report::CheckLine| {
                    line.outcome == Outcome::Info && line.text.contains("compared with nothing")
                };
                let lines: Vec<_> = report.lines().iter().filter(unasked).collect();
                assert!(lines.len() >= 4, "{name}: {report}");
            }
            _ => assert!(refused(code), "{name}: {report}"),
        },
    );
    // A made-up root is not AMD's, whatever the report says.
    every("snp-synthetic", |name, _, code, report| {
        assert!(refused(code), "{name}: {report}");
    });
}

#[test]
fn quotes_of_the_shared_evidence_get_their_verdict() {
    every("tdx", |name, expected, code, report| {
        let accepted = expected["verdict"]
            .as_str()
            .unwrap()
            .starts_with("UpToDate");
        assert_eq!(accepted, code == ExitCode::Done, "{name}: {report}");
        assert!(accepted || refused(code), "{name}: {report}");
    });
    every("tdx-negative", |name, expected, code, report| {
        if expected["verdict"] == "reject" {
            assert!(refused(code), "{name}: {report}");
        } else {
            assert_eq!(code, ExitCode::Done, "{name}: {report}");
        }
    });
}

#[test]
fn tpm_quotes_and_logs_of_the_shared_evidence_get_their_verdict() {
    every("tpm", |name, expected, code, report| {
        let verdict = expected["verdict"].as_str().unwrap();
        if expected.get("chain").is_some() {
            assert_eq!(code, ExitCode::Unsupported, "{name}: {report}");
        } else if verdict.starts_with("accept") {
            assert_eq!(code, ExitCode::Done, "{name}: {report}");
            assert!(report.explained().contains("asserted"));
        } else {
            assert!(refused(code), "{name}: {report}");
        }
    });
    every("eventlog", |name, expected, code, report| {
        match expected["verdict"].as_str().unwrap() {
            "parses and replays" => assert_eq!(code, ExitCode::Done, "{name}: {report}"),
            "replays, but must not match the quote" => {}
            _ => assert!(refused(code), "{name}: {report}"),
        }
    });
}

#[test]
fn what_is_not_judged_by_itself_is_unsupported_and_says_so() {
    let Some(path) = shared("azure-vtpm/snp-genoa-v3") else {
        return;
    };
    let (code, report) = look(&path);
    assert_eq!(code, ExitCode::Unsupported, "{report}");
    let none = folder::read(Path::new("/nowhere"), None).unwrap_err();
    assert!(matches!(none, RecordedError::File(_)), "{none}");
}

/// A genuine report as a request, with a policy that lists it.
fn request() -> Option<Value> {
    let path = shared("snp/milan-v5-gcp-vmpl0")?;
    let recorded = folder::read(&path, None).unwrap();
    let Subject::Hardware {
        evidence: HardwareEvidence::Snp(evidence),
        ..
    } = &recorded.subject
    else {
        panic!("no report")
    };
    let report = SnpReport::parse(&evidence.report).unwrap();
    // AMD's list of those days was not published.
    let (measurement, chip) = (report.measurement(), report.chip_id());
    let zeros = json!({"boot_loader": 0, "tee": 0, "snp": 0, "microcode": 0, "fmc": 0});
    Some(json!({
        "format": "casemate/judge/v1",
        "platform": "snp",
        "at": recorded.at.unwrap().secs(),
        "hardware": HardwareEvidence::Snp(evidence.clone()),
        "report_data": hex::encode(report.report_data()),
        "policy": {
            "reference": {"snp": {
                "measurements": [{"measurement": measurement, "label": "recorded"}],
                "tcb_floor": {"milan": zeros}, "vmpl": 0,
                "families_allowed_despite_broken_root": ["milan"],
                "missing_alias_check_tolerated": true}},
            "fleet": {"chips": [{"platform": "snp", "chip_id": chip, "names": ["a"], "label": "recorded"}]},
        },
    }))
}

fn answer(request: &Value) -> (ExitCode, Report) {
    let mut report = Report::default();
    match Request::parse(request.to_string().as_bytes()) {
        Ok(asked) => judge(
            &asked.recorded,
            asked.policy.as_ref(),
            asked.at,
            &mut report,
        ),
        Err(error) => report.refuse(&error.check_id(), &error, error.exit_code()),
    }
    (report.exit_code(), report)
}

#[test]
fn a_request_is_judged_as_its_policy_says() {
    let Some(good) = request() else { return };
    // Under a policy a missing revocation list is no clean list; a look shows it.
    let (code, report) = answer(&good);
    assert_eq!(code, ExitCode::Rejected, "{report}");
    assert!(report.to_string().contains("FAIL evidence.S10"), "{report}");
    let mut looked = good.clone();
    looked["policy"] = Value::Null;
    let (code, report) = answer(&looked);
    assert_eq!(code, ExitCode::Done, "{report}");
    assert_eq!(report.verdict(), Verdict::Genuine);
    let mut other = looked.clone();
    other["report_data"] = json!("11".repeat(64));
    let (code, report) = answer(&other);
    assert_eq!(code, ExitCode::Rejected, "{report}");
    assert!(report.to_string().contains("FAIL evidence.S16"), "{report}");
}

#[test]
fn requests_are_read_strictly() {
    let Some(good) = request() else { return };
    let changed = |change: fn(&mut Value)| {
        let mut request = good.clone();
        change(&mut request);
        answer(&request).0
    };
    let malformed: [fn(&mut Value); 6] = [
        |request| request["format"] = json!("casemate/judge/v2"),
        |request| request["more"] = json!(1),
        |request| request["at"] = json!("2026"),
        |request| request["report_data"] = json!("00"),
        |request| request["hardware"]["snp"]["report"] = json!("AA=="),
        |request| request["policy"]["reference"]["snp"]["vmpl"] = json!(-1),
    ];
    for change in malformed {
        assert_eq!(changed(change), ExitCode::Malformed);
    }
    assert_eq!(
        changed(|request| request["platform"] = json!("test-chip")),
        ExitCode::Unsupported
    );
    assert_eq!(
        changed(|request| {
            request["policy"] = Value::Null;
            request["platform"] = json!("tdx");
        }),
        ExitCode::Rejected
    );
    assert_eq!(
        changed(|request| request["policy"]["fleet"]["chips"] = json!([])),
        ExitCode::Configuration
    );
}

#[test]
fn what_is_saved_is_read_back_as_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let at = UnixTime::from_secs(1_790_000_000);
    for name in [
        "snp/milan-v5-gcp-vmpl0",
        "tdx/v4-gcp-2026",
        "tpm/gce-cos-85-nonce",
    ] {
        let Some(path) = shared(name) else { return };
        let recorded = folder::read(&path, None).unwrap();
        let Subject::Hardware { evidence, platform } = &recorded.subject else {
            panic!("no hardware evidence")
        };
        let copy = folder.path().join(name.replace('/', "-"));
        folder::write(&copy, evidence, &[7; 64], at).unwrap();
        let again = folder::read(&copy, None).unwrap();
        let Subject::Hardware {
            evidence: read,
            platform: under,
        } = &again.subject
        else {
            panic!("no hardware evidence")
        };
        assert_eq!(read, evidence, "{name}");
        assert_eq!(under, platform, "{name}");
        assert_eq!(again.at, Some(at), "{name}");
        // What it was asked for with is kept, and judged.
        assert_eq!(again.asked, Asked::ReportData(Box::new([7; 64])), "{name}");
        let taken = folder::write(&copy, evidence, &[7; 64], at).unwrap_err();
        assert!(taken.to_string().contains("write into"), "{taken}");
    }
}
