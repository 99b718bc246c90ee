//! What is owned, and so what is asked about: out of saved evidence, and out of configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use casemate_attestation::collateral::{Wanted, WantedError};
use casemate_attestation::nvidia::CHAIN_BYTES_MAX;
use casemate_attestation::tdx::PckCa;
use casemate_attestation::{ChipId, Product, TcbVersion};
use casemate_client::files::{self, FileError};
use casemate_client::recorded::{RecordedError, Subject, folder};

use super::config::OwnedSection;

/// The chain in a folder of a device's evidence.
const CHAIN: &str = "chain.pem";

/// Why it is not known what is owned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OwnedError {
    /// A folder of evidence.
    #[error(transparent)]
    Recorded(#[from] RecordedError),
    /// A chain.
    #[error(transparent)]
    File(#[from] FileError),
    /// Evidence that does not say what it needs.
    #[error("{path}: {error}", path = path.display())]
    Wanted {
        /// The folder.
        path: PathBuf,
        /// Why.
        error: WantedError,
    },
    /// A boot log by itself.
    #[error("{path}: a boot log needs no collateral", path = .0.display())]
    Log(PathBuf),
}

/// A chip's firmware in an order for lists; there is none for judging.
type Firmware = [(&'static str, u8); 5];

/// Everything that vendors are asked about.
#[derive(Debug, Clone, Default)]
pub struct Owned {
    pub(super) products: BTreeSet<Product>,
    /// Products whose providers' authority is wanted, too.
    pub(super) providers: BTreeSet<Product>,
    pub(super) chips: BTreeMap<(Product, ChipId, Firmware), TcbVersion>,
    pub(super) platforms: BTreeSet<([u8; 6], PckCa)>,
    pub(super) chains: BTreeSet<Vec<u8>>,
    pub(super) manifests: BTreeSet<String>,
}

impl Owned {
    /// What configuration names, and what the evidence says that it and `evidence` name.
    ///
    /// # Errors
    /// [`OwnedError`] names the folder or file.
    pub fn read(section: &OwnedSection, evidence: &[PathBuf]) -> Result<Self, OwnedError> {
        let mut owned = Self::default();
        let named = section.evidence.iter().map(|path| &**path);
        for path in named.chain(evidence.iter().map(PathBuf::as_path)) {
            owned.add_evidence(path)?;
        }
        for it in &section.chips {
            owned.add(Wanted::Chip {
                product: it.product,
                chip: it.chip,
                tcb: it.tcb,
            });
        }
        let platforms = section.platforms.iter().map(|it| (it.fmspc, it.ca));
        owned.platforms.extend(platforms);
        for path in &section.chains {
            owned.add_chain(path)?;
        }
        owned.manifests.extend(section.manifests.iter().cloned());
        Ok(owned)
    }

    /// Whether there is nothing to ask for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.products.is_empty()
            && self.platforms.is_empty()
            && self.chains.is_empty()
            && self.manifests.is_empty()
    }

    /// Adds one thing to ask for.
    pub fn add(&mut self, wanted: Wanted) {
        match wanted {
            Wanted::Chip { product, chip, tcb } => {
                self.products.insert(product);
                self.chips.insert((product, chip, tcb.components()), tcb);
            }
            Wanted::Provider { product } => {
                self.products.insert(product);
                self.providers.insert(product);
            }
            Wanted::Platform { fmspc, ca } => {
                self.platforms.insert((fmspc, ca));
            }
        }
    }

    fn add_evidence(&mut self, path: &Path) -> Result<(), OwnedError> {
        let recorded = match folder::read(path, None) {
            Ok(recorded) => recorded,
            // Devices are not judged by themselves, and answers about their chains are wanted all the same.
            Err(RecordedError::Unsupported(_)) if path.join(CHAIN).is_file() => {
                return self.add_chain(&path.join(CHAIN));
            }
            Err(error) => return Err(error.into()),
        };
        let Subject::Hardware { evidence, .. } = recorded.subject else {
            return Err(OwnedError::Log(path.to_owned()));
        };
        let path = path.to_owned();
        let wanted = Wanted::by(&evidence).map_err(|error| OwnedError::Wanted { path, error })?;
        self.add(wanted);
        Ok(())
    }

    fn add_chain(&mut self, path: &Path) -> Result<(), OwnedError> {
        let pem = files::read_public(path, CHAIN_BYTES_MAX as u64)?;
        self.chains.insert(pem);
        Ok(())
    }
}
