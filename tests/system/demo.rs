//! `casemate demo`: the whole way, twice; a damaged folder is named and never rebuilt.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use super::place::{Place, casemate, chat, eventually, http, text};

#[test]
fn the_demonstration_holds_twice_and_reuses_its_folder() {
    let place = Place::new();
    let key = fs::read(place.path("org/release/secret.key")).unwrap();
    let again = place.demo();
    let said = text(&again);
    assert!(again.status.success(), "{said}");
    assert_eq!(fs::read(place.path("org/release/secret.key")).unwrap(), key);
    for line in [
        "PASS demo.organisation found whole",
        "PASS demo.broker",
        "PASS demo.server",
        "PASS demo.connect",
        "PASS demo.answer",
        "PASS demo.refused team finance has no grant",
        "PASS evidence.S17",
        "PASS session.confirm",
        "VERDICT",
    ] {
        assert!(said.contains(line), "{line:?} is not in:\n{said}");
    }
    assert!(said.contains("policy_denied"), "{said}");
    assert!(said.matches("NOT CONFIDENTIAL").count() > 3, "{said}");
    assert!(!said.contains("FAIL"), "{said}");
}

#[test]
fn a_damaged_folder_is_named_and_not_rebuilt() {
    let place = Place::new();
    let damaged = |file: &str, bytes: Option<&[u8]>, code: i32, word: &str| {
        let path = place.path(file);
        let good = fs::read(&path).unwrap();
        match bytes {
            Some(bytes) => fs::write(&path, bytes).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let output = place.demo();
        let said = text(&output);
        assert_eq!(output.status.code(), Some(code), "{file}: {said}");
        assert!(said.contains(word), "{file}: {word:?} is not in {said}");
        assert_eq!(fs::read(&path).ok().as_deref(), bytes, "{file} was rebuilt");
        fs::write(&path, good).unwrap();
    };
    damaged(
        "casemate-default.casemate",
        None,
        3,
        "casemate-default.casemate",
    );
    damaged("complete", None, 3, "complete");
    damaged("org/fleet.json", Some(b"{}"), 3, "fleet.json");
    damaged(
        "server.toml",
        Some(b"[server]\nlisten = 1"),
        1,
        "server.toml",
    );
    let mut package = fs::read(place.path("casemate-default.casemate")).unwrap();
    let last = package.len() - 1;
    package[last] ^= 1;
    damaged(
        "casemate-default.casemate",
        Some(&package),
        1,
        "wrong key or altered file",
    );
    // A secret that others may read is refused with the remedy.
    use std::os::unix::fs::PermissionsExt;
    let kek = place.path("org/kek.key");
    fs::set_permissions(&kek, fs::Permissions::from_mode(0o644)).unwrap();
    let output = place.demo();
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output).contains("chmod 600"), "{}", text(&output));
    fs::set_permissions(&kek, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(place.demo().status.success());
}

#[test]
fn the_demonstration_stays_up_answers_and_leaves_nothing_behind() {
    let place = Place::new();
    let mut demo = casemate()
        .args(["demo", "--dir"])
        .arg(place.path(""))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(demo.stdout.take().unwrap()));
    let base = lines
        .find_map(|line| {
            line.unwrap()
                .strip_prefix("INFO demo.url ")
                .map(str::to_owned)
        })
        .unwrap();
    let answer = http(
        &base,
        "POST",
        "chat/completions",
        &chat("What is a river?", 24),
    )
    .unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    // Killed without warning, it takes its parts with it.
    demo.kill().unwrap();
    demo.wait().unwrap();
    eventually(Duration::from_secs(10), "the parts end", || {
        http(&base, "GET", "models", b"").is_err()
    });
}

#[test]
fn a_tpm_vouches_for_the_demonstration_and_outlives_it() {
    let missing = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
    let swtpm = std::process::Command::new("swtpm")
        .arg("--version")
        .output();
    if swtpm.as_ref().is_err_and(missing) {
        println!("SKIP swtpm is missing");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let run = |more: &[&str]| {
        let mut demo = casemate();
        demo.args(["demo", "--once"]).args(more);
        demo.arg("--dir").arg(folder.path().join("demo"));
        demo.output().unwrap()
    };
    // The second run is another boot of the same TPM, whose enrolment still counts.
    for _ in 0..2 {
        let output = run(&["--platform", "tpm"]);
        assert!(output.status.success(), "{}", text(&output));
        let told = text(&output);
        for line in [
            "PASS evidence.P3 extra data is the nonce",
            "VERDICT every step held; NOT CONFIDENTIAL (measured boot)",
        ] {
            assert!(told.contains(line), "{line}: {told}");
        }
    }
    let other = run(&[]);
    assert_eq!(other.status.code(), Some(3), "{}", text(&other));
    assert!(text(&other).contains("another --platform"));
}
