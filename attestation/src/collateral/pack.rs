//! Making a bundle out of files: each is known by what it is, never by its name (rules C-40 to C-42).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::bundle::{
    AmdCollateral, Collateral, Der, Endorsement, Endorser, OcspAnswer, PckChain, PckList,
    QeDocument, TcbDocument,
};
use super::lists::GpuList;
use crate::digest::{ChipId, Sha256Digest};
use crate::nvidia::{OcspResponse, held as nvidia};
use crate::snp::Product;
use crate::snp::held::{self as amd, Holder, Named};
use crate::tdx::held as intel;
use crate::tdx::{PckCa, TdxCollateral};

/// Longest file that is taken, in bytes.
pub const FILE_BYTES_MAX: usize = 512 * 1024;
/// Most files.
const FILES_MAX: usize = 8192;

/// Why a file is not packed, or nothing is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// Rule C-40.
    #[error(
        "not known: it is no certificate, list, answer or chain of AMD, Intel or NVIDIA, and no collateral of a TDX quote"
    )]
    Unknown,
    /// Rule C-40: known, and damaged.
    #[error("{what} is malformed: {reason}")]
    Malformed {
        /// What it would be.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Rule C-41: which of them counts is not for the packer to say.
    #[error("there are two of {0}, and they differ: leave one")]
    Two(String),
    /// Rule C-42.
    #[error(
        "answer about revocation belongs to no chain that is given: give the device's chain (PEM), too"
    )]
    AnswerOfNobody,
    /// Rule C-42.
    #[error("no answer is given about {0}: every certificate between leaf and root needs one")]
    NoAnswer(String),
    /// A certificate without the list of its root says nothing about revocation.
    #[error("no revocation list is given for {0}")]
    NoList(Product),
    /// Bounds.
    #[error("file has more than {FILE_BYTES_MAX} bytes, or there are more than {FILES_MAX} files")]
    TooMuch,
    /// Nothing was given.
    #[error("nothing to pack")]
    Nothing,
}

/// Firmware by component, which has an order for filing and none for judging.
type Firmware = [(&'static str, u8); 5];

#[derive(Debug, Default)]
struct Amd {
    ask: Option<Vec<u8>>,
    asvk: Option<Vec<u8>>,
    crl: Option<Vec<u8>>,
    endorsements: BTreeMap<(Endorser, Firmware), Endorsement>,
}

/// Collects files and puts them in order. Nothing is judged here: [`Collateral::check`] does that.
#[derive(Debug, Default)]
pub struct Packer {
    files: usize,
    amd: BTreeMap<Product, Amd>,
    tcb: BTreeMap<[u8; 6], TcbDocument>,
    qe_identity: Option<QeDocument>,
    pck_lists: BTreeMap<PckCa, PckList>,
    root_crl: Option<Vec<u8>>,
    platforms: BTreeMap<(ChipId, [u8; 18]), PckChain>,
    lists: Vec<GpuList>,
    answers: Vec<Vec<u8>>,
    /// Certificates that can be asked about, with their issuers.
    askable: BTreeMap<Sha256Digest, (Vec<u8>, Vec<u8>)>,
}

impl Packer {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a file and says what it is.
    ///
    /// # Errors
    /// [`PackError`].
    pub fn add(&mut self, bytes: &[u8]) -> Result<&'static str, PackError> {
        self.files = self.files.saturating_add(1);
        if bytes.len() > FILE_BYTES_MAX || self.files > FILES_MAX {
            return Err(PackError::TooMuch);
        }
        match bytes.trim_ascii_start().first() {
            Some(b'{') => self.intel(bytes),
            Some(b'-') => self.pem(bytes),
            _ => self.der(bytes),
        }
    }

    /// Takes lists that were converted from manifests and judged then.
    pub fn add_lists(&mut self, lists: &[GpuList]) {
        self.lists.extend_from_slice(lists);
    }

    /// The bundle, in order and unjudged.
    ///
    /// # Errors
    /// [`PackError`] where something belongs to something that is not there.
    pub fn finish(self) -> Result<Collateral, PackError> {
        let mut collateral = Collateral::default();
        for (product, amd) in self.amd {
            let crl = amd.crl.ok_or(PackError::NoList(product))?;
            collateral.amd.push(AmdCollateral {
                product,
                ask: amd.ask.map(Der),
                asvk: amd.asvk.map(Der),
                crl: Der(crl),
                endorsements: amd.endorsements.into_values().collect(),
            });
        }
        collateral.intel.tcb = self.tcb.into_values().collect();
        collateral.intel.qe_identity = self.qe_identity;
        collateral.intel.pck_lists = self.pck_lists.into_values().collect();
        collateral.intel.root_crl = self.root_crl.map(Der);
        collateral.intel.platforms = self.platforms.into_values().collect();
        collateral.nvidia.answers = matched(&self.answers, self.askable)?;
        collateral.nvidia.lists = self.lists;
        if collateral.is_empty() {
            return Err(PackError::Nothing);
        }
        Ok(collateral)
    }

    fn intel(&mut self, bytes: &[u8]) -> Result<&'static str, PackError> {
        const WHAT: &str = "collateral of a TDX quote";
        let wrong = |rejection: crate::tdx::TdxRejection| PackError::Malformed {
            what: WHAT,
            reason: rejection.to_string(),
        };
        let held = TdxCollateral::from_json(bytes).map_err(wrong)?;
        let fmspc = intel::fmspc_of(&held.tcb_info).map_err(wrong)?;
        let ca = intel::ca_of(&held.pck_crl_issuer_chain).map_err(wrong)?;
        let document = TcbDocument {
            fmspc,
            text: held.tcb_info,
            signature: Der(held.tcb_info_signature),
            issuer_chain: held.tcb_info_issuer_chain,
        };
        let name = || format!("TCB infos for FMSPC {}", hex::encode(fmspc));
        once(&mut self.tcb, fmspc, document, name)?;
        let identity = QeDocument {
            text: held.qe_identity,
            signature: Der(held.qe_identity_signature),
            issuer_chain: held.qe_identity_issuer_chain,
        };
        one(&mut self.qe_identity, identity, || {
            "QE identities".to_owned()
        })?;
        let list = PckList {
            ca,
            crl: Der(held.pck_crl),
            issuer_chain: held.pck_crl_issuer_chain,
        };
        let name = || format!("revocation lists of the PCK {ca} CA");
        once(&mut self.pck_lists, ca, list, name)?;
        let name = || "revocation lists of Intel's root".to_owned();
        one(&mut self.root_crl, held.root_ca_crl, name)?;
        if let Some(chain) = held.pck_certificate_chain {
            self.platform(&chain)?;
        }
        Ok(WHAT)
    }

    fn platform(&mut self, chain: &str) -> Result<&'static str, PackError> {
        const WHAT: &str = "PCK certificate with its chain";
        let pck = intel::pck_of(chain).map_err(|rejection| PackError::Malformed {
            what: WHAT,
            reason: rejection.to_string(),
        })?;
        let entry = PckChain {
            platform: pck.platform,
            tcb: pck.tcb,
            chain: chain.to_owned(),
        };
        let key = (pck.platform, pck.tcb);
        let name = || format!("PCK certificates of platform {}", pck.platform);
        once(&mut self.platforms, key, entry, name)?;
        Ok(WHAT)
    }

    /// A chain of AMD's authorities, of a platform, or of a device.
    fn pem(&mut self, bytes: &[u8]) -> Result<&'static str, PackError> {
        let ders = nvidia::blocks(bytes).map_err(|rejection| PackError::Malformed {
            what: "text of certificates",
            reason: rejection.to_string(),
        })?;
        if ders.iter().all(|der| amd::named(der).is_some()) {
            for der in &ders {
                self.der(der)?;
            }
            return Ok("certificates of AMD");
        }
        let text = std::str::from_utf8(bytes).unwrap_or_default();
        if intel::pck_of(text).is_ok() {
            return self.platform(text);
        }
        let pairs = nvidia::askable(bytes).map_err(|_| PackError::Unknown)?;
        if pairs.is_empty() {
            return Err(PackError::Unknown);
        }
        for (certificate, issuer) in pairs {
            let id = Sha256Digest::of(&certificate);
            self.askable.insert(id, (certificate, issuer));
        }
        Ok("chain of a device of NVIDIA")
    }

    fn der(&mut self, bytes: &[u8]) -> Result<&'static str, PackError> {
        if let Some(named) = amd::named(bytes) {
            let named = named.map_err(|rejection| PackError::Malformed {
                what: "certificate of AMD",
                reason: rejection.to_string(),
            })?;
            return self.amd(named, bytes);
        }
        if let Some(product) = amd::product_of_list(bytes) {
            let slot = &mut self.amd.entry(product).or_default().crl;
            let name = || format!("revocation lists of {product}");
            one(slot, bytes.to_vec(), name)?;
            return Ok("revocation list of AMD");
        }
        match OcspResponse::parse(bytes) {
            Ok(_) => {
                self.answers.push(bytes.to_vec());
                Ok("answer about revocation")
            }
            Err(_) => Err(PackError::Unknown),
        }
    }

    fn amd(&mut self, named: Named, bytes: &[u8]) -> Result<&'static str, PackError> {
        match named {
            Named::Root => Ok("root of AMD, which is compiled in and not packed"),
            Named::Intermediate {
                product,
                over_providers,
            } => {
                let section = self.amd.entry(product).or_default();
                let slot = match over_providers {
                    true => &mut section.asvk,
                    false => &mut section.ask,
                };
                one(slot, bytes.to_vec(), || format!("authorities of {product}"))?;
                Ok("authority of AMD")
            }
            Named::Vek(vek) => {
                let endorser = match vek.holder {
                    Holder::Chip(id) => Endorser::Chip(id),
                    Holder::Provider(id) => Endorser::Provider(id),
                };
                let name = format!("certificates of {endorser} for one firmware");
                let key = (endorser.clone(), vek.tcb.components());
                let entry = Endorsement {
                    endorser,
                    tcb: vek.tcb,
                    certificate: Der(bytes.to_vec()),
                };
                let section = self.amd.entry(vek.product).or_default();
                once(&mut section.endorsements, key, entry, || name)?;
                Ok("endorsement certificate of AMD")
            }
        }
    }
}

/// Rule C-42: every answer has its certificate, every certificate its answer.
fn matched(
    answers: &[Vec<u8>],
    askable: BTreeMap<Sha256Digest, (Vec<u8>, Vec<u8>)>,
) -> Result<Vec<OcspAnswer>, PackError> {
    let parsed: Vec<_> = answers
        .iter()
        .filter_map(|bytes| OcspResponse::parse(bytes).ok().map(|it| (bytes, it)))
        .collect();
    let mut used = vec![false; parsed.len()];
    let mut all = Vec::new();
    for (certificate, issuer) in askable.into_values() {
        let mut found: Option<&Vec<u8>> = None;
        for ((bytes, answer), used) in parsed.iter().zip(&mut used) {
            if answer.is_about(&certificate, &issuer) {
                *used = true;
                match found {
                    Some(other) if other != *bytes => {
                        let subject = nvidia::subject(&certificate);
                        return Err(PackError::Two(format!("answers about {subject}")));
                    }
                    _ => found = Some(bytes),
                }
            }
        }
        let answer = found.ok_or_else(|| PackError::NoAnswer(nvidia::subject(&certificate)))?;
        all.push(OcspAnswer {
            certificate: Der(certificate),
            answer: Der(answer.clone()),
        });
    }
    if used.contains(&false) {
        return Err(PackError::AnswerOfNobody);
    }
    Ok(all)
}

fn once<K: Ord, V: PartialEq>(
    map: &mut BTreeMap<K, V>,
    key: K,
    value: V,
    name: impl FnOnce() -> String,
) -> Result<(), PackError> {
    match map.entry(key) {
        Entry::Vacant(place) => {
            place.insert(value);
            Ok(())
        }
        Entry::Occupied(held) if *held.get() == value => Ok(()),
        Entry::Occupied(_) => Err(PackError::Two(name())),
    }
}

fn one<V: PartialEq>(
    slot: &mut Option<V>,
    value: V,
    name: impl FnOnce() -> String,
) -> Result<(), PackError> {
    match slot {
        Some(held) if *held != value => Err(PackError::Two(name())),
        _ => {
            *slot = Some(value);
            Ok(())
        }
    }
}
