//! What right evidence looks like, by platform: the payload of the document `reference` (rule O-4). A platform without a
//! section is refused, and so is an empty list: empty means none.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::collateral::GpuList;
use crate::devices::DeviceExpectationsError;
use crate::digest::{Measurement, UnixTime};
use crate::nvidia::{AbsentFlag, FeatureFlag, GpuPolicy, GpuPolicyParts, Revocation};
use crate::provider::Platform;
use crate::snp::{Product, TcbVersion};
use crate::strict_json::hex_registers;
use crate::tdx::{Expected, TcbStatus};
use crate::tpm::Bank;

/// One section for each platform that may prove itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ReferenceValues {
    /// AMD SEV-SNP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snp: Option<SnpReference>,
    /// The test chip, which writes SNP reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_chip: Option<SnpReference>,
    /// Intel TDX.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tdx: Option<TdxReference>,
    /// Measured boot with a TPM 2.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm: Option<TpmReference>,
    /// NVIDIA GPUs and switches, beside any platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nvidia: Option<NvidiaReference>,
}

impl ReferenceValues {
    /// The section of a platform whose evidence is an SNP report.
    #[must_use]
    pub const fn snp_reports(&self, platform: Platform) -> Option<&SnpReference> {
        match platform {
            Platform::Snp => self.snp.as_ref(),
            Platform::TestChip => self.test_chip.as_ref(),
            Platform::Tdx | Platform::Tpm => None,
        }
    }

    /// The same to write to.
    pub const fn snp_reports_mut(
        &mut self,
        platform: Platform,
    ) -> Option<&mut Option<SnpReference>> {
        match platform {
            Platform::Snp => Some(&mut self.snp),
            Platform::TestChip => Some(&mut self.test_chip),
            Platform::Tdx | Platform::Tpm => None,
        }
    }
}

/// One launch measurement that is right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnpMeasurement {
    /// The value.
    pub measurement: Measurement,
    /// For people: what was measured.
    pub label: String,
    /// The first second at which it is accepted no more (rule O-5); without one it is accepted while the document is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<UnixTime>,
}

/// What a right SNP report says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnpReference {
    /// Empty means none.
    pub measurements: Vec<SnpMeasurement>,
    /// The lowest firmware of each product. A product without a floor is refused.
    pub tcb_floor: BTreeMap<Product, TcbVersion>,
    /// The privilege level (VMPL) that a report must come from, 0 to 3.
    pub vmpl: u32,
    /// Products whose root of trust is known to be broken and that are accepted all the same. Shown on every verdict.
    pub families_allowed_despite_broken_root: Vec<Product>,
    /// Accepts firmware that did not look for aliased memory, which firmware of before 2025 cannot. Shown on every verdict.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub missing_alias_check_tolerated: bool,
}

/// One trust domain that is right: what it was at launch, and what it measured since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TdxMachine {
    /// MRTD: the firmware, at launch.
    pub mrtd: Measurement,
    /// RTMR0 to RTMR3: a list of right values, or null for any.
    pub rtmrs: [Expected; 4],
    /// For people: what was measured.
    pub label: String,
    /// The first second at which it is accepted no more (rule O-5); without one it is accepted while the document is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<UnixTime>,
}

/// What a right TDX quote says, beside what is never up for choice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TdxReference {
    /// Empty means none.
    pub machines: Vec<TdxMachine>,
    /// The lowest `tcbEvaluationDataNumber` of Intel's documents. Not 0.
    pub collateral_floor: u32,
    /// Statuses that are accepted beside `UpToDate`, each with the advisories that may come with it. Shown on every verdict.
    #[serde(default)]
    pub statuses: BTreeMap<TcbStatus, Vec<String>>,
    /// Accepts trust domains that may use performance counters.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub perfmon_accepted: bool,
    /// TDX modules that may run; null for any that Intel's documents accept.
    #[serde(default = "Expected::any")]
    pub mr_seam: Expected,
    /// Service TDs that may be bound to the trust domain.
    #[serde(default)]
    pub service_tds: Vec<Measurement>,
    /// MRCONFIGID; zeros unless said otherwise.
    #[serde(default = "Expected::zeros")]
    pub mr_config_id: Expected,
    /// MROWNER; zeros unless said otherwise.
    #[serde(default = "Expected::zeros")]
    pub mr_owner: Expected,
    /// MROWNERCONFIG; zeros unless said otherwise.
    #[serde(default = "Expected::zeros")]
    pub mr_owner_config: Expected,
}

/// Register values that one right machine has, all together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TpmMachine {
    /// Values by register number, 0 to 23.
    #[serde(with = "hex_registers")]
    pub registers: BTreeMap<u8, Vec<u8>>,
    /// For people: what was measured.
    pub label: String,
    /// The first second at which it is accepted no more (rule O-5); without one it is accepted while the document is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<UnixTime>,
}

/// What a right TPM quote says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TpmReference {
    /// The bank quoted. Not SHA-1.
    pub bank: Bank,
    /// Empty means none. All have the same registers, which are those that must be quoted.
    pub machines: Vec<TpmMachine>,
}

/// What right GPUs and switches say. Which of them a machine has is in the fleet list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NvidiaReference {
    /// What drivers, VBIOS and switch firmware measure, as `casemate nvidia rim-import` makes them of signed manifests.
    pub lists: Vec<GpuList>,
    /// Versions that are still good. Empty means none.
    pub driver_versions: BTreeSet<String>,
    /// The same of VBIOS.
    pub vbios_versions: BTreeSet<String>,
    /// The same of switches; empty where no machine has any.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub switch_versions: BTreeSet<String>,
    /// How GPUs work together.
    pub mode: FeatureFlag,
    /// Accepts drivers whose reports do not say how GPUs work together. Shown on every verdict.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub absent_mode_accepted: bool,
    /// Accepts devices about whose certificates nobody was asked. Shown on every verdict.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub revocation_not_judged_accepted: bool,
}

impl NvidiaReference {
    /// What a machine with so many GPUs and switches is compared with.
    ///
    /// # Errors
    /// [`DeviceExpectationsError`] for a section that could accept nothing, or anything.
    pub fn policy(
        &self,
        gpus: usize,
        switches: usize,
    ) -> Result<GpuPolicy, DeviceExpectationsError> {
        let references = self.lists.iter().map(GpuList::reference);
        let parts = GpuPolicyParts {
            references: references.collect::<Result<_, _>>()?,
            driver_versions: self.driver_versions.clone(),
            vbios_versions: self.vbios_versions.clone(),
            switch_versions: self.switch_versions.clone(),
            gpus,
            switches,
            mode: self.mode,
            absent_flag: if self.absent_mode_accepted {
                AbsentFlag::AcceptedFromOldDrivers
            } else {
                AbsentFlag::Refused
            },
            revocation: if self.revocation_not_judged_accepted {
                Revocation::NotJudgedAccepted
            } else {
                Revocation::Required
            },
        };
        Ok(GpuPolicy::new(parts)?)
    }
}
