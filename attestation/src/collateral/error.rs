//! Why collateral is not right, and why there is none for a piece of evidence.

use crate::digest::ChipId;
use crate::nvidia::{NvidiaRejection, OcspRejection};
use crate::snp::SnpRejection;
use crate::snp::{Product, TcbVersion};
use crate::tdx::{PckCa, TdxRejection};

/// Why an item of a bundle is not right (rules C-10 to C-16).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CollateralError {
    /// Rules C-10 and C-11, by the words of S5 to S10.
    #[error(transparent)]
    Amd(#[from] SnpRejection),
    /// Rules C-12 to C-14, by the words of T2, T3 and T6.
    #[error(transparent)]
    Intel(#[from] TdxRejection),
    /// Rule C-15, by the words of N3.
    #[error(transparent)]
    Nvidia(#[from] NvidiaRejection),
    /// Rules C-20 to C-25.
    #[error(transparent)]
    Answer(#[from] OcspRejection),
    /// What an entry is filed under is not what it says.
    #[error("it is filed under another {0} than it says")]
    Filed(&'static str),
    /// It cannot be judged, or used, without something that is not in the bundle.
    #[error("the bundle lacks the {0} for it")]
    Lacks(&'static str),
    /// There is no root for it.
    #[error("no root is pinned for it")]
    NoRoot,
}

impl CollateralError {
    /// Whether it was right at another time.
    #[must_use]
    pub const fn is_out_of_date(&self) -> bool {
        match self {
            Self::Amd(reason) => matches!(
                reason,
                SnpRejection::CertificateExpired { .. }
                    | SnpRejection::CertificateNotYetValid { .. }
                    | SnpRejection::CrlStale { .. }
                    | SnpRejection::CrlNotYetValid { .. }
            ),
            Self::Intel(reason) => matches!(
                reason,
                TdxRejection::CertificateExpired { .. }
                    | TdxRejection::CertificateNotYetValid { .. }
                    | TdxRejection::CrlStale { .. }
                    | TdxRejection::CrlNotYetValid { .. }
                    | TdxRejection::DocumentExpired { .. }
                    | TdxRejection::DocumentNotYetValid { .. }
            ),
            Self::Nvidia(reason) => matches!(
                reason,
                NvidiaRejection::CertificateExpired { .. }
                    | NvidiaRejection::CertificateNotYetValid { .. }
            ),
            Self::Answer(reason) => reason.is_out_of_date(),
            Self::Filed(_) | Self::Lacks(_) | Self::NoRoot => false,
        }
    }

    /// Whether a vendor took something back.
    #[must_use]
    pub const fn is_revoked(&self) -> bool {
        matches!(
            self,
            Self::Amd(SnpRejection::CertificateRevoked { .. })
                | Self::Intel(TdxRejection::CertificateRevoked { .. })
                | Self::Answer(OcspRejection::Revoked { .. } | OcspRejection::OnHold { .. })
        )
    }
}

/// Why a bundle has nothing for a piece of evidence (rules C-30 to C-33).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MissingCollateral {
    /// No section, or no root.
    #[error("collateral has nothing for {0}")]
    Product(Product),
    /// The report names neither a chip's nor a provider's key.
    #[error("report says that neither a chip's nor a provider's key signed it")]
    SigningKey,
    /// No certificate at all.
    #[error("collateral has no endorsement certificate of chip {0}")]
    Chip(ChipId),
    /// No provider's certificate at all.
    #[error("collateral has no endorsement certificate of a provider for this firmware: {0}")]
    Provider(TcbVersion),
    /// Firmware was updated since, or set back.
    #[error(
        "collateral has certificates of chip {chip} for other firmware only; the report says {reported}"
    )]
    OtherTcb {
        /// Whose.
        chip: ChipId,
        /// What the report says.
        reported: TcbVersion,
    },
    /// There is one, and its key did not sign the report.
    #[error(
        "the endorsement certificate that collateral has is of another key than signed the report"
    )]
    OtherKey,
    /// The authority over the certificate.
    #[error("collateral lacks the {0} of {1}")]
    Authority(&'static str, Product),
    /// No TCB info.
    #[error("collateral has no TCB info for FMSPC {0}")]
    Fmspc(String),
    /// No QE identity.
    #[error("collateral has no QE identity")]
    QeIdentity,
    /// No list of this authority.
    #[error("collateral has no revocation list of the PCK {0} CA")]
    PckList(PckCa),
    /// No list of the root.
    #[error("collateral has no revocation list of Intel's root")]
    RootList,
    /// No certificate of this platform.
    #[error("collateral has no PCK certificate of platform {0}")]
    Platform(ChipId),
    /// No answer about one of its certificates.
    #[error("collateral has no answer about certificate {place} of the chain of device {device}")]
    Answer {
        /// Which device, from 0.
        device: usize,
        /// Which certificate, 0 for the leaf.
        place: usize,
    },
    /// It is there and does not count.
    #[error("{what}: {reason}")]
    NotRight {
        /// What.
        what: &'static str,
        /// Why.
        reason: Box<CollateralError>,
    },
    /// The evidence's own part that says what it needs.
    #[error("evidence does not say what it needs: {0}")]
    Evidence(Box<CollateralError>),
}
