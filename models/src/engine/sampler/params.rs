//! How tokens are drawn: parameters and their ranges. What they do is in [`super`].

use super::dry::DryParams;

/// How tokens are drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// 0 takes the most probable token; higher values flatten the distribution. 0 to 100.
    pub temperature: f64,
    /// Where temperature comes in.
    pub temperature_order: TemperatureOrder,
    /// Keeps the most probable tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the smallest set of tokens that has this probability. Above 0, at most 1.
    pub top_p: f64,
    /// Keeps the smallest set of tokens of the most typical surprise that has this probability. Above 0, at most 1.
    pub typical_p: f64,
    /// Keeps tokens that have this part of the most probable one's probability. 0 to 1.
    pub min_p: f64,
    /// Divides positive logits of tokens in the window, multiplies negative ones. Above 0; 1 changes nothing.
    pub repetition_penalty: f64,
    /// Subtracted once for each time that a token is in the window. -100 to 100.
    pub frequency_penalty: f64,
    /// Subtracted if a token is in the window at all. -100 to 100.
    pub presence_penalty: f64,
    /// How many of the last tokens, prompt included, the penalties look at.
    pub penalty_window: usize,
    /// Penalises what repeats the end of the text.
    pub dry: DryParams,
    /// Added to the logits of these tokens. -100 to 100.
    pub logit_bias: Vec<(u32, f64)>,
}

/// Whether temperature comes before the cuts or after them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TemperatureOrder {
    /// Before top-k, typical, top-p and min-p, as OpenAI and Hugging Face do.
    First,
    /// After them, as llama.cpp does.
    Last,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            temperature_order: TemperatureOrder::First,
            top_k: 0,
            top_p: 1.0,
            typical_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            penalty_window: 64,
            dry: DryParams::default(),
            logit_bias: Vec::new(),
        }
    }
}

/// A parameter out of range, or logits that nothing can be drawn from.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SamplingError {
    /// A parameter out of its range.
    #[error("{name} must be {range}")]
    OutOfRange {
        /// Which parameter.
        name: &'static str,
        /// Its range.
        range: &'static str,
    },
    /// A bias for a token that the model does not have.
    #[error("logit_bias names a token that the model does not have")]
    UnknownToken,
    /// All logits are infinite or not numbers.
    #[error("the model gave no finite logit")]
    NoFiniteLogit,
}

impl SamplingParams {
    /// Whether neither penalties nor bias change a logit.
    pub(crate) fn leaves_logits(&self) -> bool {
        !self.looks_back() && self.logit_bias.is_empty()
    }

    /// Whether the tokens before matter.
    pub(in crate::engine) fn looks_back(&self) -> bool {
        self.moves_window() || !self.dry.is_off()
    }

    /// Whether logits of all tokens in the window are moved.
    pub(super) fn moves_window(&self) -> bool {
        self.repetition_penalty != 1.0
            || self.frequency_penalty != 0.0
            || self.presence_penalty != 0.0
    }

    /// Whether no token is cut off.
    pub(crate) fn keeps_all(&self) -> bool {
        self.top_k == 0 && self.top_p >= 1.0 && self.typical_p >= 1.0 && self.min_p == 0.0
    }

    /// Whether every parameter is in its range.
    ///
    /// # Errors
    /// [`SamplingError::OutOfRange`] naming the first that is not.
    pub fn check(&self) -> Result<(), SamplingError> {
        let in_100 = |value: f64| (-100.0..=100.0).contains(&value);
        let rules = [
            (
                "temperature",
                "0 to 100",
                (0.0..=100.0).contains(&self.temperature),
            ),
            (
                "top_p",
                "above 0 and at most 1",
                self.top_p > 0.0 && self.top_p <= 1.0,
            ),
            (
                "typical_p",
                "above 0 and at most 1",
                self.typical_p > 0.0 && self.typical_p <= 1.0,
            ),
            ("min_p", "0 to 1", (0.0..=1.0).contains(&self.min_p)),
            (
                "repetition_penalty",
                "above 0 and at most 100",
                self.repetition_penalty > 0.0 && self.repetition_penalty <= 100.0,
            ),
            (
                "frequency_penalty",
                "-100 to 100",
                in_100(self.frequency_penalty),
            ),
            (
                "presence_penalty",
                "-100 to 100",
                in_100(self.presence_penalty),
            ),
            (
                "logit_bias",
                "-100 to 100",
                self.logit_bias.iter().all(|(_, bias)| in_100(*bias)),
            ),
        ];
        let broken = rules.into_iter().find(|(_, _, holds)| !holds);
        let broken = broken.map(|(name, range, _)| (name, range));
        match broken.or_else(|| self.dry.broken_rule()) {
            Some((name, range)) => Err(SamplingError::OutOfRange { name, range }),
            None => Ok(()),
        }
    }
}
