//! Every error has OpenAI's shape, all four keys, whatever was wrong.

use serde_json::{Value, json};

use crate::harness::{PROMPT_MARKER, Server};
use crate::raw::{Raw, chat};
use crate::script::CONTEXT;

/// A chat with one field more, or another value of one.
fn with(name: &str, value: Value) -> String {
    let mut body = chat("hello", false);
    body[name] = value;
    body.to_string()
}

fn without(name: &str) -> String {
    let mut body = chat("hello", false);
    body.as_object_mut().unwrap().remove(name);
    body.to_string()
}

#[tokio::test]
async fn malformed_bodies_and_wrong_parameters_are_refused_by_name() {
    let server = Server::ordinary().await;
    let mut raw = Raw::attested(&server, "ada").await;
    let marker = PROMPT_MARKER;
    let cases: [(String, u16, &str, Value); 24] = [
        (
            format!("no json {marker}"),
            400,
            "malformed_json",
            Value::Null,
        ),
        (String::new(), 400, "malformed_json", Value::Null),
        (
            format!("[\"{marker}\"]"),
            400,
            "malformed_json",
            Value::Null,
        ),
        (
            format!("{{\"model\":\"{marker}\",\"model\":\"story\"}}"),
            400,
            "malformed_json",
            Value::Null,
        ),
        (
            format!("{} {{}}", chat("hello", false)),
            400,
            "malformed_json",
            Value::Null,
        ),
        (
            without("model"),
            400,
            "missing_required_parameter",
            json!("model"),
        ),
        (
            without("messages"),
            400,
            "missing_required_parameter",
            json!("messages"),
        ),
        (
            with("messages", json!([])),
            400,
            "invalid_value",
            json!("messages"),
        ),
        (
            with("messages", json!(marker)),
            400,
            "invalid_value",
            json!("messages"),
        ),
        (
            with("messages", json!([marker])),
            400,
            "invalid_value",
            json!("messages[0]"),
        ),
        (
            with("messages", json!([{"role": marker, "content": ""}])),
            400,
            "invalid_value",
            json!("messages[0].role"),
        ),
        (
            with(
                "messages",
                json!([{"role": "user", "content": {"text": marker}}]),
            ),
            400,
            "invalid_value",
            json!("messages[0].content"),
        ),
        (
            with("messages", json!([{"role": "user"}])),
            400,
            "missing_required_parameter",
            json!("messages[0].content"),
        ),
        (
            with("model", json!(7)),
            400,
            "invalid_value",
            json!("model"),
        ),
        (
            with("model", json!("other")),
            404,
            "model_not_found",
            json!("model"),
        ),
        (
            with("temperature", json!(3)),
            400,
            "invalid_value",
            json!("temperature"),
        ),
        (
            with("stream", json!("yes")),
            400,
            "invalid_value",
            json!("stream"),
        ),
        (
            with("stop", json!([1])),
            400,
            "invalid_value",
            json!("stop"),
        ),
        (
            with("max_tokens", json!(0)),
            400,
            "invalid_value",
            json!("max_tokens"),
        ),
        (
            with("n", json!(2)),
            400,
            "unsupported_parameter",
            json!("n"),
        ),
        (
            with("logprobs", json!(1)),
            400,
            "invalid_value",
            json!("logprobs"),
        ),
        (
            with("logit_bias", json!({"one": 1})),
            400,
            "invalid_value",
            json!("logit_bias"),
        ),
        (
            with("invented", json!(marker)),
            400,
            "unsupported_parameter",
            json!("invented"),
        ),
        (with("seed", json!(1)), 403, "policy_denied", json!("seed")),
    ];
    for (body, status, code, param) in cases {
        let answer = raw
            .post_bytes("/v1/chat/completions", body.as_bytes())
            .await;
        let error = answer.error(status, code);
        assert_eq!(error["param"], param, "{body}");
        if !code.starts_with("policy") {
            server.refused(code).await;
        }
    }
    server.saw_nothing();
    raw.chat("hello").await.ok();
}

#[tokio::test]
async fn wrong_paths_methods_and_content_types_have_the_same_shape() {
    let server = Server::ordinary().await;
    let mut raw = Raw::attested(&server, "ada").await;
    let cases = [
        (
            "GET",
            "/v1/chat/completions",
            405,
            "method_not_allowed",
            Some("POST"),
        ),
        (
            "PUT",
            "/v1/completions",
            405,
            "method_not_allowed",
            Some("POST"),
        ),
        ("POST", "/v1/models", 405, "method_not_allowed", Some("GET")),
        (
            "DELETE",
            "/v1/models/story",
            405,
            "method_not_allowed",
            Some("GET"),
        ),
        (
            "GET",
            "/attest/challenge",
            405,
            "method_not_allowed",
            Some("POST"),
        ),
        (
            "GET",
            "/attest/confirm",
            405,
            "method_not_allowed",
            Some("POST"),
        ),
        ("POST", "/health", 405, "method_not_allowed", Some("GET")),
        ("GET", "/v1/models/other", 404, "model_not_found", None),
        ("POST", "/v1/nothing", 404, "not_found", None),
        ("GET", "/", 404, "not_found", None),
        ("GET", "/v1/models/", 404, "not_found", None),
    ];
    for (method, path, status, code, allow) in cases {
        raw.send(method, path, b"").await.unwrap();
        let answer = raw.answer().await;
        answer.error(status, code);
        assert_eq!(answer.header("allow"), allow, "{method} {path}");
        server.refused(code).await;
    }
    for kind in [
        "content-type: text/plain\r\n",
        "content-type: application/jsonp\r\n",
        "",
    ] {
        let body = chat("hello", false).to_string();
        let length = body.len();
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n{kind}content-length: {length}\r\n\r\n{body}"
        );
        raw.write(request.as_bytes()).await.unwrap();
        raw.answer().await.error(415, "unsupported_media_type");
    }
    server.refused("unsupported_media_type").await;
    server.saw_nothing();
}

#[tokio::test]
async fn a_prompt_that_is_too_long_is_refused_with_both_numbers() {
    let server = Server::ordinary().await;
    let mut raw = Raw::attested(&server, "ada").await;
    let prompt = "x".repeat(CONTEXT);
    let length = prompt.len() + 1 + PROMPT_MARKER.len();
    let error = raw
        .chat(&prompt)
        .await
        .error(400, "context_length_exceeded");
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains(&format!("context is {CONTEXT} tokens")),
        "{message}"
    );
    assert!(
        message.contains(&format!("the prompt has {length}")),
        "{message}"
    );
    assert_eq!(error["param"], "messages");

    // The answer counts as well.
    let body = with("max_tokens", json!(CONTEXT)).into_bytes();
    let refused = raw.post_bytes("/v1/chat/completions", &body).await;
    let message = refused.error(400, "context_length_exceeded")["message"].to_string();
    assert!(
        message.contains(&format!("asks for {CONTEXT}")),
        "{message}"
    );

    let body = json!({"model": "story", "prompt": prompt});
    let error = raw
        .post("/v1/completions", &body)
        .await
        .error(400, "context_length_exceeded");
    assert_eq!(error["param"], "prompt");
    server.refused("context_length_exceeded").await;
    server.saw_nothing();
}
