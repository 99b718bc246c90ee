//! What right evidence looks like, from signed documents only. An empty list is refused: empty means none.

use crate::bundles::{FleetChip, FleetList};
use crate::devices::{DeviceExpectations, DeviceExpectationsError, none_twice};
use crate::digest::{ChipId, UnixTime};
use crate::images::Images;
use crate::provider::Platform;
use crate::reference::{ReferenceValues, SnpReference, TdxReference, TpmReference};
use crate::signed::Verified;
use crate::snp::{PolicyError, SnpPolicy};
use crate::tdx::{TdxMeasurement, TdxPolicy, TdxPolicyError};
use crate::tpm::{
    AttestationKey, EnrolledKey, PublicKey, TpmAnchors, TpmPolicy, TpmPolicyError, TpmRejection,
    TpmVerdict,
};

/// Why the documents say nothing that evidence could be compared with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExpectationsError {
    /// Empty means none.
    #[error("reference values have no section for platform {0}: nothing could be accepted")]
    NoSection(Platform),
    /// The section for SNP reports, or the fleet's chips.
    #[error(transparent)]
    Snp(#[from] PolicyError),
    /// The section for TDX quotes, or the fleet's platforms.
    #[error(transparent)]
    Tdx(#[from] TdxPolicyError),
    /// The section for TPM quotes.
    #[error(transparent)]
    Tpm(#[from] TpmPolicyError),
    /// Empty means none.
    #[error("no machine is listed for platform tpm: nothing could be accepted")]
    NoMachines,
    /// Devices of the fleet's machines, or what they must be.
    #[error(transparent)]
    Devices(#[from] DeviceExpectationsError),
    /// Which registers a quote must cover would depend on what it says.
    #[error("machines of platform tpm have values for different registers")]
    OtherRegisters,
    /// The fleet's entry cannot be what its platform needs.
    #[error("fleet list: machine {label:?} {what}")]
    Machine {
        /// The entry's label.
        label: String,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// What evidence of one platform must say.
#[derive(Debug, Clone)]
pub(crate) enum PlatformPolicy {
    Snp(SnpPolicy),
    Tdx(TdxPolicy),
    Tpm(TpmExpectations),
}

/// Machines that are right, and the keys that may say so.
#[derive(Debug, Clone)]
pub(crate) struct TpmExpectations {
    /// One for each machine; at least one, all with the same registers of the same bank.
    pub(crate) machines: Vec<TpmPolicy>,
    pub(crate) anchors: TpmAnchors,
    owners: Vec<(PublicKey, ChipId)>,
}

impl TpmExpectations {
    /// Whether key, machine and registers of an earlier verdict are still listed.
    pub(crate) fn still_lists(
        &self,
        chip: ChipId,
        verdict: &TpmVerdict,
    ) -> Result<(), TpmRejection> {
        if self.owner(verdict.key()) != Some(chip) {
            return Err(TpmRejection::KeyNotEnrolled);
        }
        let mut refusal = TpmRejection::KeyNotEnrolled;
        for machine in &self.machines {
            match machine.still_lists(verdict) {
                Ok(()) => return Ok(()),
                Err(rejection) => refusal = rejection,
            }
        }
        Err(refusal)
    }

    /// The machine that has this key, by the fleet list.
    pub(crate) fn owner(&self, key: &PublicKey) -> Option<ChipId> {
        let mut owners = self.owners.iter();
        owners
            .find(|(known, _)| known == key)
            .map(|(_, chip)| *chip)
    }
}

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
    devices: Vec<(ChipId, DeviceExpectations)>,
    platform: Platform,
    policy: PlatformPolicy,
    images: Images,
    fleet: Vec<FleetChip>,
    from: UnixTime,
    until: UnixTime,
}

impl Expectations {
    /// Takes what the two documents say about `platform`.
    ///
    /// # Errors
    /// [`ExpectationsError`] when they have nothing for that platform, or something that could accept nothing.
    pub fn new(
        platform: Platform,
        reference: &Verified<ReferenceValues>,
        fleet: &Verified<FleetList>,
    ) -> Result<Self, ExpectationsError> {
        let values = reference.payload();
        let listed = fleet.payload().chips.iter();
        let fleet_of_platform: Vec<FleetChip> = listed
            .filter(|chip| chip.platform == platform)
            .cloned()
            .collect();
        let chips = &fleet_of_platform;
        only_tpms_have_keys(platform, chips)?;
        let none = ExpectationsError::NoSection(platform);
        let policy = match platform {
            Platform::Snp | Platform::TestChip => {
                let section = values.snp_reports(platform).ok_or(none)?;
                PlatformPolicy::Snp(snp_policy(section, chips)?)
            }
            Platform::Tdx => {
                let section = values.tdx.as_ref().ok_or(none)?;
                PlatformPolicy::Tdx(tdx_policy(section, chips)?)
            }
            Platform::Tpm => {
                let section = values.tpm.as_ref().ok_or(none)?;
                PlatformPolicy::Tpm(tpm_expectations(section, chips)?)
            }
        };
        none_twice(&fleet.payload().chips)?;
        let mut devices = Vec::new();
        for chip in chips {
            let expected = DeviceExpectations::of(chip, values.nvidia.as_ref())?;
            devices.extend(expected.map(|it| (chip.chip_id, it)));
        }
        Ok(Self {
            platform,
            devices,
            policy,
            images: Images::of(platform, values),
            from: reference.issued().max(fleet.issued()),
            until: reference.expires().min(fleet.expires()),
            fleet: fleet_of_platform,
        })
    }

    /// The platform they are for.
    #[must_use]
    pub const fn platform(&self) -> Platform {
        self.platform
    }

    pub(crate) const fn policy(&self) -> &PlatformPolicy {
        &self.policy
    }

    pub(crate) const fn images(&self) -> &Images {
        &self.images
    }

    /// What SNP reports must say, where the platform is one that writes them.
    #[must_use]
    pub const fn snp_policy(&self) -> Option<&SnpPolicy> {
        match &self.policy {
            PlatformPolicy::Snp(policy) => Some(policy),
            PlatformPolicy::Tdx(_) | PlatformPolicy::Tpm(_) => None,
        }
    }

    /// What devices a machine must have; `None` for none.
    pub(crate) fn devices(&self, id: &ChipId) -> Option<&DeviceExpectations> {
        let mut all = self.devices.iter();
        all.find(|(chip, _)| chip == id).map(|(_, it)| it)
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

fn only_tpms_have_keys(platform: Platform, chips: &[FleetChip]) -> Result<(), ExpectationsError> {
    let wants_key = platform == Platform::Tpm;
    match chips.iter().find(|chip| chip.tpm.is_some() != wants_key) {
        None => Ok(()),
        Some(chip) => Err(ExpectationsError::Machine {
            label: chip.label.clone(),
            what: if wants_key {
                "is of platform tpm and has no attestation key"
            } else {
                "has a TPM's attestation key and is not of platform tpm"
            },
        }),
    }
}

fn snp_policy(section: &SnpReference, chips: &[FleetChip]) -> Result<SnpPolicy, PolicyError> {
    let measurements = section.measurements.iter().map(|entry| entry.measurement);
    let mut policy = SnpPolicy::new(
        measurements.collect(),
        chips.iter().map(|chip| chip.chip_id).collect(),
        section.tcb_floor.clone(),
    )?
    .with_vmpl(section.vmpl)?;
    for product in &section.families_allowed_despite_broken_root {
        policy = policy.allowing_despite_broken_root(*product);
    }
    if section.missing_alias_check_tolerated {
        policy = policy.tolerating_missing_alias_check();
    }
    Ok(policy)
}

fn tdx_policy(section: &TdxReference, chips: &[FleetChip]) -> Result<TdxPolicy, TdxPolicyError> {
    let machines = section.machines.iter().map(|machine| TdxMeasurement {
        mrtd: machine.mrtd,
        rtmrs: machine.rtmrs.clone(),
    });
    let platforms = chips.iter().map(|chip| chip.chip_id).collect();
    let mut policy = TdxPolicy::new(machines.collect(), platforms, section.collateral_floor)?
        .with_mr_seam(section.mr_seam.clone())
        .with_mr_config_id(section.mr_config_id.clone())
        .with_mr_owner(section.mr_owner.clone())
        .with_mr_owner_config(section.mr_owner_config.clone());
    for (status, advisories) in &section.statuses {
        let advisories: Vec<&str> = advisories.iter().map(String::as_str).collect();
        policy = policy.accepting(*status, &advisories)?;
    }
    for digest in &section.service_tds {
        policy = policy.accepting_service_td(*digest)?;
    }
    if section.perfmon_accepted {
        policy = policy.accepting_perfmon();
    }
    Ok(policy)
}

/// What register values of one right machine are, all together; one policy for each machine.
///
/// # Errors
/// [`ExpectationsError`] when the section could accept nothing, or its machines list different registers.
pub fn tpm_policies(section: &TpmReference) -> Result<Vec<TpmPolicy>, ExpectationsError> {
    let first = section
        .machines
        .first()
        .ok_or(ExpectationsError::NoMachines)?;
    let registers: std::collections::BTreeSet<u8> = first.registers.keys().copied().collect();
    let mut machines = Vec::with_capacity(section.machines.len());
    for machine in &section.machines {
        if !machine.registers.keys().eq(registers.iter()) {
            return Err(ExpectationsError::OtherRegisters);
        }
        let expected = machine.registers.iter();
        let expected = expected.map(|(number, value)| (*number, vec![value.clone()]));
        machines.push(TpmPolicy::new(
            section.bank,
            registers.clone(),
            expected.collect(),
        )?);
    }
    Ok(machines)
}

fn tpm_expectations(
    section: &TpmReference,
    chips: &[FleetChip],
) -> Result<TpmExpectations, ExpectationsError> {
    let machines = tpm_policies(section)?;
    let mut enrolled = Vec::with_capacity(chips.len());
    let mut owners = Vec::with_capacity(chips.len());
    for chip in chips {
        let wrong = |what| ExpectationsError::Machine {
            label: chip.label.clone(),
            what,
        };
        let tpm = chip.tpm.as_ref().ok_or(wrong("has no attestation key"))?;
        let key = AttestationKey::parse(&tpm.attestation_key)
            .map_err(|_| wrong("has an attestation key that is not a restricted signing key"))?;
        if chip.chip_id.is_masked() {
            return Err(wrong("has an id of zeros"));
        }
        owners.push((key.public().clone(), chip.chip_id));
        enrolled.push(EnrolledKey::new(&key, tpm.hosted));
    }
    if enrolled.is_empty() {
        return Err(ExpectationsError::NoMachines);
    }
    Ok(TpmExpectations {
        machines,
        anchors: TpmAnchors::new(Vec::new(), enrolled),
        owners,
    })
}
