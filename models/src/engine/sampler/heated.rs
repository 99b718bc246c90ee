//! Logits that are divided by a temperature, after the first look at all of them: shares of some (exponentials of logits, the
//! best one's is 1), and bounds of what others have. Nothing is added up exactly.

use casemate_kernels::{Isa, logits};

use super::SamplingError;
use super::looked::{LIKELY, Looked, PART, Wanted};
use super::raw::Raw;

/// What each token may have of the whole, as far as one look tells.
pub(super) struct Heated<'a> {
    isa: Isa,
    pub(super) logits: &'a [f32],
    best: f32,
    heat: f32,
    looked: Looked<'a>,
}

impl<'a> Heated<'a> {
    /// Logits that are divided by `temperature`, which is above 0. What else is `wanted` is asked with what they are multiplied
    /// by.
    ///
    /// # Errors
    /// [`SamplingError::NoFiniteLogit`] where nothing may come.
    pub(super) fn of(
        logits: &'a [f32],
        temperature: f64,
        wanted: impl FnOnce(f32) -> Wanted,
    ) -> Result<Self, SamplingError> {
        let heat = (1.0 / temperature) as f32;
        let looked = Looked::at(logits, wanted(heat));
        let best = looked.best().ok_or(SamplingError::NoFiniteLogit)?;
        Ok(Self {
            isa: Isa::detect(),
            logits,
            best,
            heat,
            looked,
        })
    }

    /// What all tokens have at temperature 1, where their shares have `all` together if that is known.
    pub(super) fn raw_of(&self, all: Option<f64>) -> Raw {
        match all.filter(|_| self.heat == 1.0) {
            Some(sum) => Raw {
                best: self.best,
                sum,
            },
            None => self.raw(),
        }
    }

    /// The same nearly.
    fn raw(&self) -> Raw {
        let likely = self.looked.likely(self.best);
        self.looked.raw(self.best, &likely)
    }

    /// The same where [`Self::at_least`] found `tokens` that have `share`: these are the likeliest, and all or so many that no
    /// other has much, unless a low temperature leaves out what is likely without it.
    pub(super) fn raw_beside(&self, tokens: &[(u32, f32)], share: f32) -> Raw {
        if -share.ln() < LIKELY * self.heat {
            return self.raw();
        }
        self.looked.raw(self.best, &self.with_logits(tokens))
    }

    /// What all tokens but these have together, or more.
    pub(super) fn others_at_most(&self, tokens: &[(u32, f32)]) -> f64 {
        let known = self.with_logits(tokens);
        self.looked.others_at_most(self.best, &known)
    }

    fn with_logits(&self, tokens: &[(u32, f32)]) -> Vec<(u32, f32)> {
        let logit = |id: u32| self.logits.get(id as usize).copied();
        let with_logit = |(id, _): &(u32, f32)| (*id, logit(*id).unwrap_or(f32::NEG_INFINITY));
        tokens.iter().map(with_logit).collect()
    }

    /// Tokens with at least this share, and their shares, by their ids; where they are more than `count`, those of them that
    /// come before `count` others are among them, and few others.
    pub(super) fn at_least(&self, share: f32, count: usize) -> Vec<(u32, f32)> {
        // A hair deeper, since the exponential decides.
        let floor = self.floor(1e-3 - share.ln());
        let mut found = self.looked.reaching(floor, count);
        let shares = self.of_these(found.iter().map(|(_, logit)| *logit).collect());
        for ((_, found), share) in found.iter_mut().zip(shares) {
            *found = share;
        }
        found.retain(|(_, found)| *found >= share);
        found
    }

    /// Tokens whose logits are at most `depth` natural logarithms below the best, after the temperature, and their logits, by
    /// their ids.
    pub(super) fn within(&self, depth: f32) -> Vec<(u32, f32)> {
        self.looked.all_from(self.floor(depth))
    }

    fn floor(&self, depth: f32) -> f32 {
        self.best - depth / self.heat
    }

    /// What tokens with these logits have together.
    pub(super) fn sum_of(&self, logits: Vec<f32>) -> f64 {
        self.of_these(logits).into_iter().map(f64::from).sum()
    }

    /// The shares of these logits.
    pub(super) fn of_these(&self, mut logits: Vec<f32>) -> Vec<f32> {
        logits::exponentials(self.isa, &mut logits, self.best, self.heat);
        logits
    }

    /// The sums of all shares, in parts.
    pub(super) fn sums(&self) -> Vec<f64> {
        let parts = self.logits.chunks(PART);
        parts.map(|part| self.sum_of_part(part)).collect()
    }

    /// The sum of the shares of a part's logits.
    pub(super) fn sum_of_part(&self, part: &[f32]) -> f64 {
        logits::exponential_sum(self.isa, part, self.best, self.heat).into()
    }
}
