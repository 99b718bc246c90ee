//! The likeliest tokens with their probabilities, and all others as one: what a mark chooses among. Nothing is cut off: who
//! draws the others' part draws one of them.

use super::raw::Raw;
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
    /// What all tokens have at temperature 1, if somebody asked and it was on the way.
    pub(crate) raw: Option<Raw>,
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

/// What may follow `past`, with some `count` tokens by themselves: at most twice as many. What they have under the model itself
/// is `told` where that is on the way.
///
/// # Errors
/// As [`Distribution::new`].
pub fn likeliest<'a>(
    logits: &'a [f32],
    params: &SamplingParams,
    past: Past<'_>,
    count: usize,
    told: bool,
) -> Result<Likeliest<'a>, SamplingError> {
    if params.temperature > 0.0 && params.leaves_logits() && params.keeps_all() {
        return of_all(logits, params.temperature, count, told);
    }
    let Distribution {
        mut tokens,
        shifts,
        raw,
    } = Distribution::of(logits, params, past, told)?;
    let others = tokens.split_off(tokens.len().min(count));
    let others_sum = others.iter().map(|(_, share)| share).sum();
    Ok(Likeliest {
        tokens,
        shifts,
        raw,
        others: Others::Listed(others),
        others_sum,
        sum: 1.0,
    })
}

/// The same where every token may come: no need to sort them.
fn of_all(
    logits: &[f32],
    temperature: f64,
    count: usize,
    told: bool,
) -> Result<Likeliest<'_>, SamplingError> {
    let mut shares = Shares::of(logits, temperature, told)?;
    let mut tokens = shares.at_least(SHARE_MIN, count);
    if tokens.len() > 2 * count {
        let by_rank = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        tokens.select_nth_unstable_by(count, by_rank);
        tokens.truncate(count);
        tokens.sort_unstable_by_key(|(id, _)| *id);
    }
    let raw = shares.raw_beside(&tokens, SHARE_MIN);
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
        raw,
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
mod tests {
    use super::*;

    const COUNT: usize = 256;

    fn of(logits: &[f32]) -> Likeliest<'_> {
        let params = SamplingParams::default();
        likeliest(logits, &params, Past::default(), COUNT, false).unwrap()
    }

    #[test]
    fn the_likeliest_of_a_vocabulary_are_found_and_the_others_keep_their_part() {
        let mut points = super::super::Draws::new(11);
        let logits: Vec<f32> = (0..40_000)
            .map(|_| (-(1.0 - points.next_point()).ln() * 1.4) as f32)
            .collect();
        let found = of(&logits);
        assert!((COUNT..=2 * COUNT).contains(&found.tokens.len()));
        let mut by_rank: Vec<usize> = (0..logits.len()).collect();
        by_rank.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        let all: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
        let mut rest = 1.0;
        let probability_of = |id: usize| {
            let own = found.tokens.iter().find(|(other, _)| *other as usize == id);
            own.map(|(_, probability)| *probability)
        };
        for (rank, id) in by_rank.into_iter().enumerate() {
            let Some(probability) = probability_of(id) else {
                assert!(rank >= COUNT, "{rank}");
                continue;
            };
            let exact = f64::from(logits[id]).exp() / all;
            assert!((probability - exact).abs() < 1e-5 * exact, "{rank}");
            rest -= probability;
        }
        assert!((found.rest() - rest).abs() < 1e-5, "{}", found.rest());
        let own: Vec<u32> = found.tokens.iter().map(|(id, _)| *id).collect();
        for at in 0..2_000 {
            let other = found.draw_rest(f64::from(at) / 2_000.0).unwrap();
            assert!(!own.contains(&other), "{other}");
        }
    }

    #[test]
    fn among_equals_there_is_an_end_to_the_likeliest() {
        let logits = vec![1.5; 40_000];
        let found = of(&logits);
        assert_eq!(found.tokens.len(), COUNT);
        assert!((found.rest() - (1.0 - 256.0 / 40_000.0)).abs() < 1e-6);
    }
}
