//! The likeliest tokens with their shares, and all others as one: what a mark chooses among. Nothing is cut off: who
//! draws the others' part draws one of them.

use super::given::Given;
use super::heated::Heated;
use super::looked::Wanted;
use super::raw::Raw;
use super::shares::Shares;
use super::{Distribution, Past, SamplingError, SamplingParams, Shifts};

/// Tokens less likely than this part of the likeliest one are among the others, so that no large vocabulary is sorted.
const SHARE_MIN: f32 = 1e-5;
/// A probability that is told is off by no more than this, and what is off in lines of the others.
const OFF_MAX: f64 = 1e-3;

/// A distribution in two parts.
pub struct Likeliest<'a> {
    /// Ids and shares, which say how likely they are beside each other and beside the others.
    pub tokens: Vec<(u32, f64)>,
    /// Whose logits penalties moved before.
    pub shifts: Shifts,
    /// The largest logit before that.
    pub(crate) leads: f32,
    /// What all tokens have at temperature 1 before that, if somebody asked.
    pub(crate) raw: Option<Raw>,
    /// What all shares are together, nearly; nothing where nobody asks.
    all: Option<f64>,
    others: Others<'a>,
    others_at_most: f64,
}

/// All other tokens. What they have together is not known where that takes a look at all of them.
enum Others<'a> {
    /// Ids and shares.
    Listed(Vec<(u32, f64)>),
    /// All but the likeliest.
    All(Heated<'a>),
}

/// The others, added up.
pub struct Rest<'a> {
    of: Added<'a>,
    sum: f64,
}

enum Added<'a> {
    Listed(Vec<(u32, f64)>),
    All(Box<Shares<'a>>),
}

/// What may follow `past`, with some `count` tokens by themselves: at most twice as many. What they have under the model itself
/// is `told` if somebody asks.
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
    let (given, shifts) = Given::by(logits, params, past)?;
    if params.temperature > 0.0 && params.keeps_all() {
        let likeliest = of_all(given, params.temperature, count, told)?;
        return Ok(Likeliest {
            shifts,
            ..likeliest
        });
    }
    let Distribution {
        mut tokens,
        leads,
        raw,
    } = Distribution::of(given, params, told)?;
    let others = tokens.split_off(tokens.len().min(count));
    Ok(Likeliest {
        tokens,
        shifts,
        leads,
        raw,
        all: Some(1.0),
        others_at_most: others.iter().map(|(_, share)| share).sum(),
        others: Others::Listed(others),
    })
}

/// The same where every token may come: no need to sort them, nor to add them up.
fn of_all(
    given: Given<'_>,
    temperature: f64,
    count: usize,
    told: bool,
) -> Result<Likeliest<'_>, SamplingError> {
    let wanted = |heat| Wanted {
        raw: told,
        heat: Some(heat),
    };
    let heated = Heated::of(given, temperature, wanted)?;
    let tokens = heated.at_least(SHARE_MIN, count);
    let raw = told.then(|| heated.raw_beside(&tokens, SHARE_MIN));
    let exact = |(id, share): &(u32, f32)| (*id, f64::from(*share));
    let others = heated.others(&tokens);
    let tokens: Vec<(u32, f64)> = tokens.iter().map(exact).collect();
    // What a draw tells of logits that were not moved is not said by shares.
    let asked = told && !heated.given().moved().is_empty();
    let all = asked.then(|| {
        let these: f64 = tokens.iter().map(|(_, share)| share).sum();
        let nearly = others
            .as_ref()
            .and_then(|others| others.nearly(OFF_MAX * these));
        nearly.map_or_else(|| heated.sums().iter().sum(), |others| these + others)
    });
    Ok(Likeliest {
        tokens,
        shifts: Shifts::default(),
        leads: heated.leads(),
        raw,
        all,
        others_at_most: others.map_or(f64::INFINITY, |others| others.at_most()),
        others: Others::All(heated),
    })
}

impl<'a> Likeliest<'a> {
    /// What one of [`Self::tokens`] with this share has of all tokens together, nearly, where cuts, biases or penalties decide what
    /// that is.
    pub fn probability(&self, share: f64) -> Option<f64> {
        self.all.map(|all| share / all)
    }

    /// What the others have together beside those shares, or more; infinite where there is no telling.
    pub fn others_at_most(&self) -> f64 {
        self.others_at_most
    }

    /// The others, added up, which takes as long as all else that a draw does.
    pub fn rest(self) -> Rest<'a> {
        match self.others {
            Others::Listed(others) => Rest {
                of: Added::Listed(others),
                sum: self.others_at_most,
            },
            Others::All(heated) => {
                let mut shares = Shares::added_up(heated);
                shares.leave_out(&self.tokens);
                Rest {
                    sum: shares.total(),
                    of: Added::All(Box::new(shares)),
                }
            }
        }
    }
}

impl Rest<'_> {
    /// What they have together.
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// One of them, at `point`, a random number from 0 to below 1.
    ///
    /// # Errors
    /// [`SamplingError::NoFiniteLogit`] where there is none.
    pub fn draw(&self, point: f64) -> Result<u32, SamplingError> {
        match &self.of {
            Added::Listed(others) => at(others, self.sum * point),
            Added::All(shares) => Ok(shares.at(self.sum * point)?.0),
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
    use super::super::Draws;
    use super::*;

    const COUNT: usize = 256;

    fn of(logits: &[f32], temperature: f64) -> Likeliest<'_> {
        let params = SamplingParams {
            temperature,
            ..SamplingParams::default()
        };
        likeliest(logits, &params, Past::default(), COUNT, false).unwrap()
    }

    /// A few that are likely, and a long tail.
    fn vocabulary(spread: f64) -> Vec<f32> {
        let mut points = Draws::new(11);
        (0..40_000)
            .map(|_| (-(1.0 - points.next_point()).ln() * spread) as f32)
            .collect()
    }

    #[test]
    fn the_likeliest_of_a_vocabulary_are_found_and_the_others_keep_their_part() {
        let logits = vocabulary(1.4);
        let found = of(&logits, 1.0);
        assert!((COUNT..=2 * COUNT).contains(&found.tokens.len()));
        let mut by_rank: Vec<usize> = (0..logits.len()).collect();
        by_rank.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        let best = f64::from(logits[by_rank[0]]);
        let share = |id: usize| (f64::from(logits[id]) - best).exp();
        let mut rest = 0.0;
        let share_of = |id: usize| {
            let own = found.tokens.iter().find(|(other, _)| *other as usize == id);
            own.map(|(_, share)| *share)
        };
        for (rank, id) in by_rank.into_iter().enumerate() {
            let exact = share(id);
            match share_of(id) {
                Some(share) => assert!((share - exact).abs() < 1e-5 * exact, "{rank}"),
                None => {
                    assert!(rank >= COUNT, "{rank}");
                    rest += exact;
                }
            }
        }
        let own: Vec<u32> = found.tokens.iter().map(|(id, _)| *id).collect();
        let found = found.rest();
        assert!((found.sum() / rest - 1.0).abs() < 1e-5, "{}", found.sum());
        for at in 0..2_000 {
            let other = found.draw(f64::from(at) / 2_000.0).unwrap();
            assert!(!own.contains(&other), "{other}");
        }
    }

    #[test]
    fn what_the_others_have_is_bounded_before_they_are_added_up() {
        for (spread, lead) in [(0.3, 0.0), (0.7, 9.0), (1.4, 0.0), (3.0, 0.0), (1.4, 15.0)] {
            let mut logits = vocabulary(spread);
            logits[20_000] += lead;
            for temperature in [0.3, 0.7, 1.0, 1.5, 4.0] {
                let found = of(&logits, temperature);
                let likeliest: f64 = found.tokens.iter().map(|(_, share)| share).sum();
                let bound = found.others_at_most();
                let exact = found.rest().sum();
                let case = format!("{spread}, {lead}, {temperature}: {exact} {bound}");
                assert!(exact <= bound, "{case}");
                assert!(bound <= 1.1 * exact + (likeliest + exact) / 400.0, "{case}");
            }
        }
    }

    #[test]
    fn where_a_bound_cannot_be_told_there_is_none() {
        let mut logits = vocabulary(1.4);
        assert_eq!(of(&logits, 1e-4).others_at_most(), f64::INFINITY);
        logits[20_000] = 150.0;
        assert_eq!(of(&logits, 1.0).others_at_most(), f64::INFINITY);
        logits[..1_000].fill(f32::NEG_INFINITY);
        assert_eq!(of(&logits, 1.0).others_at_most(), f64::INFINITY);
        assert_eq!(of(&logits[..1_001], 1.0).rest().sum(), 0.0);
    }

    #[test]
    fn among_equals_there_is_an_end_to_the_likeliest() {
        let logits = vec![1.5; 40_000];
        let found = of(&logits, 1.0);
        assert_eq!(found.tokens.len(), COUNT);
        let rest = found.rest().sum();
        assert!((rest / (40_000.0 - 256.0) - 1.0).abs() < 1e-6, "{rest}");
    }
}
