//! Certificates of attestation keys: a leaf, up to three authorities, a pinned root (rule P5).
//!
//! The order is given, so no path is searched. No root is taken from evidence.

use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RsaPublicKeyComponents,
    UnparsedPublicKey, VerificationAlgorithm,
};
use x509_parser::asn1_rs::{Oid, oid};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey as Parsed;
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Version;

use super::key::{PublicKey, unpadded};
use super::policy::{HostedIn, PinnedTpmRoot, TpmAnchors};
use super::rejection::TpmRejection;
use crate::der::signature_algorithms;
use crate::digest::UnixTime;

/// Longest certificate that is read, in bytes, padding included: NV indices have 4096.
pub(super) const CERTIFICATE_BYTES_MAX: usize = 8192;
/// Authorities between the leaf and the pinned root. Azure has two, Google one.
pub(super) const INTERMEDIATES_MAX: usize = 3;

/// TCG's purposes of endorsement and attestation keys. Google writes the first, Azure the second.
const TCG_PURPOSES: [Oid<'static>; 2] = [oid!(2.23.133.8.1), oid!(2.23.133.8.3)];

const RSA_SHA256: Oid<'static> = oid!(1.2.840.113549.1.1.11);
const RSA_SHA384: Oid<'static> = oid!(1.2.840.113549.1.1.12);
const RSA_SHA512: Oid<'static> = oid!(1.2.840.113549.1.1.13);
const ECDSA_SHA256: Oid<'static> = oid!(1.2.840.10045.4.3.2);
const ECDSA_SHA384: Oid<'static> = oid!(1.2.840.10045.4.3.3);

/// A certificate's place in the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificatePlace {
    /// The attestation key's own.
    Leaf,
    /// An authority, counted from the leaf, from 1.
    Intermediate(usize),
    /// The pinned root.
    Root,
}

impl std::fmt::Display for CertificatePlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Leaf => f.write_str("attestation key certificate"),
            Self::Intermediate(number) => write!(f, "intermediate certificate {number}"),
            Self::Root => f.write_str("pinned root certificate"),
        }
    }
}

/// What a leaf's key is used for.
#[derive(Clone, Copy)]
pub(super) enum Purpose {
    /// Signing quotes.
    Attestation,
    /// Opening the credentials by which attestation keys are enrolled.
    Endorsement,
}

/// A certificate that was read but not checked.
pub(super) struct Certificate<'a> {
    place: CertificatePlace,
    x509: X509Certificate<'a>,
}

impl<'a> Certificate<'a> {
    /// Reads a leaf: its own length decides where it ends, and only zeros may follow.
    pub(super) fn leaf(der: &'a [u8]) -> Result<Self, TpmRejection> {
        let (certificate, rest) = Self::read(CertificatePlace::Leaf, der)?;
        if rest.iter().any(|byte| *byte != 0) {
            return Err(certificate.malformed("is followed by bytes that are no padding"));
        }
        Ok(certificate)
    }

    fn exact(place: CertificatePlace, der: &'a [u8]) -> Result<Self, TpmRejection> {
        let (certificate, rest) = Self::read(place, der)?;
        if !rest.is_empty() {
            return Err(certificate.malformed("is followed by other bytes"));
        }
        Ok(certificate)
    }

    fn read(place: CertificatePlace, der: &'a [u8]) -> Result<(Self, &'a [u8]), TpmRejection> {
        let malformed = |what| TpmRejection::CertificateMalformed { place, what };
        if der.len() > CERTIFICATE_BYTES_MAX {
            return Err(malformed("is longer than 8192 bytes"));
        }
        let (rest, x509) =
            X509Certificate::from_der(der).map_err(|_| malformed("is no certificate in DER"))?;
        if x509.version() != X509Version::V3 {
            return Err(malformed("is not of version 3"));
        }
        // The parser looks at tag numbers only, and what lies outside the signed part nobody signed.
        let exact = der
            .len()
            .checked_sub(rest.len())
            .and_then(|end| der.get(..end));
        match exact.and_then(signature_algorithms) {
            Some((inside, outside)) if inside == outside => {}
            Some(_) => return Err(malformed("names two signature algorithms")),
            None => return Err(malformed("is no certificate in DER")),
        }
        if x509.extensions_map().is_err() {
            return Err(malformed("has an extension twice"));
        }
        // A TPM's leaf may be named by its alternative name only, which is then critical; nobody here reads it.
        let understood = |parsed: &ParsedExtension<'_>| {
            matches!(
                parsed,
                ParsedExtension::BasicConstraints(_)
                    | ParsedExtension::KeyUsage(_)
                    | ParsedExtension::ExtendedKeyUsage(_)
                    | ParsedExtension::SubjectAlternativeName(_)
            )
        };
        if x509
            .extensions()
            .iter()
            .any(|extension| extension.critical && !understood(extension.parsed_extension()))
        {
            return Err(malformed("has a critical extension that is not understood"));
        }
        Ok((Self { place, x509 }, rest))
    }

    /// The key that it is about.
    pub(super) fn key(&self) -> Result<PublicKey, TpmRejection> {
        PublicKey::from_info(self.x509.public_key())
    }

    /// Rule P5: a TPM's key signs no certificates, and was certified for what it is used for.
    fn must_be_leaf_for(&self, purpose: Purpose) -> Result<(), TpmRejection> {
        let malformed = |_| self.malformed("has malformed extensions");
        let constraints = self.x509.basic_constraints().map_err(malformed)?;
        if constraints.is_some_and(|extension| extension.value.ca) {
            return Err(TpmRejection::LeafIsAuthority);
        }
        let usage = self.x509.key_usage().map_err(malformed)?;
        let usage = usage.map(|extension| extension.value);
        let (what, purposes) = match purpose {
            Purpose::Attestation if usage.is_some_and(|usage| !usage.digital_signature()) => {
                return Err(TpmRejection::LeafUsage("signing"));
            }
            Purpose::Endorsement
                if usage.is_some_and(|it| !it.key_encipherment() && !it.key_agreement()) =>
            {
                return Err(TpmRejection::LeafUsage("taking credentials"));
            }
            Purpose::Attestation => ("a TPM's keys", &TCG_PURPOSES[..]),
            Purpose::Endorsement => ("endorsement keys", &TCG_PURPOSES[..1]),
        };
        let named = self.x509.extended_key_usage().map_err(malformed)?;
        let fits = |named: &[Oid<'_>]| named.iter().any(|id| purposes.contains(id));
        if named.is_some_and(|extension| !fits(&extension.value.other)) {
            return Err(TpmRejection::LeafUsage(what));
        }
        Ok(())
    }

    /// Rule P5: `issuer` is an authority that may stand over `below` other authorities, and signed this certificate.
    fn must_be_issued_by(&self, issuer: &Certificate<'_>, below: u32) -> Result<(), TpmRejection> {
        if self.x509.issuer().as_raw() != issuer.x509.subject().as_raw() {
            return Err(TpmRejection::ChainName { place: self.place });
        }
        issuer.must_be_authority(below)?;
        let signature = &self.x509.signature_value;
        if signature.unused_bits == 0 && issuer.signed(self) {
            Ok(())
        } else {
            Err(TpmRejection::ChainSignature { place: self.place })
        }
    }

    fn must_be_authority(&self, below: u32) -> Result<(), TpmRejection> {
        let place = self.place;
        let constraints = self.x509.basic_constraints().ok().flatten();
        let constraints = constraints
            .filter(|extension| extension.value.ca)
            .ok_or(TpmRejection::NotAuthority { place })?;
        let usage = self.x509.key_usage();
        let usage = usage.map_err(|_| TpmRejection::NotAuthority { place })?;
        if usage.is_some_and(|extension| !extension.value.key_cert_sign()) {
            return Err(TpmRejection::NotAuthority { place });
        }
        let most = constraints.value.path_len_constraint;
        if most.is_some_and(|most| below > most) {
            return Err(TpmRejection::PathLength { place });
        }
        Ok(())
    }

    /// Whether this certificate's key signed `other`, by RSA PKCS #1 or ECDSA with SHA-256 or stronger.
    fn signed(&self, other: &Certificate<'_>) -> bool {
        let message = other.x509.tbs_certificate.as_ref();
        let signature = &other.x509.signature_value.data;
        let algorithm = &other.x509.signature_algorithm.algorithm;
        let info = self.x509.public_key();
        let ecdsa = |algorithm: &'static dyn VerificationAlgorithm| {
            let point = &info.subject_public_key.data;
            UnparsedPublicKey::new(algorithm, point)
                .verify(message, signature)
                .is_ok()
        };
        match info.parsed() {
            Ok(Parsed::RSA(rsa)) => {
                let parameters = if *algorithm == RSA_SHA256 {
                    &RSA_PKCS1_2048_8192_SHA256
                } else if *algorithm == RSA_SHA384 {
                    &RSA_PKCS1_2048_8192_SHA384
                } else if *algorithm == RSA_SHA512 {
                    &RSA_PKCS1_2048_8192_SHA512
                } else {
                    return false;
                };
                RsaPublicKeyComponents {
                    n: unpadded(rsa.modulus),
                    e: unpadded(rsa.exponent),
                }
                .verify(parameters, message, signature)
                .is_ok()
            }
            // The algorithms know their curve: a point of another one is no key for them.
            Ok(Parsed::EC(_)) if *algorithm == ECDSA_SHA256 => ecdsa(&ECDSA_P256_SHA256_ASN1),
            Ok(Parsed::EC(_)) if *algorithm == ECDSA_SHA384 => ecdsa(&ECDSA_P384_SHA384_ASN1),
            _ => false,
        }
    }

    fn must_be_valid_at(&self, now: UnixTime) -> Result<(), TpmRejection> {
        let validity = self.x509.validity();
        let (place, from) = (self.place, unix(&validity.not_before));
        let until = unix(&validity.not_after);
        if now < from {
            return Err(TpmRejection::CertificateNotYetValid { place, from, now });
        }
        if now > until {
            return Err(TpmRejection::CertificateExpired { place, until, now });
        }
        Ok(())
    }

    const fn malformed(&self, what: &'static str) -> TpmRejection {
        TpmRejection::CertificateMalformed {
            place: self.place,
            what,
        }
    }
}

/// Checks an attestation key's certificate by itself, as when a key is enrolled, and says which key it is for and where its
/// TPM runs (rule P5). Intermediates stand nearest first, without the root.
///
/// # Errors
/// The variants of [`TpmRejection`] that belong to P5, and [`TpmRejection::KeyMalformed`].
pub fn verify_ak_certificate(
    leaf: &[u8],
    intermediates: &[Vec<u8>],
    anchors: &TpmAnchors,
    now: UnixTime,
) -> Result<(PublicKey, HostedIn), TpmRejection> {
    let leaf = Certificate::leaf(leaf)?;
    let root = chain(&leaf, intermediates, anchors, Purpose::Attestation, now)?;
    Ok((leaf.key()?, root.hosted()))
}

/// The same for an endorsement key's certificate. Such a key signs nothing: it opens the credential by which the attestation
/// key of the same TPM is enrolled.
///
/// # Errors
/// The variants of [`TpmRejection`] that belong to P5, and [`TpmRejection::KeyMalformed`].
pub fn verify_ek_certificate(
    leaf: &[u8],
    intermediates: &[Vec<u8>],
    anchors: &TpmAnchors,
    now: UnixTime,
) -> Result<(PublicKey, HostedIn), TpmRejection> {
    let leaf = Certificate::leaf(leaf)?;
    let root = chain(&leaf, intermediates, anchors, Purpose::Endorsement, now)?;
    Ok((leaf.key()?, root.hosted()))
}

/// Rule P5: the leaf chains by these authorities to one of the pinned roots, and all are valid. Returns that root.
pub(super) fn chain<'r>(
    leaf: &Certificate<'_>,
    intermediates: &[Vec<u8>],
    anchors: &'r TpmAnchors,
    purpose: Purpose,
    now: UnixTime,
) -> Result<&'r PinnedTpmRoot, TpmRejection> {
    if intermediates.len() > INTERMEDIATES_MAX {
        return Err(TpmRejection::ChainLength(intermediates.len()));
    }
    leaf.must_be_leaf_for(purpose)?;
    let authorities = intermediates
        .iter()
        .zip(1..)
        .map(|(der, number)| Certificate::exact(CertificatePlace::Intermediate(number), der))
        .collect::<Result<Vec<_>, _>>()?;
    let mut lowest = leaf;
    let mut below = 0;
    for authority in &authorities {
        lowest.must_be_issued_by(authority, below)?;
        lowest.must_be_valid_at(now)?;
        (lowest, below) = (authority, below + 1);
    }
    let (pinned, root) = root_over(lowest, anchors)?;
    lowest.must_be_issued_by(&root, below)?;
    lowest.must_be_valid_at(now)?;
    root.must_be_valid_at(now)?;
    Ok(pinned)
}

/// The pinned root that `certificate` names and, where roots share a name, whose key signed it.
fn root_over<'r>(
    certificate: &Certificate<'_>,
    anchors: &'r TpmAnchors,
) -> Result<(&'r PinnedTpmRoot, Certificate<'r>), TpmRejection> {
    let mut named = None;
    for pinned in anchors.roots() {
        let root = Certificate::exact(CertificatePlace::Root, pinned.der())?;
        if certificate.x509.issuer().as_raw() == root.x509.subject().as_raw() {
            let signed = root.signed(certificate);
            named = Some((pinned, root));
            if signed {
                break;
            }
        }
    }
    named.ok_or(TpmRejection::NoPinnedRoot)
}

/// A certificate's time. What lies before 1970 becomes 1970, at which nothing is valid.
fn unix(time: &ASN1Time) -> UnixTime {
    UnixTime::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}
