//! Who the client is: its certificate chain and its key. One key object signs the TLS handshake and the confirmation,
//! so that a confirmed session cannot belong to another key than the handshake's.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use casemate_attestation::{Sha256Digest, UnixTime};
use rustls::SignatureScheme;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::files::{self, FileError};

/// No certificate chain and no key file of ours is longer.
pub(crate) const PEM_BYTES_MAX: u64 = 64 * 1024;

/// The schemes of rule P-41.
const CONFIRM_SCHEMES: [SignatureScheme; 3] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ED25519,
];

/// Why an identity cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The certificate or the key cannot be read, or the key is open to others.
    #[error(transparent)]
    File(#[from] FileError),
    /// No PEM certificate in the file.
    #[error("{path} holds no PEM certificate", path = .0.display())]
    NoCertificate(PathBuf),
    /// No PEM key in the file.
    #[error("{path} holds no PEM private key", path = .0.display())]
    NoKey(PathBuf),
    /// Rule P-41: a key that cannot confirm.
    #[error("key in {path} is not ECDSA P-256, ECDSA P-384 or Ed25519", path = .0.display())]
    KeyKind(PathBuf),
    /// Certificate and key belong to different identities.
    #[error("key does not belong to the certificate in {path}", path = .0.display())]
    Mismatch(PathBuf),
    /// The certificate's time is over.
    #[error("client certificate expired at {expired}, now is {now}; have a new one issued")]
    Expired {
        /// Its last second.
        expired: UnixTime,
        /// The time given.
        now: UnixTime,
    },
    /// The signing operation failed.
    #[error("client key cannot sign the confirmation")]
    Sign,
}

/// A certificate chain and its key. `Debug` prints the name only.
#[derive(Clone)]
pub struct Identity {
    key: Arc<CertifiedKey>,
    leaf: Sha256Digest,
    expires: UnixTime,
}

impl Identity {
    /// Reads a PEM chain, leaf first, and its PEM key of mode 0600.
    ///
    /// # Errors
    /// [`IdentityError`] names the file and what is wrong with it.
    pub fn load(
        certificate: &Path,
        key: &Path,
        provider: &CryptoProvider,
    ) -> Result<Self, IdentityError> {
        let pem = files::read_public(certificate, PEM_BYTES_MAX)?;
        let chain = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| IdentityError::NoCertificate(certificate.to_owned()))?;
        let leaf = chain
            .first()
            .ok_or(IdentityError::NoCertificate(certificate.to_owned()))?;
        let (_, parsed) = X509Certificate::from_der(leaf)
            .map_err(|_| IdentityError::NoCertificate(certificate.to_owned()))?;
        let expires = UnixTime::from_secs(
            u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0),
        );
        let digest = Sha256Digest::of(leaf);
        let secret = files::read_secret(key, PEM_BYTES_MAX)?;
        let der = PrivateKeyDer::from_pem_slice(&secret)
            .map_err(|_| IdentityError::NoKey(key.to_owned()))?;
        let signing = provider
            .key_provider
            .load_private_key(der)
            .map_err(|_| IdentityError::KeyKind(key.to_owned()))?;
        if signing.choose_scheme(&CONFIRM_SCHEMES).is_none() {
            return Err(IdentityError::KeyKind(key.to_owned()));
        }
        let certified = CertifiedKey::new(chain, signing);
        certified
            .keys_match()
            .map_err(|_| IdentityError::Mismatch(certificate.to_owned()))?;
        Ok(Self {
            key: Arc::new(certified),
            leaf: digest,
            expires,
        })
    }

    /// SHA-256 of the leaf (DER), as the binding carries it (rule P-20).
    #[must_use]
    pub const fn leaf(&self) -> Sha256Digest {
        self.leaf
    }

    /// Chain and key, for the handshake.
    pub(crate) fn certified(&self) -> CertifiedKey {
        self.key.as_ref().clone()
    }

    /// Refuses an identity whose time is over before a server does.
    pub(crate) fn in_force(&self, now: UnixTime) -> Result<(), IdentityError> {
        if now > self.expires {
            return Err(IdentityError::Expired {
                expired: self.expires,
                now,
            });
        }
        Ok(())
    }

    /// Signs a confirmation (rule P-41).
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, IdentityError> {
        let signer = self
            .key
            .key
            .choose_scheme(&CONFIRM_SCHEMES)
            .ok_or(IdentityError::Sign)?;
        signer.sign(message).map_err(|_| IdentityError::Sign)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(..)")
    }
}
