//! Why a connection is not, or no longer, an attested session. One variant per rule of session.md.

use casemate_attestation::strict_json::JsonError;

/// A refused step of attestation, or a request without a session in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// P-2: the document is not what the step takes.
    #[error("{0}")]
    Malformed(#[from] JsonError),
    /// P-40: a nonce serves one challenge.
    #[error("this nonce was used before on this connection; draw a fresh one")]
    NonceReused,
    /// P-40: memory for nonces is bounded.
    #[error("this connection had {limit} challenges; open another one")]
    ChallengesSpent {
        /// Challenges that one connection may ask.
        limit: usize,
    },
    /// P-40: one piece of evidence at a time for one connection.
    #[error("evidence for this connection is already being made; wait for it")]
    ChallengeUnderWay,
    /// P-41: nothing is waiting for a confirmation.
    #[error("no challenge is open on this connection; ask for one first")]
    NoChallenge,
    /// P-41: the client confirms another binding than the server's.
    #[error("the confirmed binding is not this connection's")]
    BindingMismatch,
    /// P-41: the client confirms other evidence than it was given.
    #[error("the confirmed evidence is not what this connection was given")]
    EvidenceMismatch,
    /// P-41: the signature is not by the client certificate's key.
    #[error("the confirmation is not signed by the client certificate's key")]
    SignatureInvalid,
    /// P-41: the client certificate's key is of a kind that cannot confirm.
    #[error("the client certificate's key is neither P-256, P-384 nor Ed25519")]
    KeyUnsupported,
    /// P-41: policy asks for the client's own evidence.
    #[error("evidence of the client's own machine is required here")]
    ClientEvidenceRequired,
    /// P-41: the client's own evidence was refused.
    #[error("the client's own evidence was refused: {reason}")]
    ClientEvidenceRejected {
        /// The rule that refused it.
        reason: String,
    },
    /// Nothing was confirmed yet.
    #[error("this connection is not attested; challenge and confirm first")]
    AttestationRequired,
    /// The deadline has passed, or what the session was bound to has changed.
    #[error("the attestation of this connection is stale; attest again")]
    AttestationStale,
    /// S14: more challenges wait than the queue holds.
    #[error("too many connections wait for evidence; try again shortly")]
    EvidenceBusy,
    /// The machine gave no evidence.
    #[error("this machine gives no evidence at the moment")]
    EvidenceUnavailable,
    /// The connection ended meanwhile.
    #[error("the connection has no exporter value")]
    ConnectionGone,
}
