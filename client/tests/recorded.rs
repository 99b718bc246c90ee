//! Recorded evidence: every folder of the shared evidence gets its verdict from the command's own code, a request is judged as
//! its policy says, and what is saved is read back as the same.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use casemate_attestation::snp::SnpReport;
use casemate_attestation::tdx::TdxQuote;
use casemate_attestation::{HardwareEvidence, TdxRoot, UnixTime, look};
use casemate_client::exit::ExitCode;
use casemate_client::recorded::judge::judge;
use casemate_client::recorded::request::Request;
use casemate_client::recorded::{Asked, Policy, Recorded, RecordedError, Subject, folder, save};
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
fn looked(path: &Path) -> (ExitCode, Report) {
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
        let (code, report) = looked(&path);
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

/// The rule that refused, by the one line that failed.
fn failed(report: &Report) -> String {
    let failed = |line: &&casemate_client::report::CheckLine| line.outcome == Outcome::Fail;
    report
        .lines()
        .iter()
        .find(failed)
        .map(|line| line.id.clone())
        .unwrap_or_default()
}

#[test]
fn azure_machines_of_the_shared_evidence_get_their_verdict_and_its_reason() {
    every("azure-vtpm", |name, expected, code, report| {
        let text = report.explained();
        match expected["verdict"].as_str().unwrap() {
            "accept" => {
                assert_eq!(code, ExitCode::Done, "{name}: {report}");
                assert_eq!(report.verdict(), Verdict::Genuine);
                for rule in ["Z1", "Z2", "Z3", "Z4", "P2"] {
                    assert!(
                        text.contains(&format!("PASS evidence.{rule} ")),
                        "{name}: {text}"
                    );
                }
                // Nobody said what registers should be, nor what was asked for.
                for rule in ["P3", "P4"] {
                    let line = format!("INFO evidence.{rule} ");
                    assert!(text.contains(&line), "{name}: {text}");
                }
            }
            "hardware part: accept" => {
                assert_eq!(code, ExitCode::Done, "{name}: {report}");
                assert!(
                    text.contains("what the guest booted is not known"),
                    "{text}"
                );
            }
            // Intel's documents of its day call its platform out of date, which a look does not accept either and finds first;
            // tdx_vectors of the library has the rest under a policy that does.
            "signatures good; reject where SEPT_VE_DISABLE is required" => {
                assert_eq!(code, ExitCode::Rejected, "{name}: {report}");
                assert_eq!(failed(report), "evidence.T11", "{name}: {report}");
            }
            _ => {
                let rule = match name {
                    "neg-hcl-magic" | "neg-runtime-data-length" => "Z1",
                    "neg-runtime-data-key-swapped" => "Z3",
                    "neg-quote-of-other-vm" => "Z4",
                    "neg-pcr-value-changed" => "P4",
                    other => panic!("no expectation for {other}"),
                };
                assert!(refused(code), "{name}: {report}");
                assert_eq!(
                    failed(report),
                    format!("evidence.{rule}"),
                    "{name}: {report}"
                );
            }
        }
    });
}

#[test]
fn devices_of_the_shared_evidence_get_their_verdict_and_its_reason() {
    every("nvidia", |name, expected, code, report| {
        if expected["platform"] == "nvidia-rim" {
            assert_eq!(code, ExitCode::Unsupported, "{name}: {report}");
            return;
        }
        if expected["verdict"] == "reject" {
            let rule = match name {
                "neg-record-length-huge" | "neg-truncated" => "N1",
                "neg-nonce-mismatch" => "N2",
                "neg-leaf-only" | "neg-chain-without-intermediate" => "N3",
                _ => "N4",
            };
            assert!(refused(code), "{name}: {report}");
            assert_eq!(
                failed(report),
                format!("evidence.{rule}"),
                "{name}: {report}"
            );
            return;
        }
        assert_eq!(code, ExitCode::Done, "{name}: {report}");
        assert_eq!(report.verdict(), Verdict::Genuine, "{name}");
        let text = report.explained();
        for said in [
            "revocation not judged",
            "which machine, guest or session the device belongs to",
            "confidential computing or DEVTOOLS is on is in no report",
            "compared with nothing: nobody said what evidence was asked for with",
        ] {
            assert!(text.contains(said), "{name}: {said}: {text}");
        }
        for version in ["driver_version", "vbios_version"] {
            let version = expected[version].as_str().unwrap_or_default();
            assert!(text.contains(version), "{name}: {version}");
        }
        let json: Value = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!(json["verdict"], "genuine");
        assert_eq!(json["confidential"], false);
    });
}

#[test]
fn what_is_not_judged_by_itself_is_unsupported_and_says_so() {
    let Some(path) = shared("nvidia/neg-rim-other-root") else {
        return;
    };
    let (code, report) = looked(&path);
    assert_eq!(code, ExitCode::Unsupported, "{report}");
    let none = folder::read(Path::new("/nowhere"), None).unwrap_err();
    assert!(matches!(none, RecordedError::File(_)), "{none}");
}

/// A genuine GPU's report as a request.
fn device_request() -> Option<Value> {
    let recorded = folder::read(&shared("nvidia/hopper-550")?, None).unwrap();
    let Subject::Device { evidence, .. } = &recorded.subject else {
        panic!("no device")
    };
    let nonce = hex::encode(&evidence.report[4..36]);
    Some(json!({
        "format": "casemate/judge/v1",
        "at": recorded.at.unwrap().secs(),
        "device": {"evidence": evidence, "nonce": nonce},
    }))
}

#[test]
fn a_device_is_looked_at_by_request_and_under_no_policy() {
    let Some(good) = device_request() else { return };
    let (code, report) = answer(&good);
    assert_eq!(code, ExitCode::Done, "{report}");
    assert!(report.to_string().contains("PASS evidence.N2"), "{report}");
    let changed = |change: fn(&mut Value)| {
        let mut request = good.clone();
        change(&mut request);
        let (code, report) = answer(&request);
        (code, failed(&report))
    };
    let other = changed(|it| it["device"]["nonce"] = json!("00".repeat(32)));
    assert_eq!(other, (ExitCode::Rejected, "evidence.N2".to_owned()));
    // An answer about another certificate is silence; one about its own that cannot be read refuses.
    let silent = changed(|it| it["device"]["answers"] = json!({"00".repeat(32): "AAAA"}));
    assert_eq!(silent.0, ExitCode::Done);
    let policy = changed(|it| {
        it["policy"] = json!({"reference": {}, "fleet": {"chips": []}});
    });
    assert_eq!(policy.0, ExitCode::Unsupported);
    let malformed: [fn(&mut Value); 5] = [
        |it| it["report_data"] = json!("00".repeat(64)),
        |it| it["platform"] = json!("snp"),
        |it| it["device"]["nonce"] = json!("00"),
        |it| it["device"]["more"] = json!(1),
        |it| it["device"] = Value::Null,
    ];
    for change in malformed {
        assert_eq!(changed(change).0, ExitCode::Malformed);
    }
}

/// A genuine Azure VM as a request, with a policy that lists its paravisor, its chip and its registers.
fn azure_request(name: &str) -> Option<Value> {
    let path = shared(&format!("azure-vtpm/{name}"))?;
    let nonce = index(&path)["tpm"]["extra_data"].clone();
    let recorded = folder::read(&path, None).unwrap();
    let Subject::Azure(machine) = &recorded.subject else {
        panic!("no Azure VM")
    };
    let HardwareEvidence::Tdx(evidence) = &machine.hardware else {
        panic!("no quote")
    };
    let quote = TdxQuote::parse(&evidence.quote).unwrap();
    let at = recorded.at.unwrap();
    let looked = look::tdx(evidence, None, &TdxRoot::intel(), at).unwrap();
    let platform = looked.chip_id.unwrap();
    let hcl = BASE64.encode(&machine.hcl);
    let registers: BTreeMap<String, String> = machine
        .quote
        .as_ref()
        .unwrap()
        .registers
        .iter()
        .map(|(number, value)| (number.to_string(), hex::encode(value)))
        .collect();
    Some(json!({
        "format": "casemate/judge/v1",
        "platform": "tdx",
        "at": recorded.at.unwrap().secs(),
        "hardware": machine.hardware,
        "paravisor": {"hcl": hcl, "quote": machine.quote, "nonce": nonce},
        "policy": {
            "reference": {
                "tdx": {"machines": [{"mrtd": quote.mrtd(), "rtmrs": [null, null, null, null], "label": "paravisor"}],
                    "collateral_floor": 1},
                "tpm": {"bank": "sha256", "machines": [{"registers": registers, "label": "guest"}]}},
            "fleet": {"chips": [{"platform": "tdx", "chip_id": platform, "names": ["a"], "label": "recorded"}]},
        },
    }))
}

#[test]
fn an_azure_machine_is_judged_as_its_policy_says() {
    let Some(good) = azure_request("tdx-second-generation") else {
        return;
    };
    let (code, report) = answer(&good);
    assert_eq!(code, ExitCode::Done, "{report}");
    assert_eq!(report.verdict(), Verdict::Confidential);
    let text = report.to_string();
    for rule in ["T16", "Z4", "P4"] {
        assert!(text.contains(&format!("PASS evidence.{rule}")), "{text}");
    }
    let changed = |change: fn(&mut Value)| {
        let mut request = good.clone();
        change(&mut request);
        let (code, report) = answer(&request);
        (code, failed(&report))
    };
    let rejected = |rule: &str| (ExitCode::Rejected, format!("evidence.{rule}"));
    // A guest that booted something else, another challenge, another paravisor, and no quote at all.
    let other = changed(|it| {
        it["policy"]["reference"]["tpm"]["machines"][0]["registers"]["7"] = json!("11".repeat(32));
    });
    assert_eq!(other, rejected("P4"));
    let other = changed(|it| it["paravisor"]["nonce"] = json!("00"));
    assert_eq!(other, rejected("P3"));
    let other = changed(|it| {
        it["policy"]["reference"]["tdx"]["machines"][0]["mrtd"] = json!("11".repeat(48));
    });
    assert_eq!(other, rejected("T16"));
    let none = changed(|it| it["paravisor"]["quote"] = Value::Null);
    assert_eq!(none.0, ExitCode::Rejected);
    let unasked = changed(|it| it["paravisor"]["nonce"] = Value::Null);
    assert_eq!(unasked.0, ExitCode::Usage);
    let unlisted = changed(|it| it["policy"]["reference"]["tpm"] = Value::Null);
    assert_eq!(unlisted.0, ExitCode::Configuration);
    // The hardware report is the paravisor's: without the rest it says nothing of the guest, and its report data are no session's.
    let both = changed(|it| it["report_data"] = json!("00".repeat(64)));
    assert_eq!(both.0, ExitCode::Malformed);
    let kind = changed(|it| it["platform"] = json!("snp"));
    assert_eq!(kind, rejected("P-32"));
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

/// Every folder of the shared evidence that can be read.
fn recordings() -> Vec<(String, Recorded)> {
    let mut all = Vec::new();
    for platform in [
        "snp",
        "tdx",
        "tdx-negative",
        "tpm",
        "eventlog",
        "azure-vtpm",
        "nvidia",
    ] {
        let Some(folder) = shared(platform) else {
            return Vec::new();
        };
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if let Ok(recorded) = folder::read(&path, None) {
                all.push((path.display().to_string(), recorded));
            }
        }
    }
    assert!(all.len() > 80, "{}", all.len());
    all
}

fn lines(recorded: &Recorded, policy: Option<&Policy>, at: UnixTime) -> (ExitCode, String) {
    let mut report = Report::default();
    judge(recorded, policy, at, &mut report);
    (report.exit_code(), report.to_json())
}

#[test]
fn what_is_saved_is_judged_the_same_whatever_it_is() {
    let place = tempfile::tempdir().unwrap();
    let mut kinds = std::collections::BTreeSet::new();
    for (number, (name, recorded)) in recordings().iter().enumerate() {
        let at = recorded.at.unwrap_or(UnixTime::from_secs(1_790_000_000));
        let copy = place.path().join(number.to_string());
        save::write(&copy, recorded, at).unwrap();
        let again = folder::read(&copy, None).unwrap();
        assert_eq!(again.at, Some(at), "{name}");
        assert_eq!(lines(&again, None, at), lines(recorded, None, at), "{name}");
        kinds.insert(format!("{:?}", std::mem::discriminant(&recorded.subject)));
        let taken = save::write(&copy, recorded, at).unwrap_err();
        assert!(taken.to_string().contains("write into"), "{taken}");
    }
    // Hardware, Azure, devices and logs, where the shared evidence is there at all.
    assert!(kinds.is_empty() || kinds.len() == 4);
}

#[test]
fn what_was_asked_for_is_saved_too() {
    let place = tempfile::tempdir().unwrap();
    let at = UnixTime::from_secs(1_790_000_000);
    for (number, name) in [
        "snp/milan-v5-gcp-vmpl0",
        "tdx/v4-gcp-2026",
        "tpm/gce-cos-85-nonce",
    ]
    .into_iter()
    .enumerate()
    {
        let Some(path) = shared(name) else { return };
        let mut recorded = folder::read(&path, None).unwrap();
        recorded.asked = Asked::ReportData(Box::new([7; 64]));
        let copy = place.path().join(number.to_string());
        save::write(&copy, &recorded, at).unwrap();
        let again = folder::read(&copy, None).unwrap();
        assert_eq!(again.asked, recorded.asked, "{name}");
        assert_eq!(lines(&again, None, at), lines(&recorded, None, at));
    }
}

#[test]
fn a_request_about_an_azure_machine_is_saved_as_a_folder_that_a_policy_judges_the_same() {
    let Some(request) = azure_request("tdx-second-generation") else {
        return;
    };
    let bytes = serde_json::to_vec(&request).unwrap();
    let Request {
        recorded,
        policy,
        at,
    } = Request::parse(&bytes).unwrap();
    let place = tempfile::tempdir().unwrap();
    let copy = place.path().join("saved");
    save::write(&copy, &recorded, at).unwrap();
    let again = folder::read(&copy, None).unwrap();
    assert!(policy.is_some(), "the request has a policy");
    let before = lines(&recorded, policy.as_ref(), at);
    assert_eq!(before.0, ExitCode::Done, "{}", before.1);
    assert_eq!(lines(&again, policy.as_ref(), at), before);
    assert_eq!(lines(&again, None, at), lines(&recorded, None, at));
}
