//! A quote with what is needed to judge it.

use serde::{Deserialize, Serialize};

use super::collateral::TdxCollateral;
use crate::strict_json::base64_bytes;

/// A quote and the collateral that travels with it. Bytes from outside: nothing here was checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TdxEvidence {
    /// The quote, version 4 or 5.
    #[serde(with = "base64_bytes")]
    pub quote: Vec<u8>,
    /// Intel's documents and lists.
    pub collateral: TdxCollateral,
    /// What the CCEL table points to; empty where none is sent.
    #[serde(with = "base64_bytes")]
    pub event_log: Vec<u8>,
}
