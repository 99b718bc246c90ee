//! The quote's signature: TPMT_SIGNATURE with RSASSA or ECDSA and SHA-256 or stronger, nothing else (rule P2).

use crate::ecdsa::{ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use ring::signature::{
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RsaPublicKeyComponents,
};
use serde::{Deserialize, Serialize};

use super::algorithm::Bank;
use super::key::{Curve, PublicKey};
use super::rejection::TpmRejection;
use crate::reader::Reader;
use crate::strict_json::base64_bytes;

/// TPM_ALG_RSASSA and TPM_ALG_ECDSA.
pub(super) const RSASSA: u16 = 0x0014;
pub(super) const ECDSA: u16 = 0x0018;
/// Longest RSA signature that is read, in bytes: a modulus of 4096 bits.
const RSA_BYTES_MAX: usize = 512;
const EC_BYTES_MAX: usize = 48;

/// A signature in one of the two forms in which quotes travel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QuoteSignature {
    /// TPMT_SIGNATURE, which names its scheme and hash (TPM 2.0 Part 2, 11.3.4).
    Tpmt(#[serde(with = "base64_bytes")] Vec<u8>),
    /// The bare RSA signature; the scheme is RSASSA with SHA-256. Azure's tools hand it on so.
    RsassaSha256(#[serde(with = "base64_bytes")] Vec<u8>),
}

/// A signature of an accepted scheme. It was not checked.
#[derive(Debug)]
pub(super) struct Signature<'a> {
    hash: Bank,
    value: Value<'a>,
}

#[derive(Debug)]
enum Value<'a> {
    Rsassa(&'a [u8]),
    Ecdsa { r: &'a [u8], s: &'a [u8] },
}

impl<'a> Signature<'a> {
    pub(super) fn parse(signature: &'a QuoteSignature) -> Result<Self, TpmRejection> {
        match signature {
            QuoteSignature::Tpmt(bytes) => tpmt(bytes),
            QuoteSignature::RsassaSha256(bytes) if bytes.len() <= RSA_BYTES_MAX => Ok(Self {
                hash: Bank::Sha256,
                value: Value::Rsassa(bytes),
            }),
            QuoteSignature::RsassaSha256(_) => {
                Err(TpmRejection::SignatureMalformed("is longer than 512 bytes"))
            }
        }
    }

    /// The hash that signed, by which the register digest is made too.
    pub(super) const fn hash(&self) -> Bank {
        self.hash
    }

    pub(super) const fn scheme(&self) -> &'static str {
        match self.value {
            Value::Rsassa(_) => "RSASSA",
            Value::Ecdsa { .. } => "ECDSA",
        }
    }

    /// Rule P2: `key` signed `message`, as received.
    pub(super) fn must_be_of(&self, key: &PublicKey, message: &[u8]) -> Result<(), TpmRejection> {
        let good = match (&self.value, key) {
            (Value::Rsassa(signature), PublicKey::Rsa { n, e }) => {
                let algorithm = match self.hash {
                    Bank::Sha256 => &RSA_PKCS1_2048_8192_SHA256,
                    Bank::Sha384 => &RSA_PKCS1_2048_8192_SHA384,
                    Bank::Sha512 => &RSA_PKCS1_2048_8192_SHA512,
                    Bank::Sha1 => return Err(TpmRejection::SignatureHash(Bank::Sha1.id())),
                };
                let key = RsaPublicKeyComponents { n, e };
                key.verify(algorithm, message, signature).is_ok()
            }
            (Value::Ecdsa { r, s }, PublicKey::Ec { curve, point }) => {
                let algorithm = match (curve, self.hash) {
                    (Curve::P256, Bank::Sha256) => &ECDSA_P256_SHA256_FIXED,
                    (Curve::P384, Bank::Sha384) => &ECDSA_P384_SHA384_FIXED,
                    _ => {
                        return Err(TpmRejection::SignatureKey(
                            "pairs a curve with a hash of another strength",
                        ));
                    }
                };
                let fixed = fixed(curve.field_bytes(), r, s)?;
                UnparsedPublicKey::new(algorithm, point)
                    .verify(message, &fixed)
                    .is_ok()
            }
            _ => {
                return Err(TpmRejection::SignatureKey(
                    "is of another kind than the key",
                ));
            }
        };
        if good {
            Ok(())
        } else {
            Err(TpmRejection::QuoteSignature)
        }
    }
}

fn tpmt(bytes: &[u8]) -> Result<Signature<'_>, TpmRejection> {
    let malformed = TpmRejection::SignatureMalformed;
    let mut reader = Reader::new(bytes);
    let scheme = reader.be16().ok_or(malformed("ends inside its scheme"))?;
    if scheme != RSASSA && scheme != ECDSA {
        return Err(TpmRejection::SignatureScheme(scheme));
    }
    let id = reader.be16().ok_or(malformed("ends inside its hash"))?;
    let hash = Bank::from_id(id)
        .filter(|hash| *hash != Bank::Sha1)
        .ok_or(TpmRejection::SignatureHash(id))?;
    let value = if scheme == RSASSA {
        let signature = reader.sized(RSA_BYTES_MAX);
        signature.map(Value::Rsassa)
    } else {
        let r = reader.sized(EC_BYTES_MAX);
        r.and_then(|r| reader.sized(EC_BYTES_MAX).map(|s| Value::Ecdsa { r, s }))
    };
    let value = value.ok_or(malformed("ends inside its value, or is too long"))?;
    if !reader.is_empty() {
        return Err(malformed("has bytes after its end"));
    }
    Ok(Signature { hash, value })
}

/// R and S, each padded in front to the field's length: a TPM may leave leading zeros out.
fn fixed(field_bytes: usize, r: &[u8], s: &[u8]) -> Result<Vec<u8>, TpmRejection> {
    let mut out = Vec::with_capacity(2 * field_bytes);
    for half in [r, s] {
        let padding =
            field_bytes
                .checked_sub(half.len())
                .ok_or(TpmRejection::SignatureMalformed(
                    "has a number longer than its curve's field",
                ))?;
        out.resize(out.len() + padding, 0);
        out.extend_from_slice(half);
    }
    Ok(out)
}
