//! The likelihood test, on the wire: what goes out instead of an answer that tells its prompt, and what is recorded.

use casemate::policy::{OutputRules, Switch};
use serde_json::{Value, json};

use crate::harness::{Server, Setup, soon};
use crate::kept::said;
use crate::raw::Raw;
use crate::script::{ANSWER_MARKER, CONTEXT};

const CHAT: &str = "/v1/chat/completions";
const HARMLESS: &str = "You are a helpful assistant.";
/// An answer of the scripted model: it repeats its prompt.
const PLAIN: &str = "go on";

async fn serving(likelihood: Switch) -> Server {
    let output = OutputRules {
        likelihood,
        ..OutputRules::default()
    };
    let mut setup = Setup {
        output,
        ..Setup::default()
    };
    setup.api.answer_s_max = 1;
    Server::start(setup).await
}

fn told(system: &str, stream: bool) -> Value {
    json!({"model": "story", "stream": stream, "messages": [
        {"role": "system", "content": system}, {"role": "user", "content": PLAIN}]})
}

#[tokio::test]
async fn g13_an_answer_that_its_prompt_makes_too_likely_is_drawn_anew_without_it() {
    let server = serving(Switch::On).await;
    let mut raw = Raw::attested(&server, "ada").await;
    let secret = "Pier Nine is closed likely-41 ";
    for stream in [false, true] {
        let (text, reason) = said(&mut raw, &told(secret, stream)).await;
        assert_eq!(text, format!("{ANSWER_MARKER}{HARMLESS}\n{PLAIN}"));
        assert_eq!(reason, "stop", "it looks like any other answer");
    }
    let records = server.recorded_times(2, "answer", "stop").await;
    for record in records {
        assert_eq!(record["noted"], json!(["prompt_likely"]));
    }
    let seen = server.model.seen();
    assert_eq!(seen[0], format!("{secret}\n{PLAIN}"));
    assert_eq!(seen[1], format!("{HARMLESS}\n{PLAIN}"));
    // What counts is what went out.
    let usage = raw.post(CHAT, &told(secret, false)).await.ok()["usage"].clone();
    assert_eq!(
        usage["prompt_tokens"],
        json!(secret.len() + 1 + PLAIN.len())
    );
    assert_eq!(usage["completion_tokens"], json!(7), "{usage}");
}

#[tokio::test]
async fn what_tells_no_more_than_policy_permits_goes_out_as_it_is() {
    let server = serving(Switch::On).await;
    let mut raw = Raw::attested(&server, "ada").await;
    for stream in [false, true] {
        let (text, reason) = said(&mut raw, &told("likely-40 ", stream)).await;
        assert_eq!(text, format!("{ANSWER_MARKER}likely-40 \n{PLAIN}"));
        assert_eq!(reason, "stop");
    }
    // Without a system prompt there is nothing to weigh against.
    let body =
        json!({"model": "story", "messages": [{"role": "user", "content": "likely-99 it is"}]});
    let answer = raw.post(CHAT, &body).await.ok();
    assert!(answer.to_string().contains("likely-99"), "{answer}");
    let records = server.recorded_times(3, "answer", "stop").await;
    assert!(records.iter().all(|record| record["noted"] == Value::Null));
}

#[tokio::test]
async fn shadow_notes_and_lets_go_and_off_does_not_weigh() {
    for (switch, noted) in [
        (Switch::Shadow, json!(["prompt_likely"])),
        (Switch::Off, Value::Null),
    ] {
        let server = serving(switch).await;
        let mut raw = Raw::attested(&server, "ada").await;
        let (text, reason) = said(&mut raw, &told("likely-41 ", true)).await;
        assert!(text.contains("likely-41") && reason == "stop", "{text}");
        let record = server.recorded("answer", "stop").await;
        assert_eq!(record["noted"], noted);
        assert_eq!(server.model.seen().len(), 1);
    }
}

/// What cannot be weighed does not go out where the test acts; where it watches, nothing is lost.
#[tokio::test]
async fn without_a_weight_nothing_goes_out_that_was_held() {
    let server = serving(Switch::On).await;
    let mut raw = Raw::attested(&server, "ada").await;
    for (system, status, code) in [
        ("weightless", 500, "internal_error"),
        ("crowded", 504, "answer_too_slow"),
        ("fail", 500, "internal_error"),
        ("vanish", 500, "internal_error"),
    ] {
        let answer = raw.post(CHAT, &told(system, false)).await;
        answer.error(status, code);
        assert!(!answer.text().contains(ANSWER_MARKER), "{system}");
        let mut streamed = Raw::attested(&server, "ada").await;
        let body = told(system, true).to_string();
        streamed.send("POST", CHAT, body.as_bytes()).await.unwrap();
        assert_eq!(streamed.head().await.unwrap().status, 200);
        let text = streamed.until_cut().await;
        assert!(text.contains(code), "{system}: {text}");
        assert!(!text.contains(ANSWER_MARKER), "{system}: {text}");
    }
    // A prompt so long that the harmless one, which is longer, leaves no room for an answer.
    let full = json!({"model": "story", "max_tokens": 2, "messages": [
        {"role": "system", "content": "x"}, {"role": "user", "content": "y".repeat(CONTEXT - 10)}]});
    raw.post(CHAT, &full).await.error(500, "internal_error");
    let server = serving(Switch::Shadow).await;
    let mut raw = Raw::attested(&server, "ada").await;
    let (text, reason) = said(&mut raw, &told("weightless", true)).await;
    assert!(text.contains("weightless") && reason == "stop", "{text}");
}

/// A caller that goes while an answer is held, or while it waits for its weight, frees its place at once.
#[tokio::test]
async fn whoever_leaves_frees_the_place() {
    let output = OutputRules {
        likelihood: Switch::On,
        ..OutputRules::default()
    };
    let server = Server::start(Setup {
        output,
        places: 1,
        ..Setup::default()
    })
    .await;
    for (times, system) in [(1, "slow"), (2, "crowded")] {
        let mut raw = Raw::attested(&server, "ada").await;
        let body = told(system, true).to_string();
        raw.send("POST", CHAT, body.as_bytes()).await.unwrap();
        soon("it runs", || server.model.seen().len() == 2 * times - 1).await;
        drop(raw);
        server.recorded_times(times, "answer", "reader_gone").await;
        let mut raw = Raw::attested(&server, "ada").await;
        let (_, reason) = said(&mut raw, &told("x", false)).await;
        assert_eq!(reason, "stop", "the place is free");
    }
}
