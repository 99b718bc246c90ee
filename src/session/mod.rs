//! Attested sessions: challenge, evidence, confirmation, deadline (session.md P-20 to P-43). Nothing behind this module runs
//! without an [`AttestedSession`].
//!
//! | state | left by | requests get |
//! |---|---|---|
//! | unattested | a challenge | 403 `attestation_required` |
//! | challenged | its one confirmation, or a newer challenge | as before the challenge |
//! | attested | the deadline, or another policy bundle in force | answers |
//! | stale | a new confirmation on the same connection | 421 `attestation_stale` |

mod attest;
mod error;
mod evidence;
mod registry;
mod signature;
mod state;
mod wire;

pub use attest::{Attestor, ClientEvidence, ClientVerifier, Connection, now};
pub use error::SessionError;
pub use evidence::EvidenceBatcher;
pub use registry::{Registration, Registry};
pub use signature::ClientKey;
pub use state::{AttestedSession, CHALLENGES_MAX, Challenge, SessionState, Terms, Ticket};
pub use wire::{
    CHALLENGE_BYTES_MAX, CONFIRMATION_BYTES_MAX, ChallengeRequest, Confirmation, Confirmed,
    parse_challenge, parse_confirmation,
};
