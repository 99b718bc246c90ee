//! What one connection has proven so far. [`AttestedSession`] has one constructor, [`Challenge::confirm`]; everything that
//! needs a session asks [`SessionState::attested`] for one, at each request and again while an answer streams.

use std::collections::HashSet;
use std::sync::Arc;

use casemate_attestation::{
    Binding, Nonce, Sha256Digest, UnixTime, VerifiedEvidence, confirmation_message,
};

use super::signature::ClientKey;
use super::{Confirmation, SessionError};
use crate::policy::ClientMachine;

/// Challenges that one connection may ask in its life. Bounds the memory for nonces to some 32 KiB.
pub const CHALLENGES_MAX: usize = 1024;

/// State of one connection. Pure: time is an argument.
#[derive(Debug, Default)]
pub struct SessionState {
    nonces: HashSet<Nonce>,
    newest: u64,
    pending: Option<Challenge>,
    standing: Option<AttestedSession>,
}

/// Entitles to issue the challenge that was begun last, and no older one.
#[derive(Debug)]
pub struct Ticket(u64);

/// Evidence that waits for its confirmation. Consumed by the first answer, right or wrong.
#[derive(Debug)]
pub struct Challenge {
    binding: Binding,
    evidence: Sha256Digest,
    policy_bundle: Sha256Digest,
    nonce: Nonce,
}

/// Proof that this connection's client verified this server and confirmed it with its key, until a deadline.
///
/// ```compile_fail
/// use casemate::session::AttestedSession;
/// let session = AttestedSession::default();
/// ```
///
/// ```
/// use casemate::session::{AttestedSession, SessionError, SessionState};
/// use casemate_attestation::{Sha256Digest, UnixTime};
/// fn session(state: &SessionState, now: UnixTime, bundle: &Sha256Digest) -> Result<AttestedSession, SessionError> {
///     state.attested(now, bundle)
/// }
/// ```
#[derive(Debug, Clone)]
pub struct AttestedSession(Arc<Established>);

#[derive(Debug)]
struct Established {
    id: [u8; 16],
    attested_at: UnixTime,
    deadline: UnixTime,
    policy_bundle: Sha256Digest,
    client_evidence: Option<VerifiedEvidence>,
}

/// What the server adds to a confirmation that holds.
pub struct Terms {
    /// Drawn at the edge.
    pub id: [u8; 16],
    /// When the confirmation came.
    pub attested_at: UnixTime,
    /// First second at which the session is stale.
    pub deadline: UnixTime,
    /// The client's own evidence, verified over this challenge.
    pub client_evidence: Option<VerifiedEvidence>,
}

impl SessionState {
    /// Begins a challenge; an unconfirmed one before it is forgotten (P-40).
    ///
    /// # Errors
    /// [`SessionError::NonceReused`], [`SessionError::ChallengesSpent`].
    pub fn begin(&mut self, nonce: Nonce) -> Result<Ticket, SessionError> {
        if self.nonces.contains(&nonce) {
            return Err(SessionError::NonceReused);
        }
        if self.nonces.len() >= CHALLENGES_MAX {
            return Err(SessionError::ChallengesSpent {
                limit: CHALLENGES_MAX,
            });
        }
        self.nonces.insert(nonce);
        self.newest += 1;
        self.pending = None;
        Ok(Ticket(self.newest))
    }

    /// Remembers what the challenge of `ticket` was answered with. A newer challenge makes this one void.
    pub fn issue(&mut self, ticket: &Ticket, challenge: Challenge) {
        if ticket.0 == self.newest {
            self.pending = Some(challenge);
        }
    }

    /// Takes the open challenge out: it is answered once (P-41).
    ///
    /// # Errors
    /// [`SessionError::NoChallenge`].
    pub fn take(&mut self) -> Result<Challenge, SessionError> {
        self.pending.take().ok_or(SessionError::NoChallenge)
    }

    /// Puts a confirmed session in force. An earlier one stood until now (P-43).
    pub fn establish(&mut self, session: AttestedSession) {
        self.standing = Some(session);
    }

    /// Names the session that was established last, in force or stale.
    pub fn last_session(&self) -> Option<[u8; 16]> {
        self.standing.as_ref().map(AttestedSession::id)
    }

    /// The client's own machine in that session.
    pub fn last_client(&self) -> Option<ClientMachine> {
        self.standing
            .as_ref()
            .and_then(AttestedSession::client_machine)
    }

    /// The session in force at `now`, under the policy bundle in force.
    ///
    /// # Errors
    /// [`SessionError::AttestationRequired`] before the first confirmation, [`SessionError::AttestationStale`] after the
    /// deadline or once another bundle is in force than the one that the session is bound to.
    pub fn attested(
        &self,
        now: UnixTime,
        policy_bundle: &Sha256Digest,
    ) -> Result<AttestedSession, SessionError> {
        let session = self
            .standing
            .as_ref()
            .ok_or(SessionError::AttestationRequired)?;
        if now >= session.0.deadline || session.0.policy_bundle != *policy_bundle {
            return Err(SessionError::AttestationStale);
        }
        Ok(session.clone())
    }
}

impl Challenge {
    /// A challenge that was answered with evidence over `binding`.
    pub fn new(
        nonce: Nonce,
        binding: Binding,
        evidence: Sha256Digest,
        policy_bundle: Sha256Digest,
    ) -> Self {
        Self {
            binding,
            evidence,
            policy_bundle,
            nonce,
        }
    }

    /// The client's nonce.
    pub fn nonce(&self) -> Nonce {
        self.nonce
    }

    /// Checks the confirmation against what this connection was given, and makes the session (P-41).
    ///
    /// # Errors
    /// [`SessionError::BindingMismatch`], [`SessionError::EvidenceMismatch`], [`SessionError::SignatureInvalid`].
    pub fn confirm(
        self,
        confirmation: &Confirmation,
        key: &ClientKey,
        terms: Terms,
    ) -> Result<AttestedSession, SessionError> {
        if !self.binding.matches(&confirmation.binding) {
            return Err(SessionError::BindingMismatch);
        }
        if self.evidence != confirmation.evidence {
            return Err(SessionError::EvidenceMismatch);
        }
        let message = confirmation_message(&self.binding, &self.evidence);
        key.verify(&message, &confirmation.signature)?;
        let Terms {
            id,
            attested_at,
            deadline,
            client_evidence,
        } = terms;
        let policy_bundle = self.policy_bundle;
        let established = Established {
            id,
            attested_at,
            deadline,
            policy_bundle,
            client_evidence,
        };
        Ok(AttestedSession(Arc::new(established)))
    }
}

impl AttestedSession {
    /// Names the session in audit records.
    pub fn id(&self) -> [u8; 16] {
        self.0.id
    }

    /// When the client confirmed.
    pub fn attested_at(&self) -> UnixTime {
        self.0.attested_at
    }

    /// First second at which the session is stale.
    pub fn deadline(&self) -> UnixTime {
        self.0.deadline
    }

    /// The client's own machine, where it gave evidence.
    pub fn client_machine(&self) -> Option<ClientMachine> {
        self.0.client_evidence.as_ref().map(|it| ClientMachine {
            platform: it.platform(),
            chip: it.chip_id(),
        })
    }
}
