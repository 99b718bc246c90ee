//! The four signed documents in force, read again when their files change, never an older one than before (rule O-3).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use casemate_attestation::{
    FleetList, Kind, Payload, ReferenceValues, ReleasePublicKey, Revocations, UnixTime, Verified,
};

use super::store::{Store, StoreError};
use crate::org::documents::{InForceError, file_of, in_force};
use crate::policy::PolicyDocument;

/// Why no document of a kind is in force now.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// Missing, refused, out of date, or older than one seen before.
    #[error(transparent)]
    NotInForce(#[from] InForceError),
    /// The highest number could not be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What tells a changed file from an unchanged one.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

/// One document, and the file that it was read from.
struct Slot<T> {
    read: Option<(Stamp, Verified<T>, Vec<u8>)>,
}

impl<T: Payload> Slot<T> {
    /// The document in force at `now`. A file that did not change is not read again, but its dates are checked.
    fn current(
        &mut self,
        place: &Place,
        store: &mut Store,
        now: UnixTime,
    ) -> Result<(&Verified<T>, &[u8]), DocumentError> {
        let stamp = place.stamp(T::KIND);
        let fresh = self.read.take().filter(|(known, document, _)| {
            Some(*known) == stamp && document.issued() <= now && now < document.expires()
        });
        let (document, bytes) = match fresh {
            Some((_, document, bytes)) => (document, bytes),
            None => {
                let mark = mark_of(T::KIND);
                let floor = store.highest(&mark);
                let (document, bytes) = in_force::<T>(&place.folder, &place.key, floor, now)?;
                store.raise([(mark.as_str(), document.number())])?;
                (document, bytes)
            }
        };
        // Without a stamp the file is read again next time.
        let stamp = stamp.unwrap_or(Stamp {
            inode: 0,
            length: 0,
            modified: (0, 0),
        });
        let (_, document, bytes) = self.read.insert((stamp, document, bytes));
        Ok((document, bytes))
    }
}

fn mark_of(kind: Kind) -> String {
    format!("document/{kind}")
}

struct Place {
    folder: PathBuf,
    key: ReleasePublicKey,
}

impl Place {
    fn stamp(&self, kind: Kind) -> Option<Stamp> {
        let about = fs::metadata(self.folder.join(file_of(kind))).ok()?;
        let modified = (about.mtime(), about.mtime_nsec());
        Some(Stamp {
            inode: about.ino(),
            length: about.len(),
            modified,
        })
    }
}

/// The documents of one organisation.
pub(super) struct Documents {
    place: Place,
    fleet: Slot<FleetList>,
    reference: Slot<ReferenceValues>,
    policy: Slot<PolicyDocument>,
    revocations: Slot<Revocations>,
}

/// A document as signed, for a server.
#[derive(Clone)]
pub(super) struct Issued {
    pub(super) number: u64,
    pub(super) bytes: Vec<u8>,
}

impl Documents {
    pub(super) fn new(folder: PathBuf, key: ReleasePublicKey) -> Self {
        Self {
            place: Place { folder, key },
            fleet: Slot { read: None },
            reference: Slot { read: None },
            policy: Slot { read: None },
            revocations: Slot { read: None },
        }
    }

    pub(super) fn fleet(
        &mut self,
        store: &mut Store,
        now: UnixTime,
    ) -> Result<&Verified<FleetList>, DocumentError> {
        Ok(self.fleet.current(&self.place, store, now)?.0)
    }

    pub(super) fn reference(
        &mut self,
        store: &mut Store,
        now: UnixTime,
    ) -> Result<&Verified<ReferenceValues>, DocumentError> {
        Ok(self.reference.current(&self.place, store, now)?.0)
    }

    pub(super) fn policy(
        &mut self,
        store: &mut Store,
        now: UnixTime,
    ) -> Result<(Issued, &PolicyDocument), DocumentError> {
        let (document, bytes) = self.policy.current(&self.place, store, now)?;
        let issued = Issued {
            number: document.number(),
            bytes: bytes.to_vec(),
        };
        Ok((issued, document.payload()))
    }

    pub(super) fn revocations(
        &mut self,
        store: &mut Store,
        now: UnixTime,
    ) -> Result<Issued, DocumentError> {
        let (document, bytes) = self.revocations.current(&self.place, store, now)?;
        Ok(Issued {
            number: document.number(),
            bytes: bytes.to_vec(),
        })
    }
}
