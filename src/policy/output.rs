//! What may leave in a team's answers, and what watches over it on the way out. Each part has a switch; a team that says
//! nothing has the strict values.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// The most likely tokens of whose values anything is ever told (OpenAI's bound).
const LOGPROBS_MAX: u32 = 20;
/// The highest temperature of OpenAI's API, in hundredths.
const TEMPERATURE_PERCENT_MAX: u32 = 200;
/// Less is what answers differ by from one prompt to another; more is the whole of a long prompt.
const LIKELIHOOD_BITS: std::ops::RangeInclusive<u32> = 8..=10_000;

/// Whether a part of the guard works.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Switch {
    /// Not at all.
    #[default]
    Off,
    /// It judges and records, and does nothing.
    Shadow,
    /// It acts.
    On,
}

/// Two options that may stand in one request only where policy says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Together {
    /// A seed beside probabilities.
    SeedAndLogprobs,
    /// A shape of the answer beside probabilities.
    ShapeAndLogprobs,
}

/// A team's rules for what leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutputRules {
    /// Of how many of the likeliest tokens of a place anything may be known; a model's width may allow fewer.
    pub logprobs_max: u32,
    /// The highest temperature, in hundredths.
    pub temperature_percent_max: u32,
    /// Whether `repetition_penalty` and `dry_*` may be used: both change logits of tokens of the caller's choosing by amounts
    /// of the caller's choosing.
    pub penalties: bool,
    /// Which options may be combined.
    pub together: BTreeSet<Together>,
    /// The team's mark in the answers' choice of words.
    pub mark: Switch,
    /// The system prompt is looked for in answers, and held back.
    pub leak: Switch,
    /// Answers are weighed after the system prompt and after a harmless one, and drawn anew after the harmless one where the first
    /// makes them too likely.
    pub likelihood: Switch,
    /// Bits by which it may make them likelier.
    pub likelihood_bits: u32,
    /// A word of the team's own is put into system prompts, and looked for in answers.
    pub canary: Switch,
    /// Answers that repeat themselves end.
    pub repetition: Switch,
}

impl Default for OutputRules {
    fn default() -> Self {
        Self {
            logprobs_max: 5,
            temperature_percent_max: 150,
            penalties: false,
            together: BTreeSet::new(),
            mark: Switch::Off,
            leak: Switch::Off,
            likelihood: Switch::Off,
            likelihood_bits: 40,
            canary: Switch::Off,
            repetition: Switch::On,
        }
    }
}

impl OutputRules {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn check(&self) -> Result<(), &'static str> {
        if self.logprobs_max > LOGPROBS_MAX {
            return Err("output.logprobs_max is not 0 to 20");
        }
        if self.temperature_percent_max > TEMPERATURE_PERCENT_MAX {
            return Err("output.temperature_percent_max is not 0 to 200");
        }
        if !LIKELIHOOD_BITS.contains(&self.likelihood_bits) {
            return Err("output.likelihood_bits is not 8 to 10000");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_absent_is_strict_and_what_is_unknown_or_too_much_is_refused() {
        let read = |text: &str| toml::from_str::<OutputRules>(text);
        let rules = read("").unwrap();
        assert!(rules.is_default());
        assert_eq!(
            (rules.logprobs_max, rules.temperature_percent_max),
            (5, 150)
        );
        assert_eq!((rules.mark, rules.repetition), (Switch::Off, Switch::On));
        let text = "logprobs_max = 20\ntogether = [\"seed_and_logprobs\"]\nmark = \"on\"\nleak = \"shadow\"";
        let rules = read(text).unwrap();
        assert_eq!((rules.mark, rules.leak), (Switch::On, Switch::Shadow));
        assert!(rules.together.contains(&Together::SeedAndLogprobs));
        assert_eq!(rules.check(), Ok(()));
        for wrong in ["marks = \"on\"", "mark = true", "together = [\"all\"]"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        for (wrong, word) in [
            ("logprobs_max = 21", "logprobs_max"),
            ("temperature_percent_max = 201", "temperature_percent_max"),
            ("likelihood_bits = 7", "likelihood_bits"),
            ("likelihood_bits = 10001", "likelihood_bits"),
        ] {
            assert!(read(wrong).unwrap().check().unwrap_err().contains(word));
        }
    }
}
