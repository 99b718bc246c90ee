//! Biases on the wire: who may have them, beside what they are refused, and what is wrong about one.

use serde_json::{Value, json};

use crate::harness::Server;
use crate::raw::{Raw, chat};
use crate::script::LETTERS;

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

fn asking(options: &[(&str, Value)]) -> Value {
    let mut body = chat("one two", false);
    for (name, value) in options {
        body[name] = value.clone();
    }
    body
}

fn bias() -> (&'static str, Value) {
    ("logit_bias", json!({"7": -100, "8": 1.5}))
}

#[tokio::test]
async fn who_may_not_have_them_is_told_which_action_and_which_parameter() {
    let server = Server::ordinary().await;
    let mut plain = Raw::attested(&server, "plain").await;
    let error = plain
        .post(CHAT, &asking(&[bias()]))
        .await
        .error(403, "policy_denied");
    assert_eq!(error["param"], "logit_bias");
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("use_logit_bias")
    );
    server.saw_nothing();
    let denied = server.recorded_times(1, "decision", "forbidden").await;
    assert_eq!(denied[0]["action"], "use_logit_bias");
    for nothing in [json!({}), json!({"7": 0}), Value::Null] {
        let body = asking(&[("logit_bias", nothing)]);
        plain.post(CHAT, &body).await.ok();
    }
    let mut granted = Raw::attested(&server, "ada").await;
    granted.post(CHAT, &asking(&[bias()])).await.ok();
}

/// Beside probabilities or a fixed seed a bias reads the model's own numbers (GUARD, section 1.1).
#[tokio::test]
async fn s16_a_bias_beside_probabilities_or_a_seed_is_refused_by_name() {
    let server = Server::ordinary().await;
    let mut raw = Raw::attested(&server, "ada").await;
    let completion = |name: &str, value: Value| json!({"model": "story", "prompt": "one", "logit_bias": {"7": 1}, name: value});
    for (path, body) in [
        (CHAT, asking(&[bias(), ("logprobs", json!(true))])),
        (CHAT, asking(&[bias(), ("seed", json!(1))])),
        (COMPLETIONS, completion("logprobs", json!(0))),
        (COMPLETIONS, completion("seed", json!(-1))),
    ] {
        let error = raw
            .post(path, &body)
            .await
            .error(400, "unsupported_parameter");
        assert_eq!(error["param"], "logit_bias", "{body}");
    }
    server.saw_nothing();
}

#[tokio::test]
async fn a_token_that_the_model_has_not_is_the_callers_error() {
    let server = Server::ordinary().await;
    let mut raw = Raw::attested(&server, "ada").await;
    let ask = |id: u32| asking(&[("logit_bias", json!({ id.to_string(): 1 }))]);
    raw.post(CHAT, &ask(LETTERS - 1)).await.ok();
    let error = raw.post(CHAT, &ask(LETTERS)).await;
    assert_eq!(error.error(400, "invalid_value")["param"], "logit_bias");
    raw.chat("hello").await.ok();
}
