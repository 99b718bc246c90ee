//! Why no prompt may leave: every way in which reaching, checking or keeping an attested server fails.

use std::io;

use casemate_attestation::{EnvelopeError, Rejection, Sha256Digest, UnixTime};

use crate::exit::ExitCode;
use crate::identity::IdentityError;
use crate::tls::LeafError;
use crate::trust::TrustError;

/// A connection, an attestation or a request failed. Messages name the check; they never hold what was sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No TCP connection.
    #[error("cannot reach {server}: {source}")]
    Unreachable {
        /// Host and port.
        server: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The peer is silent.
    #[error("{what} took longer than {limit_s} s")]
    TimedOut {
        /// The step.
        what: &'static str,
        /// Its limit, seconds.
        limit_s: u64,
    },
    /// The client's own certificate or key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Roots, reference values or fleet list.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// Rule P-12: not the enclave CA's, another name, or out of date.
    #[error("server certificate refused: {0}")]
    ServerCertificate(rustls::CertificateError),
    /// Rule P-12: lives too long, or its life cannot be read.
    #[error("server certificate refused: {0}")]
    ServerLeaf(LeafError),
    /// Rule P-13: the server will not have this client's certificate.
    #[error("server refused this client's certificate: {0}")]
    ClientCertificate(&'static str),
    /// Rules P-10 and P-11, or a broken peer.
    #[error("TLS handshake failed: {0}")]
    Tls(rustls::Error),
    /// The connection ended, or HTTP over it broke.
    #[error("connection to the server was lost: {0}")]
    Lost(String),
    /// The server declined a step of the attestation.
    #[error("server answered {path} with {status} {code}: {message}")]
    Declined {
        /// Which step.
        path: &'static str,
        /// HTTP status.
        status: u16,
        /// The API's error code, or `none`.
        code: String,
        /// The API's message, shortened to printable characters.
        message: String,
    },
    /// Rules P-1, P-2: a body that is not what the protocol says.
    #[error("server's answer to {path} is malformed: {what}")]
    MalformedAnswer {
        /// Which step.
        path: &'static str,
        /// The rule it broke.
        what: String,
    },
    /// Rule P-30.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// The verifier said no.
    #[error("evidence rejected ({rule}): {0}", rule = .0.rule())]
    Rejected(#[from] Rejection),
    /// Attack A3: evidence of a chip of the fleet on which this name does not run.
    #[error("evidence rejected (identity): chip {label:?} of the fleet does not serve {name}")]
    WrongNode {
        /// The chip's label in the fleet list.
        label: String,
        /// The name that was connected to.
        name: String,
    },
    /// Attack A3: another policy bundle than the pinned one.
    #[error(
        "evidence rejected (policy): policy bundle {found} is in force, connect.toml expects {expected}"
    )]
    WrongPolicy {
        /// What the evidence binds.
        found: Sha256Digest,
        /// What the configuration pins.
        expected: Sha256Digest,
    },
    /// Attack A3: a pinned model is not served.
    #[error("evidence rejected (models): pinned model {0} is not served")]
    ModelMissing(Sha256Digest),
    /// Attack A3: a served model is not pinned.
    #[error("evidence rejected (models): served model {0} is not among those in connect.toml")]
    ModelUnexpected(Sha256Digest),
    /// Rule P-42: the server contradicts the evidence.
    #[error("server says confidential, its evidence does not")]
    ConfidentialClaim,
    /// The deadline that the server gave has passed already.
    #[error("session would end at {deadline}, now is {now}; check both clocks")]
    DeadOnArrival {
        /// The server's deadline.
        deadline: UnixTime,
        /// This machine's time.
        now: UnixTime,
    },
    /// Attack A9: the evidence is too old for another request.
    #[error("the session's deadline has passed; attest again")]
    Stale,
    /// The client's evidence could not be made.
    #[error("own evidence: {0}")]
    OwnEvidence(String),
    /// The system has no randomness.
    #[error("random source failed")]
    Random,
}

impl ConnectError {
    /// The process's exit status for it (DESIGN section 10).
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Identity(IdentityError::Expired { .. }) => ExitCode::Expired,
            Self::Identity(IdentityError::Sign) => ExitCode::Unexpected,
            Self::Identity(_) => ExitCode::Configuration,
            Self::Trust(error) => error.exit_code(),
            Self::ServerCertificate(error) if is_out_of_date(error) => ExitCode::Expired,
            Self::ServerCertificate(_)
            | Self::ServerLeaf(_)
            | Self::Tls(_)
            | Self::Rejected(_)
            | Self::WrongNode { .. }
            | Self::WrongPolicy { .. }
            | Self::ModelMissing(_)
            | Self::ModelUnexpected(_)
            | Self::ConfidentialClaim => ExitCode::Rejected,
            Self::ClientCertificate(_) | Self::DeadOnArrival { .. } | Self::Stale => {
                ExitCode::Expired
            }
            Self::Declined { status: 403, .. } => ExitCode::Denied,
            Self::MalformedAnswer { .. } | Self::Envelope(_) => ExitCode::Malformed,
            Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Lost(_)
            | Self::Declined { .. }
            | Self::OwnEvidence(_)
            | Self::Random => ExitCode::Unexpected,
        }
    }

    /// Whether the server itself was found wanting, so that nothing it holds may be used any longer.
    #[must_use]
    pub fn is_rejection(&self) -> bool {
        matches!(self.exit_code(), ExitCode::Rejected | ExitCode::Malformed)
            || matches!(self, Self::Trust(_) | Self::ServerCertificate(_))
    }

    /// What went wrong in a handshake or on an established TLS connection.
    pub(crate) fn from_io(error: &io::Error) -> Self {
        match error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        {
            Some(error) => Self::from_tls(error.clone()),
            None => Self::Lost(error.to_string()),
        }
    }

    /// What went wrong in TLS.
    pub(crate) fn from_tls(error: rustls::Error) -> Self {
        use rustls::{CertificateError, Error as Tls};
        match error {
            Tls::InvalidCertificate(CertificateError::Other(other)) => {
                match other.0.downcast_ref::<LeafError>() {
                    Some(leaf) => Self::ServerLeaf(*leaf),
                    None => Self::ServerCertificate(CertificateError::Other(other)),
                }
            }
            Tls::InvalidCertificate(error) => Self::ServerCertificate(error),
            Tls::AlertReceived(alert) => match certificate_alert(alert) {
                Some(text) => Self::ClientCertificate(text),
                None => Self::Tls(Tls::AlertReceived(alert)),
            },
            other => Self::Tls(other),
        }
    }

    /// An HTTP failure. A TLS cause inside it says more than the HTTP library does.
    pub(crate) fn from_http(error: &(dyn std::error::Error + 'static)) -> Self {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(io) = error.downcast_ref::<io::Error>()
                && io
                    .get_ref()
                    .is_some_and(|inner| inner.is::<rustls::Error>())
            {
                return Self::from_io(io);
            }
            cause = error.source();
        }
        Self::Lost(error.to_string())
    }
}

fn is_out_of_date(error: &rustls::CertificateError) -> bool {
    use rustls::CertificateError as E;
    matches!(error, E::Expired | E::ExpiredContext { .. } | E::Revoked)
}

/// The alerts by which a TLS 1.3 server refuses a client's certificate.
fn certificate_alert(alert: rustls::AlertDescription) -> Option<&'static str> {
    use rustls::AlertDescription as A;
    Some(match alert {
        A::CertificateExpired => "it has expired",
        A::CertificateRevoked => "it has been revoked",
        A::UnknownCA => "it was not signed by the organisation's client CA",
        A::CertificateRequired => "none was presented",
        A::BadCertificate | A::UnsupportedCertificate | A::CertificateUnknown => {
            "it does not meet the server's rules"
        }
        A::AccessDenied => "access is denied",
        _ => return None,
    })
}
