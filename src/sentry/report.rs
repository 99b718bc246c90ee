//! What an officer may see: where principals stand, how near they are to a step, and what was given. Numbers, names from
//! certificates, and words of this program; no wording, of which the guard has none.

use casemate_attestation::Sha256Digest;
use serde::{Deserialize, Serialize};

use crate::guard::{Step, Tally};

/// The guard as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {
    /// Principals whose sketches are kept.
    pub principals: u64,
    /// Those who stand above the bottom, highest first; at most 1000.
    pub standing: Vec<Standing>,
    /// Those whose evidence is strong enough to look at (e-BH at one tenth), strongest first.
    pub look_at: Vec<String>,
    /// Templates that many principals share.
    pub families: u64,
    /// The largest of them, at most 100.
    pub shared: Vec<Shared>,
    /// What everybody was given, by model.
    pub given: Vec<Spent>,
    /// Prompts that were not looked at, because they came too fast.
    pub missed_prompts: u64,
    /// For how long the ledger could not be written.
    pub unwritten_seconds: u64,
}

/// A template that many principals share. Counts are powers of two that are reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shared {
    /// Names it towards officers.
    pub reference: String,
    /// Distinct prompts.
    pub prompts_band: u64,
    /// Principals.
    pub principals_band: u64,
    /// Shingles that two officers could open now.
    pub shingles: u64,
}

/// One principal above the bottom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standing {
    /// Who.
    pub principal: String,
    /// On which step.
    pub step: Step,
    /// Since when, seconds.
    pub since: u64,
    /// Whether the guard only watched when it was taken.
    pub shadow: bool,
    /// What the principal was told.
    pub reference: String,
}

/// What was given of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spent {
    /// Which model.
    pub model: Sha256Digest,
    /// Bits, rounded up.
    pub bits: u64,
    /// Those that probabilities told, rounded up.
    pub told_bits: u64,
    /// Those that choices told which the caller had arranged, rounded up.
    pub arranged_bits: u64,
    /// Tokens.
    pub tokens: u64,
    /// Places of which probabilities were told.
    pub contexts: u64,
}

impl Spent {
    pub(super) fn of(model: Sha256Digest, tally: &Tally) -> Self {
        Self {
            model,
            bits: tally.millibits.div_ceil(1000),
            told_bits: tally.told_millibits.div_ceil(1000),
            arranged_bits: tally.arranged_millibits.div_ceil(1000),
            tokens: tally.tokens,
            contexts: tally.contexts,
        }
    }
}

/// One principal, as far as the guard knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Explanation {
    /// Who.
    pub principal: String,
    /// On which step.
    pub step: Step,
    /// Since when, seconds.
    pub since: u64,
    /// Whether the guard only watched when it was taken.
    pub shadow: bool,
    /// The alarm behind it. The principal is not told.
    pub reason: Option<String>,
    /// What the principal was told.
    pub reference: String,
    /// How near the next alarm is.
    pub evidence_percent: u64,
    /// Prompts that were looked at, as the power of two that they reach.
    pub prompts_band: u64,
    /// Shared templates that the principal may have sent, in the same way.
    pub families_band: u64,
    /// What it was given, by model.
    pub given: Vec<Spent>,
}

/// What an officer's word changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Released {
    /// Who.
    pub principal: String,
    /// From which step.
    pub from: Step,
    /// To which.
    pub to: Step,
    /// Names the new step.
    pub reference: String,
}
