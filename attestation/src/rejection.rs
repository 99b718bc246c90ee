//! Why evidence was refused, whatever its kind: the rules around the appraisal here, those of each kind in its own module.

use crate::azure::AzureRejection;
use crate::binding::Direction;
use crate::digest::{Sha256Digest, UnixTime};
use crate::eventlog::LogRejection;
use crate::nvidia::NvidiaRejection;
use crate::provider::Platform;
use crate::snp::SnpRejection;
use crate::tdx::TdxRejection;
use crate::tpm::TpmRejection;

/// Evidence was refused. Every message names the check that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// Rule P-31: policy chooses the verifier, evidence never does.
    #[error("evidence is of platform {found}, policy accepts {expected} only")]
    PlatformNotAccepted {
        /// What the envelope says.
        found: Platform,
        /// What policy chose.
        expected: Platform,
    },
    /// Rule P-20: the envelope describes the other side of the connection.
    #[error("evidence describes the {found} side, expected the {expected} side")]
    WrongDirection {
        /// What the envelope says.
        found: Direction,
        /// What was asked for.
        expected: Direction,
    },
    /// Rule O-3: the reference values or the fleet list are out of date.
    #[error(
        "reference values or fleet list are not in force: valid from {from} until {until}, now is {now}"
    )]
    ExpectationsNotInForce {
        /// First second of validity.
        from: UnixTime,
        /// First second after it.
        until: UnixTime,
        /// The time given.
        now: UnixTime,
    },
    /// Rule P-32, for evidence that did not come in an envelope.
    #[error("evidence of kind {kind} cannot be of platform {platform}")]
    OtherKind {
        /// What policy chose.
        platform: Platform,
        /// What was given.
        kind: &'static str,
    },
    /// Rule P-52: what vouched for this evidence is out of date.
    #[error("evidence counted until {until}, now is {now}: attest again")]
    EvidenceOutOfDate {
        /// First second at which it counts no longer.
        until: UnixTime,
        /// The time given.
        now: UnixTime,
    },
    /// Rule O-5: the image was accepted until a date, which has come.
    #[error(
        "what the machine runs was accepted until {until}, now is {now}: start the newer image"
    )]
    MeasurementEnded {
        /// First second at which it is accepted no more.
        until: UnixTime,
        /// The time given.
        now: UnixTime,
    },
    /// Rule P-37: devices that the fleet list does not give this machine.
    #[error("machine sent evidence of devices, and the fleet list gives it none")]
    DevicesNotExpected,
    /// Rule P-37: devices that must prove themselves did not.
    #[error("machine sent no evidence of the devices that the fleet list gives it")]
    DevicesMissing,
    /// Rule P-38: the machine's report is about other devices, another mode of their driver, or none.
    #[error("device evidence is not what the machine's report signs")]
    DevicesNotInContext,
    /// Rule P-39.
    #[error("device {0} is not this machine's in the fleet list")]
    DeviceNotEnrolled(Sha256Digest),
    /// Rule P-39.
    #[error("device {0}, which is this machine's in the fleet list, did not answer")]
    DeviceMissing(Sha256Digest),
    /// Rules S1 to S19.
    #[error(transparent)]
    Snp(#[from] SnpRejection),
    /// Rules T1 to T19.
    #[error(transparent)]
    Tdx(#[from] TdxRejection),
    /// Rules P1 to P6.
    #[error(transparent)]
    Tpm(#[from] TpmRejection),
    /// Rules L1 to L4.
    #[error(transparent)]
    EventLog(#[from] LogRejection),
    /// Rules Z1 to Z4, and P1 to P6 of the virtual TPM.
    #[error(transparent)]
    Azure(#[from] AzureRejection),
    /// Rules N1 to N12.
    #[error(transparent)]
    Nvidia(#[from] NvidiaRejection),
}

impl Rejection {
    /// Whether the evidence, or a document beside it, is not what it claims to be, so that nothing in it was judged.
    #[must_use]
    pub fn is_malformed(&self) -> bool {
        matches!(
            self,
            Self::Snp(
                SnpRejection::ReportLength(_)
                    | SnpRejection::CertificateMalformed { .. }
                    | SnpRejection::CrlMalformed(_)
            ) | Self::Tdx(TdxRejection::CollateralMalformed(_))
        ) || matches!(
            self.rule().as_bytes(),
            b"T1" | b"P1" | b"L1" | b"Z1" | b"N1"
        )
    }

    /// The rule that refused, such as `S12`.
    #[must_use]
    pub fn rule(&self) -> &'static str {
        match self {
            Self::PlatformNotAccepted { .. } => "P-31",
            Self::WrongDirection { .. } => "P-20",
            Self::ExpectationsNotInForce { .. } => "O-3",
            Self::OtherKind { .. } => "P-32",
            Self::EvidenceOutOfDate { .. } => "P-52",
            Self::MeasurementEnded { .. } => "O-5",
            Self::DevicesNotExpected | Self::DevicesMissing => "P-37",
            Self::DevicesNotInContext => "P-38",
            Self::DeviceNotEnrolled(_) | Self::DeviceMissing(_) => "P-39",
            Self::Snp(rejection) => rejection.rule(),
            Self::Tdx(rejection) => rejection.rule(),
            Self::Tpm(rejection) => rejection.rule(),
            Self::EventLog(rejection) => rejection.rule(),
            Self::Azure(rejection) => rejection.rule(),
            Self::Nvidia(rejection) => rejection.rule(),
        }
    }
}
