//! S12: the binary for an enclave image (`scripts/check production`) holds no test chip, no demonstration and no way around
//! the verifier, whatever its configuration says.

use std::path::PathBuf;
use std::process::{Command, Output};

use super::place::{Place, text};

/// Labels that only the test chip's key derivation and its GPUs contain. The ordinary binary must show them, or this looks for nothing.
const OF_THE_CHIP: [&[u8]; 3] = [
    b"casemate/test-chip/v1/",
    b"casemate/test-chip/measurement/v1",
    b"casemate/test-gpu/v1/",
];

fn production() -> Option<PathBuf> {
    let binary = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/production/casemate");
    if binary.exists() {
        return Some(binary);
    }
    let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(!ci, "scripts/check production did not run");
    println!("SKIP production binary: run scripts/check production first");
    None
}

fn contains(bytes: &[u8], label: &[u8]) -> bool {
    bytes.windows(label.len()).any(|window| window == label)
}

#[test]
fn s12_the_production_binary_has_no_test_chip_and_no_way_around_the_verifier() {
    let Some(binary) = production() else { return };
    let ordinary = std::fs::read(env!("CARGO_BIN_EXE_casemate")).unwrap();
    let bytes = std::fs::read(&binary).unwrap();
    for label in OF_THE_CHIP {
        assert!(contains(&ordinary, label), "the label has changed");
        assert!(!contains(&bytes, label), "the test chip is in the binary");
    }
    let place = Place::new();
    let run = |words: &[&str]| -> Output {
        Command::new(&binary)
            .args(words)
            .current_dir(place.path(""))
            .output()
            .unwrap()
    };
    let refuses = |words: &[&str], code: i32, word: &str| {
        let output = run(words);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {said}");
        assert!(said.contains(word), "{words:?}: {word:?} is not in {said}");
    };
    refuses(&["demo", "--once"], 2, "unrecognized subcommand");
    refuses(&["serve", "--config", "server.toml"], 3, "no test chip");
    refuses(
        &["broker", "--config", "broker.toml"],
        3,
        "without the test chip",
    );
    refuses(
        &["verify", "--config", "connect-research.toml"],
        20,
        "test-chip",
    );
    refuses(
        &["connect", "--config", "connect-research.toml"],
        20,
        "test-chip",
    );
    refuses(
        &[
            "org",
            "enrol",
            "org",
            "--test-chip",
            "--label",
            "x",
            "--name",
            "y",
        ],
        20,
        "without the test chip",
    );
    // Every option that it knows, on one page per command: none of them switches a check off.
    for command in ["serve", "broker", "connect", "verify"] {
        let help = text(&run(&[command, "--help"])).to_ascii_lowercase();
        for word in ["--skip", "--insecure", "--no-verify", "--allow", "--danger"] {
            assert!(!help.contains(word), "{command} has {word}");
        }
    }
}
