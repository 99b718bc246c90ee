//! What a local program reads when its request was not forwarded: OpenAI's error object with all four keys.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use super::forward::{ProxyBody, whole_body};
use crate::error::ConnectError;

/// A request that this proxy answers itself.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// DNS rebinding: the caller thinks that this is some other host.
    #[error(
        "this endpoint answers to loopback names only; use http://127.0.0.1 or http://localhost"
    )]
    ForeignHost,
    /// A web page of another origin.
    #[error("pages of other origins may not use this endpoint")]
    CrossOrigin,
    /// Not part of the API.
    #[error("there is nothing at this path; the API is below /v1/")]
    UnknownPath,
    /// A method that the API never uses.
    #[error("this method is not supported")]
    Method,
    /// Longer than the configuration permits.
    #[error(
        "request body is longer than {0} bytes; raise body_bytes_max in connect.toml if the server takes more"
    )]
    BodyTooLong(u64),
    /// The caller's own body broke.
    #[error("request body could not be read")]
    BodyBroken,
    /// The server's side.
    #[error("{0}")]
    Server(String, StatusCode, &'static str),
}

impl Refusal {
    /// One table: status, type and code.
    fn parts(&self) -> (StatusCode, &'static str, &'static str) {
        const CALLER: &str = "invalid_request_error";
        match self {
            Self::ForeignHost => (StatusCode::FORBIDDEN, CALLER, "host_not_loopback"),
            Self::CrossOrigin => (StatusCode::FORBIDDEN, CALLER, "cross_origin_denied"),
            Self::UnknownPath => (StatusCode::NOT_FOUND, CALLER, "unknown_path"),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, CALLER, "method_not_allowed"),
            Self::BodyTooLong(_) => (StatusCode::PAYLOAD_TOO_LARGE, CALLER, "body_too_long"),
            Self::BodyBroken => (StatusCode::BAD_REQUEST, CALLER, "body_unreadable"),
            Self::Server(_, status, code) => (*status, "api_error", code),
        }
    }

    /// The answer as it goes to the caller.
    pub(super) fn response(&self) -> Response<ProxyBody> {
        #[derive(Serialize)]
        struct Outer {
            error: Inner,
        }
        #[derive(Serialize)]
        struct Inner {
            message: String,
            r#type: &'static str,
            param: Option<&'static str>,
            code: &'static str,
        }
        let (status, r#type, code) = self.parts();
        let error = Inner {
            message: self.to_string(),
            r#type,
            param: None,
            code,
        };
        // Three texts and a null cannot fail to be written.
        let body = serde_json::to_vec(&Outer { error }).unwrap_or_default();
        let mut response = Response::new(whole_body(Bytes::from(body)));
        *response.status_mut() = status;
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        response
    }

    /// The session is over on the server's side; official clients try again by themselves on 503.
    pub(super) fn stale() -> Self {
        let text = ConnectError::Stale.to_string();
        Self::Server(text, StatusCode::SERVICE_UNAVAILABLE, "attestation_stale")
    }
}

impl From<&ConnectError> for Refusal {
    fn from(error: &ConnectError) -> Self {
        use ConnectError as E;
        let bad = StatusCode::BAD_GATEWAY;
        let (status, code) = match error {
            E::Unreachable { .. } => (bad, "server_unreachable"),
            E::Lost(_) => (bad, "connection_lost"),
            E::TimedOut { .. } => (StatusCode::GATEWAY_TIMEOUT, "server_timeout"),
            E::Stale | E::DeadOnArrival { .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, "attestation_stale")
            }
            E::ClientCertificate(_) | E::Identity(_) => (bad, "client_certificate_refused"),
            E::ServerCertificate(_) | E::ServerLeaf(_) | E::Tls(_) => {
                (bad, "server_certificate_refused")
            }
            E::Declined { .. } => (bad, "attestation_declined"),
            E::OwnEvidence(_) | E::Random => (bad, "client_evidence_failed"),
            _ => (bad, "attestation_failed"),
        };
        Self::Server(error.to_string(), status, code)
    }
}
