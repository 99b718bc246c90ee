//! Why a machine is not enrolled, one variant for each rule.

use casemate_attestation::ProviderError;
use casemate_attestation::nvidia::NvidiaRejection;
use casemate_attestation::strict_json::JsonError;
use casemate_attestation::tpm::TpmRejection;
use casemate_devices::DeviceError;
use casemate_devices::tpm::CredentialError;

use crate::org::OrgError;
use crate::secrets::FileError;

/// A refused or failed step of an enrolment.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnrolmentError {
    /// The file is not what the step takes.
    #[error("this is no {document}: {error}")]
    Malformed {
        /// What it should be.
        document: &'static str,
        /// What is wrong with it.
        error: JsonError,
    },
    /// It is another document, or of another version.
    #[error("this is no {document}: its format is not {expected}")]
    Format {
        /// What it should be.
        document: &'static str,
        /// The format expected.
        expected: &'static str,
    },
    /// A processor names itself; it has no credential to open.
    #[error("this request is a processor's, which needs no challenge")]
    NoChallengeNeeded,
    /// A TPM is believed after a challenge only.
    #[error("this request is a TPM's, which needs a challenge first")]
    ChallengeNeeded,
    /// Rule E2: nobody vouches for the endorsement key.
    #[error("the maker left no certificate of the endorsement key in this TPM (E2); its id is {0}")]
    NoCertificate(String),
    /// Rule E2: the certificate does not stand under a named root.
    #[error("the endorsement key's certificate is refused ({rule}): {0}", rule = .0.rule())]
    Endorsement(TpmRejection),
    /// Rule E2: another TPM than the officer named.
    #[error("the endorsement key is of another TPM than the one named (E2): its id is {0}")]
    OtherEndorsement(String),
    /// Rule E2: the endorsement key is none of the defaults.
    #[error("the endorsement key is neither RSA with 2048 bits nor on P-256 (E2)")]
    EndorsementKind,
    /// Rule E2 and P2: the attestation key is not a restricted signing key of its TPM.
    #[error("the attestation key is refused (E2): {0}")]
    Attestation(TpmRejection),
    /// Rule E8: a program is called a program.
    #[error("this request is of a software TPM, which proves nothing about a machine (E8)")]
    SoftwareTpm,
    /// Rule E3.
    #[error("no credential can be made (E3): {0}")]
    Credential(#[from] CredentialError),
    /// Rule E7: no challenge of this organisation waits for that answer.
    #[error("no challenge of this organisation waits for this answer (E7)")]
    NotWaiting,
    /// Rule E7: nobody answers so many.
    #[error("too many challenges wait for their answers in {path} (E7)", path = .0.display())]
    TooManyWaiting(std::path::PathBuf),
    /// Rule E7: answers are for now.
    #[error("the challenge of this answer is older than 7 days (E7)")]
    Expired,
    /// Rule E3: whoever answered did not open the credential.
    #[error("the answer does not show the credential's secret (E3)")]
    Proof,
    /// Rule E7: the quote in the answer.
    #[error("the answer's quote is refused (E7, {rule}): {0}", rule = .0.rule())]
    Quote(TpmRejection),
    /// Rule E7: a quote of nothing.
    #[error("the answer's quote shows no registers (E7)")]
    NoRegisters,
    /// Rule E9: a GPU or switch that did not sign what it was asked for.
    #[error("a GPU's evidence is refused (E9, {rule}): {0}", rule = .0.rule())]
    Gpu(Box<NvidiaRejection>),
    /// Rule E9: one device is one entry.
    #[error("device {0} is given twice (E9)")]
    GpuTwice(String),
    /// Rule E9: devices that the machine's own evidence does not name.
    #[error("the machine's evidence does not name these devices (E9)")]
    OtherDevices,
    /// Asking this machine's GPUs.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// The machine's device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Rule E3, on the machine: the credential is for another TPM, for another attestation key, or altered.
    #[error("this TPM does not open the challenge (E3): {0}")]
    NotForThisTpm(DeviceError),
    /// Reading or writing the organisation's side.
    #[error(transparent)]
    File(#[from] FileError),
    /// The organisation's folder.
    #[error(transparent)]
    Organisation(#[from] OrgError),
    /// The system gave no randomness.
    #[error("no randomness from the operating system")]
    NoRandomness,
}
