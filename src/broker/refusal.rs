//! Why the broker released nothing: one table from reason to the code and the status that the peer reads.

use casemate_attestation::{EnvelopeError, Rejection, strict_json::JsonError};
use http::StatusCode;

use super::documents::DocumentError;
use super::store::StoreError;
use crate::keys::{KeyError, KeyFolderError};
use crate::org::authority::AuthorityError;

/// A refusal (rules P-50 to P-53).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Rule P-2.
    #[error("the request is malformed: {0}")]
    Malformed(#[from] JsonError),
    /// Rule P-30.
    #[error("the evidence is malformed: {0}")]
    Envelope(#[from] EnvelopeError),
    /// No such path or method.
    #[error(
        "there is no such call; use POST /release/challenge, /release/keys, /release/updates or /release/guard"
    )]
    NoSuchCall,
    /// The body is too long or did not come in time.
    #[error("the request's body is longer than {0} bytes, or did not come in time")]
    Body(usize),
    /// A release asks for at least one package and one name.
    #[error("the request names no {0}")]
    Nothing(&'static str),
    /// Rule P-50: never given, used, or older than 60 s.
    #[error(
        "there is no open challenge on this connection; ask for one and answer it once, within {0} s"
    )]
    ChallengeSpent(u64),
    /// Evidence was refused; the rejection names the rule.
    #[error("evidence rejected by rule {rule}: {0}", rule = .0.rule())]
    Evidence(#[from] Rejection),
    /// Rule P-51: the context must say what is asked for.
    #[error("the evidence speaks of other models than the request")]
    OtherModels,
    /// The signed documents leave nothing that could be accepted: an empty list means none.
    #[error("evidence rejected: {0}")]
    NothingAccepted(String),
    /// The fleet list does not allow the name on this chip.
    #[error("the fleet list does not allow the name {0:?} on this chip")]
    NameNotAllowed(String),
    /// No such package is registered, or it is registered with another digest or key id.
    #[error("package {0} is not registered here with this digest and key id")]
    PackageUnknown(String),
    /// The policy in force has no name for the package's model.
    #[error("the policy in force names no model with the digest of package {0}")]
    NotInPolicy(String),
    /// The epoch lies below what was released or registered before.
    #[error("package {id} has epoch {epoch}, the floor is {floor}; serve the newer package")]
    EpochBelowFloor {
        /// Package id.
        id: String,
        /// The epoch asked for.
        epoch: u64,
        /// The lowest acceptable.
        floor: u64,
    },
    /// A signed document is missing, out of date, or older than one before.
    #[error("a signed document is not in force: {0}")]
    Document(#[from] DocumentError),
    /// Rule P-53: names that are no accounts, or too many.
    #[error("the guard's floor names what is no account of a team or of everybody, or too many")]
    GuardAccounts,
    /// Updates are for connections on which keys were released.
    #[error("this connection has not attested")]
    NotAttested,
    /// The attestation of this connection is a day old.
    #[error("the attestation of this connection is too old; connect and attest again")]
    Stale,
    /// Something on the broker's side; the peer learns no more.
    #[error("the broker cannot decide; see its log")]
    Internal(String),
}

impl Refusal {
    /// Code and status for the peer.
    pub fn code(&self) -> (&'static str, StatusCode) {
        match self {
            Self::Malformed(_) | Self::Envelope(_) | Self::Nothing(_) | Self::GuardAccounts => {
                ("malformed", StatusCode::BAD_REQUEST)
            }
            Self::Body(_) => ("malformed", StatusCode::PAYLOAD_TOO_LARGE),
            Self::NoSuchCall => ("malformed", StatusCode::NOT_FOUND),
            Self::ChallengeSpent(_) => ("challenge_spent", StatusCode::CONFLICT),
            Self::Evidence(_) | Self::OtherModels | Self::NothingAccepted(_) => {
                ("evidence_rejected", StatusCode::FORBIDDEN)
            }
            Self::NameNotAllowed(_) => ("name_not_allowed", StatusCode::FORBIDDEN),
            Self::PackageUnknown(_) => ("package_unknown", StatusCode::NOT_FOUND),
            Self::NotInPolicy(_) => ("package_not_in_policy", StatusCode::FORBIDDEN),
            Self::EpochBelowFloor { .. } => ("epoch_below_floor", StatusCode::FORBIDDEN),
            Self::Document(_) => ("policy_expired", StatusCode::FORBIDDEN),
            Self::NotAttested => ("attestation_required", StatusCode::FORBIDDEN),
            Self::Stale => ("attestation_stale", StatusCode::MISDIRECTED_REQUEST),
            Self::Internal(_) => ("internal", StatusCode::INTERNAL_SERVER_ERROR),
        }
    }
}

macro_rules! internal {
    ($($kind:ty),*) => {$(
        impl From<$kind> for Refusal {
            fn from(error: $kind) -> Self {
                Self::Internal(error.to_string())
            }
        }
    )*};
}

internal!(
    StoreError,
    KeyError,
    KeyFolderError,
    AuthorityError,
    rustls::Error,
    ring::error::Unspecified
);
