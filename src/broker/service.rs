//! One connection's calls: challenge, keys, updates (rules P-50 to P-52).
//!
//! The open challenge belongs to the connection and is taken out before anything is looked at: an answer, good or bad,
//! spends it. After a restart there is none.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use casemate_attestation::{
    BindingInputs, Direction, Envelope, Nonce, Sha256Digest, UnixTime, VerifiedEvidence,
    strict_json,
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use ring::rand::{SecureRandom, SystemRandom};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::channel::Channel;
use super::record::Recorder;
use super::refusal::Refusal;
use super::release::{Asked, Desk};
use super::wire;
use crate::org::authority::SERVER_SECONDS_MAX;

/// Rule P-50: a challenge is open this long.
const CHALLENGE_SECONDS: u64 = 60;

/// What all connections share.
pub(super) struct Shared {
    pub(super) desk: Desk,
    pub(super) recorder: Recorder,
    /// SHA-256 of the broker's own leaf.
    pub(super) server_leaf: Sha256Digest,
    pub(super) request_timeout: Duration,
}

/// One connection.
pub(super) struct Connection {
    shared: Arc<Shared>,
    channel: Channel,
    client_leaf: Vec<u8>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    challenge: Option<(Nonce, Instant)>,
    attested: Option<(VerifiedEvidence, Instant)>,
}

type Answer = Response<Full<Bytes>>;

impl Connection {
    pub(super) fn new(shared: Arc<Shared>, channel: Channel, client_leaf: Vec<u8>) -> Arc<Self> {
        Arc::new(Self {
            shared,
            channel,
            client_leaf,
            state: Mutex::default(),
        })
    }

    /// Whether keys were released on this connection.
    pub(super) fn attested(&self) -> bool {
        self.state().attested.is_some()
    }

    /// Answers one request. Never fails: a refusal is an answer.
    pub(super) async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Answer {
        let answer = match self.route(request).await {
            Ok(answer) => answer,
            Err(refusal) => refuse(&refusal),
        };
        answer.unwrap_or_else(|_| {
            let mut plain = Response::new(Full::default());
            *plain.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            plain
        })
    }

    async fn route(
        self: &Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<http::Result<Answer>, Refusal> {
        if request.method() != Method::POST {
            return Err(Refusal::NoSuchCall);
        }
        match request.uri().path() {
            "/release/challenge" => {
                self.read::<wire::ChallengeRequest>(request).await?;
                json(StatusCode::OK, &self.challenge()?)
            }
            "/release/keys" => {
                // Taken before the body is read: whatever is in it, this answer was the one.
                let challenge = self.state().challenge.take();
                let outcome = self.keys(challenge, request).await;
                if let Err(refusal) = &outcome {
                    self.shared
                        .recorder
                        .refused(&self.client_leaf, refusal)
                        .await;
                }
                json(StatusCode::OK, &outcome?)
            }
            "/release/updates" => {
                let have = self.read(request).await?;
                json(StatusCode::OK, &self.updates(&have)?)
            }
            _ => Err(Refusal::NoSuchCall),
        }
    }

    fn challenge(&self) -> Result<wire::Challenge, Refusal> {
        let mut bytes = [0_u8; 32];
        SystemRandom::new().fill(&mut bytes)?;
        let nonce = Nonce::from_bytes(bytes);
        self.state().challenge = Some((nonce, Instant::now()));
        Ok(wire::Challenge { nonce })
    }

    async fn keys(
        self: &Arc<Self>,
        challenge: Option<(Nonce, Instant)>,
        request: Request<Incoming>,
    ) -> Result<wire::KeysAnswer, Refusal> {
        let spent = Refusal::ChallengeSpent(CHALLENGE_SECONDS);
        let fresh = |(_, at): &(Nonce, Instant)| at.elapsed().as_secs() < CHALLENGE_SECONDS;
        let (nonce, _) = challenge.filter(fresh).ok_or(spent)?;
        let request: wire::KeysRequest = self.read(request).await?;
        let connection = Arc::clone(self);
        // Verification and disk writes take milliseconds: not on the network's threads.
        tokio::task::spawn_blocking(move || connection.decide(nonce, &request))
            .await
            .map_err(|e| Refusal::Internal(e.to_string()))?
    }

    fn decide(
        &self,
        nonce: Nonce,
        request: &wire::KeysRequest,
    ) -> Result<wire::KeysAnswer, Refusal> {
        let envelope = Envelope::parse(&request.evidence)?;
        let binding = BindingInputs {
            direction: Direction::Client,
            exporter: &self.channel.exporter(&nonce)?,
            server_leaf: self.shared.server_leaf,
            client_leaf: Sha256Digest::of(&self.client_leaf),
            nonce,
            context: envelope.context(),
        }
        .binding();
        let client_leaf = &self.client_leaf;
        let asked = Asked {
            envelope: &envelope,
            binding: &binding,
            request,
            client_leaf,
        };
        let decision = self.shared.desk.release(&asked, now())?;
        // No record, no release.
        self.shared
            .recorder
            .released(client_leaf, &decision.evidence, request)?;
        self.state().attested = Some((decision.evidence, Instant::now()));
        Ok(decision.answer)
    }

    fn updates(&self, have: &wire::UpdatesRequest) -> Result<wire::UpdatesAnswer, Refusal> {
        let attested = self.state().attested.clone();
        let (evidence, since) = attested.ok_or(Refusal::NotAttested)?;
        if since.elapsed().as_secs() >= SERVER_SECONDS_MAX {
            return Err(Refusal::Stale);
        }
        self.shared.desk.updates(&evidence, have, now())
    }

    async fn read<T: DeserializeOwned>(&self, request: Request<Incoming>) -> Result<T, Refusal> {
        let most = wire::REQUEST_BYTES_MAX;
        let body = Limited::new(request.into_body(), most).collect();
        let body = tokio::time::timeout(self.shared.request_timeout, body).await;
        let body = body
            .map_err(|_| Refusal::Body(most))?
            .map_err(|_| Refusal::Body(most))?;
        Ok(strict_json::from_slice(&body.to_bytes(), most)?)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn now() -> UnixTime {
    UnixTime::from(SystemTime::now())
}

fn json(status: StatusCode, body: &impl Serialize) -> Result<http::Result<Answer>, Refusal> {
    let body = strict_json::to_vec(body)?;
    Ok(Response::builder()
        .status(status)
        .header(http::header::CONTENT_TYPE, "application/json")
        .header(http::header::CACHE_CONTROL, "no-store")
        .body(Full::new(Bytes::from(body))))
}

fn refuse(refusal: &Refusal) -> http::Result<Answer> {
    let (code, status) = refusal.code();
    if let Refusal::Internal(reason) = refusal {
        tracing::error!(%reason, "cannot decide");
    }
    let error = wire::ErrorBody {
        message: refusal.to_string(),
        kind: "broker_refusal".into(),
        param: None,
        code: code.into(),
    };
    match json(status, &wire::ErrorAnswer { error }) {
        Ok(answer) => answer,
        Err(_) => Response::builder().status(status).body(Full::default()),
    }
}
