//! Firmware out of Debian's packages, one file for each way of booting.

use casemate_measure::boot::LoadOptions;

use crate::ImageError;
use crate::deb::Package;

/// What firmware is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// SEV-SNP: one file that holds kernel, initrd and command line to their measured hashes.
    Snp,
    /// TDX: one file with a trust domain's metadata.
    Tdx,
    /// A TPM: code, and a store of variables that the machine gets a copy of.
    Tpm,
}

impl Purpose {
    /// Paths in a package, the code first.
    const fn paths(self) -> &'static [&'static str] {
        match self {
            Self::Snp => &["usr/share/ovmf/OVMF.amdsev.fd"],
            Self::Tdx => &["usr/share/ovmf/OVMF.fd"],
            Self::Tpm => &[
                "usr/share/OVMF/OVMF_CODE_4M.fd",
                "usr/share/OVMF/OVMF_VARS_4M.fd",
            ],
        }
    }

    /// Names of the files beside an image, the code first.
    #[must_use]
    pub const fn files(self) -> &'static [&'static str] {
        match self {
            Self::Snp => &["firmware-snp.fd"],
            Self::Tdx => &["firmware-tdx.fd"],
            Self::Tpm => &["firmware-tpm.fd", "firmware-tpm-variables.fd"],
        }
    }
}

/// Firmware for one purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firmware {
    /// What it is for.
    pub purpose: Purpose,
    /// The release of edk2, as `2025.02`.
    pub release: String,
    /// Its package's name.
    pub package: String,
    /// Contents in the order of [`Purpose::files`].
    pub files: Vec<Vec<u8>>,
}

/// Whether firmware is made of the file at this path of a package.
#[must_use]
pub fn is_wanted(path: &str) -> bool {
    let all = [Purpose::Snp, Purpose::Tdx, Purpose::Tpm];
    all.iter().any(|purpose| purpose.paths().contains(&path))
}

impl Firmware {
    /// Takes the files for a purpose out of a package.
    ///
    /// # Errors
    /// A package without them.
    pub fn new(purpose: Purpose, package: &Package) -> Result<Self, ImageError> {
        let file = |path: &&str| {
            let missing = || ImageError::Package(format!("{} has no {path}", package.file));
            package.files.get(*path).cloned().ok_or_else(missing)
        };
        Ok(Self {
            purpose,
            release: package.upstream_version().to_owned(),
            package: package.name.clone(),
            files: purpose.paths().iter().map(file).collect::<Result<_, _>>()?,
        })
    }

    /// The code.
    #[must_use]
    pub fn code(&self) -> &[u8] {
        self.files.first().map_or(&[], Vec::as_slice)
    }

    /// How this release passes the initrd of a direct boot.
    ///
    /// # Errors
    /// A release in which nobody has looked.
    pub fn load_options(&self) -> Result<LoadOptions, ImageError> {
        match self.release.as_str() {
            "2022.11" | "2025.02" => Ok(LoadOptions::InitrdLast),
            "2026.08" => Ok(LoadOptions::InitrdFirst),
            other => Err(ImageError::FirmwareRelease(other.into())),
        }
    }
}
