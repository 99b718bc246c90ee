//! Lists of what devices may have measured, and the comparison (rules N7 and N8).
//!
//! A list is what a manifest says once its signature was judged: who judged it is not this file's business.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::opaque::is_version;
use super::rejection::NvidiaRejection;
use super::report::GpuReport;

/// The decoder's measurement. It counts only where the decoder is enabled.
const NVDEC0_INDEX: u8 = 35;
/// Highest manifest index: SPDM has 254 for it, one more.
const INDEX_MAX: u8 = 253;
/// Most alternatives for one index.
const ALTERNATIVES_MAX: usize = 64;

/// What a list describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReferenceKind {
    /// A GPU's driver.
    Driver,
    /// A GPU's VBIOS.
    Vbios,
    /// A switch's firmware.
    Switch,
}

impl std::fmt::Display for ReferenceKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Driver => "driver",
            Self::Vbios => "VBIOS",
            Self::Switch => "switch firmware",
        })
    }
}

/// Why a list cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GpuReferenceError {
    /// Nothing to compare a version with.
    #[error("version of a {0} list is not 1 to 32 letters, digits, dots, dashes and underscores")]
    Version(ReferenceKind),
    /// Empty means none.
    #[error("{kind} list {version} has no active index: any device would match")]
    Empty {
        /// Of what.
        kind: ReferenceKind,
        /// Its version.
        version: String,
    },
    /// Nothing could match.
    #[error("{kind} list {version} has {found} values for index {index}, not 1 to 64")]
    Alternatives {
        /// Of what.
        kind: ReferenceKind,
        /// Its version.
        version: String,
        /// Which index.
        index: u8,
        /// How many.
        found: usize,
    },
    /// No report has it.
    #[error("{kind} list {version} has index {index}, the last one is 253")]
    Index {
        /// Of what.
        kind: ReferenceKind,
        /// Its version.
        version: String,
        /// Which index.
        index: u8,
    },
}

/// What one version of a driver, a VBIOS or a switch's firmware measures: active indices and their alternatives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuReference {
    kind: ReferenceKind,
    version: String,
    values: BTreeMap<u8, Vec<[u8; 48]>>,
}

impl GpuReference {
    /// A list of *active* entries only, by manifest index, which counts from 0: index n is SPDM measurement n + 1. `version` is
    /// as reports have it (a manifest's `colloquialVersion`).
    ///
    /// # Errors
    /// [`GpuReferenceError`].
    pub fn new(
        kind: ReferenceKind,
        version: &str,
        values: BTreeMap<u8, Vec<[u8; 48]>>,
    ) -> Result<Self, GpuReferenceError> {
        let name = version.to_owned();
        if !is_version(version) {
            return Err(GpuReferenceError::Version(kind));
        }
        if values.is_empty() {
            let version = name;
            return Err(GpuReferenceError::Empty { kind, version });
        }
        for (&index, alternatives) in &values {
            let (version, found) = (name.clone(), alternatives.len());
            if index > INDEX_MAX {
                return Err(GpuReferenceError::Index {
                    kind,
                    version,
                    index,
                });
            }
            if !(1..=ALTERNATIVES_MAX).contains(&found) {
                return Err(GpuReferenceError::Alternatives {
                    kind,
                    version,
                    index,
                    found,
                });
            }
        }
        Ok(Self {
            kind,
            version: name,
            values,
        })
    }

    /// What it describes.
    #[must_use]
    pub const fn kind(&self) -> ReferenceKind {
        self.kind
    }

    /// Which version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The active indices, from 0.
    pub fn indices(&self) -> impl Iterator<Item = u8> + '_ {
        self.values.keys().copied()
    }

    /// Rule N8: every active index was measured and has one of its values. Returns how many were compared.
    fn compare(&self, report: &GpuReport) -> Result<usize, NvidiaRejection> {
        let skipped = report.opaque().nvdec0_enabled() == Some(false);
        let (mut compared, mut mismatching) = (0_usize, Vec::new());
        for (&index, alternatives) in &self.values {
            if skipped && index == NVDEC0_INDEX {
                continue;
            }
            let measured = index
                .checked_add(1)
                .and_then(|spdm| report.measurements().get(&spdm))
                .ok_or(NvidiaRejection::MeasurementMissing {
                    kind: self.kind,
                    index,
                })?;
            if !alternatives.contains(measured) {
                mismatching.push(index);
            }
            compared = compared.saturating_add(1);
        }
        if !mismatching.is_empty() {
            return Err(NvidiaRejection::MeasurementMismatch {
                kind: self.kind,
                version: self.version.clone(),
                indices: mismatching,
            });
        }
        if compared == 0 {
            return Err(NvidiaRejection::NothingCompared {
                kind: self.kind,
                version: self.version.clone(),
            });
        }
        Ok(compared)
    }
}

/// Rule N7: the lists of exactly this version. Boards of one version may have a list each.
pub(super) fn listed<'r>(
    references: &'r [GpuReference],
    kind: ReferenceKind,
    version: &str,
) -> Result<Vec<&'r GpuReference>, NvidiaRejection> {
    let of_it = |list: &&GpuReference| list.kind == kind && list.version == version;
    let found: Vec<_> = references.iter().filter(of_it).collect();
    if found.is_empty() {
        return Err(NvidiaRejection::VersionNotListed {
            kind,
            version: version.to_owned(),
        });
    }
    Ok(found)
}

/// Rule N8 for each part of a device: some list of it matches as a whole, and the lists that match share no index.
/// Returns how many measurements were compared.
pub(super) fn matching(
    report: &GpuReport,
    parts: &[Vec<&GpuReference>],
) -> Result<usize, NvidiaRejection> {
    let (mut chosen, mut compared): (Vec<&GpuReference>, usize) = (Vec::new(), 0);
    for lists in parts {
        let (list, count) = first_match(report, lists)?;
        let twice = list
            .indices()
            .find(|index| chosen.iter().any(|other| other.values.contains_key(index)));
        if let Some(index) = twice {
            return Err(NvidiaRejection::ReferencesOverlap(index));
        }
        chosen.push(list);
        compared = compared.saturating_add(count);
    }
    Ok(compared)
}

/// The first list that matches as a whole, or why the first of all does not.
fn first_match<'r>(
    report: &GpuReport,
    lists: &[&'r GpuReference],
) -> Result<(&'r GpuReference, usize), NvidiaRejection> {
    let mut refused = None;
    for list in lists {
        match list.compare(report) {
            Ok(count) => return Ok((list, count)),
            Err(rejection) => refused = refused.or(Some(rejection)),
        }
    }
    Err(refused.unwrap_or(NvidiaRejection::VersionMissing))
}
