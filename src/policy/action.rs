//! What a principal can ask for. Each action is decided by itself: the right to chat does not carry the right to logprobs.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// An action of the Cedar schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Chat completions.
    Chat,
    /// Plain completions.
    Complete,
    /// Embeddings.
    Embed,
    /// Seeing that a model is there.
    List,
    /// Log-probabilities beside tokens.
    UseLogprobs,
    /// Biasing tokens.
    UseLogitBias,
    /// Choosing the seed.
    UseSeed,
    /// Beginning the model's answer.
    UsePrefill,
    /// Reading the model's reasoning.
    SeeReasoning,
    /// Declaring a workload of one's own shape.
    DeclareWorkload,
    /// Seeing what the extraction guard holds against whom, and releasing.
    Oversee,
}

impl Action {
    /// Every action, in the order of the schema.
    pub const ALL: [Self; 11] = [
        Self::Chat,
        Self::Complete,
        Self::Embed,
        Self::List,
        Self::UseLogprobs,
        Self::UseLogitBias,
        Self::UseSeed,
        Self::UsePrefill,
        Self::SeeReasoning,
        Self::DeclareWorkload,
        Self::Oversee,
    ];

    /// The word of the schema.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Complete => "complete",
            Self::Embed => "embed",
            Self::List => "list",
            Self::UseLogprobs => "use_logprobs",
            Self::UseLogitBias => "use_logit_bias",
            Self::UseSeed => "use_seed",
            Self::UsePrefill => "use_prefill",
            Self::SeeReasoning => "see_reasoning",
            Self::DeclareWorkload => "declare_workload",
            Self::Oversee => "oversee",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no action.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no such action; actions are chat, complete, embed, list, use_logprobs, use_logit_bias, use_seed, \
         use_prefill, see_reasoning, declare_workload and oversee"
)]
pub struct UnknownAction;

impl FromStr for Action {
    type Err = UnknownAction;

    fn from_str(text: &str) -> Result<Self, UnknownAction> {
        Self::ALL
            .into_iter()
            .find(|action| action.as_str() == text)
            .ok_or(UnknownAction)
    }
}
