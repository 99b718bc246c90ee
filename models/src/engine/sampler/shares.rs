//! Shares of a whole vocabulary (exponentials of logits, the best one's is 1), added up in parts and written down nowhere: a draw
//! looks at one part.

use casemate_kernels::{Isa, elementwise};

use super::SamplingError;

/// Tokens of a part. More would be added up in 32 bits too coarsely.
const PART: usize = 1024;
/// Logits that are compared at once.
const BLOCK: usize = 16;

/// What each token may have of the whole.
pub struct Shares<'a> {
    isa: Isa,
    logits: &'a [f32],
    best: f32,
    heat: f32,
    sums: Vec<f64>,
    /// Tokens that are in no sum.
    without: Vec<u32>,
}

impl<'a> Shares<'a> {
    /// Those of logits that are divided by `temperature`, which is above 0.
    ///
    /// # Errors
    /// [`SamplingError::NoFiniteLogit`] where nothing may come.
    pub fn of(logits: &'a [f32], temperature: f64) -> Result<Self, SamplingError> {
        let isa = Isa::detect();
        let best = best(isa, logits).ok_or(SamplingError::NoFiniteLogit)?;
        let heat = (1.0 / temperature) as f32;
        let sum = |part| f64::from(elementwise::exponential_sum(isa, part, best, heat));
        Ok(Self {
            isa,
            logits,
            best,
            heat,
            sums: logits.chunks(PART).map(sum).collect(),
            without: Vec::new(),
        })
    }

    /// All of them together.
    pub fn total(&self) -> f64 {
        self.sums.iter().sum()
    }

    /// Tokens with at least this share, and their shares, by their ids.
    pub fn at_least(&self, share: f32) -> Vec<(u32, f32)> {
        // A hair deeper, since the exponential decides.
        let (ids, logits): (Vec<u32>, Vec<f32>) =
            self.within(1e-3 - share.ln()).into_iter().unzip();
        let found = ids.into_iter().zip(self.of_these(logits));
        found.filter(|(_, found)| *found >= share).collect()
    }

    /// Tokens whose logits are at most `depth` natural logarithms below the best, after the temperature, and their logits, by
    /// their ids.
    pub fn within(&self, depth: f32) -> Vec<(u32, f32)> {
        let floor = self.best - depth / self.heat;
        let mut found = Vec::new();
        for (first, block) in (0_u32..).step_by(BLOCK).zip(self.logits.chunks(BLOCK)) {
            if block
                .iter()
                .fold(false, |any, logit| any | (*logit >= floor))
            {
                let reaches = |(_, logit): &(u32, f32)| *logit >= floor && logit.is_finite();
                found.extend((first..).zip(block.iter().copied()).filter(reaches));
            }
        }
        found
    }

    /// What tokens with these logits have together.
    pub fn sum_of(&self, logits: Vec<f32>) -> f64 {
        self.of_these(logits).into_iter().map(f64::from).sum()
    }

    fn of_these(&self, mut logits: Vec<f32>) -> Vec<f32> {
        elementwise::exponentials(self.isa, &mut logits, self.best, self.heat);
        logits
    }

    /// Takes tokens with these shares out of the sums.
    pub fn leave_out(&mut self, tokens: &[(u32, f32)]) {
        let mut taken = vec![0.0; self.sums.len()];
        for (id, share) in tokens {
            if let Some(taken) = taken.get_mut(*id as usize / PART) {
                *taken += f64::from(*share);
            }
        }
        self.without.extend(tokens.iter().map(|(id, _)| *id));
        for (part, taken) in taken.into_iter().enumerate() {
            // What is left of a part that was nearly all taken would be its rounding.
            let sum = self.sums.get(part).copied().unwrap_or_default();
            let left = match taken * 2.0 > sum {
                true => {
                    elementwise::exponential_sum(self.isa, &self.part(part), self.best, self.heat)
                        .into()
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
        for id in &self.without {
            let at = (*id as usize).checked_sub(first);
            if let Some(logit) = at.and_then(|at| logits.get_mut(at)) {
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

/// The largest finite logit.
fn best(isa: Isa, logits: &[f32]) -> Option<f32> {
    let finite = || logits.iter().copied().filter(|logit| logit.is_finite());
    let largest = Some(elementwise::largest_of(isa, logits)).filter(|best| best.is_finite());
    largest.or_else(|| finite().reduce(f32::max))
}
