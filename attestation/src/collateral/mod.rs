//! Collateral: what vendors sign about machines, carried in one document that the organisation signs (docs/formats/collateral.md).
//!
//! A server brings its own, so that who verifies asks nobody. The organisation's signature says that an officer packed it, and
//! never stands in for a vendor's: verifiers check every item again. [`Collateral::check`] judges all of it without evidence, the
//! lookups ([`Collateral::snp`], [`Collateral::tdx`], [`Collateral::gpu_answers`]) take out what one piece of evidence needs.

mod bundle;
mod check;
mod error;
mod lists;
mod lookup;
mod pack;
mod wanted;

pub use bundle::{
    AmdCollateral, Collateral, Der, Endorsement, Endorser, IntelCollateral, NvidiaCollateral,
    OcspAnswer, PckChain, PckList, QeDocument, TcbDocument,
};
pub use check::{CollateralRoots, JudgedItem};
pub use error::{CollateralError, MissingCollateral};
pub use lists::{GpuList, GpuReferences, IndexValues};
pub use lookup::{SnpCollateral, Taken};
pub use pack::{PackError, Packer};
pub use wanted::{Wanted, WantedError};
