//! Evidence that was recorded: read from a folder or a document, judged without a connection, written for others to judge.
//!
//! [`folder`] reads folders of raw files and [`save`] writes them, [`request`] reads one document for programs, [`judge`] answers.

mod azure;
pub mod beside;
pub mod folder;
pub mod judge;
pub mod request;
pub mod save;
pub mod time;

use std::collections::BTreeMap;
use std::path::PathBuf;

use casemate_attestation::azure::AzureMachine;
use casemate_attestation::eventlog::LogKind;
use casemate_attestation::nvidia::{DeviceEvidence, OcspAnswers};
use casemate_attestation::strict_json::JsonError;
use casemate_attestation::tpm::Bank;
use casemate_attestation::{
    EnvelopeError, ExpectationsError, FleetList, HardwareEvidence, Platform, ReferenceValues,
    Rejection, SignedError, UnixTime,
};
use serde::Deserialize;

use beside::Beside;

pub use azure::nonce;

use crate::exit::ExitCode;
use crate::files::FileError;

/// Evidence with what was known when it was recorded.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// What is judged.
    pub subject: Subject,
    /// What it was asked for with; unknown in most recordings.
    pub asked: Asked,
    /// When it was good, if the recording says so.
    pub at: Option<UnixTime>,
    /// Devices that proved themselves beside a machine's hardware.
    pub beside: Option<Box<Beside>>,
}

/// What evidence was asked for with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Nobody says. What is in the evidence is shown.
    Unknown,
    /// The 64 bytes of a session's binding or batch.
    ReportData(Box<[u8; 64]>),
    /// The nonce of a TPM's quote that no session asked for.
    Nonce(Vec<u8>),
}

/// What was recorded.
#[derive(Clone, Debug)]
pub enum Subject {
    /// What a machine's hardware said.
    Hardware {
        /// Under which roots it is judged.
        platform: Platform,
        /// The evidence.
        evidence: HardwareEvidence,
    },
    /// What an Azure VM's hardware, paravisor and virtual TPM said.
    Azure(Box<AzureMachine>),
    /// What one NVIDIA GPU or switch said. Device evidence stands beside a platform's; alone it can be looked at and no more.
    Device {
        /// The report with its certificates.
        evidence: DeviceEvidence,
        /// The nonce that it was asked for with, where somebody says it.
        nonce: Option<[u8; 32]>,
        /// What issuers said about its certificates.
        answers: OcspAnswers,
    },
    /// A log of measured boot by itself, with registers that nobody signed.
    EventLog {
        /// The log.
        log: Vec<u8>,
        /// Whose registers it extends.
        kind: LogKind,
        /// Register values by bank and number, as they were recorded.
        registers: BTreeMap<Bank, BTreeMap<u8, Vec<u8>>>,
    },
}

/// What evidence is compared with. The caller's word: for looking, never for a session.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// What must hold.
    pub reference: ReferenceValues,
    /// The machines that count.
    pub fleet: FleetList,
}

/// Why recorded evidence could not be judged, or was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordedError {
    /// A file of it.
    #[error(transparent)]
    File(#[from] FileError),
    /// A document of it.
    #[error("{path}: {error}", path = path.display())]
    Document {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: JsonError,
    },
    /// Parts of a recording that no envelope could carry.
    #[error(transparent)]
    Envelope(EnvelopeError),
    /// The request on standard input.
    #[error("request: {0}")]
    Request(JsonError),
    /// A request of another format.
    #[error("request has a format other than {expected}", expected = request::FORMAT)]
    Format,
    /// A request whose parts do not go together.
    #[error("request {0}")]
    Parts(&'static str),
    /// A field that is missing or not of its form.
    #[error("{path}: {field} {what}", path = path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A kind of evidence that this version does not judge by itself.
    #[error(
        "evidence of kind {0:?} is not judged by itself; reports of SNP, TDX, TPMs, Azure VMs and NVIDIA devices and event \
         logs are"
    )]
    Unsupported(String),
    /// Evidence of the test chip, or under a root that is not the vendor's.
    #[error("platform {0} has no vendor's root to judge it under")]
    NoRoots(Platform),
    /// A TPM's nonce cannot be taken from its own quote where a policy is to be met.
    #[error(
        "a TPM's quote is judged with the 64 bytes that its session's evidence is over: give report_data"
    )]
    NoReportData,
    /// Reference values are about platforms; whether a device is right is judged beside its machine's evidence.
    #[error(
        "a device by itself is looked at without a policy: no list says which machine it belongs to"
    )]
    DeviceUnderPolicy,
    /// Under a policy the guest must be known, too.
    #[error("no quote of the virtual TPM came along: a policy asks what the guest booted")]
    NoQuote,
    /// The policy says nothing about this platform.
    #[error("policy: {0}")]
    Policy(#[from] ExpectationsError),
    /// The policy could not be put into the form that verifiers read.
    #[error("policy: {0}")]
    Unsignable(#[from] SignedError),
    /// The evidence is refused.
    #[error("evidence rejected ({rule}): {rejection}", rule = .rejection.rule())]
    Rejected {
        /// The rule, and what it found.
        #[from]
        rejection: Rejection,
    },
}

impl RecordedError {
    /// The process's exit status for it: 10 refused, 20 a kind that is not judged, 30 not what it claims to be.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::File(_) | Self::Policy(_) | Self::Unsignable(_) => ExitCode::Configuration,
            Self::Document { .. }
            | Self::Envelope(_)
            | Self::Request(_)
            | Self::Format
            | Self::Parts(_)
            | Self::Field { .. } => ExitCode::Malformed,
            Self::Unsupported(_) | Self::NoRoots(_) | Self::DeviceUnderPolicy => {
                ExitCode::Unsupported
            }
            Self::NoQuote => ExitCode::Rejected,
            Self::NoReportData => ExitCode::Usage,
            Self::Rejected { rejection } if rejection.is_malformed() => ExitCode::Malformed,
            Self::Rejected { .. } => ExitCode::Rejected,
        }
    }

    /// The rule that refused, or a word for what could not be read.
    #[must_use]
    pub fn check_id(&self) -> String {
        match self {
            Self::Rejected { rejection } => format!("evidence.{}", rejection.rule()),
            Self::Policy(_) | Self::Unsignable(_) => "policy".to_owned(),
            _ => "evidence".to_owned(),
        }
    }
}
