//! The decision: a pure function of the policy, who asks, for what, and the situation. An error while deciding means no.

use std::collections::HashSet;
use std::net::IpAddr;

use casemate_attestation::{ChipId, Platform, Sha256Digest, TcbVersion, UnixTime};
use cedar_policy::{
    AuthorizationError, Authorizer, Context, Decision, Entities, Entity, Request, Response,
    RestrictedExpression,
};

use super::action::Action;
use super::bundle::{ModelRef, PolicyBundle, TYPES, uid};
use super::document::Team;
use super::name::{ModelName, RuleId, TeamName};
use super::principal::Principal;

/// A client's own machine, as its verified evidence names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientMachine {
    /// Under which roots its evidence stands.
    pub platform: Platform,
    /// Its entry in the fleet list of clients.
    pub chip: ChipId,
}

/// The situation in which something is asked: the schema's `Situation`.
#[derive(Debug, Clone)]
pub struct DecisionContext {
    /// The time of the decision.
    pub now: UnixTime,
    /// Platform that attests the server.
    pub platform: Platform,
    /// Whether the server's machine keeps its memory from its host: never with a TPM alone or a test chip.
    pub confidential: bool,
    /// Firmware versions of the server, where its evidence tells them.
    pub tcb: Option<TcbVersion>,
    /// The client's own machine, where it gave evidence.
    pub client: Option<ClientMachine>,
    /// The peer's address.
    pub peer: IpAddr,
    /// Tokens that the principal has spent in the present window: see [`super::Budgets::tokens_spent`].
    pub tokens_spent: u64,
    /// The class of data that the request declares.
    pub data_class: Option<String>,
    /// When the session was last attested.
    pub attested_at: UnixTime,
}

/// A yes, with the limits that ride on it. Comes from [`decide`] only.
#[derive(Debug, Clone)]
pub struct Granted {
    principal: Principal,
    team: TeamName,
    action: Action,
    model: ModelRef,
    limits: Team,
    rules: Vec<RuleId>,
}

impl Granted {
    /// Who asked.
    #[must_use]
    pub const fn principal(&self) -> &Principal {
        &self.principal
    }

    /// The team to which the principal belongs.
    #[must_use]
    pub const fn team(&self) -> &TeamName {
        &self.team
    }

    /// What was asked.
    #[must_use]
    pub const fn action(&self) -> Action {
        self.action
    }

    /// The one model that may be used.
    #[must_use]
    pub const fn model(&self) -> &ModelRef {
        &self.model
    }

    /// The team's limits: output length, session life, budgets.
    #[must_use]
    pub const fn limits(&self) -> &Team {
        &self.limits
    }

    /// The rules that permitted it.
    #[must_use]
    pub fn rules(&self) -> &[RuleId] {
        &self.rules
    }
}

/// A no. The text names team, action, model and the rules that decided; nothing of the request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Denied {
    /// The policy is past its time.
    #[error("the policy expired at {0}; the organisation must sign a new one")]
    Expired(UnixTime),
    /// No team has this principal.
    #[error("{0} belongs to no team of the policy")]
    NoTeam(Principal),
    /// The team's sessions live shorter than this one. Attesting again on the open connection helps.
    #[error("team {team} must attest again every {seconds} seconds")]
    SessionTooOld {
        /// The principal's team.
        team: TeamName,
        /// Its limit.
        seconds: u32,
    },
    /// The policy in force has no such model any more.
    #[error("model {0} is not in the policy in force")]
    ModelGone(ModelName),
    /// No rule permits it.
    #[error("team {team} has no rule that permits {action} on model {model}")]
    NotPermitted {
        /// The principal's team.
        team: TeamName,
        /// What was asked.
        action: Action,
        /// On which model.
        model: ModelName,
    },
    /// A rule forbids it.
    #[error("team {team} may not {action} on model {model}: forbidden by {}", list(.rules))]
    Forbidden {
        /// The principal's team.
        team: TeamName,
        /// What was asked.
        action: Action,
        /// On which model.
        model: ModelName,
        /// The rules that forbid.
        rules: Vec<RuleId>,
    },
    /// A rule could not be evaluated; whatever the others say, the answer is no.
    #[error("deciding {action} on model {model} for team {team} failed in {}", list(.rules))]
    Failed {
        /// The principal's team.
        team: TeamName,
        /// What was asked.
        action: Action,
        /// On which model.
        model: ModelName,
        /// The rules that failed; none where the question itself could not be put.
        rules: Vec<RuleId>,
    },
}

impl Denied {
    /// A word for programs: audit records, metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Expired(_) => "policy_expired",
            Self::NoTeam(_) => "no_team",
            Self::SessionTooOld { .. } => "session_too_old",
            Self::ModelGone(_) => "model_unknown",
            Self::NotPermitted { .. } => "not_permitted",
            Self::Forbidden { .. } => "forbidden",
            Self::Failed { .. } => "decision_failed",
        }
    }

    /// The rules that decided.
    #[must_use]
    pub fn rules(&self) -> &[RuleId] {
        match self {
            Self::Forbidden { rules, .. } | Self::Failed { rules, .. } => rules,
            _ => &[],
        }
    }
}

/// Decides whether `principal` may do `action` on `model`.
///
/// # Errors
/// [`Denied`], also where the question cannot be put or a rule cannot be evaluated.
pub fn decide(
    bundle: &PolicyBundle,
    principal: &Principal,
    action: Action,
    model: &ModelRef,
    context: &DecisionContext,
) -> Result<Granted, Denied> {
    if context.now >= bundle.expires() {
        return Err(Denied::Expired(bundle.expires()));
    }
    let Some((team, limits)) = bundle.team_of(principal) else {
        return Err(Denied::NoTeam(principal.clone()));
    };
    if session_age(context) >= u64::from(limits.session_seconds) {
        return Err(Denied::SessionTooOld {
            team: team.clone(),
            seconds: limits.session_seconds,
        });
    }
    // The reference may come from an older bundle: the name must still stand for the same model.
    if bundle.model(model.name().as_str()).as_ref() != Some(model) {
        return Err(Denied::ModelGone(model.name().clone()));
    }
    let failed = |rules| {
        let (team, model) = (team.clone(), model.name().clone());
        Denied::Failed {
            team,
            action,
            model,
            rules,
        }
    };
    let response =
        ask(bundle, principal, team, action, model.digest(), context).ok_or(failed(vec![]))?;
    let diagnostics = response.diagnostics();
    let errors = ids(diagnostics
        .errors()
        .map(|AuthorizationError::PolicyEvaluationError(error)| error.policy_id().as_ref()));
    if diagnostics.errors().next().is_some() {
        return Err(failed(errors));
    }
    let rules = ids(diagnostics.reason().map(AsRef::as_ref));
    let (team, model_name) = (team.clone(), model.name().clone());
    match response.decision() {
        Decision::Allow if !rules.is_empty() => Ok(Granted {
            principal: principal.clone(),
            team,
            action,
            model: model.clone(),
            limits: limits.clone(),
            rules,
        }),
        _ if rules.is_empty() => Err(Denied::NotPermitted {
            team,
            action,
            model: model_name,
        }),
        _ => Err(Denied::Forbidden {
            team,
            action,
            model: model_name,
            rules,
        }),
    }
}

fn ask(
    bundle: &PolicyBundle,
    principal: &Principal,
    team: &TeamName,
    action: Action,
    model: Sha256Digest,
    context: &DecisionContext,
) -> Option<Response> {
    let rules = &bundle.rules;
    let who = uid(&TYPES.principal, principal.as_str());
    let team = HashSet::from([uid(&TYPES.team, team.as_str())]);
    let model = rules.models.get(&model)?;
    let request = Request::new(
        who.clone(),
        uid(&TYPES.action, action.as_str()),
        model.uid(),
        situation(context)?,
        Some(rules.schema),
    )
    .ok()?;
    let entities = [Entity::new_no_attrs(who, team), model.clone()];
    let entities = Entities::from_entities(entities, None).ok()?;
    Some(Authorizer::new().is_authorized(&request, &rules.policies, &entities))
}

fn session_age(context: &DecisionContext) -> u64 {
    context.now.minus(context.attested_at.secs()).secs()
}

fn situation(context: &DecisionContext) -> Option<Context> {
    let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
    let long = |number: u64| {
        i64::try_from(number)
            .ok()
            .map(RestrictedExpression::new_long)
    };
    let mut pairs = vec![
        ("platform", text(context.platform.as_str())),
        (
            "confidential",
            RestrictedExpression::new_bool(context.confidential),
        ),
        ("hour", long(context.now.secs() / 3600 % 24)?),
        (
            "peer",
            RestrictedExpression::new_ip(context.peer.to_canonical().to_string()),
        ),
        ("tokens_spent", long(context.tokens_spent)?),
        ("session_age", long(session_age(context))?),
    ];
    if let Some(tcb) = &context.tcb {
        pairs.push(("tcb", versions(tcb)?));
    }
    if let Some(ClientMachine { platform, chip }) = context.client {
        pairs.extend([
            ("client_evidence", text(platform.as_str())),
            (
                "client_confidential",
                RestrictedExpression::new_bool(platform.confidential()),
            ),
            ("client_chip", text(&chip.to_string())),
        ]);
    }
    pairs.extend(
        context
            .data_class
            .as_deref()
            .map(|class| ("data_class", text(class))),
    );
    Context::from_pairs(
        pairs
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value)),
    )
    .ok()
}

fn versions(tcb: &TcbVersion) -> Option<RestrictedExpression> {
    let components = [
        ("boot_loader", tcb.boot_loader),
        ("tee", tcb.tee),
        ("snp", tcb.snp),
        ("microcode", tcb.microcode),
        ("fmc", tcb.fmc),
    ];
    let component = |(name, version): (&str, u8)| {
        (
            name.to_owned(),
            RestrictedExpression::new_long(i64::from(version)),
        )
    };
    RestrictedExpression::new_record(components.map(component)).ok()
}

/// Rules in a stable order. Every id was checked when the bundle was opened.
fn ids<'a>(ids: impl Iterator<Item = &'a str>) -> Vec<RuleId> {
    let mut ids: Vec<RuleId> = ids.filter_map(|id| id.parse().ok()).collect();
    ids.sort();
    ids
}

fn list(rules: &[RuleId]) -> String {
    if rules.is_empty() {
        return "the question itself".to_owned();
    }
    rules
        .iter()
        .map(|rule| rule.as_str())
        .collect::<Vec<_>>()
        .join(", ")
}
