//! Bodies of chats and completions. What is read says, text for text, what JSON says; what is
//! refused has a short error with a code.
#![no_main]

use casemate::api::{
    ApiError, ChatRequest, CompletionRequest, Options, Role, parse_chat, parse_completion,
};
use casemate_models::engine::SamplingParams;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

const CHAT: &[u8] = include_bytes!("../seeds/chat_json/chat.json");
const COMPLETION: &[u8] = include_bytes!("../seeds/chat_json/completion.json");

fuzz_target!(init: seeds(), |bytes: &[u8]| {
    match parse_chat(bytes) {
        Ok(chat) => chat_is_as_sent(&chat, bytes),
        Err(error) => error_is_fit_to_send(&error),
    }
    match parse_completion(bytes) {
        Ok(completion) => completion_is_as_sent(&completion, bytes),
        Err(error) => error_is_fit_to_send(&error),
    }
});

fn seeds() {
    let read = parse_chat(CHAT).is_ok() && parse_completion(COMPLETION).is_ok();
    assert!(read, "a seed is out of date: scripts/fuzz seeds");
}

fn chat_is_as_sent(chat: &ChatRequest, bytes: &[u8]) {
    let sent = sent(bytes);
    let messages = sent["messages"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    assert_eq!(chat.messages.len(), messages.len());
    for (message, sent) in chat.messages.iter().zip(messages) {
        let role = if sent["role"] == "developer" {
            &json!("system")
        } else {
            &sent["role"]
        };
        assert_eq!(*role, word(message.role));
        assert_eq!(Some(&message.content), text_of(&sent["content"]).as_ref());
    }
    options_are_as_sent(&chat.options, &sent);
    let messages: Vec<Value> = chat
        .messages
        .iter()
        .map(|message| json!({"role": word(message.role), "content": message.content}))
        .collect();
    let written = written(&chat.options, "messages", json!(messages));
    let again = parse_chat(&written).map(|chat| (chat.messages, exact(chat.options)));
    assert_eq!(
        again,
        Ok((chat.messages.clone(), exact(chat.options.clone())))
    );
}

fn completion_is_as_sent(completion: &CompletionRequest, bytes: &[u8]) {
    let sent = sent(bytes);
    let prompt = sent["prompt"].get(0).unwrap_or(&sent["prompt"]);
    assert_eq!(prompt.as_str(), Some(completion.prompt.as_str()));
    options_are_as_sent(&completion.options, &sent);
    let written = written(&completion.options, "prompt", json!(completion.prompt));
    let again =
        parse_completion(&written).map(|completion| (completion.prompt, exact(completion.options)));
    assert_eq!(
        again,
        Ok((completion.prompt.clone(), exact(completion.options.clone())))
    );
}

/// The body as a reader without any rules sees it.
fn sent(bytes: &[u8]) -> Value {
    let Ok(value) = serde_json::from_slice(bytes) else {
        panic!("what was accepted is not JSON")
    };
    value
}

/// A content: one text, or the texts of its parts.
fn text_of(content: &Value) -> Option<String> {
    match content.as_array() {
        None => content.as_str().map(str::to_owned),
        Some(parts) => parts.iter().map(|part| part["text"].as_str()).collect(),
    }
}

fn options_are_as_sent(options: &Options, sent: &Value) {
    assert_eq!(sent["model"], options.model);
    assert_eq!(sent["stream"].as_bool().unwrap_or_default(), options.stream);
    let number = |name: &str| sent[name].as_f64().unwrap_or(1.0);
    assert_eq!(options.sampling.temperature, number("temperature"));
    let top_p = number("top_p").max(f64::MIN_POSITIVE);
    assert_eq!(options.sampling.top_p, top_p);
    assert!(options.sampling.check().is_ok(), "the sampler refuses what the API took");
    let stop = match &sent["stop"] {
        Value::Null => json!([]),
        Value::String(text) => json!([text]),
        list => list.clone(),
    };
    assert_eq!(stop, json!(options.stop));
}

/// The request again, in our own words.
fn written(options: &Options, part: &str, content: Value) -> Vec<u8> {
    let mut body = json!({
        "model": options.model, "stream": options.stream, "stop": options.stop,
        "seed": options.seed, "max_tokens": options.tokens_max,
    });
    match options.logprobs {
        Some(top) if part == "messages" => {
            body["logprobs"] = json!(true);
            body["top_logprobs"] = json!(top);
        }
        top => body["logprobs"] = json!(top),
    }
    if options.stream {
        body["stream_options"] = json!({"include_usage": options.include_usage});
    }
    body[part] = content;
    body.to_string().into_bytes()
}

/// Without what holds decimal fractions, which JSON may round.
fn exact(options: Options) -> Options {
    Options {
        sampling: SamplingParams::default(),
        shape: None,
        ..options
    }
}

const fn word(role: Role) -> &'static str {
    match role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
    }
}

fn error_is_fit_to_send(error: &ApiError) {
    assert!(error.status().is_client_error());
    let document = error.to_json();
    // It may repeat the beginning of a parameter's name, and no value.
    assert!(document.len() < 2048);
    let document: Value = serde_json::from_slice(&document).unwrap_or_default();
    assert_eq!(document["error"]["code"], error.code());
    assert!(!error.code().is_empty());
}
