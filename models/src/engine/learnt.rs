//! What whoever reads a drawn token can have learnt of the model, in bits (GUARD section 2, "Leak budget"). A meter adds it up;
//! nothing here remembers anything.
//!
//! Text tells its surprise under the model itself: the negative logarithm of the token's probability in the raw logits, at
//! temperature 1, whatever temperature or cut it was drawn with. So no option makes text cheaper: without a temperature a token
//! has probability 1 where it is drawn, and is as telling as before. Where a caller arranges which tokens stand against each
//! other, by a bias, penalties or a grammar, the answer to that question tells up to the logarithm of their number, and is
//! charged at least that. What it costs beside a draw: a sum over the raw logits that is had by the way of the draw's own.

use casemate_kernels::{Isa, logits};

use super::masked::Masked;
use super::sampler::{Outcome, Raw, SamplingParams};

/// What every token costs at least, thousandths of a bit.
pub const TOKEN_MILLIBITS_MIN: u32 = 50;
/// What a token costs of which nothing is known.
pub const TOKEN_MILLIBITS_UNKNOWN: u32 = 1000;
/// What a token's surprise costs at most: one that is less likely than 2^-64 was hardly drawn.
const SURPRISE_MILLIBITS_MAX: u32 = 64_000;
/// Exponentials that are added up in 32 bits.
const PART: usize = 1024;
/// A draw whose token was this likely is as good as taken: noise that decides nothing hides nothing.
const CERTAIN: f64 = 0.999;

/// What tokens told, thousandths of a bit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Learnt {
    /// All of it.
    pub millibits: u64,
    /// The part of tokens whose choice the caller had arranged by biases or penalties.
    pub arranged_millibits: u64,
}

impl Learnt {
    /// A token that was drawn where its logits are. Where no number came with it, the one of tokens of which nothing is known.
    pub(crate) fn of_drawn(millibits: Option<u32>) -> Self {
        let millibits = millibits.unwrap_or(TOKEN_MILLIBITS_UNKNOWN);
        Self {
            millibits: millibits
                .clamp(TOKEN_MILLIBITS_MIN, SURPRISE_MILLIBITS_MAX)
                .into(),
            arranged_millibits: 0,
        }
    }

    /// A token that nobody drew, under the model's own logits.
    pub(crate) fn of_text(raw: &[f32], token: u32) -> Self {
        Self {
            millibits: of_text(raw, token).into(),
            arranged_millibits: 0,
        }
    }

    /// Both.
    pub fn add(&mut self, other: Self) {
        self.millibits = self.millibits.saturating_add(other.millibits);
        self.arranged_millibits = self
            .arranged_millibits
            .saturating_add(other.arranged_millibits);
    }
}

/// How a token was drawn.
pub struct Draw<'a> {
    /// The model's own logits.
    pub raw: &'a [f32],
    /// What a grammar left of them.
    pub masked: Option<&'a Masked>,
    /// By which rules.
    pub params: &'a SamplingParams,
}

impl Draw<'_> {
    /// What its outcome tells.
    pub fn learnt(&self, outcome: &Outcome) -> Learnt {
        let (said, answers) = match self.masked {
            // Whoever wrote the grammar knows which tokens it left: which of them it is can be learnt.
            Some(Masked::Few { tokens, .. }) if tokens.len() == 1 => {
                return Learnt {
                    millibits: TOKEN_MILLIBITS_MIN.into(),
                    arranged_millibits: 0,
                };
            }
            Some(Masked::Few { tokens, .. }) => {
                let logits: Vec<f32> = tokens.iter().map(|(_, logit)| *logit).collect();
                (self.said(Some(Raw::of(&logits)), outcome), tokens.len())
            }
            Some(Masked::Many { left, raw, .. }) => {
                let leaves_text = raw.is_some_and(|raw| outcome.leads >= raw.best());
                let answers = if leaves_text { 1 } else { *left };
                (self.said(*raw, outcome), answers)
            }
            None => (self.said(outcome.raw, outcome), 1),
        };
        let arranged = choice(self.choices(outcome));
        let millibits = u64::from(said).max(choice(answers)).max(arranged);
        Learnt {
            millibits,
            arranged_millibits: if arranged > 0 { millibits } else { 0 },
        }
    }

    /// What the token tells, where `raw` is known of all that might have been said. What would have been said anyway tells what text
    /// tells; what the model was brought to say, what decided it.
    fn said(&self, raw: Option<Raw>, outcome: &Outcome) -> u32 {
        let Some((raw, logit)) = raw.zip(self.logit(outcome.token)) else {
            return of_text(self.raw, outcome.token);
        };
        let text = self.masked.is_none() && self.params.leaves_logits();
        let decided = outcome.probability.filter(|_| !text && logit < raw.best());
        surprise(decided.unwrap_or_else(|| raw.probability(logit)))
    }

    /// A token's logit, before biases and penalties.
    fn logit(&self, token: u32) -> Option<f32> {
        match self.masked {
            Some(masked) => masked.logit(token),
            None => self.raw.get(usize::try_from(token).ok()?).copied(),
        }
    }

    /// Among how many outcomes biases and penalties decided: the tokens that they move, and all others as one.
    fn choices(&self, outcome: &Outcome) -> usize {
        let biased = self.params.logit_bias.len();
        let shifts = &outcome.shifts;
        let certain = outcome
            .probability
            .is_none_or(|probability| probability >= CERTAIN);
        // Penalties that only lower, and lower something else than what leads, are not what decided: they change nothing.
        let leads = |id: &u32| {
            let logit = self.logit(*id);
            logit.is_some_and(|logit| logit >= outcome.leads)
        };
        let decides = || shifts.raised || shifts.tokens.iter().any(leads);
        let moved = match !shifts.tokens.is_empty() && certain && decides() {
            true => {
                let mut tokens = shifts.tokens.clone();
                tokens.sort_unstable();
                tokens.dedup();
                tokens.len()
            }
            false => 0,
        };
        1 + biased + moved
    }
}

/// What a token of text tells: its surprise under the raw logits. A token without a finite logit tells the most.
pub fn of_text(raw: &[f32], token: u32) -> u32 {
    let isa = Isa::detect();
    let own = usize::try_from(token).ok().and_then(|at| raw.get(at));
    let Some(own) = own.filter(|own| own.is_finite()) else {
        return surprise(0.0);
    };
    // Beside the token's own 1, so that nobody looks for the largest first. Where others are so far above it that their
    // exponentials end at the largest there is, its surprise has passed the most that is charged.
    let sum = |part| f64::from(logits::exponential_sum(isa, part, *own, 1.0));
    surprise(1.0 / raw.chunks(PART).map(sum).sum::<f64>())
}

/// `-log2` of a probability in thousandths, within bounds. What is no number is as surprising as can be.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to a range that fits"
)]
fn surprise(probability: f64) -> u32 {
    let millibits = -probability.log2() * 1000.0;
    let most = f64::from(SURPRISE_MILLIBITS_MAX);
    let millibits = match millibits.is_nan() {
        true => most,
        false => millibits.clamp(0.0, most),
    };
    (millibits.round() as u32).max(TOKEN_MILLIBITS_MIN)
}

/// What the answer to a question with so many answers tells at most: their number's logarithm, rounded up.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "the logarithm of a count of tokens is small and not negative"
)]
fn choice(answers: usize) -> u64 {
    ((answers.max(1) as f64).log2() * 1000.0).ceil() as u64
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]
mod tests {
    use super::super::sampler::{self, Past};
    use super::*;
    use crate::grammar::Follows;

    fn params(change: impl FnOnce(&mut SamplingParams)) -> SamplingParams {
        let mut params = SamplingParams::default();
        change(&mut params);
        params
    }

    fn logits() -> Vec<f32> {
        let mut logits: Vec<f32> = (0..3000)
            .map(|at| ((at * 37) % 101) as f32 / 20.0)
            .collect();
        logits[7] = 14.0;
        logits[8] = 13.0;
        logits[9] = f32::NEG_INFINITY;
        logits
    }

    fn finite(logits: &[f32]) -> impl Iterator<Item = &f32> {
        logits.iter().filter(|logit| logit.is_finite())
    }

    /// `-log2` of the plain softmax, in thousandths.
    fn exact(logits: &[f32], token: u32) -> f64 {
        let sum: f64 = finite(logits).map(|logit| f64::from(*logit).exp()).sum();
        -(f64::from(logits[token as usize]).exp() / sum).log2() * 1000.0
    }

    fn learnt(params: &SamplingParams, tokens: &[u32], point: f64) -> (u32, Learnt) {
        let raw = logits();
        let breaks = &[];
        let past = Past { tokens, breaks };
        let outcome = sampler::draw_outcome(&raw, params, past, point, true).unwrap();
        let masked = None;
        let draw = Draw {
            raw: &raw,
            masked,
            params,
        };
        (outcome.token, draw.learnt(&outcome))
    }

    #[test]
    fn text_tells_its_surprise_under_the_model_whatever_it_was_drawn_with() {
        for params in [
            params(|_| ()),
            params(|params| params.temperature = 0.0),
            params(|params| params.temperature = 0.01),
            params(|params| params.temperature = 1.5),
            params(|params| params.top_p = 0.3),
            params(|params| params.top_k = 1),
        ] {
            for point in [0.0, 0.3, 0.6, 0.9, 0.9999] {
                let (token, learnt) = learnt(&params, &[], point);
                let exact = exact(&logits(), token).max(50.0);
                let off = (learnt.millibits as f64 - exact).abs();
                assert!(off <= 1.0, "{params:?}: {learnt:?} {exact}");
                assert_eq!(learnt.arranged_millibits, 0);
            }
        }
    }

    #[test]
    fn nothing_costs_less_than_the_least_and_nothing_more_than_the_most() {
        assert_eq!(of_text(&[30.0, 0.0], 0), 50);
        assert_eq!(of_text(&[90.0, 0.0], 1), 64_000);
        assert_eq!(of_text(&[1.0, f32::NEG_INFINITY], 1), 64_000);
        assert_eq!(of_text(&[1.0, f32::NAN], 7), 64_000);
        assert_eq!(of_text(&[f32::NAN, f32::INFINITY, 2.0, 2.0], 3), 1000);
        assert_eq!(of_text(&[], 0), 64_000);
        assert_eq!(Learnt::of_drawn(None).millibits, 1000);
        assert_eq!(Learnt::of_drawn(Some(0)).millibits, 50);
    }

    /// GUARD section 8, G3: bias granted, at least the logarithm of the candidates.
    #[test]
    fn g3_a_biased_step_costs_at_least_the_logarithm_of_its_candidates() {
        for count in [1, 2, 5, 100, 300] {
            for temperature in [0.0, 1.0] {
                let biased = params(|params| {
                    params.temperature = temperature;
                    params.logit_bias = (20..20 + count).map(|id| (id, 9.0)).collect();
                });
                let (_, learnt) = learnt(&biased, &[], 0.4);
                let least = f64::from(count + 1).log2() * 1000.0;
                assert!(learnt.millibits as f64 >= least, "{count}: {learnt:?}");
                assert_eq!(learnt.arranged_millibits, learnt.millibits);
            }
        }
        // A token that is forced tells no more than that, however unlikely the model finds it.
        let forced = params(|params| {
            params.temperature = 0.0;
            params.logit_bias = vec![(50, 100.0)];
        });
        assert_eq!(learnt(&forced, &[], 0.0).1.millibits, 1000);
    }

    #[test]
    fn penalties_are_charged_where_they_decide_a_choice_without_noise() {
        let penalised = |temperature, presence| {
            params(|params| {
                params.temperature = temperature;
                params.presence_penalty = presence;
            })
        };
        let text = learnt(&penalised(0.0, 0.0), &[7, 1, 2], 0.0).1;
        // The leader is moved and falls behind, or stays in front: both answer a question among four.
        for (presence, said) in [(2.0, 8), (0.5, 7)] {
            let (token, learnt) = learnt(&penalised(0.0, presence), &[7, 1, 2, 2], 0.0);
            assert_eq!((token, learnt.arranged_millibits), (said, 2000));
        }
        // Others are lowered: nothing is decided by it. Raised they might have passed the leader.
        assert_eq!(learnt(&penalised(0.0, 2.0), &[1, 2, 3], 0.0).1, text);
        let raised = learnt(&penalised(0.0, -2.0), &[1, 2, 3], 0.0).1;
        assert_eq!(raised.arranged_millibits, 2000);
        // With noise it is text; with next to none it is not.
        let noisy = learnt(&penalised(1.0, 0.5), &[7, 1, 2], 0.0).1;
        assert_eq!(noisy.arranged_millibits, 0);
        let still = learnt(&penalised(0.01, 0.5), &[7, 1, 2], 0.0).1;
        assert_eq!(still.arranged_millibits, 2000);
        let dry = params(|params| {
            params.temperature = 0.0;
            params.dry.multiplier = 0.1;
        });
        let repeating = [7, 1, 2, 3, 7, 1, 2, 3];
        assert_eq!(learnt(&dry, &repeating, 0.0).1.arranged_millibits, 1000);
        assert_eq!(learnt(&dry, &[1, 2, 3, 4], 0.0).1, text);
    }

    #[test]
    fn a_grammar_asks_among_what_it_leaves() {
        let raw = logits();
        let greedy = params(|params| params.temperature = 0.0);
        let of = |keep: &dyn Fn(usize) -> bool| {
            let mut words = vec![0_u32; raw.len().div_ceil(32)];
            for at in (0..raw.len()).filter(|at| keep(*at)) {
                words[at / 32] |= 1 << (at % 32);
            }
            let masked = Masked::of(&raw, &Follows::of_words(words), true).unwrap();
            let outcome = masked.draw(&greedy, Past::default(), 0.0).unwrap();
            let draw = Draw {
                raw: &raw,
                masked: Some(&masked),
                params: &greedy,
            };
            draw.learnt(&outcome)
        };
        assert_eq!(of(&|at| at == 50).millibits, 50, "nothing was asked");
        assert_eq!(of(&|at| at == 50 || at == 60).millibits, 1000);
        assert_eq!(of(&|at| (7..=10).contains(&at)).millibits, 1585);
        let text = u64::from(of_text(&raw, 7));
        assert_eq!(of(&|at| at != 50).millibits, text, "it would have said so");
        let without = of(&|at| at != 7);
        assert!(without.millibits >= 11_000, "who is second? {without:?}");
        assert_eq!(without.arranged_millibits, 0);
    }
}
