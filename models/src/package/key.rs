//! Data keys and the subkeys derived from them (rules PK-10, PK-11).
//!
//! `ring` does not wipe the key schedules it holds; they live on the heap, where the product's allocator
//! zeroes what it frees.

use std::fmt;

use ring::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroize;

use super::error::SealError;
use super::frame;
use super::header::PackageId;

pub(super) const SALT: &[u8] = b"casemate/package/v1";
const SUBKEY_LABEL: &[u8] = b"casemate/subkey/v1";

/// The 32 bytes that open one package. On the heap, so that moving it leaves no copy behind.
pub struct DataKey(Box<[u8; 32]>);

impl DataKey {
    /// Takes over a key that a broker released; wipes what it was handed.
    pub fn from_bytes(bytes: &mut [u8; 32]) -> Self {
        let key = Self(Box::new(*bytes));
        bytes.zeroize();
        key
    }

    /// The key's bytes, to wrap them or to release them to an attested server; nothing else needs them.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Drop for DataKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(..)")
    }
}

/// A new package's id and data key. Sealing uses it up: nonces are chunk indices, so that a key and an
/// id must never meet a second content (rule PK-10).
pub(super) struct FreshKey {
    pub(super) id: PackageId,
    pub(super) key: DataKey,
}

impl FreshKey {
    /// Draws both from the system's randomness.
    pub(super) fn generate() -> Result<Self, SealError> {
        let random = SystemRandom::new();
        let (mut id, mut key) = ([0; 16], Box::new([0; 32]));
        random.fill(&mut id).map_err(|_| SealError::Crypto)?;
        random
            .fill(key.as_mut_slice())
            .map_err(|_| SealError::Crypto)?;
        Ok(Self {
            id: PackageId::from_bytes(id),
            key: DataKey(key),
        })
    }

    /// Fixed id and key, for vectors only: outside this crate's tests a key is always fresh.
    #[cfg(test)]
    pub(super) fn fixed(id: [u8; 16], mut key: [u8; 32]) -> Self {
        Self {
            id: PackageId::from_bytes(id),
            key: DataKey::from_bytes(&mut key),
        }
    }
}

/// Which of a package's two sealed streams (rule PK-11).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Manifest,
    Weights,
}

impl Part {
    pub(super) fn text(self) -> &'static [u8] {
        match self {
            Part::Manifest => b"manifest",
            Part::Weights => b"weights",
        }
    }
}

/// The `info` that separates one subkey from every other (rule PK-11).
pub(super) fn subkey_info(id: PackageId, part: Part) -> Vec<u8> {
    let mut info = SUBKEY_LABEL.to_vec();
    frame::put(&mut info, id.as_bytes());
    frame::put(&mut info, part.text());
    info
}

/// Derives a part's AES-256-GCM key; its bytes never pass through our hands.
pub(super) fn subkey(
    key: &DataKey,
    id: PackageId,
    part: Part,
) -> Result<Box<LessSafeKey>, ring::error::Unspecified> {
    let info = subkey_info(id, part);
    let secret = Salt::new(HKDF_SHA256, SALT).extract(key.expose());
    let okm = secret.expand(&[&info], &AES_256_GCM).map(UnboundKey::from);
    okm.map(|unbound| Box::new(LessSafeKey::new(unbound)))
}
