//! The attested connection (rules P-20 to P-43) as states that consume themselves: [`Connected`] asks, [`Challenged`] holds
//! evidence that proves nothing yet, [`Appraised`] holds evidence that was verified over this very connection, and
//! [`AttestedConnection`] is the only one through which a request can leave.

mod channel;
mod connector;
mod evidence;
mod keeper;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use casemate_attestation::{
    Binding, BindingInputs, Context, Direction, Envelope, Nonce, UnixTime, VerifiedEvidence,
    Verifier, confirmation_message,
};
use http::{Request, Response};
use ring::rand::{SecureRandom as _, SystemRandom};

pub use channel::{AnswerBody, BodyError, RequestBody, empty_body, full_body};
pub use connector::{Connector, Facts, now};
pub use evidence::OwnEvidence;
pub use keeper::Keeper;

use crate::config::ExpectSection;
use crate::error::ConnectError;
use crate::identity::Identity;
use crate::recorded::beside::{Beside, Session};
use crate::recorded::{Asked, Recorded, Subject};
use channel::Channel;

/// What this client brings to a session and insists on.
#[derive(Debug)]
pub struct Terms {
    /// Who the client is.
    pub identity: Identity,
    /// Evidence of its own machine, where policy asks for it.
    pub own_evidence: Option<OwnEvidence>,
    /// Pins beyond the signed documents.
    pub expect: ExpectSection,
    /// For each step.
    pub step_limit: Duration,
    /// The longest session life that is used.
    pub life_max: Duration,
}

/// A TLS connection to a server that holds a certificate of the enclave CA. Nothing else is known about it.
#[derive(Debug)]
pub struct Connected {
    channel: Arc<Channel>,
    terms: Arc<Terms>,
}

impl Connected {
    /// What was negotiated.
    #[must_use]
    pub fn facts(&self) -> Facts {
        self.channel.facts()
    }

    /// Asks for evidence over a nonce that is drawn here and used once (rule P-40).
    ///
    /// # Errors
    /// [`ConnectError`] when the server declines, is late, or its envelope is malformed.
    pub async fn challenge(self) -> Result<Challenged, ConnectError> {
        let mut nonce = [0; 32];
        SystemRandom::new()
            .fill(&mut nonce)
            .map_err(|_| ConnectError::Random)?;
        let nonce = Nonce::from_bytes(nonce);
        let body = wire::challenge(nonce);
        let answer = self
            .channel
            .ask(wire::CHALLENGE_PATH, body, self.terms.step_limit)
            .await?;
        let envelope = Envelope::parse(&answer)?;
        let exporter = self.channel.exporter(nonce)?;
        Ok(Challenged {
            channel: self.channel,
            terms: self.terms,
            nonce,
            exporter,
            envelope,
        })
    }
}

/// Evidence arrived. It proves nothing yet.
#[derive(Debug)]
pub struct Challenged {
    channel: Arc<Channel>,
    terms: Arc<Terms>,
    nonce: Nonce,
    exporter: [u8; 32],
    envelope: Envelope,
}

impl Challenged {
    /// Verifies the evidence over a binding that is computed from this side's own view of the connection (rule P-35), then
    /// compares identity, policy and models with what this client insists on (attack A3).
    ///
    /// # Errors
    /// [`ConnectError::Rejected`] and its neighbours name the check that failed.
    pub fn verify(self, verifier: &Verifier, now: UnixTime) -> Result<Appraised, ConnectError> {
        let binding = self.binding();
        let evidence = verifier.verify(&self.envelope, &binding, now)?;
        let chip = verifier.expectations().chip(&evidence.chip_id());
        let name = self.channel.server_name();
        let serves = chip.is_some_and(|chip| chip.names.iter().any(|n| n == name));
        if !serves {
            let label = chip.map(|chip| chip.label.clone()).unwrap_or_default();
            return Err(ConnectError::WrongNode {
                label,
                name: name.to_owned(),
            });
        }
        check_pins(&self.terms.expect, self.envelope.context())?;
        Ok(Appraised {
            challenged: self,
            binding,
            evidence,
        })
    }

    /// What the server sent, before it is judged.
    #[must_use]
    pub const fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// What its evidence must be over, by this side's own view of the connection.
    #[must_use]
    pub fn binding(&self) -> Binding {
        self.inputs(Direction::Server, self.envelope.context())
            .binding()
    }

    /// What was said over this connection, to be written down and judged again. Devices need their session with them; a machine's
    /// evidence alone needs only what it was asked for with.
    #[must_use]
    pub fn recorded(&self) -> Recorded {
        let (parts, binding) = (self.envelope.parts(), self.binding());
        let session = || Session {
            direction: Direction::Server,
            exporter: self.exporter,
            server_leaf: self.channel.server_leaf(),
            client_leaf: self.terms.identity.leaf(),
            nonce: self.nonce,
            context: parts.context.clone(),
            batch: parts.batch.clone(),
        };
        let beside = parts.devices.clone().map(|devices| {
            Box::new(Beside {
                devices,
                session: session(),
            })
        });
        Recorded {
            subject: Subject::Hardware {
                platform: parts.platform,
                evidence: parts.hardware.clone(),
            },
            asked: Asked::ReportData(Box::new(self.envelope.report_data(&binding))),
            at: None,
            beside,
        }
    }

    fn inputs<'a>(&'a self, direction: Direction, context: &'a Context) -> BindingInputs<'a> {
        BindingInputs {
            direction,
            exporter: &self.exporter,
            server_leaf: self.channel.server_leaf(),
            client_leaf: self.terms.identity.leaf(),
            nonce: self.nonce,
            context,
        }
    }

    /// This machine's own envelope over the same connection and nonce, in direction `client`.
    async fn own_envelope(&self) -> Result<Option<Envelope>, ConnectError> {
        let Some(own) = &self.terms.own_evidence else {
            return Ok(None);
        };
        let context = Context::absent();
        let binding = self.inputs(Direction::Client, &context).binding();
        own.envelope(binding, context).await.map(Some)
    }
}

fn check_pins(expect: &ExpectSection, context: &Context) -> Result<(), ConnectError> {
    if let Some(expected) = expect.policy_bundle {
        let found = context.policy_bundle;
        if found != expected {
            return Err(ConnectError::WrongPolicy { found, expected });
        }
    }
    if let Some(pins) = &expect.models {
        let pins = pins.digests();
        if let Some(missing) = pins.iter().find(|pin| !context.models.contains(pin)) {
            return Err(ConnectError::ModelMissing(*missing));
        }
        if let Some(stray) = context.models.iter().find(|model| !pins.contains(model)) {
            return Err(ConnectError::ModelUnexpected(*stray));
        }
    }
    Ok(())
}

/// The server's evidence was verified over this connection. The server does not know yet that it was.
#[derive(Debug)]
pub struct Appraised {
    challenged: Challenged,
    binding: Binding,
    evidence: VerifiedEvidence,
}

impl Appraised {
    /// What was verified.
    #[must_use]
    pub const fn verified(&self) -> &VerifiedEvidence {
        &self.evidence
    }

    /// What the evidence binds.
    #[must_use]
    pub const fn context(&self) -> &Context {
        self.challenged.envelope.context()
    }

    /// Signs binding and evidence digest, and takes the session that the server gives for them (rules P-41, P-42).
    ///
    /// # Errors
    /// [`ConnectError`] when the server declines, or when its answer contradicts the evidence.
    pub async fn confirm(self, now: UnixTime) -> Result<AttestedConnection, ConnectError> {
        let Self {
            challenged,
            binding,
            evidence,
        } = self;
        let digest = challenged.envelope.digest();
        let signature = challenged
            .terms
            .identity
            .sign(&confirmation_message(&binding, &digest))?;
        let own = challenged.own_envelope().await?;
        let body = wire::confirm(&binding, digest, &signature, own.as_ref())?;
        let limit = challenged.terms.step_limit;
        let answer = challenged
            .channel
            .ask(wire::CONFIRM_PATH, body, limit)
            .await?;
        let granted = wire::granted(&answer)?;
        if granted.confidential && !evidence.confidential() {
            return Err(ConnectError::ConfidentialClaim);
        }
        // No session outlives what its evidence was judged by (rule P-44).
        let deadline = granted.deadline.min(evidence.until());
        let life_s = deadline.secs().saturating_sub(now.secs());
        if life_s == 0 {
            return Err(ConnectError::DeadOnArrival { deadline, now });
        }
        let life = Duration::from_secs(life_s).min(challenged.terms.life_max);
        challenged.channel.lives_for(life);
        Ok(AttestedConnection {
            context: challenged.envelope.context().clone(),
            channel: challenged.channel,
            terms: challenged.terms,
            evidence,
            session: granted.session,
            deadline: now.plus(life.as_secs()),
            life,
        })
    }
}

/// A connection whose far end was verified and that has not reached its deadline.
///
/// [`Appraised::confirm`] is its only constructor:
///
/// ```compile_fail
/// let connection = casemate_client::session::AttestedConnection::default();
/// ```
///
/// ```
/// use casemate_attestation::{UnixTime, Verifier};
/// use casemate_client::{error::ConnectError, session::{AttestedConnection, Connected}};
/// async fn attest(c: Connected, v: &Verifier, now: UnixTime) -> Result<AttestedConnection, ConnectError> {
///     c.challenge().await?.verify(v, now)?.confirm(now).await
/// }
/// ```
#[derive(Debug)]
pub struct AttestedConnection {
    channel: Arc<Channel>,
    terms: Arc<Terms>,
    evidence: VerifiedEvidence,
    context: Context,
    session: String,
    deadline: UnixTime,
    life: Duration,
}

impl AttestedConnection {
    /// What was verified.
    #[must_use]
    pub const fn verified(&self) -> &VerifiedEvidence {
        &self.evidence
    }

    /// What the evidence binds: policy bundle, models, configuration.
    #[must_use]
    pub const fn context(&self) -> &Context {
        &self.context
    }

    /// The server's name for the session, 32 hexadecimal digits.
    #[must_use]
    pub fn session(&self) -> &str {
        &self.session
    }

    /// When it ends by this machine's clock.
    #[must_use]
    pub const fn deadline(&self) -> UnixTime {
        self.deadline
    }

    /// How long it lived from its confirmation on.
    #[must_use]
    pub const fn life(&self) -> Duration {
        self.life
    }

    /// What was negotiated below it.
    #[must_use]
    pub fn facts(&self) -> Facts {
        self.channel.facts()
    }

    /// Whether another request can leave on it.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        !self.channel.is_closed() && !self.channel.is_stale()
    }

    /// Sends a request whose target is a path; the answer's body streams and ends with an error when the deadline passes.
    ///
    /// # Errors
    /// [`ConnectError::Stale`] after the deadline (attack A9), [`ConnectError::Lost`] when the connection breaks.
    pub async fn send_request(
        &self,
        request: Request<RequestBody>,
    ) -> Result<Response<AnswerBody>, ConnectError> {
        if self.channel.is_stale() {
            return Err(ConnectError::Stale);
        }
        self.channel.send(request).await
    }

    /// Sends a small request and collects its whole answer of at most `limit` bytes.
    ///
    /// # Errors
    /// As [`AttestedConnection::send_request`].
    pub async fn fetch(
        &self,
        request: Request<RequestBody>,
        limit: usize,
    ) -> Result<Response<Bytes>, ConnectError> {
        let (head, body) = self.send_request(request).await?.into_parts();
        Ok(Response::from_parts(
            head,
            channel::collect(body, limit).await?,
        ))
    }

    /// Attests again on the open connection (rule P-43). Answers in progress go on; the old deadline stands until the server
    /// has taken the new confirmation.
    ///
    /// # Errors
    /// As for a first attestation.
    pub async fn attest_again(
        &self,
        verifier: &Verifier,
        now: UnixTime,
    ) -> Result<Self, ConnectError> {
        let connected = Connected {
            channel: self.channel.clone(),
            terms: self.terms.clone(),
        };
        connected
            .challenge()
            .await?
            .verify(verifier, now)?
            .confirm(now)
            .await
    }

    /// Ends it now: no further request, and answers in progress break off.
    pub(crate) fn condemn(&self) {
        self.channel.lives_for(Duration::ZERO);
    }

    fn is_same_connection(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.channel, &other.channel)
    }
}
