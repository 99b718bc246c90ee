//! The certificates of a report: endorsement key, intermediate, pinned root (rules S4 to S6, S8, S9).
//!
//! Three fixed places, so no path is searched. Serial number 0, which every real VCEK has, is accepted.

use ring::signature::{RSA_PSS_2048_8192_SHA384, RsaPublicKeyComponents};
use x509_parser::asn1_rs::{Oid, oid};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::oid_registry::OID_NIST_HASH_SHA384;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::signature_algorithm::SignatureAlgorithm;
use x509_parser::time::ASN1Time;
use x509_parser::x509::{AlgorithmIdentifier, X509Name, X509Version};

use super::rejection::{CertificateRole, SnpRejection};
use super::{Product, TcbVersion};
use crate::digest::UnixTime;

/// Longest certificate that is read, in bytes. AMD's have less than 2,000.
pub(crate) const CERTIFICATE_BYTES_MAX: usize = 8192;

const MGF1: Oid<'static> = oid!(1.2.840.113549.1.1.8);
const RSA_ENCRYPTION: Oid<'static> = oid!(1.2.840.113549.1.1.1);
const EC_PUBLIC_KEY: Oid<'static> = oid!(1.2.840.10045.2.1);
const SECP384R1: Oid<'static> = oid!(1.3.132.0.34);

const STRUCTURE: Oid<'static> = oid!(1.3.6.1.4.1.3704.1.1);
const PRODUCT_NAME: Oid<'static> = oid!(1.3.6.1.4.1.3704.1.2);
const BOOT_LOADER: Oid<'static> = oid!(1.3.6.1.4.1.3704.1.3.1);
const TEE: Oid<'static> = oid!(1.3.6.1.4.1.3704.1.3.2);
const SNP: Oid<'static> = oid!(1.3.6.1.4.1.3704.1.3.3);
const SPARE: [Oid<'static>; 4] = [
    oid!(1.3.6.1.4.1.3704.1.3.4),
    oid!(1.3.6.1.4.1.3704.1.3.5),
    oid!(1.3.6.1.4.1.3704.1.3.6),
    oid!(1.3.6.1.4.1.3704.1.3.7),
];
const MICROCODE: Oid<'static> = oid!(1.3.6.1.4.1.3704.1.3.8);
const FMC: Oid<'static> = oid!(1.3.6.1.4.1.3704.1.3.9);
const HARDWARE_ID: Oid<'static> = oid!(1.3.6.1.4.1.3704.1.4);
const CSP_ID: Oid<'static> = oid!(1.3.6.1.4.1.3704.1.5);

/// A certificate that was read but not checked.
pub(crate) struct Certificate<'a> {
    role: CertificateRole,
    x509: X509Certificate<'a>,
}

impl<'a> Certificate<'a> {
    pub(crate) fn parse(role: CertificateRole, der: &'a [u8]) -> Result<Self, SnpRejection> {
        let malformed = |what| SnpRejection::CertificateMalformed { role, what };
        if der.len() > CERTIFICATE_BYTES_MAX {
            return Err(malformed("longer than 8192 bytes"));
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
        Ok(Self { role, x509 })
    }

    pub(crate) fn subject(&self) -> &X509Name<'a> {
        &self.x509.tbs_certificate.subject
    }

    pub(crate) fn raw_serial(&self) -> &[u8] {
        self.x509.raw_serial()
    }

    /// The subject's only common name.
    pub(crate) fn common_name(&self) -> Result<&str, SnpRejection> {
        let mut names = self.x509.subject().iter_common_name();
        match (
            names.next().and_then(|name| name.as_str().ok()),
            names.next(),
        ) {
            (Some(name), None) => Ok(name),
            _ => Err(self.malformed("has no single common name")),
        }
    }

    /// Rule S5: the subject's common name belongs to this place.
    pub(crate) fn must_be_named(&self, expected: &str) -> Result<(), SnpRejection> {
        let found = self.common_name()?;
        if found == expected {
            return Ok(());
        }
        let (found, expected) = (found.to_owned(), expected.to_owned());
        Err(SnpRejection::CertificateName {
            role: self.role,
            found,
            expected,
        })
    }

    /// Rule S5: `issuer` is an authority and signed this certificate.
    pub(crate) fn must_be_issued_by(&self, issuer: &Certificate<'_>) -> Result<(), SnpRejection> {
        if self.x509.issuer().as_raw() != issuer.x509.subject().as_raw() {
            return Err(SnpRejection::ChainName { role: self.role });
        }
        issuer.must_be_authority()?;
        let (tbs, signature) = (
            self.x509.tbs_certificate.as_ref(),
            &self.x509.signature_value,
        );
        if issuer.signed(tbs, &self.x509.signature_algorithm, &signature.data)
            && signature.unused_bits == 0
        {
            Ok(())
        } else {
            Err(SnpRejection::ChainSignature { role: self.role })
        }
    }

    /// Whether this certificate's key signed `message` by RSA-PSS with SHA-384, the only algorithm of these chains.
    pub(crate) fn signed(
        &self,
        message: &[u8],
        algorithm: &AlgorithmIdentifier<'_>,
        signature: &[u8],
    ) -> bool {
        let key = self.x509.public_key();
        if !is_pss_sha384(algorithm) || key.algorithm.algorithm != RSA_ENCRYPTION {
            return false;
        }
        let Ok(PublicKey::RSA(rsa)) = key.parsed() else {
            return false;
        };
        let components = RsaPublicKeyComponents {
            n: unpadded(rsa.modulus),
            e: unpadded(rsa.exponent),
        };
        components
            .verify(&RSA_PSS_2048_8192_SHA384, message, signature)
            .is_ok()
    }

    fn must_be_authority(&self) -> Result<(), SnpRejection> {
        let constraints = self.x509.basic_constraints().ok().flatten();
        let usage = self.x509.key_usage().ok().flatten();
        let is_ca = constraints.is_some_and(|extension| extension.value.ca);
        if is_ca && usage.is_none_or(|extension| extension.value.key_cert_sign()) {
            Ok(())
        } else {
            Err(SnpRejection::NotAuthority { role: self.role })
        }
    }

    /// Rule S5: whoever signs reports may not sign certificates.
    pub(crate) fn must_be_leaf(&self) -> Result<(), SnpRejection> {
        let constraints = self
            .x509
            .basic_constraints()
            .map_err(|_| self.malformed("bad basic constraints"))?;
        if constraints.is_some_and(|extension| extension.value.ca) {
            return Err(SnpRejection::LeafIsAuthority);
        }
        Ok(())
    }

    /// Rule S6. Returns the first second after its validity.
    pub(crate) fn must_be_valid_at(&self, now: UnixTime) -> Result<UnixTime, SnpRejection> {
        let validity = self.x509.validity();
        let (role, from, until) = (
            self.role,
            unix(&validity.not_before),
            unix(&validity.not_after),
        );
        if now < from {
            return Err(SnpRejection::CertificateNotYetValid { role, from, now });
        }
        if now > until {
            return Err(SnpRejection::CertificateExpired { role, until, now });
        }
        Ok(until.plus(1))
    }

    /// The P-384 point, uncompressed, that reports are verified with.
    pub(crate) fn p384_point(&self) -> Result<&[u8], SnpRejection> {
        let key = self.x509.public_key();
        let curve = key
            .algorithm
            .parameters
            .as_ref()
            .and_then(|any| any.as_oid().ok());
        if key.algorithm.algorithm != EC_PUBLIC_KEY || curve != Some(SECP384R1) {
            return Err(self.malformed("has no P-384 key"));
        }
        Ok(key.subject_public_key.data.as_ref())
    }

    /// Rule S7: the product that the certificate is for.
    pub(crate) fn product(&self) -> Result<Product, SnpRejection> {
        let name = self
            .ia5(&PRODUCT_NAME)
            .ok_or(self.malformed("has no product name"))?;
        Product::from_certificate(name).ok_or(self.malformed("names an unknown product"))
    }

    /// A VLEK's cloud provider.
    pub(crate) fn csp_id(&self) -> Result<&str, SnpRejection> {
        self.ia5(&CSP_ID).ok_or(self.malformed("has no CSP id"))
    }

    /// Rule S9: the hardware id, which is raw bytes and no DER.
    pub(crate) fn hardware_id(&self) -> Option<&[u8]> {
        self.extension(&HARDWARE_ID)
    }

    /// Rule S8: every component of the certificate's firmware version equals that of the report.
    pub(crate) fn tcb_must_equal(
        &self,
        product: Product,
        reported: &TcbVersion,
    ) -> Result<(), SnpRejection> {
        let turin = product == Product::Turin;
        if self.integer(&STRUCTURE) != Some(u8::from(turin)) {
            return Err(self.malformed("has an unknown structure version"));
        }
        let fmc = (FMC, "fmc", reported.fmc);
        let components = [
            (BOOT_LOADER, "boot loader", reported.boot_loader),
            (TEE, "tee", reported.tee),
            (SNP, "snp", reported.snp),
            (MICROCODE, "microcode", reported.microcode),
        ];
        for (id, component, reported) in components.into_iter().chain(turin.then_some(fmc)) {
            let certificate = self
                .integer(&id)
                .ok_or(SnpRejection::TcbExtensionMissing(component))?;
            if certificate != reported {
                return Err(SnpRejection::TcbMismatch {
                    component,
                    reported,
                    certificate,
                });
            }
        }
        let unused = SPARE.into_iter().chain((!turin).then_some(FMC));
        for id in unused {
            if self.extension(&id).is_some() && self.integer(&id) != Some(0) {
                return Err(self.malformed("has a version for a component that its product lacks"));
            }
        }
        Ok(())
    }

    /// The firmware that an endorsement certificate is for.
    pub(crate) fn tcb(&self, product: Product) -> Result<TcbVersion, SnpRejection> {
        let component = |id: Oid<'static>, name| {
            self.integer(&id)
                .ok_or(SnpRejection::TcbExtensionMissing(name))
        };
        let fmc = match product {
            Product::Turin => component(FMC, "fmc")?,
            Product::Milan | Product::Genoa => 0,
        };
        let tcb = TcbVersion {
            boot_loader: component(BOOT_LOADER, "boot loader")?,
            tee: component(TEE, "tee")?,
            snp: component(SNP, "snp")?,
            microcode: component(MICROCODE, "microcode")?,
            fmc,
        };
        self.tcb_must_equal(product, &tcb).map(|()| tcb)
    }

    /// The last second of validity.
    pub(crate) fn until(&self) -> UnixTime {
        unix(&self.x509.validity().not_after)
    }

    fn extension(&self, id: &Oid<'_>) -> Option<&[u8]> {
        self.x509
            .get_extension_unique(id)
            .ok()
            .flatten()
            .map(|extension| extension.value)
    }

    /// A DER INTEGER from 0 to 255 in its shortest form.
    fn integer(&self, id: &Oid<'_>) -> Option<u8> {
        match self.extension(id)? {
            [0x02, 0x01, value @ 0..=0x7f] | [0x02, 0x02, 0x00, value @ 0x80..=0xff] => {
                Some(*value)
            }
            _ => None,
        }
    }

    /// A DER IA5String of less than 128 bytes.
    fn ia5(&self, id: &Oid<'_>) -> Option<&str> {
        match self.extension(id)? {
            [0x16, length @ 0..=0x7f, text @ ..]
                if usize::from(*length) == text.len() && text.is_ascii() =>
            {
                std::str::from_utf8(text).ok()
            }
            _ => None,
        }
    }

    const fn malformed(&self, what: &'static str) -> SnpRejection {
        SnpRejection::CertificateMalformed {
            role: self.role,
            what,
        }
    }
}

/// A certificate's or list's time. What lies before 1970 becomes 1970, at which nothing is valid.
pub(crate) fn unix(time: &ASN1Time) -> UnixTime {
    UnixTime::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}

fn is_pss_sha384(algorithm: &AlgorithmIdentifier<'_>) -> bool {
    let Ok(SignatureAlgorithm::RSASSA_PSS(parameters)) = SignatureAlgorithm::try_from(algorithm)
    else {
        return false;
    };
    let mask = parameters.mask_gen_algorithm();
    *parameters.hash_algorithm_oid() == OID_NIST_HASH_SHA384
        && mask.is_ok_and(|mask| mask.mgf == MGF1 && mask.hash == OID_NIST_HASH_SHA384)
        && parameters.salt_length() == 48
        && parameters.trailer_field() == 1
}

/// An unsigned integer without the zero that DER puts before a high bit.
fn unpadded(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(&[0]).unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn b04_certificate_that_amd_did_not_issue_does_not_chain() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/evidence/snp");
        let (Ok(foreign), Ok(genuine)) = (
            std::fs::read(folder.join("neg-vek-not-from-amd/vek.der")),
            std::fs::read(folder.join("milan-v3-aci/vek.der")),
        ) else {
            assert!(
                std::env::var_os("CI").is_none(),
                "shared evidence is missing"
            );
            println!("SKIP shared evidence is missing");
            return;
        };
        let ask = std::fs::read(folder.join("roots/milan_ask.der")).unwrap();
        let ask = Certificate::parse(CertificateRole::Intermediate, &ask).unwrap();
        let judge = |der: &[u8]| {
            Certificate::parse(CertificateRole::Vek, der)
                .unwrap()
                .must_be_issued_by(&ask)
        };
        assert_eq!(
            judge(&foreign),
            Err(SnpRejection::ChainSignature {
                role: CertificateRole::Vek
            })
        );
        assert_eq!(judge(&genuine), Ok(()));
    }
}
