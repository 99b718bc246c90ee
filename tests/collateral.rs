//! Commands about vendors' evidence as programs (`collateral`, `nvidia`, `org enrol --evidence`, `judge`): what they print, what
//! they sign, how they fail.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::SystemTime;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use casemate::rim;
use casemate_attestation::UnixTime;
use casemate_attestation::nvidia::PinnedManifestRoot;
use serde_json::{Value, json};

fn casemate(arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_casemate");
    Command::new(program).args(arguments).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// An organisation, and where it is.
fn organisation() -> (tempfile::TempDir, String) {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("acme").display().to_string();
    let made = casemate(&["org", "init", &folder, "--name", "acme"]);
    assert_eq!(code(&made), 0, "{}", stderr(&made));
    (parent, folder)
}

fn shared() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/evidence");
    if path.is_dir() {
        return Some(path);
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "shared evidence is missing"
    );
    println!("SKIP shared evidence is missing");
    None
}

/// The payload of a signed document of an organisation.
fn payload(acme: &str, file: &str) -> Value {
    let document = fs::read(Path::new(acme).join(file)).unwrap();
    let document: Value = serde_json::from_slice(&document).unwrap();
    let payload = STANDARD
        .decode(document["payload"].as_str().unwrap())
        .unwrap();
    serde_json::from_slice(&payload).unwrap()
}

#[test]
fn a_chip_is_enrolled_by_genuine_evidence_and_by_no_other() {
    let Some(shared) = shared() else { return };
    let (_parent, acme) = organisation();
    let enrol_with = |name: &str, more: &[&str]| {
        let evidence = shared.join(name).display().to_string();
        let words = [
            "org",
            "enrol",
            &acme,
            "--evidence",
            &evidence,
            "--label",
            "rack 1",
            "--name",
            "a",
        ];
        casemate(&[&words, more].concat())
    };
    let enrol = |name: &str| enrol_with(name, &[]);
    // Milan's keys have leaked: nobody enrols such a chip without saying so, and what he says is signed.
    let milan = "snp/milan-v5-gcp-vmpl0";
    let refused = enrol(milan);
    assert_eq!(code(&refused), 10, "{}", stderr(&refused));
    assert!(stderr(&refused).contains("--despite-broken-root milan"));
    let broken = |acme: &str| {
        payload(acme, "reference.json")["snp"]["families_allowed_despite_broken_root"].clone()
    };
    assert!(broken(&acme).as_array().is_none_or(Vec::is_empty));
    let genoa = enrol_with(milan, &["--despite-broken-root", "genoa"]);
    assert_eq!(
        code(&genoa),
        2,
        "another family's name is no yes: {}",
        stderr(&genoa)
    );
    assert!(broken(&acme).as_array().is_none_or(Vec::is_empty));
    let sound = enrol_with("tdx/v4-gcp-2026", &["--despite-broken-root", "milan"]);
    assert_eq!(code(&sound), 2, "{}", stderr(&sound));
    for (name, platform) in [(milan, "snp"), ("tdx/v4-gcp-2026", "tdx")] {
        let despite: &[&str] = match name == milan {
            true => &["--despite-broken-root", "milan"],
            false => &[],
        };
        let enrolled = enrol_with(name, despite);
        assert_eq!(code(&enrolled), 0, "{name}: {}", stderr(&enrolled));
        let listed = payload(&acme, "fleet.json");
        let chip = listed["chips"].as_array().unwrap().last().unwrap().clone();
        assert_eq!(chip["platform"], platform);
        let line = format!("{platform}\t{}\n", chip["chip_id"].as_str().unwrap());
        assert_eq!(stdout(&enrolled), line);
    }
    assert_eq!(broken(&acme), serde_json::json!(["milan"]));
    let before = payload(&acme, "fleet.json");
    for (name, expected) in [
        ("snp/neg-measurement-flip", 10),
        ("snp/neg-truncated", 30),
        ("tdx-negative/quote-signature-flip", 10),
        ("tpm/gce-cos-85-nonce", 10),
        ("eventlog/ccel-grub", 10),
        ("azure-vtpm/snp-genoa-v3", 10),
        ("nowhere", 3),
    ] {
        let refused = enrol(name);
        assert_eq!(code(&refused), expected, "{name}: {}", stderr(&refused));
    }
    assert_eq!(payload(&acme, "fleet.json"), before);
}

#[test]
fn what_is_neither_a_server_nor_evidence_is_told_from_both() {
    for target in ["llm.example:7443", "nowhere"] {
        let refused = casemate(&["verify", target]);
        assert_eq!(code(&refused), 2, "{}", stderr(&refused));
        assert!(stderr(&refused).contains("neither a URL"), "{target}");
    }
}

#[test]
fn judge_answers_in_json_and_by_its_exit_code() {
    let judge = |request: &[u8]| {
        let program = env!("CARGO_BIN_EXE_casemate");
        let mut child = Command::new(program)
            .arg("judge")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(request).unwrap();
        let output = child.wait_with_output().unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answer["exit_code"], code(&output));
        (code(&output), answer)
    };
    assert_eq!(judge(b"").0, 30);
    assert_eq!(judge(b"{\"format\":\"casemate/judge/v1\"}").0, 30);
    let Some(shared) = shared() else { return };
    let file = |name: &str| STANDARD.encode(fs::read(shared.join(name)).unwrap());
    let request = |platform: &str, report: String| {
        json!({"format": "casemate/judge/v1", "platform": platform, "at": 1_767_506_667,
            "hardware": {"snp": {"report": report, "vek": file("snp/milan-v5-gcp-vmpl0/vek.der"),
                "intermediate": file("snp/roots/milan_ask.der"), "crl": ""}}})
        .to_string()
    };
    let genuine = file("snp/milan-v5-gcp-vmpl0/report.bin");
    let (status, answer) = judge(request("snp", genuine.clone()).as_bytes());
    assert_eq!((status, &answer["verdict"]), (0, &json!("genuine")));
    let other = file("snp/neg-measurement-flip/report.bin");
    let (status, answer) = judge(request("snp", other).as_bytes());
    assert_eq!((status, &answer["verdict"]), (10, &json!("refused")));
    assert_eq!(judge(request("test-chip", genuine).as_bytes()).0, 20);
}

#[test]
fn nothing_and_rubbish_are_not_packed() {
    let (parent, acme) = organisation();
    let nothing = casemate(&["collateral", "pack", "--org", &acme]);
    assert_eq!(code(&nothing), 3);
    assert!(stderr(&nothing).contains("nothing to pack"));
    let rubbish = parent.path().join("rubbish.der");
    fs::write(&rubbish, b"rubbish").unwrap();
    let rubbish = rubbish.display().to_string();
    let found = casemate(&["collateral", "pack", &rubbish, "--org", &acme]);
    assert_eq!(code(&found), 30);
    assert!(
        stderr(&found).contains("rubbish.der: not known"),
        "{}",
        stderr(&found)
    );
    let missing = casemate(&["collateral", "pack", "missing.der", "--org", &acme]);
    assert_eq!(code(&missing), 3);
    let manifest = casemate(&["nvidia", "rim-import", &rubbish, "--org", &acme]);
    assert_eq!(code(&manifest), 30);
    assert!(stdout(&manifest).starts_with("FAIL rim "));
    assert!(!Path::new(&acme).join("collateral.json").exists());
}

#[test]
fn what_is_out_of_date_or_refused_is_not_signed() {
    let (Some(shared), (_parent, acme)) = (shared(), organisation()) else {
        return;
    };
    let path = |name: &str| shared.join(name).display().to_string();
    let (ask, list) = (
        path("snp/roots/milan_ask.der"),
        path("snp/roots/milan_crl_2025-05-06.der"),
    );
    let stale = casemate(&["collateral", "pack", &ask, &list, "--org", &acme]);
    assert_eq!(code(&stale), 12, "{}", stderr(&stale));
    assert!(stdout(&stale).contains("FAIL collateral-item amd Milan revocation list: "));
    let alone = casemate(&["collateral", "pack", &ask, "--org", &acme]);
    assert_eq!(code(&alone), 3);
    assert!(stderr(&alone).contains("no revocation list is given for Milan"));
    for (name, expected) in [
        ("nvidia/neg-rim-other-root/rim.xml", 10),
        ("nvidia/neg-rim-signer-expired/rim.xml", 12),
        ("nvidia/switch-ls10/rim_switch_edited.xml", 10),
    ] {
        let found = casemate(&["nvidia", "rim-import", &path(name), "--org", &acme]);
        assert_eq!(code(&found), expected, "{name}: {}", stderr(&found));
    }
    for file in ["collateral.json", "gpu-reference.json"] {
        assert!(!Path::new(&acme).join(file).exists());
    }
}

#[test]
fn a_manifest_becomes_a_list_and_the_list_part_of_a_bundle() {
    let (Some(shared), (_parent, acme)) = (shared(), organisation()) else {
        return;
    };
    let manifest = shared.join("nvidia/switch-ls10/rim_switch.xml");
    let now = UnixTime::from(SystemTime::now());
    let bytes = fs::read(&manifest).unwrap();
    let manifest = manifest.display().to_string();
    let import = || casemate(&["nvidia", "rim-import", &manifest, "--org", &acme]);
    if rim::import(&bytes, &PinnedManifestRoot::nvidia(), now).is_err() {
        // Its signer's time is over, some day.
        assert_eq!(code(&import()), 12);
        return;
    }
    let imported = import();
    assert_eq!(code(&imported), 0, "{}", stderr(&imported));
    assert!(stdout(&imported).starts_with("PASS rim switch firmware 96.10.55.00.01"));
    assert!(stdout(&import()).contains("INFO gpu-reference-number 2"));

    let packed = casemate(&[
        "collateral",
        "pack",
        "--org",
        &acme,
        "--days",
        "7",
        "--json",
    ]);
    assert_eq!(code(&packed), 0, "{}", stderr(&packed));
    let about: Value = serde_json::from_slice(&packed.stdout).unwrap();
    assert_eq!(
        (&about["number"], &about["right"]),
        (&1.into(), &true.into())
    );
    assert_eq!(about["lists"][0]["indices"], 31);

    let bundle = Path::new(&acme).join("collateral.json");
    let file = bundle.display().to_string();
    let good = casemate(&["collateral", "verify", &file]);
    assert_eq!(code(&good), 0, "{}", stderr(&good));
    assert!(stdout(&good).contains("PASS collateral-signature"));
    assert!(
        stdout(&good)
            .contains("INFO collateral-list switch firmware 96.10.55.00.01 of LS10: 31 indices")
    );
    assert_eq!(code(&casemate(&["collateral", "show", &file, "--json"])), 0);
    let older = casemate(&["collateral", "verify", &file, "--number", "2"]);
    assert_eq!(code(&older), 10, "{}", stderr(&older));
    let mut changed = fs::read_to_string(&bundle).unwrap();
    changed = changed.replace("\"number\":1", "\"number\":2");
    fs::write(&bundle, changed).unwrap();
    let forged = casemate(&["collateral", "verify", &file]);
    assert_eq!(code(&forged), 10);
    assert!(stdout(&forged).starts_with("FAIL collateral-signature"));
    // What is damaged has no successor.
    assert_eq!(code(&casemate(&["collateral", "pack", "--org", &acme])), 3);
}
