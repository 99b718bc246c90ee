//! The documents of `/attest/challenge` and `/attest/confirm` (session.md P-40 to P-42), read strictly.

use casemate_attestation::strict_json::{self, JsonError, base64_bytes, hex_bytes};
use casemate_attestation::{Nonce, Sha256Digest, UnixTime};
use serde::{Deserialize, Deserializer, Serialize};

/// The most bytes of a challenge.
pub const CHALLENGE_BYTES_MAX: usize = 1024;

/// The most bytes of a confirmation: an envelope of 64 KiB as base64, and the rest.
pub const CONFIRMATION_BYTES_MAX: usize = 96 * 1024;

/// A client's wish for evidence (P-40).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChallengeRequest {
    /// Drawn by the client, used once.
    pub nonce: Nonce,
}

/// A client's confirmation of what it verified (P-41).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confirmation {
    /// The binding as the client computed it.
    #[serde(with = "hex_bytes")]
    pub binding: [u8; 64],
    /// Digest of the envelope that the client received (P-34).
    pub evidence: Sha256Digest,
    /// By the client certificate's key over both.
    #[serde(with = "base64_bytes")]
    pub signature: Vec<u8>,
    /// Evidence of the client's own machine, where it has any.
    #[serde(
        deserialize_with = "optional_base64",
        serialize_with = "write_optional_base64"
    )]
    pub client_evidence: Option<Vec<u8>>,
}

/// The server's answer to a confirmation (P-42).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confirmed {
    /// Names the session in audit records.
    #[serde(with = "hex_bytes")]
    pub session: [u8; 16],
    /// First second at which the session is stale.
    pub deadline: UnixTime,
    /// False whenever the test chip stood in.
    pub confidential: bool,
}

/// Reads a challenge.
///
/// # Errors
/// [`JsonError`] for anything that is not exactly one challenge.
pub fn parse_challenge(bytes: &[u8]) -> Result<ChallengeRequest, JsonError> {
    strict_json::from_slice(bytes, CHALLENGE_BYTES_MAX)
}

/// Reads a confirmation.
///
/// # Errors
/// [`JsonError`] for anything that is not exactly one confirmation.
pub fn parse_confirmation(bytes: &[u8]) -> Result<Confirmation, JsonError> {
    strict_json::from_slice(bytes, CONFIRMATION_BYTES_MAX)
}

#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Base64(#[serde(with = "base64_bytes")] Vec<u8>);

fn optional_base64<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<u8>>, D::Error> {
    Ok(Option::<Base64>::deserialize(deserializer)?.map(|bytes| bytes.0))
}

fn write_optional_base64<S: serde::Serializer>(
    bytes: &Option<Vec<u8>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    bytes
        .as_ref()
        .map(|bytes| Base64(bytes.clone()))
        .serialize(serializer)
}
