//! A look at one device without lists: is its report genuine, and what does it say? A look accepts nothing for a session.
//!
//! Rules N1 to N6 hold as always, but that silence about revocation is shown. What N7, N8 and N12 would compare with lists is told
//! as it was found. What no report says is said, too: which machine the device is in, and whether it is in confidential mode.

use super::answers::{self, OcspAnswers};
use super::appraise::{DeviceEvidence, asked, chained, firmware, read};
use super::chain;
use super::nonce::GpuNonce;
use super::opaque::{DeviceKind, Opaque};
use super::policy::Revocation;
use super::rejection::NvidiaRejection;
use super::report::GpuReport;
use super::roots::PinnedGpuRoot;
use crate::digest::{Sha256Digest, UnixTime};
use crate::verdict::{Basis, Check, Lines};

/// What a look at a device found. It says nothing of the machine that the device is in.
#[derive(Debug, Clone)]
pub struct DeviceLook {
    /// Every rule in order; those that would need lists or a guest's word as INFO.
    pub checks: Vec<Check>,
    /// What it is.
    pub kind: DeviceKind,
    /// SHA-256 of the key that the device keeps over changes of firmware: the certificate above the leaf.
    pub device_key: Sha256Digest,
    /// SHA-256 of the key that signed the report, which the device derives from its firmware.
    pub leaf_key: Sha256Digest,
    /// The last second at which the answers about its certificates count; `None` where revocation was not judged.
    pub revocation_until: Option<UnixTime>,
}

/// Looks at one device under these roots. Without `nonce` its report stands for whatever it was asked for with.
///
/// # Errors
/// [`NvidiaRejection`] names the first rule that does not hold.
pub fn look_at_device(
    evidence: &DeviceEvidence,
    nonce: Option<[u8; 32]>,
    roots: &[PinnedGpuRoot],
    answers: &OcspAnswers,
    now: UnixTime,
) -> Result<DeviceLook, NvidiaRejection> {
    let mut lines = Lines::default();
    let report = GpuReport::parse(&evidence.report)?;
    read(&report, &mut lines);
    let expected = GpuNonce::recorded(nonce.unwrap_or(report.request().nonce));
    asked(&report, &expected)?;
    if nonce.is_some() {
        lines.pass("N2", "answers the request that was made, with its nonce");
    } else {
        let text = "compared with nothing: nobody said what evidence was asked for with";
        lines.info("N2", text);
    }
    let identity = chain::verify(&evidence.chain, roots, now)?;
    chained(&identity, now, &mut lines);
    if !identity.signed(report.signed(), report.signature()) {
        return Err(NvidiaRejection::ReportSignature);
    }
    lines.pass("N4", "signed by the leaf over the bytes received");
    firmware(&report, &identity, &mut lines)?;
    let silence = Revocation::NotJudgedAccepted;
    let revocation_until = answers::revocation(&identity, answers, silence, now, &mut lines)?;
    found(&report, &mut lines)?;
    Ok(DeviceLook {
        checks: lines.into_checks(),
        kind: report.opaque().kind(),
        device_key: identity.device_key,
        leaf_key: identity.leaf_key,
        revocation_until,
    })
}

/// What the report says where lists, the guest or a session would have to be asked.
fn found(report: &GpuReport, lines: &mut Lines) -> Result<(), NvidiaRejection> {
    let opaque = report.opaque();
    let firmware = opaque.vbios_version();
    let firmware = firmware.ok_or(NvidiaRejection::VersionMissing)?;
    let versions = match opaque.driver_version() {
        Some(driver) => format!("driver {driver} and VBIOS {firmware}"),
        None => format!("switch firmware {firmware}"),
    };
    lines.info("N7", format!("compared with nothing: {versions}"));
    let count = report.measurements().len();
    lines.info("N8", format!("compared with nothing: {count} measurements"));
    lines.info("N9", together(opaque));
    lines.info_resting_on(
        "N9",
        Basis::Asserted,
        "whether confidential computing or DEVTOOLS is on is in no report: only the guest's own attested word can say it",
    );
    lines.info_resting_on(
        "N11",
        Basis::Asserted,
        "GPU evidence alone does not say which machine, guest or session the device belongs to: only a platform's report that carries its digest does",
    );
    Ok(())
}

fn together(opaque: &Opaque) -> String {
    opaque.feature_flag().map_or_else(
        || "report does not say how its device works together with others".to_owned(),
        |flag| format!("report says {flag}"),
    )
}
