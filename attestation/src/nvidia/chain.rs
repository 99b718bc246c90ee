//! A device's certificate chain: PEM, leaf first, exactly in order, and the last one is the pinned root byte for byte (rule N3).
//!
//! The order is given, so no path is searched. A root of the evidence's own counts for nothing. Manifests are signed under a chain
//! of the same form and another root.

use crate::ecdsa::{
    ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA384_FIXED, UnparsedPublicKey, VerificationAlgorithm,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use x509_parser::asn1_rs::{Oid, oid};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer as _;
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Version;

use super::firmware::{self, FirmwareId};
use super::rejection::NvidiaRejection;
use super::roots::PinnedGpuRoot;
use crate::der::signature_algorithms;
use crate::digest::{Sha256Digest, UnixTime};

/// Longest chain that is read, in bytes of text. Drivers reserve 5120.
pub const CHAIN_BYTES_MAX: usize = 16 * 1024;
/// Longest certificate that is read, in bytes.
const CERTIFICATE_BYTES_MAX: usize = 4096;
/// Certificates in a chain, with leaf and root. Devices have five.
const CERTIFICATES_MAX: usize = 8;
/// A leaf, what stands over it, and a root: a leaf right under the root would have no device of its own.
const CERTIFICATES_MIN: usize = 3;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

const EC_PUBLIC_KEY: Oid<'static> = oid!(1.2.840.10045.2.1);
const SECP384R1: Oid<'static> = oid!(1.3.132.0.34);
const ECDSA_SHA384: Oid<'static> = oid!(1.2.840.10045.4.3.3);

/// A certificate's place in the chain: 0 for the leaf, upwards from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CertificatePlace(pub usize);

impl CertificatePlace {
    /// Not in the chain: who signed an answer about one of its certificates.
    pub const RESPONDER: Self = Self(usize::MAX);
}

impl std::fmt::Display for CertificatePlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            usize::MAX => f.write_str("responder's certificate"),
            0 => f.write_str("leaf certificate"),
            number => write!(f, "certificate {number} above the leaf"),
        }
    }
}

/// What a chain that was checked says of its device.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    point: Vec<u8>,
    /// SHA-256 of the leaf's key.
    pub(super) leaf_key: Sha256Digest,
    /// The leaf's serial number.
    pub(super) leaf_serial: Vec<u8>,
    /// SHA-256 of the key above the leaf: the device's own, that signs a leaf for each firmware.
    pub(super) device_key: Sha256Digest,
    firmware: Result<FirmwareId, NvidiaRejection>,
    pub(super) certificates: usize,
    pub(super) root_is_nvidias: bool,
    /// Everything above the leaf, up to the root: whom revocation can be about, each with its issuer behind it (rule N6).
    pub(super) above_leaf: Vec<Vec<u8>>,
}

impl Identity {
    /// Rule N4: the leaf's key signed `message`; r and s as SPDM writes them.
    pub(super) fn signed(&self, message: &[u8], signature: &[u8; 96]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, &self.point)
            .verify(message, signature)
            .is_ok()
    }

    /// Rule N5.
    pub(super) fn firmware_id(&self) -> Result<FirmwareId, NvidiaRejection> {
        self.firmware.clone()
    }
}

/// Rule N3. Returns what the chain says of its device.
pub(super) fn verify(
    pem: &[u8],
    roots: &[PinnedGpuRoot],
    now: UnixTime,
) -> Result<Identity, NvidiaRejection> {
    let ders = certificates(pem)?;
    let chain = parsed(&ders)?;
    let last = ders.last().ok_or(NvidiaRejection::ChainLength(0))?;
    let pinned = roots
        .iter()
        .find(|root| root.der() == last.as_slice())
        .ok_or(NvidiaRejection::NoPinnedRoot)?;
    let [leaf, device, _, ..] = chain.as_slice() else {
        return Err(NvidiaRejection::ChainLength(chain.len()));
    };
    linked(&chain, now)?;
    Ok(Identity {
        point: leaf.point()?.to_vec(),
        leaf_key: leaf.key_digest(),
        leaf_serial: leaf.x509.raw_serial().to_vec(),
        device_key: device.key_digest(),
        firmware: leaf.firmware_id(),
        certificates: chain.len(),
        root_is_nvidias: pinned.is_nvidias(),
        above_leaf: ders.iter().skip(1).cloned().collect(),
    })
}

/// Rule R-3: who signed a manifest. The chain is leaf first and ends in the pinned root, byte for byte. Returns the leaf's point and
/// the last second at which all of the chain is valid.
pub(super) fn signer(
    ders: &[Vec<u8>],
    root: &[u8],
    now: UnixTime,
) -> Result<(Vec<u8>, UnixTime), NvidiaRejection> {
    // A signer and a root at least. Whose root it is comes before how far away.
    if !(2..=CERTIFICATES_MAX).contains(&ders.len()) {
        return Err(NvidiaRejection::ChainLength(ders.len()));
    }
    let chain = parsed(ders)?;
    if ders.last().is_none_or(|last| last.as_slice() != root) {
        return Err(NvidiaRejection::NoPinnedRoot);
    }
    linked(&chain, now)?;
    let leaf = chain.first().ok_or(NvidiaRejection::ChainLength(0))?;
    let ends = chain.iter().map(|certificate| certificate.until());
    let until = ends.min().ok_or(NvidiaRejection::ChainLength(0))?;
    Ok((leaf.point()?.to_vec(), until))
}

fn parsed(ders: &[Vec<u8>]) -> Result<Vec<Certificate<'_>>, NvidiaRejection> {
    ders.iter()
        .enumerate()
        .map(|(place, der)| Certificate::parse(CertificatePlace(place), der))
        .collect()
}

/// A leaf, and each one issued by the one behind it, all valid.
fn linked(chain: &[Certificate<'_>], now: UnixTime) -> Result<(), NvidiaRejection> {
    let leaf = chain.first().ok_or(NvidiaRejection::ChainLength(0))?;
    leaf.must_be_leaf()?;
    for ((certificate, issuer), below) in chain.iter().zip(chain.iter().skip(1)).zip(0..) {
        certificate.must_be_issued_by(issuer, below)?;
    }
    for certificate in chain {
        certificate.must_be_valid_at(now)?;
    }
    Ok(())
}

/// The certificates (DER) of a PEM text: blocks of one label, and nothing but white space between them.
pub(super) fn certificates(pem: &[u8]) -> Result<Vec<Vec<u8>>, NvidiaRejection> {
    let chain = blocks(pem)?;
    if chain.len() < CERTIFICATES_MIN {
        return Err(NvidiaRejection::ChainLength(chain.len()));
    }
    Ok(chain)
}

/// The same of any number.
pub(super) fn blocks(pem: &[u8]) -> Result<Vec<Vec<u8>>, NvidiaRejection> {
    let malformed = NvidiaRejection::ChainMalformed;
    if pem.len() > CHAIN_BYTES_MAX {
        return Err(malformed("is longer than 16384 bytes"));
    }
    let text = std::str::from_utf8(pem).map_err(|_| malformed("is not text"))?;
    let mut rest = text.trim_ascii();
    let mut chain = Vec::new();
    while !rest.is_empty() {
        let inside = rest
            .strip_prefix(BEGIN)
            .ok_or(malformed("has text outside of its certificates"))?;
        let (body, after) = inside
            .split_once(END)
            .ok_or(malformed("ends inside a certificate"))?;
        let letters: String = body.split_ascii_whitespace().collect();
        let der = STANDARD
            .decode(letters)
            .map_err(|_| malformed("has a certificate that is not base64"))?;
        chain.push(der);
        if chain.len() > CERTIFICATES_MAX {
            return Err(NvidiaRejection::ChainLength(chain.len()));
        }
        rest = after.trim_ascii_start();
    }
    if chain.is_empty() {
        return Err(NvidiaRejection::ChainLength(0));
    }
    Ok(chain)
}

/// A certificate that was read but not checked.
pub(super) struct Certificate<'a> {
    place: CertificatePlace,
    x509: X509Certificate<'a>,
}

impl<'a> Certificate<'a> {
    pub(super) fn parse(place: CertificatePlace, der: &'a [u8]) -> Result<Self, NvidiaRejection> {
        let malformed = |what| NvidiaRejection::CertificateMalformed { place, what };
        if der.len() > CERTIFICATE_BYTES_MAX {
            return Err(malformed("is longer than 4096 bytes"));
        }
        let (rest, x509) =
            X509Certificate::from_der(der).map_err(|_| malformed("is no certificate in DER"))?;
        if !rest.is_empty() {
            return Err(malformed("is followed by other bytes"));
        }
        if x509.version() != X509Version::V3 {
            return Err(malformed("is not of version 3"));
        }
        // The parser looks at tag numbers only, and what lies outside the signed part nobody signed.
        match signature_algorithms(der) {
            Some((inside, outside)) if inside == outside => {}
            Some(_) => return Err(malformed("names two signature algorithms")),
            None => return Err(malformed("is no certificate in DER")),
        }
        if x509.extensions_map().is_err() {
            return Err(malformed("has an extension twice"));
        }
        let understood = |parsed: &ParsedExtension<'_>| match parsed {
            ParsedExtension::BasicConstraints(_) | ParsedExtension::KeyUsage(_) => true,
            // What a key is for is asked of responders, and of nobody else.
            ParsedExtension::ExtendedKeyUsage(_) => place == CertificatePlace::RESPONDER,
            _ => false,
        };
        if x509
            .extensions()
            .iter()
            .any(|extension| extension.critical && !understood(extension.parsed_extension()))
        {
            return Err(malformed("has a critical extension that is not understood"));
        }
        let certificate = Self { place, x509 };
        certificate.point()?;
        Ok(certificate)
    }

    /// Its key: an uncompressed point of P-384, the only curve of these chains.
    pub(super) fn point(&self) -> Result<&[u8], NvidiaRejection> {
        let key = self.x509.public_key();
        let curve = key.algorithm.parameters.as_ref();
        let curve = curve.and_then(|any| any.as_oid().ok());
        let point = key.subject_public_key.data.as_ref();
        if key.algorithm.algorithm != EC_PUBLIC_KEY
            || curve != Some(SECP384R1)
            || point.len() != 97
            || point.first() != Some(&4)
        {
            return Err(NvidiaRejection::CertificateMalformed {
                place: self.place,
                what: "has no uncompressed P-384 key",
            });
        }
        Ok(point)
    }

    pub(super) fn subject(&self) -> &[u8] {
        self.x509.subject().as_raw()
    }

    /// The same, for people: its common name, or all of it.
    pub(super) fn subject_text(&self) -> String {
        let mut names = self.x509.subject().iter_common_name();
        let common = names.next().and_then(|name| name.as_str().ok());
        common.map_or_else(|| self.x509.subject().to_string(), str::to_owned)
    }

    pub(super) fn issuer(&self) -> &[u8] {
        self.x509.issuer().as_raw()
    }

    /// The serial number's bytes, as DER has them.
    pub(super) fn serial(&self) -> &[u8] {
        self.x509.raw_serial()
    }

    /// The last second of validity.
    pub(super) fn until(&self) -> UnixTime {
        unix(&self.x509.validity().not_after)
    }

    /// Whether its key may sign answers about revocation (RFC 6960, 4.2.2.2).
    pub(super) fn signs_answers(&self) -> bool {
        let purpose = self.x509.extended_key_usage().ok().flatten();
        purpose.is_some_and(|extension| extension.value.ocsp_signing)
    }

    /// Whether its key signed `message`, by the only algorithm of these chains.
    pub(super) fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let verifier: &'static dyn VerificationAlgorithm = &ECDSA_P384_SHA384_ASN1;
        self.point().is_ok_and(|point| {
            UnparsedPublicKey::new(verifier, point)
                .verify(message, signature)
                .is_ok()
        })
    }

    fn key_digest(&self) -> Sha256Digest {
        Sha256Digest::of(&self.x509.public_key().subject_public_key.data)
    }

    /// A device's key signs reports and no certificates.
    pub(super) fn must_be_leaf(&self) -> Result<(), NvidiaRejection> {
        let constraints = self.x509.basic_constraints();
        let constraints = constraints.map_err(|_| NvidiaRejection::LeafIsAuthority)?;
        if constraints.is_some_and(|extension| extension.value.ca) {
            return Err(NvidiaRejection::LeafIsAuthority);
        }
        let usage = self.x509.key_usage().ok().flatten();
        match usage.map(|extension| extension.value) {
            Some(usage) if usage.key_cert_sign() || usage.crl_sign() => {
                Err(NvidiaRejection::LeafIsAuthority)
            }
            Some(usage) if usage.digital_signature() => Ok(()),
            _ => Err(NvidiaRejection::LeafUsage),
        }
    }

    /// `issuer` is an authority that may stand over `below` other authorities, and signed this certificate.
    pub(super) fn must_be_issued_by(
        &self,
        issuer: &Certificate<'_>,
        below: u32,
    ) -> Result<(), NvidiaRejection> {
        let place = self.place;
        if self.x509.issuer().as_raw() != issuer.x509.subject().as_raw() {
            return Err(NvidiaRejection::ChainName { place });
        }
        issuer.must_be_authority(below)?;
        let signature = &self.x509.signature_value;
        let algorithm = &self.x509.signature_algorithm;
        let good = algorithm.algorithm == ECDSA_SHA384
            && algorithm.parameters.is_none()
            && signature.unused_bits == 0
            && issuer.signed(self.x509.tbs_certificate.as_ref(), &signature.data);
        if good {
            Ok(())
        } else {
            Err(NvidiaRejection::ChainSignature { place })
        }
    }

    fn must_be_authority(&self, below: u32) -> Result<(), NvidiaRejection> {
        let place = self.place;
        let not_authority = NvidiaRejection::NotAuthority { place };
        let constraints = self.x509.basic_constraints().ok().flatten();
        let usage = self.x509.key_usage().ok().flatten();
        let Some(constraints) = constraints.filter(|extension| extension.value.ca) else {
            return Err(not_authority);
        };
        if usage.is_none_or(|extension| !extension.value.key_cert_sign()) {
            return Err(not_authority);
        }
        let most = constraints.value.path_len_constraint;
        if most.is_some_and(|most| below > most) {
            return Err(NvidiaRejection::PathLength { place });
        }
        Ok(())
    }

    /// First and last second included. Devices' certificates end in 9999, so that this proves little.
    pub(super) fn must_be_valid_at(&self, now: UnixTime) -> Result<(), NvidiaRejection> {
        let validity = self.x509.validity();
        let (place, from) = (self.place, unix(&validity.not_before));
        let until = unix(&validity.not_after);
        if now < from {
            return Err(NvidiaRejection::CertificateNotYetValid { place, from, now });
        }
        if now > until {
            return Err(NvidiaRejection::CertificateExpired { place, until, now });
        }
        Ok(())
    }

    /// The firmware id, of whichever generation: a leaf with both or neither has none.
    fn firmware_id(&self) -> Result<FirmwareId, NvidiaRejection> {
        let value = |id: &Oid<'_>| {
            let found = self.x509.get_extension_unique(id).ok().flatten();
            found.map(|extension| extension.value)
        };
        let (composite, info) = (value(&firmware::COMPOSITE), value(&firmware::TCB_INFO));
        let found = match (composite, info) {
            (Some(composite), None) => firmware::of_composite(composite),
            (None, Some(info)) => firmware::of_tcb_info(info),
            (None, None) => return Err(NvidiaRejection::LeafFirmwareId("has none")),
            (Some(_), Some(_)) => return Err(NvidiaRejection::LeafFirmwareId("has two")),
        };
        found.ok_or(NvidiaRejection::LeafFirmwareId("has a malformed one"))
    }
}

/// A certificate's time. What lies before 1970 becomes 1970, at which nothing is valid.
fn unix(time: &ASN1Time) -> UnixTime {
    UnixTime::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}
