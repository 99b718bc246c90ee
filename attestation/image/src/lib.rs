//! Builds the guest image from a signed kernel, one static program and one configuration, and says what is in it.
//!
//! Everything is a function of bytes: no file, clock or network is reached, so that the same inputs give the same bytes
//! everywhere (docs/formats/image.md). What a machine measures of the result is predicted by `casemate-measure`.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        reason = "a test that cannot go on should stop"
    )
)]

mod compressed;
pub mod cpio;
pub mod crates;
pub mod deb;
mod elf;
mod error;
pub mod firmware;
pub mod guest;
pub mod kernel;
pub mod manifest;
pub mod pins;
pub mod prediction;
pub mod program;
pub mod sbom;
pub mod uki;

pub use error::ImageError;

/// SHA-256 of `bytes`, in lower-case hexadecimal.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(ring::digest::digest(&ring::digest::SHA256, bytes))
}
