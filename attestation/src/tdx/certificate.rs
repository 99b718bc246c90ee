//! The certificates of Intel's two chains (SGX PCK Certificate and CRL Profile; rules T2, T3, T6).
//!
//! PCK certificate ← Platform or Processor CA ← root, and signer of collateral ← root. Fixed places, so no path is
//! searched. The root is the pinned one; whatever root a chain brings along is not even read.

use x509_parser::asn1_rs::{Oid, oid};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer as _;
use x509_parser::time::ASN1Time;
use x509_parser::x509::{AlgorithmIdentifier, X509Name, X509Version};

use super::parts::TdxCertificate as Place;
use super::pem;
use super::rejection::TdxRejection;
use super::signatures::Signatures;
use crate::digest::UnixTime;

/// Longest certificate that is read, in bytes. Intel's have less than 1,300.
const CERTIFICATE_BYTES_MAX: usize = 4096;

const EC_PUBLIC_KEY: Oid<'static> = oid!(1.2.840.10045.2.1);
const PRIME256V1: Oid<'static> = oid!(1.2.840.10045.3.1.7);
const ECDSA_WITH_SHA256: Oid<'static> = oid!(1.2.840.10045.4.3.2);

/// The names that Intel gives to each place (PCK Certificate and CRL Profile, sections 1 and 2).
const fn names(place: Place) -> &'static [&'static str] {
    match place {
        Place::Pck => &["Intel SGX PCK Certificate"],
        Place::PckAuthority => &["Intel SGX PCK Platform CA", "Intel SGX PCK Processor CA"],
        Place::TcbInfoSigner | Place::QeIdentitySigner => &["Intel SGX TCB Signing"],
        // The root is known by its key.
        Place::Root => &[],
    }
}

/// A certificate that was read but not checked.
pub(crate) struct Certificate<'a> {
    place: Place,
    x509: X509Certificate<'a>,
}

impl<'a> Certificate<'a> {
    pub(crate) fn parse(place: Place, der: &'a [u8]) -> Result<Self, TdxRejection> {
        let malformed = |what| TdxRejection::CertificateMalformed {
            certificate: place,
            what,
        };
        if der.len() > CERTIFICATE_BYTES_MAX {
            return Err(malformed("longer than 4096 bytes"));
        }
        let (rest, x509) =
            X509Certificate::from_der(der).map_err(|_| malformed("not a certificate in DER"))?;
        if !rest.is_empty() {
            return Err(malformed("bytes after its end"));
        }
        if x509.version() != X509Version::V3 {
            return Err(malformed("not of version 3"));
        }
        if x509.tbs_certificate.signature != x509.signature_algorithm {
            return Err(malformed("names two signature algorithms"));
        }
        if x509.extensions_map().is_err() {
            return Err(malformed("an extension occurs twice"));
        }
        let understood = |parsed: &ParsedExtension<'_>| {
            matches!(
                parsed,
                ParsedExtension::BasicConstraints(_) | ParsedExtension::KeyUsage(_)
            )
        };
        if x509
            .extensions()
            .iter()
            .any(|extension| extension.critical && !understood(extension.parsed_extension()))
        {
            return Err(malformed("has a critical extension that is not understood"));
        }
        let certificate = Self { place, x509 };
        certificate.p256_point()?;
        Ok(certificate)
    }

    /// The place that it was read for.
    pub(crate) const fn place(&self) -> Place {
        self.place
    }

    pub(crate) fn subject(&self) -> &X509Name<'a> {
        &self.x509.tbs_certificate.subject
    }

    pub(crate) fn raw_serial(&self) -> &[u8] {
        self.x509.raw_serial()
    }

    /// The value of an extension that is there once.
    pub(crate) fn extension(&self, id: &Oid<'_>) -> Option<&[u8]> {
        self.x509
            .get_extension_unique(id)
            .ok()
            .flatten()
            .map(|extension| extension.value)
    }

    /// The whole of a link: `issuer` is an authority with room for what stands below it, and signed this certificate.
    pub(crate) fn must_be_issued_by(
        &self,
        issuer: &Certificate<'_>,
        below: u32,
        signatures: &Signatures<'_>,
    ) -> Result<(), TdxRejection> {
        let certificate = self.place;
        if self.x509.issuer().as_raw() != issuer.subject().as_raw() {
            return Err(TdxRejection::ChainName { certificate });
        }
        issuer.must_be_authority(below)?;
        let (tbs, signature) = (
            self.x509.tbs_certificate.as_ref(),
            &self.x509.signature_value,
        );
        if signature.unused_bits == 0
            && issuer.signed(
                tbs,
                &self.x509.signature_algorithm,
                &signature.data,
                signatures,
            )
        {
            Ok(())
        } else {
            Err(TdxRejection::ChainSignature { certificate })
        }
    }

    /// Whether this certificate's key signed `message` by ECDSA P-256 with SHA-256, the only algorithm of these chains.
    pub(crate) fn signed(
        &self,
        message: &[u8],
        algorithm: &AlgorithmIdentifier<'_>,
        signature: &[u8],
        signatures: &Signatures<'_>,
    ) -> bool {
        algorithm.algorithm == ECDSA_WITH_SHA256
            && algorithm.parameters.is_none()
            && self
                .p256_point()
                .is_ok_and(|point| signatures.verify(point, message, signature))
    }

    /// The P-256 point, uncompressed.
    pub(crate) fn p256_point(&self) -> Result<&[u8], TdxRejection> {
        let key = self.x509.public_key();
        let curve = key
            .algorithm
            .parameters
            .as_ref()
            .and_then(|any| any.as_oid().ok());
        let point = key.subject_public_key.data.as_ref();
        if key.algorithm.algorithm != EC_PUBLIC_KEY
            || curve != Some(PRIME256V1)
            || point.len() != 65
            || point.first() != Some(&4)
        {
            return Err(TdxRejection::CertificateMalformed {
                certificate: self.place,
                what: "has no uncompressed P-256 key",
            });
        }
        Ok(point)
    }

    /// Its only common name is one that Intel gives to this place.
    pub(crate) fn must_be_named(&self) -> Result<(), TdxRejection> {
        let mut common = self.x509.subject().iter_common_name();
        let first = common.next().and_then(|name| name.as_str().ok());
        match (first, common.next()) {
            (Some(name), None) if names(self.place).contains(&name) => Ok(()),
            (found, _) => Err(TdxRejection::CertificateName {
                certificate: self.place,
                found: found.unwrap_or_default().to_owned(),
            }),
        }
    }

    /// The subject's first common name.
    pub(crate) fn common_name(&self) -> Option<&str> {
        let mut names = self.x509.subject().iter_common_name();
        names.next().and_then(|name| name.as_str().ok())
    }

    /// The last second of validity.
    pub(crate) fn until(&self) -> UnixTime {
        unix(&self.x509.validity().not_after)
    }

    fn must_be_authority(&self, below: u32) -> Result<(), TdxRejection> {
        let constraints = self.x509.basic_constraints().ok().flatten();
        let usage = self.x509.key_usage().ok().flatten();
        let room = constraints.is_some_and(|extension| {
            let depth = extension.value.path_len_constraint;
            extension.value.ca && depth.is_none_or(|depth| depth >= below)
        });
        let may_sign =
            usage.is_some_and(|usage| usage.value.key_cert_sign() && usage.value.crl_sign());
        if room && may_sign {
            return Ok(());
        }
        Err(TdxRejection::NotAuthority {
            certificate: self.place,
        })
    }

    /// Whoever signs quoting enclaves or collateral may not sign certificates, and its key is for signatures.
    pub(crate) fn must_be_leaf(&self) -> Result<(), TdxRejection> {
        let certificate = self.place;
        let constraints = self.x509.basic_constraints().ok().flatten();
        if constraints.is_none_or(|extension| extension.value.ca) {
            return Err(TdxRejection::LeafIsAuthority { certificate });
        }
        let usage = self.x509.key_usage().ok().flatten();
        if usage
            .is_some_and(|usage| usage.value.digital_signature() && !usage.value.key_cert_sign())
        {
            return Ok(());
        }
        Err(TdxRejection::KeyUsage { certificate })
    }

    /// First and last second included.
    pub(crate) fn must_be_valid_at(&self, now: UnixTime) -> Result<(), TdxRejection> {
        let validity = self.x509.validity();
        let (certificate, from, until) = (
            self.place,
            unix(&validity.not_before),
            unix(&validity.not_after),
        );
        if now < from {
            return Err(TdxRejection::CertificateNotYetValid {
                certificate,
                from,
                now,
            });
        }
        if now > until {
            return Err(TdxRejection::CertificateExpired {
                certificate,
                until,
                now,
            });
        }
        Ok(())
    }
}

/// The certificates of a chain of `wanted` certificates and, perhaps, a root that nobody reads.
pub(crate) fn chain(leaf: Place, text: &[u8], wanted: usize) -> Result<Vec<Vec<u8>>, TdxRejection> {
    let malformed = |what| TdxRejection::ChainMalformed { leaf, what };
    let mut certificates = pem::certificates(text).map_err(malformed)?;
    if certificates.len() < wanted {
        return Err(malformed("has too few certificates"));
    }
    if certificates.len() > wanted.saturating_add(1) {
        return Err(malformed("has too many certificates"));
    }
    certificates.truncate(wanted);
    Ok(certificates)
}

/// A certificate's or list's time. What lies before 1970 becomes 1970, at which nothing is valid.
pub(crate) fn unix(time: &ASN1Time) -> UnixTime {
    UnixTime::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}
