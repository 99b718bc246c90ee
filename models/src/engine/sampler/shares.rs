//! Shares of a whole vocabulary (exponentials of logits, the best one's is 1), added up in parts and written down nowhere: a draw
//! looks at one part.

use casemate_kernels::{Isa, logits};

use super::SamplingError;
use super::looked::{LIKELY, Looked, PART};
use super::raw::Raw;

/// Where this much of a part was taken out, the rest is added up anew: the difference would be mostly rounding.
const NEARLY_ALL: f64 = 1023.0 / 1024.0;

/// What each token may have of the whole.
pub struct Shares<'a> {
    isa: Isa,
    logits: &'a [f32],
    best: f32,
    heat: f32,
    sums: Vec<f64>,
    looked: Looked<'a>,
    /// Whether somebody asks what all have at temperature 1.
    told: bool,
    /// Tokens that are in no sum, by their ids.
    without: Vec<u32>,
}

impl<'a> Shares<'a> {
    /// Those of logits that are divided by `temperature`, which is above 0; and what all have at temperature 1, where that is
    /// to be `told`.
    ///
    /// # Errors
    /// [`SamplingError::NoFiniteLogit`] where nothing may come.
    pub fn of(logits: &'a [f32], temperature: f64, told: bool) -> Result<Self, SamplingError> {
        let isa = Isa::detect();
        let heat = (1.0 / temperature) as f32;
        let looked = Looked::at(logits, told && heat != 1.0);
        let best = looked.best().ok_or(SamplingError::NoFiniteLogit)?;
        let sum = |part| f64::from(logits::exponential_sum(isa, part, best, heat));
        let sums: Vec<f64> = logits.chunks(PART).map(sum).collect();
        Ok(Self {
            isa,
            logits,
            best,
            heat,
            sums,
            looked,
            told,
            without: Vec::new(),
        })
    }

    /// What all tokens have at temperature 1, if it is to be told. Of the sums nothing may have been left out.
    pub fn raw(&self) -> Option<Raw> {
        self.raw_by(|| self.looked.likely(self.best))
    }

    /// The same where [`Self::at_least`] found `tokens` that have `share`: these are the likeliest, and all or so many that no
    /// other has much, unless a low temperature leaves out what is likely without it.
    pub fn raw_beside(&self, tokens: &[(u32, f32)], share: f32) -> Option<Raw> {
        if -share.ln() < LIKELY * self.heat {
            return self.raw();
        }
        let with_logit = |(id, _): &(u32, f32)| Some((*id, *self.logits.get(*id as usize)?));
        self.raw_by(|| tokens.iter().filter_map(with_logit).collect())
    }

    fn raw_by(&self, likely: impl FnOnce() -> Vec<(u32, f32)>) -> Option<Raw> {
        let Self { best, heat, .. } = *self;
        self.told.then(|| match heat == 1.0 {
            true => Raw {
                best,
                sum: self.total(),
            },
            false => self.looked.raw(best, &likely()),
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
        let floor = self
            .floor(1e-3 - share.ln())
            .max(self.looked.floor_of(count));
        let mut found = self.above_floor(floor);
        let shares = self.of_these(found.iter().map(|(_, logit)| *logit).collect());
        for ((_, found), share) in found.iter_mut().zip(shares) {
            *found = share;
        }
        found.retain(|(_, found)| *found >= share);
        found
    }

    /// Tokens whose logits are at most `depth` natural logarithms below the best, after the temperature, and their logits, by
    /// their ids.
    pub fn within(&self, depth: f32) -> Vec<(u32, f32)> {
        self.above_floor(self.floor(depth))
    }

    fn floor(&self, depth: f32) -> f32 {
        self.best - depth / self.heat
    }

    fn above_floor(&self, floor: f32) -> Vec<(u32, f32)> {
        logits::from_floor(self.isa, self.logits, &self.looked.maxima, floor)
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
