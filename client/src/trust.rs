//! What the client believes in: roots, and signed documents read anew for every attestation, so that a chip struck off the
//! list is refused at the next one without a restart.

use std::path::{Path, PathBuf};

#[cfg(feature = "test-chip")]
use casemate_attestation::nvidia::PinnedGpuRoot;
use casemate_attestation::signed::SIGNED_BYTES_MAX;
use casemate_attestation::{
    Expectations, ExpectationsError, FleetList, HexError, Kind, Payload, Platform, ReferenceValues,
    Rejection, ReleasePublicKey, SignedDocument, SignedError, TrustAnchors, UnixTime, Verified,
    Verifier,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::config::TrustSection;
use crate::exit::ExitCode;
use crate::files::{self, FileError};
use crate::floors::{Floors, FloorsError, FloorsFile};
use crate::identity::PEM_BYTES_MAX;

/// Why there is nothing to verify with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// A file that the configuration names.
    #[error(transparent)]
    File(#[from] FileError),
    /// The release key's file.
    #[error("{path}: {error}", path = path.display())]
    ReleaseKey {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: HexError,
    },
    /// A CA or root file without a certificate.
    #[error("{path} holds no certificate", path = .0.display())]
    NoCertificate(PathBuf),
    /// A signed document was refused.
    #[error("{path}: {error}", path = path.display())]
    Document {
        /// The file.
        path: PathBuf,
        /// The rule it broke.
        error: SignedError,
    },
    /// The documents say nothing for the platform in use.
    #[error("reference values and fleet list: {0}")]
    Nothing(#[from] ExpectationsError),
    /// Roots and documents are for different platforms.
    #[error(transparent)]
    Platforms(#[from] Rejection),
    /// Numbers seen before.
    #[error(transparent)]
    Floors(#[from] FloorsError),
    /// This build knows no test chip.
    #[error(
        "platform test-chip is not part of this build; use the platform of the server's machine"
    )]
    NoTestChip,
    /// The test chip's root is not named.
    #[error("platform test-chip needs test_chip_root in [trust]")]
    NoTestChipRoot,
    /// A root for a chip that is not asked for.
    #[error("test_chip_root or test_gpu_root stands in [trust], but platform is {0}; remove it")]
    StrayTestChipRoot(Platform),
}

impl TrustError {
    /// The process's exit status for it.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Document {
                error: SignedError::Expired { .. },
                ..
            } => ExitCode::Expired,
            Self::Document {
                error: SignedError::Json(_) | SignedError::Format,
                ..
            } => ExitCode::Malformed,
            Self::Document { .. } | Self::Nothing(_) | Self::Platforms(_) => ExitCode::Rejected,
            Self::NoTestChip => ExitCode::Unsupported,
            _ => ExitCode::Configuration,
        }
    }
}

/// Files that say which machines of one fleet are right.
#[derive(Clone, Debug)]
pub struct FleetFiles {
    /// The release key that signs them, public half, hexadecimal.
    pub release_key: PathBuf,
    /// Signed reference values.
    pub reference: PathBuf,
    /// Signed fleet list.
    pub fleet: PathBuf,
    /// The only platform whose evidence is accepted.
    pub platform: Platform,
    /// Root certificate of the test chip, with that platform alone.
    pub test_chip_root: Option<PathBuf>,
    /// Root certificate of the test chip's GPUs, beside it alone.
    pub test_gpu_root: Option<PathBuf>,
}

/// Where the roots and documents of one fleet are.
#[derive(Clone, Debug)]
pub struct Trust {
    files: FleetFiles,
    key: ReleasePublicKey,
    anchors: TrustAnchors,
    floors: FloorsFile,
}

/// A verifier, and the numbers of the documents that it was made from.
#[derive(Clone, Debug)]
pub struct Appraiser {
    /// The one way to say yes.
    pub verifier: Verifier,
    /// Numbers of the documents in force.
    pub numbers: Floors,
}

impl Trust {
    /// Reads keys and roots; documents are read by [`Trust::appraiser`].
    ///
    /// # Errors
    /// [`TrustError`] names the file or the field.
    pub fn load(section: &TrustSection, config: &Path) -> Result<Self, TrustError> {
        let files = FleetFiles {
            release_key: section.release_key.clone(),
            reference: section.reference.clone(),
            fleet: section.fleet.clone(),
            platform: section.platform,
            test_chip_root: section.test_chip_root.clone(),
            test_gpu_root: section.test_gpu_root.clone(),
        };
        Self::of_fleet(files, |key| FloorsFile::beside(config, key.id()))
    }

    /// Reads keys and roots of any fleet, as of the clients that a server judges; `floors` says where its numbers are kept.
    ///
    /// # Errors
    /// [`TrustError`] names the file or the field.
    pub fn of_fleet(
        files: FleetFiles,
        floors: impl FnOnce(&ReleasePublicKey) -> FloorsFile,
    ) -> Result<Self, TrustError> {
        let key = release_key(&files.release_key)?;
        let anchors = anchors(&files)?;
        let floors = floors(&key);
        Ok(Self {
            files,
            key,
            anchors,
            floors,
        })
    }

    /// Who signs the documents.
    #[must_use]
    pub const fn release_key(&self) -> &ReleasePublicKey {
        &self.key
    }

    /// Under which platform evidence must come.
    #[must_use]
    pub fn platform(&self) -> Platform {
        self.anchors.platform()
    }

    /// Opens the signed documents, raises the floors and joins them with the roots.
    ///
    /// # Errors
    /// [`TrustError`] when a document is missing, foreign, rolled back, early or expired.
    pub fn appraiser(&self, now: UnixTime) -> Result<Appraiser, TrustError> {
        let floors = self.floors.read()?;
        let reference: Verified<ReferenceValues> =
            self.document(&self.files.reference, floors.of(Kind::Reference), now)?;
        let fleet: Verified<FleetList> =
            self.document(&self.files.fleet, floors.of(Kind::Fleet), now)?;
        let numbers: Floors = [
            (Kind::Fleet, fleet.number()),
            (Kind::Reference, reference.number()),
        ]
        .into_iter()
        .collect();
        self.floors.raise(&numbers)?;
        let expectations = Expectations::new(self.anchors.platform(), &reference, &fleet)?;
        let verifier = Verifier::new(self.anchors.clone(), expectations)?;
        Ok(Appraiser { verifier, numbers })
    }

    fn document<T: Payload>(
        &self,
        path: &Path,
        floor: u64,
        now: UnixTime,
    ) -> Result<Verified<T>, TrustError> {
        let bytes = files::read_public(path, SIGNED_BYTES_MAX as u64)?;
        SignedDocument::open(&bytes, &self.key, floor, now).map_err(|error| TrustError::Document {
            path: path.to_owned(),
            error,
        })
    }
}

/// The certificates of a PEM file, at least one.
///
/// # Errors
/// [`TrustError::File`] and [`TrustError::NoCertificate`].
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let pem = files::read_public(path, PEM_BYTES_MAX)?;
    let none = || TrustError::NoCertificate(path.to_owned());
    let found: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|_| none())?;
    if found.is_empty() {
        Err(none())
    } else {
        Ok(found)
    }
}

fn release_key(path: &Path) -> Result<ReleasePublicKey, TrustError> {
    let bytes = files::read_public(path, 128)?;
    ReleasePublicKey::from_hex(&String::from_utf8_lossy(&bytes)).map_err(|error| {
        TrustError::ReleaseKey {
            path: path.to_owned(),
            error,
        }
    })
}

fn anchors(section: &FleetFiles) -> Result<TrustAnchors, TrustError> {
    let gpus = section.test_gpu_root.as_deref();
    match (section.platform, &section.test_chip_root) {
        (Platform::TestChip, Some(path)) => test_chip_anchors(path, gpus),
        (platform, Some(_)) => Err(TrustError::StrayTestChipRoot(platform)),
        (platform, None) if gpus.is_some() => Err(TrustError::StrayTestChipRoot(platform)),
        (platform, None) => TrustAnchors::production(platform).ok_or(TrustError::NoTestChipRoot),
    }
}

/// The root of one test chip, and that of its GPUs, each as PEM or as DER.
#[cfg(feature = "test-chip")]
fn test_chip_anchors(path: &Path, gpus: Option<&Path>) -> Result<TrustAnchors, TrustError> {
    let read = |path: &Path| {
        let bytes = files::read_public(path, PEM_BYTES_MAX)?;
        let root = CertificateDer::from_pem_slice(&bytes);
        Ok::<_, TrustError>(root.map_or(bytes, |root| root.to_vec()))
    };
    let anchors = TrustAnchors::test_chip(&read(path)?);
    Ok(match gpus {
        None => anchors,
        Some(path) => anchors.with_private_gpu_root(PinnedGpuRoot::private(&read(path)?)),
    })
}

#[cfg(not(feature = "test-chip"))]
fn test_chip_anchors(_: &Path, _: Option<&Path>) -> Result<TrustAnchors, TrustError> {
    Err(TrustError::NoTestChip)
}
