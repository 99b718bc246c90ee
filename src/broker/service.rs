//! One connection's calls: challenge, keys, updates (rules P-50 to P-53).
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
    attested: Option<(Attested, Instant)>,
}

/// Whom keys were released to: what its evidence says, and the first of its names.
#[derive(Clone)]
struct Attested {
    evidence: VerifiedEvidence,
    name: String,
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
            "/release/guard" => {
                let floor: wire::GuardFloor = self.read(request).await?;
                let connection = Arc::clone(self);
                // It waits for a disk: not on the network's threads.
                let raised = tokio::task::spawn_blocking(move || connection.raise_guard(&floor));
                raised
                    .await
                    .map_err(|e| Refusal::Internal(e.to_string()))??;
                json(StatusCode::OK, &wire::GuardAnswer {})
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
        let nonce = still_open(challenge, Instant::now())?;
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
        let attested = Attested {
            evidence: decision.evidence,
            name: request.names.first().cloned().unwrap_or_default(),
        };
        self.state().attested = Some((attested, Instant::now()));
        Ok(decision.answer)
    }

    fn updates(&self, have: &wire::UpdatesRequest) -> Result<wire::UpdatesAnswer, Refusal> {
        let attested = self.state().attested.clone();
        let Attested { evidence, .. } = still_attested(attested, Instant::now())?;
        self.shared.desk.updates(&evidence, have, now())
    }

    fn raise_guard(&self, floor: &wire::GuardFloor) -> Result<(), Refusal> {
        let attested = self.state().attested.clone();
        let Attested { evidence, name } = still_attested(attested, Instant::now())?;
        self.shared.desk.raise_guard(&evidence, &name, floor, now())
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

/// Rule P-50: the nonce of a challenge that was given and is not yet too old.
fn still_open(challenge: Option<(Nonce, Instant)>, now: Instant) -> Result<Nonce, Refusal> {
    let open = |given: Instant| seconds_since(given, now) < CHALLENGE_SECONDS;
    match challenge {
        Some((nonce, given)) if open(given) => Ok(nonce),
        _ => Err(Refusal::ChallengeSpent(CHALLENGE_SECONDS)),
    }
}

/// Rule P-52: what attested this connection, for as long as a server's leaf lives.
fn still_attested<E>(attested: Option<(E, Instant)>, now: Instant) -> Result<E, Refusal> {
    match attested {
        None => Err(Refusal::NotAttested),
        Some((_, since)) if seconds_since(since, now) >= SERVER_SECONDS_MAX => Err(Refusal::Stale),
        Some((evidence, _)) => Ok(evidence),
    }
}

fn seconds_since(then: Instant, now: Instant) -> u64 {
    now.saturating_duration_since(then).as_secs()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k06_a_challenge_is_open_for_a_minute_and_an_attestation_for_a_day() {
        let given = Instant::now();
        let after = |seconds| given + Duration::from_secs(seconds);
        let nonce = Nonce::from_bytes([3; 32]);
        let open = |now| still_open(Some((nonce, given)), now);
        assert_eq!(open(after(59)).unwrap(), nonce);
        assert!(matches!(open(after(60)), Err(Refusal::ChallengeSpent(60))));
        let none = still_open(None, given);
        assert!(matches!(none, Err(Refusal::ChallengeSpent(_))));

        let attested = |now| still_attested(Some(((), given)), now);
        assert!(attested(after(86_399)).is_ok());
        assert!(matches!(attested(after(86_400)), Err(Refusal::Stale)));
        let none = still_attested::<()>(None, given);
        assert!(matches!(none, Err(Refusal::NotAttested)));
    }
}
