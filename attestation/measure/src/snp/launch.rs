//! The chain over pages: firmware, the sections that its metadata names, then a page for each processor.

use ring::digest::{SHA384, digest};

use super::{Hypervisor, KernelHashes, Shape};
use crate::bytes::{offset_at, range, u32_at};
use crate::firmware::Firmware;
use crate::{MeasureError, PAGE};

/// Where the pages of processors lie (48-bit address space, last page).
const PROCESSOR_ADDRESS: u64 = 0xffff_ffff_f000;
/// Most sections of metadata, and most pages that one may have: far beyond what firmware has.
const SECTIONS_MAX: usize = 64;
const SECTION_PAGES_MAX: usize = 65_536;

/// PAGE_TYPE of PAGE_INFO (§8.17, table 67).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PageType {
    Normal = 1,
    Vmsa = 2,
    Zero = 3,
    Unmeasured = 4,
    Secrets = 5,
    Cpuid = 6,
}

/// What a section of guest memory is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SectionKind {
    /// Memory for the firmware's first phase.
    Memory,
    /// The secrets page.
    Secrets,
    /// The CPUID page.
    Cpuid,
    /// Calling area of an SVSM.
    CallingArea,
    /// Kernel hashes.
    KernelHashes,
}

/// A section that the firmware asks to be prepared before its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section {
    /// What for.
    pub kind: SectionKind,
    /// Address in guest memory.
    pub address: u32,
    /// Bytes: whole pages.
    pub size: u32,
}

impl Section {
    /// A section with the type number of the firmware's metadata.
    ///
    /// # Errors
    /// [`MeasureError::Section`] for a type that is not known, or a place or size that is not of whole pages.
    pub fn new(kind: u32, address: u32, size: u32) -> Result<Self, MeasureError> {
        let wrong = MeasureError::Section {
            kind,
            at: u64::from(address),
            size: u64::from(size),
        };
        let (known, pages_max) = match kind {
            1 => (SectionKind::Memory, SECTION_PAGES_MAX),
            2 => (SectionKind::Secrets, 1),
            3 => (SectionKind::Cpuid, 1),
            4 => (SectionKind::CallingArea, SECTION_PAGES_MAX),
            0x10 => (SectionKind::KernelHashes, 1),
            _ => return Err(wrong),
        };
        let whole = |value: u32| value.is_multiple_of(4096);
        let pages = usize::try_from(size).map_or(0, |size| size / PAGE);
        if !whole(address) || !whole(size) || pages == 0 || pages > pages_max {
            return Err(wrong);
        }
        Ok(Self {
            kind: known,
            address,
            size,
        })
    }
}

/// What a launch needs to know of a firmware.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnpFirmware {
    /// Digest after the image's own pages.
    pub digest: [u8; 48],
    /// In the order of the metadata.
    pub sections: Vec<Section>,
    /// Where processors other than the first begin.
    pub reset_address: u32,
    /// Address of the table of kernel hashes, when there is one.
    pub hash_table: Option<u32>,
}

/// One page of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// PAGE_TYPE.
    pub page_type: u8,
    /// Address in guest memory.
    pub address: u64,
    /// SHA-384 of the page, or zeros where its contents do not count.
    pub contents: [u8; 48],
    /// The digest after this page.
    pub digest: [u8; 48],
}

impl SnpFirmware {
    /// Reads an image.
    ///
    /// # Errors
    /// What the image lacks for SNP.
    pub fn read(image: &[u8]) -> Result<Self, MeasureError> {
        let firmware = Firmware::read(image)?;
        let mut chain = Chain::default();
        chain.data(PageType::Normal, firmware.address(), image);
        Ok(Self {
            digest: chain.digest,
            sections: sections(firmware.sev_metadata()?)?,
            reset_address: firmware.reset_address()?,
            hash_table: firmware.hash_table_address()?,
        })
    }

    /// The launch digest of a machine of this shape, with kernel, initrd and command line measured when `hashes` are given.
    ///
    /// # Errors
    /// A shape that cannot be launched, or hashes that this firmware would not look at.
    pub fn launch_digest(
        &self,
        shape: &Shape,
        hashes: Option<&KernelHashes>,
    ) -> Result<[u8; 48], MeasureError> {
        let steps = self.steps(shape, hashes)?;
        Ok(steps.last().map_or(self.digest, |step| step.digest))
    }

    /// Every page after the image's own.
    ///
    /// # Errors
    /// As [`SnpFirmware::launch_digest`].
    pub fn steps(
        &self,
        shape: &Shape,
        hashes: Option<&KernelHashes>,
    ) -> Result<Vec<Step>, MeasureError> {
        let page = hashes.map(|hashes| self.hash_page(hashes)).transpose()?;
        let mut chain = Chain {
            digest: self.digest,
            steps: Vec::new(),
        };
        // EC2 adds the CPUID page after all others.
        let last = |section: &Section| {
            shape.hypervisor == Hypervisor::Ec2 && section.kind == SectionKind::Cpuid
        };
        let (late, first): (Vec<_>, Vec<_>) = self.sections.iter().partition(|it| last(it));
        for section in first.into_iter().chain(late) {
            chain.section(section, shape.hypervisor, page.as_deref());
        }
        for state in shape.pages(self.reset_address)? {
            chain.data(PageType::Vmsa, PROCESSOR_ADDRESS, &state);
        }
        Ok(chain.steps)
    }

    /// The page of hashes at the place that this firmware reads it from.
    ///
    /// # Errors
    /// [`MeasureError::NoKernelHashes`].
    pub fn hash_page(&self, hashes: &KernelHashes) -> Result<Vec<u8>, MeasureError> {
        let section = self.sections.iter();
        let section = section
            .filter(|section| section.kind == SectionKind::KernelHashes)
            .find(|section| {
                self.hash_table
                    .is_some_and(|at| at & !0xfff == section.address)
            });
        let table = self.hash_table.filter(|_| section.is_some());
        table
            .and_then(|address| usize::try_from(address & 0xfff).ok())
            .and_then(|offset| hashes.page(offset))
            .ok_or(MeasureError::NoKernelHashes)
    }
}

/// Sections of the metadata: "ASEV", length, version 1, number, then 12 bytes for each.
fn sections(metadata: &[u8]) -> Result<Vec<Section>, MeasureError> {
    let cut = || MeasureError::FirmwareCut("SEV metadata");
    let is_known = metadata.starts_with(b"ASEV") && u32_at(metadata, 8) == Some(1);
    let count = offset_at(metadata, 12).filter(|count| is_known && *count <= SECTIONS_MAX);
    let bytes = count.and_then(|count| range(metadata, 16, count * 12));
    let (entries, _) = bytes.ok_or_else(cut)?.as_chunks::<12>();
    entries
        .iter()
        .map(|entry| {
            let number = |at| u32_at(entry, at).ok_or_else(cut);
            Section::new(number(8)?, number(0)?, number(4)?)
        })
        .collect()
}

/// The digest so far, and each step that led to it.
struct Chain {
    digest: [u8; 48],
    steps: Vec<Step>,
}

impl Default for Chain {
    fn default() -> Self {
        Self {
            digest: [0; 48],
            steps: Vec::new(),
        }
    }
}

impl Chain {
    /// PAGE_INFO: digest so far, contents, length 0x70, type, flags and permissions of VMPL 1 to 3 (all zero), address.
    fn page(&mut self, kind: PageType, address: u64, contents: [u8; 48]) {
        let mut info = [self.digest, contents].concat();
        info.extend_from_slice(&0x70_u16.to_le_bytes());
        info.extend_from_slice(&[kind as u8, 0, 0, 0, 0, 0]);
        info.extend_from_slice(&address.to_le_bytes());
        self.digest = sha384(&info);
        self.steps.push(Step {
            page_type: kind as u8,
            address,
            contents,
            digest: self.digest,
        });
    }

    fn data(&mut self, kind: PageType, address: u64, bytes: &[u8]) {
        for (page, address) in bytes.chunks(PAGE).zip((address..).step_by(PAGE)) {
            self.page(kind, address, sha384(page));
        }
    }

    fn empty(&mut self, kind: PageType, section: &Section) {
        let start = u64::from(section.address);
        let end = start + u64::from(section.size);
        for address in (start..end).step_by(PAGE) {
            self.page(kind, address, [0; 48]);
        }
    }

    fn section(&mut self, section: &Section, hypervisor: Hypervisor, hashes: Option<&[u8]>) {
        let kind = match (section.kind, hashes) {
            (SectionKind::KernelHashes, Some(page)) => {
                return self.data(PageType::Normal, u64::from(section.address), page);
            }
            (SectionKind::Memory, _) if hypervisor == Hypervisor::Gce => PageType::Unmeasured,
            (SectionKind::Memory | SectionKind::CallingArea, _)
            | (SectionKind::KernelHashes, None) => PageType::Zero,
            (SectionKind::Secrets, _) => PageType::Secrets,
            (SectionKind::Cpuid, _) => PageType::Cpuid,
        };
        self.empty(kind, section);
    }
}

fn sha384(bytes: &[u8]) -> [u8; 48] {
    let mut out = [0; 48];
    out.copy_from_slice(digest(&SHA384, bytes).as_ref());
    out
}
