//! What a machine will measure, computed from the files that it boots and before it exists.
//!
//! Everything is a function of bytes: no file, clock or network is reached. Nothing here judges evidence; what is computed
//! becomes reference values (docs/formats/measure.md), and those are signed by an officer.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        reason = "a test that cannot go on should stop"
    )
)]

pub mod boot;
mod bytes;
mod error;
pub mod firmware;
pub mod pe;
pub mod registers;
pub mod snp;
pub mod tdx;

pub use error::MeasureError;

/// Bytes of a page of guest memory.
pub const PAGE: usize = 4096;
