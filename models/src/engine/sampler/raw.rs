//! Probabilities under the model itself: of the logits as they are, at temperature 1.

use casemate_kernels::{Isa, elementwise, logits};

use super::looked::PART;

/// What all tokens of a model's logits have together beside the best one's 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Raw {
    /// The largest finite logit.
    pub(super) best: f32,
    /// Sum of `e^(logit - best)`.
    pub(super) sum: f64,
}

impl Raw {
    /// What tokens with these logits have.
    pub(in crate::engine) fn of(logits: &[f32]) -> Self {
        let isa = Isa::detect();
        let best = elementwise::largest_of(isa, logits);
        let parts = logits.chunks(PART);
        let exact = |part| f64::from(logits::exponential_sum(isa, part, best, 1.0));
        Self {
            best,
            sum: parts.map(exact).sum(),
        }
    }

    /// The largest finite logit.
    pub fn best(self) -> f32 {
        self.best
    }

    /// The probability of a token with this logit.
    pub fn probability(self, logit: f32) -> f64 {
        match logit.is_finite() {
            true => (f64::from(logit) - f64::from(self.best)).exp() / self.sum,
            false => 0.0,
        }
    }
}
