//! OpenAI's API over attested sessions: every path but `/attest/*` and `/health` needs one (session.md), and policy decides
//! each request. User text never reaches a log, an error or an audit record from here.

mod access;
mod answering;
mod body;
mod cells;
mod error;
mod fields;
mod generate;
mod guarding;
mod logprobs;
mod outgoing;
mod oversight;
mod pace;
mod record;
mod response_format;
mod sampling;
mod sse;
mod wire;
mod words;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use casemate_attestation::{Revocations, Sha256Digest, UnixTime, Verified};
use futures_util::FutureExt;
use http::header::CONTENT_TYPE;
use http::request::Parts as RequestParts;
use http::{HeaderMap, Method, Request, Response};
use hyper::body::Incoming;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::json;
use tokio::sync::Semaphore;

pub use access::{Access, Caller, Machine};
pub use body::{Answer, CutOff, Piece};
pub use error::ApiError;
pub use oversight::{DiscloseRequest, ExplainRequest, ReleaseRequest};
pub use record::Attended;
pub use sse::{Endpoint, Head, Usage};
pub use wire::{
    ChatRequest, CompletionRequest, Message, Options, Role, parse_chat, parse_completion,
};

use answering::json_answer;

use crate::audit::AuditLog;
use crate::guard::Outlet;
use crate::guard::mark::MarkRoot;
use crate::listener::{Handler, Peer};
use crate::policy::{Action, Denied, Granted, ModelRef, PolicyBundle, Principal};
use crate::queue::{Generator, Queue};
use crate::sentry::Sentry;
use crate::session::{
    Attestor, CHALLENGE_BYTES_MAX, CONFIRMATION_BYTES_MAX, Connection, Registry, SessionError, now,
    parse_challenge, parse_confirmation,
};
use crate::tls::Revoked;

/// How long system prompts are kept that nobody sends any more: as long as beginnings of prompts are by default.
const SECRET_IDLE_MAX: Duration = Duration::from_secs(300);

/// Bounds of the API.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a request's body.
    pub body_bytes_max: usize,
    /// Seconds for a request's body to arrive.
    pub body_s_max: u64,
    /// Tokens of a prompt; a model's own context may be shorter.
    pub prompt_tokens_max: usize,
    /// Seconds of a whole answer.
    pub answer_s_max: u64,
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
            prompt_tokens_max: 131_072,
            answer_s_max: 600,
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
    /// The guard on the way out.
    pub outlet: Outlet,
    /// The served models.
    pub queue: Queue,
    /// The extraction guard.
    pub sentry: Sentry,
    /// Open connections.
    pub registry: Arc<Registry>,
    /// What was revoked; the handshake asks the same list.
    pub revoked: Arc<Revoked>,
    /// Where decisions, sessions and refusals are recorded.
    pub audit: AuditLog,
    /// Bounds.
    pub limits: Limits,
}

/// Answers the requests of all connections.
pub struct Service {
    attestor: Attestor,
    access: Access,
    outlet: Outlet,
    queue: Queue,
    sentry: Sentry,
    registry: Arc<Registry>,
    revoked: Arc<Revoked>,
    revocations_expire: AtomicU64,
    audit: AuditLog,
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
            outlet,
            queue,
            sentry,
            registry,
            revoked,
            audit,
            limits,
        } = parts;
        let encoders = Semaphore::new(limits.encoders.max(1));
        let started = now();
        Arc::new(Self {
            attestor,
            access,
            outlet,
            queue,
            sentry,
            registry,
            revoked,
            revocations_expire: AtomicU64::new(0),
            audit,
            limits,
            encoders,
            started,
        })
    }

    /// Puts a newer policy in force. Sessions bound to the one before must attest again.
    pub fn replace_policy(&self, bundle: PolicyBundle) {
        let digest = bundle.digest();
        self.sentry.follow(bundle.document().guard());
        self.access.replace(bundle);
        self.attestor.replace_policy_bundle(digest);
    }

    /// Puts the keys of another epoch's marks in force.
    pub fn replace_marks(&self, root: MarkRoot) {
        self.outlet.replace(root);
    }

    /// Forgets system prompts that nobody has sent for a while.
    pub fn forget_idle(&self) {
        if let Some(then) = Instant::now().checked_sub(SECRET_IDLE_MAX) {
            self.outlet.secrets().forget(then);
        }
    }

    /// Puts a signed list of revocations in force and ends the connections that it names (S8). Returns how many. Before the
    /// first list, and after the expiry of the last, nobody is served.
    pub fn revoke(&self, list: &Verified<Revocations>) -> usize {
        // First the list, then the sweep: a connection that opens in between meets the new list.
        self.revoked.replace(list.payload());
        let expires = list.expires().secs();
        self.revocations_expire.store(expires, Ordering::SeqCst);
        self.registry
            .end("revoked", |principal, leaf| self.names(principal, leaf))
    }

    /// Ends every connection now; `reason` is a word for the audit log.
    pub fn end_all(&self, reason: &'static str) -> usize {
        self.registry.end(reason, |_, _| true)
    }

    /// Connections that are open now.
    pub fn open_connections(&self) -> usize {
        self.registry.open()
    }

    /// The extraction guard.
    pub const fn sentry(&self) -> &Sentry {
        &self.sentry
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

    /// Decides, and records the decision before anybody acts on it.
    async fn decide(
        &self,
        caller: &Caller,
        action: Action,
        model: &ModelRef,
    ) -> Result<Granted, ApiError> {
        let now = now();
        if now.secs() >= self.revocations_expire.load(Ordering::SeqCst) {
            return Err(ApiError::RevocationsExpired);
        }
        let (bundle, outcome) = self.access.decide(caller, action, model, now);
        self.record_decision(caller, &bundle, action, model, &outcome)
            .await?;
        outcome.map_err(|denied| match denied {
            Denied::SessionTooOld { .. } => SessionError::AttestationStale.into(),
            denied => ApiError::Denied {
                reason: denied.to_string(),
                param: None,
            },
        })
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
                return self.confirm(&connection, &body).await;
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
                self.models(&caller).await
            }
            "/v1/chat/completions" => self.paced(caller, &head, body, Endpoint::Chat).await,
            "/v1/completions" => self.paced(caller, &head, body, Endpoint::Completion).await,
            "/guard/status" => {
                method(&head.method, "GET")?;
                self.guard_status(&caller).await
            }
            "/guard/days" => {
                method(&head.method, "GET")?;
                self.guard_days(&caller).await
            }
            "/guard/explain" | "/guard/release" | "/guard/disclose" => {
                method(&head.method, "POST")?;
                let limits = (oversight::QUESTION_BYTES_MAX, self.limits.body_s_max);
                let question = body::read(body, limits.0, limits.1).await?;
                match path {
                    "/guard/explain" => self.guard_explain(&caller, &question).await,
                    "/guard/disclose" => self.guard_disclose(&caller, &question).await,
                    _ => self.guard_release(&caller, &question).await,
                }
            }
            _ => {
                let name = path
                    .strip_prefix("/v1/models/")
                    .filter(|name| !name.is_empty());
                let name = name.ok_or(ApiError::PathUnknown)?;
                method(&head.method, "GET")?;
                self.model(&caller, name).await
            }
        }
    }

    /// Answers a generating request, at the pace of its caller's team.
    async fn paced(
        self: &Arc<Self>,
        caller: Caller,
        head: &RequestParts,
        body: Incoming,
        endpoint: Endpoint,
    ) -> Result<Response<Answer>, ApiError> {
        let pace = self.pace(&caller.connection);
        let connection = Arc::clone(&caller.connection);
        let work = async {
            let body = self.read_json(&head.method, &head.headers, body).await?;
            if let Some(pace) = &pace {
                pace.look_at(&body);
            }
            match endpoint {
                Endpoint::Chat => {
                    generate::chat(self, caller, parse_chat(&body)?, pace.as_ref()).await
                }
                Endpoint::Completion => {
                    generate::complete(self, caller, parse_completion(&body)?, pace.as_ref()).await
                }
            }
        };
        match (work.await, &pace) {
            (Err(error), Some(pace)) => {
                self.record_refusal(&connection, &error);
                Ok(pace.refusal(error).await)
            }
            (answered, _) => answered,
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
        let caveat = self.attestor.platform().caveat();
        let notice = caveat.map(|caveat| format!("NOT CONFIDENTIAL: {caveat}"));
        let document = json!({"status": "ok", "version": env!("CARGO_PKG_VERSION"),
            "platform": self.attestor.platform(), "confidential": confidential, "notice": notice});
        json_answer(Bytes::from(document.to_string()))
    }

    async fn challenge(
        &self,
        connection: &Connection,
        body: &[u8],
    ) -> Result<Response<Answer>, ApiError> {
        let request = parse_challenge(body).map_err(SessionError::from)?;
        let envelope = self.attestor.challenge(connection, request.nonce).await?;
        Ok(json_answer(Bytes::copy_from_slice(envelope.as_bytes())))
    }

    async fn confirm(
        &self,
        connection: &Connection,
        body: &[u8],
    ) -> Result<Response<Answer>, ApiError> {
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
        self.record_session(connection, &confirmation, &confirmed)
            .await?;
        let document = serde_json::to_vec(&confirmed).map_err(|_| ApiError::Internal)?;
        Ok(json_answer(Bytes::from(document)))
    }

    async fn models(&self, caller: &Caller) -> Result<Response<Answer>, ApiError> {
        let bundle = self.access.bundle();
        let mut data = Vec::new();
        for model in bundle.models() {
            if self.queue.model(&model.digest()).is_none() {
                continue;
            }
            match self.decide(caller, Action::List, &model).await {
                Ok(_) => data.push(self.describe(&model)),
                Err(ApiError::Denied { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let document = json!({"object": "list", "data": data});
        Ok(json_answer(Bytes::from(document.to_string())))
    }

    async fn model(&self, caller: &Caller, name: &str) -> Result<Response<Answer>, ApiError> {
        let (reference, _) = self.served(name)?;
        self.decide(caller, Action::List, &reference).await?;
        let document = self.describe(&reference);
        Ok(json_answer(Bytes::from(document.to_string())))
    }

    fn describe(&self, model: &ModelRef) -> serde_json::Value {
        json!({"id": model.name(), "object": "model", "created": self.started.secs(),
            "owned_by": "casemate", "digest": model.digest()})
    }
}

impl Handler for Service {
    type Connection = Attended;
    type Body = Answer;

    fn open(&self, peer: Peer) -> Option<Attended> {
        let leaf = Sha256Digest::of(&peer.leaf);
        let principal = Principal::from_certificate(&peer.leaf)
            .map_err(|_| self.turned_away(None, leaf, "no_principal"))
            .ok()?;
        let line = Arc::clone(&peer.line);
        let refused = |reason| self.turned_away(Some(&principal), leaf, reason);
        let Some(registration) = self.registry.enter(principal.as_str(), leaf, line) else {
            refused("too_many_connections");
            return None;
        };
        if self.names(principal.as_str(), &leaf) {
            refused("revoked");
            return None;
        }
        let connection = Connection::new(peer, principal.clone(), registration)
            .map_err(|_| refused("key_unsupported"))
            .ok()?;
        Some(Attended::new(connection, self.audit.clone()))
    }

    fn refused(&self, reason: &'static str) {
        self.record_handshake(reason);
    }

    async fn handle(
        self: Arc<Self>,
        attended: Arc<Attended>,
        request: Request<Incoming>,
    ) -> Response<Answer> {
        let connection = attended.connection();
        let answered = AssertUnwindSafe(self.answer(Arc::clone(connection), request))
            .catch_unwind()
            .await
            .unwrap_or_else(|_| {
                tracing::error!("a request panicked; the others go on");
                Err(ApiError::Internal)
            });
        answered.unwrap_or_else(|error| {
            self.record_refusal(connection, &error);
            error.into_answer()
        })
    }
}

fn method(asked: &Method, allow: &'static str) -> Result<(), ApiError> {
    if asked.as_str() == allow {
        Ok(())
    } else {
        Err(ApiError::Method { allow })
    }
}
