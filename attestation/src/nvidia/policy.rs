//! What devices must be, and what the guest says of them (rules N6, N9, N10, N12).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::measurements::{GpuReference, ReferenceKind};
use super::opaque::FeatureFlag;
use super::set::DEVICES_MAX;

/// Whether a device's certificates may count although nobody says that they were not revoked (rule N6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Revocation {
    /// Refuse, unless every certificate between leaf and root has an answer of its issuer's (OCSP) that says that it is good.
    Required,
    /// Accept without an answer, or with one that is out of date. A certificate that is on hold or revoked passes then, and
    /// verdicts say so. An answer that says so refuses all the same.
    NotJudgedAccepted,
}

/// What to do with a report that has no feature flag, as those of drivers before 580 (rule N9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbsentFlag {
    /// Refuse.
    Refused,
    /// Accept, unless protected PCIe is expected. Verdicts say that the report is silent about it.
    AcceptedFromOldDrivers,
}

/// The driver's confidential computing mode. It is in no report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DriverMode {
    /// Confidential computing is on.
    On,
    /// It is on and the protections are off, for development.
    DevTools,
    /// It is off.
    Off,
}

/// What the guest itself says of its GPUs, read inside a guest that was attested: whoever passes anything else here accepts an
/// unprotected GPU. There is no way to leave it out (rule N9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DriverState {
    /// The mode that the driver in the guest reports, of all its GPUs.
    pub mode: DriverMode,
}

/// Why no policy could be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GpuPolicyError {
    /// Nothing to compare with.
    #[error("no {0} list is given: no device could be judged")]
    NoReference(ReferenceKind),
    /// Empty means none.
    #[error("no {0} version is allowed: nothing could be accepted")]
    NoVersion(ReferenceKind),
    /// Who wants no GPU does not ask.
    #[error("policy wants no GPU")]
    NoGpu,
    /// Bounds.
    #[error("policy wants {0} devices, more than {DEVICES_MAX}")]
    TooMany(usize),
    /// A mode and a number that contradict each other.
    #[error("policy wants {switches} switches in {mode} mode")]
    Switches {
        /// The mode wanted.
        mode: FeatureFlag,
        /// How many switches.
        switches: usize,
    },
}

/// The parts of a policy.
#[derive(Debug, Clone)]
pub struct GpuPolicyParts {
    /// Lists, of every driver, VBIOS and switch firmware that may be met.
    pub references: Vec<GpuReference>,
    /// Driver versions at or above the floor. A list says what a version is, this says whether it is still good.
    pub driver_versions: BTreeSet<String>,
    /// VBIOS versions at or above the floor. Versions of different boards have no order, therefore a list.
    pub vbios_versions: BTreeSet<String>,
    /// Switch firmware versions at or above the floor.
    pub switch_versions: BTreeSet<String>,
    /// Exactly how many GPUs.
    pub gpus: usize,
    /// Exactly how many switches.
    pub switches: usize,
    /// How they must work together.
    pub mode: FeatureFlag,
    /// What about reports that do not say.
    pub absent_flag: AbsentFlag,
    /// What about revocation.
    pub revocation: Revocation,
}

/// What devices are compared with.
#[derive(Debug, Clone)]
pub struct GpuPolicy {
    pub(super) parts: GpuPolicyParts,
}

impl DriverMode {
    /// The word that travels and that is bound.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::DevTools => "dev-tools",
            Self::Off => "off",
        }
    }
}

impl GpuPolicy {
    /// Checks that the parts could accept something, and nothing by omission.
    ///
    /// # Errors
    /// [`GpuPolicyError`].
    pub fn new(parts: GpuPolicyParts) -> Result<Self, GpuPolicyError> {
        if parts.gpus == 0 {
            return Err(GpuPolicyError::NoGpu);
        }
        let total = parts.gpus.saturating_add(parts.switches);
        if total > DEVICES_MAX {
            return Err(GpuPolicyError::TooMany(total));
        }
        let protected = parts.mode == FeatureFlag::ProtectedPcie;
        if protected != (parts.switches > 0) {
            return Err(GpuPolicyError::Switches {
                mode: parts.mode,
                switches: parts.switches,
            });
        }
        let mut wanted = vec![
            (ReferenceKind::Driver, &parts.driver_versions),
            (ReferenceKind::Vbios, &parts.vbios_versions),
        ];
        if protected {
            wanted.push((ReferenceKind::Switch, &parts.switch_versions));
        }
        for (kind, versions) in wanted {
            if !parts.references.iter().any(|list| list.kind() == kind) {
                return Err(GpuPolicyError::NoReference(kind));
            }
            if versions.is_empty() {
                return Err(GpuPolicyError::NoVersion(kind));
            }
        }
        Ok(Self { parts })
    }

    /// Rule N12.
    pub(super) fn allows(&self, kind: ReferenceKind, version: &str) -> bool {
        let versions = match kind {
            ReferenceKind::Driver => &self.parts.driver_versions,
            ReferenceKind::Vbios => &self.parts.vbios_versions,
            ReferenceKind::Switch => &self.parts.switch_versions,
        };
        versions.contains(version)
    }
}
