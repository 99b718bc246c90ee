//! Why evidence of an Azure VM was refused: one variant per rule, in the order in which the rules are checked.

use super::hcl::{HCL_BYTES_MAX, HclReportType};
use crate::strict_json::JsonError;
use crate::tpm::TpmRejection;

/// Evidence was refused. Every message names the check that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AzureRejection {
    /// Rule Z1.
    #[error("paravisor report has {0} bytes, more than {HCL_BYTES_MAX}")]
    BlobLength(usize),
    /// Rule Z1.
    #[error("paravisor report does not begin with HCLA")]
    Magic,
    /// Rule Z1.
    #[error("paravisor report {0}")]
    Malformed(&'static str),
    /// Rule Z1.
    #[error(
        "runtime data of {length} bytes do not fit into a paravisor report with {left} bytes left"
    )]
    RuntimeDataLength {
        /// What the length field says.
        length: u32,
        /// What is there.
        left: usize,
    },
    /// Rule Z1.
    #[error("paravisor report is followed by bytes that are no padding")]
    Padding,
    /// Rule Z2: a report of one platform beside hardware evidence of another.
    #[error("paravisor report holds {found}, hardware evidence is {expected}")]
    HardwareKind {
        /// What the blob says that it holds.
        found: HclReportType,
        /// What was verified.
        expected: HclReportType,
    },
    /// Rule Z2.
    #[error("hardware report inside the paravisor report is not the one that was verified")]
    HardwareReportDiffers,
    /// Rule Z2: whoever runs below the paravisor's level could name a key of its own.
    #[error("hardware report comes from privilege level {0}, the paravisor's is 0")]
    NotParavisorLevel(u32),
    /// Rule Z2 and attack B16: a TDREPORT is no evidence, and must at least be one.
    #[error("paravisor report holds no well-formed TDREPORT: {0}")]
    TdReportMalformed(&'static str),
    /// Rule Z2 and attack B16: only the signed quote counts.
    #[error("TDREPORT inside the paravisor report has other report data than the verified quote")]
    TdReportData,
    /// Rule Z3.
    #[error("second half of the report data is not zero: it was not made by this paravisor")]
    ReportDataHalf,
    /// Rule Z3.
    #[error("report data is not the hash of the runtime data")]
    RuntimeDataUnbound,
    /// Rule Z3: bound, and yet not what such data look like.
    #[error("runtime data: {0}")]
    RuntimeData(JsonError),
    /// Rule Z3.
    #[error("runtime data have user data that are not hexadecimal of at most 64 bytes")]
    UserData,
    /// Rule Z4.
    #[error("runtime data name no attestation key (HCLAkPub)")]
    KeyMissing,
    /// Rule Z4.
    #[error("runtime data name more than one attestation key (HCLAkPub)")]
    KeyTwice,
    /// Rule Z4.
    #[error("attestation key in the runtime data {0}")]
    KeyMalformed(&'static str),
    /// Rule Z4: another VM's quote, or another key's.
    #[error("quote is not signed by the attestation key that this paravisor report names")]
    QuoteOfOtherKey,
    /// Rules P1 to P6.
    #[error("quote of the virtual TPM: {0}")]
    Quote(TpmRejection),
}

impl AzureRejection {
    /// The rule that refused, such as `Z3` or, inside the quote, `P4`.
    #[must_use]
    pub const fn rule(&self) -> &'static str {
        use AzureRejection as R;
        match self {
            R::BlobLength(_)
            | R::Magic
            | R::Malformed(_)
            | R::RuntimeDataLength { .. }
            | R::Padding => "Z1",
            R::HardwareKind { .. }
            | R::HardwareReportDiffers
            | R::NotParavisorLevel(_)
            | R::TdReportMalformed(_)
            | R::TdReportData => "Z2",
            R::ReportDataHalf | R::RuntimeDataUnbound | R::RuntimeData(_) | R::UserData => "Z3",
            R::KeyMissing | R::KeyTwice | R::KeyMalformed(_) | R::QuoteOfOtherKey => "Z4",
            R::Quote(rejection) => rejection.rule(),
        }
    }
}
