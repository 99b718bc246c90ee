//! The folder of `casemate image build`, whose files are held to the manifest before a machine gets them.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use casemate_image::firmware::Purpose;
use casemate_image::manifest::{FORMAT, Manifest};
use casemate_image::sha256;

/// Longest manifest and longest file of an image.
const MANIFEST_BYTES_MAX: u64 = 16 * 1024 * 1024;
const FILE_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// Why a folder is not booted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// A file cannot be read.
    #[error("cannot read {file}: {error}", file = .file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The system's answer.
        error: std::io::Error,
    },
    /// The manifest is none.
    #[error("{file} is no manifest of an image: {what}", file = .file.display())]
    Manifest {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A file is not the one that was built.
    #[error("{file} is not the file that was built: its SHA-256 is not the manifest's", file = .0.display())]
    Altered(PathBuf),
    /// The image has no file for this way of booting.
    #[error("the image has no {0}: build it with {1}")]
    Missing(&'static str, &'static str),
}

/// An image's folder.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
    manifest: Manifest,
}

impl Folder {
    /// Reads the manifest.
    ///
    /// # Errors
    /// [`FolderError::Read`], [`FolderError::Manifest`].
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        let file = path.join("manifest.json");
        let bytes = read(&file, MANIFEST_BYTES_MAX)?;
        let wrong = |what: String| FolderError::Manifest {
            file: file.clone(),
            what,
        };
        let manifest: Manifest =
            serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
        if manifest.format != FORMAT {
            return Err(wrong(format!("its format is not {FORMAT}")));
        }
        let path = fs::canonicalize(path).map_err(|error| FolderError::Read {
            file: path.to_owned(),
            error,
        })?;
        Ok(Self { path, manifest })
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was built.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Where a file of the image lies; nothing is said of its contents.
    ///
    /// # Errors
    /// [`FolderError::Missing`] when the image was built without it.
    pub fn file(&self, name: &'static str) -> Result<PathBuf, FolderError> {
        let with = match name {
            "uki.efi" => "--stub",
            _ if Purpose::Snp.files().contains(&name) => "--snp-firmware",
            _ if Purpose::Tdx.files().contains(&name) => "--tdx-firmware",
            _ => "--tpm-firmware",
        };
        let known = self.manifest.files.contains_key(name);
        known
            .then(|| self.path.join(name))
            .ok_or(FolderError::Missing(name, with))
    }

    /// Holds every file to the manifest. A machine with an altered one would start and be refused its keys; this says so sooner.
    ///
    /// # Errors
    /// [`FolderError::Altered`], [`FolderError::Read`].
    pub fn check(&self) -> Result<(), FolderError> {
        for (name, written) in &self.manifest.files {
            let file = self.path.join(name);
            if sha256(&read(&file, FILE_BYTES_MAX)?) != written.sha256 {
                return Err(FolderError::Altered(file));
            }
        }
        Ok(())
    }

    /// A whole file of the image.
    ///
    /// # Errors
    /// As [`Folder::file`], or when it cannot be read.
    pub fn bytes(&self, name: &'static str) -> Result<Vec<u8>, FolderError> {
        read(&self.file(name)?, FILE_BYTES_MAX)
    }
}

fn read(file: &Path, most: u64) -> Result<Vec<u8>, FolderError> {
    let wrong = |error| FolderError::Read {
        file: file.to_owned(),
        error,
    };
    let mut bytes = Vec::new();
    let opened = File::open(file).map_err(wrong)?;
    opened.take(most).read_to_end(&mut bytes).map_err(wrong)?;
    Ok(bytes)
}
