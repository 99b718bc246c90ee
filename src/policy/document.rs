//! What the release key signs: rules in Cedar, teams with their limits, and the models' names (docs/formats/policy.md).
//!
//! Limits have no defaults and no "unlimited": what an officer did not write does not exist.

use std::collections::BTreeMap;

use casemate_attestation::signed::{Kind, Payload, SIGNED_BYTES_MAX};
use casemate_attestation::strict_json::{self, JsonError};
use casemate_attestation::{Issue, ReleaseSecretKey, Sha256Digest, SignedDocument};
use serde::{Deserialize, Serialize};

use super::bundle::{PolicyError, Rules};
use super::guard::GuardPolicy;
use super::name::{ModelName, TeamName};
use super::output::OutputRules;
use super::principal::PrincipalPattern;

/// Format of the payload.
pub const POLICY_FORMAT: &str = "casemate/policy/v1";

/// The payload of a policy bundle. Unchecked: see [`super::PolicyBundle`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyDocument {
    /// Always [`POLICY_FORMAT`].
    pub format: String,
    /// Rules in Cedar, as the officer wrote them.
    pub cedar: String,
    /// Teams by name.
    pub teams: BTreeMap<TeamName, Team>,
    /// Each name stands for exactly one model: the digest of its package (P-22).
    pub models: BTreeMap<ModelName, Sha256Digest>,
    /// Which keys answers are marked with. A higher one makes the keys of all teams new.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub mark_epoch: u32,
    /// What the extraction guard may do; without it [`GuardPolicy::unspoken`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<GuardPolicy>,
}

/// Who belongs to a team and what the team may use up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Team {
    /// Its members. Empty means none.
    pub principals: Vec<PrincipalPattern>,
    /// The most tokens of one answer.
    pub output_tokens_max: u32,
    /// Seconds after which a session must be attested again.
    pub session_seconds: u32,
    /// Its share of the engine beside other teams' when all of them want more than there is: twice the share, twice the
    /// tokens in the same time.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub share: u32,
    /// What all members together may use.
    pub shared: Budget,
    /// What each member may use.
    pub each: Budget,
    /// What may leave in its answers.
    #[serde(default, skip_serializing_if = "OutputRules::is_default")]
    pub output: OutputRules,
}

/// What may be used in one window of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Length of the window, seconds. Windows begin at multiples of it since 1970.
    pub window_seconds: u32,
    /// Requests in one window.
    pub requests: u64,
    /// Tokens in one window, of prompts and answers.
    pub tokens: u64,
    /// Requests under way at once.
    pub concurrency: u32,
}

/// The share of a team, or the epoch, where nothing is said of it.
const fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_one(number: &u32) -> bool {
    *number == 1
}

/// The largest share.
const SHARE_MAX: u32 = 1000;

/// The highest epoch of marks: whoever looks for marks looks for those of every epoch.
pub const MARK_EPOCH_MAX: u32 = 1000;

/// The longest window and the longest session: 31 days and 24 hours.
const WINDOW_SECONDS_MAX: u32 = 31 * 86_400;
const SESSION_SECONDS_MAX: u32 = 86_400;

impl PolicyDocument {
    /// Checks the whole document and signs it. What would be refused when opened is not signed.
    ///
    /// # Errors
    /// [`PolicyError`].
    pub fn sign(&self, issue: Issue, key: &ReleaseSecretKey) -> Result<Vec<u8>, PolicyError> {
        Rules::check(self)?;
        Ok(SignedDocument::sign(self, issue, key)?)
    }

    /// The team of a principal, if it has one.
    #[must_use]
    pub fn team_of(&self, principal: &super::Principal) -> Option<(&TeamName, &Team)> {
        self.teams
            .iter()
            .find(|(_, team)| team.principals.iter().any(|p| p.matches(principal)))
    }

    /// What the extraction guard may do.
    #[must_use]
    pub fn guard(&self) -> &GuardPolicy {
        self.guard.as_ref().unwrap_or(GuardPolicy::unspoken())
    }

    pub(super) fn check_tables(&self) -> Result<(), PolicyError> {
        if self.format != POLICY_FORMAT {
            return Err(PolicyError::Format);
        }
        if !(1..=MARK_EPOCH_MAX).contains(&self.mark_epoch) {
            return Err(PolicyError::MarkEpoch);
        }
        for (name, team) in &self.teams {
            team.check().map_err(|rule| PolicyError::Limit {
                team: name.clone(),
                rule,
            })?;
        }
        self.check_overlaps()?;
        match self.guard().complaint(self) {
            Some((place, rule)) => Err(PolicyError::Guard { place, rule }),
            None => Ok(()),
        }
    }

    /// A principal has one team, therefore one budget and one set of limits; two that both claim it are a mistake.
    fn check_overlaps(&self) -> Result<(), PolicyError> {
        for (position, (first, a)) in self.teams.iter().enumerate() {
            for (second, b) in self.teams.iter().skip(position + 1) {
                let both = a
                    .principals
                    .iter()
                    .find(|p| b.principals.iter().any(|q| p.overlaps(q)));
                if let Some(pattern) = both {
                    let (first, second) = (first.clone(), second.clone());
                    let pattern = pattern.to_string();
                    return Err(PolicyError::TeamsOverlap {
                        first,
                        second,
                        pattern,
                    });
                }
            }
        }
        Ok(())
    }
}

impl Team {
    fn check(&self) -> Result<(), &'static str> {
        if self.output_tokens_max == 0 {
            return Err("output_tokens_max is 0; leave the team out, or let it answer");
        }
        if !(1..=SESSION_SECONDS_MAX).contains(&self.session_seconds) {
            return Err("session_seconds is not 1 to 86400");
        }
        if !(1..=SHARE_MAX).contains(&self.share) {
            return Err("share is not 1 to 1000");
        }
        let sound = |b: &Budget| (1..=WINDOW_SECONDS_MAX).contains(&b.window_seconds);
        if !sound(&self.shared) || !sound(&self.each) {
            return Err("window_seconds is not 1 to 2678400 (31 days)");
        }
        self.output.check()
    }
}

impl Payload for PolicyDocument {
    const KIND: Kind = Kind::Policy;

    fn from_payload(bytes: &[u8]) -> Result<Self, JsonError> {
        strict_json::from_slice(bytes, SIGNED_BYTES_MAX)
    }

    fn to_payload(&self) -> Result<Vec<u8>, JsonError> {
        strict_json::to_vec(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn o4_a_policy_holds_nothing_more_at_any_depth() {
        let text = format!(
            r#"{{"format":"{POLICY_FORMAT}","cedar":"","models":{{}},"teams":{{"red":{{
            "principals":[],"shared":BUDGET,"each":BUDGET,"output_tokens_max":1,
            "session_seconds":1}}}}}}"#
        );
        let budget = r#"{"window_seconds":1,"requests":1,"tokens":1,"concurrency":1}"#;
        let text = text.replace("BUDGET", budget);
        let read = |text: &str| PolicyDocument::from_payload(text.as_bytes());
        read(&text).unwrap();
        for before in ["{", "\"red\":{", "\"shared\":{"] {
            let more = text.replacen(before, &format!("{before}\"more\":1,"), 1);
            assert!(read(&more).is_err(), "after {before}");
        }
    }
}
