//! Plain lists of what drivers and firmware of GPUs measure, as documents carry them (rules C-4 and R-8).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::bundle::{bounded, rising};
use crate::digest::{Measurement, Sha256Digest};
use crate::nvidia::{GpuReference, GpuReferenceError, ReferenceKind};
use crate::signed::{Kind, Payload, SIGNED_BYTES_MAX};
use crate::strict_json::{self, JsonError};

/// Most lists in one document.
const LISTS_MAX: usize = 512;

/// The values of one index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexValues {
    /// Manifest index, from 0.
    pub index: u8,
    /// Any of these is right. SHA-384.
    pub digests: Vec<Measurement>,
}

/// What one manifest says, after its signature was judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuList {
    /// Of what.
    pub kind: ReferenceKind,
    /// Version, letter by letter as reports have it.
    pub version: String,
    /// Chip or switch, for people.
    pub product: String,
    /// SHA-256 of the manifest's file.
    pub manifest: Sha256Digest,
    /// Active indices in order.
    pub values: Vec<IndexValues>,
}

impl GpuList {
    /// What a policy is made of.
    ///
    /// # Errors
    /// [`GpuReferenceError`] for a list that could accept nothing, or anything.
    pub fn reference(&self) -> Result<GpuReference, GpuReferenceError> {
        let bytes = |it: &Measurement| *it.as_bytes();
        let values: BTreeMap<_, _> = self
            .values
            .iter()
            .map(|it| (it.index, it.digests.iter().map(bytes).collect()))
            .collect();
        GpuReference::new(self.kind, &self.version, values)
    }

    fn key(&self) -> (ReferenceKind, &str, Sha256Digest) {
        (self.kind, &self.version, self.manifest)
    }
}

/// Lists in force: a signed document of the organisation, to which `casemate nvidia rim-import` adds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuReferences {
    /// By kind, version and manifest.
    pub lists: Vec<GpuList>,
}

impl GpuReferences {
    /// Adds a list in its place. Returns whether it is new.
    pub fn add(&mut self, list: GpuList) -> bool {
        match self.lists.binary_search_by(|it| it.key().cmp(&list.key())) {
            Ok(_) => false,
            Err(place) => {
                self.lists.insert(place, list);
                true
            }
        }
    }
}

/// Order, bounds, and that every list could accept something and not everything.
pub(super) fn form(lists: &[GpuList]) -> Result<(), JsonError> {
    rising(
        lists.iter().map(GpuList::key),
        "lists are in order, none twice",
    )?;
    bounded(lists.len(), LISTS_MAX)?;
    for list in lists {
        let indices = list.values.iter().map(|it| it.index);
        rising(indices, "indices of a list are in order, none twice")?;
        for values in &list.values {
            rising(
                values.digests.iter(),
                "values of an index are in order, none twice",
            )?;
        }
        let usable =
            list.product.len() <= 32 && list.product.bytes().all(|it| it.is_ascii_graphic());
        if !usable || list.reference().is_err() {
            return Err(JsonError::Form(
                "every list names its product and has values of a version",
            ));
        }
    }
    Ok(())
}

impl Payload for GpuReferences {
    const KIND: Kind = Kind::GpuReference;

    fn from_payload(bytes: &[u8]) -> Result<Self, JsonError> {
        let all: Self = strict_json::from_slice(bytes, SIGNED_BYTES_MAX)?;
        form(&all.lists).map(|()| all)
    }

    fn to_payload(&self) -> Result<Vec<u8>, JsonError> {
        form(&self.lists)?;
        strict_json::to_vec(self)
    }
}
