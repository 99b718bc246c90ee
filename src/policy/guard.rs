//! The `guard` of a policy: whether the extraction guard only watches, what it takes for honest, what its steps keep, which
//! workloads are declared, and how many bits may leave. Everything here has a default, which is to watch and do nothing.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use casemate_attestation::UnixTime;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::document::PolicyDocument;
use super::name::{TeamName, WorkloadName};
use super::principal::Principal;
use super::shape::ShapeRule;
use crate::guard::shape::Shape;
use crate::guard::{Accounts, Allowance, Honest, Measures, Pace, Step, Template, Terms, Wager};

/// The most declared workloads: each prompt of an owner is compared with all of them.
const WORKLOADS_MAX: usize = 256;
/// The longest window of a workload's rate, and the longest quiet time, seconds: 31 and 366 days.
const WINDOW_SECONDS_MAX: u32 = 31 * 86_400;
const QUIET_SECONDS_MAX: u32 = 366 * 86_400;
/// The longest that a request may be made to wait.
const WAIT_MILLISECONDS_MAX: u32 = 60_000;
/// The most prompts between an alarm and its step.
const DELAY_PROMPTS_MAX: u16 = 1000;

static DEFAULT: LazyLock<GuardPolicy> = LazyLock::new(GuardPolicy::default);

/// Whether the guard is asked, and obeyed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuardMode {
    /// Nothing is watched, nothing is counted.
    Off,
    /// It judges and records, and does nothing. For the first weeks, and where policy says nothing.
    #[default]
    Shadow,
    /// It judges, records and acts.
    On,
}

impl GuardMode {
    /// The word of policies and audit records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Shadow => "shadow",
            Self::On => "on",
        }
    }
}

/// The part of a policy that is the guard's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GuardPolicy {
    /// Whether it acts.
    pub mode: GuardMode,
    /// Who may see what it holds against whom, and release: each by its full name, and only with the action `oversee` besides.
    /// Empty means nobody.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub officers: Vec<Principal>,
    /// What honest members of a team do at the most. Set by watching, never from attacks.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ceilings: BTreeMap<TeamName, Ceiling>,
    /// How the ladder is climbed and left.
    pub pace: Climb,
    /// What its steps keep.
    pub withhold: Measures,
    /// Templates that a team may send as often as it says.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub workloads: BTreeMap<WorkloadName, Workload>,
    /// How many bits of one model may leave.
    pub budgets: LeakBudgets,
    /// Whether noisy counters of each day leave: see [`crate::guard::counters`].
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub counters: bool,
    /// Whether two officers together may open the wording that many prompts of a shared template have: see
    /// [`crate::guard::scaffold`]. Where not, none is kept.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub disclosure: bool,
    /// What an eavesdropper sees of a team's answers; everything where a team is not named. Holds in every mode.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub shapes: BTreeMap<TeamName, ShapeRule>,
}

/// Shares of prompts, in hundredths: see [`Honest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ceiling {
    /// Of prompts that people put into a template of their own.
    pub templated_percent: u8,
    /// Of prompts that people ask again word for word.
    pub repeated_percent: u8,
}

impl Ceiling {
    fn honest(self) -> Honest {
        Honest {
            templated: f64::from(self.templated_percent) / 100.0,
            repeated: f64::from(self.repeated_percent) / 100.0,
        }
    }
}

/// See [`Pace`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Climb {
    /// Prompts between an alarm and its step, at most.
    pub delay_prompts_max: u16,
    /// Seconds without an alarm after which a step is taken back.
    pub quiet_seconds: u32,
    /// The highest step that is taken without a person.
    pub highest: Step,
}

impl Default for Climb {
    fn default() -> Self {
        let pace = Pace::default();
        Self {
            delay_prompts_max: pace.delay_prompts_max,
            quiet_seconds: u32::try_from(pace.quiet.as_secs()).unwrap_or(QUIET_SECONDS_MAX),
            highest: pace.highest,
        }
    }
}

impl Climb {
    fn pace(self) -> Pace {
        Pace {
            delay_prompts_max: self.delay_prompts_max,
            quiet: Duration::from_secs(self.quiet_seconds.into()),
            highest: self.highest,
        }
    }
}

/// A template that its owner may send without being asked about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Who sends it.
    pub owner: Owner,
    /// Digests of its wording: what `casemate guard declare` prints.
    #[serde(with = "template_text")]
    pub template: Template,
    /// Prompts in one window; those beyond count as undeclared.
    pub prompts: u64,
    /// Length of the window, seconds. Windows begin at multiples of it since 1970.
    pub window_seconds: u32,
    /// First second at which it is declared no more.
    pub expires: UnixTime,
}

/// Whose workload it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// All members of a team together.
    Team(TeamName),
    /// One principal.
    Principal(Principal),
}

/// Bits of one model that may leave, as long as it is this model. What is not written is counted and not limited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LeakBudgets {
    /// To everybody together.
    pub organisation: Allowance,
    /// To the members of a team.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub teams: BTreeMap<TeamName, TeamAllowance>,
}

/// Bits for a team.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TeamAllowance {
    /// To all members together.
    pub shared: Allowance,
    /// To each member.
    pub each: Allowance,
}

mod template_text {
    use super::{Deserialize, Deserializer, Serializer, Template};

    pub(super) fn serialize<S: Serializer>(template: &Template, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&template.to_string())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Template, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Principal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

impl GuardPolicy {
    /// What a policy without this part says.
    #[must_use]
    pub fn unspoken() -> &'static Self {
        &DEFAULT
    }

    /// What holds for members of a team.
    #[must_use]
    pub fn terms(&self, team: &TeamName) -> Terms {
        Terms {
            honest: self
                .ceilings
                .get(team)
                .map_or_else(Honest::default, |ceiling| ceiling.honest()),
            pace: self.pace.pace(),
            shadow: self.mode != GuardMode::On,
        }
    }

    /// Whether counters of each day are kept and told: where the guard is off, nothing is counted.
    #[must_use]
    pub fn counts_days(&self) -> bool {
        self.counters && self.mode != GuardMode::Off
    }

    /// Whether wording of shared templates is kept for two officers.
    #[must_use]
    pub fn keeps_wording(&self) -> bool {
        self.disclosure && self.mode != GuardMode::Off
    }

    /// How a team's answers look to an eavesdropper; nothing where they are not shaped.
    #[must_use]
    pub fn shape(&self, team: &TeamName) -> Option<Shape> {
        // What does not hold was refused with the policy.
        self.shapes.get(team)?.shape().ok().flatten()
    }

    /// How the ladder is climbed and left, by whomever.
    #[must_use]
    pub fn pace(&self) -> Pace {
        self.pace.pace()
    }

    /// The accounts of a principal for one model, a digest and its width, with what they may hold. A guard that only watches limits
    /// nothing; one that acts limits what probabilities and arranged choices tell everybody, where policy does not.
    #[must_use]
    pub fn accounts(
        &self,
        principal: &Principal,
        team: &TeamName,
        (model, width): (casemate_attestation::Sha256Digest, usize),
    ) -> Accounts {
        let of_team = self.budgets.teams.get(team).copied().unwrap_or_default();
        let all = self.budgets.organisation.within_a_lifetime(width);
        let allowances = match self.mode {
            GuardMode::On => [of_team.each, of_team.shared, all],
            GuardMode::Off | GuardMode::Shadow => [Allowance::default(); 3],
        };
        Accounts::new(model, principal.as_str(), team.as_str(), allowances)
    }

    /// The workloads that a principal may send now.
    pub fn workloads_of<'a>(
        &'a self,
        principal: &'a Principal,
        team: &'a TeamName,
        now: UnixTime,
    ) -> impl Iterator<Item = (&'a WorkloadName, &'a Workload)> {
        let owns = move |owner: &Owner| match owner {
            Owner::Team(owner) => owner == team,
            Owner::Principal(owner) => owner == principal,
        };
        let mut all = self.workloads.iter();
        std::iter::from_fn(move || {
            all.find(|(_, workload)| now < workload.expires && owns(&workload.owner))
        })
    }

    /// What is wrong with it in `document`, if anything: the place and the rule.
    pub(super) fn complaint(&self, document: &PolicyDocument) -> Option<(String, String)> {
        let unknown = |team: &TeamName| !document.teams.contains_key(team);
        if let Some(officer) = self.officers.iter().find(|o| document.team_of(o).is_none()) {
            return Some((
                "officers".into(),
                format!("{officer} is in no team of this policy"),
            ));
        }
        for (team, ceiling) in &self.ceilings {
            let place = format!("ceilings.{team}");
            if unknown(team) {
                return Some((place, "this policy has no such team".into()));
            }
            if let Err(error) = Wager::new(ceiling.honest()) {
                return Some((place, error.to_string()));
            }
        }
        if let Some(team) = self.budgets.teams.keys().find(|team| unknown(team)) {
            let place = format!("budgets.teams.{team}");
            return Some((place, "this policy has no such team".into()));
        }
        if self.workloads.len() > WORKLOADS_MAX {
            let rule = format!("has more than {WORKLOADS_MAX} entries");
            return Some(("workloads".into(), rule));
        }
        for (name, workload) in &self.workloads {
            if let Some(rule) = workload.complaint(document) {
                return Some((format!("workloads.{name}"), rule.into()));
            }
        }
        if let Some(complaint) = self.complaint_of_shapes(document) {
            return Some(complaint);
        }
        let bounded = [
            (
                self.pace.delay_prompts_max > DELAY_PROMPTS_MAX,
                "pace.delay_prompts_max",
                "is more than 1000",
            ),
            (
                !(1..=QUIET_SECONDS_MAX).contains(&self.pace.quiet_seconds),
                "pace.quiet_seconds",
                "is not 1 to 31622400 (366 days)",
            ),
            (
                self.pace.highest == Step::Closed,
                "pace.highest",
                "is closed, which is a person's to decide",
            ),
            (
                self.withhold.wait_milliseconds > WAIT_MILLISECONDS_MAX,
                "withhold.wait_milliseconds",
                "is more than 60000",
            ),
            (
                self.withhold.output_tokens_max == 0,
                "withhold.output_tokens_max",
                "is 0; no step but the last gives nothing",
            ),
            (
                self.withhold.window_tokens_max < 2,
                "withhold.window_tokens_max",
                "leaves no room for a token and its answer",
            ),
        ];
        let broken = bounded.into_iter().find(|(broken, ..)| *broken);
        broken.map(|(_, place, rule)| (place.to_owned(), rule.to_owned()))
    }

    fn complaint_of_shapes(&self, document: &PolicyDocument) -> Option<(String, String)> {
        self.shapes.iter().find_map(|(team, rule)| {
            let complaint = match document.teams.contains_key(team) {
                false => "this policy has no such team".to_owned(),
                true => rule.shape().err()?,
            };
            Some((format!("shapes.{team}"), complaint))
        })
    }
}

impl Workload {
    fn complaint(&self, document: &PolicyDocument) -> Option<&'static str> {
        let known = match &self.owner {
            Owner::Team(team) => document.teams.contains_key(team),
            Owner::Principal(principal) => document.team_of(principal).is_some(),
        };
        if !known {
            return Some("its owner is no team of this policy, and no member of one");
        }
        if !(1..=WINDOW_SECONDS_MAX).contains(&self.window_seconds) {
            return Some("window_seconds is not 1 to 2678400 (31 days)");
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::bundle::Rules;
    use crate::policy::{POLICY_FORMAT, PolicyError};

    /// A policy with one team, and this word about the guard.
    fn document(guard: &str) -> PolicyDocument {
        let budget = r#"{"window_seconds":1,"requests":1,"tokens":1,"concurrency":1}"#;
        let text = format!(
            r#"{{"format":"{POLICY_FORMAT}","cedar":"","models":{{}},"teams":{{"writers":{{
            "principals":["spiffe://acme/writers/*"],"shared":{budget},"each":{budget},"output_tokens_max":1,
            "session_seconds":1}}}},"guard":{guard}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn complaint(guard: &str) -> String {
        match Rules::check(&document(guard)) {
            Err(error @ PolicyError::Guard { .. }) => error.to_string(),
            other => panic!("{guard}: {other:?}"),
        }
    }

    fn workload(owner: &str, window_seconds: u64) -> String {
        let template: String = (1..5).map(|n| format!("{n:016x}")).collect();
        format!(
            r#"{{"workloads":{{"tickets":{{"owner":{owner},"template":"{template}","prompts":1,
            "window_seconds":{window_seconds},"expires":100}}}}}}"#
        )
    }

    #[test]
    fn every_rule_is_broken_once_and_named_with_its_place() {
        let team = r#"{"team":"writers"}"#;
        let cases = [
            (
                r#"{"officers":["spiffe://acme/security/olga"]}"#.to_owned(),
                "guard.officers",
            ),
            (
                r#"{"ceilings":{"coders":{"templated_percent":60,"repeated_percent":10}}}"#.into(),
                "guard.ceilings.coders",
            ),
            (
                r#"{"ceilings":{"writers":{"templated_percent":90,"repeated_percent":10}}}"#.into(),
                "guard.ceilings.writers",
            ),
            (
                r#"{"ceilings":{"writers":{"templated_percent":60,"repeated_percent":0}}}"#.into(),
                "guard.ceilings.writers",
            ),
            (
                r#"{"budgets":{"teams":{"coders":{}}}}"#.into(),
                "guard.budgets.teams.coders",
            ),
            (
                workload(r#"{"team":"coders"}"#, 1),
                "guard.workloads.tickets",
            ),
            (
                workload(r#"{"principal":"spiffe://acme/coders/ada"}"#, 1),
                "guard.workloads.tickets",
            ),
            (
                r#"{"shapes":{"coders":{"profile":"bucketed"}}}"#.into(),
                "guard.shapes.coders",
            ),
            (
                r#"{"shapes":{"writers":{"profile":"fixed"}}}"#.into(),
                "guard.shapes.writers",
            ),
            (workload(team, 0), "guard.workloads.tickets"),
            (workload(team, 2_678_401), "guard.workloads.tickets"),
            (
                r#"{"pace":{"delay_prompts_max":1001}}"#.into(),
                "guard.pace.delay_prompts_max",
            ),
            (
                r#"{"pace":{"quiet_seconds":0}}"#.into(),
                "guard.pace.quiet_seconds",
            ),
            (
                r#"{"pace":{"highest":"closed"}}"#.into(),
                "guard.pace.highest",
            ),
            (
                r#"{"withhold":{"wait_milliseconds":60001}}"#.into(),
                "guard.withhold.wait_milliseconds",
            ),
            (
                r#"{"withhold":{"output_tokens_max":0}}"#.into(),
                "guard.withhold.output_tokens_max",
            ),
            (
                r#"{"withhold":{"window_tokens_max":1}}"#.into(),
                "guard.withhold.window_tokens_max",
            ),
        ];
        for (guard, place) in cases {
            let complaint = complaint(&guard);
            assert!(complaint.starts_with(place), "{complaint}");
        }
        for guard in [
            workload(team, 1),
            r#"{"officers":["spiffe://acme/writers/olga"]}"#.into(),
            "{}".into(),
        ] {
            Rules::check(&document(&guard)).unwrap();
        }
    }

    #[test]
    fn more_workloads_than_a_prompt_is_compared_with_are_refused() {
        let one = document(&workload(r#"{"team":"writers"}"#, 1));
        let mut many = one.clone();
        let first = one.guard().workloads["tickets"].clone();
        let all = (0..=WORKLOADS_MAX).map(|n| (format!("w{n}").parse().unwrap(), first.clone()));
        many.guard.as_mut().unwrap().workloads = all.collect();
        let error = Rules::check(&many).unwrap_err().to_string();
        assert!(error.starts_with("guard.workloads"), "{error}");
    }

    #[test]
    fn s23_a_workload_is_its_owners_until_it_expires() {
        let of_team = document(&workload(r#"{"team":"writers"}"#, 1));
        let of_ada = document(&workload(r#"{"principal":"spiffe://acme/writers/ada"}"#, 1));
        let count = |document: &PolicyDocument, who: &str, team: &str, now: u64| {
            let (who, team) = (who.parse().unwrap(), team.parse().unwrap());
            document
                .guard()
                .workloads_of(&who, &team, UnixTime::from_secs(now))
                .count()
        };
        let (ada, bob) = ("spiffe://acme/writers/ada", "spiffe://acme/writers/bob");
        assert_eq!(count(&of_team, bob, "writers", 99), 1);
        assert_eq!(count(&of_team, bob, "coders", 99), 0);
        assert_eq!(count(&of_ada, ada, "writers", 99), 1);
        assert_eq!(count(&of_ada, bob, "writers", 99), 0);
        assert_eq!(
            count(&of_ada, ada, "writers", 100),
            0,
            "its first second is over"
        );
    }

    #[test]
    fn where_policy_says_nothing_the_guard_watches_and_limits_nothing() {
        let silent = GuardPolicy::unspoken();
        assert_eq!(silent.mode, GuardMode::Shadow);
        let team: TeamName = "writers".parse().unwrap();
        assert_eq!(silent.terms(&team).honest, Honest::default());
        assert_eq!(silent.terms(&team).pace, Pace::default());
        assert!(silent.terms(&team).shadow);
        let empty: GuardPolicy = serde_json::from_str("{}").unwrap();
        assert_eq!(&empty, silent);
        let written = serde_json::to_string(silent).unwrap();
        assert_eq!(
            &serde_json::from_str::<GuardPolicy>(&written).unwrap(),
            silent
        );
    }

    #[test]
    fn unknown_words_are_refused_at_any_depth() {
        for text in [
            r#"{"mode":"perhaps"}"#,
            r#"{"more":1}"#,
            r#"{"pace":{"more":1}}"#,
            r#"{"withhold":{"options":["everything"]}}"#,
            r#"{"budgets":{"organisation":{"bits":-1}}}"#,
            r#"{"workloads":{"a":{"owner":{"team":"writers"},"template":"00","prompts":1,"window_seconds":1,"expires":1}}}"#,
        ] {
            assert!(serde_json::from_str::<GuardPolicy>(text).is_err(), "{text}");
        }
    }
}
