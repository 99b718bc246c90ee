//! Shares of a whole vocabulary (exponentials of logits, the best one's is 1), added up in parts and written down nowhere: a draw
//! looks at one part.

use casemate_kernels::{Isa, logits};

use super::SamplingError;

/// Tokens of a part. More would be added up in 32 bits too coarsely.
const PART: usize = logits::GROUP;
/// Where this much of a part was taken out, the rest is added up anew: the difference would be mostly rounding.
const NEARLY_ALL: f64 = 63.0 / 64.0;

/// What each token may have of the whole.
pub struct Shares<'a> {
    isa: Isa,
    logits: &'a [f32],
    best: f32,
    heat: f32,
    sums: Vec<f64>,
    /// The largest logits of each part, by the lanes they lie in.
    maxima: Vec<f32>,
    /// Tokens that are in no sum, by their ids.
    without: Vec<u32>,
}

impl<'a> Shares<'a> {
    /// Those of logits that are divided by `temperature`, which is above 0.
    ///
    /// # Errors
    /// [`SamplingError::NoFiniteLogit`] where nothing may come.
    pub fn of(logits: &'a [f32], temperature: f64) -> Result<Self, SamplingError> {
        let isa = Isa::detect();
        let maxima = logits::maxima(isa, logits);
        let best = best(logits, &maxima).ok_or(SamplingError::NoFiniteLogit)?;
        let heat = (1.0 / temperature) as f32;
        let sum = |part| f64::from(logits::exponential_sum(isa, part, best, heat));
        Ok(Self {
            isa,
            logits,
            best,
            heat,
            sums: logits.chunks(PART).map(sum).collect(),
            maxima,
            without: Vec::new(),
        })
    }

    /// All of them together.
    pub fn total(&self) -> f64 {
        self.sums.iter().sum()
    }

    /// Tokens with at least this share, and their shares, by their ids; where they are more than `count`, those of them that
    /// come before `count` others are among them, and few others.
    pub fn at_least(&self, share: f32, count: usize) -> Vec<(u32, f32)> {
        // A hair deeper, since the exponential decides.
        let floor = self.floor(1e-3 - share.ln()).max(self.floor_of(count));
        let (ids, logits): (Vec<u32>, Vec<f32>) = self.above_floor(floor).into_iter().unzip();
        let found = ids.into_iter().zip(self.of_these(logits));
        found.filter(|(_, found)| *found >= share).collect()
    }

    /// Tokens whose logits are at most `depth` natural logarithms below the best, after the temperature, and their logits, by
    /// their ids.
    pub fn within(&self, depth: f32) -> Vec<(u32, f32)> {
        self.above_floor(self.floor(depth))
    }

    fn floor(&self, depth: f32) -> f32 {
        self.best - depth / self.heat
    }

    /// At least `count` logits are not below this, since each of so many maxima is one. Below all numbers where there are too
    /// few maxima to tell.
    fn floor_of(&self, count: usize) -> f32 {
        let mut maxima = self.maxima.clone();
        match count.checked_sub(1).filter(|last| *last < maxima.len()) {
            Some(last) => *maxima.select_nth_unstable_by(last, |a, b| b.total_cmp(a)).1,
            None => f32::NEG_INFINITY,
        }
    }

    fn above_floor(&self, floor: f32) -> Vec<(u32, f32)> {
        let mut found = Vec::new();
        let parts = (0_u32..).step_by(PART).zip(self.logits.chunks(PART));
        for ((first, part), maxima) in parts.zip(self.maxima.chunks(logits::MAXIMA)) {
            if maxima.iter().any(|largest| *largest >= floor) {
                logits::from_floor(self.isa, part, floor, first, &mut found);
            }
        }
        found
    }

    /// What tokens with these logits have together.
    pub fn sum_of(&self, logits: Vec<f32>) -> f64 {
        self.of_these(logits).into_iter().map(f64::from).sum()
    }

    fn of_these(&self, mut logits: Vec<f32>) -> Vec<f32> {
        logits::exponentials(self.isa, &mut logits, self.best, self.heat);
        logits
    }

    /// Takes tokens with these shares out of the sums; they stand by their ids.
    pub fn leave_out(&mut self, tokens: &[(u32, f32)]) {
        self.without = tokens.iter().map(|(id, _)| *id).collect();
        for of_part in tokens.chunk_by(|a, b| part_of(a.0) == part_of(b.0)) {
            let Some(part) = of_part.first().map(|(id, _)| part_of(*id)) else {
                continue;
            };
            let taken: f64 = of_part.iter().map(|(_, share)| f64::from(*share)).sum();
            let sum = self.sums.get(part).copied().unwrap_or_default();
            let left = match taken > sum * NEARLY_ALL {
                true => {
                    let part = self.part(part);
                    logits::exponential_sum(self.isa, &part, self.best, self.heat).into()
                }
                false => sum - taken,
            };
            if let Some(sum) = self.sums.get_mut(part) {
                *sum = left;
            }
        }
    }

    /// The logits of a part; those of tokens that were left out are below all numbers.
    fn part(&self, part: usize) -> Vec<f32> {
        let first = part * PART;
        let mut logits = self
            .logits
            .chunks(PART)
            .nth(part)
            .unwrap_or_default()
            .to_vec();
        let of_part = self.without.partition_point(|id| part_of(*id) < part);
        let without = self.without.iter().skip(of_part);
        for id in without.take_while(|id| part_of(**id) == part) {
            if let Some(logit) = logits.get_mut(*id as usize - first) {
                *logit = f32::NEG_INFINITY;
            }
        }
        logits
    }

    /// The token where the sum of shares passes `left`, and its share; tokens stand in the order of their ids.
    ///
    /// # Errors
    /// [`SamplingError::NoFiniteLogit`] where nothing is left.
    pub fn at(&self, mut left: f64) -> Result<(u32, f64), SamplingError> {
        let mut found = None;
        for (part, sum) in self.sums.iter().enumerate().filter(|(_, sum)| **sum > 0.0) {
            // Rounding may leave a crumb: the last part that may come takes it.
            found = Some(part);
            if left < *sum {
                break;
            }
            left -= sum;
        }
        let part = found.ok_or(SamplingError::NoFiniteLogit)?;
        let shares = self.of_these(self.part(part));
        let mut drawn = None;
        let ids = (part * PART) as u32..;
        for (token, share) in ids.zip(&shares).filter(|(_, share)| **share > 0.0) {
            left -= f64::from(*share);
            drawn = Some((token, f64::from(*share)));
            if left < 0.0 {
                break;
            }
        }
        drawn.ok_or(SamplingError::NoFiniteLogit)
    }
}

fn part_of(id: u32) -> usize {
    id as usize / PART
}

/// The largest finite logit.
fn best(logits: &[f32], maxima: &[f32]) -> Option<f32> {
    let best = maxima.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let finite = || logits.iter().copied().filter(|logit| logit.is_finite());
    Some(best)
        .filter(|best| best.is_finite())
        .or_else(|| finite().reduce(f32::max))
}
