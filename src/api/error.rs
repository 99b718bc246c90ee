//! The one table of what a peer may read when something is refused. OpenAI's shape, all four keys always; no prompt, no key,
//! no detail of this machine ever enters a message.

use bytes::Bytes;
use casemate_models::grammar::GrammarError;
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;

use super::body::Answer;
use crate::session::SessionError;

/// A refused request.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// The body is not JSON.
    #[error("the body is not valid JSON (line {line}, column {column})")]
    MalformedJson {
        /// Line of the first error, from 1.
        line: usize,
        /// Column of the first error, from 1.
        column: usize,
    },
    /// The body is JSON, but not one object with each key once.
    #[error("the body must be one JSON object in which every key stands once")]
    NotOneObject,
    /// The body nests too deep.
    #[error("the body nests deeper than {limit} levels")]
    TooDeep {
        /// Levels allowed.
        limit: usize,
    },
    /// The body has another content type.
    #[error("send the body as application/json")]
    ContentType,
    /// The body is too large.
    #[error("the body has more than {limit} bytes")]
    TooLarge {
        /// Bytes allowed.
        limit: usize,
    },
    /// The body came too slowly.
    #[error("the body did not arrive within {limit_s} seconds")]
    TooSlow {
        /// Seconds allowed.
        limit_s: u64,
    },
    /// The body ended early.
    #[error("the body ended before it was complete")]
    Incomplete,
    /// A parameter is missing.
    #[error("the parameter '{param}' is required")]
    Missing {
        /// Its name.
        param: String,
    },
    /// A parameter has a value that it cannot have.
    #[error("the parameter '{param}' must be {expected}")]
    Invalid {
        /// Its name.
        param: String,
        /// What it must be.
        expected: String,
    },
    /// A parameter that would mislead if it were ignored.
    #[error("the parameter '{param}' is not supported here{hint}")]
    Unsupported {
        /// Its name.
        param: String,
        /// What to do instead, with a leading separator, or nothing.
        hint: &'static str,
    },
    /// The prompt and the wished answer do not fit.
    #[error(
        "this model's context is {context} tokens; the prompt has {prompt} and the answer asks for {answer}; \
         shorten the prompt or lower max_tokens"
    )]
    ContextLength {
        /// Tokens that the model takes.
        context: usize,
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens asked for.
        answer: usize,
        /// The parameter that holds the prompt.
        param: &'static str,
    },
    /// No such model, or none that this principal may see.
    #[error("the model '{model}' does not exist or you have no access to it")]
    ModelNotFound {
        /// As asked for.
        model: String,
    },
    /// No such path.
    #[error("there is nothing at this path")]
    PathUnknown,
    /// The path takes another method.
    #[error("this path takes {allow} only")]
    Method {
        /// The method it takes.
        allow: &'static str,
    },
    /// Policy says no.
    #[error("policy denies this: {reason}")]
    Denied {
        /// The rule or limit.
        reason: String,
        /// The parameter that asked for it, where it was not the request as a whole.
        param: Option<&'static str>,
    },
    /// A limit of the principal or team is reached.
    #[error("a limit is reached: {reason}")]
    LimitReached {
        /// Which one.
        reason: String,
        /// Seconds after which to try again.
        retry_s: u64,
    },
    /// The queue is full.
    #[error("the server is busy; try again shortly")]
    Busy,
    /// The server is going down.
    #[error("the server is stopping")]
    Stopping,
    /// The session is missing, stale or refused.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The reader of a stream fell behind for too long.
    #[error("the stream was not read for {limit_s} seconds")]
    ReaderTooSlow {
        /// Seconds allowed.
        limit_s: u64,
    },
    /// The answer took longer than an answer may.
    #[error("the answer took more than {limit_s} seconds; ask for fewer tokens")]
    AnswerTooSlow {
        /// Seconds allowed.
        limit_s: u64,
    },
    /// The schema of the answer cannot be served.
    #[error("response_format cannot be served: {reason}")]
    Schema {
        /// What is wrong, without a word of the schema but names of keywords.
        reason: GrammarError,
    },
    /// The answer's schema leads to a place from where nothing may follow, or only after too much work.
    #[error(
        "the answer could not be completed under its response_format: at one token nothing was allowed, or it took too \
         much work; make the schema smaller or looser"
    )]
    AnswerStuck,
    /// A step of the guard withholds an option. The reason is the officer's to know.
    #[error(
        "the parameter '{param}' is withheld from you for now; your organisation's officer knows why: reference {reference}"
    )]
    GuardWithheld {
        /// Its name.
        param: &'static str,
        /// Names the step.
        reference: String,
    },
    /// A step of the guard leaves a smaller window.
    #[error(
        "prompt and answer may have {window} tokens together for you for now; your organisation's officer knows why: reference {reference}"
    )]
    GuardWindow {
        /// Tokens.
        window: usize,
        /// The parameter that holds the prompt.
        param: &'static str,
        /// Names the step.
        reference: String,
    },
    /// A step of the guard asks for evidence of the client's machine.
    #[error(
        "attest again with evidence of your own machine; your organisation's officer knows why: reference {reference}"
    )]
    GuardStepUp {
        /// Names the step.
        reference: String,
    },
    /// A step of the guard gives nothing.
    #[error("closed for you; your organisation's officer knows why: reference {reference}")]
    GuardClosed {
        /// Names the step.
        reference: String,
    },
    /// What may be given of the model was given.
    #[error(
        "{whose} has been given what it may of this model; the organisation's policy says how much that is"
    )]
    GuardSpent {
        /// Whose budget.
        whose: &'static str,
    },
    /// What is given could not be written down.
    #[error("the server cannot write down what it gives; its operator must see to the disk")]
    GuardUnwritten,
    /// Nobody knows any more what was revoked: the server's list is out of date.
    #[error("the server's list of revocations has expired; its operator must renew it")]
    RevocationsExpired,
    /// Something inside failed; details are in the server's log.
    #[error("the server failed; its log has the details")]
    Internal,
}

/// One row of the table.
struct Row {
    status: StatusCode,
    kind: &'static str,
    code: &'static str,
}

/// What the official clients look at before they ask again.
const SHOULD_RETRY: &str = "x-should-retry";

const INVALID: &str = "invalid_request_error";
const PERMISSION: &str = "permission_error";
const LIMIT: &str = "rate_limit_error";
const SERVER: &str = "server_error";

impl ApiError {
    fn row(&self) -> Row {
        let (status, kind, code) = match self {
            Self::MalformedJson { .. } => (400, INVALID, "malformed_json"),
            Self::NotOneObject => (400, INVALID, "malformed_json"),
            Self::TooDeep { .. } => (400, INVALID, "json_too_deep"),
            Self::ContentType => (415, INVALID, "unsupported_media_type"),
            Self::TooLarge { .. } => (413, INVALID, "body_too_large"),
            Self::TooSlow { .. } => (408, INVALID, "body_too_slow"),
            Self::Incomplete => (400, INVALID, "body_incomplete"),
            Self::Missing { .. } => (400, INVALID, "missing_required_parameter"),
            Self::Invalid { .. } => (400, INVALID, "invalid_value"),
            Self::Unsupported { .. } => (400, INVALID, "unsupported_parameter"),
            Self::ContextLength { .. } => (400, INVALID, "context_length_exceeded"),
            Self::ModelNotFound { .. } => (404, INVALID, "model_not_found"),
            Self::PathUnknown => (404, INVALID, "not_found"),
            Self::Method { .. } => (405, INVALID, "method_not_allowed"),
            Self::Denied { .. } => (403, PERMISSION, "policy_denied"),
            Self::LimitReached { .. } => (429, LIMIT, "limit_reached"),
            Self::Busy => (503, SERVER, "server_busy"),
            Self::Stopping => (503, SERVER, "server_stopping"),
            Self::Session(error) => session_row(error),
            Self::ReaderTooSlow { .. } => (408, INVALID, "reader_too_slow"),
            Self::AnswerTooSlow { .. } => (504, SERVER, "answer_too_slow"),
            Self::Schema {
                reason: GrammarError::Busy,
            } => (503, SERVER, "server_busy"),
            Self::Schema { .. } => (400, INVALID, "invalid_schema"),
            Self::AnswerStuck => (400, INVALID, "answer_stuck"),
            Self::RevocationsExpired => (503, SERVER, "revocations_expired"),
            Self::GuardWithheld { .. } => (403, PERMISSION, "guard_withheld"),
            Self::GuardWindow { .. } => (403, PERMISSION, "guard_window"),
            Self::GuardStepUp { .. } => (403, PERMISSION, "guard_step_up"),
            Self::GuardClosed { .. } => (403, PERMISSION, "guard_closed"),
            Self::GuardSpent { .. } => (429, LIMIT, "guard_budget_spent"),
            Self::GuardUnwritten => (503, SERVER, "guard_unwritten"),
            Self::Internal => (500, SERVER, "internal_error"),
        };
        Row {
            status: StatusCode::from_u16(status).unwrap_or_default(),
            kind,
            code,
        }
    }

    /// The machine-readable code.
    pub fn code(&self) -> &'static str {
        self.row().code
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.row().status
    }

    /// Policy's no, with the parameter that asked for what it denies.
    pub fn about(self, param: &'static str) -> Self {
        match self {
            Self::Denied { reason, .. } => Self::Denied {
                reason,
                param: Some(param),
            },
            other => other,
        }
    }

    fn param(&self) -> Option<&str> {
        match self {
            Self::Missing { param }
            | Self::Invalid { param, .. }
            | Self::Unsupported { param, .. } => Some(param),
            Self::ContextLength { param, .. } => Some(param),
            Self::Denied { param, .. } => *param,
            Self::GuardWithheld { param, .. } | Self::GuardWindow { param, .. } => Some(param),
            Self::Schema { .. } | Self::AnswerStuck => Some("response_format"),
            Self::ModelNotFound { .. } => Some("model"),
            _ => None,
        }
    }

    fn retry_s(&self) -> Option<u64> {
        match self {
            Self::LimitReached { retry_s, .. } => Some(*retry_s),
            Self::Busy
            | Self::Stopping
            | Self::Schema {
                reason: GrammarError::Busy,
            }
            | Self::Session(SessionError::EvidenceBusy) => Some(1),
            _ => None,
        }
    }

    /// What asking again does not change: clients that would are told not to.
    const fn is_final(&self) -> bool {
        matches!(
            self,
            Self::GuardWithheld { .. }
                | Self::GuardWindow { .. }
                | Self::GuardStepUp { .. }
                | Self::GuardClosed { .. }
                | Self::GuardSpent { .. }
        )
    }

    /// The error as JSON.
    pub fn to_json(&self) -> Bytes {
        self.to_json_with(&self.to_string())
    }

    /// The error as JSON of at most `bytes_max` bytes, in other words where its own are too long.
    pub(super) fn to_json_within(&self, bytes_max: usize) -> Bytes {
        let document = self.to_json();
        if document.len() <= bytes_max {
            return document;
        }
        self.to_json_with("refused; the reason is too long to be told in an answer of this length")
    }

    fn to_json_with(&self, message: &str) -> Bytes {
        let row = self.row();
        let error = Inner {
            message,
            kind: row.kind,
            param: self.param(),
            code: row.code,
        };
        serde_json::to_vec(&Document { error })
            .map(Bytes::from)
            .unwrap_or_default()
    }

    /// The error as an answer.
    pub fn into_answer(self) -> Response<Answer> {
        let mut answer = Response::new(Answer::whole(self.to_json()));
        *answer.status_mut() = self.status();
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_s() {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.is_final() {
            headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        if let Self::Method { allow } = self {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        answer
    }
}

fn session_row(error: &SessionError) -> (u16, &'static str, &'static str) {
    match error {
        SessionError::Malformed(_) => (400, INVALID, "malformed"),
        SessionError::NonceReused => (409, INVALID, "nonce_reused"),
        SessionError::ChallengesSpent { .. } => (429, LIMIT, "challenges_spent"),
        SessionError::ChallengeUnderWay => (429, LIMIT, "challenge_under_way"),
        SessionError::NoChallenge => (409, INVALID, "no_challenge"),
        SessionError::BindingMismatch => (403, PERMISSION, "binding_mismatch"),
        SessionError::EvidenceMismatch => (403, PERMISSION, "evidence_mismatch"),
        SessionError::SignatureInvalid => (403, PERMISSION, "signature_invalid"),
        SessionError::KeyUnsupported => (403, PERMISSION, "key_unsupported"),
        SessionError::ClientEvidenceRequired => (403, PERMISSION, "client_evidence_required"),
        SessionError::ClientEvidenceRejected { .. } => {
            (403, PERMISSION, "client_evidence_rejected")
        }
        SessionError::AttestationRequired => (403, PERMISSION, "attestation_required"),
        SessionError::AttestationStale => (421, PERMISSION, "attestation_stale"),
        SessionError::EvidenceBusy => (503, SERVER, "evidence_busy"),
        SessionError::EvidenceUnavailable => (503, SERVER, "evidence_unavailable"),
        SessionError::ConnectionGone => (500, SERVER, "connection_gone"),
    }
}

#[derive(Serialize)]
struct Document<'a> {
    error: Inner<'a>,
}

#[derive(Serialize)]
struct Inner<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    param: Option<&'a str>,
    code: &'a str,
}
