//! The two steps of `/attest/*` on one connection, with everything that they need around them.

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::SystemTime;

use casemate_attestation::{
    Binding, BindingInputs, Context, DeviceSet, Direction, Envelope, Nonce, Platform, Sha256Digest,
    UnixTime, VerifiedEvidence, Verifier,
};
use casemate_client::trust::Trust;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::Semaphore;

use super::{
    AttestedSession, Challenge, ClientKey, Confirmation, Confirmed, EvidenceBatcher, Registration,
    SessionError, SessionState, Terms,
};
use crate::devices::{DeviceAskError, DeviceAsker, Lane};
use crate::listener::Peer;
use crate::policy::{ClientMachine, Principal};

/// What the server wants to know of its clients' machines.
pub enum ClientEvidence {
    /// Evidence that a client offers anyway is refused: nothing here could judge it.
    NotJudged,
    /// Evidence is judged where a client offers it, and policy may ask for it; bad evidence gets no session.
    Optional(ClientVerifier),
    /// A client without good evidence gets no session.
    Required(ClientVerifier),
}

/// What the machines of clients are compared with.
pub enum ClientVerifier {
    /// The same as long as the server runs.
    Fixed(Box<Verifier>),
    /// Signed documents, read anew for every judgement: a laptop struck off the list gets no further session.
    Documents(Box<Trust>),
}

impl ClientVerifier {
    fn verify(
        &self,
        envelope: &Envelope,
        binding: &Binding,
        now: UnixTime,
    ) -> Result<VerifiedEvidence, String> {
        let verified = match self {
            Self::Fixed(verifier) => verifier.verify(envelope, binding, now),
            Self::Documents(trust) => {
                let appraiser = trust.appraiser(now).map_err(|error| {
                    // Its paths are this machine's business.
                    tracing::error!(%error, "the documents of clients' machines are not in force");
                    String::from("this server has no documents of clients' machines in force; tell its operator")
                })?;
                appraiser.verifier.verify(envelope, binding, now)
            }
        };
        verified.map_err(|error| error.to_string())
    }
}

/// Makes sessions. One for the whole server.
pub struct Attestor {
    batcher: EvidenceBatcher,
    devices: Option<DeviceAsker>,
    context: RwLock<Context>,
    clients: ClientEvidence,
}

/// One connection with its peer and its state.
pub struct Connection {
    peer: Peer,
    leaf: Sha256Digest,
    principal: Principal,
    key: ClientKey,
    state: Mutex<SessionState>,
    challenging: Semaphore,
    _registration: Registration,
}

impl Connection {
    /// State for a connection that was just accepted and entered into the registry.
    ///
    /// # Errors
    /// [`SessionError::KeyUnsupported`]: the client could never confirm.
    pub fn new(
        peer: Peer,
        principal: Principal,
        registration: Registration,
    ) -> Result<Self, SessionError> {
        Ok(Self {
            leaf: Sha256Digest::of(&peer.leaf),
            key: ClientKey::of_leaf(&peer.leaf)?,
            peer,
            principal,
            state: Mutex::default(),
            challenging: Semaphore::new(1),
            _registration: registration,
        })
    }

    /// The other side.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Whom the client's certificate names.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// SHA-256 of the client's leaf.
    pub fn leaf(&self) -> Sha256Digest {
        self.leaf
    }

    /// Names the session that was established last on this connection, in force or stale.
    pub fn last_session(&self) -> Option<[u8; 16]> {
        self.state().last_session()
    }

    /// The client's own machine, by the evidence of that session.
    pub fn last_client(&self) -> Option<ClientMachine> {
        self.state().last_client()
    }

    fn state(&self) -> MutexGuard<'_, SessionState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What this session's evidence must sign, and in it what its devices must answer.
    fn binding(
        &self,
        direction: Direction,
        nonce: Nonce,
        context: &Context,
    ) -> Result<Binding, SessionError> {
        let exporter = self
            .peer
            .exporter
            .export(&nonce)
            .map_err(|_| SessionError::ConnectionGone)?;
        let inputs = BindingInputs {
            direction,
            exporter: &exporter,
            server_leaf: self.peer.server_leaf_digest,
            client_leaf: self.leaf,
            nonce,
            context,
        };
        Ok(inputs.binding())
    }
}

impl Attestor {
    /// Attests what `context` says with evidence from `batcher`.
    pub fn new(batcher: EvidenceBatcher, context: Context, clients: ClientEvidence) -> Self {
        Self {
            batcher,
            devices: None,
            context: RwLock::new(context),
            clients,
        }
    }

    /// With devices that prove themselves beside the machine, for each session anew.
    #[must_use]
    pub fn with_devices(mut self, devices: Option<DeviceAsker>) -> Self {
        self.devices = devices;
        self
    }

    /// Under which roots this server's evidence stands.
    pub fn platform(&self) -> Platform {
        self.batcher.platform()
    }

    /// What is attested now.
    pub fn context(&self) -> Context {
        self.context
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Puts another policy bundle in force. Every session bound to the one before is stale from now on.
    pub fn replace_policy_bundle(&self, digest: Sha256Digest) {
        self.context
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .policy_bundle = digest;
    }

    /// Whether the machine that vouches for this server keeps its memory from its host.
    pub fn confidential(&self) -> bool {
        self.batcher.platform().confidential()
    }

    /// Answers a challenge with evidence (P-40).
    ///
    /// # Errors
    /// [`SessionError`] names the rule.
    pub async fn challenge(
        &self,
        connection: &Connection,
        nonce: Nonce,
    ) -> Result<Envelope, SessionError> {
        let _one = connection
            .challenging
            .try_acquire()
            .map_err(|_| SessionError::ChallengeUnderWay)?;
        let ticket = connection.state().begin(nonce)?;
        let devices = self.ask_devices(connection, nonce).await?;
        // Read after the devices, which take their time: what is in force when the report is made.
        let context = Context {
            device_evidence: devices
                .as_ref()
                .map_or_else(Sha256Digest::absent, DeviceSet::digest),
            ..self.context()
        };
        let policy_bundle = context.policy_bundle;
        let binding = connection.binding(Direction::Server, nonce, &context)?;
        let envelope = self.batcher.evidence(binding, context, devices).await?;
        let challenge = Challenge::new(nonce, binding, envelope.digest(), policy_bundle);
        connection.state().issue(&ticket, challenge);
        Ok(envelope)
    }

    /// What the devices answer to this session's own nonce (N11), which does not depend on the context.
    async fn ask_devices(
        &self,
        connection: &Connection,
        nonce: Nonce,
    ) -> Result<Option<DeviceSet>, SessionError> {
        let Some(asker) = &self.devices else {
            return Ok(None);
        };
        let binding = connection.binding(Direction::Server, nonce, &Context::absent())?;
        let lane = Lane::Principal(connection.principal.as_str().to_owned());
        let answered = asker.answers(lane, *binding.device_nonce()).await;
        answered.map(Some).map_err(|error| match error {
            DeviceAskError::Busy => SessionError::EvidenceBusy,
            _ => SessionError::EvidenceUnavailable,
        })
    }

    /// Checks a confirmation and puts the session in force for `life_s` seconds (P-41, P-42).
    ///
    /// # Errors
    /// [`SessionError`] names the rule. The challenge is spent either way.
    pub fn confirm(
        &self,
        connection: &Connection,
        confirmation: &Confirmation,
        life_s: u64,
        now: UnixTime,
    ) -> Result<Confirmed, SessionError> {
        let challenge = connection.state().take()?;
        let client_evidence =
            self.judge_client(connection, challenge.nonce(), confirmation, now)?;
        let counts = client_evidence.as_ref().map(VerifiedEvidence::until);
        let deadline = now.plus(life_s);
        let terms = Terms {
            id: random_id()?,
            attested_at: now,
            deadline: counts.map_or(deadline, |until| deadline.min(until)),
            client_evidence,
        };
        let session = challenge.confirm(confirmation, &connection.key, terms)?;
        let answer = Confirmed {
            session: session.id(),
            deadline: session.deadline(),
            confidential: self.confidential(),
        };
        connection.state().establish(session);
        connection.peer.line.allow_idle(life_s);
        Ok(answer)
    }

    /// The session of this connection, if it has one in force now.
    ///
    /// # Errors
    /// [`SessionError::AttestationRequired`], [`SessionError::AttestationStale`].
    pub fn attested(
        &self,
        connection: &Connection,
        now: UnixTime,
    ) -> Result<AttestedSession, SessionError> {
        let policy_bundle = self
            .context
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .policy_bundle;
        connection.state().attested(now, &policy_bundle)
    }

    fn judge_client(
        &self,
        connection: &Connection,
        nonce: Nonce,
        confirmation: &Confirmation,
        now: UnixTime,
    ) -> Result<Option<VerifiedEvidence>, SessionError> {
        let rejected = |reason: String| SessionError::ClientEvidenceRejected { reason };
        match (&self.clients, &confirmation.client_evidence) {
            (ClientEvidence::NotJudged | ClientEvidence::Optional(_), None) => Ok(None),
            (ClientEvidence::NotJudged, Some(_)) => Err(rejected(
                "this server judges no client evidence; send null".into(),
            )),
            (ClientEvidence::Required(_), None) => Err(SessionError::ClientEvidenceRequired),
            (
                ClientEvidence::Optional(verifier) | ClientEvidence::Required(verifier),
                Some(bytes),
            ) => {
                let envelope =
                    Envelope::parse(bytes).map_err(|error| rejected(error.to_string()))?;
                // The direction is what this server expects, whatever the envelope says (A4).
                let binding = connection.binding(Direction::Client, nonce, envelope.context())?;
                let verified = verifier.verify(&envelope, &binding, now);
                verified.map(Some).map_err(rejected)
            }
        }
    }
}

fn random_id() -> Result<[u8; 16], SessionError> {
    let mut id = [0; 16];
    SystemRandom::new()
        .fill(&mut id)
        .map_err(|_| SessionError::EvidenceUnavailable)?;
    Ok(id)
}

/// The clock, read at the edge.
pub fn now() -> UnixTime {
    UnixTime::from(SystemTime::now())
}
