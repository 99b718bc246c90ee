//! Which client certificates may enter: issued by the client authority, living at most 90 days (P-13), not revoked. The
//! check runs inside the handshake, so that nothing behind it ever meets a stranger.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use casemate_attestation::{Revocations, Sha256Digest};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{TlsError, provider};

/// Longest life of a client's leaf, in seconds (P-13).
pub const CLIENT_LEAF_LIFE_S_MAX: i64 = 90 * 24 * 3600;

/// What was revoked: leaves by digest, and principals. Shared by handshakes, open connections and the broker's updates.
#[derive(Debug, Default)]
pub struct Revoked(RwLock<Arc<Named>>);

#[derive(Debug, Default)]
struct Named {
    leaves: HashSet<Sha256Digest>,
    principals: HashSet<String>,
}

impl Revoked {
    /// Replaces the whole list.
    pub fn replace(&self, list: &Revocations) {
        let leaves = list.certificates.iter().copied().collect();
        let principals = list.principals.iter().cloned().collect();
        let named = Arc::new(Named { leaves, principals });
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = named;
    }

    /// Whether a leaf was revoked.
    pub fn names_leaf(&self, leaf: &Sha256Digest) -> bool {
        self.named().leaves.contains(leaf)
    }

    /// Whether a principal was revoked, whatever certificate it shows.
    pub fn names_principal(&self, principal: &str) -> bool {
        self.named().principals.contains(principal)
    }

    fn named(&self) -> Arc<Named> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The organisation's client CA as a rustls verifier with the two rules that WebPKI does not know.
pub struct ClientAuthority {
    webpki: Arc<dyn ClientCertVerifier>,
    revoked: Arc<Revoked>,
}

impl fmt::Debug for ClientAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientAuthority(..)")
    }
}

/// The leaf lives longer than P-13 allows.
#[derive(Debug, thiserror::Error)]
#[error(
    "the client certificate lives {life_s} s, more than the {CLIENT_LEAF_LIFE_S_MAX} s that are allowed"
)]
struct LivesTooLong {
    life_s: i64,
}

/// Whether a certificate was refused because it lives too long.
pub(super) fn is_life_too_long(error: &OtherError) -> bool {
    error.0.is::<LivesTooLong>()
}

impl ClientAuthority {
    /// Trusts the certificates `authorities` (DER) and refuses what `revoked` names.
    ///
    /// # Errors
    /// [`TlsError::ClientAuthority`] if no certificate is given or one cannot be a trust anchor.
    pub fn new(
        authorities: &[CertificateDer<'static>],
        revoked: Arc<Revoked>,
    ) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots
                .add(authority.clone())
                .map_err(|error| TlsError::ClientAuthority(error.to_string()))?;
        }
        let webpki = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|error| TlsError::ClientAuthority(error.to_string()))?;
        Ok(Self { webpki, revoked })
    }

    fn check_life(leaf: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let (_, parsed) =
            X509Certificate::from_der(leaf).map_err(|_| CertificateError::BadEncoding)?;
        let validity = parsed.validity();
        let life_s = validity
            .not_after
            .timestamp()
            .saturating_sub(validity.not_before.timestamp());
        if life_s > CLIENT_LEAF_LIFE_S_MAX {
            let cause = OtherError(Arc::new(LivesTooLong { life_s }));
            return Err(CertificateError::Other(cause).into());
        }
        Ok(())
    }
}

impl ClientCertVerifier for ClientAuthority {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.webpki.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self
            .webpki
            .verify_client_cert(end_entity, intermediates, now)?;
        Self::check_life(end_entity)?;
        if self.revoked.names_leaf(&Sha256Digest::of(end_entity)) {
            return Err(CertificateError::Revoked.into());
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}
