//! Answers of a given shape on the wire: which schemas are taken, and what is said of the others.

use serde_json::{Value, json};

use crate::harness::{PROMPT_MARKER, Server};
use crate::raw::{Raw, chat};

const CHAT: &str = "/v1/chat/completions";

fn shaped(prompt: &str, stream: bool, schema: &Value) -> Value {
    let mut body = chat(prompt, stream);
    body["response_format"] = json!({"type": "json_schema", "json_schema": {"name": "a", "strict": true, "schema": schema}});
    body
}

#[tokio::test]
async fn a_schema_that_can_be_served_is() {
    let server = Server::ordinary().await;
    let mut raw = Raw::attested(&server, "ada").await;
    let schema =
        json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]});
    raw.post(CHAT, &shaped("hello", false, &schema)).await.ok();
    for format in [
        json!({"type": "json_object"}),
        json!({"type": "text"}),
        Value::Null,
    ] {
        let mut body = chat("hello", false);
        body["response_format"] = format;
        raw.post(CHAT, &body).await.ok();
    }
}

#[tokio::test]
async fn a_hostile_schema_is_refused_with_its_reason_and_repeated_nowhere() {
    let server = Server::ordinary().await;
    let mut raw = Raw::attested(&server, "ada").await;
    let marker = PROMPT_MARKER;
    let many: Vec<Value> = (0..9)
        .map(|at| json!({"pattern": format!("{marker}{at}")}))
        .collect();
    let chain: Value = (0..2000)
        .map(|at| {
            (
                format!("d{at}"),
                json!({"$ref": format!("#/$defs/d{}", at + 1)}),
            )
        })
        .collect::<serde_json::Map<_, _>>()
        .into();
    for (schema, word) in [
        (json!({"not": {"const": marker}}), "'not'"),
        (
            json!({"type": "string", "pattern": format!("(({marker}")}),
            "regular expression",
        ),
        (
            json!({"type": "string", "allOf": many}),
            "8 regular expressions",
        ),
        (json!({"$ref": format!("#/$defs/{marker}")}), "$ref"),
        (
            json!({"$defs": chain, "$ref": "#/$defs/d0"}),
            "1000 objects",
        ),
        (
            json!({"type": "integer", "multipleOf": 1_000_003}),
            "multipleOf",
        ),
        (
            json!({"type": "integer", "minimum": 2, "maximum": 1}),
            "allows no value",
        ),
        (json!({marker: 1, "x-guidance": {}}), "keyword"),
        (json!({"const": "x".repeat(40_000)}), "32768 bytes"),
    ] {
        let answer = raw.post(CHAT, &shaped("hello", false, &schema)).await;
        let error = answer.error(400, "invalid_schema");
        assert_eq!(error["param"], "response_format");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(word), "{word}: {message}");
    }
    server.refused("invalid_schema").await;
    server.saw_nothing();
    raw.chat("hello").await.ok();
}

#[tokio::test]
async fn an_answer_that_gets_stuck_says_why() {
    let server = Server::ordinary().await;
    let mut raw = Raw::attested(&server, "ada").await;
    let body = shaped("stuck", false, &json!({"type": "object"}));
    let error = raw.post(CHAT, &body).await.error(400, "answer_stuck");
    assert_eq!(error["param"], "response_format");
    let body = shaped("stuck", true, &json!({"type": "object"})).to_string();
    raw.send("POST", CHAT, body.as_bytes()).await.unwrap();
    assert_eq!(raw.head().await.unwrap().status, 200);
    raw.cut_with("answer_stuck").await;
}

#[tokio::test]
async fn a_plain_completion_takes_no_shape() {
    let server = Server::ordinary().await;
    let mut raw = Raw::attested(&server, "ada").await;
    let body = json!({"model": "story", "prompt": "x", "response_format": {"type": "json_object"}});
    let error = raw
        .post("/v1/completions", &body)
        .await
        .error(400, "unsupported_parameter");
    assert_eq!(error["param"], "response_format");
}
