//! NVIDIA's own fields of a report: type, size and value, one after the other (rule N1).
//!
//! Fields that are not named here are signed, kept out of every decision and not an error: each driver adds some.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::firmware::FirmwareId;
use super::rejection::NvidiaRejection;
use crate::reader::Reader;

/// The block that drivers of the CUDA 13.5 generation write instead. No sample of it was seen.
const NEW_BLOCK: &[u8] = b"NVDAOD";
/// Most fields in a report. Seventeen were seen.
const FIELDS_MAX: usize = 64;
/// Versions of this form: the field was added with 0, and 1 adds the feature flag.
const VERSIONS: [u16; 2] = [0, 1];
/// Longest version text.
pub(super) const VERSION_BYTES_MAX: usize = 32;
/// Links of a GPU or a switch: most identifiers in a list.
const IDENTIFIERS_MAX: usize = 64;
/// GPUs that a switch names first; then come its ports.
const SWITCH_GPUS: usize = 8;

const DRIVER_VERSION: u16 = 3;
const VBIOS_VERSION: u16 = 6;
const NVDEC0: u16 = 11;
const FWID: u16 = 20;
const PROTECTED_PCIE: u16 = 21;
const SWITCH_PDI: u16 = 22;
const SWITCH_GPU_PDIS: u16 = 26;
const DATA_VERSION: u16 = 34;
const FEATURE_FLAG: u16 = 36;

/// A state byte.
const ENABLED: u8 = 0xaa;
const DISABLED: u8 = 0x55;

/// Identifier of a GPU or a switch, as the switch itself writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pdi(pub [u8; 8]);

impl std::fmt::Display for Pdi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// What a report is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceKind {
    /// A GPU: its report names a driver.
    Gpu,
    /// An NVSwitch: no driver runs on it.
    Switch,
}

impl std::fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Gpu => "GPU",
            Self::Switch => "switch",
        })
    }
}

/// How GPUs of a machine work together (field 36).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FeatureFlag {
    /// 0: alone.
    SingleGpu,
    /// 1: with others.
    MultiGpu,
    /// 2: with others over switches, in protected PCIe mode.
    ProtectedPcie,
}

impl std::fmt::Display for FeatureFlag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::SingleGpu => "single GPU",
            Self::MultiGpu => "multi-GPU",
            Self::ProtectedPcie => "protected PCIe",
        })
    }
}

/// The fields that decisions use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opaque {
    pub(super) driver_version: Option<String>,
    pub(super) vbios_version: Option<String>,
    pub(super) nvdec0: Option<bool>,
    pub(super) firmware_id: Option<FirmwareId>,
    pub(super) protected_pcie: Option<bool>,
    pub(super) own_identifier: Option<Pdi>,
    pub(super) switches: BTreeSet<Pdi>,
    pub(super) gpus: BTreeSet<Pdi>,
    pub(super) feature_flag: Option<FeatureFlag>,
}

impl Opaque {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, NvidiaRejection> {
        if bytes.starts_with(NEW_BLOCK) {
            return Err(NvidiaRejection::OpaqueBlock);
        }
        let fields = fields(bytes)?;
        let get = |field: u16| Field {
            field,
            value: fields.get(&field).copied(),
        };
        if let Some(version) = get(DATA_VERSION).le16()?
            && !VERSIONS.contains(&version)
        {
            return Err(NvidiaRejection::OpaqueVersion(version));
        }
        let driver_version = get(DRIVER_VERSION).text()?;
        let (vbios, pdi) = (get(VBIOS_VERSION), get(SWITCH_PDI));
        let gpu = driver_version.is_some();
        let identifiers = pdi.identifiers(IDENTIFIERS_MAX)?.unwrap_or_default();
        let own_identifier = match identifiers.as_slice() {
            _ if gpu => None,
            [] => None,
            [one] => Some(*one),
            _ => return Err(pdi.error("holds more than the switch's own identifier")),
        };
        // A GPU writes the identifiers of its switches in the other byte order than they themselves do.
        let turned = |Pdi(mut bytes)| {
            bytes.reverse();
            Pdi(bytes)
        };
        let switches = identifiers.into_iter().filter(|_| gpu).map(turned);
        Ok(Self {
            vbios_version: if gpu { vbios.packed()? } else { vbios.text()? },
            nvdec0: get(NVDEC0).state()?,
            firmware_id: get(FWID).firmware_id()?,
            protected_pcie: get(PROTECTED_PCIE).state()?,
            own_identifier,
            switches: switches.collect(),
            gpus: get(SWITCH_GPU_PDIS).first_identifiers(SWITCH_GPUS)?,
            feature_flag: get(FEATURE_FLAG).flag()?,
            driver_version,
        })
    }

    /// What the report is of.
    #[must_use]
    pub const fn kind(&self) -> DeviceKind {
        if self.driver_version.is_some() {
            DeviceKind::Gpu
        } else {
            DeviceKind::Switch
        }
    }

    /// The driver's version (field 3), of a GPU.
    #[must_use]
    pub fn driver_version(&self) -> Option<&str> {
        self.driver_version.as_deref()
    }

    /// The VBIOS version of a GPU, such as `96.00.5E.00.01`, or the firmware version of a switch (field 6).
    #[must_use]
    pub fn vbios_version(&self) -> Option<&str> {
        self.vbios_version.as_deref()
    }

    /// Whether the decoder's measurement, manifest index 35, counts (field 11).
    #[must_use]
    pub const fn nvdec0_enabled(&self) -> Option<bool> {
        self.nvdec0
    }

    /// Digest of the firmware that the device's key was derived for (field 20).
    #[must_use]
    pub const fn firmware_id(&self) -> Option<&FirmwareId> {
        self.firmware_id.as_ref()
    }

    /// Protected PCIe state (field 21).
    #[must_use]
    pub const fn protected_pcie(&self) -> Option<bool> {
        self.protected_pcie
    }

    /// A switch's own identifier (field 22).
    #[must_use]
    pub const fn own_identifier(&self) -> Option<Pdi> {
        self.own_identifier
    }

    /// The switches that a GPU is linked to (field 22).
    #[must_use]
    pub const fn switches(&self) -> &BTreeSet<Pdi> {
        &self.switches
    }

    /// The GPUs that a switch is linked to (field 26).
    #[must_use]
    pub const fn gpus(&self) -> &BTreeSet<Pdi> {
        &self.gpus
    }

    /// How GPUs work together (field 36).
    #[must_use]
    pub const fn feature_flag(&self) -> Option<FeatureFlag> {
        self.feature_flag
    }
}

fn fields(bytes: &[u8]) -> Result<BTreeMap<u16, &[u8]>, NvidiaRejection> {
    let mut reader = Reader::new(bytes);
    let mut out = BTreeMap::new();
    while !reader.is_empty() {
        let field = reader.le16().ok_or(NvidiaRejection::OpaqueEnds)?;
        let length = reader.le16().ok_or(NvidiaRejection::OpaqueEnds)?;
        let value = reader.take(usize::from(length));
        let value = value.ok_or(NvidiaRejection::OpaqueEnds)?;
        if out.insert(field, value).is_some() {
            return Err(NvidiaRejection::OpaqueTwice(field));
        }
        if out.len() > FIELDS_MAX {
            return Err(NvidiaRejection::OpaqueFields);
        }
    }
    Ok(out)
}

/// One field, there or not.
#[derive(Clone, Copy)]
struct Field<'a> {
    field: u16,
    value: Option<&'a [u8]>,
}

impl Field<'_> {
    const fn error(&self, what: &'static str) -> NvidiaRejection {
        NvidiaRejection::OpaqueField {
            field: self.field,
            what,
        }
    }

    fn exact<const N: usize>(
        &self,
        what: &'static str,
    ) -> Result<Option<[u8; N]>, NvidiaRejection> {
        let read = |value: &[u8]| value.try_into().map_err(|_| self.error(what));
        self.value.map(read).transpose()
    }

    fn le16(&self) -> Result<Option<u16>, NvidiaRejection> {
        Ok(self.exact("has not two bytes")?.map(u16::from_le_bytes))
    }

    /// 0xAA or 0x55.
    fn state(&self) -> Result<Option<bool>, NvidiaRejection> {
        match self.exact("has not one byte")? {
            None => Ok(None),
            Some([ENABLED]) => Ok(Some(true)),
            Some([DISABLED]) => Ok(Some(false)),
            Some(_) => Err(self.error("is neither 0xaa nor 0x55")),
        }
    }

    fn flag(&self) -> Result<Option<FeatureFlag>, NvidiaRejection> {
        match self.le16()? {
            None => Ok(None),
            Some(0) => Ok(Some(FeatureFlag::SingleGpu)),
            Some(1) => Ok(Some(FeatureFlag::MultiGpu)),
            Some(2) => Ok(Some(FeatureFlag::ProtectedPcie)),
            Some(_) => Err(self.error("is neither 0, 1 nor 2")),
        }
    }

    fn firmware_id(&self) -> Result<Option<FirmwareId>, NvidiaRejection> {
        let bytes = self.exact("has not 48 bytes")?;
        Ok(bytes.map(FirmwareId::from_bytes))
    }

    /// A version as text, with nothing but zeros behind it.
    fn text(&self) -> Result<Option<String>, NvidiaRejection> {
        let Some(value) = self.value else {
            return Ok(None);
        };
        let length = value.iter().take_while(|byte| **byte != 0).count();
        let (text, padding) = value.split_at_checked(length).unwrap_or_default();
        let text = std::str::from_utf8(text).unwrap_or_default();
        if !is_version(text) || padding.iter().any(|byte| *byte != 0) {
            return Err(self.error("is no version"));
        }
        Ok(Some(text.to_owned()))
    }

    /// A version as five numbers in eight bytes: four in reverse, the fifth, three zeros.
    fn packed(&self) -> Result<Option<String>, NvidiaRejection> {
        match self.exact("has not eight bytes")? {
            None => Ok(None),
            Some([d, c, b, a, e, 0, 0, 0]) => {
                Ok(Some(format!("{a:02X}.{b:02X}.{c:02X}.{d:02X}.{e:02X}")))
            }
            Some(_) => Err(self.error("has more than five numbers")),
        }
    }

    fn identifiers(&self, most: usize) -> Result<Option<Vec<Pdi>>, NvidiaRejection> {
        let Some(value) = self.value else {
            return Ok(None);
        };
        let (all, rest) = value.as_chunks::<8>();
        if all.is_empty() || all.len() > most || !rest.is_empty() {
            return Err(self.error("is no list of identifiers of eight bytes"));
        }
        Ok(Some(all.iter().copied().map(Pdi).collect()))
    }

    fn first_identifiers(&self, count: usize) -> Result<BTreeSet<Pdi>, NvidiaRejection> {
        let Some(value) = self.value else {
            return Ok(BTreeSet::new());
        };
        let (all, _) = value.as_chunks::<8>();
        let first = all.get(..count);
        let first = first.ok_or(self.error("names fewer than eight GPUs"))?;
        Ok(first.iter().copied().map(Pdi).collect())
    }
}

/// Whether `text` is a version as reports and lists write it.
pub(super) fn is_version(text: &str) -> bool {
    (1..=VERSION_BYTES_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}
