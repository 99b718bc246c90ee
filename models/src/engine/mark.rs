//! The mark of an answer (GUARD section 3): which token is drawn is decided by noise that a key makes of the last four tokens,
//! and whoever has the key finds the noise again in the text.
//!
//! The rule is the exponential race (Gumbel; Aaronson 2022): of candidates with probabilities `p` and noise `u` in (0, 1) the one
//! with the largest `ln(u) / p` is drawn. For uniform noise that is a draw from `p`, so no single answer reads otherwise than
//! without a mark. In marked text `u` of the drawn tokens is near 1; in other text it is uniform.
//!
//! The noise of a context is the same whenever the context comes again. So a context is marked once in an answer, the first
//! four tokens are not marked at all (their context is not in the text), and an answer with a seed, a bias, a grammar or
//! probabilities is never marked: there frozen noise would turn draws into comparisons of logits (attack S18).

use std::fmt;
use std::mem;

use casemate_kernels::Isa;
use casemate_kernels::siphash::SipState;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::sampler::{self, Outcome, Past, SamplingError, SamplingParams};

/// Tokens that the noise of a place depends on.
pub const CONTEXT: usize = 4;
/// How many of the likeliest tokens have noise of their own, and at most twice as many; all others share one.
pub const CANDIDATES: usize = 256;
/// How many of an answer's last contexts are compared before one is marked.
const HISTORY: usize = 1024;
/// Stands for all tokens that are not among the candidates. No vocabulary has such a token.
const REST: u32 = u32::MAX;

/// A key for marks. Wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct MarkKey([u64; 2]);

impl fmt::Debug for MarkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MarkKey(..)")
    }
}

impl MarkKey {
    /// The key of these bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let number = u128::from_le_bytes(bytes);
        Self([number as u64, (number >> 64) as u64])
    }

    /// The noise of a context.
    pub fn noise(&self, context: [u32; CONTEXT]) -> ContextNoise {
        let [first, second, third, fourth] = context.map(u64::from);
        let mut state = SipState::new(self.0);
        state.absorb(first | second << 32);
        state.absorb(third | fourth << 32);
        ContextNoise(state)
    }
}

/// The noise of one context: a number for each token that might follow.
#[derive(Clone)]
pub struct ContextNoise(SipState);

impl ContextNoise {
    /// The noise of a token: uniform in (0, 1) for whoever does not know the key.
    pub fn of(&self, token: u32) -> f64 {
        uniform(self.0.finish(last_word(token)))
    }

    /// That of each of these.
    fn of_each(&self, tokens: impl Iterator<Item = u32>) -> impl Iterator<Item = f64> {
        let last: Vec<u64> = tokens.map(last_word).collect();
        let hashes = self.0.finish_each(Isa::detect(), &last);
        hashes.into_iter().map(uniform)
    }
}

/// SipHash of the 20 bytes of five tokens: the last word has what is left of them and their number.
fn last_word(token: u32) -> u64 {
    u64::from(token) | ((CONTEXT as u64 + 1) * 4) << 56
}

fn uniform(hash: u64) -> f64 {
    ((hash >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
}

/// What the noise at the end of `answer` depends on: its last tokens, if there are enough of them and they did not stand in
/// it before. The prompt is not part of it: whoever looks for the mark does not have it.
pub fn context(answer: &[u32]) -> Option<[u32; CONTEXT]> {
    let last: [u32; CONTEXT] = *answer.last_chunk()?;
    let recent = answer.len().saturating_sub(HISTORY + CONTEXT);
    // The last window is the context itself.
    let before = answer.get(recent..answer.len() - 1)?;
    let repeated = before.windows(CONTEXT).any(|window| window == last);
    (!repeated).then_some(last)
}

/// Draws a token by `noise`. `point`, a random number from 0 to below 1, decides among tokens that are not candidates; and
/// everything where there is no choice to mark, at temperature 0.
///
/// # Errors
/// As [`sampler::draw`].
pub fn draw(
    logits: &[f32],
    params: &SamplingParams,
    past: Past<'_>,
    noise: &ContextNoise,
    point: f64,
) -> Result<u32, SamplingError> {
    draw_outcome(logits, params, past, noise, point, false).map(|outcome| outcome.token)
}

/// As [`draw`], with what the draw knows of its token; what all have in the logits as they are is `told` if somebody asks.
///
/// # Errors
/// As [`sampler::draw`].
pub fn draw_outcome(
    logits: &[f32],
    params: &SamplingParams,
    past: Past<'_>,
    noise: &ContextNoise,
    point: f64,
    told: bool,
) -> Result<Outcome, SamplingError> {
    if params.temperature == 0.0 {
        return sampler::draw_outcome(logits, params, past, point, told);
    }
    let mut likeliest = sampler::likeliest(logits, params, past, CANDIDATES, told)?;
    let (leads, raw) = (likeliest.leads, likeliest.raw);
    let shifts = mem::take(&mut likeliest.shifts);
    let candidates = likeliest.tokens.iter().copied();
    let of_each = noise.of_each(candidates.clone().map(|(id, _)| id));
    let (won, least) = first(candidates.zip(of_each));
    let probability = won.and_then(|(_, share)| likeliest.probability(share));
    let others_take = |share: f64| match share > 0.0 {
        true => -noise.of(REST).ln() / share,
        false => f64::INFINITY,
    };
    // The others are added up only where they may be first.
    let rest = match others_take(likeliest.others_at_most()) <= least {
        true => Some(likeliest.rest()),
        false => None,
    };
    let (token, probability) = match (rest, won) {
        (Some(rest), _) if others_take(rest.sum()) <= least => (rest.draw(point)?, None),
        (_, Some((token, _))) => (token, probability),
        (_, None) => return Err(SamplingError::NoFiniteLogit),
    };
    Ok(Outcome {
        token,
        probability,
        leads,
        raw,
        shifts,
    })
}

/// Who arrives first, and when: each takes `-ln(u)` by its share. Of equals the last.
fn first(runners: impl Iterator<Item = ((u32, f64), f64)>) -> (Option<(u32, f64)>, f64) {
    let mut won = None;
    let mut least = f64::INFINITY;
    for (runner, u) in runners.filter(|((_, share), _)| *share > 0.0) {
        // Nobody takes less than `1 - u` by its share: most logarithms need not be known.
        if 1.0 - u <= least * runner.1 {
            let takes = -u.ln() / runner.1;
            if takes <= least {
                (won, least) = (Some(runner), takes);
            }
        }
    }
    (won, least)
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]
mod tests {
    use super::*;
    use std::hash::Hasher;

    fn key(byte: u8) -> MarkKey {
        MarkKey::from_bytes(std::array::from_fn(|at| at as u8 ^ byte))
    }

    #[test]
    #[expect(
        deprecated,
        reason = "the standard library's SipHash-2-4 is what it is compared with"
    )]
    fn noise_is_siphash_of_five_tokens() {
        let bytes: [u8; 16] = std::array::from_fn(|at| at as u8);
        let number = u128::from_le_bytes(bytes);
        for (context, token) in [([1, 2, 3, 4], 5), ([u32::MAX, 0, 7, 1 << 31], 151_000)] {
            let mut other =
                std::hash::SipHasher::new_with_keys(number as u64, (number >> 64) as u64);
            for word in context.into_iter().chain([token]) {
                other.write(&word.to_le_bytes());
            }
            let expected = ((other.finish() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
            assert_eq!(key(0).noise(context).of(token), expected);
        }
        assert_eq!(format!("{:?}", key(65)), "MarkKey(..)");
    }

    #[test]
    fn a_context_is_marked_once_and_not_before_it_is_in_the_text() {
        assert_eq!(context(&[1, 2, 3]), None);
        assert_eq!(context(&[1, 2, 3, 4]), Some([1, 2, 3, 4]));
        assert_eq!(context(&[1, 2, 3, 4, 1, 2, 3]), Some([4, 1, 2, 3]));
        assert_eq!(context(&[1, 2, 3, 4, 1, 2, 3, 4]), None);
        assert_eq!(context(&[9; 5]), None, "windows overlap");
        let long: Vec<u32> = [1, 2, 3, 4]
            .into_iter()
            .chain(10..10 + HISTORY as u32)
            .chain([1, 2, 3, 4])
            .collect();
        assert_eq!(
            context(&long),
            Some([1, 2, 3, 4]),
            "as far back as is looked"
        );
    }

    /// Over many contexts, which stand in for many keys, draws follow the distribution: with few tokens and with more than
    /// there are candidates, with cuts and without.
    #[test]
    fn marked_draws_follow_the_distribution() {
        let few: Vec<f32> = vec![0.0, 1.0, 2.0, f32::NEG_INFINITY, 0.5];
        let many: Vec<f32> = (0..600).map(|at| (at % 30) as f32 / 15.0).collect();
        // Several parts of shares, one of which is nearly all a candidate's.
        let mut vast: Vec<f32> = (0..3_000).map(|at| (at * 7 % 400) as f32 / 40.0).collect();
        vast[2_000] = 15.0;
        let cut = SamplingParams {
            top_p: 0.8,
            presence_penalty: 0.5,
            ..SamplingParams::default()
        };
        let warm = SamplingParams {
            temperature: 0.7,
            ..SamplingParams::default()
        };
        for (logits, params) in [
            (&few, SamplingParams::default()),
            (&few, cut.clone()),
            (&few, warm),
            (&many, SamplingParams::default()),
            (&many, cut),
            (&vast, SamplingParams::default()),
        ] {
            let past = Past {
                tokens: &[1, 2, 2],
                breaks: &[],
            };
            let exact = sampler::Distribution::new(logits, &params, past).unwrap();
            const DRAWS: u32 = 40_000;
            let mut counts = vec![0_u32; logits.len()];
            let mut points = sampler::Draws::new(3);
            for at in 0..DRAWS {
                let noise = key(9).noise([at, 1, 2, 3]);
                let token = draw(logits, &params, past, &noise, points.next_point()).unwrap();
                counts[token as usize] += 1;
            }
            let drawn: u32 = exact
                .tokens
                .iter()
                .map(|(id, _)| counts[*id as usize])
                .sum();
            assert_eq!(drawn, DRAWS, "nothing else is drawn");
            // Chi-squared over tokens, scaled to a normal number: five deviations are a chance of one in three million.
            let square = |(id, p): &(u32, f64)| {
                let expected = p * f64::from(DRAWS);
                (f64::from(counts[*id as usize]) - expected).powi(2) / expected
            };
            let chi: f64 = exact.tokens.iter().map(square).sum();
            let freedom = (exact.tokens.len() - 1) as f64;
            let deviations = (chi - freedom) / (2.0 * freedom).sqrt();
            assert!(deviations < 5.0, "{deviations} deviations, {params:?}");
        }
    }

    /// Who wins is who wins where all are added up.
    #[test]
    fn others_that_are_not_added_up_decide_nothing() {
        let mut points = sampler::Draws::new(8);
        let mut rests = 0;
        for (spread, temperature) in [(1.4, 1.0), (1.4, 0.7), (1.4, 3.0), (0.2, 0.7), (3.0, 1.0)] {
            let logits: Vec<f32> = (0..9_000)
                .map(|_| (-(1.0 - points.next_point()).ln() * spread) as f32)
                .collect();
            let params = SamplingParams {
                temperature,
                ..SamplingParams::default()
            };
            for at in 0..400 {
                let noise = key(5).noise([at, 1, 2, 3]);
                let likeliest =
                    sampler::likeliest(&logits, &params, Past::default(), CANDIDATES, false);
                let likeliest = likeliest.unwrap();
                let takes = |(id, share): &(u32, f64)| (-noise.of(*id).ln() / share, *id);
                let candidates: Vec<_> = likeliest.tokens.iter().map(takes).collect();
                let rest = likeliest.rest();
                let point = points.next_point();
                let all = candidates.into_iter().chain([takes(&(REST, rest.sum()))]);
                let (_, first) = all.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
                let expected = match first {
                    REST => rest.draw(point).unwrap(),
                    token => token,
                };
                let found = draw(&logits, &params, Past::default(), &noise, point);
                assert_eq!(found, Ok(expected), "{spread}, {temperature}, {at}");
                rests += u32::from(first == REST);
            }
        }
        assert!((100..1_500).contains(&rests), "{rests} of 2,000");
    }

    #[test]
    fn drawn_tokens_have_high_noise_under_the_key_alone() {
        let logits: Vec<f32> = (0..300).map(|at| -(at as f32) / 40.0).collect();
        let params = SamplingParams::default();
        let mean = |own: u8, other: u8| {
            let total: f64 = (0..400)
                .map(|at| {
                    let context = [at, 7, 8, 9];
                    let noise = key(own).noise(context);
                    let token = draw(&logits, &params, Past::default(), &noise, 0.5).unwrap();
                    -(1.0 - key(other).noise(context).of(token)).ln()
                })
                .sum();
            total / 400.0
        };
        assert!(mean(1, 1) > 3.0, "{}", mean(1, 1));
        assert!((mean(1, 2) - 1.0).abs() < 0.25, "{}", mean(1, 2));
    }

    #[test]
    fn without_a_choice_there_is_no_mark() {
        let greedy = SamplingParams {
            temperature: 0.0,
            ..SamplingParams::default()
        };
        let noise = key(1).noise([1, 2, 3, 4]);
        let drawn = draw(&[0.0, 3.0, 1.0], &greedy, Past::default(), &noise, 0.9);
        assert_eq!(drawn, Ok(1));
        let nothing = draw(
            &[f32::NAN],
            &SamplingParams::default(),
            Past::default(),
            &noise,
            0.9,
        );
        assert_eq!(nothing, Err(SamplingError::NoFiniteLogit));
    }
}
