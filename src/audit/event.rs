//! What can be recorded. Fields are digests, counts, names from certificates and signed policies, and words fixed in this
//! program: no field can hold a prompt, an answer or a key.

use casemate_attestation::{ChipId, Measurement, Platform, Sha256Digest, UnixTime};
use serde::Serialize;

use crate::policy::{Action, Denied, Granted, ModelRef, Principal, RuleId, TeamName};

/// Names a session (P-42).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionId(pub [u8; 16]);

impl Serialize for SessionId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(self.0))
    }
}

/// A part of the product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// `casemate serve`.
    Server,
    /// `casemate broker`.
    Broker,
}

/// Where something was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// TCP accept or TLS handshake.
    Handshake,
    /// Challenge or confirmation.
    Attestation,
    /// Reading a request.
    Request,
    /// A budget or a bound.
    Limit,
    /// Making the answer.
    Engine,
    /// Fetching keys and documents.
    Release,
}

/// An image that is accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AcceptedImage {
    /// Which (O-5).
    pub image: Sha256Digest,
    /// What the signed document calls it.
    pub label: String,
    /// When it ends, if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<UnixTime>,
}

/// One thing that happened. `reason` is always a code of this program, never a text from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum AuditEvent {
    /// A part came up.
    Started {
        /// Which.
        part: Part,
        /// Version of the program.
        version: &'static str,
        /// Digest of the configuration in force.
        configuration: Sha256Digest,
        /// Whether the server's machine keeps its memory from its host: never with a TPM alone or a test chip.
        confidential: bool,
    },
    /// A part went down in order.
    Stopped {
        /// Which.
        part: Part,
    },
    /// Another policy is in force.
    PolicyInForce {
        /// Its number.
        number: u64,
        /// Digest of the signed document.
        policy: Sha256Digest,
    },
    /// Another revocation list is in force.
    RevocationsInForce {
        /// Its number.
        number: u64,
        /// Digest of the signed document.
        revocations: Sha256Digest,
        /// Connections that it ended.
        connections_ended: u64,
    },
    /// The extraction guard found the state that must outlive a server.
    GuardState {
        /// How: `first`, `whole`, `lost`, `rolled_back`, `edited`.
        found: &'static str,
        /// Commits of its ledger.
        generation: u64,
    },
    /// The guard moved a principal by itself.
    GuardStep {
        /// Whom.
        principal: Principal,
        /// Its team.
        team: TeamName,
        /// Whether it only watches, so that nothing follows.
        shadow: bool,
        /// From which step.
        from: &'static str,
        /// To which.
        to: &'static str,
        /// Why: the code of an alarm, or `quiet`.
        reason: &'static str,
        /// Drawn for this step; the principal is told it.
        reference: String,
        /// Prompts that were looked at, as the power of two that they reach.
        prompts_band: u64,
        /// Shared templates that the principal may have sent, in the same way.
        families_band: u64,
    },
    /// An officer moved a principal.
    GuardDecided {
        /// Whom.
        principal: Principal,
        /// Who.
        officer: Principal,
        /// From which step.
        from: &'static str,
        /// To which.
        to: &'static str,
        /// Drawn for this step.
        reference: String,
    },
    /// An officer asked for the wording of a shared template; nothing is opened for one alone.
    GuardDisclosureAsked {
        /// Which.
        family: String,
        /// Who.
        officer: Principal,
    },
    /// Wording of a shared template was opened for two officers.
    GuardDisclosed {
        /// Which.
        family: String,
        /// Who sees it.
        officer: Principal,
        /// Who else asked for it.
        second: Principal,
        /// Shingles that were opened; each stands in 20 distinct prompts or more.
        shingles: u64,
    },
    /// Noisy counters of a day were told, once.
    GuardDay {
        /// Its first second.
        begins: UnixTime,
        /// Whether it was counted from its beginning on.
        whole: bool,
    },
    /// Other reference values decide what may prove itself.
    ReferenceInForce {
        /// Their number.
        number: u64,
        /// Digest of the signed document.
        reference: Sha256Digest,
        /// Who signed: the id of the release key (O-1).
        signed_by: Sha256Digest,
        /// What is accepted of the broker's platform.
        images: Vec<AcceptedImage>,
    },
    /// A session was attested, for the first time or again.
    Session {
        /// Which session.
        session: SessionId,
        /// Whose.
        principal: Principal,
        /// SHA-256 of the client's leaf.
        leaf: Sha256Digest,
        /// Digest of the evidence that the client confirmed (P-34).
        evidence: Sha256Digest,
        /// First second at which it is stale.
        deadline: UnixTime,
        /// Platform of the client's own evidence, where it gave any.
        #[serde(skip_serializing_if = "Option::is_none")]
        client_platform: Option<Platform>,
        /// The client's machine in the fleet list of clients.
        #[serde(skip_serializing_if = "Option::is_none")]
        client_chip: Option<ChipId>,
    },
    /// A connection that was attested has ended.
    SessionEnded {
        /// Which session.
        session: SessionId,
        /// Why.
        reason: &'static str,
    },
    /// Policy was asked.
    Decision {
        /// In which session.
        session: Option<SessionId>,
        /// Who asked.
        principal: Principal,
        /// The team, where there is one.
        team: Option<TeamName>,
        /// For what.
        action: Action,
        /// On which model.
        model: Sha256Digest,
        /// The answer.
        allowed: bool,
        /// `permitted`, or the code of the refusal.
        reason: &'static str,
        /// The rules that decided.
        rules: Vec<RuleId>,
        /// The policy that was asked.
        policy: Sha256Digest,
    },
    /// An answer was given, whole or in part.
    Answer {
        /// In which session.
        session: SessionId,
        /// To whom.
        principal: Principal,
        /// Of which team.
        team: TeamName,
        /// By which model.
        model: Sha256Digest,
        /// Tokens of the prompt, as the power of two that they reach.
        prompt_tokens_band: u64,
        /// Tokens of the answer, in the same way: this file is the host's to read, and lengths tell topics.
        output_tokens_band: u64,
        /// Why it ended.
        reason: &'static str,
        /// Of which epoch the team's keys are whose mark it carries; absent where it carries none.
        #[serde(skip_serializing_if = "Option::is_none")]
        mark_epoch: Option<u32>,
        /// What the guard saw in it, acted on or not.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        noted: Vec<&'static str>,
    },
    /// Keys were asked for.
    Release {
        /// SHA-256 of the certificate with which the server asked.
        leaf: Sha256Digest,
        /// Platform of its evidence; none where the evidence was refused.
        platform: Option<Platform>,
        /// The chip.
        chip: Option<ChipId>,
        /// What it runs.
        measurement: Option<Measurement>,
        /// The packages, by digest.
        packages: Vec<Sha256Digest>,
        /// Whether the keys went out.
        allowed: bool,
        /// `released`, or the code of the refusal.
        reason: &'static str,
    },
    /// Something was refused outside of policy.
    Refused {
        /// Where.
        step: Step,
        /// Who, where that is known.
        principal: Option<Principal>,
        /// SHA-256 of the peer's leaf, where it showed one.
        leaf: Option<Sha256Digest>,
        /// In which session.
        session: Option<SessionId>,
        /// The code of the refusal.
        reason: &'static str,
    },
}

/// A count as the power of two that it reaches: 0, 1, 2, 4, 8 and so on.
#[must_use]
pub fn band(count: u64) -> u64 {
    match count {
        0 => 0,
        count => 1 << count.ilog2(),
    }
}

impl AuditEvent {
    /// The record of a policy decision.
    #[must_use]
    pub fn decision(
        policy: &crate::policy::PolicyBundle,
        session: Option<SessionId>,
        principal: &Principal,
        action: Action,
        model: &ModelRef,
        outcome: &Result<Granted, Denied>,
    ) -> Self {
        let (reason, rules) = match outcome {
            Ok(granted) => ("permitted", granted.rules()),
            Err(denied) => (denied.code(), denied.rules()),
        };
        Self::Decision {
            session,
            principal: principal.clone(),
            team: policy.team_of(principal).map(|(team, _)| team.clone()),
            action,
            model: model.digest(),
            allowed: outcome.is_ok(),
            reason,
            rules: rules.to_vec(),
            policy: policy.digest(),
        }
    }
}
