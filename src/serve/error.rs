//! Why the server does not start, or stops.

use std::net::SocketAddr;
use std::path::PathBuf;

use casemate_attestation::{HexError, Platform};
use casemate_models::LoadError;
use casemate_models::package::PackageError;

use super::DocumentError;
use crate::audit::AuditError;
use crate::broker::client::ReleaseError;
use crate::devices::DevicesChanged;
use crate::policy::ModelName;
use crate::secrets::FileError;
use crate::tls::TlsError;

/// One variant per step that can fail.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address is taken, or not ours.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A file that the configuration names.
    #[error(transparent)]
    File(#[from] FileError),
    /// The release key's file.
    #[error("{file}: {error}", file = .file.display())]
    ReleaseKey {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        error: HexError,
    },
    /// An authority's file without a certificate.
    #[error("{file} holds no certificate", file = .0.display())]
    NoCertificate(PathBuf),
    /// The test chip's seed has another length.
    #[error("{file} is not a seed of 32 bytes", file = .0.display())]
    Seed(PathBuf),
    /// The lists of clients' machines.
    #[error("[clients]: {0}")]
    Clients(#[from] casemate_client::trust::TrustError),
    /// A list of clients' machines could stand in for the list of servers.
    #[error(
        "clients.release_key is the key of trust.release_key; sign the lists of clients' machines with a key of their own: casemate org init FOLDER --name NAME"
    )]
    ClientsShareReleaseKey,
    /// This build cannot ask that machine for evidence.
    #[error("this version has no provider of evidence for platform {0}")]
    NoProvider(Platform),
    /// The machine's own device does not answer.
    #[error(transparent)]
    Device(#[from] casemate_devices::DeviceError),
    /// Attack G7: other GPUs than those that were attested.
    #[error("{0}; what holds weights and prompts is not what was attested")]
    DevicesChanged(#[from] DevicesChanged),
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// A sealed package.
    #[error("model {model}: {file}: {error}", file = .file.display())]
    Package {
        /// The model's name in the configuration.
        model: ModelName,
        /// The package.
        file: PathBuf,
        /// What is wrong with it.
        error: PackageError,
    },
    /// One package under two names.
    #[error("model {0} is the same package as another one; name it once")]
    PackageTwice(ModelName),
    /// A model that cannot run.
    #[error("model {model}: {error}")]
    Load {
        /// The model's name in the configuration.
        model: ModelName,
        /// What is wrong with it.
        error: LoadError,
    },
    /// Nothing was released.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// The extraction guard.
    #[error(transparent)]
    Guard(#[from] crate::sentry::SentryError),
    /// A document of the broker's.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// Certificate or key.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The system gives no thread, or a task broke.
    #[error("{0}")]
    System(#[from] std::io::Error),
}

impl ServeError {
    /// Why connections end with it; a word for the audit log.
    pub(super) const fn ends_connections_as(&self) -> &'static str {
        match self {
            Self::DevicesChanged(_) => "devices_changed",
            _ => "dismissed_by_broker",
        }
    }

    /// Whether the broker has judged this machine and will have none of it; asking again changes nothing.
    pub(super) fn is_dismissal(&self) -> bool {
        matches!(self, Self::Release(ReleaseError::Refused { code, .. }) if code == "evidence_rejected")
    }
}
