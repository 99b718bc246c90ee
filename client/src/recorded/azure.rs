//! A recorded Azure VM under a policy: its paravisor by the verifier that sessions have, its guest by the registers that the
//! policy lists for TPMs. The virtual TPM's key is the one that the hardware report names, so that no fleet list has it.

use casemate_attestation::azure::{AzureMachine, AzureVerdict, HclReport, VerifiedHardware};
use casemate_attestation::tpm::session_nonce;
use casemate_attestation::{
    ExpectationsError, HardwareEvidence, Platform, Rejection, UnixTime, Verdict, azure,
    tpm_policies,
};

use super::judge::hardware_under;
use super::{Asked, Policy, RecordedError};
use crate::report::Report;

/// What the virtual TPM's quote was asked for with.
#[must_use]
pub fn nonce(asked: &Asked) -> Option<Vec<u8>> {
    match asked {
        Asked::Unknown => None,
        Asked::ReportData(bytes) => Some(session_nonce(bytes).to_vec()),
        Asked::Nonce(nonce) => Some(nonce.clone()),
    }
}

/// Judges `machine` and writes its lines.
pub(super) fn under(
    policy: &Policy,
    machine: &AzureMachine,
    asked: &Asked,
    now: UnixTime,
    report: &mut Report,
) -> Result<(), RecordedError> {
    let platform = match &machine.hardware {
        HardwareEvidence::Snp(_) => Platform::Snp,
        HardwareEvidence::Tdx(_) | HardwareEvidence::Tpm(_) => Platform::Tdx,
    };
    let hcl = HclReport::parse(&machine.hcl).map_err(Rejection::from)?;
    let expected = hcl.report_data();
    let hardware = hardware_under(policy, platform, &machine.hardware, &expected, now)?;
    let guest = guest(policy, machine, asked, hardware.verdict())?;
    report.recorded(&hardware);
    report.more(guest.checks());
    Ok(())
}

/// The guest must be as one of the listed machines, as a whole.
fn guest(
    policy: &Policy,
    machine: &AzureMachine,
    asked: &Asked,
    hardware: &Verdict,
) -> Result<AzureVerdict, RecordedError> {
    let hardware = match hardware {
        Verdict::Snp(verdict) => VerifiedHardware::Snp(verdict),
        Verdict::Tdx(verdict) => VerifiedHardware::Tdx(verdict),
        _ => return Err(ExpectationsError::NoSection(Platform::Tpm).into()),
    };
    let none = ExpectationsError::NoSection(Platform::Tpm);
    let section = policy.reference.tpm.as_ref().ok_or(none)?;
    let evidence = machine.evidence().ok_or(RecordedError::NoQuote)?;
    let nonce = nonce(asked).ok_or(RecordedError::NoReportData)?;
    let mut refusal = RecordedError::Policy(ExpectationsError::NoMachines);
    for policy in tpm_policies(section)? {
        match azure::verify_azure(&evidence, &hardware, &nonce, &policy) {
            Ok(verdict) => return Ok(verdict),
            Err(rejection) => refusal = Rejection::from(rejection).into(),
        }
    }
    Err(refusal)
}
