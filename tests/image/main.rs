//! The guest image from the command line: built twice, looked at, booted under emulation where QEMU can be had, and the host
//! beside it. `scripts/image-inputs` fetches what is built from; a test says SKIP for what is not there.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

mod build;
mod held;
mod host;
mod inputs;
mod lacking;
mod machine;
mod place;
mod served;
mod started;
mod team;
