//! What each step of the ladder keeps from a principal. Options are refused by name, answers become shorter and later; no step
//! gives a false answer.

use serde::{Deserialize, Serialize};

use super::verdict::Step;

/// An option that shows more of the model than text does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WithheldOption {
    /// Probabilities beside tokens.
    Logprobs,
    /// Biases of tokens.
    LogitBias,
    /// A message of the model's that the caller begins.
    Prefill,
    /// The caller's seed.
    Seed,
}

impl WithheldOption {
    /// Every option, in the order in which they are looked at.
    pub const ALL: [Self; 4] = [Self::Logprobs, Self::LogitBias, Self::Prefill, Self::Seed];

    /// The request's parameter.
    #[must_use]
    pub const fn param(self) -> &'static str {
        match self {
            Self::Logprobs => "logprobs",
            Self::LogitBias => "logit_bias",
            Self::Prefill => "messages",
            Self::Seed => "seed",
        }
    }
}

/// How much each step keeps, as policy says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Measures {
    /// From the first step on: these are refused.
    pub options: Vec<WithheldOption>,
    /// From the first step on: tokens of an answer.
    pub output_tokens_max: u32,
    /// From the third step on: how long a request waits before it is worked on.
    pub wait_milliseconds: u32,
    /// From the third step on: tokens of prompt and answer together.
    pub window_tokens_max: u32,
}

impl Default for Measures {
    fn default() -> Self {
        Self {
            options: WithheldOption::ALL.to_vec(),
            output_tokens_max: 512,
            wait_milliseconds: 2000,
            window_tokens_max: 4096,
        }
    }
}

/// What a request asks for, as far as the ladder cares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// Options that it uses.
    pub options: Vec<WithheldOption>,
    /// Whether the client gave evidence of its own machine since the step was taken.
    pub fresh_evidence: bool,
}

/// What a request that is let through has to live with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Conditions {
    /// Tokens of the answer at most.
    pub output_tokens_max: Option<u32>,
    /// Tokens of prompt and answer together at most.
    pub window_tokens_max: Option<u32>,
    /// How long it waits first.
    pub wait_milliseconds: u32,
}

/// Why a request is not let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// An option is withheld.
    Withheld(WithheldOption),
    /// Evidence of the client's own machine is asked for, given after the step was taken.
    StepUp,
    /// Nothing is given.
    Closed,
}

impl Measures {
    /// What `step` means for a request.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn apply(&self, step: Step, asked: &Asked) -> Result<Conditions, Refusal> {
        if step >= Step::Closed {
            return Err(Refusal::Closed);
        }
        if step >= Step::SteppedUp && !asked.fresh_evidence {
            return Err(Refusal::StepUp);
        }
        if step == Step::Open {
            return Ok(Conditions::default());
        }
        let withheld = |option: &&WithheldOption| self.options.contains(option);
        if let Some(option) = asked.options.iter().find(withheld) {
            return Err(Refusal::Withheld(*option));
        }
        let slowed = step >= Step::Slowed;
        Ok(Conditions {
            output_tokens_max: Some(self.output_tokens_max),
            window_tokens_max: slowed.then_some(self.window_tokens_max),
            wait_milliseconds: if slowed { self.wait_milliseconds } else { 0 },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_keeps_what_those_before_it_keep_and_more() {
        let measures = Measures::default();
        let asked = |fresh_evidence| Asked {
            options: Vec::new(),
            fresh_evidence,
        };
        let told = Asked {
            options: vec![WithheldOption::Seed],
            fresh_evidence: true,
        };
        let at = |step| measures.apply(step, &asked(false));
        assert_eq!(measures.apply(Step::Open, &told), Ok(Conditions::default()));
        for step in [Step::OptionsWithheld, Step::ReasoningWithheld] {
            let terms = at(step).unwrap();
            assert_eq!(
                (terms.output_tokens_max, terms.window_tokens_max),
                (Some(512), None)
            );
            let refused = measures.apply(step, &told);
            assert_eq!(refused, Err(Refusal::Withheld(WithheldOption::Seed)));
        }
        let slowed = at(Step::Slowed).unwrap();
        assert_eq!(
            (slowed.window_tokens_max, slowed.wait_milliseconds),
            (Some(4096), 2000)
        );
        assert_eq!(at(Step::SteppedUp), Err(Refusal::StepUp));
        assert_eq!(measures.apply(Step::SteppedUp, &asked(true)), Ok(slowed));
        assert_eq!(
            measures.apply(Step::Closed, &asked(true)),
            Err(Refusal::Closed)
        );
    }

    #[test]
    fn policy_says_which_options_are_withheld() {
        let measures = Measures {
            options: vec![WithheldOption::Logprobs],
            ..Measures::default()
        };
        let asked = |option| Asked {
            options: vec![option],
            fresh_evidence: false,
        };
        let seed = measures.apply(Step::OptionsWithheld, &asked(WithheldOption::Seed));
        assert!(seed.is_ok());
        let told = measures.apply(Step::OptionsWithheld, &asked(WithheldOption::Logprobs));
        assert_eq!(told, Err(Refusal::Withheld(WithheldOption::Logprobs)));
    }
}
