//! Log-probabilities in OpenAI's two shapes. A token that is not among the likeliest has the value that OpenAI's API gives
//! such tokens, never its own (attack S19).

use serde_json::{Map, Value, json};

use super::sse::Endpoint;
use crate::queue::{TokenLogprobs, TokenText};

/// OpenAI's value for tokens that are not among the likeliest.
pub const UNLIKELY: f64 = -9999.0;

/// The most alternatives of a chat.
pub const CHAT_TOP_MAX: u64 = 20;
/// The most alternatives of a plain completion.
pub const COMPLETION_TOP_MAX: u64 = 5;

/// What is told of tokens, as the endpoint's answer has it: `null` where nobody asked.
pub fn document(endpoint: Endpoint, told: Option<&[TokenLogprobs]>) -> Value {
    match (told, endpoint) {
        (None, _) => Value::Null,
        (Some(told), Endpoint::Chat) => {
            let content: Vec<Value> = told.iter().map(chat_token).collect();
            json!({"content": content, "refusal": null})
        }
        (Some(told), Endpoint::Completion) => {
            let each = |part: fn(&TokenLogprobs) -> Value| told.iter().map(part).collect::<Value>();
            json!({
                "tokens": each(|one| json!(one.token.text)),
                "token_logprobs": each(|one| json!(one.logprob.unwrap_or(UNLIKELY))),
                "top_logprobs": each(top_of_completion),
                "text_offset": each(|one| json!(one.offset)),
            })
        }
    }
}

fn chat_token(told: &TokenLogprobs) -> Value {
    let shape = |token: &TokenText, logprob: f64| json!({"token": token.text, "logprob": logprob, "bytes": token.bytes});
    let top = told
        .top
        .iter()
        .map(|(token, logprob)| shape(token, *logprob));
    let top: Vec<Value> = top.collect();
    let mut document = shape(&told.token, told.logprob.unwrap_or(UNLIKELY));
    if let Some(fields) = document.as_object_mut() {
        fields.insert("top_logprobs".to_owned(), Value::Array(top));
    }
    document
}

/// Texts and values; the drawn token is there in any case, so there may be one more than was asked for.
fn top_of_completion(told: &TokenLogprobs) -> Value {
    let mut values = Map::new();
    let drawn = (&told.token, told.logprob.unwrap_or(UNLIKELY));
    let top = told.top.iter().map(|(token, logprob)| (token, *logprob));
    for (token, logprob) in top.chain([drawn]) {
        // Of tokens with one text the likelier one stands first.
        values
            .entry(token.text.clone())
            .or_insert_with(|| json!(logprob));
    }
    Value::Object(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> TokenText {
        TokenText {
            text: text.to_owned(),
            bytes: Some(text.as_bytes().to_vec()),
        }
    }

    fn told() -> [TokenLogprobs; 2] {
        let control = TokenText {
            text: "</s>".to_owned(),
            bytes: None,
        };
        [
            TokenLogprobs {
                token: text("é"),
                logprob: Some(-0.25),
                top: vec![(text("é"), -0.25), (control, -3.0)],
                offset: 4,
            },
            TokenLogprobs {
                token: text("!"),
                logprob: None,
                top: vec![(text("a"), -0.5), (text("a"), -0.75)],
                offset: 5,
            },
        ]
    }

    #[test]
    fn a_chat_has_a_list_of_tokens() {
        let expected = json!({"refusal": null, "content": [
            {"token": "é", "logprob": -0.25, "bytes": [195, 169], "top_logprobs": [
                {"token": "é", "logprob": -0.25, "bytes": [195, 169]},
                {"token": "</s>", "logprob": -3.0, "bytes": null}]},
            {"token": "!", "logprob": -9999.0, "bytes": [33], "top_logprobs": [
                {"token": "a", "logprob": -0.5, "bytes": [97]},
                {"token": "a", "logprob": -0.75, "bytes": [97]}]}]});
        assert_eq!(document(Endpoint::Chat, Some(&told())), expected);
        assert_eq!(document(Endpoint::Chat, None), Value::Null);
        let empty = json!({"content": [], "refusal": null});
        assert_eq!(document(Endpoint::Chat, Some(&[])), empty);
    }

    #[test]
    fn a_completion_has_four_lists() {
        let expected = json!({"tokens": ["é", "!"], "token_logprobs": [-0.25, -9999.0],
            "top_logprobs": [{"é": -0.25, "</s>": -3.0}, {"a": -0.5, "!": -9999.0}], "text_offset": [4, 5]});
        assert_eq!(document(Endpoint::Completion, Some(&told())), expected);
        assert_eq!(document(Endpoint::Completion, None), Value::Null);
    }
}
