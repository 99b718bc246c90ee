//! The launch digest of an SEV-SNP guest, for one shape of machine (SEV-SNP ABI 1.58, §8.17).
//!
//! Memory size does not enter it; firmware, processors, their model, guest features and, when booted directly, kernel,
//! initrd and command line do. Policy, HOST_DATA and VMPL are fields of the report beside it.

mod hashes;
mod launch;
mod processor;

pub use hashes::KernelHashes;
pub use launch::{Section, SectionKind, SnpFirmware, Step};
pub use processor::{CpuModel, Hypervisor, Shape};
