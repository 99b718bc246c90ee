//! The devices of one machine together (rule N10). Each was appraised by itself before.

use std::collections::BTreeSet;

use super::answers::OcspAnswers;
use super::appraise::{DeviceEvidence, GpuVerdict, verify_device};
use super::nonce::{GpuNonce, device_evidence_digest};
use super::opaque::{DeviceKind, FeatureFlag, Pdi};
use super::policy::{DriverState, GpuPolicy};
use super::rejection::NvidiaRejection;
use super::roots::PinnedGpuRoot;
use crate::binding::Context;
use crate::digest::{Sha256Digest, UnixTime};
use crate::verdict::Check;
use crate::verdict::Lines;

/// Most devices of one machine.
pub const DEVICES_MAX: usize = 64;

/// A machine's devices that passed every rule, one by one and together. Only the appraisal in this file makes one.
///
/// ```compile_fail
/// let verdict = casemate_attestation::nvidia::GpuSetVerdict::default();
/// ```
///
/// ```
/// fn how_many(verdict: &casemate_attestation::nvidia::GpuSetVerdict) -> usize {
///     verdict.devices().len()
/// }
/// ```
#[derive(Debug, Clone)]
pub struct GpuSetVerdict {
    devices: Vec<GpuVerdict>,
    digest: Sha256Digest,
    nonce_of_session: bool,
    checks: Vec<Check>,
}

impl GpuSetVerdict {
    /// Each device, in the order given.
    #[must_use]
    pub fn devices(&self) -> &[GpuVerdict] {
        &self.devices
    }

    /// What a session's context must carry as `device_evidence` (rule N11).
    #[must_use]
    pub const fn evidence_digest(&self) -> Sha256Digest {
        self.digest
    }

    /// Rule N11, the direction from the machine to its devices: `context` carries the digest of exactly this evidence, and the
    /// devices answered a session's nonce. A context counts for something only once the guest's own evidence was verified
    /// against the binding that was computed with it (rule P-35): without that, this says nothing.
    ///
    /// # Errors
    /// [`NvidiaRejection::NonceNotOfSession`] and [`NvidiaRejection::NotInContext`].
    pub fn must_be_in(&self, context: &Context) -> Result<(), NvidiaRejection> {
        if !self.nonce_of_session {
            return Err(NvidiaRejection::NonceNotOfSession);
        }
        if context.device_evidence == self.digest {
            Ok(())
        } else {
            Err(NvidiaRejection::NotInContext)
        }
    }

    /// Rule N12 under a policy that may be newer than the one of the verdict.
    pub(crate) fn still_allowed(&self, policy: &GpuPolicy) -> Result<(), NvidiaRejection> {
        self.devices
            .iter()
            .try_for_each(|it| it.still_allowed(policy))
    }

    /// First second at which some answer about revocation is out of date; `None` where that was not judged of any.
    #[must_use]
    pub fn until(&self) -> Option<UnixTime> {
        let all = self.devices.iter().filter_map(GpuVerdict::revocation_until);
        all.min().map(|last| last.plus(1))
    }

    /// The checks of the set. Each device has its own.
    #[must_use]
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }
}

/// Appraises all devices of a machine: with one nonce, none twice, as many as policy says, and in protected PCIe mode with the
/// switches that the GPUs name.
///
/// # Errors
/// [`NvidiaRejection`] names the first rule that does not hold. [`NvidiaRejection::Device`] says of which device.
pub fn verify_devices(
    evidence: &[DeviceEvidence],
    nonce: &GpuNonce,
    policy: &GpuPolicy,
    roots: &[PinnedGpuRoot],
    answers: &OcspAnswers,
    driver: DriverState,
    now: UnixTime,
) -> Result<GpuSetVerdict, NvidiaRejection> {
    if evidence.len() > DEVICES_MAX {
        return Err(NvidiaRejection::TooManyDevices(evidence.len()));
    }
    let judge = |(number, device)| {
        verify_device(device, nonce, policy, roots, answers, driver, now).map_err(|rejection| {
            NvidiaRejection::Device {
                number,
                rejection: Box::new(rejection),
            }
        })
    };
    let devices = evidence
        .iter()
        .enumerate()
        .map(judge)
        .collect::<Result<Vec<_>, _>>()?;
    let mut lines = Lines::default();
    none_twice(&devices)?;
    counted(&devices, policy)?;
    let (gpus, switches) = (policy.parts.gpus, policy.parts.switches);
    lines.pass(
        "N10",
        format!("{gpus} GPUs and {switches} switches, none twice, answer one nonce"),
    );
    if policy.parts.mode == FeatureFlag::ProtectedPcie {
        linked(&devices)?;
        lines.pass("N10", "GPUs name the switches that answered, and no other");
    }
    let machine = "no report says which machine its device is in: the guest's own report must carry this digest";
    lines.info("N11", machine);
    Ok(GpuSetVerdict {
        devices,
        digest: device_evidence_digest(evidence),
        nonce_of_session: nonce.is_of_session(),
        checks: lines.into_checks(),
    })
}

/// No two are one device: by the key that signed, by that leaf's serial number, or by the device's own key.
fn none_twice(devices: &[GpuVerdict]) -> Result<(), NvidiaRejection> {
    for (second, device) in devices.iter().enumerate() {
        let earlier = devices.iter().take(second).enumerate();
        for (first, other) in earlier {
            let (a, b) = (device.identity(), other.identity());
            let by = if a.leaf_key == b.leaf_key {
                "key"
            } else if a.leaf_serial == b.leaf_serial {
                "serial number"
            } else if a.device_key == b.device_key {
                "device key above the leaf"
            } else {
                continue;
            };
            return Err(NvidiaRejection::DeviceTwice { first, second, by });
        }
    }
    Ok(())
}

fn counted(devices: &[GpuVerdict], policy: &GpuPolicy) -> Result<(), NvidiaRejection> {
    for (kind, expected) in [
        (DeviceKind::Gpu, policy.parts.gpus),
        (DeviceKind::Switch, policy.parts.switches),
    ] {
        let found = devices.iter().filter(|it| it.kind() == kind).count();
        if found != expected {
            return Err(NvidiaRejection::DeviceCount {
                kind,
                found,
                expected,
            });
        }
    }
    Ok(())
}

/// Protected PCIe: every GPU names exactly the switches that answered, and the switches agree about the GPUs.
fn linked(devices: &[GpuVerdict]) -> Result<(), NvidiaRejection> {
    let mut answered: BTreeSet<Pdi> = BTreeSet::new();
    let mut named_by_switches: Option<&BTreeSet<Pdi>> = None;
    for (number, device) in devices.iter().enumerate() {
        let opaque = device.report().opaque();
        if opaque.kind() != DeviceKind::Switch {
            continue;
        }
        let own = opaque.own_identifier();
        let own = own.ok_or(NvidiaRejection::SwitchUnnamed(number))?;
        if !answered.insert(own) {
            return Err(NvidiaRejection::SwitchTwice(own));
        }
        let gpus = opaque.gpus();
        if gpus.is_empty() || named_by_switches.is_some_and(|others| others != gpus) {
            return Err(NvidiaRejection::SwitchesDisagree(number));
        }
        named_by_switches = Some(gpus);
    }
    for (number, device) in devices.iter().enumerate() {
        let opaque = device.report().opaque();
        if opaque.kind() == DeviceKind::Gpu && *opaque.switches() != answered {
            return Err(NvidiaRejection::OtherSwitches(number));
        }
    }
    Ok(())
}
