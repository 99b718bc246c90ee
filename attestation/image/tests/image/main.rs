//! The builder on small inputs that are made here, and on Debian's own where scripts/image-inputs fetched them.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

mod build;
mod prediction;
mod support;
mod uki;
