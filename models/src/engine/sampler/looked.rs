//! The first look at a vocabulary: the largest logit of each block, and nearly what all tokens have together.

use casemate_kernels::logits::{self, Exponentials};
use casemate_kernels::{Isa, elementwise};

use super::raw::Raw;

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
    logits: &'a [f32],
    /// The largest logit of each block.
    maxima: Vec<f32>,
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

impl<'a> Looked<'a> {
    pub(super) fn at(logits: &'a [f32], wanted: Wanted) -> Self {
        let isa = Isa::detect();
        // The largest of all is not known yet, and that of the first few is as good.
        let first = logits.get(..FIRST).unwrap_or(logits);
        let first = elementwise::largest_of(isa, first);
        let above_first = |heat| Exponentials {
            reference: first + ABOVE_FIRST / heat,
            heat,
        };
        let sized = |of: &Exponentials| (of.reference * of.heat).abs() < POWER_MAX;
        let raw = Some(above_first(1.0)).filter(|of| wanted.raw && sized(of));
        let heated = wanted.heat.map(above_first).filter(sized);
        let coarse = |of, sum| Coarse { of, sum };
        let (maxima, raw, heated) = match (raw, heated) {
            (Some(raw), Some(heated)) if raw != heated => {
                let (maxima, [of_raw, of_heated]) =
                    logits::maxima_and_coarse_sums(isa, logits, [raw, heated]);
                let (raw, heated) = (coarse(raw, of_raw), coarse(heated, of_heated));
                (maxima, Some(raw), Some(heated))
            }
            (None, None) => (logits::maxima(isa, logits), None, None),
            (Some(of), _) | (None, Some(of)) => {
                let (maxima, [sum]) = logits::maxima_and_coarse_sums(isa, logits, [of]);
                let both = |_| coarse(of, sum);
                (maxima, raw.map(both), heated.map(both))
            }
        };
        Self {
            isa,
            logits,
            maxima,
            raw,
            heated,
        }
    }

    /// The largest finite logit.
    pub(super) fn best(&self) -> Option<f32> {
        let finite = || {
            let logits = self.logits.iter().copied();
            logits.filter(|logit| logit.is_finite())
        };
        Some(elementwise::largest_of(self.isa, &self.maxima))
            .filter(|best| best.is_finite())
            .or_else(|| finite().reduce(f32::max))
    }

    /// What all have, of which `known` are the likeliest tokens and their logits: those down to [`Self::likely`], or so many that
    /// no other has much.
    pub(super) fn raw(&self, best: f32, known: &[(u32, f32)]) -> Raw {
        let near = self.raw.and_then(|coarse| coarse.near(best));
        let coarse = near.unwrap_or_else(|| {
            let of = Exponentials {
                reference: best,
                heat: 1.0,
            };
            let (_, [sum]) = logits::maxima_and_coarse_sums(self.isa, self.logits, [of]);
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

    /// What all but `known` have beside the best one's 1, or more; infinite where nobody wanted to know, or it can't be told.
    pub(super) fn others_at_most(&self, best: f32, known: &[(u32, f32)]) -> f64 {
        let near = self.heated.and_then(|coarse| coarse.near(best));
        near.map_or(f64::INFINITY, |coarse| {
            let (others, all) = coarse.without(known, best);
            // Lanes of a sum have a number of each block.
            let rounding = ROUNDING + self.maxima.len() as f64 * f64::from(f32::EPSILON);
            LINES_OFF * (others + all * rounding)
        })
    }

    /// The likely tokens and their logits.
    pub(super) fn likely(&self, best: f32) -> Vec<(u32, f32)> {
        self.reaching(best - LIKELY, LIKELY_MAX)
    }

    /// Tokens whose logits are from `floor` on, and their logits, by their ids; where half as many blocks again as `count` have
    /// some, those of them that come before `count` others are among them, and few others.
    pub(super) fn reaching(&self, floor: f32, count: usize) -> Vec<(u32, f32)> {
        self.unless_many(floor, count + count / 2)
            .unwrap_or_else(|| self.all_from(floor.max(self.floor_of(count))))
    }

    /// All tokens whose logits are from `floor` on.
    pub(super) fn all_from(&self, floor: f32) -> Vec<(u32, f32)> {
        self.unless_many(floor, usize::MAX).unwrap_or_default()
    }

    /// The same; nothing where more than `blocks_max` blocks have some.
    fn unless_many(&self, floor: f32, blocks_max: usize) -> Option<Vec<(u32, f32)>> {
        logits::from_floor(self.isa, self.logits, &self.maxima, floor, blocks_max)
    }

    /// At least `count` logits are not below this, since each of so many maxima is one: those of four blocks together where they
    /// are enough to be near it, of each where they are not. Below all numbers where these are too few.
    fn floor_of(&self, count: usize) -> f32 {
        let larger = |a: f32, b: f32| if a > b { a } else { b };
        let (fours, _) = self.maxima.as_chunks();
        let mut maxima: Vec<f32> = match fours.len() >= 2 * count {
            true => fours
                .iter()
                .map(|[a, b, c, d]| larger(larger(*a, *b), larger(*c, *d)))
                .collect(),
            false => self.maxima.clone(),
        };
        match count.checked_sub(1).filter(|last| *last < maxima.len()) {
            Some(last) => *maxima.select_nth_unstable_by(last, |a, b| b.total_cmp(a)).1,
            None => f32::NEG_INFINITY,
        }
    }
}

/// The token with the largest logit, of equals the first, and what all have where it is to be `told`; nothing where the largest is
/// not finite.
pub(in crate::engine) fn first_token(logits: &[f32], told: bool) -> Option<(u32, Option<Raw>)> {
    let wanted = Wanted {
        raw: told,
        heat: None,
    };
    let looked = Looked::at(logits, wanted);
    let best = looked.best()?;
    let block = looked.maxima.iter().position(|largest| *largest >= best)?;
    let first = block * logits::BLOCK;
    let behind = logits
        .get(first..)?
        .iter()
        .position(|logit| *logit >= best)?;
    let token = first + behind;
    let leads = logits.get(token).is_some_and(|logit| logit.is_finite());
    let token = u32::try_from(token).ok().filter(|_| leads)?;
    Some((token, told.then(|| looked.raw(best, &looked.likely(best)))))
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

    fn told(logits: &[f32]) -> (u32, Raw) {
        let (first, raw) = first_token(logits, true).unwrap();
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
            let (first, raw) = told(&logits);
            assert_eq!(first_token(&logits, false), Some((first, None)));
            for token in [0, 5, 30_003, 40_000, first] {
                let exact = exact(&logits, token as usize);
                let found = raw.probability(&logits, token).unwrap();
                let off = (found / exact - 1.0).abs();
                assert!(off < 7e-4, "{spread}, {lead}, {token}: {off}");
            }
            let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let place = logits.iter().position(|logit| *logit == largest);
            assert_eq!(place, Some(first as usize));
        }
    }

    /// As a model of random weights has them: all are likely, and not all are listed.
    #[test]
    fn where_everything_is_likely_a_few_hundred_count_exactly() {
        let mut points = Draws::new(4);
        let logits: Vec<f32> = (0..100_000)
            .map(|_| (points.next_point() * 6.0) as f32)
            .collect();
        let looked = Looked::at(&logits, RAW);
        let best = looked.best().unwrap();
        let likely = looked.likely(best);
        assert!(
            (LIKELY_MAX..=2 * LIKELY_MAX).contains(&likely.len()),
            "{}",
            likely.len()
        );
        let raw = looked.raw(best, &likely);
        let off = raw.probability(&logits, 77).unwrap() / exact(&logits, 77) - 1.0;
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
        let off = raw.probability(&logits, 40).unwrap() / exact(&logits, 40) - 1.0;
        assert!(off.abs() < 1e-5, "{off}");
    }

    /// All of a tail are off in the same way.
    #[test]
    fn a_tail_of_equals_is_told_to_a_four_hundredth() {
        for below in 0..100 {
            let mut logits = vec![-0.1 * below as f32; 30_000];
            logits[7] = 0.0;
            let (_, raw) = told(&logits);
            let found = raw.probability(&logits, 7).unwrap();
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
            let off = raw.probability(&logits, token).unwrap() / exact - 1.0;
            assert!(off.abs() < 7e-4, "{first}: {off}");
        }
    }

    #[test]
    fn what_is_no_number_has_no_part() {
        let logits = [f32::NAN, f32::INFINITY, 2.0, 2.0, f32::NEG_INFINITY];
        let looked = Looked::at(&logits, RAW);
        let raw = looked.raw(2.0, &looked.likely(2.0));
        assert_eq!(looked.best(), Some(2.0));
        let found: Vec<_> = (0..6).map(|at| raw.probability(&logits, at)).collect();
        let half = Some(0.5);
        let none = Some(0.0);
        assert_eq!(found, [none, none, half, half, none, None]);
        assert_eq!(first_token(&logits, true), None);
        assert_eq!(first_token(&[], true), None);
        assert_eq!(Looked::at(&[f32::NAN], RAW).best(), None);
    }
}
