//! From logits to a token. Pure: the same logits, parameters, context and random number give the same token.
//!
//! Order: bias, repetition penalty, frequency and presence penalties, DRY, then top-k, typical, top-p and min-p, each on what
//! the step before left; temperature before or after those four ([`TemperatureOrder`]). All arithmetic is in 64 bits.
//! A grammar's mask comes before all of it: what it forbids has no finite logit.

mod blocks;
pub mod dry;
mod given;
mod heated;
mod likeliest;
mod looked;
mod params;
mod raw;
mod reach;
mod shares;
mod typical;

use std::cmp::Ordering;

use casemate_kernels::{Isa, logits};

use given::{Given, moved_by};
pub use likeliest::{Likeliest, Rest, likeliest};
use looked::first_token;
pub(super) use looked::masked;
pub use params::{SamplingError, SamplingParams, TemperatureOrder};
pub use raw::Raw;
use reach::{Reach, SORT_ALL_MAX, within_reach};
use shares::Shares;
use typical::{Whole, keep_typical};

/// What stands before the token that is drawn.
#[derive(Clone, Copy, Default)]
pub struct Past<'a> {
    /// All tokens, prompt included.
    pub tokens: &'a [u32],
    /// In which of them a breaker of DRY ends; empty where DRY is off.
    pub breaks: &'a [bool],
}

/// A token that was drawn, and what its draw knows of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The token.
    pub token: u32,
    /// Its probability in the distribution that it was drawn from, nearly; nothing where that would take a further look at all
    /// logits.
    pub probability: Option<f64>,
    /// The largest of the logits as they were given.
    pub leads: f32,
    /// What all tokens have in these at temperature 1, nearly, if somebody asked.
    pub raw: Option<Raw>,
    /// Whose logits penalties moved after that.
    pub shifts: Shifts,
}

impl Outcome {
    fn with(self, shifts: Shifts) -> Self {
        Self { shifts, ..self }
    }
}

/// Tokens whose logits penalties moved. Biases are not among them: the request says which those are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shifts {
    /// Their ids; one may stand there twice.
    pub tokens: Vec<u32>,
    /// Whether any may have been moved up: parameters below what changes nothing do that.
    pub raised: bool,
}

/// Draws a token at `point`, a random number from 0 to below 1.
///
/// # Errors
/// As [`Distribution::new`].
pub fn draw(
    logits: &[f32],
    params: &SamplingParams,
    past: Past<'_>,
    point: f64,
) -> Result<u32, SamplingError> {
    draw_outcome(logits, params, past, point, false).map(|outcome| outcome.token)
}

/// As [`draw`], with what the draw knows of its token; what all have in the logits as they are is `told` if somebody asks.
///
/// # Errors
/// As [`Distribution::new`].
pub fn draw_outcome(
    logits: &[f32],
    params: &SamplingParams,
    past: Past<'_>,
    point: f64,
    told: bool,
) -> Result<Outcome, SamplingError> {
    let (given, shifts) = Given::by(logits, params, past)?;
    let outcome = match params.temperature == 0.0 {
        false if params.keeps_all() => draw_from_all(given, params.temperature, point, told)?,
        _ => Distribution::of(given, params, told)?.outcome(point)?,
    };
    Ok(outcome.with(shifts))
}

/// As [`draw_outcome`], from these tokens alone, whose ids stand in their order and whose logits are finite; of a vocabulary of
/// so many.
///
/// # Errors
/// As [`Distribution::new`].
pub fn draw_few(
    few: &[(u32, f32)],
    vocabulary_len: usize,
    params: &SamplingParams,
    past: Past<'_>,
    point: f64,
) -> Result<Outcome, SamplingError> {
    let logit = |id: u32| {
        let at = few.binary_search_by_key(&id, |(id, _)| *id).ok();
        let left = at.and_then(|at| few.get(at)).map(|(_, logit)| *logit);
        let known = usize::try_from(id).is_ok_and(|id| id < vocabulary_len);
        known.then(|| left.unwrap_or(f32::NEG_INFINITY))
    };
    let (moved, shifts) = moved_by(logit, params, past)?;
    let exact = |(id, logit): &(u32, f32)| {
        let moved = moved.get(id).copied();
        (*id, moved.unwrap_or(f64::from(*logit)))
    };
    let logits = few.iter().map(|(_, logit)| *logit);
    let reach = Reach {
        tokens: few.iter().map(exact).collect(),
        all: None,
        whole: None,
        leads: logits.fold(f32::NEG_INFINITY, f32::max),
        raw: None,
    };
    let distribution = Distribution::of_reach(reach, params)?;
    Ok(distribution.outcome(point)?.with(shifts))
}

/// Draws when every token may come: no need to sort them. Tokens stand in the order of their ids.
fn draw_from_all(
    given: Given<'_>,
    temperature: f64,
    point: f64,
    told: bool,
) -> Result<Outcome, SamplingError> {
    let shares = Shares::of(given, temperature, told)?;
    let all = shares.total();
    let (token, share) = shares.at(point * all)?;
    Ok(Outcome {
        token,
        probability: Some(share / all),
        leads: shares.leads(),
        raw: shares.raw(),
        shifts: Shifts::default(),
    })
}

/// Tokens that may be drawn, by falling probability, of equals the lower id first.
#[derive(Clone, PartialEq)]
pub struct Distribution {
    /// Token ids and probabilities that add up to one.
    pub tokens: Vec<(u32, f64)>,
    /// The largest logit before any were moved.
    leads: f32,
    /// What all had before any were moved, if somebody asked.
    raw: Option<Raw>,
}

impl Distribution {
    /// What may follow `past`.
    ///
    /// # Errors
    /// [`SamplingError::NoFiniteLogit`] or [`SamplingError::UnknownToken`].
    pub fn new(
        logits: &[f32],
        params: &SamplingParams,
        past: Past<'_>,
    ) -> Result<Self, SamplingError> {
        let (given, _) = Given::by(logits, params, past)?;
        Self::of(given, params, false)
    }

    fn of(given: Given<'_>, params: &SamplingParams, told: bool) -> Result<Self, SamplingError> {
        if params.temperature == 0.0 {
            let (token, leads, raw) = first_token(given, told)?;
            return Ok(Self {
                tokens: vec![(token, 1.0)],
                leads,
                raw,
            });
        }
        Self::of_reach(within_reach(given, params, told)?, params)
    }

    fn of_reach(reach: Reach, params: &SamplingParams) -> Result<Self, SamplingError> {
        let Reach {
            mut tokens,
            all,
            whole,
            leads,
            raw,
        } = reach;
        if params.temperature == 0.0 {
            let first = tokens.iter().copied().min_by(falling);
            let (token, _) = first.ok_or(SamplingError::NoFiniteLogit)?;
            return Ok(Self {
                tokens: vec![(token, 1.0)],
                leads,
                raw,
            });
        }
        if params.temperature_order == TemperatureOrder::First {
            scale(&mut tokens, params.temperature);
        }
        cut(&mut tokens, params, all, whole);
        if params.temperature_order == TemperatureOrder::Last {
            scale(&mut tokens, params.temperature);
        }
        softmax(&mut tokens);
        match tokens.is_empty() {
            true => Err(SamplingError::NoFiniteLogit),
            false => Ok(Self { tokens, leads, raw }),
        }
    }

    fn outcome(&self, point: f64) -> Result<Outcome, SamplingError> {
        let (token, probability) = self.at(point).ok_or(SamplingError::NoFiniteLogit)?;
        Ok(Outcome {
            token,
            probability: Some(probability),
            leads: self.leads,
            raw: self.raw,
            shifts: Shifts::default(),
        })
    }

    /// The token at `point`, a random number from 0 to below 1.
    pub fn draw(&self, point: f64) -> Option<u32> {
        self.at(point).map(|(id, _)| id)
    }

    /// The same with its probability.
    fn at(&self, point: f64) -> Option<(u32, f64)> {
        let mut left = point;
        let found = self.tokens.iter().find(|(_, probability)| {
            left -= probability;
            left < 0.0
        });
        found.or(self.tokens.last()).copied()
    }
}

fn scale(tokens: &mut [(u32, f64)], temperature: f64) {
    for (_, logit) in tokens {
        *logit /= temperature;
    }
}

/// Top-k, typical, top-p and min-p. Leaves `tokens` sorted. `all` is what those have together that are and are not among them,
/// where it is known, and `whole` the same for typical.
fn cut(
    tokens: &mut Vec<(u32, f64)>,
    params: &SamplingParams,
    all: Option<f64>,
    whole: Option<Whole>,
) {
    if params.top_k > 0 && params.top_k < tokens.len() {
        tokens.select_nth_unstable_by(params.top_k, falling);
        tokens.truncate(params.top_k);
    }
    if params.typical_p < 1.0 {
        keep_typical(tokens, params.typical_p, whole);
    }
    match params.top_p < 1.0 {
        true => keep_nucleus(tokens, params.top_p, all),
        false => tokens.sort_unstable_by(falling),
    }
    if let Some(best) = tokens
        .first()
        .map(|token| token.1)
        .filter(|_| params.min_p > 0.0)
    {
        tokens.retain(|token| (token.1 - best).exp() >= params.min_p);
    }
}

/// Falling logits, of equals the lower id first.
fn falling(a: &(u32, f64), b: &(u32, f64)) -> Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// Top-p: the smallest set of the likeliest tokens that has this part of the probability of all. Leaves it sorted.
fn keep_nucleus(tokens: &mut Vec<(u32, f64)>, top_p: f64, all: Option<f64>) {
    let logits = tokens.iter().map(|token| token.1);
    let best = logits.fold(f64::NEG_INFINITY, f64::max);
    let share = |token: &(u32, f64)| (token.1 - best).exp();
    let all = match all {
        Some(all) => all,
        None if tokens.len() > SORT_ALL_MAX => {
            let all = shares_of(tokens, best);
            // Tokens this far below the best have together less than half of what top-p leaves over, so none of them is
            // among those that it keeps: they need not be sorted.
            let floor = best + ((1.0 - top_p) / (2 * tokens.len()) as f64).ln();
            tokens.retain(|token| token.1 >= floor);
            all
        }
        None => tokens.iter().map(share).sum(),
    };
    tokens.sort_unstable_by(falling);
    let mut left = top_p * all;
    let reached = tokens.iter().position(|token| {
        left -= share(token);
        left <= 0.0
    });
    tokens.truncate(reached.map_or(tokens.len(), |last| last + 1));
}

/// What all tokens have together beside the best one's 1. In 32 bits: exponentials of a whole vocabulary in 64 take longer
/// than all else that a draw does.
fn shares_of(tokens: &[(u32, f64)], best: f64) -> f64 {
    let mut shares: Vec<f32> = tokens.iter().map(|token| (token.1 - best) as f32).collect();
    logits::exponentials(Isa::detect(), &mut shares, 0.0, 1.0);
    shares.iter().map(|share| f64::from(*share)).sum()
}

fn softmax(tokens: &mut [(u32, f64)]) {
    let best = tokens
        .iter()
        .map(|token| token.1)
        .fold(f64::NEG_INFINITY, f64::max);
    let mut sum = 0.0;
    for (_, value) in tokens.iter_mut() {
        *value = (*value - best).exp();
        sum += *value;
    }
    for (_, value) in tokens {
        *value /= sum;
    }
}

/// Random numbers of a sequence: SplitMix64, which a seed makes repeatable. They decide which token is drawn and
/// protect nothing.
#[derive(Clone)]
pub struct Draws(u64);

impl Draws {
    /// The draws of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number, from 0 to below 1.
    pub fn next_point(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        (mixed >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// Logits of a large vocabulary, a few of them impossible.
    fn logits() -> Vec<f32> {
        let logit = |at: u32| match at % 997 {
            13 => f32::NEG_INFINITY,
            _ => (at.wrapping_mul(2_654_435_761) >> 16) as f32 / 8_192.0,
        };
        (0..5_000).map(logit).collect()
    }

    fn params(change: impl FnOnce(&mut SamplingParams)) -> SamplingParams {
        let mut params = SamplingParams::default();
        change(&mut params);
        params
    }

    /// How often each token is drawn at evenly spread points.
    fn drawn(params: &SamplingParams, points: u32) -> HashMap<u32, u32> {
        let mut counts = HashMap::new();
        for point in 0..points {
            let point = (f64::from(point) + 0.5) / f64::from(points);
            let token = draw(&logits(), params, Past::default(), point).unwrap();
            *counts.entry(token).or_default() += 1;
        }
        counts
    }

    #[test]
    fn every_way_to_draw_follows_the_distribution() {
        const POINTS: u32 = 2_000;
        for params in [
            params(|_| ()),
            params(|params| params.temperature = 0.3),
            params(|params| params.top_p = 0.9),
            params(|params| params.top_k = 40),
            params(|params| params.min_p = 0.2),
            params(|params| params.typical_p = 0.4),
            params(|params| params.logit_bias = vec![(2, 9.0), (4_999, -100.0), (3, 4.0)]),
        ] {
            let exact = Distribution::new(&logits(), &params, Past::default()).unwrap();
            let counts = drawn(&params, POINTS);
            let mut seen = 0;
            for (token, probability) in &exact.tokens {
                let count = counts.get(token).copied().unwrap_or_default();
                seen += count;
                let off = (f64::from(count) - probability * f64::from(POINTS)).abs();
                assert!(
                    off <= 1.01,
                    "{params:?}: token {token} is drawn {count} times"
                );
            }
            assert_eq!(seen, POINTS, "nothing else is drawn");
        }
    }

    #[test]
    fn what_top_p_leaves_out_is_found_without_sorting_all() {
        let all = Distribution::new(&logits(), &params(|_| ()), Past::default())
            .unwrap()
            .tokens;
        for top_p in (1..200).map(|at| f64::from(at) / 200.0).chain([0.999]) {
            let cut = Distribution::new(
                &logits(),
                &params(|params| params.top_p = top_p),
                Past::default(),
            );
            let kept: Vec<u32> = cut
                .unwrap()
                .tokens
                .iter()
                .map(|(token, _)| *token)
                .collect();
            let mut mass = 0.0;
            let reached = all.iter().position(|(_, probability)| {
                mass += probability;
                mass >= top_p
            });
            let expected: Vec<u32> = all[..=reached.unwrap()]
                .iter()
                .map(|(token, _)| *token)
                .collect();
            assert_eq!(kept, expected, "{top_p}");
        }
    }

    #[test]
    fn what_would_repeat_is_drawn_less_even_where_it_is_likeliest() {
        let mut logits = vec![0.0_f32; 8];
        logits[4] = 3.0;
        let dry = params(|params| {
            params.temperature = 0.0;
            params.dry.multiplier = 2.0;
        });
        let draw = |params: &SamplingParams, tokens: &[u32], breaks: &[bool]| {
            super::draw(&logits, params, Past { tokens, breaks }, 0.0)
        };
        assert_eq!(
            draw(&dry, &[1, 2, 3, 5, 1, 2, 3], &[]),
            Ok(4),
            "5 would repeat"
        );
        let repeating = [1, 2, 3, 4, 1, 2, 3];
        assert_eq!(
            draw(&dry, &repeating, &[]),
            Ok(0),
            "2 · 1.75 is more than 3"
        );
        // Two tokens are left of the repetition behind the breaker.
        let breaks = [true, false, false, false, true, false, false];
        assert_eq!(draw(&dry, &repeating, &breaks), Ok(4), "2 is less than 3");
        assert_eq!(
            draw(&params(|params| params.temperature = 0.0), &repeating, &[]),
            Ok(4)
        );
    }

    #[test]
    fn every_parameter_out_of_its_range_is_named() {
        type Change = fn(&mut SamplingParams);
        let broken: [(&str, Change); 10] = [
            ("temperature", |params| params.temperature = f64::NAN),
            ("top_p", |params| params.top_p = 0.0),
            ("typical_p", |params| params.typical_p = 0.0),
            ("min_p", |params| params.min_p = 1.5),
            ("repetition_penalty", |params| {
                params.repetition_penalty = 0.0
            }),
            ("dry_multiplier", |params| {
                params.dry.multiplier = f64::INFINITY
            }),
            ("dry_base", |params| params.dry.base = 0.5),
            ("dry_allowed_length", |params| params.dry.allowed_length = 0),
            ("dry_sequence_breakers", |params| {
                params.dry.breakers = vec![String::new()]
            }),
            ("dry_penalty_last_n", |params| {
                params.dry.window = usize::MAX
            }),
        ];
        for (expected, breaks) in broken {
            match params(breaks).check() {
                Err(SamplingError::OutOfRange { name, .. }) => assert_eq!(name, expected),
                other => panic!("{expected}: {other:?}"),
            }
        }
        assert_eq!(SamplingParams::default().check(), Ok(()));
    }

    #[test]
    fn without_a_temperature_the_likeliest_is_taken_and_a_bias_counts() {
        let greedy = params(|params| params.temperature = 0.0);
        let best = Distribution::new(&logits(), &greedy, Past::default())
            .unwrap()
            .tokens[0]
            .0;
        assert_eq!(draw(&logits(), &greedy, Past::default(), 0.7), Ok(best));
        let biased = params(|params| {
            params.temperature = 0.0;
            params.logit_bias = vec![(17, 100.0)];
        });
        assert_eq!(draw(&logits(), &biased, Past::default(), 0.7), Ok(17));
        let hopeless = [f32::NAN, f32::NEG_INFINITY];
        for params in [&greedy, &params(|_| ())] {
            assert_eq!(
                draw(&hopeless, params, Past::default(), 0.5),
                Err(SamplingError::NoFiniteLogit)
            );
        }
    }
}
