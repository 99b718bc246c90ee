//! What is kept in, on the wire: the system prompt in an answer, canaries, and what is recorded in shadow.

use casemate::guard::mark::MarkRoot;
use casemate::policy::{OutputRules, Switch};
use serde_json::{Value, json};

use crate::harness::{MARK_ROOT, Server, Setup};
use crate::raw::Raw;

const CHAT: &str = "/v1/chat/completions";
const SECRET: &str = "Tanker slots are released at 04:40 local time, and Pier Nine is closed.";

async fn serving(change: impl FnOnce(&mut OutputRules)) -> Server {
    let mut output = OutputRules::default();
    change(&mut output);
    let setup = Setup {
        output,
        ..Setup::default()
    };
    Server::start(setup).await
}

/// The scripted model repeats all that it is told: the system prompt, then the question.
fn told(question: &str, stream: bool) -> Value {
    json!({"model": "story", "stream": stream, "messages": [
        {"role": "system", "content": SECRET}, {"role": "user", "content": question}]})
}

/// Text and reason of an answer, whole or streamed.
pub async fn said(raw: &mut Raw, body: &Value) -> (String, String) {
    let answer = raw.post(CHAT, body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    if body["stream"] == false {
        let choice = answer.json()["choices"][0].clone();
        let text = choice["message"]["content"].as_str().unwrap().to_owned();
        return (text, choice["finish_reason"].as_str().unwrap().to_owned());
    }
    let (mut text, mut reason) = (String::new(), String::new());
    for line in answer.text().lines() {
        let Some(data) = line.strip_prefix("data: {") else {
            continue;
        };
        let chunk: Value = serde_json::from_str(&format!("{{{data}")).unwrap();
        let choice = &chunk["choices"][0];
        text += choice["delta"]["content"].as_str().unwrap_or("");
        reason += choice["finish_reason"].as_str().unwrap_or("");
    }
    assert!(answer.text().ends_with("data: [DONE]\n\n"));
    (text, reason)
}

#[tokio::test]
async fn s22_a_system_prompt_is_held_back_whole_and_streamed_alike() {
    let server = serving(|rules| rules.leak = Switch::On).await;
    let mut raw = Raw::attested(&server, "ada").await;
    let mut answers = Vec::new();
    for stream in [false, true] {
        let (text, reason) = said(&mut raw, &told("go on", stream)).await;
        assert_eq!(reason, "content_filter");
        assert!(!text.contains("slots"), "{text}");
        answers.push(text);
    }
    assert_eq!(answers[0], answers[1]);
    let records = server.recorded_times(2, "answer", "withheld").await;
    assert_eq!(records[0]["noted"], json!(["prompt_leak"]));
    // Without a system prompt there is nothing to keep, and other text goes out as it is.
    let open = json!({"model": "story", "stream": false, "messages": [{"role": "user", "content": SECRET}]});
    let (text, reason) = said(&mut raw, &open).await;
    assert!(text.ends_with(SECRET) && reason == "stop", "{text}");
}

#[tokio::test]
async fn s22_shadow_records_and_does_nothing_and_off_does_not_look() {
    for (switch, noted) in [
        (Switch::Shadow, json!(["prompt_leak"])),
        (Switch::Off, Value::Null),
    ] {
        let server = serving(|rules| rules.leak = switch).await;
        let mut raw = Raw::attested(&server, "ada").await;
        let (text, reason) = said(&mut raw, &told("go on", true)).await;
        assert!(text.contains(SECRET) && reason == "stop", "{text}");
        let record = server.recorded("answer", "stop").await;
        assert_eq!(record["noted"], noted);
    }
}

#[tokio::test]
async fn a_canary_stands_in_the_prompt_and_never_in_an_answer() {
    let server = serving(|rules| rules.canary = Switch::On).await;
    let mut raw = Raw::attested(&server, "ada").await;
    let canary = MarkRoot::new(MARK_ROOT, 1).team("writers").canary();
    let (text, reason) = said(&mut raw, &told("go on", true)).await;
    assert!(
        text.contains("slots are released at 04:40 local time, and Pier Nine is"),
        "the prompt itself is not kept: {text}"
    );
    assert_eq!(reason, "content_filter");
    assert!(!text.contains(&canary[..12]), "{text}");
    let seen = server.model.seen();
    assert!(
        seen[0].contains(&format!("{SECRET}\n[{canary}]\ngo on")),
        "{seen:?}"
    );
    let record = server.recorded("answer", "withheld").await;
    assert_eq!(record["noted"], json!(["canary"]));
}

#[tokio::test]
async fn probabilities_wait_with_their_text() {
    let server = serving(|rules| rules.leak = Switch::On).await;
    let mut raw = Raw::attested(&server, "ada").await;
    let mut body = told("go on", false);
    body["logprobs"] = json!(true);
    let choice = raw.post(CHAT, &body).await.ok()["choices"][0].clone();
    let tokens = choice["logprobs"]["content"].as_array().unwrap().clone();
    let tokens: String = tokens
        .iter()
        .map(|one| one["token"].as_str().unwrap())
        .collect();
    assert_eq!(Some(tokens.as_str()), choice["message"]["content"].as_str());
}
