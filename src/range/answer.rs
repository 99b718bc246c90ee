//! What a server answered, read leniently: servers differ, and an attacker takes what he gets.

use serde_json::Value;

/// One answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status, or 0 where none came.
    pub status: u16,
    /// The body, or `null` where it is no JSON.
    pub document: Value,
    /// From the first byte sent to the last one received.
    pub seconds: f64,
}

/// A request that was not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The status, or 0 where none came.
    pub status: u16,
    /// The server's word for it; its type, or the status, where it has none.
    pub code: String,
    /// The field that it is about.
    pub param: Option<String>,
}

/// One token with what is said of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// Its text as the server writes it.
    pub text: String,
    /// Its number, where the server tells.
    pub id: Option<u64>,
    /// Natural logarithm of its probability.
    pub logprob: f64,
}

/// What is told of one place of an answer: every token once.
pub type Place = Vec<Told>;

/// Below this a number stands for "not told" (OpenAI's -9999).
const NOT_TOLD: f64 = -9998.0;
/// Characters of a server's word that are kept.
const WORD_CHARS_MAX: usize = 64;

impl Answer {
    /// Whether it is one.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.status == 200
    }

    /// Why it is none.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        if self.is_ok() {
            return None;
        }
        let text = |pointer: &str| {
            let text = self.document.pointer(pointer).and_then(Value::as_str);
            text.map(cut)
        };
        let code = text("/error/code").or_else(|| text("/error/type"));
        let code = code.or_else(|| text("/code"));
        Some(Refusal {
            status: self.status,
            code: code.unwrap_or_else(|| self.status.to_string()),
            param: text("/error/param"),
        })
    }

    /// The text of the first choice.
    #[must_use]
    pub fn text(&self) -> &str {
        let at = |pointer| self.document.pointer(pointer).and_then(Value::as_str);
        let chat = at("/choices/0/message/content");
        chat.or_else(|| at("/choices/0/text")).unwrap_or_default()
    }

    /// Why it ended.
    #[must_use]
    pub fn finish(&self) -> &str {
        let reason = self.document.pointer("/choices/0/finish_reason");
        reason.and_then(Value::as_str).unwrap_or_default()
    }

    /// Tokens of the prompt.
    #[must_use]
    pub fn prompt_tokens(&self) -> Option<u64> {
        self.document.pointer("/usage/prompt_tokens")?.as_u64()
    }

    /// Tokens of the answer.
    #[must_use]
    pub fn answer_tokens(&self) -> Option<u64> {
        self.document.pointer("/usage/completion_tokens")?.as_u64()
    }

    /// Tokens of the prompt that the server says it had already.
    #[must_use]
    pub fn cached_tokens(&self) -> Option<u64> {
        let details = "/usage/prompt_tokens_details/cached_tokens";
        self.document.pointer(details)?.as_u64()
    }

    /// What is told of each place, in OpenAI's two shapes.
    #[must_use]
    pub fn places(&self) -> Vec<Place> {
        let Some(told) = self.document.pointer("/choices/0/logprobs") else {
            return Vec::new();
        };
        let list = |name: &str| told.get(name).and_then(Value::as_array);
        match list("content") {
            Some(content) => content.iter().map(place_of_chat).collect(),
            None => {
                let tops = list("top_logprobs").map(Vec::as_slice).unwrap_or_default();
                let drawn = list("tokens").map(Vec::as_slice).unwrap_or_default();
                let values = list("token_logprobs")
                    .map(Vec::as_slice)
                    .unwrap_or_default();
                let places = drawn.iter().zip(values).enumerate();
                let place = |(at, (token, value)): (usize, (&Value, &Value))| {
                    place_of_text(tops.get(at), token, value)
                };
                places.map(place).collect()
            }
        }
    }
}

/// A word of the server, without what could disturb a terminal.
fn cut(word: &str) -> String {
    let plain = word.chars().filter(|it| !it.is_control());
    plain.take(WORD_CHARS_MAX).collect()
}

fn add(place: &mut Place, text: Option<&str>, id: Option<u64>, logprob: Option<f64>) {
    let (Some(text), Some(logprob)) = (text, logprob) else {
        return;
    };
    let known = place.iter().any(|told| match (told.id, id) {
        (Some(a), Some(b)) => a == b,
        _ => told.text == text,
    });
    if logprob > NOT_TOLD && !known {
        place.push(Told {
            text: text.to_owned(),
            id,
            logprob,
        });
    }
}

fn place_of_chat(one: &Value) -> Place {
    let mut place = Place::new();
    let tops = one.get("top_logprobs").and_then(Value::as_array);
    for told in tops.into_iter().flatten().chain([one]) {
        let field = |name: &str| told.get(name);
        add(
            &mut place,
            field("token").and_then(Value::as_str),
            field("id").and_then(Value::as_u64),
            field("logprob").and_then(Value::as_f64),
        );
    }
    place
}

fn place_of_text(top: Option<&Value>, token: &Value, value: &Value) -> Place {
    let mut place = Place::new();
    for (text, value) in top.and_then(Value::as_object).into_iter().flatten() {
        add(&mut place, Some(text), None, value.as_f64());
    }
    add(&mut place, token.as_str(), None, value.as_f64());
    place
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
mod tests {
    use super::*;
    use serde_json::json;

    fn answer(document: Value) -> Answer {
        Answer {
            status: 200,
            document,
            seconds: 0.0,
        }
    }

    #[test]
    fn both_shapes_of_probabilities_are_read() {
        let chat = answer(
            json!({"choices": [{"message": {"content": "a"}, "logprobs": {"content": [
            {"token": "a", "logprob": -0.5, "top_logprobs": [{"token": "b", "logprob": -0.25}, {"token": "a", "logprob": -0.5}]},
            {"token": "c", "logprob": -9999.0, "top_logprobs": []}]}}]}),
        );
        let places = chat.places();
        assert_eq!(places.iter().map(Vec::len).collect::<Vec<_>>(), [2, 0]);
        assert_eq!(chat.text(), "a");
        let text = answer(json!({"choices": [{"text": "a", "logprobs": {
            "tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": [{"b": -0.25}]}}]}));
        let place = text.places().remove(0);
        let told = |it: &Told| (it.text.clone(), it.logprob);
        let told: Vec<_> = place.iter().map(told).collect();
        assert_eq!(told, [("b".to_owned(), -0.25), ("a".to_owned(), -0.5)]);
    }

    #[test]
    fn a_refusal_has_a_word_whatever_the_server() {
        let mut refused = answer(json!({"error": {"code": "policy_denied", "param": "seed"}}));
        refused.status = 403;
        let refusal = refused.refusal().unwrap();
        assert_eq!(
            (refusal.code.as_str(), refusal.param.as_deref()),
            ("policy_denied", Some("seed"))
        );
        let mut other = answer(json!({"error": {"code": 400, "type": "invalid_request_error"}}));
        other.status = 400;
        assert_eq!(other.refusal().unwrap().code, "invalid_request_error");
        let mut bare = answer(Value::Null);
        bare.status = 502;
        assert_eq!(bare.refusal().unwrap().code, "502");
        assert!(answer(Value::Null).refusal().is_none());
    }
}
