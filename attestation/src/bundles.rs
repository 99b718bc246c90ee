//! Payloads of signed documents (rule O-4).

use serde::{Deserialize, Serialize};

use crate::digest::{ChipId, Sha256Digest};
use crate::nvidia::DeviceKind;
use crate::provider::Platform;
use crate::reference::ReferenceValues;
use crate::signed::{Kind, Payload, SIGNED_BYTES_MAX};
use crate::strict_json::{self, JsonError, base64_bytes};
use crate::tpm::HostedIn;

/// One machine of the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetChip {
    /// Under which roots the machine proves itself.
    pub platform: Platform,
    /// The machine's id: CHIP_ID of an SNP chip, [`PckPlatform::id`](crate::tdx::PckPlatform::id) of a TDX platform,
    /// [`tpm_id`](crate::tpm::tpm_id) of a TPM.
    pub chip_id: ChipId,
    /// DNS names that a server on this chip may ask a leaf for.
    pub names: Vec<String>,
    /// For people.
    pub label: String,
    /// The attestation key of platform `tpm`, and of no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm: Option<FleetTpm>,
    /// Its GPUs and switches, each of which must prove itself beside it. Empty means none: evidence of a device is then refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<FleetDevice>,
}

/// An NVIDIA GPU or switch of one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetDevice {
    /// Which of both.
    pub kind: DeviceKind,
    /// SHA-256 of the key that it keeps over changes of firmware: the certificate above the leaf.
    pub device_key: Sha256Digest,
    /// For people.
    pub label: String,
}

/// A TPM's attestation key, taken in by a credential that only this TPM could open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetTpm {
    /// TPMT_PUBLIC of the attestation key (TPM 2.0 Part 2, 12.2.4).
    #[serde(with = "base64_bytes")]
    pub attestation_key: Vec<u8>,
    /// Where the TPM runs, in the words of whoever enrolled it.
    pub hosted: HostedIn,
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
