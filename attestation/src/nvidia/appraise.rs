//! The appraisal of one device: rules N1 to N9, N11 and N12, each of which can only refuse.

use serde::{Deserialize, Serialize};

use super::answers::{self, OcspAnswers};
use super::chain::{self, Identity};
use super::measurements::{ReferenceKind, listed, matching};
use super::nonce::GpuNonce;
use super::opaque::{DeviceKind, FeatureFlag};
use super::policy::{AbsentFlag, DriverMode, DriverState, GpuPolicy};
use super::rejection::NvidiaRejection;
use super::report::{GpuReport, MeasurementRequest};
use super::roots::PinnedGpuRoot;
use crate::digest::{Sha256Digest, UnixTime};
use crate::eventlog::Basis;
use crate::strict_json::base64_bytes;
use crate::verdict::Check;
use crate::verdict::Lines;

/// What we ask a device, but for the nonce: SPDM 1.1, GET_MEASUREMENTS, signed, all of them, slot 0.
const ASKED: [(&str, u8); 5] = [
    ("version", 0x11),
    ("code", 0xe0),
    ("attributes", 1),
    ("operation", 0xff),
    ("slot", 0),
];

/// A device's report with its certificates. Nothing of it is trusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceEvidence {
    /// Request, response and signature, as the driver hands them out.
    #[serde(with = "base64_bytes")]
    pub report: Vec<u8>,
    /// Certificates in PEM, leaf first, root last.
    #[serde(with = "base64_bytes")]
    pub chain: Vec<u8>,
}

/// A device that passed every rule about itself. Only the appraisal in this file makes one. It says nothing about the other
/// devices of its machine: see [`GpuSetVerdict`](super::GpuSetVerdict).
///
/// ```compile_fail
/// let verdict = casemate_attestation::nvidia::GpuVerdict::default();
/// ```
///
/// ```
/// fn what_it_is(verdict: &casemate_attestation::nvidia::GpuVerdict) -> String {
///     verdict.kind().to_string()
/// }
/// ```
#[derive(Debug, Clone)]
pub struct GpuVerdict {
    report: GpuReport,
    identity: Identity,
    mode: DriverMode,
    revocation_until: Option<UnixTime>,
    checks: Vec<Check>,
}

impl GpuVerdict {
    /// What it is.
    #[must_use]
    pub const fn kind(&self) -> DeviceKind {
        self.report.opaque().kind()
    }

    /// The report, now believed.
    #[must_use]
    pub const fn report(&self) -> &GpuReport {
        &self.report
    }

    /// SHA-256 of the key that the device keeps over changes of firmware: the certificate above the leaf.
    #[must_use]
    pub const fn device_key(&self) -> Sha256Digest {
        self.identity.device_key
    }

    /// SHA-256 of the key that signed the report.
    #[must_use]
    pub const fn leaf_key(&self) -> Sha256Digest {
        self.identity.leaf_key
    }

    /// Whether the chain ends in NVIDIA's root.
    #[must_use]
    pub const fn root_is_nvidias(&self) -> bool {
        self.identity.root_is_nvidias
    }

    /// The driver's mode and what that rests on: the guest's word, always.
    #[must_use]
    pub const fn mode(&self) -> (DriverMode, Basis) {
        (self.mode, Basis::Asserted)
    }

    /// Whether issuers say of every certificate between leaf and root that it is good.
    #[must_use]
    pub const fn revocation_judged(&self) -> bool {
        self.revocation_until.is_some()
    }

    /// The last second at which all of these answers count; `None` where revocation was not judged.
    #[must_use]
    pub const fn revocation_until(&self) -> Option<UnixTime> {
        self.revocation_until
    }

    /// Every check, in order.
    #[must_use]
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }

    /// Rule N12 again.
    pub(super) fn still_allowed(&self, policy: &GpuPolicy) -> Result<(), NvidiaRejection> {
        for (kind, version) in versions(&self.report)? {
            if !policy.allows(kind, &version) {
                return Err(NvidiaRejection::BelowFloor { kind, version });
            }
        }
        Ok(())
    }

    pub(super) const fn identity(&self) -> &Identity {
        &self.identity
    }
}

/// Appraises one device by itself. `answers` came with the evidence; `driver` is what the attested guest says of its GPUs.
///
/// # Errors
/// [`NvidiaRejection`] names the first rule that does not hold.
pub fn verify_device(
    evidence: &DeviceEvidence,
    nonce: &GpuNonce,
    policy: &GpuPolicy,
    roots: &[PinnedGpuRoot],
    answers: &OcspAnswers,
    driver: DriverState,
    now: UnixTime,
) -> Result<GpuVerdict, NvidiaRejection> {
    let mut lines = Lines::default();
    let report = GpuReport::parse(&evidence.report)?;
    read(&report, &mut lines);
    asked(&report, nonce)?;
    lines.pass("N2", "answers the request that was made, with its nonce");

    let identity = chain::verify(&evidence.chain, roots, now)?;
    chained(&identity, now, &mut lines);
    if !identity.signed(report.signed(), report.signature()) {
        return Err(NvidiaRejection::ReportSignature);
    }
    lines.pass("N4", "signed by the leaf over the bytes received");
    firmware(&report, &identity, &mut lines)?;
    let revocation = policy.parts.revocation;
    let revocation_until = answers::revocation(&identity, answers, revocation, now, &mut lines)?;
    let versions = measured(&report, policy, &mut lines)?;
    mode(&report, policy, driver, &mut lines)?;
    if nonce.is_of_session() {
        lines.pass("N11", "nonce is derived from this connection and challenge");
    } else {
        let text = "nonce was given as it is: nothing ties this evidence to a connection";
        lines.info("N11", text);
    }
    floors(&versions, policy, &mut lines)?;
    Ok(GpuVerdict {
        report,
        identity,
        mode: driver.mode,
        revocation_until,
        checks: lines.into_checks(),
    })
}

pub(super) fn read(report: &GpuReport, lines: &mut Lines) {
    let (kind, count) = (report.opaque().kind(), report.measurements().len());
    lines.pass(
        "N1",
        format!("report of a {kind} with {count} measurements"),
    );
    if report.unread() > 0 {
        let bytes = report.unread();
        lines.info(
            "N1",
            format!("{bytes} bytes behind the signature were not read: nobody signed them"),
        );
    }
}

/// Rule N2.
pub(super) fn asked(report: &GpuReport, nonce: &GpuNonce) -> Result<(), NvidiaRejection> {
    let MeasurementRequest {
        version,
        code,
        attributes,
        operation,
        nonce: answered,
        slot,
    } = *report.request();
    for ((field, expected), found) in ASKED
        .into_iter()
        .zip([version, code, attributes, operation, slot])
    {
        if found != expected {
            return Err(NvidiaRejection::RequestField {
                field,
                found,
                expected,
            });
        }
    }
    if report.response_slot() != slot {
        return Err(NvidiaRejection::ResponseSlot(report.response_slot()));
    }
    if nonce.matches(&answered) {
        Ok(())
    } else {
        Err(NvidiaRejection::RequestNonce)
    }
}

pub(super) fn chained(identity: &Identity, now: UnixTime, lines: &mut Lines) {
    let count = identity.certificates;
    let root = if identity.root_is_nvidias {
        "NVIDIA's device root"
    } else {
        "a private root"
    };
    let text = format!("{count} certificates in order lead to {root}, at {now}");
    if identity.root_is_nvidias {
        lines.pass("N3", text);
    } else {
        lines.info("N3", format!("{text}: no device vouches"));
    }
}

/// Rule N5.
pub(super) fn firmware(
    report: &GpuReport,
    identity: &Identity,
    lines: &mut Lines,
) -> Result<(), NvidiaRejection> {
    let of_leaf = identity.firmware_id()?;
    match report.opaque().firmware_id() {
        Some(found) if *found == of_leaf => {
            lines.pass("N5", "firmware id is that of the leaf");
            Ok(())
        }
        Some(_) => Err(NvidiaRejection::FirmwareIdMismatch),
        None => {
            lines.info("N5", "report has no firmware id to compare with the leaf's");
            Ok(())
        }
    }
}

/// What a report says that its device runs.
fn versions(report: &GpuReport) -> Result<Vec<(ReferenceKind, String)>, NvidiaRejection> {
    let opaque = report.opaque();
    let wanted = match opaque.kind() {
        DeviceKind::Gpu => vec![
            (ReferenceKind::Driver, opaque.driver_version()),
            (ReferenceKind::Vbios, opaque.vbios_version()),
        ],
        DeviceKind::Switch => vec![(ReferenceKind::Switch, opaque.vbios_version())],
    };
    let named = |(kind, version): (ReferenceKind, Option<&str>)| {
        let version = version.ok_or(NvidiaRejection::VersionMissing)?;
        Ok((kind, version.to_owned()))
    };
    wanted.into_iter().map(named).collect()
}

/// Rules N7 and N8. Returns the versions that were compared.
fn measured(
    report: &GpuReport,
    policy: &GpuPolicy,
    lines: &mut Lines,
) -> Result<Vec<(ReferenceKind, String)>, NvidiaRejection> {
    let opaque = report.opaque();
    let versions = versions(report)?;
    let mut parts = Vec::new();
    for (kind, version) in &versions {
        parts.push(listed(&policy.parts.references, *kind, version)?);
    }
    let names: Vec<_> = versions
        .iter()
        .map(|(kind, version)| format!("{kind} {version}"))
        .collect();
    lines.pass("N7", format!("lists of {} are given", names.join(" and ")));
    let compared = matching(report, &parts)?;
    lines.pass(
        "N8",
        format!("all {compared} active measurements are as listed"),
    );
    if opaque.nvdec0_enabled() == Some(false) {
        lines.info("N8", "index 35 does not count: its decoder is disabled");
    }
    Ok(versions)
}

/// Rule N9.
fn mode(
    report: &GpuReport,
    policy: &GpuPolicy,
    driver: DriverState,
    lines: &mut Lines,
) -> Result<(), NvidiaRejection> {
    match driver.mode {
        DriverMode::On => {}
        DriverMode::DevTools => return Err(NvidiaRejection::DevTools),
        DriverMode::Off => return Err(NvidiaRejection::ConfidentialOff),
    }
    if report.opaque().kind() == DeviceKind::Gpu {
        together(report, policy, lines)?;
    }
    lines.info_resting_on(
        "N9",
        Basis::Asserted,
        "confidential computing is on and DEVTOOLS is off: asserted by the guest, no report says it",
    );
    Ok(())
}

/// The part of rule N9 that reports do say.
fn together(
    report: &GpuReport,
    policy: &GpuPolicy,
    lines: &mut Lines,
) -> Result<(), NvidiaRejection> {
    let (opaque, expected) = (report.opaque(), policy.parts.mode);
    let protected = expected == FeatureFlag::ProtectedPcie;
    match opaque.feature_flag() {
        Some(found) if found != expected => {
            return Err(NvidiaRejection::Feature { found, expected });
        }
        Some(found) => lines.pass("N9", format!("report says {found}")),
        None if protected || policy.parts.absent_flag == AbsentFlag::Refused => {
            return Err(NvidiaRejection::FeatureMissing);
        }
        None => lines.info(
            "N9",
            "report of an old driver does not say how its GPUs work together, which policy accepts",
        ),
    }
    // The state byte and the flag are two words for one thing; a report in which they differ is none.
    match opaque.protected_pcie() {
        Some(state) if state != protected => Err(NvidiaRejection::ProtectedPcie { expected }),
        None if protected => Err(NvidiaRejection::ProtectedPcie { expected }),
        _ => Ok(()),
    }
}

/// Rule N12.
fn floors(
    versions: &[(ReferenceKind, String)],
    policy: &GpuPolicy,
    lines: &mut Lines,
) -> Result<(), NvidiaRejection> {
    for (kind, version) in versions {
        if !policy.allows(*kind, version) {
            return Err(NvidiaRejection::BelowFloor {
                kind: *kind,
                version: version.clone(),
            });
        }
        lines.pass("N12", format!("{kind} {version} is allowed"));
    }
    Ok(())
}
