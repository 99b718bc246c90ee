//! MRTD of a trust domain: its firmware, as the VMM adds it page by page (TDX Module 1.5 Base, §12.2.1; TDVF design guide, §11).

use ring::digest::{Context, SHA384};

use crate::bytes::{offset_at, range, u32_at, u64_at};
use crate::firmware::Firmware;
use crate::{MeasureError, PAGE};

/// Most sections of the metadata, and most pages of one.
const SECTIONS_MAX: usize = 64;
const SECTION_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Bytes that one MR.EXTEND covers.
const CHUNK: usize = 256;
/// Attributes of a section.
const EXTENDED: u32 = 1;
const ADDED_LATER: u32 = 2;

/// The order in which a host's kernel adds pages and extends by them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageOrder {
    /// Each page is extended when it was added (hosts of today).
    SinglePass,
    /// All pages of a section are added, then all are extended (older hosts).
    TwoPass,
}

#[derive(Debug, Clone, Copy)]
struct Section<'a> {
    data: &'a [u8],
    address: u64,
    pages: usize,
    attributes: u32,
}

/// MRTD of a trust domain that is started with this firmware.
///
/// # Errors
/// What the firmware lacks for TDX, or a section that is not of whole pages.
pub fn launch_digest(image: &[u8], order: PageOrder) -> Result<[u8; 48], MeasureError> {
    let firmware = Firmware::read(image)?;
    let sections = sections(firmware.tdx_metadata()?, image)?;
    let mut context = Context::new(&SHA384);
    let measured = |section: &Section<'_>| section.attributes & ADDED_LATER == 0;
    for section in sections.iter().filter(|section| measured(section)) {
        let pages = || (section.address..).step_by(PAGE).zip(0..section.pages);
        for (address, page) in pages() {
            add(&mut context, address);
            if order == PageOrder::SinglePass {
                extend(&mut context, section, page);
            }
        }
        if order == PageOrder::TwoPass {
            pages().for_each(|(_, page)| extend(&mut context, section, page));
        }
    }
    let mut out = [0; 48];
    out.copy_from_slice(context.finish().as_ref());
    Ok(out)
}

/// TDH.MEM.PAGE.ADD: the words, the page's address, zeros.
fn add(context: &mut Context, address: u64) {
    context.update(b"MEM.PAGE.ADD\0\0\0\0");
    context.update(&address.to_le_bytes());
    context.update(&[0; 104]);
}

/// TDH.MR.EXTEND over each 256 bytes of a page; bytes beyond the section's data are zero.
fn extend(context: &mut Context, section: &Section<'_>, page: usize) {
    if section.attributes & EXTENDED == 0 {
        return;
    }
    for offset in (page * PAGE..).step_by(CHUNK).take(PAGE / CHUNK) {
        context.update(b"MR.EXTEND\0\0\0\0\0\0\0");
        context.update(&(section.address + offset as u64).to_le_bytes());
        context.update(&[0; 104]);
        let data = section.data.get(offset..).unwrap_or_default();
        let data = data.get(..CHUNK).unwrap_or(data);
        context.update(data);
        context.update([0; CHUNK].get(data.len()..).unwrap_or_default());
    }
}

/// "TDVF", length, version 1, number, then 32 bytes for each section.
fn sections<'a>(metadata: &[u8], image: &'a [u8]) -> Result<Vec<Section<'a>>, MeasureError> {
    let cut = || MeasureError::FirmwareCut("TDX metadata");
    let is_known = metadata.starts_with(b"TDVF") && u32_at(metadata, 8) == Some(1);
    let count = offset_at(metadata, 12).filter(|count| is_known && *count <= SECTIONS_MAX);
    let bytes = count.and_then(|count| range(metadata, 16, count * 32));
    let (entries, _) = bytes.ok_or_else(cut)?.as_chunks::<32>();
    let parts = |entry: &[u8; 32]| {
        let place = (offset_at(entry, 0)?, offset_at(entry, 4)?);
        let memory = (u64_at(entry, 8)?, u64_at(entry, 16)?);
        Some((place, memory, u32_at(entry, 24)?, u32_at(entry, 28)?))
    };
    let read = |entry| {
        let ((at, size), memory, kind, attributes) = parts(entry).ok_or_else(cut)?;
        let (address, in_memory) = memory;
        let wrong = MeasureError::Section {
            kind,
            at: address,
            size: in_memory,
        };
        let whole = |value: u64| value.is_multiple_of(4096);
        let fits = in_memory <= SECTION_BYTES_MAX && address.checked_add(in_memory).is_some();
        if !whole(address) || !whole(in_memory) || !fits || size as u64 > in_memory {
            return Err(wrong);
        }
        Ok(Section {
            data: range(image, at, size).ok_or_else(cut)?,
            address,
            pages: usize::try_from(in_memory).map_or(0, |bytes| bytes / PAGE),
            attributes,
        })
    };
    entries.iter().map(read).collect()
}
