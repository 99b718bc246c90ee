//! The sealed packages of the configuration, on their way to running models.

use std::collections::HashSet;
use std::io::Error;
use std::iter;
use std::path::PathBuf;
use std::sync::Arc;

use casemate_attestation::{ReleasePublicKey, Sha256Digest};
use casemate_models::LoadedModel;
use casemate_models::engine::EngineLimits;
use casemate_models::package::{DataKey, PackageId, PublisherKey, SealedPackage};

use super::ServeError;
use super::model;
use crate::broker::client::PackageRequest;
use crate::config::{ConfigPath, EngineSection, LimitsSection, ModelSection};
use crate::policy::ModelName;
use crate::queue::Generator;

/// Hears of the loading of models, such as a progress bar.
pub trait LoadWatch: Send + Sync {
    /// `done` of `total` bytes of `model` are in memory.
    fn loaded(&self, model: &ModelName, done: u64, total: u64);
}

/// Packages that were opened without a key.
pub(super) struct Packages(Vec<Served>);

/// A model that is served, and the one that guesses for it.
struct Served {
    model: Sealed,
    draft: Option<Sealed>,
}

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
        let mut packages = Self(Vec::with_capacity(sections.len()));
        for section in sections {
            let open = |file| Sealed::open(&section.name, file);
            let served = Served {
                model: open(&section.package)?,
                draft: section.draft.as_ref().map(open).transpose()?,
            };
            packages.0.push(served);
            let mut seen = HashSet::new();
            if !packages.sealed().all(|one| seen.insert(one.digest)) {
                return Err(ServeError::PackageTwice(section.name.clone()));
            }
        }
        Ok(packages)
    }

    /// Every package, each model's draft behind it.
    fn sealed(&self) -> impl Iterator<Item = &Sealed> {
        self.0
            .iter()
            .flat_map(|served| iter::once(&served.model).chain(&served.draft))
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
        self.sealed().map(request).collect()
    }

    /// What the binding carries (P-20): the models that are served. A draft decides nothing that is said.
    pub(super) fn digests(&self) -> Vec<Sha256Digest> {
        self.0.iter().map(|served| served.model.digest).collect()
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
            let mut keys = keys.into_iter().map(|(_, key)| key);
            let mut load = |sealed: Sealed| {
                let key = keys
                    .next()
                    .ok_or_else(|| Error::other("a package has no key"))?;
                sealed.load(key, publisher, limits.engine(&engine), &*watch)
            };
            let served = self.0.into_iter();
            served.map(|served| served.start(&mut load)).collect()
        };
        tokio::task::spawn_blocking(load)
            .await
            .map_err(|error| std::io::Error::other(error.to_string()))?
    }
}

impl Served {
    /// Loads a model, then its draft, and starts the engine.
    fn start(
        self,
        load: &mut dyn FnMut(Sealed) -> Result<LoadedModel, ServeError>,
    ) -> Result<(Sha256Digest, Arc<dyn Generator>), ServeError> {
        let (name, digest) = (self.model.name.clone(), self.model.digest);
        let mut model = load(self.model)?;
        if let Some(draft) = self.draft {
            let drafted = model.with_draft(load(draft)?);
            model = drafted.map_err(|error| ServeError::Load { model: name, error })?;
        }
        Ok((digest, Arc::new(model::Served::new(model.spawn()?))))
    }
}

impl Sealed {
    fn open(name: &ModelName, file: &ConfigPath) -> Result<Self, ServeError> {
        let package = SealedPackage::open(file).map_err(|error| ServeError::Package {
            model: name.clone(),
            file: file.to_path_buf(),
            error,
        })?;
        Ok(Self {
            name: name.clone(),
            file: file.to_path_buf(),
            digest: Sha256Digest::from_bytes(*package.header().digest().as_bytes()),
            package,
        })
    }

    /// Opens a package with its key, which is wiped then, and loads the model.
    fn load(
        self,
        key: DataKey,
        publisher: ReleasePublicKey,
        limits: EngineLimits,
        watch: &dyn LoadWatch,
    ) -> Result<LoadedModel, ServeError> {
        let Self {
            name,
            file,
            package,
            digest: _,
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
        loaded.map_err(|error| ServeError::Load {
            model: name.clone(),
            error,
        })
    }
}
