//! What is written down: one line for each decision, session and refusal, and never a word of a prompt or of an answer.

use serde_json::{Value, json};

use crate::client::Wishes;
use crate::harness::{PROMPT_MARKER, Server, logs, soon};
use crate::organisation::{ORGANISATION, model, principal};
use crate::raw::{Raw, chat};
use crate::script::{ANSWER_MARKER, CONTEXT};

#[tokio::test]
async fn decisions_sessions_answers_and_ends_are_one_line_each() {
    let server = Server::ordinary().await;
    let ada = ORGANISATION.client("ada");
    let mut raw = Raw::connect(&server, &ada).await;
    let exchange = raw.prepare(&ada).await;
    let session = raw.confirm(&exchange).await.ok()["session"].clone();
    raw.chat("hello").await.ok();
    raw.get("/v1/models").await.ok();
    let mut seeded = chat("hello", false);
    seeded["seed"] = json!(1);
    raw.post("/v1/chat/completions", &seeded)
        .await
        .error(403, "policy_denied");
    raw.chat("fail").await.error(500, "internal_error");
    drop(raw);
    server.recorded("session_ended", "closed").await;

    let records = server.audit();
    let numbers: Vec<u64> = records.iter().map(|r| r["seq"].as_u64().unwrap()).collect();
    assert_eq!(
        numbers,
        (1..=u64::try_from(records.len()).unwrap()).collect::<Vec<_>>()
    );
    let of_kind = |kind: &str| -> Vec<&Value> {
        records
            .iter()
            .filter(|record| record["kind"] == kind)
            .collect()
    };
    let sessions = of_kind("session");
    assert_eq!(sessions.len(), 1);
    assert_eq!(sessions[0]["evidence"], json!(exchange.envelope.digest()));
    assert_eq!(sessions[0]["leaf"], json!(ada.digest()));
    let decided: Vec<(&str, bool, &str)> = of_kind("decision")
        .iter()
        .map(|record| {
            assert_eq!(record["session"], session);
            assert_eq!(record["principal"], json!(principal("ada")));
            assert_eq!(record["model"], json!(model()));
            assert_eq!(record["policy"], json!(server.policy));
            let text = |name: &str| record[name].as_str().unwrap();
            (
                text("action"),
                record["allowed"].as_bool().unwrap(),
                text("reason"),
            )
        })
        .collect();
    let expected = [
        ("chat", true, "permitted"),
        ("list", true, "permitted"),
        ("chat", true, "permitted"),
        ("use_seed", false, "forbidden"),
        ("chat", true, "permitted"),
    ];
    assert_eq!(decided, expected);
    let answers: Vec<&str> = of_kind("answer")
        .iter()
        .map(|record| record["reason"].as_str().unwrap())
        .collect();
    assert_eq!(answers, ["stop", "internal_error"]);
    // The end of an answer and of a request are two things; a refusal by policy is a decision and no second line.
    let refused: Vec<&Value> = of_kind("refused")
        .iter()
        .map(|record| &record["reason"])
        .collect();
    assert_eq!(refused, [&json!("internal_error")]);
}

#[tokio::test]
async fn no_prompt_and_no_answer_is_in_errors_audit_or_logs() {
    let server = Server::ordinary().await;
    let ada = ORGANISATION.client("ada");
    let mut raw = Raw::connect(&server, &ada).await;
    let chat_path = "/v1/chat/completions";
    // Refused before attestation.
    raw.chat("hello").await.error(403, "attestation_required");
    raw.attest(&ada).await;
    // Answered, whole and as a stream, as chat and as plain text.
    let answer = raw.chat("hello").await;
    assert!(answer.text().contains(PROMPT_MARKER) && answer.text().contains(ANSWER_MARKER));
    raw.stream("hello").await;
    while raw.chunk().await.unwrap().is_some() {}
    let plain = json!({"model": "story", "prompt": PROMPT_MARKER, "max_tokens": 16});
    raw.post("/v1/completions", &plain).await.ok();
    // Refused in every part of the server; `error` looks for the marker in what comes back.
    raw.chat(&"x".repeat(CONTEXT))
        .await
        .error(400, "context_length_exceeded");
    raw.chat("panic-encode").await.error(500, "internal_error");
    raw.chat("panic-start").await.error(500, "internal_error");
    raw.chat("refuse").await.error(500, "internal_error");
    raw.chat("fail").await.error(500, "internal_error");
    let mut odd = chat("hello", false);
    odd["invented"] = json!(PROMPT_MARKER);
    raw.post(chat_path, &odd)
        .await
        .error(400, "unsupported_parameter");
    let broken = format!("{{\"messages\": \"{PROMPT_MARKER}");
    raw.post_bytes(chat_path, broken.as_bytes())
        .await
        .error(400, "malformed_json");
    let nonce = json!({"nonce": PROMPT_MARKER});
    raw.post("/attest/challenge", &nonce)
        .await
        .error(400, "malformed");
    // Cut off.
    raw.stream("vanish").await;
    raw.cut_with("internal_error").await;
    // Through the product's client and its proxy.
    let mut proxied = Wishes::of(server.address).client().proxied().await;
    for prompt in ["hello", "fail", "panic-start"] {
        proxied.http.post(chat_path, &chat(prompt, false)).await;
    }
    drop(proxied);
    drop(raw);
    server.recorded("session_ended", "closed").await;

    let (audit, logs) = (server.audit_text(), logs().text());
    assert!(audit.contains("context_length_exceeded"));
    assert!(
        logs.contains("a request panicked; the others go on"),
        "the logs are collected"
    );
    assert!(logs.contains("session confirmed"), "the client's too");
    for marker in [PROMPT_MARKER, ANSWER_MARKER, "x".repeat(100).as_str()] {
        assert!(!audit.contains(marker), "{marker} is in the audit log");
        let line = logs.lines().find(|line| line.contains(marker));
        assert_eq!(line, None, "{marker} is in the logs");
    }
}

#[tokio::test]
async fn a_server_that_cannot_record_serves_nobody() {
    let server = Server::ordinary().await;
    let ada = ORGANISATION.client("ada");
    let mut raw = Raw::connect(&server, &ada).await;
    raw.attest(&ada).await;
    let mut waiting = Raw::connect(&server, &ada).await;
    let exchange = waiting.prepare(&ada).await;
    server.break_audit();
    raw.chat("hello").await.error(500, "internal_error");
    // A session that is not in the log ends with its connection, whether the answer still comes or not.
    let confirmation = exchange.confirmation.to_string();
    waiting
        .send("POST", "/attest/confirm", confirmation.as_bytes())
        .await
        .unwrap();
    if let Ok(answer) = waiting.head().await {
        assert_eq!(answer.status, 500);
    }
    soon("the connection has ended", || {
        server.service.open_connections() == 1
    })
    .await;
    server.saw_nothing();
}
