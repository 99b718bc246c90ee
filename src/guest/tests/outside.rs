//! The image's program outside of an image: it has no commands, reads no environment, and does nothing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should stop"
)]

use std::process::Command;

#[test]
fn b20_outside_of_an_image_nothing_happens_whatever_it_is_told() {
    for words in [
        &[][..],
        &["serve"],
        &["probe"],
        &["serve", "--config", "x.toml"],
        &["--help"],
        &["demo"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_casemate-guest"))
            .args(words)
            .env("CASEMATE_CONFIG", "x.toml")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(output.stdout.is_empty());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("first process of a measured image"), "{said}");
    }
}

#[test]
fn no_commands_are_in_it() {
    let program = std::fs::read(env!("CARGO_BIN_EXE_casemate-guest")).unwrap();
    let has = |text: &str| program.windows(text.len()).any(|at| at == text.as_bytes());
    assert!(has("casemate: READY"), "the program is read");
    for absent in [
        "casemate demo",
        "casemate org enrol ./acme",
        "casemate connect --config",
    ] {
        assert!(!has(absent), "{absent}");
    }
}
