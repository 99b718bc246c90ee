//! The likeliest tokens with their probabilities, and all others as one: what a mark chooses among. Nothing is cut off: who
//! draws the others' part draws one of them.

use super::shares::Shares;
use super::{Distribution, Past, SamplingError, SamplingParams, Shifts};

/// Tokens less likely than this part of the likeliest one are among the others, so that no large vocabulary is sorted.
const SHARE_MIN: f32 = 1e-5;

/// A distribution in two parts.
pub struct Likeliest<'a> {
    /// Ids and probabilities.
    pub tokens: Vec<(u32, f64)>,
    /// Whose logits penalties moved before.
    pub shifts: Shifts,
    others: Others<'a>,
    /// Sum of the others' shares, and of all shares.
    others_sum: f64,
    sum: f64,
}

enum Others<'a> {
    /// Ids and shares.
    Listed(Vec<(u32, f64)>),
    /// All but the likeliest.
    All(Shares<'a>),
}

/// What may follow `past`, with at most `count` tokens by themselves.
///
/// # Errors
/// As [`Distribution::new`].
pub fn likeliest<'a>(
    logits: &'a [f32],
    params: &SamplingParams,
    past: Past<'_>,
    count: usize,
) -> Result<Likeliest<'a>, SamplingError> {
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
fn of_all(logits: &[f32], temperature: f64, count: usize) -> Result<Likeliest<'_>, SamplingError> {
    let mut shares = Shares::of(logits, temperature)?;
    let mut tokens = shares.at_least(SHARE_MIN);
    if tokens.len() > count && count > 0 {
        tokens.select_nth_unstable_by(count - 1, |a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    }
    tokens.truncate(count);
    shares.leave_out(&tokens);
    let others_sum = shares.total();
    let sum = others_sum
        + tokens
            .iter()
            .map(|(_, share)| f64::from(*share))
            .sum::<f64>();
    let probability = |(id, share)| (id, f64::from(share) / sum);
    Ok(Likeliest {
        tokens: tokens.into_iter().map(probability).collect(),
        shifts: Shifts::default(),
        others: Others::All(shares),
        others_sum,
        sum,
    })
}

impl Likeliest<'_> {
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
            Others::Listed(others) => at(others, self.others_sum * point),
            Others::All(shares) => Ok(shares.at(self.others_sum * point)?.0),
        }
    }
}

/// The token where the sum of shares passes `left`; where rounding left a crumb, the last one.
fn at(shares: &[(u32, f64)], mut left: f64) -> Result<u32, SamplingError> {
    let mut last = None;
    for (id, share) in shares.iter().filter(|(_, share)| *share > 0.0) {
        left -= share;
        last = Some(*id);
        if left < 0.0 {
            break;
        }
    }
    last.ok_or(SamplingError::NoFiniteLogit)
}
