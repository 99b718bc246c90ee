//! A TPM 2.0, spoken to directly: the dozen commands that enrolment and quotes need (TPM 2.0 Library, Parts 1 to 3).
//!
//! The attestation key is a primary key: the TPM makes the same one again after every boot from its own seed, so that nothing is
//! stored, in the TPM or on a disk, and an enrolment outlives both.

mod attester;
mod client;
mod command;
mod credential;
mod templates;
mod transport;

pub use attester::{Attester, Enrolment, Measured};
pub use client::{LoadedKey, Tpm};
pub use credential::{
    Credential, CredentialError, SECRET_BYTES_MAX, endorsement_spki, make_credential,
};
pub use templates::KeyKind;
pub use transport::{DeviceFile, Socket, Transport};

/// Where the kernel's resource manager of the first TPM is: handles are ours alone there, and gone when it is closed.
pub const PATH: &str = "/dev/tpmrm0";

const DEVICE: &str = "the TPM";
