//! Unified kernel images: systemd's boot stub with command line, initrd and kernel as sections of one file.
//!
//! PE format of Microsoft, revision 11; uapi-group.org, Unified Kernel Image. Sections beyond these three make the stub write files
//! for the initrd, which no prediction covers, and are left out.

use casemate_measure::boot::Stub;
use casemate_measure::pe::PeImage;

use crate::ImageError;

/// The parts of an image.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// systemd's `linuxx64.efi.stub`.
    pub stub: &'a [u8],
    /// The kernel's command line.
    pub command_line: &'a str,
    /// The initrd.
    pub initrd: &'a [u8],
    /// The kernel.
    pub kernel: &'a [u8],
}

const ENTRY: usize = 40;
/// Initialised data that can be read.
const READ_DATA: u32 = 0x4000_0040;
/// The image is prepared for memory that cannot be both written and executed.
const NX_COMPATIBLE: u16 = 0x100;
const SECTIONS_MAX: u16 = 96;
/// Offsets in the optional header of PE32+.
const DATA_SIZE: usize = 8;
const IMAGE_SIZE: usize = 56;
const CHECKSUM: usize = 64;
const CHARACTERISTICS: usize = 70;

/// Which release a stub is, from its section `.sdmagic`.
///
/// # Errors
/// A file that is no stub of systemd's, or one whose measurements are not known.
pub fn release(stub: &[u8]) -> Result<Stub, ImageError> {
    let pe = PeImage::read(stub)?;
    let sections = pe.sections()?;
    let magic = sections.iter().find(|section| section.name == ".sdmagic");
    let magic = magic.and_then(|section| str::from_utf8(section.data).ok());
    let version = magic.and_then(|text| text.split_once("systemd-stub "));
    let version = version.and_then(|(_, rest)| rest.split([' ', '\0']).next());
    let version = version.ok_or(ImageError::Stub("it is no stub of systemd's"))?;
    match version.split(['.', '-', '~']).next() {
        Some("252") => Ok(Stub::V252),
        Some("257") => Ok(Stub::V257),
        Some("262") => Ok(Stub::V262),
        _ => Err(ImageError::StubRelease(version.chars().take(40).collect())),
    }
}

/// Makes a unified kernel image.
///
/// # Errors
/// A stub that is signed, has parts already, or has no room for more sections.
pub fn unified(parts: &Parts<'_>) -> Result<Vec<u8>, ImageError> {
    let stub = PeImage::read(parts.stub)?;
    if !stub.certificates()?.is_empty() {
        return Err(ImageError::Stub(
            "it is signed, and adding to it would break that",
        ));
    }
    let has = |name: &str| {
        stub.sections()
            .is_ok_and(|all| all.iter().any(|it| it.name == name))
    };
    if [".cmdline", ".initrd", ".linux", ".osrel"]
        .into_iter()
        .any(has)
    {
        return Err(ImageError::Stub("it carries a kernel already"));
    }
    let mut image =
        Writer::of(parts.stub).ok_or(ImageError::Stub("its headers are not those of PE32+"))?;
    let no_room =
        ImageError::Stub("its headers have no room for three sections, or files are too large");
    // The kernel is last: it may unpack itself beyond its end.
    let sections: [(&[u8; 8], &[u8]); 3] = [
        (b".cmdline", parts.command_line.as_bytes()),
        (b".initrd\0", parts.initrd),
        (b".linux\0\0", parts.kernel),
    ];
    for (name, data) in sections {
        image.add(name, data).ok_or_else(|| no_room.clone())?;
    }
    let kernel = Writer::of(parts.kernel);
    let is_ready = kernel.and_then(|kernel| kernel.u16(kernel.optional + CHARACTERISTICS));
    image
        .finish(is_ready.is_some_and(|flags| flags & NX_COMPATIBLE != 0))
        .ok_or(no_room)
}

/// An image that gets sections.
struct Writer {
    bytes: Vec<u8>,
    coff: usize,
    optional: usize,
    /// Where the next entry of the section table lies, and where headers end.
    next_entry: usize,
    headers_end: usize,
    file_alignment: usize,
    memory_alignment: usize,
}

impl Writer {
    fn of(bytes: &[u8]) -> Option<Self> {
        let mut writer = Self {
            bytes: bytes.to_vec(),
            coff: 0,
            optional: 0,
            next_entry: 0,
            headers_end: 0,
            file_alignment: 0,
            memory_alignment: 0,
        };
        writer.coff = writer.number(0x3c)?;
        writer.optional = writer.coff.checked_add(24)?;
        let optional_size = usize::from(writer.u16(writer.coff + 20)?);
        let count = usize::from(writer.u16(writer.coff + 6)?);
        writer.next_entry = writer.optional + optional_size + count * ENTRY;
        writer.memory_alignment = writer.number(writer.optional + 32)?;
        writer.file_alignment = writer.number(writer.optional + 36)?;
        writer.headers_end = writer.number(writer.optional + 60)?;
        let aligned = [writer.memory_alignment, writer.file_alignment];
        let aligned = aligned
            .iter()
            .all(|it| it.is_power_of_two() && *it <= 1 << 20);
        (aligned && writer.u16(writer.optional)? == 0x20b).then_some(writer)
    }

    fn u16(&self, at: usize) -> Option<u16> {
        self.bytes
            .get(at..)?
            .first_chunk()
            .copied()
            .map(u16::from_le_bytes)
    }

    fn number(&self, at: usize) -> Option<usize> {
        let bytes = self.bytes.get(at..)?.first_chunk().copied();
        usize::try_from(u32::from_le_bytes(bytes?)).ok()
    }

    fn put(&mut self, at: usize, bytes: &[u8]) -> Option<()> {
        let to = self.bytes.get_mut(at..at.checked_add(bytes.len())?)?;
        to.copy_from_slice(bytes);
        Some(())
    }

    fn put_number(&mut self, at: usize, number: usize) -> Option<()> {
        self.put(at, &u32::try_from(number).ok()?.to_le_bytes())
    }

    /// Appends a section after the last one, in memory as in the file.
    fn add(&mut self, name: &[u8; 8], data: &[u8]) -> Option<()> {
        let (entry, end) = (self.next_entry, self.next_entry.checked_add(ENTRY)?);
        let room = self.bytes.get(entry..end.min(self.headers_end))?;
        if room.len() < ENTRY || room.iter().any(|byte| *byte != 0) {
            return None;
        }
        let address = self
            .number(self.optional + IMAGE_SIZE)?
            .next_multiple_of(self.memory_alignment);
        let padded = data.len().checked_next_multiple_of(self.file_alignment)?;
        let at = self
            .bytes
            .len()
            .checked_next_multiple_of(self.file_alignment)?;
        self.bytes.resize(at, 0);
        self.bytes.extend_from_slice(data);
        self.bytes.resize(at.checked_add(padded)?, 0);
        self.put(entry, name)?;
        for (offset, number) in [(8, data.len()), (12, address), (16, padded), (20, at)] {
            self.put_number(entry + offset, number)?;
        }
        self.put(entry + 36, &READ_DATA.to_le_bytes())?;
        self.next_entry = end;
        let count = self
            .u16(self.coff + 6)?
            .checked_add(1)
            .filter(|count| *count <= SECTIONS_MAX)?;
        self.put(self.coff + 6, &count.to_le_bytes())?;
        let in_memory = address
            .checked_add(data.len())?
            .checked_next_multiple_of(self.memory_alignment)?;
        self.put_number(self.optional + IMAGE_SIZE, in_memory)?;
        let all_data = self
            .number(self.optional + DATA_SIZE)?
            .checked_add(padded)?;
        self.put_number(self.optional + DATA_SIZE, all_data)
    }

    /// The image may say that it keeps writable and executable memory apart only when the kernel inside says so.
    fn finish(mut self, kernel_is_ready: bool) -> Option<Vec<u8>> {
        let flags = self.u16(self.optional + CHARACTERISTICS)?;
        let flags = if kernel_is_ready {
            flags
        } else {
            flags & !NX_COMPATIBLE
        };
        self.put(self.optional + CHARACTERISTICS, &flags.to_le_bytes())?;
        self.put_number(self.optional + CHECKSUM, 0)?;
        Some(self.bytes)
    }
}
