//! Which tokens of a large vocabulary top-k, top-p or min-p may leave, so that not all of them are sorted.

use super::heated::Heated;
use super::looked::Wanted;
use super::raw::Raw;
use super::{SamplingParams, TemperatureOrder};

/// Sorting a larger vocabulary than this costs milliseconds.
pub(super) const SORT_ALL_MAX: usize = 2_048;
/// How far below the best is looked first, in natural logarithms, and by how much further if that is not enough.
const DEPTH: f32 = 8.0;
const DEEPER: f32 = 4.0;
/// Below that there are no shares.
const DEPTH_MAX: f32 = 84.0;
/// Sums of shares are right to this part at least, and depths to so much.
const ROUNDING: f64 = 1e-5;
const EDGE: f64 = 1e-2;

/// Tokens among which are all that the cuts leave.
pub(super) struct Reach {
    /// Ids and logits.
    pub(super) tokens: Vec<(u32, f64)>,
    /// What all tokens have together beside the best one's 1, where a cut asks for it.
    pub(super) all: Option<f64>,
    /// What they have at temperature 1, if somebody asked.
    pub(super) raw: Option<Raw>,
}

/// Finds them; nothing where that takes as long as to sort all tokens.
pub(super) fn within_reach(logits: &[f32], params: &SamplingParams, told: bool) -> Option<Reach> {
    let cuts = params.top_k > 0 || params.top_p < 1.0 || params.min_p > 0.0;
    if logits.len() <= SORT_ALL_MAX
        || !cuts
        || params.typical_p < 1.0
        || params.temperature == 0.0
        || !params.leaves_logits()
    {
        return None;
    }
    let temperature = match params.temperature_order {
        TemperatureOrder::First => params.temperature,
        TemperatureOrder::Last => 1.0,
    };
    let of_all = params.top_k == 0 && params.top_p < 1.0;
    let wanted = |heat| Wanted {
        raw: told && !(of_all && heat == 1.0),
        heat: None,
    };
    let heated = Heated::of(logits, temperature, wanted).ok()?;
    let all = of_all.then(|| heated.sums().iter().sum());
    let mut depth = DEPTH;
    while depth <= DEPTH_MAX {
        let found = heated.within(depth);
        let enough = match all {
            Some(all) => {
                let sum = heated.sum_of(found.iter().map(|(_, logit)| *logit).collect());
                sum >= all * (params.top_p + ROUNDING)
            }
            None if params.top_k > 0 => found.len() >= params.top_k,
            None => f64::from(depth) > EDGE - params.min_p.ln(),
        };
        if enough {
            let logit = |(id, logit)| (id, f64::from(logit));
            let tokens = found.into_iter().map(logit).collect();
            let raw = told.then(|| heated.raw_of(all));
            return Some(Reach { tokens, all, raw });
        }
        depth += DEEPER;
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
mod tests {
    use super::super::{Distribution, Past};
    use super::*;

    fn logits(spread: f32) -> Vec<f32> {
        let logit = |at: u32| match at % 997 {
            13 => f32::NEG_INFINITY,
            14 => f32::NAN,
            _ => (at.wrapping_mul(2_654_435_761) >> 16) as f32 / 65_536.0 * spread,
        };
        (0..5_000).map(logit).collect()
    }

    #[test]
    fn cuts_leave_what_they_leave_of_all() {
        let cut = |top_k, top_p, min_p| SamplingParams {
            top_k,
            top_p,
            min_p,
            ..SamplingParams::default()
        };
        let cuts = [
            cut(1, 1.0, 0.0),
            cut(40, 1.0, 0.0),
            cut(40, 0.7, 0.0),
            cut(3_000, 0.999, 0.01),
            cut(6_000, 1.0, 0.0),
            cut(0, 0.05, 0.0),
            cut(0, 0.95, 0.0),
            cut(0, 0.999, 0.0),
            cut(0, 0.9, 0.05),
            cut(0, 1.0, 0.05),
            cut(0, 1.0, 1e-9),
        ];
        let orders = [TemperatureOrder::First, TemperatureOrder::Last];
        let mut reached = 0;
        for (spread, cut) in [1.0, 12.0, 90.0]
            .into_iter()
            .flat_map(|spread| cuts.clone().map(|cut| (spread, cut)))
        {
            for (temperature, temperature_order) in [0.3, 1.0, 1.9]
                .into_iter()
                .flat_map(|heat| orders.map(|order| (heat, order)))
            {
                let params = SamplingParams {
                    temperature,
                    temperature_order,
                    ..cut.clone()
                };
                // A bias of nothing is a bias, with which all are sorted.
                let sorted = SamplingParams {
                    logit_bias: vec![(0, 0.0)],
                    ..params.clone()
                };
                let logits = logits(spread);
                let of = |params| {
                    Distribution::new(&logits, params, Past::default())
                        .unwrap()
                        .tokens
                };
                let (some, all) = (of(&params), of(&sorted));
                assert_eq!(some.len(), all.len(), "{spread}, {params:?}");
                for ((id, p), (other, q)) in some.iter().zip(&all) {
                    assert_eq!(id, other, "{spread}, {params:?}");
                    assert!((p - q).abs() <= 1e-12, "{p} and {q}, {spread}, {params:?}");
                }
                assert!(within_reach(&logits, &sorted, false).is_none());
                reached += u32::from(within_reach(&logits, &params, true).is_some());
            }
        }
        assert!(reached > 150, "{reached} of 198");
    }
}
