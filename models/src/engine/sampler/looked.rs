//! The first look at a vocabulary: the largest logit of each block, and nearly what all tokens have together.

use casemate_kernels::logits::{self, Exponentials};
use casemate_kernels::{Isa, elementwise};

use super::blocks::Blocks;
use super::given::Given;
use super::raw::Raw;
use super::{SamplingError, falling};

/// Exponentials that are added up in 32 bits. More would be added up too coarsely.
pub(super) const PART: usize = 1024;
/// Logits whose largest one stands for that of all, until it is known.
const FIRST: usize = 256;
/// So much above it is what exponentials are taken beside: what is nothing beside that is nothing beside the largest logit either,
/// and that may be as much further above. A power of two, between which the lines of a coarse sum are the same.
const ABOVE_FIRST: f32 = 58.0 * std::f32::consts::LN_2;
/// The largest logit is not taken for further above that, so that a sum of exponentials has an end.
const ABOVE_MAX: f32 = 60.0;
/// Powers of e beyond which a coarse sum would not know where its lines begin.
const POWER_MAX: f32 = 1_000.0;
/// How much more than a coarse sum tells an exact one may be: a line is off by 4 % at most.
const LINES_OFF: f64 = 1.05;
/// How much of all exponentials is lost where a coarse sum is rounded, and where some of it is taken out again.
const ROUNDING: f64 = 1.0 / 512.0;

/// Logits that are not as far below the largest count exactly: others have a thousandth of its share at most.
pub(super) const LIKELY: f32 = 7.0;
/// But no more than about so many: where there are more, no other has much.
const LIKELY_MAX: usize = 256;

/// What somebody wants to know, nearly, beside the maxima.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    /// What the exponentials of all logits are together.
    pub(super) raw: bool,
    /// The same of logits times this.
    pub(super) heat: Option<f32>,
}

/// The largest logits of a vocabulary, and nearly what its exponentials are together, if somebody asked.
pub(super) struct Looked<'a> {
    isa: Isa,
    blocks: Blocks<'a>,
    /// The same before any logit was moved; nothing where none was.
    before: Option<Blocks<'a>>,
    raw: Option<Coarse>,
    heated: Option<Coarse>,
}

/// What exponentials of all logits are together, nearly.
#[derive(Clone, Copy)]
struct Coarse {
    of: Exponentials,
    sum: f32,
}

impl Coarse {
    /// Where `best` is the largest logit; nothing where it is too far above the reference.
    fn near(self, best: f32) -> Option<Self> {
        let Exponentials { reference, heat } = self.of;
        ((best - reference) * heat < ABOVE_MAX).then_some(self)
    }

    /// What all but these have, and what all have, beside the best one's 1.
    fn without(self, known: &[(u32, f32)], best: f32) -> (f64, f64) {
        let Exponentials { reference, heat } = self.of;
        let others = (self.sum - logits::coarse_shares(known, self.of)).max(0.0);
        let reference = (f64::from(reference - best) * f64::from(heat)).exp();
        (
            f64::from(others) * reference,
            f64::from(self.sum) * reference,
        )
    }
}

/// What stands for the largest logit, which is not known yet: that of the first few is as good.
fn first_of(isa: Isa, logits: &[f32]) -> f32 {
    elementwise::largest_of(isa, logits.get(..FIRST).unwrap_or(logits))
}

/// Exponentials beside what is far enough above that; nothing where their lines have no beginning.
fn above(first: f32, heat: f32) -> Option<Exponentials> {
    let reference = first + ABOVE_FIRST / heat;
    let sized = (reference * heat).abs() < POWER_MAX;
    sized.then_some(Exponentials { reference, heat })
}

impl<'a> Looked<'a> {
    pub(super) fn at(given: Given<'a>, wanted: Wanted) -> Self {
        let isa = Isa::detect();
        let first = first_of(isa, given.raw);
        let raw = above(first, 1.0).filter(|_| wanted.raw);
        let heated = wanted.heat.and_then(|heat| above(first, heat));
        let coarse = |of, sum| Coarse { of, sum };
        let (maxima, raw, heated) = match (raw, heated) {
            (Some(raw), Some(heated)) if raw != heated => {
                let (maxima, [of_raw, of_heated]) =
                    logits::maxima_and_coarse_sums(isa, given.raw, [raw, heated]);
                let (raw, heated) = (coarse(raw, of_raw), coarse(heated, of_heated));
                (maxima, Some(raw), Some(heated))
            }
            (None, None) => (logits::maxima(isa, given.raw), None, None),
            (Some(of), _) | (None, Some(of)) => {
                let (maxima, [sum]) = logits::maxima_and_coarse_sums(isa, given.raw, [of]);
                let both = |_| coarse(of, sum);
                (maxima, raw.map(both), heated.map(both))
            }
        };
        Self {
            isa,
            before: Blocks::before(isa, &given, &maxima),
            blocks: Blocks::of(isa, given, maxima),
            raw,
            heated,
        }
    }

    /// The logits with the largest of each block.
    pub(super) fn blocks(&self) -> &Blocks<'a> {
        &self.blocks
    }

    /// The same before any were moved.
    fn before(&self) -> &Blocks<'a> {
        self.before.as_ref().unwrap_or(&self.blocks)
    }

    /// The largest logit before any were moved; below all numbers where none is finite.
    pub(super) fn leads(&self) -> f32 {
        self.before().best().unwrap_or(f32::NEG_INFINITY)
    }

    /// What all have before any were moved.
    pub(super) fn raw(&self) -> Raw {
        let leads = self.leads();
        self.raw_beside(&self.before().reaching(leads - LIKELY, LIKELY_MAX))
    }

    /// The same, of which `known` are the likeliest tokens and their logits: those that are [`LIKELY`], or so many that no other
    /// has much.
    pub(super) fn raw_beside(&self, known: &[(u32, f32)]) -> Raw {
        let best = self.leads();
        let near = self.raw.and_then(|coarse| coarse.near(best));
        let coarse = near.unwrap_or_else(|| {
            let of = Exponentials {
                reference: best,
                heat: 1.0,
            };
            let logits = self.before().given.raw;
            let (_, [sum]) = logits::maxima_and_coarse_sums(self.isa, logits, [of]);
            Coarse { of, sum }
        });
        let (tail, _) = coarse.without(known, best);
        let known: Vec<f32> = known.iter().map(|(_, logit)| *logit).collect();
        let parts = known.chunks(PART);
        let exact = |part| f64::from(logits::exponential_sum(self.isa, part, best, 1.0));
        Raw {
            best,
            sum: parts.map(exact).sum::<f64>() + tail,
        }
    }

    /// What all tokens but those of `known`, which stand by their ids, have beside the best one's 1; nothing where nobody wanted to
    /// know, or it can't be told.
    pub(super) fn others(&self, best: f32, known: &[u32]) -> Option<Others> {
        let coarse = self.heated?.near(self.leads())?;
        let is_known = |id: &u32| known.binary_search(id).is_ok();
        let moved = || {
            self.blocks
                .given
                .moved()
                .iter()
                .filter(|(id, _)| !is_known(id))
        };
        let raw = self.before().given.raw;
        let logit = |id: u32| raw.get(id as usize).copied().unwrap_or(f32::NEG_INFINITY);
        let known = known.iter().chain(moved().map(|(id, _)| id));
        let known: Vec<(u32, f32)> = known.map(|id| (*id, logit(*id))).collect();
        let (others, all) = coarse.without(&known, best);
        let heat = f64::from(coarse.of.heat);
        let share = |logit: f64| ((logit - f64::from(best)) * heat).exp();
        let moved = moved().filter(|(_, logit)| logit.is_finite());
        Some(Others {
            nearly: others + moved.map(|(_, logit)| share(*logit)).sum::<f64>(),
            // Lanes of a sum have a number of each block.
            off: all * self.blocks.count() as f64 * f64::from(f32::EPSILON),
            all,
        })
    }
}

/// Logits whose bits are set, all others at minus infinity; and what all have, before that, if it is to be `told` and any is finite.
pub(in crate::engine) fn masked(raw: &[f32], words: &[u32], told: bool) -> (Vec<f32>, Option<Raw>) {
    let isa = Isa::detect();
    if !told {
        return (logits::masked(isa, raw, words), None);
    }
    let given = Given::untouched(raw);
    let (left, looked) = match above(first_of(isa, raw), 1.0) {
        Some(of) => {
            let (left, (maxima, [sum])) = logits::masked_and_looked_at(isa, raw, words, [of]);
            let looked = Looked {
                isa,
                before: None,
                blocks: Blocks::of(isa, given, maxima),
                raw: Some(Coarse { of, sum }),
                heated: None,
            };
            (left, looked)
        }
        None => {
            let wanted = Wanted {
                raw: true,
                heat: None,
            };
            let looked = Looked::at(given, wanted);
            (logits::masked(isa, raw, words), looked)
        }
    };
    (left, looked.blocks().best().map(|_| looked.raw()))
}

/// What all tokens but some have.
pub(super) struct Others {
    /// Nearly: off by 4 % at most, of many tokens by much less.
    nearly: f64,
    /// By how much it may be off besides.
    off: f64,
    /// What all had, before any were moved.
    all: f64,
}

impl Others {
    /// As much, or more.
    pub(super) fn at_most(&self) -> f64 {
        let most = LINES_OFF * (self.nearly + self.off + self.all * ROUNDING);
        match most.is_finite() {
            true => most,
            false => f64::INFINITY,
        }
    }

    /// Nearly what they have, unless that may be off by this much.
    pub(super) fn nearly(&self, off: f64) -> Option<f64> {
        (self.off < off).then_some(self.nearly)
    }
}

/// The token with the largest logit, of equals the first; what is told of it.
///
/// # Errors
/// [`SamplingError::NoFiniteLogit`].
pub(super) fn first_token(
    given: Given<'_>,
    told: bool,
) -> Result<(u32, f32, Option<Raw>), SamplingError> {
    let wanted = Wanted {
        raw: told,
        heat: None,
    };
    let looked = Looked::at(given, wanted);
    let blocks = looked.blocks();
    let best = blocks.best().ok_or(SamplingError::NoFiniteLogit)?;
    // What was moved may be equal to others in 32 bits alone.
    let exact = |(id, _)| Some((id, blocks.given.exact(id)?));
    let equals = blocks.all_from(best).into_iter().filter_map(exact);
    let (first, _) = equals.min_by(falling).ok_or(SamplingError::NoFiniteLogit)?;
    Ok((first, looked.leads(), told.then(|| looked.raw())))
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]
mod tests {
    use super::super::Draws;
    use super::*;

    const RAW: Wanted = Wanted {
        raw: true,
        heat: None,
    };

    fn exact(logits: &[f32], token: usize) -> f64 {
        let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let share = |logit: &f32| f64::from(logit - best).exp();
        share(&logits[token]) / logits.iter().map(share).sum::<f64>()
    }

    fn looked(logits: &[f32]) -> Looked<'_> {
        Looked::at(Given::untouched(logits), RAW)
    }

    fn first(logits: &[f32], told: bool) -> Option<(u32, Option<Raw>)> {
        let found = first_token(Given::untouched(logits), told).ok();
        found.map(|(token, _, raw)| (token, raw))
    }

    fn told(logits: &[f32]) -> (u32, Raw) {
        let (first, raw) = first(logits, true).unwrap();
        (first, raw.unwrap())
    }

    /// Vocabularies with a thin tail, a heavy one, and one that leads.
    #[test]
    fn probabilities_are_those_of_the_softmax() {
        let mut points = Draws::new(3);
        for (spread, lead) in [(0.7, 0.0), (1.4, 0.0), (3.0, 0.0), (1.4, 9.0), (0.5, 9.0)] {
            let mut logits: Vec<f32> = (0..40_001)
                .map(|_| (-(1.0 - points.next_point()).ln() * spread) as f32)
                .collect();
            logits[30_003] += lead;
            let (leader, raw) = told(&logits);
            assert_eq!(first(&logits, false), Some((leader, None)));
            for token in [0, 5, 30_003, 40_000, leader] {
                let exact = exact(&logits, token as usize);
                let found = raw.probability(logits[token as usize]);
                let off = (found / exact - 1.0).abs();
                assert!(off < 7e-4, "{spread}, {lead}, {token}: {off}");
            }
            let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let place = logits.iter().position(|logit| *logit == largest);
            assert_eq!(place, Some(leader as usize));
        }
    }

    /// As a model of random weights has them: all are likely, and not all are listed.
    #[test]
    fn where_everything_is_likely_a_few_hundred_count_exactly() {
        let mut points = Draws::new(4);
        let logits: Vec<f32> = (0..100_000)
            .map(|_| (points.next_point() * 6.0) as f32)
            .collect();
        let looked = looked(&logits);
        let likely = looked
            .blocks()
            .reaching(looked.leads() - LIKELY, LIKELY_MAX);
        assert!(
            (LIKELY_MAX..=2 * LIKELY_MAX).contains(&likely.len()),
            "{}",
            likely.len()
        );
        let raw = looked.raw();
        let off = raw.probability(logits[77]) / exact(&logits, 77) - 1.0;
        assert!(off.abs() < 2.5e-3, "{off}");
    }

    #[test]
    fn neighbours_that_are_likely_count_exactly() {
        let mut logits: Vec<f32> = (0..9_000).map(|at| (at * 37 % 101) as f32 / 50.0).collect();
        for (at, logit) in logits[40..56].iter_mut().enumerate() {
            *logit = 12.0 + at as f32 / 10.0;
        }
        let (first, raw) = told(&logits);
        assert_eq!(first, 55);
        let off = raw.probability(logits[40]) / exact(&logits, 40) - 1.0;
        assert!(off.abs() < 1e-5, "{off}");
    }

    /// All of a tail are off in the same way.
    #[test]
    fn a_tail_of_equals_is_told_to_a_four_hundredth() {
        for below in 0..100 {
            let mut logits = vec![-0.1 * below as f32; 30_000];
            logits[7] = 0.0;
            let (_, raw) = told(&logits);
            let found = raw.probability(logits[7]);
            let off = found / exact(&logits, 7) - 1.0;
            assert!(off.abs() < 2.5e-3, "{below}: {off}");
        }
    }

    /// The first few logits stand for the largest one, and may be far from it or none.
    #[test]
    fn where_the_first_few_do_not_stand_for_the_others_all_are_looked_at_again() {
        for first in [-200.0, -70.0, f32::NEG_INFINITY, f32::NAN] {
            let mut logits: Vec<f32> = (0..3_000).map(|at| (at % 601) as f32 / 40.0).collect();
            logits[..FIRST].fill(first);
            let (token, raw) = told(&logits);
            assert_eq!(token, 600);
            let mut finite = logits.clone();
            finite.retain(|logit| logit.is_finite());
            let exact = exact(
                &finite,
                finite.iter().position(|logit| *logit == 15.0).unwrap(),
            );
            let off = raw.probability(logits[token as usize]) / exact - 1.0;
            assert!(off.abs() < 7e-4, "{first}: {off}");
        }
    }

    #[test]
    fn what_is_no_number_has_no_part() {
        let logits = [f32::NAN, f32::INFINITY, 2.0, 2.0, f32::NEG_INFINITY];
        let raw = looked(&logits).raw();
        assert_eq!(raw.best(), 2.0);
        let found = logits.map(|logit| raw.probability(logit));
        assert_eq!(found, [0.0, 0.0, 0.5, 0.5, 0.0]);
        assert_eq!(first(&logits, true), Some((2, Some(raw))));
        assert_eq!(first(&[], true), None);
        assert_eq!(looked(&[f32::NAN]).blocks().best(), None);
    }
}
