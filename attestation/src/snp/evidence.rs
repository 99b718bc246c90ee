//! A report with what is needed to judge it.

use serde::{Deserialize, Serialize};

use crate::strict_json::base64_bytes;

/// A report and the collateral that travels with it. Bytes from outside: nothing here was checked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnpEvidence {
    /// The attestation report, 1184 bytes when well-formed.
    #[serde(with = "base64_bytes")]
    pub report: Vec<u8>,
    /// The chip's endorsement certificate (VCEK or VLEK), DER.
    #[serde(with = "base64_bytes")]
    pub vek: Vec<u8>,
    /// The certificate that signed it (ASK or ASVK), DER.
    #[serde(with = "base64_bytes")]
    pub intermediate: Vec<u8>,
    /// The root's revocation list, DER. Empty means that there is none, which the verifier refuses.
    #[serde(with = "base64_bytes")]
    pub crl: Vec<u8>,
}
