//! What a plain question is told of probabilities, and how much more another one is told.

use serde_json::{Value, json};

use super::answer::Place;
use super::turn::{Halt, Turn};

/// What may differ between two tellings of one value: rounding, and sums in another order.
const ROUNDED: f64 = 0.15;
/// The most that a server should tell of one place.
pub(super) const TOLD_MAX: usize = 20;

/// What a plain question is told of its first place, with as many values as are given.
#[derive(Debug, Clone)]
pub(super) struct Plain {
    /// How many may be asked for.
    pub top: usize,
    /// What was told.
    pub place: Place,
}

/// A chat with `context` that asks for one token and the `top` likeliest.
pub(super) fn one_token(context: &str, top: i64) -> Value {
    json!({"messages": [{"role": "user", "content": context}], "max_tokens": 1, "temperature": 0,
        "logprobs": true, "top_logprobs": top})
}

/// Asks plainly, for 20 values and then for 5. Nothing where no probability is told.
pub(super) async fn plain(turn: &mut Turn<'_>, context: &str) -> Result<Option<Plain>, Halt> {
    for top in [20, 5] {
        let body = one_token(context, top);
        let answer = turn.attack("/chat/completions", body).await?;
        let place = answer.places().into_iter().next().unwrap_or_default();
        if answer.is_ok() && !place.is_empty() {
            let top = top.unsigned_abs() as usize;
            return Ok(Some(Plain { top, place }));
        }
    }
    Ok(None)
}

/// How many values of `seen` a plain question is not told: of tokens beyond the likeliest, or other values of those.
pub(super) fn beyond(plain: &Place, seen: &Place) -> usize {
    let of_plain = |told: &&super::Told| {
        let same = plain.iter().find(|other| match (other.id, told.id) {
            (Some(a), Some(b)) => a == b,
            _ => other.text == told.text,
        });
        same.is_none_or(|other| (other.logprob - told.logprob).abs() > ROUNDED)
    };
    seen.iter().filter(of_plain).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::range::Told;

    #[test]
    fn only_what_a_plain_question_is_not_told_counts() {
        let told = |text: &str, logprob| Told {
            text: text.to_owned(),
            id: None,
            logprob,
        };
        let plain = vec![told("a", -0.5), told("b", -1.5)];
        assert_eq!(beyond(&plain, &vec![told("b", -1.4)]), 0);
        assert_eq!(beyond(&plain, &vec![told("b", -0.1), told("c", -9.0)]), 2);
        assert_eq!(beyond(&plain, &Place::new()), 0);
    }
}
