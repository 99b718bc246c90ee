//! What right evidence looks like, from signed documents only. An empty list is refused: empty means none.

use crate::bundles::{FleetChip, FleetList, ReferenceValues};
use crate::digest::{ChipId, UnixTime};
use crate::provider::Platform;
use crate::signed::Verified;
use crate::snp::{PolicyError, SnpPolicy};

/// Reference values and fleet list for one platform, and how long they are in force.
///
/// The constructor asks for [`Verified`] documents, so that no unsigned file can become an expectation:
///
/// ```compile_fail
/// use casemate_attestation::{Expectations, FleetList, Platform, ReferenceValues};
/// fn expectations(reference: &ReferenceValues, fleet: &FleetList) {
///     let _ = Expectations::new(Platform::Snp, reference, fleet);
/// }
/// ```
///
/// ```
/// use casemate_attestation::{Expectations, FleetList, Platform, ReferenceValues, Verified};
/// fn expectations(reference: &Verified<ReferenceValues>, fleet: &Verified<FleetList>) {
///     let _ = Expectations::new(Platform::Snp, reference, fleet);
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Expectations {
    platform: Platform,
    policy: SnpPolicy,
    fleet: Vec<FleetChip>,
    from: UnixTime,
    until: UnixTime,
}

impl Expectations {
    /// Takes what the two documents say about `platform`.
    ///
    /// # Errors
    /// [`PolicyError`] when a list has nothing for that platform.
    pub fn new(
        platform: Platform,
        reference: &Verified<ReferenceValues>,
        fleet: &Verified<FleetList>,
    ) -> Result<Self, PolicyError> {
        let values = reference.payload();
        let measurements = values
            .measurements
            .iter()
            .filter(|entry| entry.platform == platform);
        let chips: Vec<FleetChip> = fleet
            .payload()
            .chips
            .iter()
            .filter(|chip| chip.platform == platform)
            .cloned()
            .collect();
        let mut policy = SnpPolicy::new(
            measurements.map(|entry| entry.measurement).collect(),
            chips.iter().map(|chip| chip.chip_id).collect(),
            values.tcb_floor.clone(),
        )?
        .with_vmpl(values.vmpl)?;
        for product in &values.families_allowed_despite_broken_root {
            policy = policy.allowing_despite_broken_root(*product);
        }
        let from = reference.issued().max(fleet.issued());
        let until = reference.expires().min(fleet.expires());
        Ok(Self {
            platform,
            policy,
            fleet: chips,
            from,
            until,
        })
    }

    /// The platform they are for.
    #[must_use]
    pub const fn platform(&self) -> Platform {
        self.platform
    }

    /// What reports must say.
    #[must_use]
    pub const fn policy(&self) -> &SnpPolicy {
        &self.policy
    }

    /// The fleet's entry for a chip.
    #[must_use]
    pub fn chip(&self, id: &ChipId) -> Option<&FleetChip> {
        self.fleet.iter().find(|chip| chip.chip_id == *id)
    }

    /// First second in which both documents are in force, and the first second after.
    #[must_use]
    pub const fn validity(&self) -> (UnixTime, UnixTime) {
        (self.from, self.until)
    }
}
