//! What a bundle holds, and its form (rules C-1 to C-5): every list in strict order, nothing twice, everything bounded.

use serde::{Deserialize, Serialize};

use super::lists::{self, GpuList};
use crate::digest::{ChipId, Sha256Digest};
use crate::signed::{Kind, Payload, SIGNED_BYTES_MAX};
use crate::snp::{Product, TcbVersion};
use crate::strict_json::{self, JsonError, base64_bytes, hex_bytes, required};
use crate::tdx::PckCa;

/// Most endorsement certificates of one product, and most platforms.
const CHIPS_MAX: usize = 2048;
/// Most TCB infos.
const TCB_MAX: usize = 128;
/// Most answers about revocation.
const ANSWERS_MAX: usize = 1024;

/// Bytes of DER, or of a signature, in canonical base64.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Der(#[serde(with = "base64_bytes")] pub Vec<u8>);

/// What vendors sign about machines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Collateral {
    /// By product.
    pub amd: Vec<AmdCollateral>,
    /// For all platforms.
    pub intel: IntelCollateral,
    /// For GPUs and switches.
    pub nvidia: NvidiaCollateral,
}

/// What AMD signs about one product.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AmdCollateral {
    /// Whose root stands behind all of it.
    pub product: Product,
    /// The authority over chips' keys.
    #[serde(deserialize_with = "required")]
    pub ask: Option<Der>,
    /// The authority over providers' keys.
    #[serde(deserialize_with = "required")]
    pub asvk: Option<Der>,
    /// The root's revocation list.
    pub crl: Der,
    /// VCEKs and VLEKs, by whom they are for and firmware.
    pub endorsements: Vec<Endorsement>,
}

/// An endorsement certificate and what it is for. What stands here must be what the certificate says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endorsement {
    /// Whom it is for.
    pub endorser: Endorser,
    /// For which firmware.
    pub tcb: TcbVersion,
    /// The certificate.
    pub certificate: Der,
}

/// Whose key endorses reports.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Endorser {
    /// A chip, by its CHIP_ID: a VCEK.
    Chip(ChipId),
    /// A cloud provider, by its CSP id: a VLEK.
    Provider(String),
}

impl std::fmt::Display for Endorser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Chip(id) => write!(f, "chip {id}"),
            Self::Provider(id) => write!(f, "provider {id}"),
        }
    }
}

/// What Intel signs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntelCollateral {
    /// TCB infos by FMSPC.
    pub tcb: Vec<TcbDocument>,
    /// Which quoting enclave may speak for a platform.
    #[serde(deserialize_with = "required")]
    pub qe_identity: Option<QeDocument>,
    /// Lists of the authorities over platforms.
    pub pck_lists: Vec<PckList>,
    /// The root's revocation list.
    #[serde(deserialize_with = "required")]
    pub root_crl: Option<Der>,
    /// Platforms' certificates, by platform and firmware.
    pub platforms: Vec<PckChain>,
}

/// A TCB info with its signature and its signer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcbDocument {
    /// For which platforms.
    #[serde(with = "hex_bytes")]
    pub fmspc: [u8; 6],
    /// The text that was signed.
    pub text: String,
    /// r and s.
    pub signature: Der,
    /// PEM, signer first.
    pub issuer_chain: String,
}

/// A QE identity with its signature and its signer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QeDocument {
    /// The text that was signed.
    pub text: String,
    /// r and s.
    pub signature: Der,
    /// PEM, signer first.
    pub issuer_chain: String,
}

/// The revocation list of an authority over platforms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PckList {
    /// Whose.
    pub ca: PckCa,
    /// The list.
    pub crl: Der,
    /// PEM, the authority first.
    pub issuer_chain: String,
}

/// A platform's certificate with its authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PckChain {
    /// The platform as the fleet list names it.
    pub platform: ChipId,
    /// For which firmware: 16 components and the PCE's version.
    #[serde(with = "hex_bytes")]
    pub tcb: [u8; 18],
    /// PEM, the platform first.
    pub chain: String,
}

/// What NVIDIA signs, and lists converted from what it signed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NvidiaCollateral {
    /// What drivers and firmware measure.
    pub lists: Vec<GpuList>,
    /// Answers about revocation, by SHA-256 of the certificate.
    pub answers: Vec<OcspAnswer>,
}

/// A certificate between leaf and root of devices' chains, and its issuer's answer about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OcspAnswer {
    /// The certificate. That of its issuer is another of these, or the pinned root.
    pub certificate: Der,
    /// The answer (RFC 6960).
    pub answer: Der,
}

impl OcspAnswer {
    /// What it is sorted and found by.
    #[must_use]
    pub fn id(&self) -> Sha256Digest {
        Sha256Digest::of(&self.certificate.0)
    }
}

impl Endorsement {
    /// What it is sorted and found by.
    pub(super) fn key(&self) -> (&Endorser, [(&'static str, u8); 5]) {
        (&self.endorser, self.tcb.components())
    }
}

impl Collateral {
    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Rules C-2 to C-4.
    fn form(&self) -> Result<(), JsonError> {
        let Self { amd, intel, nvidia } = self;
        rising(
            amd.iter().map(|it| it.product),
            "products are in order, none twice",
        )?;
        for section in amd {
            let keys = section.endorsements.iter().map(Endorsement::key);
            rising(keys, "endorsement certificates are in order, none twice")?;
            bounded(section.endorsements.len(), CHIPS_MAX)?;
        }
        rising(
            intel.tcb.iter().map(|it| it.fmspc),
            "TCB infos are in order, none twice",
        )?;
        bounded(intel.tcb.len(), TCB_MAX)?;
        rising(
            intel.pck_lists.iter().map(|it| it.ca),
            "lists of authorities are in order, none twice",
        )?;
        let platforms = intel.platforms.iter().map(|it| (it.platform, it.tcb));
        rising(platforms, "platforms are in order, none twice")?;
        bounded(intel.platforms.len(), CHIPS_MAX)?;
        lists::form(&nvidia.lists)?;
        rising(
            nvidia.answers.iter().map(OcspAnswer::id),
            "answers are in order, none twice",
        )?;
        bounded(nvidia.answers.len(), ANSWERS_MAX)
    }
}

pub(super) fn rising<T: Ord>(
    keys: impl Iterator<Item = T>,
    rule: &'static str,
) -> Result<(), JsonError> {
    let mut last = None;
    for key in keys {
        if last.as_ref().is_some_and(|last| *last >= key) {
            return Err(JsonError::Form(rule));
        }
        last = Some(key);
    }
    Ok(())
}

pub(super) fn bounded(found: usize, most: usize) -> Result<(), JsonError> {
    if found > most {
        return Err(JsonError::Form("a list is not longer than its bound"));
    }
    Ok(())
}

impl Payload for Collateral {
    const KIND: Kind = Kind::Collateral;

    fn from_payload(bytes: &[u8]) -> Result<Self, JsonError> {
        let collateral: Self = strict_json::from_slice(bytes, SIGNED_BYTES_MAX)?;
        collateral.form().map(|()| collateral)
    }

    fn to_payload(&self) -> Result<Vec<u8>, JsonError> {
        self.form()?;
        strict_json::to_vec(self)
    }
}
