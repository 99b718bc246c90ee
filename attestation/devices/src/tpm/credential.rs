//! The broker's side of enrolment, TPM2_MakeCredential without a TPM (Part 1, 24.4; annexes B and C; Part 3, 12.6): a secret that
//! only the TPM gives back which has both the certified endorsement key and the named attestation key.

use aws_lc_rs::agreement::{self, ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey};
use aws_lc_rs::cipher::{AES_128, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey};
use casemate_attestation::tpm::{AttestationKey, Curve, PublicKey};
use zeroize::Zeroizing;

use crate::wire::sized;

/// Longest secret: the digest of the endorsement key's name algorithm, SHA-256.
pub const SECRET_BYTES_MAX: usize = 32;

const SEED_BYTES: usize = 32;
/// Label of the seed's encryption; OAEP's has its terminator (Part 1, B.4).
const IDENTITY: &[u8] = b"IDENTITY\0";

/// What the broker sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// TPM2B_ID_OBJECT: authentication, then the encrypted secret.
    pub object: Vec<u8>,
    /// TPM2B_ENCRYPTED_SECRET: the seed, for the endorsement key.
    pub seed: Vec<u8>,
}

/// Why no credential can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// The secret is empty or longer than [`SECRET_BYTES_MAX`].
    #[error("a credential's secret has 1 to 32 bytes, not {0}")]
    SecretLength(usize),
    /// The default endorsement keys are RSA with 2048 bits and P-256; others come with other algorithms.
    #[error("the endorsement key is neither RSA with 2048 bits nor on P-256")]
    KeyKind,
    /// The key is no point of its curve, or no modulus.
    #[error("the endorsement key is not usable")]
    Key,
    /// The system gave no randomness, or the library failed.
    #[error("the credential cannot be computed")]
    Cryptography,
}

/// A credential with `secret` for the TPM of `endorsement`, which it gives out only where `attestation` is loaded too.
///
/// The endorsement key comes out of `verify_ek_certificate`; that the attestation key is restricted and its TPM's own was checked
/// when it was read.
///
/// # Errors
/// [`CredentialError`].
pub fn make_credential(
    endorsement: &PublicKey,
    attestation: &AttestationKey,
    secret: &[u8],
) -> Result<Credential, CredentialError> {
    if secret.is_empty() || secret.len() > SECRET_BYTES_MAX {
        return Err(CredentialError::SecretLength(secret.len()));
    }
    let (seed, encrypted) = match endorsement {
        PublicKey::Rsa { n, e } if n.len() == 256 => for_rsa(n, e)?,
        PublicKey::Ec {
            curve: Curve::P256,
            point,
        } => for_p256(point)?,
        _ => return Err(CredentialError::KeyKind),
    };
    let name = attestation.name();
    let key = kdfa(&seed, b"STORAGE", name, 16)?;
    let mut identity = sized(secret);
    let cipher =
        UnboundCipherKey::new(&AES_128, &key).map_err(|_| CredentialError::Cryptography)?;
    // The key is used once, for this: that its initial vector is zero is the specification's (Part 1, 24.4).
    EncryptingKey::cfb128(cipher)
        .and_then(|cipher| {
            let zero = EncryptionContext::Iv128(FixedLength::from(&[0_u8; 16]));
            cipher.less_safe_encrypt(&mut identity, zero)
        })
        .map_err(|_| CredentialError::Cryptography)?;
    let key = kdfa(&seed, b"INTEGRITY", &[], 32)?;
    let mut authenticated = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &key));
    authenticated.update(&identity);
    authenticated.update(name);
    let mut object = sized(authenticated.sign().as_ref());
    object.extend(identity);
    Ok(Credential {
        object: sized(&object),
        seed: sized(&encrypted),
    })
}

/// SubjectPublicKeyInfo (DER) of a key that [`make_credential`] takes, by which the fleet list calls its TPM
/// ([`tpm_id`](casemate_attestation::tpm::tpm_id)). `None` for a key of another kind.
#[must_use]
pub fn endorsement_spki(key: &PublicKey) -> Option<Vec<u8>> {
    // SEQUENCE { OBJECT IDENTIFIER id-ecPublicKey, OBJECT IDENTIFIER prime256v1 }
    const P256: [u8; 21] = [
        0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
        0x48, 0xce, 0x3d, 0x03, 0x01, 0x07,
    ];
    match key {
        PublicKey::Rsa { n, e } if n.len() == 256 => Some(rsa_spki(n, e)),
        PublicKey::Ec {
            curve: Curve::P256,
            point,
        } => {
            let string = der(0x03, &[&[0], point.as_slice()].concat());
            Some(der(0x30, &[P256.to_vec(), string].concat()))
        }
        _ => None,
    }
}

type Seed = Zeroizing<Vec<u8>>;

/// A random seed, encrypted by RSA-OAEP (Part 1, B.10.4).
fn for_rsa(n: &[u8], e: &[u8]) -> Result<(Seed, Vec<u8>), CredentialError> {
    let key = PublicEncryptingKey::from_der(&rsa_spki(n, e))
        .map_err(|_| CredentialError::Key)
        .and_then(|key| OaepPublicEncryptingKey::new(key).map_err(|_| CredentialError::Key))?;
    let mut seed = Zeroizing::new(vec![0_u8; SEED_BYTES]);
    SystemRandom::new()
        .fill(&mut seed)
        .map_err(|_| CredentialError::Cryptography)?;
    let mut encrypted = vec![0_u8; key.ciphertext_size()];
    let length = key
        .encrypt(
            &OAEP_SHA256_MGF1SHA256,
            &seed,
            &mut encrypted,
            Some(IDENTITY),
        )
        .map_err(|_| CredentialError::Cryptography)?
        .len();
    encrypted.truncate(length);
    Ok((seed, encrypted))
}

/// A seed agreed upon by ECDH with a key of this moment (Part 1, C.6.4): KDFe over both x coordinates.
fn for_p256(point: &[u8]) -> Result<(Seed, Vec<u8>), CredentialError> {
    let failed = CredentialError::Cryptography;
    let ours =
        EphemeralPrivateKey::generate(&ECDH_P256, &SystemRandom::new()).map_err(|_| failed)?;
    let public = ours.compute_public_key().map_err(|_| failed)?;
    let (x, y) = coordinates(public.as_ref()).ok_or(failed)?;
    let (theirs, _) = coordinates(point).ok_or(CredentialError::Key)?;
    let peer = UnparsedPublicKey::new(&ECDH_P256, point);
    let seed = agreement::agree_ephemeral(ours, peer, CredentialError::Key, |shared| {
        Ok(kdfe(shared, x, theirs))
    })?;
    let mut encrypted = sized(x);
    encrypted.extend(sized(y));
    Ok((seed, encrypted))
}

/// x and y of an uncompressed point on P-256.
fn coordinates(point: &[u8]) -> Option<(&[u8], &[u8])> {
    match point.split_first() {
        Some((4, rest)) if rest.len() == 64 => rest.split_at_checked(32),
        _ => None,
    }
}

/// KDFe with SHA-256 for 256 bits: one round (Part 1, 11.4.10.3). The label has its terminator.
fn kdfe(shared: &[u8], ours: &[u8], theirs: &[u8]) -> Seed {
    let mut context = Context::new(&SHA256);
    for part in [&1_u32.to_be_bytes()[..], shared, IDENTITY, ours, theirs] {
        context.update(part);
    }
    Zeroizing::new(context.finish().as_ref().to_vec())
}

/// KDFa with SHA-256 for at most 256 bits: one round (Part 1, 11.4.10.2).
fn kdfa(
    key: &[u8],
    label: &[u8],
    context: &[u8],
    bytes: usize,
) -> Result<Zeroizing<Vec<u8>>, CredentialError> {
    let bits = u32::try_from(bytes * 8).map_err(|_| CredentialError::Cryptography)?;
    let mut round = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    for part in [
        &1_u32.to_be_bytes()[..],
        label,
        &[0],
        context,
        &bits.to_be_bytes(),
    ] {
        round.update(part);
    }
    let tag = round.sign();
    let out = tag
        .as_ref()
        .get(..bytes)
        .ok_or(CredentialError::Cryptography)?;
    Ok(Zeroizing::new(out.to_vec()))
}

/// SubjectPublicKeyInfo of an RSA key (RFC 8017, A.1.1), as the library reads it.
fn rsa_spki(n: &[u8], e: &[u8]) -> Vec<u8> {
    // SEQUENCE { OBJECT IDENTIFIER rsaEncryption, NULL }
    const ALGORITHM: [u8; 15] = [
        0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
    ];
    let integer = |bytes: &[u8]| {
        let mut value = Vec::new();
        if bytes.first().is_some_and(|first| *first >= 0x80) {
            value.push(0);
        }
        value.extend_from_slice(bytes);
        der(0x02, &value)
    };
    let key = der(0x30, &[integer(n), integer(e)].concat());
    let string = der(0x03, &[vec![0], key].concat());
    der(0x30, &[ALGORITHM.to_vec(), string].concat())
}

/// A DER value of less than 64 KiB.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let [high, low] = u16::try_from(content.len())
        .unwrap_or(u16::MAX)
        .to_be_bytes();
    match (high, low) {
        (0, 0..=0x7f) => out.push(low),
        (0, _) => out.extend([0x81, low]),
        _ => out.extend([0x82, high, low]),
    }
    out.extend_from_slice(content);
    out
}
