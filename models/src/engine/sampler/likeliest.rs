//! The likeliest tokens with their probabilities, and all others as one: what a mark chooses among. Nothing is cut off: who
//! draws the others' part draws one of them.

use casemate_kernels::{Isa, elementwise};

use super::{Distribution, Past, SamplingError, SamplingParams, Shifts};

/// Tokens less likely than this part of the likeliest one are among the others, so that no large vocabulary is sorted.
const SHARE_MIN: f32 = 1e-5;

/// A distribution in two parts.
pub struct Likeliest {
    /// Ids and probabilities.
    pub tokens: Vec<(u32, f64)>,
    /// Whose logits penalties moved before.
    pub shifts: Shifts,
    others: Others,
    /// Sum of the others' shares, and of all shares.
    others_sum: f64,
    sum: f64,
}

enum Others {
    /// Ids and shares.
    Listed(Vec<(u32, f64)>),
    /// Shares by id; those of the likeliest tokens are 0.
    ById(Vec<f32>),
}

/// What may follow `past`, with at most `count` tokens by themselves.
///
/// # Errors
/// As [`Distribution::new`].
pub fn likeliest(
    logits: &[f32],
    params: &SamplingParams,
    past: Past<'_>,
    count: usize,
) -> Result<Likeliest, SamplingError> {
    if params.temperature > 0.0 && params.leaves_logits() && params.keeps_all() {
        return of_all(logits, params.temperature, count);
    }
    let Distribution { mut tokens, shifts } = Distribution::new(logits, params, past)?;
    let others = tokens.split_off(tokens.len().min(count));
    let others_sum = others.iter().map(|(_, share)| share).sum();
    Ok(Likeliest {
        tokens,
        shifts,
        others: Others::Listed(others),
        others_sum,
        sum: 1.0,
    })
}

/// The same where every token may come: no need to sort them.
fn of_all(logits: &[f32], temperature: f64, count: usize) -> Result<Likeliest, SamplingError> {
    let finite = logits.iter().copied().filter(|logit| logit.is_finite());
    let best = finite.fold(f32::NEG_INFINITY, f32::max);
    if !best.is_finite() {
        return Err(SamplingError::NoFiniteLogit);
    }
    let mut shares = logits.to_vec();
    elementwise::exponentials(Isa::detect(), &mut shares, best, (1.0 / temperature) as f32);
    let candidates = (0_u32..)
        .zip(&shares)
        .filter(|(_, share)| **share >= SHARE_MIN);
    let mut tokens: Vec<(u32, f64)> = candidates
        .map(|(id, share)| (id, f64::from(*share)))
        .collect();
    if tokens.len() > count && count > 0 {
        tokens.select_nth_unstable_by(count - 1, |a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    }
    tokens.truncate(count);
    for (id, _) in &tokens {
        if let Some(share) = shares.get_mut(*id as usize) {
            *share = 0.0;
        }
    }
    let others_sum: f64 = shares.iter().map(|share| f64::from(*share)).sum();
    let sum = others_sum + tokens.iter().map(|(_, share)| share).sum::<f64>();
    for (_, share) in &mut tokens {
        *share /= sum;
    }
    Ok(Likeliest {
        tokens,
        shifts: Shifts::default(),
        others: Others::ById(shares),
        others_sum,
        sum,
    })
}

impl Likeliest {
    /// The probability of all others together.
    pub fn rest(&self) -> f64 {
        self.others_sum / self.sum
    }

    /// One of the others, at `point`, a random number from 0 to below 1.
    ///
    /// # Errors
    /// [`SamplingError::NoFiniteLogit`] where there is none.
    pub fn draw_rest(&self, point: f64) -> Result<u32, SamplingError> {
        match &self.others {
            Others::Listed(others) => at(others.iter().copied(), self.others_sum * point),
            Others::ById(shares) => {
                let shares = (0_u32..).zip(shares.iter().map(|share| f64::from(*share)));
                at(shares, self.others_sum * point)
            }
        }
    }
}

/// The token where the sum of shares passes `left`; where rounding left a crumb, the last one.
fn at(shares: impl Iterator<Item = (u32, f64)>, mut left: f64) -> Result<u32, SamplingError> {
    let mut last = None;
    for (id, share) in shares.filter(|(_, share)| *share > 0.0) {
        left -= share;
        last = Some(id);
        if left < 0.0 {
            break;
        }
    }
    last.ok_or(SamplingError::NoFiniteLogit)
}
