//! Key-encryption backends that wrap data keys, and the wrapped keys that the broker may release.
//!
//! The key-encryption key never leaves its backend. A wrapped key opens only for the package, epoch and key-encryption
//! key that it was made for.

mod file;
mod wrapped;

pub use file::FileKek;
pub(crate) use wrapped::decode_hex;
pub use wrapped::{KeyFolderError, RegisteredKey, list, register};

pub use casemate_models::package::{DataKey, PackageId};

use zeroize::{Zeroize, ZeroizeOnDrop};

/// Which package a key belongs to; the wrapping authenticates all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeySubject {
    /// Package id of the clear header.
    pub package_id: PackageId,
    /// Epoch of the clear header.
    pub epoch: u64,
}

/// Why a data key was not wrapped or unwrapped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Altered, or wrapped for another package, epoch or key-encryption key: one error, so that nobody learns which.
    #[error(
        "the wrapped key does not open: altered, or made for another package or key-encryption key"
    )]
    DoesNotOpen,
    /// Asked for a key of another key-encryption key.
    #[error("the key-encryption key here is {here}, the package asks for {asked}")]
    OtherKek {
        /// Key id of this backend.
        here: String,
        /// Key id in the package's header.
        asked: String,
    },
    /// The key-encryption key is not what it must be.
    #[error("{0} is not a key-encryption key of 32 bytes")]
    BadKek(String),
    /// The system gave no randomness.
    #[error("no randomness from the operating system")]
    NoRandomness,
    /// A file of the backend could not be used.
    #[error(transparent)]
    File(#[from] crate::secrets::FileError),
}

/// A backend that holds a key-encryption key: a file today; tokens, TPMs and vaults are to follow.
pub trait KeyEncryption: Send + Sync {
    /// Names the key-encryption key; stands in package headers.
    fn key_id(&self) -> &str;

    /// Wraps `key` for `subject`.
    ///
    /// # Errors
    /// When the backend fails.
    fn wrap(&self, subject: &KeySubject, key: &DataKey) -> Result<Vec<u8>, KeyError>;

    /// Unwraps what [`wrap`](Self::wrap) made for the same subject under the same key-encryption key.
    ///
    /// # Errors
    /// [`KeyError::DoesNotOpen`] for anything else.
    fn unwrap(&self, subject: &KeySubject, wrapped: &[u8]) -> Result<DataKey, KeyError>;

    /// Derives a key for `label`, always the same one under the same key-encryption key. The broker authenticates its
    /// store with it.
    ///
    /// # Errors
    /// When the backend fails.
    fn derive(&self, label: &str) -> Result<DerivedKey, KeyError>;
}

/// A key that a backend derived for one purpose. Wiped when dropped.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct DerivedKey([u8; 32]);

impl DerivedKey {
    /// The bytes, for the one primitive that the label names.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for DerivedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DerivedKey(..)")
    }
}
