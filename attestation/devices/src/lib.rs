//! The attestation devices of a real machine: what asks them, what waits for them, and what their answers look like.
//!
//! Nothing is judged here: bytes leave this crate as the device gave them, and `casemate-attestation` says what they are worth.
//! No report is kept or asked for ahead of time. Every device is reached through a trait, so that a test stands in for the kernel.

// How a device is asked, whatever it is.
pub mod error;
pub mod files;
pub mod retry;
mod wire;

// The devices.
pub mod eventlog;
pub mod nvidia;
pub mod sev_guest;
pub mod tdx;
pub mod tpm;
pub mod tsm;

// Which of them this machine has, and evidence as sessions want it.
pub mod machine;
pub mod provider;

pub use error::DeviceError;
pub use machine::Machine;
pub use provider::{Collateral, CollateralFolder, SnpProvider, TdxProvider, TpmProvider};
pub use retry::{Retry, SystemTime, Time};
