//! Devices that prove themselves beside a machine (rules P-36 to P-39): NVIDIA GPUs and switches, as they travel, and what of
//! them must hold for the machine that vouches.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::bundles::{FleetChip, FleetDevice};
use crate::digest::{Sha256Digest, UnixTime};
use crate::nvidia::{
    CHAIN_BYTES_MAX, DEVICES_MAX, DeviceEvidence, DeviceKind, DriverMode, DriverState, GpuNonce,
    GpuPolicy, GpuPolicyError, GpuReferenceError, GpuSetVerdict, OcspAnswers, PinnedGpuRoot,
    REPORT_BYTES_MAX, devices_digest, verify_devices,
};
use crate::reference::NvidiaReference;
use crate::rejection::Rejection;
use crate::strict_json::base64_bytes;
use crate::verdict::{Check, Lines};

/// Most answers about revocation that travel.
const ANSWERS_MAX: usize = 256;

/// What a machine's devices said, and what the guest says of their driver. Nothing of it is trusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceSet {
    /// The driver's mode, in the guest's own words, which its platform's report signs.
    pub mode: DriverMode,
    /// Each device's report, in rising order of the bytes, so that one set has one digest.
    pub devices: Vec<DeviceEvidence>,
    /// What issuers say about certificates, by the SHA-256 of each. Signed by them, and therefore in no digest of ours.
    pub answers: BTreeMap<Sha256Digest, Answer>,
}

/// An OCSP answer (DER).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Answer(#[serde(with = "base64_bytes")] pub Vec<u8>);

impl DeviceSet {
    /// A set in the one order that envelopes have.
    #[must_use]
    pub fn new(mode: DriverMode, mut devices: Vec<DeviceEvidence>, answers: &OcspAnswers) -> Self {
        let answers = answers.iter();
        let answers = answers.map(|(about, it)| (*about, Answer(it.to_vec())));
        let answers = answers.collect();
        devices.sort_by(|a, b| a.report.cmp(&b.report));
        Self {
            mode,
            devices,
            answers,
        }
    }

    /// What the session's context carries as `device_evidence`.
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        devices_digest(self.mode, &self.devices)
    }

    /// What issuers say about the devices' certificates.
    #[must_use]
    pub fn ocsp_answers(&self) -> OcspAnswers {
        let answers = self.answers.iter();
        OcspAnswers::new(answers.map(|(about, it)| (*about, it.0.clone())))
    }

    /// Rule P-36.
    pub(crate) fn form(&self) -> Result<(), &'static str> {
        if !(1..=DEVICES_MAX).contains(&self.devices.len()) {
            return Err("are not 1 to 64");
        }
        if self.answers.len() > ANSWERS_MAX {
            return Err("have more than 256 answers about revocation");
        }
        let long = |it: &DeviceEvidence| {
            it.report.len() > REPORT_BYTES_MAX || it.chain.len() > CHAIN_BYTES_MAX
        };
        if self.devices.iter().any(long) {
            return Err("have a report or a chain that is too long");
        }
        let rising = |(a, b): (&DeviceEvidence, &DeviceEvidence)| a.report < b.report;
        let pairs = self.devices.iter().zip(self.devices.iter().skip(1));
        if !pairs.into_iter().all(rising) {
            return Err("are not in rising order of their reports, none twice");
        }
        Ok(())
    }
}

/// Why no devices could be expected of a machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceExpectationsError {
    /// Empty means none.
    #[error("fleet list: machine {0:?} has devices, and reference values have no section nvidia")]
    NoSection(String),
    /// One device would stand for two.
    #[error("fleet list: device {0} is listed twice")]
    Twice(Sha256Digest),
    /// A list that accepts nothing, or anything.
    #[error("reference values, section nvidia: {0}")]
    List(#[from] GpuReferenceError),
    /// A policy that accepts nothing.
    #[error("reference values, section nvidia: {0}")]
    Policy(#[from] GpuPolicyError),
}

/// The devices of one machine of the fleet: exactly these, and what they must measure.
#[derive(Debug, Clone)]
pub(crate) struct DeviceExpectations {
    policy: GpuPolicy,
    keys: BTreeSet<Sha256Digest>,
}

impl DeviceExpectations {
    /// `None` for a machine without devices.
    pub(crate) fn of(
        chip: &FleetChip,
        section: Option<&NvidiaReference>,
    ) -> Result<Option<Self>, DeviceExpectationsError> {
        if chip.devices.is_empty() {
            return Ok(None);
        }
        let none = DeviceExpectationsError::NoSection(chip.label.clone());
        let section = section.ok_or(none)?;
        let count = |kind| chip.devices.iter().filter(|it| it.kind == kind).count();
        let policy = section.policy(count(DeviceKind::Gpu), count(DeviceKind::Switch))?;
        let keys = chip.devices.iter().map(|it| it.device_key).collect();
        Ok(Some(Self { policy, keys }))
    }

    /// Rules P-38 and P-39, and N1 to N12 of each device and of all of them.
    pub(crate) fn judge(
        &self,
        sent: &DeviceSet,
        nonce: &GpuNonce,
        roots: &[PinnedGpuRoot],
        now: UnixTime,
    ) -> Result<(GpuSetVerdict, Vec<Check>), Rejection> {
        let answers = sent.ocsp_answers();
        let driver = DriverState { mode: sent.mode };
        let devices = &sent.devices;
        let verdict = verify_devices(devices, nonce, &self.policy, roots, &answers, driver, now)?;
        self.still_lists(&verdict)?;
        let mut lines = Lines::default();
        lines.pass(
            "P-38",
            "machine's report carries the digest of its devices' evidence and of their driver's mode",
        );
        for device in verdict.devices() {
            let (kind, key) = (device.kind(), device.device_key());
            lines.pass(
                "P-39",
                format!("{kind} {key} is this machine's in the fleet list"),
            );
        }
        let mut checks = lines.into_checks();
        checks.extend_from_slice(verdict.checks());
        for device in verdict.devices() {
            checks.extend_from_slice(device.checks());
        }
        Ok((verdict, checks))
    }

    /// Rule P-39, which newer documents may answer otherwise, and rule N12.
    pub(crate) fn still_lists(&self, verdict: &GpuSetVerdict) -> Result<(), Rejection> {
        let found: BTreeSet<Sha256Digest> =
            verdict.devices().iter().map(|it| it.device_key()).collect();
        if let Some(stranger) = found.difference(&self.keys).next() {
            return Err(Rejection::DeviceNotEnrolled(*stranger));
        }
        if let Some(missing) = self.keys.difference(&found).next() {
            return Err(Rejection::DeviceMissing(*missing));
        }
        Ok(verdict.still_allowed(&self.policy)?)
    }
}

/// No device is in two places.
pub(crate) fn none_twice(chips: &[FleetChip]) -> Result<(), DeviceExpectationsError> {
    let mut seen = BTreeSet::new();
    let devices = chips.iter().flat_map(|chip: &FleetChip| &chip.devices);
    for FleetDevice { device_key, .. } in devices {
        if !seen.insert(*device_key) {
            return Err(DeviceExpectationsError::Twice(*device_key));
        }
    }
    Ok(())
}
