//! Where evidence comes from. Two implementations: the guest device of a real machine, and the test chip.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Kinds of evidence that this version knows (rule P-31).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Platform {
    /// AMD SEV-SNP, under AMD's roots.
    Snp,
    /// A seed that signs SNP reports under a private root. Proves nothing about a machine.
    TestChip,
}

impl Platform {
    /// The word that stands in envelopes and bundles.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Snp => "snp",
            Self::TestChip => "test-chip",
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A report and the collateral that travels with it. Bytes from outside: nothing here was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HardwareEvidence {
    /// The attestation report, 1184 bytes when well-formed.
    pub report: Vec<u8>,
    /// The chip's endorsement certificate (VCEK or VLEK), DER.
    pub vek: Vec<u8>,
    /// The certificate that signed it (ASK or ASVK), DER.
    pub intermediate: Vec<u8>,
    /// The root's revocation list, DER. Empty means that there is none, which the verifier refuses.
    pub crl: Vec<u8>,
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
