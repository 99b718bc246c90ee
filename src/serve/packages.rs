//! The sealed packages of the configuration, on their way to running models.

use std::path::PathBuf;
use std::sync::Arc;

use casemate_attestation::{ReleasePublicKey, Sha256Digest};
use casemate_models::LoadedModel;
use casemate_models::engine::EngineLimits;
use casemate_models::package::{DataKey, PackageId, PublisherKey, SealedPackage};

use super::ServeError;
use super::model::Served;
use crate::broker::client::PackageRequest;
use crate::config::{EngineSection, LimitsSection, ModelSection};
use crate::policy::ModelName;
use crate::queue::Generator;

/// Hears of the loading of models, such as a progress bar.
pub trait LoadWatch: Send + Sync {
    /// `done` of `total` bytes of `model` are in memory.
    fn loaded(&self, model: &ModelName, done: u64, total: u64);
}

/// Packages that were opened without a key.
pub(super) struct Packages(Vec<Sealed>);

struct Sealed {
    name: ModelName,
    file: PathBuf,
    package: SealedPackage,
    digest: Sha256Digest,
}

/// The models that are served, by digest, in the order of the configuration.
pub(super) type Models = Vec<(Sha256Digest, Arc<dyn Generator>)>;

impl Packages {
    pub(super) fn open(sections: &[ModelSection]) -> Result<Self, ServeError> {
        let mut packages: Vec<Sealed> = Vec::with_capacity(sections.len());
        for section in sections {
            let package = SealedPackage::open(&section.package);
            let package = package.map_err(|error| ServeError::Package {
                model: section.name.clone(),
                file: section.package.to_path_buf(),
                error,
            })?;
            let digest = Sha256Digest::from_bytes(*package.header().digest().as_bytes());
            if packages.iter().any(|other| other.digest == digest) {
                return Err(ServeError::PackageTwice(section.name.clone()));
            }
            packages.push(Sealed {
                name: section.name.clone(),
                file: section.package.to_path_buf(),
                package,
                digest,
            });
        }
        Ok(Self(packages))
    }

    /// What the broker is asked for.
    pub(super) fn requests(&self) -> Vec<PackageRequest> {
        let request = |sealed: &Sealed| {
            let header = sealed.package.header();
            PackageRequest {
                id: header.id(),
                epoch: header.epoch(),
                key_id: header.key_id().to_owned(),
                digest: sealed.digest,
            }
        };
        self.0.iter().map(request).collect()
    }

    /// What the binding carries (P-20).
    pub(super) fn digests(&self) -> Vec<Sha256Digest> {
        self.0.iter().map(|sealed| sealed.digest).collect()
    }

    /// Opens each package with its key and starts its engine. Keys are wiped as soon as their package is open.
    pub(super) async fn load(
        self,
        keys: Vec<(PackageId, DataKey)>,
        publisher: ReleasePublicKey,
        limits: LimitsSection,
        engine: EngineSection,
        watch: Arc<dyn LoadWatch>,
    ) -> Result<Models, ServeError> {
        let load = move || {
            // The client of the broker has checked that keys come in the order asked for.
            let pairs = self.0.into_iter().zip(keys);
            pairs
                .map(|(sealed, (_, key))| {
                    sealed.load(key, publisher, limits.engine(&engine), &*watch)
                })
                .collect()
        };
        tokio::task::spawn_blocking(load)
            .await
            .map_err(|error| std::io::Error::other(error.to_string()))?
    }
}

impl Sealed {
    fn load(
        self,
        key: DataKey,
        publisher: ReleasePublicKey,
        limits: EngineLimits,
        watch: &dyn LoadWatch,
    ) -> Result<(Sha256Digest, Arc<dyn Generator>), ServeError> {
        let Self {
            name,
            file,
            package,
            digest,
        } = self;
        // The broker knows the floor and releases no key below it.
        let epoch = package.header().epoch();
        let publisher = PublisherKey::from_bytes(*publisher.as_bytes());
        let unlocked =
            package
                .unlock(key, &publisher, epoch)
                .map_err(|error| ServeError::Package {
                    model: name.clone(),
                    file,
                    error,
                })?;
        let mut progress = |done, total| watch.loaded(&name, done, total);
        let loaded = LoadedModel::load(&unlocked, limits, &mut progress);
        let loaded = loaded.map_err(|error| ServeError::Load {
            model: name.clone(),
            error,
        })?;
        let running = loaded.spawn()?;
        Ok((digest, Arc::new(Served::new(running))))
    }
}
