//! Answers in OpenAI's shapes: whole documents and the chunks of a stream.

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, json};

use super::logprobs;
use crate::queue::{Finish, TokenLogprobs};

/// Which of the two generating endpoints answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completion,
}

/// What every document of one answer repeats.
#[derive(Debug, Clone)]
pub struct Head {
    /// Shape.
    pub endpoint: Endpoint,
    /// Unique for this answer.
    pub id: String,
    /// Unix time.
    pub created: u64,
    /// As asked for.
    pub model: String,
}

/// Tokens of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Of the prompt.
    pub prompt_tokens: u64,
    /// Of the answer.
    pub completion_tokens: u64,
    /// Of both.
    pub total_tokens: u64,
}

impl Usage {
    /// Counts of one request.
    pub fn new(prompt_tokens: u64, completion_tokens: u64) -> Self {
        let total_tokens = prompt_tokens.saturating_add(completion_tokens);
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens,
        }
    }
}

impl Head {
    /// The whole answer, with what is `told` of its tokens.
    pub fn whole(
        &self,
        text: &str,
        told: Option<&[TokenLogprobs]>,
        finish: Finish,
        usage: Usage,
    ) -> Bytes {
        let finish = finish.as_str();
        let logprobs = logprobs::document(self.endpoint, told);
        let choice = match self.endpoint {
            Endpoint::Chat => json!({"index": 0, "message": {"role": "assistant", "content": text,
                "refusal": null}, "logprobs": logprobs, "finish_reason": finish}),
            Endpoint::Completion => {
                json!({"index": 0, "text": text, "logprobs": logprobs, "finish_reason": finish})
            }
        };
        let object = match self.endpoint {
            Endpoint::Chat => "chat.completion",
            Endpoint::Completion => "text_completion",
        };
        Bytes::from(
            self.document(object, json!([choice]), Some(json!(usage)))
                .to_string(),
        )
    }

    /// The first chunk of a chat: who speaks.
    pub fn opening(&self, usage_follows: bool) -> Option<Bytes> {
        (self.endpoint == Endpoint::Chat).then(|| {
            let delta = json!({"role": "assistant", "content": ""});
            self.chunk(
                json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": null}]),
                usage_follows,
                Value::Null,
            )
        })
    }

    /// A chunk with text, and with what is `told` of its tokens.
    pub fn piece(&self, text: &str, told: Option<&[TokenLogprobs]>, usage_follows: bool) -> Bytes {
        let logprobs = logprobs::document(self.endpoint, told);
        let choice = match self.endpoint {
            Endpoint::Chat => {
                json!({"index": 0, "delta": {"content": text}, "logprobs": logprobs, "finish_reason": null})
            }
            Endpoint::Completion => {
                json!({"index": 0, "text": text, "logprobs": logprobs, "finish_reason": null})
            }
        };
        self.chunk(json!([choice]), usage_follows, Value::Null)
    }

    /// The chunk that says why the text ended.
    pub fn closing(&self, finish: Finish, usage_follows: bool) -> Bytes {
        let finish = finish.as_str();
        let choice = match self.endpoint {
            Endpoint::Chat => {
                json!({"index": 0, "delta": {}, "logprobs": null, "finish_reason": finish})
            }
            Endpoint::Completion => {
                json!({"index": 0, "text": "", "logprobs": null, "finish_reason": finish})
            }
        };
        self.chunk(json!([choice]), usage_follows, Value::Null)
    }

    /// The chunk with the token counts.
    pub fn counts(&self, usage: Usage) -> Bytes {
        self.chunk(json!([]), true, json!(usage))
    }

    fn chunk(&self, choices: Value, usage_follows: bool, usage: Value) -> Bytes {
        let object = match self.endpoint {
            Endpoint::Chat => "chat.completion.chunk",
            Endpoint::Completion => "text_completion",
        };
        // With `include_usage` every chunk has the key; it is null until the last.
        event(
            &self
                .document(object, choices, usage_follows.then_some(usage))
                .to_string(),
        )
    }

    fn document(&self, object: &str, choices: Value, usage: Option<Value>) -> Value {
        let mut document = json!({"id": self.id, "object": object, "created": self.created,
            "model": self.model, "system_fingerprint": null, "choices": choices});
        if let (Some(fields), Some(usage)) = (document.as_object_mut(), usage) {
            fields.insert("usage".into(), usage);
        }
        document
    }
}

/// The end of a complete stream. A stream without it was cut.
pub const DONE: Bytes = Bytes::from_static(b"data: [DONE]\n\n");

/// One server-sent event. JSON has no raw line ends, so one `data` line holds it.
pub fn event(data: &str) -> Bytes {
    Bytes::from(format!("data: {data}\n\n"))
}
