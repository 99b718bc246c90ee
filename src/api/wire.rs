//! Requests of OpenAI's API as this server takes them. What would mislead is refused by name, and so are options that
//! together would let a caller choose which of the model's numbers he sees.

use casemate_models::engine::SamplingParams;
use casemate_models::grammar::Shape;
use serde_json::Value;

use super::ApiError;
use super::fields::{Fields, invalid};
use super::logprobs::{CHAT_TOP_MAX, COMPLETION_TOP_MAX};
use super::response_format::response_format;
use super::sampling::sampling;

/// The most messages of a chat.
pub const MESSAGES_MAX: usize = 4096;
/// The most stop sequences, and the bytes of one.
pub const STOPS_MAX: usize = 4;
/// The longest stop sequence in bytes.
pub const STOP_BYTES_MAX: usize = 256;

/// `POST /v1/chat/completions`.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatRequest {
    /// The conversation.
    pub messages: Vec<Message>,
    /// Everything else.
    pub options: Options,
}

/// `POST /v1/completions`.
#[derive(Debug, Clone, PartialEq)]
pub struct CompletionRequest {
    /// The text to continue.
    pub prompt: String,
    /// Everything else.
    pub options: Options,
}

/// One message of a conversation.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Message({:?}, ..)", self.role)
    }
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Instructions; `developer` is the same here.
    System,
    /// The person or program that asks.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// The word that chat templates know.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// What chat and plain completions share.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// The model's name.
    pub model: String,
    /// Whether tokens are sent as they come.
    pub stream: bool,
    /// Whether a stream ends with the token counts.
    pub include_usage: bool,
    /// What a chat's answer must be; without it any text.
    pub shape: Option<Shape>,
    /// Texts that end the answer.
    pub stop: Vec<String>,
    /// The caller's seed.
    pub seed: Option<u64>,
    /// How tokens are drawn.
    pub sampling: SamplingParams,
    /// Tokens of the answer, at most.
    pub tokens_max: Option<u64>,
    /// Of how many of the likeliest tokens probabilities are told beside each token's own.
    pub logprobs: Option<usize>,
}

impl Options {
    /// A bias chooses which entry of the logits is seen: beside probabilities it shows the entry, beside a seed it makes the
    /// choice between two tokens repeatable, which a binary search turns into their distance (Carlini et al. 2024).
    fn refuse_oracles(&self) -> Result<(), ApiError> {
        let beside = match (self.logprobs.is_some(), self.seed.is_some()) {
            (true, _) => "; ask without 'logprobs'",
            (_, true) => "; ask without 'seed'",
            _ => return Ok(()),
        };
        if self.sampling.logit_bias.is_empty() {
            return Ok(());
        }
        Err(ApiError::Unsupported {
            param: "logit_bias".into(),
            hint: beside,
        })
    }
}

/// Reads a chat request.
///
/// # Errors
/// [`ApiError`] names the parameter.
pub fn parse_chat(bytes: &[u8]) -> Result<ChatRequest, ApiError> {
    let mut fields = Fields::parse(bytes)?;
    let messages = messages(&mut fields)?;
    let newer = fields.count("max_completion_tokens", 1)?;
    let mut options = options(&mut fields)?;
    options.tokens_max = newer.or(options.tokens_max);
    options.logprobs = chat_logprobs(&mut fields)?;
    options.shape = response_format(&mut fields)?;
    refuse_chat_extras(&mut fields)?;
    fields.finish()?;
    options.refuse_oracles()?;
    Ok(ChatRequest { messages, options })
}

/// Reads a request for a plain completion.
///
/// # Errors
/// [`ApiError`] names the parameter.
pub fn parse_completion(bytes: &[u8]) -> Result<CompletionRequest, ApiError> {
    let mut fields = Fields::parse(bytes)?;
    let prompt = prompt(&mut fields)?;
    let mut options = options(&mut fields)?;
    options.logprobs = completion_logprobs(&mut fields)?;
    fields.only("echo", "; it would return the prompt", |value| {
        value == &Value::Bool(false)
    })?;
    fields.only("best_of", "", |value| value.as_u64() == Some(1))?;
    fields.only("suffix", "", |value| value.as_str() == Some(""))?;
    fields.finish()?;
    options.refuse_oracles()?;
    Ok(CompletionRequest { prompt, options })
}

fn chat_logprobs(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let wanted = fields.flag("logprobs")?;
    match (wanted, fields.whole("top_logprobs", 0, CHAT_TOP_MAX)?) {
        (true, top) => Ok(Some(top.unwrap_or(0) as usize)),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => Err(invalid("top_logprobs", "0 unless 'logprobs' is true")),
    }
}

fn completion_logprobs(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let top = fields.whole("logprobs", 0, COMPLETION_TOP_MAX)?;
    Ok(top.map(|top| top as usize))
}

fn refuse_chat_extras(fields: &mut Fields) -> Result<(), ApiError> {
    let empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
    fields.only("tools", "", empty)?;
    fields.only("tool_choice", "", |value| value.as_str() == Some("none"))?;
    fields.only("functions", "", empty)?;
    fields.only("function_call", "", |value| value.as_str() == Some("none"))?;
    fields.only("parallel_tool_calls", "", Value::is_boolean)?;
    fields.only("modalities", "; only text is answered", |value| {
        *value == serde_json::json!(["text"])
    })?;
    fields.only("store", "; nothing is stored here", |value| {
        value == &Value::Bool(false)
    })
}

fn options(fields: &mut Fields) -> Result<Options, ApiError> {
    let model = fields.text("model")?.ok_or_else(|| ApiError::Missing {
        param: "model".into(),
    })?;
    let stream = fields.flag("stream")?;
    let include_usage = include_usage(fields, stream)?;
    let options = Options {
        model,
        stream,
        include_usage,
        shape: None,
        stop: stop(fields)?,
        seed: seed(fields)?,
        sampling: sampling(fields)?,
        tokens_max: fields.count("max_tokens", 1)?,
        logprobs: None,
    };
    fields.only("n", "; ask once for each answer", |value| {
        value.as_u64() == Some(1)
    })?;
    let tier = |value: &Value| matches!(value.as_str(), Some("auto" | "default"));
    fields.only("service_tier", "", tier)?;
    fields.ignore(&["user", "metadata", "safety_identifier", "prompt_cache_key"]);
    Ok(options)
}

fn include_usage(fields: &mut Fields, stream: bool) -> Result<bool, ApiError> {
    let Some(value) = fields.take("stream_options") else {
        return Ok(false);
    };
    if !stream {
        return Err(invalid("stream_options", "absent unless 'stream' is true"));
    }
    let Value::Object(mut given) = value else {
        return Err(invalid("stream_options", "an object"));
    };
    let wanted = given.remove("include_usage");
    given.remove("include_obfuscation");
    if let Some(name) = given.keys().next() {
        let param = format!(
            "stream_options.{}",
            name.chars().take(64).collect::<String>()
        );
        return Err(ApiError::Unsupported { param, hint: "" });
    }
    match wanted {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(wanted)) => Ok(wanted),
        Some(_) => Err(invalid("stream_options.include_usage", "true or false")),
    }
}

fn stop(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    let wrong = || {
        let expected =
            format!("a string or up to {STOPS_MAX}, each of 1 to {STOP_BYTES_MAX} bytes");
        invalid("stop", &expected)
    };
    let texts = match fields.take("stop") {
        None => Vec::new(),
        Some(Value::String(text)) => vec![text],
        Some(Value::Array(items)) if items.len() <= STOPS_MAX => {
            let texts = items.into_iter().map(|item| match item {
                Value::String(text) => Ok(text),
                _ => Err(wrong()),
            });
            texts.collect::<Result<_, _>>()?
        }
        Some(_) => return Err(wrong()),
    };
    let fits = texts
        .iter()
        .all(|text| (1..=STOP_BYTES_MAX).contains(&text.len()));
    if fits { Ok(texts) } else { Err(wrong()) }
}

fn seed(fields: &mut Fields) -> Result<Option<u64>, ApiError> {
    let Some(value) = fields.take("seed") else {
        return Ok(None);
    };
    let seed = value
        .as_u64()
        .or_else(|| value.as_i64().map(i64::cast_unsigned));
    seed.map(Some)
        .ok_or_else(|| invalid("seed", "a whole number of 64 bits"))
}

fn prompt(fields: &mut Fields) -> Result<String, ApiError> {
    let wrong = || invalid("prompt", "one string");
    match fields.take("prompt") {
        None => Err(ApiError::Missing {
            param: "prompt".into(),
        }),
        Some(Value::String(text)) => Ok(text),
        Some(Value::Array(mut items)) if items.len() == 1 => match items.pop() {
            Some(Value::String(text)) => Ok(text),
            _ => Err(wrong()),
        },
        Some(_) => Err(wrong()),
    }
}

fn messages(fields: &mut Fields) -> Result<Vec<Message>, ApiError> {
    let expected = format!("a list of 1 to {MESSAGES_MAX} messages");
    match fields.take("messages") {
        None => Err(ApiError::Missing {
            param: "messages".into(),
        }),
        Some(Value::Array(items)) if (1..=MESSAGES_MAX).contains(&items.len()) => items
            .into_iter()
            .enumerate()
            .map(|(index, item)| message(index, item))
            .collect(),
        Some(_) => Err(invalid("messages", &expected)),
    }
}

fn message(index: usize, item: Value) -> Result<Message, ApiError> {
    let at = |part: &str| format!("messages[{index}]{part}");
    let Value::Object(mut given) = item else {
        return Err(invalid(&at(""), "an object"));
    };
    let role = match given.remove("role") {
        Some(Value::String(role)) => match role.as_str() {
            "system" | "developer" => Role::System,
            "user" => Role::User,
            "assistant" => Role::Assistant,
            _ => {
                return Err(invalid(
                    &at(".role"),
                    "system, developer, user or assistant",
                ));
            }
        },
        None => return Err(ApiError::Missing { param: at(".role") }),
        Some(_) => return Err(invalid(&at(".role"), "a string")),
    };
    let content = match given.remove("content") {
        None => {
            return Err(ApiError::Missing {
                param: at(".content"),
            });
        }
        Some(content) => content_text(content).ok_or_else(|| {
            invalid(
                &at(".content"),
                "a string or a list of parts of type 'text'",
            )
        })?,
    };
    given.retain(|_, value| !value.is_null());
    match given.keys().next() {
        None => Ok(Message { role, content }),
        Some(name) => {
            let name: String = name.chars().take(64).collect();
            Err(ApiError::Unsupported {
                param: at(&format!(".{name}")),
                hint: "",
            })
        }
    }
}

fn content_text(content: Value) -> Option<String> {
    let parts = match content {
        Value::String(text) => return Some(text),
        Value::Array(parts) if !parts.is_empty() => parts,
        _ => return None,
    };
    let mut joined = String::new();
    for part in parts {
        let Value::Object(mut part) = part else {
            return None;
        };
        let is_text = part.remove("type") == Some(Value::String("text".into()));
        match part.remove("text") {
            Some(Value::String(text)) if is_text && part.is_empty() => joined.push_str(&text),
            _ => return None,
        }
    }
    Some(joined)
}
