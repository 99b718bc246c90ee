//! The official OpenAI client: through connect, and directly over mutual TLS after the attestation calls.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::place::{Place, chat, http, port};

/// Runs the official client's checks against servers of `place`. Nothing where this machine lacks it.
fn asked_by_openai_python(place: &Place) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join("target/python/bin/python");
    if !python.exists() {
        let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(!ci, "scripts/python-tests-setup did not run");
        println!("SKIP openai-python: run scripts/python-tests-setup first");
        return;
    }
    place.permit("research", "use_logprobs");
    place.permit("research", "use_logit_bias");
    let (_broker, _server, connect) = place.start_all();
    let direct = serde_json::json!({
        "host": "127.0.0.1",
        "port": port(&place.path("server.toml"), "listen"),
        "server_name": "localhost",
        "certificate": place.path("org/teams/research/ada/cert.pem"),
        "key": place.path("org/teams/research/ada/key.pem"),
        "enclave_ca": place.path("org/enclave-ca/cert.pem"),
        "platform": "test-chip",
    });
    let file = place.path("direct.json");
    fs::write(&file, direct.to_string()).unwrap();
    let output = Command::new(python)
        .arg(root.join("tests/python/test_openai.py"))
        .args(["--connect", &connect.ready, "--direct"])
        .arg(file)
        .args(["--model", "default"])
        .output()
        .unwrap();
    let said = super::place::text(&output);
    assert!(output.status.success(), "{said}");
    println!("{said}");
}

#[test]
fn openai_python_works_through_connect_and_directly() {
    asked_by_openai_python(&Place::new());
}

#[test]
fn openai_python_reads_shaped_answers_through_connect_and_directly() {
    let place = Place::new();
    let path = place.path("org/policy/policy.toml");
    let mut policy = fs::read_to_string(&path).unwrap();
    policy += "\n[guard.shapes.research]\nprofile = \"bucketed\"\ncells = [8, 32, 128, 512]\n\
        tick_milliseconds = 20\nfirst_milliseconds = 20\n";
    fs::write(path, policy).unwrap();
    asked_by_openai_python(&place);
}

#[test]
fn the_light_client_does_what_connect_does() {
    let light = Path::new(env!("CARGO_BIN_EXE_casemate")).with_file_name("casemate-connect");
    if !light.exists() {
        let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(!ci, "casemate-connect was not built");
        println!("SKIP light client: build it with cargo build --release -p casemate-client");
        return;
    }
    let place = Place::new();
    let _broker = place.start("broker", "broker.toml");
    let _server = place.start("serve", "server.toml");
    let mut command = Command::new(light);
    command.args(["--config", "connect-research.toml"]);
    let part = place.start_command(command, "casemate-connect");
    assert!(
        part.log().contains("PASS session.confirm"),
        "{}",
        part.log()
    );
    assert!(part.log().contains("NOT CONFIDENTIAL"), "{}", part.log());
    let answer = http(
        &part.ready,
        "POST",
        "chat/completions",
        &chat("What is a dog?", 24),
    );
    let answer = answer.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
}
