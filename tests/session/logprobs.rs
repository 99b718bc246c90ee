//! Log-probabilities on the wire: who may have them, in which shape, whole and streamed.

use serde_json::{Value, json};

use crate::harness::{PROMPT_MARKER, Server};
use crate::raw::{Raw, chat};
use crate::script::ANSWER_MARKER;

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

fn asking(stream: bool, options: &[(&str, Value)]) -> Value {
    let mut body = chat("one two", stream);
    for (name, value) in options {
        body[name] = value.clone();
    }
    body
}

fn completion(stream: bool, logprobs: Value) -> Value {
    json!({"model": "story", "prompt": "one two", "stream": stream, "logprobs": logprobs})
}

/// The chunks of a stream that is complete.
async fn chunks(raw: &mut Raw, path: &str, body: &Value) -> Vec<Value> {
    let answer = raw.post(path, body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let text = answer.text();
    let lines = text.lines().filter_map(|line| line.strip_prefix("data: "));
    let mut lines: Vec<&str> = lines.collect();
    assert_eq!(lines.pop(), Some("[DONE]"));
    let parsed = lines.into_iter().map(serde_json::from_str);
    parsed.map(Result::unwrap).collect()
}

#[tokio::test]
async fn a_chat_tells_them_whole_and_streamed_alike() {
    let server = Server::ordinary().await;
    let mut raw = Raw::attested(&server, "ada").await;
    let options = [("logprobs", json!(true)), ("top_logprobs", json!(2))];
    let whole = raw.post(CHAT, &asking(false, &options)).await.ok();
    let told = &whole["choices"][0]["logprobs"];
    let tokens: Vec<&str> = told["content"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["token"].as_str().unwrap())
        .collect();
    assert_eq!(tokens, [ANSWER_MARKER, "one ", "two ", PROMPT_MARKER]);
    let half = -0.5;
    let one = json!({"token": "one ", "logprob": half, "bytes": b"one ", "top_logprobs": [
        {"token": "one ", "logprob": half, "bytes": b"one "},
        {"token": "x", "logprob": 2.0 * half, "bytes": b"x"}]});
    assert_eq!(told["content"][1], one);
    assert_eq!(told["refusal"], Value::Null);

    let mut streamed = Vec::new();
    for chunk in chunks(&mut raw, CHAT, &asking(true, &options)).await {
        let choice = &chunk["choices"][0];
        if let Some(text) = choice["delta"]["content"]
            .as_str()
            .filter(|text| !text.is_empty())
        {
            assert_eq!(choice["logprobs"]["content"][0]["token"], text);
        }
        streamed.extend(
            choice["logprobs"]["content"]
                .as_array()
                .cloned()
                .unwrap_or_default(),
        );
    }
    assert_eq!(Value::Array(streamed), told["content"]);

    // Their own values alone, and nothing where nobody asks.
    let own = raw.post(CHAT, &asking(false, &options[..1])).await.ok();
    assert_eq!(
        own["choices"][0]["logprobs"]["content"][1]["top_logprobs"],
        json!([])
    );
    for options in [
        vec![],
        vec![("logprobs", json!(false)), ("top_logprobs", json!(0))],
    ] {
        let none = raw.post(CHAT, &asking(false, &options)).await.ok();
        assert_eq!(none["choices"][0]["logprobs"], Value::Null);
        for chunk in chunks(&mut raw, CHAT, &asking(true, &options)).await {
            assert_eq!(chunk["choices"][0]["logprobs"], Value::Null);
        }
    }
}

#[tokio::test]
async fn a_completion_tells_them_in_four_lists() {
    let server = Server::ordinary().await;
    let mut raw = Raw::attested(&server, "ada").await;
    let whole = raw
        .post(COMPLETIONS, &completion(false, json!(2)))
        .await
        .ok();
    let told = &whole["choices"][0]["logprobs"];
    let half = -0.5;
    let marker = ANSWER_MARKER.chars().count();
    let expected = json!({"tokens": [ANSWER_MARKER, "one ", "two"], "token_logprobs": [half, half, half],
        "text_offset": [0, marker, marker + 4],
        "top_logprobs": [{ANSWER_MARKER: half, "x": 2.0 * half}, {"one ": half, "x": 2.0 * half},
            {"two": half, "x": 2.0 * half}]});
    assert_eq!(told, &expected);
    let mut lists =
        json!({"tokens": [], "token_logprobs": [], "text_offset": [], "top_logprobs": []});
    for chunk in chunks(&mut raw, COMPLETIONS, &completion(true, json!(2))).await {
        let lists = lists.as_object_mut().unwrap();
        for (name, list) in lists {
            let more = chunk["choices"][0]["logprobs"][name].as_array().cloned();
            list.as_array_mut()
                .unwrap()
                .extend(more.unwrap_or_default());
        }
    }
    assert_eq!(lists, expected);
    // None of the others: the drawn token's own value is there all the same.
    let own = raw
        .post(COMPLETIONS, &completion(false, json!(0)))
        .await
        .ok();
    assert_eq!(
        own["choices"][0]["logprobs"]["top_logprobs"][1],
        json!({"one ": half})
    );
    let none = raw
        .post(COMPLETIONS, &completion(false, Value::Null))
        .await
        .ok();
    assert_eq!(none["choices"][0]["logprobs"], Value::Null);
}

#[tokio::test]
async fn s05_who_may_not_have_them_is_told_which_action_and_which_parameter() {
    let server = Server::ordinary().await;
    let mut raw = Raw::attested(&server, "plain").await;
    for (path, body) in [
        (CHAT, asking(false, &[("logprobs", json!(true))])),
        (COMPLETIONS, completion(true, json!(0))),
    ] {
        let error = raw.post(path, &body).await.error(403, "policy_denied");
        assert_eq!(error["param"], "logprobs");
        let message = error["message"].as_str().unwrap();
        assert!(
            message.contains("use_logprobs") && message.contains("no-logprobs"),
            "{message}"
        );
    }
    server.saw_nothing();
    let denied = server.recorded_times(2, "decision", "forbidden").await;
    assert!(denied.iter().all(|one| one["action"] == "use_logprobs"));
    raw.chat("hello").await.ok();
}

#[tokio::test]
async fn s16_what_cannot_be_told_is_refused_by_name() {
    let server = Server::ordinary().await;
    let mut raw = Raw::attested(&server, "ada").await;
    let on = ("logprobs", json!(true));
    let mut cases = vec![
        (CHAT, asking(false, &[("logprobs", json!(5))]), "logprobs"),
        (
            CHAT,
            asking(false, &[("top_logprobs", json!(2))]),
            "top_logprobs",
        ),
        (
            CHAT,
            asking(false, &[("prompt_logprobs", json!(1))]),
            "prompt_logprobs",
        ),
        (COMPLETIONS, completion(false, json!(6)), "logprobs"),
        (COMPLETIONS, completion(false, json!(-1)), "logprobs"),
        (COMPLETIONS, completion(false, json!(true)), "logprobs"),
    ];
    for value in [json!(21), json!(-1), json!(1.5), json!("all")] {
        let options = [on.clone(), ("top_logprobs", value)];
        cases.push((CHAT, asking(false, &options), "top_logprobs"));
    }
    let mut echo = completion(false, json!(1));
    echo["echo"] = json!(true);
    cases.push((COMPLETIONS, echo, "echo"));
    for (path, body, param) in cases {
        let answer = raw.post(path, &body).await;
        assert_eq!(answer.status, 400, "{body}");
        assert_eq!(answer.json()["error"]["param"], param, "{body}");
    }
    server.saw_nothing();
}
