//! OpenAI's API over attested sessions: every path but `/attest/*` and `/health` needs one (session.md), and policy decides
//! each request. User text never reaches a log, an error or an audit record from here.

mod access;
mod body;
mod error;
mod fields;
mod generate;
mod sse;
mod stop;
mod wire;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use casemate_attestation::{Revocations, Sha256Digest, UnixTime};
use futures_util::FutureExt;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, Request, Response};
use hyper::body::Incoming;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::json;
use tokio::sync::Semaphore;

pub use access::{Access, Caller};
pub use body::{Answer, CutOff};
pub use error::ApiError;
pub use sse::{Endpoint, Head, Usage};
pub use stop::StopWatch;
pub use wire::{
    ChatRequest, CompletionRequest, Message, Options, Role, parse_chat, parse_completion,
};

use crate::listener::{Handler, Peer};
use crate::policy::{Action, Granted, ModelRef, PolicyBundle, Principal};
use crate::queue::{Generator, Queue};
use crate::session::{
    Attestor, CHALLENGE_BYTES_MAX, CONFIRMATION_BYTES_MAX, Connection, Registry, SessionError, now,
    parse_challenge, parse_confirmation,
};
use crate::tls::Revoked;

/// Bounds of the API.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a request's body.
    pub body_bytes_max: usize,
    /// Seconds for a request's body to arrive.
    pub body_s_max: u64,
    /// Seconds that a stream's reader may stand still.
    pub reader_s_max: u64,
    /// Seconds of a session; a team's policy may say less.
    pub session_s_max: u64,
    /// Prompts encoded at once.
    pub encoders: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes_max: 4 * 1024 * 1024,
            body_s_max: 30,
            reader_s_max: 60,
            session_s_max: 3600,
            encoders: 2,
        }
    }
}

/// The parts of a running server.
pub struct Parts {
    /// Makes sessions.
    pub attestor: Attestor,
    /// Policy and budgets.
    pub access: Access,
    /// The served models.
    pub queue: Queue,
    /// Open connections.
    pub registry: Arc<Registry>,
    /// What was revoked; the handshake asks the same list.
    pub revoked: Arc<Revoked>,
    /// Bounds.
    pub limits: Limits,
}

/// Answers the requests of all connections.
pub struct Service {
    attestor: Attestor,
    access: Access,
    queue: Queue,
    registry: Arc<Registry>,
    revoked: Arc<Revoked>,
    limits: Limits,
    encoders: Semaphore,
    started: UnixTime,
}

impl Service {
    /// Joins the parts.
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts {
            attestor,
            access,
            queue,
            registry,
            revoked,
            limits,
        } = parts;
        let encoders = Semaphore::new(limits.encoders.max(1));
        let started = now();
        Arc::new(Self {
            attestor,
            access,
            queue,
            registry,
            revoked,
            limits,
            encoders,
            started,
        })
    }

    /// Puts a newer policy in force. Sessions bound to the one before must attest again.
    pub fn replace_policy(&self, bundle: PolicyBundle) {
        let digest = bundle.digest();
        self.access.replace(bundle);
        self.attestor.replace_policy_bundle(digest);
    }

    /// Puts a list of revocations in force and ends the connections that it names (S8). Returns how many.
    pub fn revoke(&self, list: &Revocations) -> usize {
        // First the list, then the sweep: a connection that opens in between meets the new list.
        self.revoked.replace(list);
        self.registry
            .end(|principal, leaf| self.names(principal, leaf))
    }

    /// Connections that are open now.
    pub fn open_connections(&self) -> usize {
        self.registry.open()
    }

    fn names(&self, principal: &str, leaf: &Sha256Digest) -> bool {
        self.revoked.names_leaf(leaf) || self.revoked.names_principal(principal)
    }

    /// The one model that `name` stands for, if policy has the name and this server the model.
    fn served(&self, name: &str) -> Result<(ModelRef, Arc<dyn Generator>), ApiError> {
        let unknown = || ApiError::ModelNotFound {
            model: name.chars().take(64).collect(),
        };
        let reference = self.access.bundle().model(name).ok_or_else(unknown)?;
        let model = self.queue.model(&reference.digest()).ok_or_else(unknown)?;
        Ok((reference, Arc::clone(model)))
    }

    fn decide(
        &self,
        caller: &Caller,
        action: Action,
        model: &ModelRef,
    ) -> Result<Granted, ApiError> {
        self.access.decide(caller, action, model, now())
    }

    fn fresh_id(&self) -> Result<String, ApiError> {
        let mut id = [0; 12];
        SystemRandom::new()
            .fill(&mut id)
            .map_err(|_| ApiError::Internal)?;
        Ok(hex::encode(id))
    }

    async fn answer(
        self: &Arc<Self>,
        connection: Arc<Connection>,
        request: Request<Incoming>,
    ) -> Result<Response<Answer>, ApiError> {
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        match path {
            "/health" => return method(&head.method, "GET").map(|()| self.health()),
            "/attest/challenge" => {
                method(&head.method, "POST")?;
                let body = body::read(body, CHALLENGE_BYTES_MAX, self.limits.body_s_max).await?;
                return self.challenge(&connection, &body).await;
            }
            "/attest/confirm" => {
                method(&head.method, "POST")?;
                let body = body::read(body, CONFIRMATION_BYTES_MAX, self.limits.body_s_max).await?;
                return self.confirm(&connection, &body);
            }
            _ => {}
        }
        let session = self.attestor.attested(&connection, now())?;
        let caller = Caller {
            connection,
            session,
        };
        match path {
            "/v1/models" => {
                method(&head.method, "GET")?;
                Ok(self.models(&caller))
            }
            "/v1/chat/completions" => {
                let body = self.read_json(&head.method, &head.headers, body).await?;
                generate::chat(self, caller, parse_chat(&body)?).await
            }
            "/v1/completions" => {
                let body = self.read_json(&head.method, &head.headers, body).await?;
                generate::complete(self, caller, parse_completion(&body)?).await
            }
            _ => {
                let name = path
                    .strip_prefix("/v1/models/")
                    .filter(|name| !name.is_empty());
                let name = name.ok_or(ApiError::PathUnknown)?;
                method(&head.method, "GET")?;
                self.model(&caller, name)
            }
        }
    }

    async fn read_json(
        &self,
        asked: &Method,
        headers: &HeaderMap,
        body: Incoming,
    ) -> Result<Bytes, ApiError> {
        method(asked, "POST")?;
        let kind = headers
            .get(CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok())
            .unwrap_or("");
        let kind = kind.split(';').next().unwrap_or("").trim();
        if !kind.eq_ignore_ascii_case("application/json") {
            return Err(ApiError::ContentType);
        }
        body::read(body, self.limits.body_bytes_max, self.limits.body_s_max).await
    }

    fn health(&self) -> Response<Answer> {
        let confidential = self.attestor.confidential();
        let notice = (!confidential).then_some("NOT CONFIDENTIAL: a test chip stands in");
        let document = json!({"status": "ok", "version": env!("CARGO_PKG_VERSION"),
            "platform": self.attestor.platform(), "confidential": confidential, "notice": notice});
        generate::json_answer(Bytes::from(document.to_string()))
    }

    async fn challenge(
        &self,
        connection: &Connection,
        body: &[u8],
    ) -> Result<Response<Answer>, ApiError> {
        let request = parse_challenge(body).map_err(SessionError::from)?;
        let envelope = self.attestor.challenge(connection, request.nonce).await?;
        Ok(generate::json_answer(Bytes::copy_from_slice(
            envelope.as_bytes(),
        )))
    }

    fn confirm(&self, connection: &Connection, body: &[u8]) -> Result<Response<Answer>, ApiError> {
        let confirmation = parse_confirmation(body).map_err(SessionError::from)?;
        let bundle = self.access.bundle();
        let team_s = bundle
            .team_of(connection.principal())
            .map(|(_, team)| team.session_seconds);
        let life_s = self
            .limits
            .session_s_max
            .min(team_s.map_or(u64::MAX, u64::from));
        let confirmed = self
            .attestor
            .confirm(connection, &confirmation, life_s, now())?;
        let document = serde_json::to_vec(&confirmed).map_err(|_| ApiError::Internal)?;
        Ok(generate::json_answer(Bytes::from(document)))
    }

    fn models(&self, caller: &Caller) -> Response<Answer> {
        let bundle = self.access.bundle();
        let served = bundle
            .models()
            .filter(|model| self.queue.model(&model.digest()).is_some());
        let allowed = served.filter(|model| self.decide(caller, Action::List, model).is_ok());
        let data: Vec<_> = allowed.map(|model| self.describe(&model)).collect();
        let document = json!({"object": "list", "data": data});
        generate::json_answer(Bytes::from(document.to_string()))
    }

    fn model(&self, caller: &Caller, name: &str) -> Result<Response<Answer>, ApiError> {
        let (reference, _) = self.served(name)?;
        self.decide(caller, Action::List, &reference)?;
        let document = self.describe(&reference);
        Ok(generate::json_answer(Bytes::from(document.to_string())))
    }

    fn describe(&self, model: &ModelRef) -> serde_json::Value {
        json!({"id": model.name(), "object": "model", "created": self.started.secs(),
            "owned_by": "casemate", "digest": model.digest()})
    }
}

impl Handler for Service {
    type Connection = Connection;
    type Body = Answer;

    fn open(&self, peer: Peer) -> Option<Connection> {
        let principal = Principal::from_certificate(&peer.leaf)
            .inspect_err(|error| tracing::info!(%error, "connection refused"))
            .ok()?;
        let leaf = Sha256Digest::of(&peer.leaf);
        let line = Arc::clone(&peer.line);
        let Some(registration) = self.registry.enter(principal.as_str(), leaf, line) else {
            tracing::info!(%principal, "connection refused: too many of this principal");
            return None;
        };
        if self.names(principal.as_str(), &leaf) {
            tracing::info!(%principal, "connection refused: revoked");
            return None;
        }
        Connection::new(peer, principal, registration)
            .inspect_err(|error| tracing::info!(%error, "connection refused"))
            .ok()
    }

    async fn handle(
        self: Arc<Self>,
        connection: Arc<Connection>,
        request: Request<Incoming>,
    ) -> Response<Answer> {
        let answered = AssertUnwindSafe(self.answer(connection, request))
            .catch_unwind()
            .await;
        match answered {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => error.into_answer(),
            Err(_) => {
                tracing::error!("a request panicked; the others go on");
                ApiError::Internal.into_answer()
            }
        }
    }
}

fn method(asked: &Method, allow: &'static str) -> Result<(), ApiError> {
    if asked.as_str() == allow {
        Ok(())
    } else {
        Err(ApiError::Method { allow })
    }
}
