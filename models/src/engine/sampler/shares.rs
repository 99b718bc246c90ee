//! Shares of a whole vocabulary (exponentials of logits, the best one's is 1), added up in parts and written down nowhere: a draw
//! looks at one part.

use super::SamplingError;
use super::given::Given;
use super::heated::Heated;
use super::looked::{PART, Wanted};
use super::raw::Raw;

/// Where this much of a part was taken out, the rest is added up anew: the difference would be mostly rounding.
const NEARLY_ALL: f64 = 1023.0 / 1024.0;

/// What each token may have of the whole.
pub struct Shares<'a> {
    heated: Heated<'a>,
    sums: Vec<f64>,
    /// Whether somebody asks what all have at temperature 1.
    told: bool,
    /// Tokens that are in no sum, by their ids.
    without: Vec<u32>,
}

impl<'a> Shares<'a> {
    /// Those of logits that are divided by `temperature`, which is above 0; and what all have at temperature 1 before any were
    /// moved, where that is to be `told`.
    ///
    /// # Errors
    /// [`SamplingError::NoFiniteLogit`] where nothing may come.
    pub(super) fn of(
        given: Given<'a>,
        temperature: f64,
        told: bool,
    ) -> Result<Self, SamplingError> {
        // At temperature 1 the sums tell it, if nothing was moved.
        let moved = !given.moved().is_empty();
        let wanted = |heat| Wanted {
            raw: told && (moved || heat != 1.0),
            heat: None,
        };
        let mut shares = Self::added_up(Heated::of(given, temperature, wanted)?);
        shares.told = told;
        Ok(shares)
    }

    /// All shares, added up.
    pub(super) fn added_up(heated: Heated<'a>) -> Self {
        Self {
            sums: heated.sums(),
            heated,
            told: false,
            without: Vec::new(),
        }
    }

    /// The largest logit before any were moved.
    pub(super) fn leads(&self) -> f32 {
        self.heated.leads()
    }

    /// What all tokens have at temperature 1, if it is to be told. Of the sums nothing may have been left out.
    pub(super) fn raw(&self) -> Option<Raw> {
        self.told.then(|| self.heated.raw_of(Some(self.total())))
    }

    /// All of them together.
    pub fn total(&self) -> f64 {
        self.sums.iter().sum()
    }

    /// Takes tokens with these shares out of the sums; they stand by their ids.
    pub(super) fn leave_out(&mut self, tokens: &[(u32, f64)]) {
        self.without = tokens.iter().map(|(id, _)| *id).collect();
        for of_part in tokens.chunk_by(|a, b| part_of(a.0) == part_of(b.0)) {
            let Some(part) = of_part.first().map(|(id, _)| part_of(*id)) else {
                continue;
            };
            let taken: f64 = of_part.iter().map(|(_, share)| share).sum();
            let sum = self.sums.get(part).copied().unwrap_or_default();
            let left = match taken > sum * NEARLY_ALL {
                true => self.heated.sum_of_part(&self.part(part)),
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
        let mut logits = self.heated.part(part).into_owned();
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
        let shares = self.heated.of_these(self.part(part));
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
