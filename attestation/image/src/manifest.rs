//! `manifest.json`: what an image is made of, what its files are, and what a machine will measure of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::deb::Package;
use crate::prediction::{Snp, Tdx, Tpm};
use crate::sha256;

/// What the first line of a manifest says.
pub const FORMAT: &str = "casemate/image/v1";

/// An image, for whoever rebuilds it, signs its measurements or boots it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: String,
    /// For people.
    pub release: String,
    /// Whether the host reads what the guest prints. Such an image is for trials, and is measured as another one.
    pub debug_console: bool,
    /// As `uname -r` says it.
    pub kernel: String,
    /// The kernel's command line.
    pub command_line: String,
    /// The time of every file in the initrd, in seconds since 1970.
    pub epoch: u32,
    /// SHA-256 of the program.
    pub program: String,
    /// What compilers wrote into the program.
    pub compilers: Vec<String>,
    /// SHA-256 of the configuration.
    pub configuration: String,
    /// Modules in the order in which they load.
    pub modules: Vec<String>,
    /// Pinned inputs.
    pub inputs: Vec<Input>,
    /// Files beside the manifest by name, the list of parts excepted.
    pub files: BTreeMap<String, Written>,
    /// With firmware for SEV-SNP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snp: Option<Snp>,
    /// With firmware for TDX.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tdx: Option<Tdx>,
    /// One for each way to boot with a TPM that can be predicted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tpm: Vec<Tpm>,
}

/// A pinned input.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// The file's name.
    pub file: String,
    /// Its digest.
    pub sha256: String,
    /// Name of the package.
    pub package: String,
    /// Its version.
    pub version: String,
    /// Its architecture.
    pub architecture: String,
}

impl Input {
    /// What is said of a package.
    #[must_use]
    pub fn of(package: &Package) -> Self {
        Self {
            file: package.file.clone(),
            sha256: package.sha256.clone(),
            package: package.name.clone(),
            version: package.version.clone(),
            architecture: package.architecture.clone(),
        }
    }
}

/// A file beside the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// Its digest.
    pub sha256: String,
    /// Its length.
    pub bytes: u64,
}

impl Written {
    /// What is said of a file.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self {
            sha256: sha256(bytes),
            bytes: bytes.len() as u64,
        }
    }
}
