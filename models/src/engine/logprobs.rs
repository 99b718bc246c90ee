//! Log-probabilities beside tokens. They come from the model's own logits, before bias, penalties, grammar and temperature, and
//! from the [`LOGPROBS_MAX`] likeliest tokens only: no option of a request changes which values of one context can be seen.
//!
//! What is told follows the text: a token's values go out with the event that gives out the last of its text, and never
//! for text that is held back or cut off.

use std::collections::VecDeque;

/// The likeliest tokens of a context of which anything is told (OpenAI's bound).
pub const LOGPROBS_MAX: usize = 20;

/// What is told of one token.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// The token that was drawn.
    pub token: u32,
    /// Natural logarithm of its probability; nothing where it is not among the [`LOGPROBS_MAX`] likeliest.
    pub logprob: Option<f64>,
    /// The likeliest tokens, as many as were asked for, by falling probability; of equals the lower id first.
    pub top: Vec<(u32, f64)>,
    /// Characters of the answer before this token's text.
    pub offset: usize,
}

impl TokenLogprobs {
    /// What a row of logits says of `token` and of the `count` likeliest tokens. Logits that are not finite count as
    /// probability 0.
    pub fn new(logits: &[f32], token: u32, count: usize) -> Self {
        let likeliest = likeliest(logits);
        let best = likeliest.first().map_or(0.0, |(_, logit)| *logit);
        let finite = logits.iter().filter(|logit| logit.is_finite());
        let sum: f64 = finite.map(|logit| (f64::from(*logit) - best).exp()).sum();
        let normaliser = best + sum.ln();
        let mut told = likeliest
            .into_iter()
            .map(|(id, logit)| (id, logit - normaliser));
        let mut top: Vec<(u32, f64)> = told.by_ref().take(count).collect();
        let logprob = top
            .iter()
            .copied()
            .chain(told)
            .find(|(id, _)| *id == token)
            .map(|(_, logprob)| logprob);
        top.shrink_to_fit();
        Self {
            token,
            logprob,
            top,
            offset: 0,
        }
    }
}

/// The [`LOGPROBS_MAX`] largest finite logits, the largest first, of equals the lower id first.
fn likeliest(logits: &[f32]) -> Vec<(u32, f64)> {
    let mut top: Vec<(u32, f64)> = Vec::with_capacity(LOGPROBS_MAX + 1);
    for (id, logit) in (0_u32..).zip(logits).filter(|(_, logit)| logit.is_finite()) {
        let logit = f64::from(*logit);
        let full = top.len() == LOGPROBS_MAX;
        if full && top.last().is_some_and(|(_, least)| *least >= logit) {
            continue;
        }
        let place = top.partition_point(|(_, other)| *other >= logit);
        top.insert(place, (id, logit));
        top.truncate(LOGPROBS_MAX);
    }
    top
}

/// What is to be told of tokens whose text is on its way out.
#[derive(Default)]
pub(super) struct Untold {
    tokens: VecDeque<Waiting>,
    /// Bytes of all tokens so far.
    bytes: usize,
    /// Bytes and characters of the text that these tokens made.
    made: usize,
    characters: usize,
    /// Bytes of text that were given out.
    out: usize,
}

struct Waiting {
    told: TokenLogprobs,
    /// Where the token's bytes end among all tokens' bytes.
    bytes_end: usize,
    /// Where its text ends, once that is made.
    text_end: Option<usize>,
}

impl Untold {
    /// Adds a token that stands for `bytes` bytes. Tokens without text are not told of.
    pub(super) fn push(&mut self, mut told: TokenLogprobs, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.bytes += bytes;
        told.offset = self.characters;
        self.tokens.push_back(Waiting {
            told,
            bytes_end: self.bytes,
            text_end: None,
        });
    }

    /// Notes that the tokens made `text`, and that `pending` bytes still wait for the rest of their character.
    pub(super) fn made(&mut self, text: &str, pending: usize) {
        self.made += text.len();
        self.characters += text.chars().count();
        let decided = self.bytes.saturating_sub(pending);
        for waiting in &mut self.tokens {
            if waiting.bytes_end <= decided {
                waiting.text_end.get_or_insert(self.made);
            }
        }
    }

    /// Notes that so many bytes of text go out now; answers what is told with them.
    pub(super) fn released(&mut self, bytes: usize) -> Vec<TokenLogprobs> {
        self.out += bytes;
        let out = self.out;
        let is_out = |waiting: &Waiting| waiting.text_end.is_some_and(|end| end <= out);
        let count = self.tokens.iter().take_while(|one| is_out(one)).count();
        self.tokens.drain(..count).map(|one| one.told).collect()
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]
mod tests {
    use super::*;

    fn told(token: u32) -> TokenLogprobs {
        TokenLogprobs {
            token,
            logprob: Some(0.0),
            top: Vec::new(),
            offset: 0,
        }
    }

    /// Tokens and offsets of what is told.
    fn ids(told: &[TokenLogprobs]) -> Vec<(u32, usize)> {
        told.iter().map(|one| (one.token, one.offset)).collect()
    }

    proptest::proptest! {
        #[test]
        fn values_are_those_of_a_plain_softmax(
            logits in proptest::collection::vec(-30.0_f32..30.0, 1..60), count in 0_usize..=LOGPROBS_MAX, pick: u32
        ) {
            let token = pick % logits.len() as u32;
            let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
            let mut plain: Vec<(u32, f64)> = (0..).zip(logits.iter().map(|logit| (f64::from(*logit).exp() / sum).ln())).collect();
            plain.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            plain.truncate(LOGPROBS_MAX);
            let found = TokenLogprobs::new(&logits, token, count);
            assert_eq!(found.top.len(), count.min(logits.len()));
            for ((id, logprob), (expected_id, expected)) in found.top.iter().zip(&plain) {
                assert_eq!(id, expected_id);
                assert!((logprob - expected).abs() < 1e-9, "{logprob} {expected}");
            }
            let expected = plain.iter().find(|(id, _)| *id == token);
            assert_eq!(found.logprob.is_some(), expected.is_some());
            if let (Some(found), Some((_, expected))) = (found.logprob, expected) {
                assert!((found - expected).abs() < 1e-9, "{found} {expected}");
            }
        }
    }

    #[test]
    fn s19_a_drawn_token_outside_the_likeliest_has_no_value() {
        let logits: Vec<f32> = (0..40).map(|at| at as f32 / 10.0).collect();
        assert_eq!(TokenLogprobs::new(&logits, 19, 20).logprob, None);
        let last = TokenLogprobs::new(&logits, 20, 20);
        assert_eq!(last.logprob, Some(last.top[19].1));
        // However few are asked for, the same ones are known.
        assert_eq!(TokenLogprobs::new(&logits, 20, 0).logprob, last.logprob);
    }

    #[test]
    fn equals_stand_by_their_ids_and_what_is_not_finite_has_no_part() {
        let mut logits = vec![1.0; 30];
        logits[3] = f32::NAN;
        logits[5] = f32::NEG_INFINITY;
        logits[6] = f32::INFINITY;
        let found = TokenLogprobs::new(&logits, 0, 5);
        let ids: Vec<u32> = found.top.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, [0, 1, 2, 4, 7]);
        assert!((found.logprob.unwrap() - (1.0_f64 / 27.0).ln()).abs() < 1e-12);
    }

    #[test]
    fn a_token_is_told_of_when_all_its_text_is_out() {
        let mut untold = Untold::default();
        untold.push(told(1), 3);
        untold.made("abc", 0);
        assert!(untold.released(2).is_empty(), "c is held back");
        untold.push(told(2), 1);
        untold.made("d", 0);
        assert_eq!(ids(&untold.released(2)), [(1, 0), (2, 3)]);
        // é in two tokens; the second one begins another character.
        untold.push(told(3), 1);
        untold.made("", 1);
        assert!(untold.released(0).is_empty());
        untold.push(told(4), 2);
        untold.made("é", 1);
        assert_eq!(ids(&untold.released(2)), [(3, 4)]);
        untold.push(told(9), 0);
        untold.made("\u{fffd}", 0);
        assert_eq!(ids(&untold.released(3)), [(4, 4)]);
    }
}
