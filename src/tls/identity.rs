//! The server's certificate and key in force, exchanged while running. A connection keeps the identity that it
//! was accepted with: its binding names that leaf and no other.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use casemate_attestation::Sha256Digest;
use rustls::server::ServerConfig;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{TlsError, server_config};

/// One leaf with the acceptor settings made for it.
pub struct ServingIdentity {
    config: Arc<ServerConfig>,
    leaf_digest: Sha256Digest,
    expires: i64,
}

impl fmt::Debug for ServingIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServingIdentity(leaf {})", self.leaf_digest)
    }
}

impl ServingIdentity {
    /// Makes an identity of a chain (leaf first) and the leaf's key.
    ///
    /// # Errors
    /// [`TlsError`] if the chain is empty or unreadable, or the key does not fit.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        clients: Arc<dyn ClientCertVerifier>,
    ) -> Result<Self, TlsError> {
        let leaf = chain.first().ok_or(TlsError::NoCertificate)?;
        let (_, parsed) = X509Certificate::from_der(leaf)
            .map_err(|error| TlsError::Certificate(error.to_string()))?;
        let expires = parsed.validity().not_after.timestamp();
        let leaf_digest = Sha256Digest::of(leaf);
        let config = Arc::new(server_config(chain, key, clients)?);
        Ok(Self {
            config,
            leaf_digest,
            expires,
        })
    }

    /// Settings for an acceptor.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// SHA-256 of the leaf's DER.
    pub fn leaf_digest(&self) -> Sha256Digest {
        self.leaf_digest
    }

    /// Unix time at which the leaf expires.
    pub fn expires(&self) -> i64 {
        self.expires
    }
}

/// Holds the identity for the next connection.
#[derive(Debug)]
pub struct IdentitySlot(RwLock<Arc<ServingIdentity>>);

impl IdentitySlot {
    /// A slot that begins with `identity`.
    pub fn new(identity: ServingIdentity) -> Self {
        Self(RwLock::new(Arc::new(identity)))
    }

    /// The identity in force now.
    pub fn current(&self) -> Arc<ServingIdentity> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts a renewed identity in force for the connections accepted from now on.
    pub fn replace(&self, identity: ServingIdentity) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(identity);
    }
}
