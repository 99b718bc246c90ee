//! TLS 1.3 acceptors with mutual authentication (session.md P-10, P-11, P-13). Nothing older, no resumption, no early
//! data: each connection does a full handshake, so each has an exporter value of its own to bind evidence to.

pub mod client_auth;
pub mod identity;
pub mod stream;

use std::sync::Arc;

use casemate_client::records;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

pub use client_auth::{ClientAuthority, Revoked};
pub use identity::{IdentitySlot, ServingIdentity};
pub use stream::{Exporter, Records, SharedTls};

/// Why a TLS acceptor or a value taken from it cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The certificate chain is empty.
    #[error("the certificate chain is empty; give the leaf first, then its issuers")]
    NoCertificate,
    /// A certificate is not X.509 DER.
    #[error("the certificate is not valid X.509: {0}")]
    Certificate(String),
    /// The client authority cannot be used as a trust anchor.
    #[error("the client authority cannot be used: {0}")]
    ClientAuthority(String),
    /// rustls refused the combination of key, chain and settings.
    #[error("the TLS configuration is refused: {0}")]
    Configuration(#[from] rustls::Error),
    /// The connection is gone, or its handshake is not complete.
    #[error("the connection has no exporter value")]
    NoExporter,
}

/// The only cryptography offered: TLS 1.3 suites, X25519MLKEM768 first and X25519 second (P-10).
pub fn provider() -> Arc<CryptoProvider> {
    let mut provider = records::provider();
    provider.kx_groups = vec![
        aws_lc_rs::kx_group::X25519MLKEM768,
        aws_lc_rs::kx_group::X25519,
    ];
    Arc::new(provider)
}

/// Settings of an acceptor for `chain` (leaf first) and `key`, with `clients` deciding which client certificates enter.
///
/// # Errors
/// [`TlsError::NoCertificate`] and [`TlsError::Configuration`], such as a key that does not fit the leaf.
pub fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    clients: Arc<dyn ClientCertVerifier>,
) -> Result<ServerConfig, TlsError> {
    if chain.is_empty() {
        return Err(TlsError::NoCertificate);
    }
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.send_half_rtt_data = false;
    Ok(config)
}

/// Why a handshake failed, as a word that audit records can carry.
#[must_use]
pub fn refusal_code(error: &std::io::Error) -> &'static str {
    use rustls::{CertificateError as Certificate, Error};
    let cause = error
        .get_ref()
        .and_then(|cause| cause.downcast_ref::<Error>());
    match cause {
        Some(Error::NoCertificatesPresented) => "no_certificate",
        Some(Error::InvalidCertificate(certificate)) => match certificate {
            Certificate::Expired | Certificate::ExpiredContext { .. } => "certificate_expired",
            Certificate::NotValidYet | Certificate::NotValidYetContext { .. } => {
                "certificate_not_valid_yet"
            }
            Certificate::Revoked => "certificate_revoked",
            Certificate::UnknownIssuer => "certificate_of_unknown_issuer",
            Certificate::Other(other) if client_auth::is_life_too_long(other) => {
                "certificate_lives_too_long"
            }
            _ => "certificate_refused",
        },
        Some(Error::PeerIncompatible(_)) => "no_common_parameters",
        Some(Error::AlertReceived(_)) => "alert_received",
        Some(_) => "handshake_malformed",
        None => "connection_lost",
    }
}
