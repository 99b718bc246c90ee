//! Where evidence comes from. Two implementations each: the devices of a real machine, and the test chip with its GPUs.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::devices::DeviceSet;
use crate::hardware::HardwareEvidence;
use crate::nvidia::GpuNonce;

/// Kinds of evidence that this version knows (rule P-31).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Platform {
    /// AMD SEV-SNP, under AMD's roots.
    Snp,
    /// Intel TDX, under Intel's root.
    Tdx,
    /// Measured boot with a TPM 2.0 that the organisation enrolled. Says what booted; memory is not encrypted by it.
    Tpm,
    /// A seed that signs SNP reports under a private root. Proves nothing about a machine.
    TestChip,
}

impl Platform {
    /// The word that stands in envelopes and bundles.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Snp => "snp",
            Self::Tdx => "tdx",
            Self::Tpm => "tpm",
            Self::TestChip => "test-chip",
        }
    }

    /// Every platform, in the order in which they are told.
    pub const ALL: [Self; 4] = [Self::Snp, Self::Tdx, Self::Tpm, Self::TestChip];

    /// Whether verified evidence means that the machine keeps its memory from its host.
    #[must_use]
    pub const fn confidential(self) -> bool {
        self.caveat().is_none()
    }

    /// Why verified evidence of this platform does not mean confidential; `None` where it does.
    #[must_use]
    pub const fn caveat(self) -> Option<&'static str> {
        match self {
            Self::Snp | Self::Tdx => None,
            Self::Tpm => Some("measured boot: a TPM says what booted, and memory is not encrypted"),
            Self::TestChip => Some("test chip: a seed vouches, not a machine"),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why no evidence could be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProviderError {
    /// The machine has no such device, or this process may not use it.
    #[error("attestation device is not available: {0}")]
    Unavailable(String),
    /// The security processor asks to come back later.
    #[error("attestation device is busy")]
    Busy,
    /// The device answered with an error.
    #[error("attestation device failed: {0}")]
    Device(String),
}

/// Asks this machine's security processor for evidence. Blocks for as long as the processor takes.
pub trait EvidenceProvider: Send + Sync {
    /// What kind of evidence comes out.
    fn platform(&self) -> Platform;

    /// A fresh report over `report_data` with its collateral.
    ///
    /// # Errors
    /// [`ProviderError`] when the device is missing, busy or fails.
    fn evidence(&self, report_data: &[u8; 64]) -> Result<HardwareEvidence, ProviderError>;
}

/// Asks this machine's GPUs and switches, which prove themselves beside it. Blocks for as long as they take, each time anew: an
/// answer serves one session.
pub trait DeviceProvider: Send + Sync {
    /// What every device of the machine answers to `nonce`, with the mode that the driver is in.
    ///
    /// # Errors
    /// [`ProviderError`] when one of them is missing, busy or fails: evidence of some would hide the others.
    fn devices(&self, nonce: &GpuNonce) -> Result<DeviceSet, ProviderError>;
}
