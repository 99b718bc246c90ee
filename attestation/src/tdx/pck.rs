//! What a PCK certificate says about its platform: Intel's SGX extension (PCK Certificate and CRL Profile, 1.3.5).

use super::certificate::Certificate;
use super::rejection::TdxRejection;
use crate::digest::ChipId;

/// 1.2.840.113741.1.13.1 as DER, to which each part of the extension adds its own numbers.
const PREFIX: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x01, 0x0d, 0x01];

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const OBJECT_ID: u8 = 0x06;
const BOOLEAN: u8 = 0x01;

/// How a platform of more than one package is put together. Only the Platform CA says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlatformConfiguration {
    /// Packages can be added later.
    pub dynamic_platform: bool,
    /// Intel keeps the platform's root keys, so that it can be registered again.
    pub cached_keys: bool,
    /// Two threads share a core.
    pub smt_enabled: bool,
}

/// The platform that a PCK certificate was made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PckPlatform {
    ppid: [u8; 16],
    fmspc: [u8; 6],
    pce_id: [u8; 2],
    sgx_components: [u8; 16],
    pce_svn: u16,
    instance: Option<[u8; 16]>,
    configuration: Option<PlatformConfiguration>,
}

impl PckPlatform {
    pub(crate) fn of(pck: &Certificate<'_>) -> Result<Self, TdxRejection> {
        let value = pck
            .extension(&PREFIX)
            .ok_or(TdxRejection::PckExtension("the SGX extension is missing"))?;
        Self::parse(value).map_err(TdxRejection::PckExtension)
    }

    fn parse(value: &[u8]) -> Result<Self, &'static str> {
        let (mut ppid, mut fmspc, mut pce_id, mut tcb) = (None, None, None, None);
        let (mut instance, mut configuration) = (None, None);
        for part in Entries::of(value)? {
            let part = part?;
            match part.number {
                [1] => once(&mut ppid, part.octets()?)?,
                [2] => once(&mut tcb, tcb_of(part)?)?,
                [3] => once(&mut pce_id, part.octets()?)?,
                [4] => once(&mut fmspc, part.octets()?)?,
                // The kind of SGX memory protection. TDX has its own.
                [5] => {}
                [6] => once(&mut instance, part.octets()?)?,
                [7] => once(&mut configuration, configuration_of(part)?)?,
                _ => return Err("a part of the SGX extension is not known"),
            }
        }
        let (sgx_components, pce_svn) = tcb.ok_or("the firmware versions are missing")?;
        Ok(Self {
            ppid: ppid.ok_or("the PPID is missing")?,
            fmspc: fmspc.ok_or("the FMSPC is missing")?,
            pce_id: pce_id.ok_or("the PCE id is missing")?,
            sgx_components,
            pce_svn,
            instance,
            configuration,
        })
    }

    /// Platform provisioning id.
    #[must_use]
    pub const fn ppid(&self) -> &[u8; 16] {
        &self.ppid
    }

    /// Family, model, stepping, platform type and SKU, for which TCB info is issued.
    #[must_use]
    pub const fn fmspc(&self) -> &[u8; 6] {
        &self.fmspc
    }

    /// Provisioning certification enclave.
    #[must_use]
    pub const fn pce_id(&self) -> &[u8; 2] {
        &self.pce_id
    }

    /// The 16 SVNs of the platform's firmware that the key was derived for.
    #[must_use]
    pub const fn sgx_components(&self) -> &[u8; 16] {
        &self.sgx_components
    }

    /// SVN of the provisioning certification enclave.
    #[must_use]
    pub const fn pce_svn(&self) -> u16 {
        self.pce_svn
    }

    /// Platform instance id; made anew when a platform of several packages is put together anew.
    #[must_use]
    pub const fn instance(&self) -> Option<&[u8; 16]> {
        self.instance.as_ref()
    }

    /// How the platform is put together, where its certificate says.
    #[must_use]
    pub const fn configuration(&self) -> Option<PlatformConfiguration> {
        self.configuration
    }

    /// The platform as a fleet list names it: PPID, platform instance id or zeros, and zeros up to 64 bytes.
    #[must_use]
    pub fn id(&self) -> ChipId {
        let mut id = [0_u8; 64];
        let parts = self
            .ppid
            .into_iter()
            .chain(self.instance.unwrap_or([0; 16]));
        for (to, from) in id.iter_mut().zip(parts) {
            *to = from;
        }
        ChipId::from_bytes(id)
    }
}

/// One part of the extension: its numbers under Intel's, and its value.
#[derive(Clone, Copy)]
struct Entry<'a> {
    number: &'a [u8],
    tag: u8,
    value: &'a [u8],
}

impl Entry<'_> {
    fn octets<const N: usize>(&self) -> Result<[u8; N], &'static str> {
        if self.tag != OCTETS {
            return Err("a value is not of its type");
        }
        self.value
            .try_into()
            .map_err(|_| "a value is not of its length")
    }

    /// An INTEGER from 0 to 65535 in its shortest form.
    fn integer(&self) -> Result<u16, &'static str> {
        match (self.tag, self.value) {
            (INTEGER, [value @ 0..=0x7f]) | (INTEGER, [0, value @ 0x80..=0xff]) => {
                Ok(u16::from(*value))
            }
            (INTEGER, [high @ 0x01..=0x7f, low]) | (INTEGER, [0, high @ 0x80..=0xff, low]) => {
                Ok(u16::from_be_bytes([*high, *low]))
            }
            _ => Err("a firmware version is not a small number"),
        }
    }

    fn boolean(&self) -> Result<bool, &'static str> {
        match (self.tag, self.value) {
            (BOOLEAN, [0]) => Ok(false),
            (BOOLEAN, [0xff]) => Ok(true),
            _ => Err("a flag is neither true nor false"),
        }
    }
}

fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), &'static str> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err("a part of the SGX extension occurs twice"),
    }
}

/// The 16 components, the PCE's version, and CPUSVN, which repeats the components in a form of the processor's own.
fn tcb_of(part: Entry<'_>) -> Result<([u8; 16], u16), &'static str> {
    let mut components = [None; 16];
    let (mut pce_svn, mut cpu_svn) = (None, None::<[u8; 16]>);
    for entry in Entries::inside(part)? {
        let entry = entry?;
        match entry.number {
            [2, 17] => once(&mut pce_svn, entry.integer()?)?,
            [2, 18] => once(&mut cpu_svn, entry.octets()?)?,
            [2, index @ 1..=16] => {
                let svn = u8::try_from(entry.integer()?)
                    .map_err(|_| "a firmware version is not a small number")?;
                let slot = usize::from(*index).checked_sub(1);
                let slot = slot.and_then(|slot| components.get_mut(slot));
                once(slot.ok_or("a firmware version has no place")?, svn)?;
            }
            _ => return Err("a firmware version is not known"),
        }
    }
    cpu_svn.ok_or("CPUSVN is missing")?;
    let mut all = [0_u8; 16];
    for (to, from) in all.iter_mut().zip(components) {
        *to = from.ok_or("a firmware version is missing")?;
    }
    Ok((all, pce_svn.ok_or("the PCE's version is missing")?))
}

fn configuration_of(part: Entry<'_>) -> Result<PlatformConfiguration, &'static str> {
    let (mut dynamic, mut cached, mut smt) = (None, None, None);
    for entry in Entries::inside(part)? {
        let entry = entry?;
        match entry.number {
            [7, 1] => once(&mut dynamic, entry.boolean()?)?,
            [7, 2] => once(&mut cached, entry.boolean()?)?,
            [7, 3] => once(&mut smt, entry.boolean()?)?,
            _ => return Err("a flag of the configuration is not known"),
        }
    }
    let missing = "a flag of the configuration is missing";
    Ok(PlatformConfiguration {
        dynamic_platform: dynamic.ok_or(missing)?,
        cached_keys: cached.ok_or(missing)?,
        smt_enabled: smt.ok_or(missing)?,
    })
}

/// The parts of a SEQUENCE of pairs, each a number and a value.
struct Entries<'a>(&'a [u8]);

impl<'a> Entries<'a> {
    fn of(value: &'a [u8]) -> Result<Self, &'static str> {
        match element(value)? {
            (SEQUENCE, inside, []) => Ok(Self(inside)),
            _ => Err("the SGX extension is not a sequence"),
        }
    }

    fn inside(part: Entry<'a>) -> Result<Self, &'static str> {
        match part.tag {
            SEQUENCE => Ok(Self(part.value)),
            _ => Err("a value is not of its type"),
        }
    }

    fn entry(&mut self) -> Result<Entry<'a>, &'static str> {
        let (SEQUENCE, pair, rest) = element(self.0)? else {
            return Err("a part of the SGX extension is not a pair");
        };
        self.0 = rest;
        let (OBJECT_ID, number, after) = element(pair)? else {
            return Err("a part of the SGX extension has no number");
        };
        let (tag, value, []) = element(after)? else {
            return Err("a part of the SGX extension has two values");
        };
        let number = number
            .strip_prefix(&PREFIX)
            .ok_or("a part of the SGX extension is not Intel's")?;
        Ok(Entry { number, tag, value })
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let entry = self.entry();
        if entry.is_err() {
            self.0 = &[];
        }
        Some(entry)
    }
}

/// One element of DER: tag, content, and what follows. Lengths in their shortest form and below 65,536.
fn element(bytes: &[u8]) -> Result<(u8, &[u8], &[u8]), &'static str> {
    let (tag, length, rest) = match bytes {
        [tag, length @ 0..=0x7f, rest @ ..] => (tag, usize::from(*length), rest),
        [tag, 0x81, length @ 0x80..=0xff, rest @ ..] => (tag, usize::from(*length), rest),
        [tag, 0x82, high @ 1..=0xff, low, rest @ ..] => {
            (tag, usize::from(u16::from_be_bytes([*high, *low])), rest)
        }
        _ => return Err("the SGX extension is not DER"),
    };
    let (inside, rest) = rest
        .split_at_checked(length)
        .ok_or("the SGX extension ends too early")?;
    Ok((*tag, inside, rest))
}
