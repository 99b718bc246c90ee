//! A policy that was checked: signature, number, validity, schema, and every reference in it.
//!
//! [`PolicyBundle::open`] is the only constructor; whoever holds a bundle need not ask whether it is genuine.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::LazyLock;

use casemate_attestation::{
    ReleasePublicKey, Sha256Digest, SignedDocument, SignedError, UnixTime, Verified,
};
use cedar_policy::{
    Entity, EntityId, EntityTypeName, EntityUid, PolicyId, PolicySet, Schema, ValidationMode,
    Validator,
};

use super::document::PolicyDocument;
use super::excerpt::{self, Excerpt};
use super::name::{ModelName, RuleId, TeamName};
use super::principal::Principal;

/// The most bytes of Cedar in one policy, and the most rules.
const CEDAR_BYTES_MAX: usize = 256 * 1024;
const RULES_MAX: usize = 1000;

static SCHEMA: LazyLock<Result<Schema, String>> = LazyLock::new(|| {
    Schema::from_cedarschema_str(include_str!("schema.cedarschema"))
        .map(|(schema, _)| schema)
        .map_err(|error| error.to_string())
});

/// Why a policy was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// Signature, kind, number or validity (O-1 to O-4).
    #[error(transparent)]
    Signed(#[from] SignedError),
    /// Another format of the payload.
    #[error("policy has a format other than {}", super::document::POLICY_FORMAT)]
    Format,
    /// No such epoch.
    #[error("mark_epoch is not 1 to {}", super::document::MARK_EPOCH_MAX)]
    MarkEpoch,
    /// A limit that makes no sense.
    #[error("team {team}: {rule}")]
    Limit {
        /// The team.
        team: TeamName,
        /// What is wrong.
        rule: &'static str,
    },
    /// Something about the guard that makes no sense.
    #[error("guard.{place}: {rule}")]
    Guard {
        /// Where.
        place: String,
        /// What is wrong.
        rule: String,
    },
    /// Two teams claim one principal.
    #[error("teams {first} and {second} both claim {pattern}; a principal has one team")]
    TeamsOverlap {
        /// One team.
        first: TeamName,
        /// The other.
        second: TeamName,
        /// A pattern of the first.
        pattern: String,
    },
    /// Text that is not Cedar, or that the schema does not allow.
    #[error("{0}")]
    Cedar(Excerpt),
    /// More rules or text than a policy may have.
    #[error("policy has more than {RULES_MAX} rules or {CEDAR_BYTES_MAX} bytes of Cedar")]
    TooLong,
    /// A template, which nothing would fill.
    #[error("policy contains a template (?principal or ?resource); write the rule out")]
    Template,
    /// A rule's `@id` is no name.
    #[error("rule {0:?}: an id is 1 to 64 characters of a-z, A-Z, 0-9, '.', '_', '-'")]
    RuleName(String),
    /// Two rules have one name.
    #[error("two rules have the id {0}")]
    RuleTwice(RuleId),
    /// A rule names a team, model or principal that the policy does not have.
    #[error("rule {rule} names {entity}, which this policy does not have")]
    UnknownReference {
        /// The rule.
        rule: RuleId,
        /// What it names.
        entity: String,
    },
    /// The program's own schema cannot be used.
    #[error("built-in schema is unusable: {0}")]
    Schema(String),
}

/// Rules of a checked document, ready to decide.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub(super) policies: PolicySet,
    pub(super) schema: &'static Schema,
    /// One entity for each model, with its aliases as parents.
    pub(super) models: HashMap<Sha256Digest, Entity>,
}

/// A signed policy in force.
///
/// ```compile_fail
/// let bundle = casemate::policy::PolicyBundle { number: 1 };
/// ```
///
/// ```
/// use casemate::policy::{PolicyBundle, PolicyError};
/// use casemate_attestation::{ReleasePublicKey, UnixTime};
/// fn open(bytes: &[u8], key: &ReleasePublicKey, now: UnixTime) -> Result<PolicyBundle, PolicyError> {
///     PolicyBundle::open(bytes, key, 0, now)
/// }
/// ```
#[derive(Debug, Clone)]
pub struct PolicyBundle {
    signed: Verified<PolicyDocument>,
    pub(super) rules: Rules,
}

/// A model that the policy names. Comes from [`PolicyBundle::model`] only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelRef {
    name: ModelName,
    digest: Sha256Digest,
}

impl ModelRef {
    /// The name that was asked for.
    #[must_use]
    pub const fn name(&self) -> &ModelName {
        &self.name
    }

    /// Digest of the one model that the name stands for (P-22).
    #[must_use]
    pub const fn digest(&self) -> Sha256Digest {
        self.digest
    }
}

impl PolicyBundle {
    /// Checks a signed policy. `floor` is the highest number seen before (0 if none); the caller keeps it.
    ///
    /// # Errors
    /// [`PolicyError`] names the rule that was broken.
    pub fn open(
        bytes: &[u8],
        key: &ReleasePublicKey,
        floor: u64,
        now: UnixTime,
    ) -> Result<Self, PolicyError> {
        let signed = SignedDocument::open::<PolicyDocument>(bytes, key, floor, now)?;
        let rules = Rules::check(signed.payload())?;
        Ok(Self { signed, rules })
    }

    /// SHA-256 of the signed document as read: what the binding carries (P-20).
    #[must_use]
    pub const fn digest(&self) -> Sha256Digest {
        self.signed.digest()
    }

    /// The document's number, to be kept as the next floor.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.signed.number()
    }

    /// First second after its validity. [`super::decide()`] compares it at every decision.
    #[must_use]
    pub const fn expires(&self) -> UnixTime {
        self.signed.expires()
    }

    /// What was signed.
    #[must_use]
    pub const fn document(&self) -> &PolicyDocument {
        self.signed.payload()
    }

    /// The one model that a name stands for. There is no default and no wildcard (S10).
    #[must_use]
    pub fn model(&self, name: &str) -> Option<ModelRef> {
        let (name, digest) = self.document().models.get_key_value(name)?;
        Some(ModelRef {
            name: name.clone(),
            digest: *digest,
        })
    }

    /// Every name with its model, in the order of names.
    pub fn models(&self) -> impl Iterator<Item = ModelRef> + '_ {
        let pair = |(name, digest): (&ModelName, &Sha256Digest)| ModelRef {
            name: name.clone(),
            digest: *digest,
        };
        self.document().models.iter().map(pair)
    }

    /// The principal's team and its limits.
    #[must_use]
    pub fn team_of(&self, principal: &Principal) -> Option<(&TeamName, &super::Team)> {
        self.document().team_of(principal)
    }
}

impl Rules {
    /// Checks a document without asking who signed it.
    pub(super) fn check(document: &PolicyDocument) -> Result<Self, PolicyError> {
        document.check_tables()?;
        let schema = SCHEMA
            .as_ref()
            .map_err(|error| PolicyError::Schema(error.clone()))?;
        let policies = parse(&document.cedar)?;
        validate(schema, &policies, &document.cedar)?;
        for policy in policies.policies() {
            for entity in policy.entity_literals() {
                if !known(document, &entity) {
                    let rule = rule_id(policy.id().as_ref())?;
                    return Err(PolicyError::UnknownReference {
                        rule,
                        entity: entity.to_string(),
                    });
                }
            }
        }
        Ok(Self {
            policies,
            schema,
            models: model_entities(&document.models),
        })
    }
}

fn parse(cedar: &str) -> Result<PolicySet, PolicyError> {
    if cedar.len() > CEDAR_BYTES_MAX {
        return Err(PolicyError::TooLong);
    }
    let parsed: PolicySet = cedar
        .parse()
        .map_err(|error| PolicyError::Cedar(excerpt::of_diagnostic(&error, cedar)))?;
    if parsed.num_of_templates() > 0 {
        return Err(PolicyError::Template);
    }
    if parsed.num_of_policies() > RULES_MAX {
        return Err(PolicyError::TooLong);
    }
    let mut named = PolicySet::new();
    for policy in parsed.policies() {
        let id = rule_id(policy.annotation("id").unwrap_or(policy.id().as_ref()))?;
        named
            .add(policy.new_id(PolicyId::new(id.as_str())))
            .map_err(|_| PolicyError::RuleTwice(id))?;
    }
    Ok(named)
}

fn rule_id(text: &str) -> Result<RuleId, PolicyError> {
    text.parse()
        .map_err(|_| PolicyError::RuleName(text.chars().take(80).collect()))
}

fn validate(schema: &Schema, policies: &PolicySet, cedar: &str) -> Result<(), PolicyError> {
    let result = Validator::new(schema.clone()).validate(policies, ValidationMode::Strict);
    let error = result
        .validation_errors()
        .next()
        .map(|error| excerpt::of_diagnostic(error, cedar));
    let warning = || {
        result
            .validation_warnings()
            .next()
            .map(|warning| excerpt::of_diagnostic(warning, cedar))
    };
    match error.or_else(warning) {
        Some(excerpt) => Err(PolicyError::Cedar(excerpt)),
        None => Ok(()),
    }
}

fn known(document: &PolicyDocument, entity: &EntityUid) -> bool {
    let id = entity.id().unescaped();
    match entity.type_name().basename() {
        "Team" => document.teams.contains_key(id),
        "Alias" => document.models.contains_key(id),
        "Model" => document
            .models
            .values()
            .any(|digest| digest.to_string() == id),
        "Principal" => id
            .parse()
            .is_ok_and(|principal| document.team_of(&principal).is_some()),
        // Actions: the validator has compared them with the schema.
        "Action" => true,
        _ => false,
    }
}

fn model_entities(models: &BTreeMap<ModelName, Sha256Digest>) -> HashMap<Sha256Digest, Entity> {
    let mut aliases: HashMap<Sha256Digest, HashSet<EntityUid>> = HashMap::new();
    for (name, digest) in models {
        aliases
            .entry(*digest)
            .or_default()
            .insert(uid(&TYPES.alias, name.as_str()));
    }
    let entity = |(digest, parents): (Sha256Digest, HashSet<EntityUid>)| {
        (
            digest,
            Entity::new_no_attrs(uid(&TYPES.model, &digest.to_string()), parents),
        )
    };
    aliases.into_iter().map(entity).collect()
}

/// Entity types of the schema.
pub(super) struct Types {
    pub(super) team: EntityTypeName,
    pub(super) principal: EntityTypeName,
    pub(super) alias: EntityTypeName,
    pub(super) model: EntityTypeName,
    pub(super) action: EntityTypeName,
}

#[expect(
    clippy::expect_used,
    reason = "five constant identifiers; the first use in any test proves them"
)]
pub(super) static TYPES: LazyLock<Types> = LazyLock::new(|| {
    let name = |text: &str| text.parse().expect("a constant identifier");
    Types {
        team: name("Team"),
        principal: name("Principal"),
        alias: name("Alias"),
        model: name("Model"),
        action: name("Action"),
    }
});

pub(super) fn uid(of: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(of.clone(), EntityId::new(id))
}
