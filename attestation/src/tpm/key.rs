//! The attestation key: a restricted signing key that never leaves its TPM (TPMT_PUBLIC, Part 2, 12.2.4; rule P2).

use serde::{Deserialize, Serialize};
use x509_parser::asn1_rs::{Oid, oid};
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey as Parsed;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::algorithm::Bank;
use super::rejection::TpmRejection;
use super::signature::{ECDSA, RSASSA};
use crate::reader::Reader;
use crate::strict_json::{base64_bytes, base64_list};

/// Longest public area or public key that is read, in bytes.
pub(super) const KEY_BYTES_MAX: usize = 1024;

const RSA: u16 = 0x0001;
const ECC: u16 = 0x0023;
const NULL: u16 = 0x0010;
/// RSA exponent; TPMT_PUBLIC writes it as zero.
const EXPONENT: [u8; 3] = [1, 0, 1];
const MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=512;

const FIXED_TPM: u32 = 1 << 1;
const FIXED_PARENT: u32 = 1 << 4;
const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
const RESTRICTED: u32 = 1 << 16;
const DECRYPT: u32 = 1 << 17;
const SIGN: u32 = 1 << 18;
/// TPMA_OBJECT bits that have a name (Part 2, 8.3): 1, 2, 4 to 11, 16 to 19.
const ATTRIBUTES_KNOWN: u32 = 0x000f_0ff6;

const PRIME256V1: Oid<'static> = oid!(1.2.840.10045.3.1.7);
const SECP384R1: Oid<'static> = oid!(1.3.132.0.34);

/// A curve of an attestation key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Curve {
    /// NIST P-256.
    P256,
    /// NIST P-384.
    P384,
}

impl Curve {
    /// Length of a coordinate in bytes.
    #[must_use]
    pub const fn field_bytes(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
        }
    }

    /// TPM_ECC_CURVE (Part 2, 6.4).
    const fn from_id(id: u16) -> Option<Self> {
        match id {
            0x0003 => Some(Self::P256),
            0x0004 => Some(Self::P384),
            _ => None,
        }
    }
}

/// A public key of an accepted kind and length. Says nothing about who holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKey {
    /// RSA with the exponent 65537 and 2048 to 4096 bits, big-endian without leading zeros.
    Rsa {
        /// Modulus.
        n: Vec<u8>,
        /// Exponent.
        e: Vec<u8>,
    },
    /// A point, uncompressed: 0x04, x, y.
    Ec {
        /// The curve.
        curve: Curve,
        /// The point.
        point: Vec<u8>,
    },
}

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo in DER.
    ///
    /// # Errors
    /// [`TpmRejection::KeyMalformed`].
    pub fn from_spki(der: &[u8]) -> Result<Self, TpmRejection> {
        let malformed = TpmRejection::KeyMalformed;
        if der.len() > KEY_BYTES_MAX {
            return Err(malformed("is longer than 1024 bytes"));
        }
        let (rest, info) = SubjectPublicKeyInfo::from_der(der)
            .map_err(|_| malformed("is not a public key in DER"))?;
        if !rest.is_empty() {
            return Err(malformed("has bytes after its end"));
        }
        Self::from_info(&info)
    }

    pub(super) fn from_info(info: &SubjectPublicKeyInfo<'_>) -> Result<Self, TpmRejection> {
        let malformed = TpmRejection::KeyMalformed;
        let parsed = info
            .parsed()
            .map_err(|_| malformed("is neither RSA nor on a known curve"))?;
        let curve = info.algorithm.parameters.as_ref();
        let curve = curve.and_then(|any| any.as_oid().ok());
        match parsed {
            // The parser goes by the algorithm's identifier: RSA encryption's, and that of keys on curves.
            Parsed::RSA(rsa) => Self::rsa(rsa.modulus, rsa.exponent),
            Parsed::EC(_) => {
                let curve = match curve {
                    Some(curve) if curve == PRIME256V1 => Curve::P256,
                    Some(curve) if curve == SECP384R1 => Curve::P384,
                    _ => return Err(malformed("is on another curve than P-256 and P-384")),
                };
                Self::ec(curve, &info.subject_public_key.data)
            }
            _ => Err(malformed("is neither RSA nor on a known curve")),
        }
    }

    /// An RSA key from big-endian numbers.
    pub(crate) fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<Self, TpmRejection> {
        let malformed = TpmRejection::KeyMalformed;
        let (n, e) = (unpadded(modulus), unpadded(exponent));
        if !MODULUS_BYTES.contains(&n.len()) || n.first() == Some(&0) {
            return Err(malformed(
                "is an RSA key of less than 2048 or more than 4096 bits",
            ));
        }
        if e != EXPONENT {
            return Err(malformed("is an RSA key with another exponent than 65537"));
        }
        let (n, e) = (n.to_vec(), e.to_vec());
        Ok(Self::Rsa { n, e })
    }

    fn ec(curve: Curve, point: &[u8]) -> Result<Self, TpmRejection> {
        if point.first() != Some(&4) || point.len() != 1 + 2 * curve.field_bytes() {
            return Err(TpmRejection::KeyMalformed(
                "is no uncompressed point of its curve",
            ));
        }
        let point = point.to_vec();
        Ok(Self::Ec { curve, point })
    }
}

/// An attestation key as its TPM describes it, with the attributes that make it one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttestationKey {
    public: PublicKey,
    name: Vec<u8>,
}

impl AttestationKey {
    /// Reads a TPMT_PUBLIC and refuses every key that could sign something the TPM did not make itself.
    ///
    /// # Errors
    /// [`TpmRejection::KeyMalformed`] and [`TpmRejection::KeyAttributes`].
    pub fn parse(area: &[u8]) -> Result<Self, TpmRejection> {
        let malformed = TpmRejection::KeyMalformed;
        if area.len() > KEY_BYTES_MAX {
            return Err(malformed("is longer than 1024 bytes"));
        }
        let mut reader = Reader::new(area);
        let short = || malformed("ends too early, or has a length beyond its bounds");
        let kind = reader.be16().ok_or_else(short)?;
        let name_algorithm = reader
            .be16()
            .and_then(Bank::from_id)
            .filter(|bank| *bank != Bank::Sha1)
            .ok_or(malformed(
                "is named by another hash than SHA-256, SHA-384 or SHA-512",
            ))?;
        attributes(reader.be32().ok_or_else(short)?)?;
        reader.sized(64).ok_or_else(short)?;
        let public = match kind {
            RSA => rsa_area(&mut reader),
            ECC => ecc_area(&mut reader),
            _ => return Err(malformed("is neither RSA nor ECC")),
        }?;
        if !reader.is_empty() {
            return Err(malformed("has bytes after its end"));
        }
        let mut name = name_algorithm.id().to_be_bytes().to_vec();
        name.extend(name_algorithm.digest(area));
        Ok(Self { public, name })
    }

    /// The key.
    #[must_use]
    pub const fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The TPM's Name of it: hash algorithm and digest of the public area (Part 1, 16). A credential is made for this.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        &self.name
    }
}

/// How evidence names the key that signed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum KeyEvidence {
    /// By a certificate that chains to a pinned root; padding of zeros after the leaf, as an NV index has it, is cut off.
    Certificate {
        /// The key's own certificate, in DER.
        #[serde(with = "base64_bytes")]
        leaf: Vec<u8>,
        /// Those above it, nearest first, without the root.
        #[serde(with = "base64_list")]
        intermediates: Vec<Vec<u8>>,
    },
    /// By its TPMT_PUBLIC, to be found among the enrolled keys.
    PublicArea(#[serde(with = "base64_bytes")] Vec<u8>),
    /// By its SubjectPublicKeyInfo (DER), to be found among the enrolled keys.
    Spki(#[serde(with = "base64_bytes")] Vec<u8>),
}

fn attributes(bits: u32) -> Result<(), TpmRejection> {
    let refused = |what| Err(TpmRejection::KeyAttributes { what, bits });
    let must = [
        (FIXED_TPM, "may leave its TPM"),
        (FIXED_PARENT, "may move to another parent"),
        (SENSITIVE_DATA_ORIGIN, "was not made by its TPM"),
        (RESTRICTED, "may sign what its TPM did not make"),
        (SIGN, "may not sign"),
    ];
    for (bit, what) in must {
        if bits & bit == 0 {
            return refused(what);
        }
    }
    if bits & DECRYPT != 0 {
        return refused("decrypts too");
    }
    if bits & !ATTRIBUTES_KNOWN != 0 {
        return refused("has attributes that are not known");
    }
    Ok(())
}

/// Symmetric algorithm none, then the signing scheme.
fn scheme(reader: &mut Reader<'_>, expected: u16) -> Result<(), TpmRejection> {
    let malformed = TpmRejection::KeyMalformed;
    if reader.be16() != Some(NULL) {
        return Err(malformed(
            "has a symmetric algorithm, as only storage keys have",
        ));
    }
    let scheme = reader.be16().ok_or(malformed("ends inside its scheme"))?;
    if scheme != expected {
        return Err(TpmRejection::SignatureScheme(scheme));
    }
    let hash = reader.be16().ok_or(malformed("ends inside its scheme"))?;
    match Bank::from_id(hash) {
        Some(bank) if bank != Bank::Sha1 => Ok(()),
        _ => Err(TpmRejection::SignatureHash(hash)),
    }
}

fn rsa_area(reader: &mut Reader<'_>) -> Result<PublicKey, TpmRejection> {
    let malformed = TpmRejection::KeyMalformed;
    scheme(reader, RSASSA)?;
    let bits = reader.be16().ok_or(malformed("ends inside its length"))?;
    let exponent = reader.be32().ok_or(malformed("ends inside its exponent"))?;
    if exponent != 0 && exponent != 65_537 {
        return Err(malformed("is an RSA key with another exponent than 65537"));
    }
    let modulus = reader.sized(512).ok_or(malformed(
        "ends inside its modulus, or has more than 4096 bits",
    ))?;
    if modulus.len() * 8 != usize::from(bits) {
        return Err(malformed("has a modulus of another length than it says"));
    }
    PublicKey::rsa(modulus, &EXPONENT)
}

fn ecc_area(reader: &mut Reader<'_>) -> Result<PublicKey, TpmRejection> {
    let malformed = TpmRejection::KeyMalformed;
    scheme(reader, ECDSA)?;
    let curve = reader
        .be16()
        .and_then(Curve::from_id)
        .ok_or(malformed("is on another curve than P-256 and P-384"))?;
    if reader.be16() != Some(NULL) {
        return Err(malformed("has a key derivation scheme"));
    }
    let mut point = vec![4];
    for _ in 0..2 {
        let coordinate = reader
            .sized(curve.field_bytes())
            .ok_or(malformed("has a coordinate longer than its curve's field"))?;
        point.resize(point.len() + curve.field_bytes() - coordinate.len(), 0);
        point.extend_from_slice(coordinate);
    }
    PublicKey::ec(curve, &point)
}

/// An unsigned integer without the zero that DER puts before a high bit.
pub(super) fn unpadded(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(&[0]).unwrap_or(bytes)
}
