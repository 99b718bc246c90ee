//! The binding (rules P-20 to P-22): one value that ties evidence to this connection, this nonce and this content.
//!
//! A [`Binding`] can only be computed; there is no way to turn received bytes into one.

use std::fmt;

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;

use crate::digest::{Nonce, Sha256Digest};
use crate::framing;
use crate::nvidia::{GpuNonce, gpu_nonce};

/// Label of the TLS exporter whose context is the nonce (rule P-21). The exporter has 32 bytes.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-casemate-attestation-v1";

const SESSION_LABEL: &str = "casemate/session/v1";
const CONFIRM_LABEL: &str = "casemate/confirm/v1";

/// Whose machine the evidence describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// The TLS server's.
    Server,
    /// The TLS client's.
    Client,
}

impl Direction {
    /// The word that is bound and that stands in envelopes.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the attester says it serves. Nothing in it is believed until the binding agrees (rule P-35).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// SHA-256 of the signed policy bundle in force.
    pub policy_bundle: Sha256Digest,
    /// Digests of the served models in the order served (rule P-22).
    pub models: Vec<Sha256Digest>,
    /// SHA-256 of the configuration in force.
    pub configuration: Sha256Digest,
    /// SHA-256 of the device evidence.
    pub device_evidence: Sha256Digest,
}

impl Context {
    /// A context in which everything is absent (rule P-5).
    #[must_use]
    pub fn absent() -> Self {
        let absent = Sha256Digest::absent();
        Self {
            policy_bundle: absent,
            models: Vec::new(),
            configuration: absent,
            device_evidence: absent,
        }
    }
}

/// Everything the binding is computed from. All but `context` must come from the verifier's own connection.
#[derive(Debug, Clone, Copy)]
pub struct BindingInputs<'a> {
    /// Whose machine is described; the verifier states what it expects, not what the envelope says.
    pub direction: Direction,
    /// The TLS exporter of this connection (rule P-21).
    pub exporter: &'a [u8; 32],
    /// SHA-256 of the TLS server's leaf certificate (DER).
    pub server_leaf: Sha256Digest,
    /// SHA-256 of the TLS client's leaf certificate (DER).
    pub client_leaf: Sha256Digest,
    /// The verifier's nonce.
    pub nonce: Nonce,
    /// The attester's claims.
    pub context: &'a Context,
}

impl BindingInputs<'_> {
    /// The binding of rule P-20.
    #[must_use]
    pub fn binding(&self) -> Binding {
        let models: Vec<u8> = self
            .context
            .models
            .iter()
            .flat_map(|model| *model.as_bytes())
            .collect();
        let bytes = framing::sha512(
            SESSION_LABEL,
            &[
                self.direction.as_str().as_bytes(),
                self.exporter,
                self.server_leaf.as_bytes(),
                self.client_leaf.as_bytes(),
                self.nonce.as_bytes(),
                self.context.policy_bundle.as_bytes(),
                &models,
                self.context.configuration.as_bytes(),
                self.context.device_evidence.as_bytes(),
            ],
        );
        Binding {
            bytes,
            direction: self.direction,
            device_nonce: gpu_nonce(self),
            device_evidence: self.context.device_evidence,
        }
    }
}

/// The value that evidence must sign. Compared in constant time.
#[derive(Clone, Copy)]
pub struct Binding {
    bytes: [u8; 64],
    direction: Direction,
    device_nonce: GpuNonce,
    device_evidence: Sha256Digest,
}

impl Binding {
    /// The 64 bytes, as REPORT_DATA of a single report (rule P-23).
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.bytes
    }

    /// Whose machine it was computed for.
    #[must_use]
    pub const fn direction(&self) -> Direction {
        self.direction
    }

    /// What this session's devices must answer (rule N11 of docs/formats/nvidia.md).
    #[must_use]
    pub const fn device_nonce(&self) -> &GpuNonce {
        &self.device_nonce
    }

    /// What it was computed with as the digest of device evidence.
    #[must_use]
    pub const fn device_evidence(&self) -> Sha256Digest {
        self.device_evidence
    }

    /// Whether `bytes`, such as those of a confirmation, are this binding. Constant time.
    #[must_use]
    pub fn matches(&self, bytes: &[u8; 64]) -> bool {
        self.bytes.ct_eq(bytes).into()
    }
}

impl PartialEq for Binding {
    fn eq(&self, other: &Self) -> bool {
        self.matches(&other.bytes)
    }
}

impl Eq for Binding {}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.bytes))
    }
}

impl fmt::Debug for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Binding({}, {self})", self.direction)
    }
}

/// The bytes that a client signs to confirm a session (rule P-41).
#[must_use]
pub fn confirmation_message(binding: &Binding, evidence: &Sha256Digest) -> Vec<u8> {
    framing::labelled(CONFIRM_LABEL, &[binding.as_bytes(), evidence.as_bytes()])
}
