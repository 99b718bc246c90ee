//! Payloads of signed documents (rule O-4).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::{ChipId, Measurement, Sha256Digest};
use crate::provider::Platform;
use crate::signed::{Kind, Payload, SIGNED_BYTES_MAX};
use crate::snp::{Product, TcbVersion};
use crate::strict_json::{self, JsonError};

/// One chip of the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetChip {
    /// Under which roots the chip proves itself.
    pub platform: Platform,
    /// CHIP_ID as its reports carry it.
    pub chip_id: ChipId,
    /// DNS names that a server on this chip may ask a leaf for.
    pub names: Vec<String>,
    /// For people.
    pub label: String,
}

/// The chips that the organisation owns. A chip that is not listed is refused (attack B13).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetList {
    /// Empty means none.
    pub chips: Vec<FleetChip>,
}

impl FleetList {
    /// The chip with this id on this platform.
    #[must_use]
    pub fn chip(&self, platform: Platform, id: &ChipId) -> Option<&FleetChip> {
        self.chips
            .iter()
            .find(|chip| chip.platform == platform && chip.chip_id == *id)
    }
}

/// One launch measurement that is right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceMeasurement {
    /// On which platform it counts.
    pub platform: Platform,
    /// The value.
    pub measurement: Measurement,
    /// For people: what was measured.
    pub label: String,
}

/// What right evidence looks like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceValues {
    /// Empty means none.
    pub measurements: Vec<ReferenceMeasurement>,
    /// The lowest firmware of each product. A product without a floor is refused.
    pub tcb_floor: BTreeMap<Product, TcbVersion>,
    /// The privilege level (VMPL) that a report must come from, 0 to 3.
    pub vmpl: u32,
    /// Products whose root of trust is known to be broken and that are accepted all the same. Shown on every verdict.
    pub families_allowed_despite_broken_root: Vec<Product>,
}

/// What is no longer valid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocations {
    /// SHA-256 of leaf certificates (DER).
    pub certificates: Vec<Sha256Digest>,
    /// Principals, as policy names them.
    pub principals: Vec<String>,
}

/// A policy bundle's payload. This crate carries it and does not read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyPayload(pub Vec<u8>);

macro_rules! json_payload {
    ($name:ident, $kind:expr) => {
        impl Payload for $name {
            const KIND: Kind = $kind;

            fn from_payload(bytes: &[u8]) -> Result<Self, JsonError> {
                strict_json::from_slice(bytes, SIGNED_BYTES_MAX)
            }

            fn to_payload(&self) -> Result<Vec<u8>, JsonError> {
                strict_json::to_vec(self)
            }
        }
    };
}

json_payload!(FleetList, Kind::Fleet);
json_payload!(ReferenceValues, Kind::Reference);
json_payload!(Revocations, Kind::Revocation);

impl Payload for PolicyPayload {
    const KIND: Kind = Kind::Policy;

    fn from_payload(bytes: &[u8]) -> Result<Self, JsonError> {
        Ok(Self(bytes.to_vec()))
    }

    fn to_payload(&self) -> Result<Vec<u8>, JsonError> {
        Ok(self.0.clone())
    }
}
