//! Log-probabilities beside tokens. They come from the model's own logits, before bias, penalties, grammar and temperature, and
//! from the likeliest tokens only, as many as [`Reveal::known`] says: no option of a request changes which values of one
//! context can be seen, nor what they read. With fewer values in each context than a quarter of the model's width, contexts
//! bring more unknowns than equations, and no way is known to solve for the last layer (Carlini et al. 2024; Finlayson et
//! al. 2024). That number is the defence; [`LOGPROB_STEP`] and [`LOGPROB_FLOOR`] only bound what each value tells.
//!
//! What is told follows the text: a token's values go out with the event that gives out the last of its text, and never
//! for text that is held back or cut off.

use std::collections::VecDeque;

/// The likeliest tokens of a context of which anything is told (OpenAI's bound).
pub const LOGPROBS_MAX: usize = 20;
/// Values are multiples of this, in nats.
pub const LOGPROB_STEP: f64 = 0.1;
/// No value is lower than this, in nats.
pub const LOGPROB_FLOOR: f64 = -15.0;

/// How much is told of each place of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reveal {
    /// Of how many of the likeliest tokens the values are told beside each token's own; at most `known`.
    pub top: usize,
    /// Of how many of the likeliest tokens anything may be known at all: a drawn token that is not among them has no
    /// value. At most [`LOGPROBS_MAX`].
    pub known: usize,
}

impl Reveal {
    /// Whether both numbers are in their ranges.
    pub(super) fn is_sound(&self) -> bool {
        self.top <= self.known && self.known <= LOGPROBS_MAX
    }
}

/// What is told of one token.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// The token that was drawn.
    pub token: u32,
    /// Natural logarithm of its probability, rounded; nothing where it is not among the likeliest ones that may be known.
    pub logprob: Option<f64>,
    /// The likeliest tokens, as many as were asked for, by falling probability; of equals the lower id first.
    pub top: Vec<(u32, f64)>,
    /// Characters of the answer before this token's text.
    pub offset: usize,
}

impl TokenLogprobs {
    /// What a row of logits says of `token` and of the likeliest tokens. Logits that are not finite count as probability 0.
    pub fn new(logits: &[f32], token: u32, reveal: Reveal) -> Self {
        let likeliest = likeliest(logits, reveal.known.min(LOGPROBS_MAX));
        // Where nothing may be known nothing is told, and no value needs a sum.
        let best = likeliest.first().map_or(0.0, |(_, logit)| *logit);
        let finite = logits.iter().filter(|logit| logit.is_finite());
        let sum: f64 = finite.map(|logit| (f64::from(*logit) - best).exp()).sum();
        let normaliser = best + sum.ln();
        let mut told = likeliest
            .into_iter()
            .map(|(id, logit)| (id, rounded(logit - normaliser)));
        let mut top: Vec<(u32, f64)> = told.by_ref().take(reveal.top).collect();
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

/// The nearest multiple of [`LOGPROB_STEP`] that is not below [`LOGPROB_FLOOR`].
fn rounded(logprob: f64) -> f64 {
    // A division by ten gives the number that a reader writes; a product with 0.1 would not. Adding zero takes a minus off.
    (logprob.max(LOGPROB_FLOOR) / LOGPROB_STEP).round() / LOGPROB_STEP.recip() + 0.0
}

/// The `known` largest finite logits, the largest first, of equals the lower id first.
fn likeliest(logits: &[f32], known: usize) -> Vec<(u32, f64)> {
    if known == 0 {
        return Vec::new();
    }
    let mut top: Vec<(u32, f64)> = Vec::with_capacity(known + 1);
    for (id, logit) in (0_u32..).zip(logits).filter(|(_, logit)| logit.is_finite()) {
        let logit = f64::from(*logit);
        let full = top.len() == known;
        if full && top.last().is_some_and(|(_, least)| *least >= logit) {
            continue;
        }
        let place = top.partition_point(|(_, other)| *other >= logit);
        top.insert(place, (id, logit));
        top.truncate(known);
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

    /// Whether a value is what is told of a probability's logarithm.
    fn is_rounded(told: f64, exact: f64) -> bool {
        let whole = format!("{told:.1}").parse() == Ok(told);
        let nearest = exact.max(LOGPROB_FLOOR);
        whole
            && (LOGPROB_FLOOR..=0.0).contains(&told)
            && (told - nearest).abs() <= LOGPROB_STEP / 2.0 + 1e-9
    }

    const ALL: Reveal = Reveal { top: 20, known: 20 };

    /// Tokens and offsets of what is told.
    fn ids(told: &[TokenLogprobs]) -> Vec<(u32, usize)> {
        told.iter().map(|one| (one.token, one.offset)).collect()
    }

    proptest::proptest! {
        #[test]
        fn values_are_those_of_a_plain_softmax(
            logits in proptest::collection::vec(-30.0_f32..30.0, 1..60), top in 0_usize..=LOGPROBS_MAX,
            more in 0_usize..=LOGPROBS_MAX, pick: u32
        ) {
            let known = (top + more).min(LOGPROBS_MAX);
            let token = pick % logits.len() as u32;
            let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
            let mut plain: Vec<(u32, f64)> = (0..).zip(logits.iter().map(|logit| (f64::from(*logit).exp() / sum).ln())).collect();
            plain.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            plain.truncate(known);
            let found = TokenLogprobs::new(&logits, token, Reveal { top, known });
            assert_eq!(found.top.len(), top.min(logits.len()));
            for ((id, logprob), (expected_id, expected)) in found.top.iter().zip(&plain) {
                assert_eq!(id, expected_id);
                assert!(is_rounded(*logprob, *expected), "{logprob} {expected}");
            }
            let expected = plain.iter().find(|(id, _)| *id == token);
            assert_eq!(found.logprob.is_some(), expected.is_some());
            if let (Some(found), Some((_, expected))) = (found.logprob, expected) {
                assert!(is_rounded(found, *expected), "{found} {expected}");
            }
        }
    }

    #[test]
    fn s19_a_drawn_token_outside_the_likeliest_has_no_value() {
        let logits: Vec<f32> = (0..40).map(|at| at as f32 / 10.0).collect();
        assert_eq!(TokenLogprobs::new(&logits, 19, ALL).logprob, None);
        let last = TokenLogprobs::new(&logits, 20, ALL);
        assert_eq!(last.logprob, Some(last.top[19].1));
        // However few are asked for, the same ones are known; and no more than may be known.
        let none = Reveal { top: 0, known: 20 };
        assert_eq!(TokenLogprobs::new(&logits, 20, none).logprob, last.logprob);
        let five = Reveal { top: 0, known: 5 };
        assert!(TokenLogprobs::new(&logits, 35, five).logprob.is_some());
        assert_eq!(TokenLogprobs::new(&logits, 34, five).logprob, None);
        let nothing = Reveal { top: 0, known: 0 };
        assert_eq!(TokenLogprobs::new(&logits, 39, nothing).logprob, None);
    }

    #[test]
    fn equals_stand_by_their_ids_and_what_is_not_finite_has_no_part() {
        let mut logits = vec![1.0; 30];
        logits[3] = f32::NAN;
        logits[5] = f32::NEG_INFINITY;
        logits[6] = f32::INFINITY;
        let found = TokenLogprobs::new(&logits, 0, Reveal { top: 5, known: 5 });
        let ids: Vec<u32> = found.top.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, [0, 1, 2, 4, 7]);
        assert!(is_rounded(found.logprob.unwrap(), (1.0_f64 / 27.0).ln()));
    }

    #[test]
    fn values_are_written_with_one_decimal_and_end_at_the_floor() {
        let written = |logprob: f64| format!("{:?}", rounded(logprob));
        for (exact, told) in [
            (-0.04, "0.0"),
            (-0.06, "-0.1"),
            (-0.3, "-0.3"),
            (-14.96, "-15.0"),
            (-400.0, "-15.0"),
        ] {
            assert_eq!(written(exact), told, "{exact}");
        }
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
