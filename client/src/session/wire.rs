//! The JSON of rules P-40 to P-42, strict in both directions.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use casemate_attestation::{Binding, Envelope, Nonce, Sha256Digest, UnixTime, digest, strict_json};
use serde::{Deserialize, Serialize};

use crate::error::ConnectError;

pub(super) const CHALLENGE_PATH: &str = "/attest/challenge";
pub(super) const CONFIRM_PATH: &str = "/attest/confirm";

/// No error document of a server is read beyond this many bytes.
const MESSAGE_CHARS_MAX: usize = 300;
const GRANT_BYTES_MAX: usize = 4096;

#[derive(Serialize)]
struct ChallengeWire {
    nonce: Nonce,
}

#[derive(Serialize)]
struct ConfirmWire {
    binding: String,
    evidence: Sha256Digest,
    signature: String,
    client_evidence: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GrantedWire {
    session: String,
    deadline: UnixTime,
    confidential: bool,
}

/// The session that a confirmation bought (rule P-42).
pub(super) struct Granted {
    pub(super) session: String,
    pub(super) deadline: UnixTime,
    pub(super) confidential: bool,
}

pub(super) fn challenge(nonce: Nonce) -> Vec<u8> {
    // An object with one text field cannot fail to be written.
    strict_json::to_vec(&ChallengeWire { nonce }).unwrap_or_default()
}

pub(super) fn confirm(
    binding: &Binding,
    evidence: Sha256Digest,
    signature: &[u8],
    own: Option<&Envelope>,
) -> Result<Vec<u8>, ConnectError> {
    let wire = ConfirmWire {
        binding: hex::encode(binding.as_bytes()),
        evidence,
        signature: STANDARD.encode(signature),
        client_evidence: own.map(|envelope| STANDARD.encode(envelope.as_bytes())),
    };
    strict_json::to_vec(&wire).map_err(|e| malformed(CONFIRM_PATH, e.to_string()))
}

pub(super) fn granted(body: &[u8]) -> Result<Granted, ConnectError> {
    let wire: GrantedWire = strict_json::from_slice(body, GRANT_BYTES_MAX)
        .map_err(|e| malformed(CONFIRM_PATH, e.to_string()))?;
    digest::hex_array::<16>("session", &wire.session)
        .map_err(|e| malformed(CONFIRM_PATH, e.to_string()))?;
    let GrantedWire {
        session,
        deadline,
        confidential,
    } = wire;
    Ok(Granted {
        session,
        deadline,
        confidential,
    })
}

pub(super) fn malformed(path: &'static str, what: String) -> ConnectError {
    ConnectError::MalformedAnswer { path, what }
}

/// An error answer, reduced to what can be shown: the server is not verified when it sends one.
pub(super) fn declined(path: &'static str, status: u16, body: &[u8]) -> ConnectError {
    #[derive(Deserialize, Default)]
    struct Outer {
        #[serde(default)]
        error: Inner,
    }
    #[derive(Deserialize, Default)]
    struct Inner {
        #[serde(default)]
        code: Option<String>,
        #[serde(default)]
        message: Option<String>,
    }
    let Inner { code, message } = serde_json::from_slice::<Outer>(body)
        .unwrap_or_default()
        .error;
    let code = printable(code.as_deref().unwrap_or("none"));
    let message = printable(message.as_deref().unwrap_or("no reason given"));
    ConnectError::Declined {
        path,
        status,
        code,
        message,
    }
}

fn printable(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .take(MESSAGE_CHARS_MAX)
        .collect()
}
