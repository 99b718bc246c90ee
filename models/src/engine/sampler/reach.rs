//! Which tokens of a large vocabulary top-k, typical, top-p or min-p may leave, so that not all of them are sorted.

use super::given::Given;
use super::heated::Heated;
use super::looked::{Looked, Wanted};
use super::raw::Raw;
use super::typical::Whole;
use super::{SamplingError, SamplingParams, TemperatureOrder};

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
    /// What all tokens have together beside the best one's 1, where a cut asks for it and they are not all here.
    pub(super) all: Option<f64>,
    /// What all tokens are together, where typical asks for it and they are not all here.
    pub(super) whole: Option<Whole>,
    /// The largest logit before any were moved.
    pub(super) leads: f32,
    /// What they have at temperature 1 before any were moved, if somebody asked.
    pub(super) raw: Option<Raw>,
}

/// Finds them: all tokens where that takes as long as to sort these.
///
/// # Errors
/// [`SamplingError::NoFiniteLogit`].
pub(super) fn within_reach(
    given: Given<'_>,
    params: &SamplingParams,
    told: bool,
) -> Result<Reach, SamplingError> {
    if given.raw.len() <= SORT_ALL_MAX || params.keeps_all() {
        return Ok(all_of(given, told));
    }
    let temperature = match params.temperature_order {
        TemperatureOrder::First => params.temperature,
        TemperatureOrder::Last => 1.0,
    };
    let typical = params.top_k == 0 && params.typical_p < 1.0;
    let of_all = params.top_k == 0 && !typical && params.top_p < 1.0;
    let moved = !given.moved().is_empty();
    let wanted = |heat| Wanted {
        raw: told && !(of_all && heat == 1.0 && !moved),
        heat: None,
    };
    let heated = Heated::of(given, temperature, wanted)?;
    let all = of_all.then(|| heated.sums().iter().sum());
    let whole = typical.then(|| heated.whole());
    let leads = heated.leads();
    let raw = told.then(|| heated.raw_of(all));
    let mut depth = DEPTH;
    while depth <= DEPTH_MAX {
        let found = heated.within(depth);
        let logits = found.iter().map(|(_, logit)| *logit);
        let enough = match (all, whole) {
            (Some(all), _) => heated.sum_of(logits.collect()) >= all * (params.top_p + ROUNDING),
            (_, Some(Whole { sum, mean })) => {
                // All others are further from the mean than this.
                let within = mean + f64::from(depth) - EDGE;
                let near = logits.filter(|logit| (heated.far(*logit) - mean).abs() < within);
                heated.sum_of(near.collect()) >= sum * (params.typical_p + ROUNDING)
            }
            _ if params.top_k > 0 => found.len() >= params.top_k,
            _ => f64::from(depth) > EDGE - params.min_p.ln(),
        };
        if enough {
            let exact = |(id, _)| Some((id, heated.given().exact(id)?));
            return Ok(Reach {
                tokens: found.into_iter().filter_map(exact).collect(),
                all,
                whole,
                leads,
                raw,
            });
        }
        depth += DEEPER;
    }
    Ok(Reach {
        tokens: heated.given().finite(),
        all: None,
        whole: None,
        leads,
        raw,
    })
}

fn all_of(given: Given<'_>, told: bool) -> Reach {
    let wanted = Wanted {
        raw: told,
        heat: None,
    };
    let looked = Looked::at(given, wanted);
    Reach {
        tokens: looked.blocks().given.finite(),
        all: None,
        whole: None,
        leads: looked.leads(),
        raw: told.then(|| looked.raw()),
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]
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

    /// A leader falls, others rise or fall among what is likely, and one takes the lead.
    fn biases() -> Vec<(u32, f64)> {
        let moved = (0..300).map(|at| (at * 16 + at % 7, f64::from(at % 11) - 6.0));
        moved.chain([(4_998, 30.0), (4_999, -100.0)]).collect()
    }

    /// How much of probabilities is elsewhere. What is known of all tokens in 32 bits may leave a crumb of the tail.
    fn apart(some: &[(u32, f64)], all: &[(u32, f64)]) -> f64 {
        let of = |tokens: &[(u32, f64)], id: u32| {
            let own = tokens.iter().find(|(other, _)| *other == id);
            own.map_or(0.0, |(_, probability)| *probability)
        };
        let known = some.iter().map(|(id, p)| (p - of(all, *id)).abs());
        let unknown = all.iter().filter(|(id, _)| of(some, *id) == 0.0);
        known.sum::<f64>() + unknown.map(|(_, p)| p).sum::<f64>()
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
        let typical = |typical_p, cut| SamplingParams { typical_p, ..cut };
        let cuts = cuts.into_iter().chain([
            typical(0.3, cut(0, 1.0, 0.0)),
            typical(0.9, cut(0, 1.0, 0.0)),
            typical(0.999, cut(0, 1.0, 0.0)),
            typical(0.5, cut(0, 0.7, 0.0)),
            typical(0.5, cut(0, 1.0, 0.1)),
            typical(0.5, cut(40, 0.7, 0.01)),
        ]);
        let cuts: Vec<SamplingParams> = cuts.collect();
        let orders = [TemperatureOrder::First, TemperatureOrder::Last];
        let mut reached = 0;
        for (spread, cut) in [1.0, 12.0, 90.0]
            .into_iter()
            .flat_map(|spread| cuts.clone().into_iter().map(move |cut| (spread, cut)))
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
                let logits = logits(spread);
                for logit_bias in [Vec::new(), biases()] {
                    let params = SamplingParams {
                        logit_bias,
                        ..params.clone()
                    };
                    let (given, _) = Given::by(&logits, &params, Past::default()).unwrap();
                    let all = Reach {
                        tokens: given.finite(),
                        all: None,
                        whole: None,
                        leads: given.raw[0],
                        raw: None,
                    };
                    let reach = within_reach(given, &params, true).unwrap();
                    reached += u32::from(reach.tokens.len() < all.tokens.len());
                    let of = |reach| Distribution::of_reach(reach, &params).unwrap().tokens;
                    let (some, all) = (of(reach), of(all));
                    if params.typical_p < 1.0 && params.top_k == 0 {
                        let off = apart(&some, &all);
                        assert!(off < 1e-4, "{off}, {spread}, {params:?}");
                        continue;
                    }
                    assert_eq!(some.len(), all.len(), "{spread}, {params:?}");
                    for ((id, p), (other, q)) in some.iter().zip(&all) {
                        assert_eq!(id, other, "{spread}, {params:?}");
                        assert!((p - q).abs() <= 1e-12, "{p} and {q}, {spread}, {params:?}");
                    }
                }
            }
        }
        assert!(reached > 380, "{reached} of 612");
    }
}
