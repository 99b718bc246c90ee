//! The signed documents that the broker hands out: checked here again, and never an older one than was seen before, also
//! after a restart (O-3).

use casemate_attestation::{
    Kind, ReleasePublicKey, Revocations, SignedDocument, SignedError, UnixTime, Verified,
};
use casemate_client::floors::{Floors, FloorsError, FloorsFile};

use crate::policy::{PolicyBundle, PolicyError};

/// Why a document is not put in force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// The policy bundle.
    #[error("the broker's policy is refused: {0}")]
    Policy(#[from] PolicyError),
    /// The revocation list.
    #[error("the broker's revocation list is refused: {0}")]
    Revocations(#[from] SignedError),
    /// The numbers seen before.
    #[error(transparent)]
    Floors(#[from] FloorsError),
}

impl DocumentError {
    /// Whether a newer document, signed by the organisation, is all that is missing.
    #[must_use]
    pub fn is_expiry(&self) -> bool {
        matches!(
            self,
            Self::Policy(PolicyError::Signed(SignedError::Expired { .. }))
                | Self::Revocations(SignedError::Expired { .. })
        )
    }
}

/// Opens documents of one organisation.
pub(super) struct Documents {
    key: ReleasePublicKey,
    floors: FloorsFile,
}

impl Documents {
    pub(super) fn new(key: ReleasePublicKey, floors: FloorsFile) -> Self {
        Self { key, floors }
    }

    pub(super) fn policy(
        &self,
        bytes: &[u8],
        now: UnixTime,
    ) -> Result<PolicyBundle, DocumentError> {
        let floor = self.floors.read()?.of(Kind::Policy);
        let bundle = PolicyBundle::open(bytes, &self.key, floor, now)?;
        self.raise(Kind::Policy, bundle.number())?;
        Ok(bundle)
    }

    pub(super) fn revocations(
        &self,
        bytes: &[u8],
        now: UnixTime,
    ) -> Result<Verified<Revocations>, DocumentError> {
        let floor = self.floors.read()?.of(Kind::Revocation);
        let list = SignedDocument::open::<Revocations>(bytes, &self.key, floor, now)?;
        self.raise(Kind::Revocation, list.number())?;
        Ok(list)
    }

    fn raise(&self, kind: Kind, number: u64) -> Result<(), FloorsError> {
        self.floors.raise(&Floors::from_iter([(kind, number)]))
    }
}
