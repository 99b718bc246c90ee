//! Fetching what vendors sign about machines, where there is a network, into a folder that `casemate collateral pack` takes.
//!
//! A service is trusted for nothing: what it says is judged by the code that judges evidence before anything is written, and what
//! is older than what the folder holds replaces nothing (rules F-1 to F-9 of `docs/formats/collateral.md`). Only the operator's
//! command comes here; servers and clients ask nobody.

mod amd;
mod config;
mod http;
mod intel;
mod nvidia;
mod owned;
mod shelf;
mod url;

use casemate_attestation::UnixTime;
use casemate_attestation::collateral::{
    Collateral, CollateralError, CollateralRoots, JudgedItem, PackError, Packer,
};
use casemate_attestation::nvidia::{NvidiaRejection, PinnedManifestRoot};

pub use config::{
    AUTHORITIES_DEFAULT, FetchConfig, Network, OwnedChip, OwnedPlatform, OwnedSection, Services,
};
pub use http::{Answer, Ask, BODY_BYTES_MAX, Client, HttpError};
pub use owned::{Owned, OwnedError};
pub use shelf::{Kept, Shelf, ShelfError};
pub use url::{ServiceUrl, UrlError};

use crate::rim::RimError;

/// Whose word counts for what is fetched.
#[derive(Debug, Clone)]
pub struct FetchRoots {
    /// For what is packed.
    pub collateral: CollateralRoots,
    /// For NVIDIA's manifests.
    pub manifests: PinnedManifestRoot,
}

impl FetchRoots {
    /// The vendors' roots, compiled in.
    #[must_use]
    pub fn production() -> Self {
        Self {
            collateral: CollateralRoots::production(),
            manifests: PinnedManifestRoot::nvidia(),
        }
    }
}

/// Why a document is not in the folder afterwards, or is there as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// No document came.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// It is not what it should be, by its form.
    #[error("{0}")]
    Form(String),
    /// It is no document of this kind at all, by the packer's rules.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// It is signed by nobody who counts, revoked, or out of date.
    #[error(transparent)]
    Judged(#[from] CollateralError),
    /// A manifest that does not verify.
    #[error(transparent)]
    Manifest(#[from] RimError),
    /// It is right, and about something else.
    #[error("the service answered with another {0} than it was asked for")]
    Other(&'static str),
    /// It is right, and the folder has a newer one.
    #[error("the folder has a newer {0}, which stays")]
    Older(&'static str),
    /// It needs another one that is missing.
    #[error("{0} is missing, without which it cannot be judged")]
    Alone(&'static str),
    /// It goes together with others.
    #[error("not written: it goes together with documents that are not right")]
    Together,
    /// The folder.
    #[error(transparent)]
    Shelf(#[from] ShelfError),
}

/// What a refusal means to whoever runs the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The network or the service.
    Unreached,
    /// This machine's files.
    Files,
    /// Signature, chain, or another thing than was asked for.
    Rejected,
    /// Out of date or revoked.
    Expired,
    /// Not what it claims to be.
    Malformed,
}

impl FetchError {
    /// What it means.
    #[must_use]
    pub const fn refusal(&self) -> Refusal {
        match self {
            Self::Http(HttpError::Authorities { .. }) | Self::Shelf(_) => Refusal::Files,
            Self::Http(_) => Refusal::Unreached,
            Self::Form(_) | Self::Pack(_) => Refusal::Malformed,
            Self::Judged(error) if error.is_out_of_date() || error.is_revoked() => Refusal::Expired,
            Self::Manifest(RimError::Xml { .. } | RimError::Form(_) | RimError::Content(_)) => {
                Refusal::Malformed
            }
            Self::Manifest(RimError::Signer(
                NvidiaRejection::CertificateExpired { .. }
                | NvidiaRejection::CertificateNotYetValid { .. },
            )) => Refusal::Expired,
            _ => Refusal::Rejected,
        }
    }
}

/// One document and what became of it.
#[derive(Debug)]
pub struct Fetched {
    /// `amd`, `intel` or `nvidia`.
    pub vendor: &'static str,
    /// Which document, for people.
    pub item: String,
    /// The file in the folder.
    pub file: String,
    /// What was done with it.
    pub result: Result<Kept, FetchError>,
}

/// One question, for those who want to see them first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// GET or POST.
    pub method: &'static str,
    /// The whole address.
    pub url: String,
}

/// What would be asked for.
///
/// # Errors
/// [`FetchError`] where the folder or a chain cannot be read.
pub fn plan(services: &Services, owned: &Owned, shelf: &Shelf) -> Result<Vec<Planned>, FetchError> {
    let mut asks = amd::asks(services, owned);
    asks.extend(intel::asks(services, &intel::families(owned, shelf)?));
    asks.extend(nvidia::asks(services, owned)?);
    Ok(asks.iter().map(Planned::of).collect())
}

impl Planned {
    fn of(ask: &Ask<'_>) -> Self {
        Self {
            method: if ask.question.is_some() {
                "POST"
            } else {
                "GET"
            },
            url: ask.service.at(&ask.rest),
        }
    }
}

/// Asks for everything, judges it at `now` and puts what is right into the folder. A document that is refused stops no other.
///
/// # Errors
/// [`FetchError`] where nothing can be asked at all. What became of each document is in the list.
pub async fn fetch(
    config: &FetchConfig,
    owned: &Owned,
    shelf: &Shelf,
    roots: &FetchRoots,
    now: UnixTime,
) -> Result<Vec<Fetched>, FetchError> {
    let tls = plan(&config.services, owned, shelf)?
        .iter()
        .any(|planned| planned.url.starts_with("https:"));
    let client = Client::new(&config.network, tls)?;
    let round = Round {
        client: &client,
        services: &config.services,
        shelf,
        roots,
        now,
    };
    let mut all = Vec::new();
    amd::fetch(&round, owned, &mut all).await;
    intel::fetch(&round, owned, &mut all).await?;
    nvidia::fetch(&round, owned, &mut all).await?;
    Ok(all)
}

/// What every vendor's part needs.
struct Round<'a> {
    client: &'a Client,
    services: &'a Services,
    shelf: &'a Shelf,
    roots: &'a FetchRoots,
    now: UnixTime,
}

impl Round<'_> {
    /// Files as the packer reads them, each item judged.
    fn judged(&self, files: &[&[u8]]) -> Result<(Collateral, Vec<JudgedItem>), FetchError> {
        let mut packer = Packer::new();
        for file in files {
            packer.add(file)?;
        }
        let collateral = packer.finish()?;
        let items = collateral.check(&self.roots.collateral, self.now);
        Ok((collateral, items))
    }

    /// Files as the packer reads them, all of which must be right.
    fn right(&self, files: &[&[u8]]) -> Result<Collateral, FetchError> {
        let (collateral, items) = self.judged(files)?;
        for item in items {
            item.result?;
        }
        Ok(collateral)
    }
}

/// Whether a revocation list (DER) was issued before another one. What cannot be read is no newer than anything.
fn list_is_older(offered: &[u8], held: &[u8]) -> bool {
    use x509_parser::prelude::{CertificateRevocationList, FromDer as _};
    let issued = |der| {
        let (_, list) = CertificateRevocationList::from_der(der).ok()?;
        Some(list.last_update().timestamp())
    };
    matches!((issued(offered), issued(held)), (Some(offered), Some(held)) if offered < held)
}
