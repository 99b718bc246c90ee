//! The signature of a confirmation: by the client certificate's key, under the algorithm of that key and no other (P-41).

use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ED25519, UnparsedPublicKey,
    VerificationAlgorithm,
};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_SIG_ED25519,
};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::SubjectPublicKeyInfo;

use super::SessionError;

/// The public key of a client's leaf.
pub struct ClientKey {
    algorithm: &'static dyn VerificationAlgorithm,
    point: Vec<u8>,
}

impl ClientKey {
    /// Takes the key out of a leaf (DER).
    ///
    /// # Errors
    /// [`SessionError::KeyUnsupported`] for a key that is neither P-256, P-384 nor Ed25519.
    pub fn of_leaf(der: &[u8]) -> Result<Self, SessionError> {
        let (_, leaf) = X509Certificate::from_der(der).map_err(|_| SessionError::KeyUnsupported)?;
        let key = leaf.public_key();
        let algorithm = algorithm(key).ok_or(SessionError::KeyUnsupported)?;
        Ok(Self {
            algorithm,
            point: key.subject_public_key.data.to_vec(),
        })
    }

    /// Checks `signature` over `message`.
    ///
    /// # Errors
    /// [`SessionError::SignatureInvalid`].
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), SessionError> {
        UnparsedPublicKey::new(self.algorithm, &self.point)
            .verify(message, signature)
            .map_err(|_| SessionError::SignatureInvalid)
    }
}

fn algorithm(key: &SubjectPublicKeyInfo<'_>) -> Option<&'static dyn VerificationAlgorithm> {
    let kind = &key.algorithm.algorithm;
    if *kind == OID_SIG_ED25519 {
        return Some(&ED25519);
    }
    if *kind != OID_KEY_TYPE_EC_PUBLIC_KEY {
        return None;
    }
    let curve = key.algorithm.parameters.as_ref()?.as_oid().ok()?;
    if curve == OID_EC_P256 {
        return Some(&ECDSA_P256_SHA256_ASN1);
    }
    (curve == OID_NIST_EC_P384).then_some(&ECDSA_P384_SHA384_ASN1)
}
