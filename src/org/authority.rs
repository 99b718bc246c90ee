//! Certificate authorities of the organisation and the leaves that they sign.
//!
//! No leaf outlives its kind's bound (rules P-12 and P-13), whatever the caller asks for.

use std::time::Duration;

use casemate_attestation::UnixTime;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
    SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

/// Rule P-13: a client's leaf lives at most 90 days.
pub const CLIENT_DAYS_MAX: u32 = 90;
/// Rule P-12: a server's leaf lives at most 24 hours.
pub const SERVER_SECONDS_MAX: u64 = 24 * 60 * 60;
/// Authorities are replaced by hand, rarely.
const AUTHORITY_DAYS: u64 = 3650;
/// The broker's own certificate; its authority's key is not kept, so a renewal is a new authority.
const BROKER_DAYS: u64 = 730;
const DAY: u64 = 86_400;
/// Clocks differ: a leaf is valid a little before it is made. The bound on its life includes this.
const CLOCK_SKEW_SECONDS: u64 = 300;

/// Why a certificate was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// The certificate library refused, for instance a name that is no DNS name.
    #[error("cannot make the certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// Rule P-13.
    #[error("a client certificate lives 1 to {CLIENT_DAYS_MAX} days, not {0}")]
    Days(u32),
    /// A server must have a name.
    #[error("a server's certificate needs at least one name")]
    NoNames,
}

/// A certificate with its private key, both as PEM.
pub struct Identity {
    /// The certificate, public.
    pub certificate_pem: String,
    /// The private key (PKCS#8), wiped when dropped.
    pub key_pem: Zeroizing<String>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity(..)")
    }
}

/// An authority that signs leaves: the client CA or the enclave CA.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
    certificate: CertificateDer<'static>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority(..)")
    }
}

impl Authority {
    /// Makes a new authority named `name`, with what must be kept of it.
    ///
    /// # Errors
    /// When the library fails.
    pub fn generate(name: &str, now: u64) -> Result<(Self, Identity), AuthorityError> {
        let key = new_key()?;
        let mut params = params_for(name, now, AUTHORITY_DAYS * DAY);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        let identity = Identity {
            certificate_pem: certificate.pem(),
            key_pem: Zeroizing::new(key.serialize_pem()),
        };
        let certificate_pem = certificate.pem();
        let certificate = certificate.into();
        Ok((
            Self {
                issuer: Issuer::new(params, key),
                certificate_pem,
                certificate,
            },
            identity,
        ))
    }

    /// Takes an authority up again from its two files. That certificate and key belong together is the caller's to check.
    ///
    /// # Errors
    /// When either cannot be parsed.
    pub fn from_pem(
        certificate_pem: &str,
        certificate: CertificateDer<'static>,
        key_pem: &str,
    ) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem(key_pem)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Self {
            issuer,
            certificate_pem: certificate_pem.to_owned(),
            certificate,
        })
    }

    /// The authority's certificate as PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The authority's certificate as DER.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The public key of the authority's key pair, as in a certificate (SubjectPublicKeyInfo, DER).
    pub fn public_key_info(&self) -> Vec<u8> {
        self.issuer.key().subject_public_key_info()
    }

    /// Issues a client certificate whose principal is the SPIFFE identity `principal`.
    ///
    /// # Errors
    /// When `days` is outside rule P-13, or the library fails.
    pub fn issue_client(
        &self,
        principal: &str,
        common_name: &str,
        days: u32,
        now: u64,
    ) -> Result<Identity, AuthorityError> {
        if days == 0 || days > CLIENT_DAYS_MAX {
            return Err(AuthorityError::Days(days));
        }
        let key = new_key()?;
        let mut params = params_for(common_name, now, u64::from(days) * DAY);
        params.subject_alt_names = vec![SanType::URI(principal.try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let key_pem = Zeroizing::new(key.serialize_pem());
        Ok(Identity {
            certificate_pem: certificate.pem(),
            key_pem,
        })
    }

    /// Signs the leaf of an attested server for the public key in `public_key_info` (SubjectPublicKeyInfo, DER). Returns
    /// the chain as PEM, leaf first. It lives as long as rule P-12 permits.
    ///
    /// # Errors
    /// When there is no name, a name is no DNS name or address, or the key is of a kind that we do not sign.
    pub fn issue_server(
        &self,
        public_key_info: &[u8],
        names: &[String],
        now: u64,
    ) -> Result<String, AuthorityError> {
        let first = names.first().ok_or(AuthorityError::NoNames)?;
        let mut params = server_params(first, names, now, SERVER_SECONDS_MAX)?;
        params.use_authority_key_identifier_extension = true;
        let key = SubjectPublicKeyInfo::from_der(public_key_info)?;
        let leaf = params.signed_by(&key, &self.issuer)?;
        Ok(format!("{}{}", leaf.pem(), self.certificate_pem))
    }
}

/// The broker's TLS identity under an authority of its own, whose key is dropped here: nobody can make a second broker.
///
/// # Errors
/// When a name is no DNS name or address, or the library fails.
pub fn broker_identity(
    organisation: &str,
    names: &[String],
    now: u64,
) -> Result<(String, Identity), AuthorityError> {
    let (authority, _) = Authority::generate(&format!("{organisation} broker authority"), now)?;
    let key = new_key()?;
    let mut params = server_params(
        &format!("{organisation} broker"),
        names,
        now,
        BROKER_DAYS * DAY,
    )?;
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, &authority.issuer)?;
    let key_pem = Zeroizing::new(key.serialize_pem());
    let identity = Identity {
        certificate_pem: certificate.pem(),
        key_pem,
    };
    Ok((authority.certificate_pem, identity))
}

/// A fresh P-256 key in a self-signed certificate of one day: what a server connects to its broker with.
///
/// # Errors
/// When the library fails.
pub fn self_signed(now: u64) -> Result<Identity, AuthorityError> {
    let key = new_key()?;
    let mut params = params_for("casemate server", now, SERVER_SECONDS_MAX);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.self_signed(&key)?;
    let key_pem = Zeroizing::new(key.serialize_pem());
    Ok(Identity {
        certificate_pem: certificate.pem(),
        key_pem,
    })
}

fn server_params(
    common_name: &str,
    names: &[String],
    now: u64,
    seconds: u64,
) -> Result<CertificateParams, AuthorityError> {
    let mut params = params_for(common_name, now, seconds);
    params.subject_alt_names = CertificateParams::new(names)?.subject_alt_names;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

/// When a server's leaf that ends at `expires` was signed.
#[must_use]
pub fn server_leaf_signed_at(expires: UnixTime) -> UnixTime {
    expires.minus(SERVER_SECONDS_MAX).plus(CLOCK_SKEW_SECONDS)
}

/// Parameters that are valid from a little before `now`, for `seconds` in all.
fn params_for(common_name: &str, now: u64, seconds: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let from = now.saturating_sub(CLOCK_SKEW_SECONDS);
    params.not_before = epoch + Duration::from_secs(from);
    params.not_after = epoch + Duration::from_secs(from.saturating_add(seconds));
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params
}

fn new_key() -> Result<KeyPair, AuthorityError> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_parser::prelude::*;

    const NOW: u64 = 1_790_000_000;

    fn validity_seconds(pem: &str) -> i64 {
        let (_, pem) = parse_x509_pem(pem.as_bytes()).unwrap();
        let certificate = pem.parse_x509().unwrap();
        let validity = certificate.validity();
        validity.not_after.timestamp() - validity.not_before.timestamp()
    }

    #[test]
    fn a12_lifetimes_of_leaves_are_capped() {
        let (authority, _) = Authority::generate("clients", NOW).unwrap();
        let ninety = authority
            .issue_client("spiffe://x/team/a/b", "b", 90, NOW)
            .unwrap();
        assert_eq!(validity_seconds(&ninety.certificate_pem), 90 * 86_400);
        for days in [0, 91, 3650] {
            let result = authority.issue_client("spiffe://x/team/a/b", "b", days, NOW);
            assert!(matches!(result, Err(AuthorityError::Days(d)) if d == days));
        }
        let key = new_key().unwrap().subject_public_key_info();
        let chain = authority
            .issue_server(&key, &["localhost".into()], NOW)
            .unwrap();
        assert_eq!(validity_seconds(&chain), 86_400);
    }

    #[test]
    fn a_server_leaf_carries_the_key_and_the_names_it_was_asked_for() {
        let (authority, _) = Authority::generate("enclaves", NOW).unwrap();
        let key = new_key().unwrap().subject_public_key_info();
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let chain = authority.issue_server(&key, &names, NOW).unwrap();
        let (_, pem) = parse_x509_pem(chain.as_bytes()).unwrap();
        let leaf = pem.parse_x509().unwrap();
        assert_eq!(leaf.public_key().raw, key);
        assert!(!leaf.is_ca());
        let san = leaf.subject_alternative_name().unwrap().unwrap();
        assert_eq!(san.value.general_names.len(), 2);
        let usage = leaf.extended_key_usage().unwrap().unwrap();
        assert!(usage.value.server_auth && !usage.value.client_auth);
        assert!(matches!(
            authority.issue_server(&key, &[], NOW),
            Err(AuthorityError::NoNames)
        ));
    }
}
