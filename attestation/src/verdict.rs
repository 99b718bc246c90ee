//! What an appraisal writes down: typed claims, each a numbered rule with a result, what it rests on, and words.

use serde::{Deserialize, Serialize};

/// How a check ended. There is no "not checked": evidence that fails one check has no verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckResult {
    /// The rule holds.
    Pass,
    /// The rule was satisfied in a way, or by an override, that a person should read.
    Info,
}

impl CheckResult {
    /// The word on a check line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Info => "INFO",
        }
    }
}

/// What a check or a claim rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// Somebody's word that no hardware signed: the host's, or the guest's about its own devices.
    Asserted,
    /// Signed documents of a vendor or of the organisation, dates, or a digest in a signed register whose meaning is a
    /// convention or a label.
    Derived,
    /// Bytes that the hardware's own key signed, or that hash to a digest in a signed register and say themselves what they are.
    HardwareProven,
}

impl Basis {
    /// The word on a check line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Asserted => "asserted",
            Self::Derived => "derived",
            Self::HardwareProven => "hardware-proven",
        }
    }

    /// What the rule with this id rests on, where no finding changes it.
    pub(crate) fn of_rule(id: &str) -> Self {
        match id {
            // Certificates, revocation lists, vendors' documents and the organisation's lists.
            "S5" | "S6" | "S10" | "S19" => Self::Derived,
            "T2" | "T3" | "T6" | "T7" | "T11" | "T12" | "T18" | "T19" => Self::Derived,
            "P-39" | "P5" | "N3" | "N6" | "N7" | "N12" => Self::Derived,
            _ => Self::HardwareProven,
        }
    }
}

/// One line of a verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The rule, such as `S5`.
    pub id: &'static str,
    /// How it ended.
    pub result: CheckResult,
    /// What it rests on.
    pub basis: Basis,
    /// What was found.
    pub text: String,
}

/// Lines in the order of the rules: what every appraisal writes as it goes.
#[derive(Default)]
pub(crate) struct Lines(Vec<Check>);

impl Lines {
    pub(crate) fn pass(&mut self, id: &'static str, text: impl Into<String>) {
        self.add(id, CheckResult::Pass, Basis::of_rule(id), text.into());
    }

    pub(crate) fn info(&mut self, id: &'static str, text: impl Into<String>) {
        self.add(id, CheckResult::Info, Basis::of_rule(id), text.into());
    }

    /// A line whose basis is less than the rule's own.
    pub(crate) fn info_resting_on(
        &mut self,
        id: &'static str,
        basis: Basis,
        text: impl Into<String>,
    ) {
        self.add(id, CheckResult::Info, basis, text.into());
    }

    /// Nothing of what was written so far rests on more than `basis`.
    pub(crate) fn rest_at_most_on(&mut self, basis: Basis) {
        for check in &mut self.0 {
            check.basis = check.basis.min(basis);
        }
    }

    fn add(&mut self, id: &'static str, result: CheckResult, basis: Basis, text: String) {
        self.0.push(Check {
            id,
            result,
            basis,
            text,
        });
    }

    pub(crate) fn into_checks(self) -> Vec<Check> {
        self.0
    }
}
