//! Probabilities under the model itself: of the logits as they are, at temperature 1.

/// What all tokens have together beside the best one's 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Raw {
    /// The largest finite logit.
    pub(super) best: f32,
    /// Sum of `e^(logit - best)`.
    pub(super) sum: f64,
}

impl Raw {
    /// The probability of a token among these logits; nothing for one that is not among them.
    pub fn probability(self, raw: &[f32], token: u32) -> Option<f64> {
        let logit = raw.get(usize::try_from(token).ok()?)?;
        Some(match logit.is_finite() {
            true => (f64::from(*logit) - f64::from(self.best)).exp() / self.sum,
            false => 0.0,
        })
    }
}
