//! What an SNP report must say. Built from non-empty lists only: empty means none (attack B3).

use std::collections::BTreeMap;

use super::{Product, SnpRejection, TcbVersion};
use crate::digest::{ChipId, Measurement};

/// ALIAS_CHECK_COMPLETE in PLATFORM_INFO: the firmware looked for aliased memory at boot.
pub(crate) const ALIAS_CHECK_COMPLETE: u64 = 1 << 5;

/// What becomes of evidence without a revocation list (rule S10).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CrlPolicy {
    /// Refused. A list that is missing is not a list that is clean.
    #[default]
    Required,
    /// Accepted, and said so on the verdict. A list that is there must still be right. Never the product's choice:
    /// for looking at evidence of the past, whose lists are gone.
    MissingIsShown,
}

/// Why no policy could be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// Empty means none.
    #[error("no measurement is listed for this platform: nothing could be accepted")]
    NoMeasurements,
    /// Empty means none.
    #[error("no chip is listed for this platform: nothing could be accepted")]
    NoChips,
    /// Empty means none.
    #[error("no product has a firmware floor: nothing could be accepted")]
    NoFloors,
    /// Zeros would stand for every chip that hides its id.
    #[error("fleet list names a chip id of zeros, which every masked chip has")]
    MaskedChip,
    /// There are four levels.
    #[error("privilege level {0} does not exist; use 0 to 3")]
    Vmpl(u32),
}

/// What an SNP report must say to be accepted.
#[derive(Debug, Clone)]
pub struct SnpPolicy {
    pub(crate) measurements: Vec<Measurement>,
    pub(crate) chips: Vec<ChipId>,
    pub(crate) floors: BTreeMap<Product, TcbVersion>,
    pub(crate) vmpl: u32,
    pub(crate) guest_abi: (u8, u8),
    pub(crate) platform_info: u64,
    pub(crate) mitigations: u64,
    pub(crate) vlek_csp_ids: Vec<String>,
    pub(crate) broken_roots: Vec<Product>,
    pub(crate) crl: CrlPolicy,
}

impl SnpPolicy {
    /// The strictest policy for these lists: VMPL 0, VCEK only, alias check complete, revocation list required.
    ///
    /// # Errors
    /// [`PolicyError`] for an empty list or a chip id of zeros.
    pub fn new(
        measurements: Vec<Measurement>,
        chips: Vec<ChipId>,
        floors: BTreeMap<Product, TcbVersion>,
    ) -> Result<Self, PolicyError> {
        if measurements.is_empty() {
            return Err(PolicyError::NoMeasurements);
        }
        if chips.is_empty() {
            return Err(PolicyError::NoChips);
        }
        if chips.iter().any(ChipId::is_masked) {
            return Err(PolicyError::MaskedChip);
        }
        if floors.is_empty() {
            return Err(PolicyError::NoFloors);
        }
        Ok(Self {
            measurements,
            chips,
            floors,
            vmpl: 0,
            guest_abi: (0, 0),
            platform_info: ALIAS_CHECK_COMPLETE,
            mitigations: 0,
            vlek_csp_ids: Vec::new(),
            broken_roots: Vec::new(),
            crl: CrlPolicy::Required,
        })
    }

    /// The privilege level that the report must come from, 0 to 3.
    ///
    /// # Errors
    /// [`PolicyError::Vmpl`].
    pub fn with_vmpl(mut self, vmpl: u32) -> Result<Self, PolicyError> {
        if vmpl > 3 {
            return Err(PolicyError::Vmpl(vmpl));
        }
        self.vmpl = vmpl;
        Ok(self)
    }

    /// The lowest firmware ABI (major, minor) that a guest policy may name.
    #[must_use]
    pub fn with_guest_abi(mut self, major: u8, minor: u8) -> Self {
        self.guest_abi = (major, minor);
        self
    }

    /// PLATFORM_INFO bits that must be set, beside those already required.
    #[must_use]
    pub fn requiring_platform_info(mut self, bits: u64) -> Self {
        self.platform_info |= bits;
        self
    }

    /// Mitigation bits (reports of version 5) that must be set at launch and now.
    #[must_use]
    pub fn requiring_mitigations(mut self, bits: u64) -> Self {
        self.mitigations |= bits;
        self
    }

    /// Accepts a VLEK of this cloud provider, by its CSP id. Such a report names no chip.
    #[must_use]
    pub fn allowing_vlek_of(mut self, csp_id: &str) -> Self {
        self.vlek_csp_ids.push(csp_id.to_owned());
        self
    }

    /// Accepts a product whose root of trust is broken; the verdict says so (attack B12).
    #[must_use]
    pub fn allowing_despite_broken_root(mut self, product: Product) -> Self {
        self.broken_roots.push(product);
        self
    }

    /// Accepts machines whose firmware did not look for aliased memory; the verdict says so (attack B14).
    #[must_use]
    pub fn tolerating_missing_alias_check(mut self) -> Self {
        self.platform_info &= !ALIAS_CHECK_COMPLETE;
        self
    }

    /// The parts of S17 and S19 that documents may say otherwise about later.
    pub(crate) fn still_lists(
        &self,
        chip: ChipId,
        measurement: Measurement,
    ) -> Result<(), SnpRejection> {
        if !self.chips.contains(&chip) {
            return Err(SnpRejection::ChipUnknown(chip));
        }
        if !self.measurements.contains(&measurement) {
            return Err(SnpRejection::MeasurementUnknown(measurement));
        }
        Ok(())
    }

    /// What becomes of evidence without a revocation list.
    #[must_use]
    pub fn with_crl(mut self, crl: CrlPolicy) -> Self {
        self.crl = crl;
        self
    }
}
