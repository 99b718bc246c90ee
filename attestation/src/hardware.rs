//! What hardware says about a machine, by kind, as it travels (rule P-32). Bytes from outside: nothing here was checked.

use serde::{Deserialize, Serialize};

use crate::provider::Platform;
use crate::snp::SnpEvidence;
use crate::strict_json::base64_bytes;
use crate::tdx::TdxEvidence;
use crate::tpm::TpmEvidence;

/// Evidence of one kind, with the collateral that travels with it. In JSON an object with the kind as its one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HardwareEvidence {
    /// An SNP report with its certificates. Test chips write such reports, too.
    Snp(SnpEvidence),
    /// A TDX quote with Intel's documents.
    Tdx(Box<TdxEvidence>),
    /// A quote of a TPM 2.0.
    Tpm(Box<TpmBoot>),
}

impl HardwareEvidence {
    /// The kind, as JSON names it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Snp(_) => "snp",
            Self::Tdx(_) => "tdx",
            Self::Tpm(_) => "tpm",
        }
    }

    /// Whether evidence of `platform` has this kind.
    #[must_use]
    pub const fn is_of(&self, platform: Platform) -> bool {
        matches!(
            (self, platform),
            (Self::Snp(_), Platform::Snp | Platform::TestChip)
                | (Self::Tdx(_), Platform::Tdx)
                | (Self::Tpm(_), Platform::Tpm)
        )
    }
}

/// A TPM's quote, and the log of what was measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TpmBoot {
    /// The quote, its register values and its key.
    pub quote: TpmEvidence,
    /// The firmware's log (TCG PC Client PFP); empty where none is sent.
    #[serde(with = "base64_bytes")]
    pub event_log: Vec<u8>,
}
