//! Marks through real processes: keys come from the broker, answers carry them, policy changes the epoch of a running server,
//! and `casemate mark verify` finds the team.

use std::fs;
use std::time::Duration;

use crate::place::{Answer, Part, Place, eventually, http};

/// Asks for an answer with choice in its words.
fn ask(connect: &Part) -> Answer {
    let body = serde_json::json!({"model": "default", "temperature": 1.5, "max_tokens": 200, "prompt": "It was"});
    let body = body.to_string();
    http(&connect.ready, "POST", "completions", body.as_bytes()).unwrap()
}

fn story(connect: &Part) -> String {
    let answer = ask(connect);
    assert_eq!(answer.status, 200, "{}", answer.body);
    let text = answer.json()["choices"][0]["text"].clone();
    text.as_str().unwrap().to_owned()
}

#[test]
fn answers_carry_the_mark_of_the_policys_epoch_and_are_traced() {
    let place = Place::new();
    let tables = fs::read_to_string(place.path("org/policy/policy.toml")).unwrap();
    let marked = format!("{tables}\n[team.research.output]\nmark = \"on\"\n");
    fs::write(place.path("org/policy/policy.toml"), marked).unwrap();
    place.command(&["policy", "sign", "org"]);
    let (_broker, _server, connect) = place.start_all();
    let audit = || fs::read_to_string(place.path("server-audit.jsonl")).unwrap();
    let mut lines = String::new();
    for _ in 0..8 {
        lines += &(serde_json::json!({"text": story(&connect)}).to_string() + "\n");
    }
    eventually(
        Duration::from_secs(5),
        "eight marked answers are recorded",
        || audit().matches("\"mark_epoch\":1").count() == 8,
    );
    fs::write(place.path("found.jsonl"), lines).unwrap();
    let words = [
        "mark",
        "verify",
        "found.jsonl",
        "--jsonl",
        "--org",
        "org",
        "--model",
    ];
    let found = place.command(&[&words[..], &["casemate-default.casemate"]].concat());
    assert!(
        found.contains("PASS mark answers to team research, epoch 1"),
        "{found}"
    );
    // Another epoch: the server attests again for its keys, and goes on.
    let tables = fs::read_to_string(place.path("org/policy/policy.toml")).unwrap();
    fs::write(
        place.path("org/policy/policy.toml"),
        format!("mark_epoch = 2\n{tables}"),
    )
    .unwrap();
    place.command(&["policy", "sign", "org"]);
    eventually(
        Duration::from_secs(30),
        "answers carry the second epoch's mark",
        || {
            // Its session is stale until connect has attested again.
            ask(&connect);
            audit().contains("\"mark_epoch\":2")
        },
    );
}
