//! Sealed model packages (docs/formats/package.md): what is read here was sealed by the pinned publisher.
//!
//! A package goes through three states, each of which can do what the one before could not:
//! [`SealedPackage`] (no key: clear header only) → [`SealedPackage::unlock`] (key, publisher and epoch
//! checked together) → [`UnlockedPackage`] (weights, chunk by chunk). [`seal`] makes packages.
//!
//! A publisher's key pins what is accepted; without it nothing unlocks:
//!
//! ```compile_fail
//! # use casemate_models::package::{DataKey, SealedPackage};
//! fn read(package: SealedPackage, key: DataKey) { package.unlock(key, 1); }
//! ```
//! ```no_run
//! # use casemate_models::package::{DataKey, PublisherKey, SealedPackage};
//! fn read(package: SealedPackage, key: DataKey, pinned: &PublisherKey) { let _ = package.unlock(key, pinned, 1); }
//! ```

mod chunk;
mod error;
mod frame;
mod header;
mod key;
#[cfg(test)]
mod known;
mod manifest;
mod open;
mod read;
mod seal;
mod source;
mod tree;
mod verify;

pub use error::{PackageError, SealError};
pub use header::{ClearHeader, PackageDigest, PackageId};
pub use key::DataKey;
pub use manifest::{Manifest, PublisherKey, VerifiedManifest};
pub use open::{SealedPackage, UnlockedPackage};
pub use seal::{Publisher, SealOptions, Sealed, seal};

/// Bytes of plaintext in a chunk (rule PK-20).
pub const CHUNK_LEN: usize = 1 << 20;

/// Told how many more bytes are done, from any thread.
pub type Progress<'a> = dyn Fn(u64) + Sync + 'a;
