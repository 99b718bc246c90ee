//! PE images for UEFI: the digest that firmware measures before it starts one (Authenticode), and their sections.
//!
//! Windows Authenticode Portable Executable Signature Format, "Calculating the PE Image Hash": everything except the checksum,
//! the directory entry of the certificate table, and the table itself.

use crate::MeasureError;
use crate::bytes::{array, offset_at, range, u16_at};
use crate::registers::Hash;

/// Most sections of an image that is read.
const SECTIONS_MAX: usize = 96;
/// Bytes of the COFF header with its signature, and of an entry of the section table.
const COFF: usize = 24;
const ENTRY: usize = 40;

/// An image whose headers were read.
#[derive(Debug, Clone)]
pub struct PeImage<'a> {
    bytes: &'a [u8],
    checksum: usize,
    certificate_entry: usize,
    headers: usize,
    sections: Vec<Raw<'a>>,
}

/// A section as it lies in the file.
#[derive(Debug, Clone, Copy)]
struct Raw<'a> {
    name: [u8; 8],
    at: usize,
    size: usize,
    size_in_memory: usize,
    data: &'a [u8],
}

/// A section by its name, with the bytes that are in memory after loading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeSection<'a> {
    /// Without the zeros that fill its eight bytes.
    pub name: &'a str,
    /// What the file holds of it, at most as long as in memory.
    pub data: &'a [u8],
    /// Bytes in memory; where the file holds fewer, the rest is zero.
    pub size_in_memory: usize,
}

impl<'a> PeImage<'a> {
    /// Reads the headers of an image.
    ///
    /// # Errors
    /// [`MeasureError::Pe`] says what is wrong.
    pub fn read(bytes: &'a [u8]) -> Result<Self, MeasureError> {
        let wrong = |what| move || MeasureError::Pe(what);
        if !bytes.starts_with(b"MZ") {
            return Err(MeasureError::Pe("it does not begin with MZ"));
        }
        let coff = offset_at(bytes, 0x3c).filter(|at| array(bytes, *at) == Some(*b"PE\0\0"));
        let coff = coff.ok_or_else(wrong("it has no PE header"))?;
        let count = u16_at(bytes, coff + 6).map(usize::from);
        let count = count.filter(|count| *count <= SECTIONS_MAX);
        let count = count.ok_or_else(wrong("it has more than 96 sections"))?;
        let optional = coff + COFF;
        let optional_size = u16_at(bytes, coff + 20).map(usize::from);
        let directories = match u16_at(bytes, optional) {
            Some(0x10b) => 96,
            Some(0x20b) => 112,
            _ => return Err(MeasureError::Pe("it is neither PE32 nor PE32+")),
        };
        // The certificate table is directory 4.
        let certificate_entry = optional + directories + 4 * 8;
        let named = offset_at(bytes, optional + directories - 4).filter(|named| *named > 4);
        let size = optional_size
            .filter(|size| named.is_some() && optional + size >= certificate_entry + 8);
        let size = size.ok_or_else(wrong("its headers have no place for a certificate table"))?;
        let table = range(bytes, optional + size, count * ENTRY);
        let table = table.ok_or_else(wrong("its section table is cut off"))?;
        let headers = offset_at(bytes, optional + 60)
            .filter(|size| *size <= bytes.len() && *size >= certificate_entry + 8);
        let (entries, _) = table.as_chunks::<ENTRY>();
        let sections = entries.iter().map(|entry| Raw::read(bytes, entry));
        let sections = sections.collect::<Option<_>>();
        Ok(Self {
            bytes,
            checksum: optional + 64,
            certificate_entry,
            headers: headers.ok_or_else(wrong("the size of its headers is wrong"))?,
            sections: sections.ok_or_else(wrong("a section lies beyond its end"))?,
        })
    }

    /// The digest that firmware measures, and that a signature is over.
    ///
    /// # Errors
    /// When sections overlap, or the certificate table is not the end of the file.
    pub fn authenticode(&self, hash: Hash) -> Result<Vec<u8>, MeasureError> {
        let cut = || MeasureError::Pe("its parts overlap or are cut off");
        let part = |from: usize, to: usize| self.bytes.get(from..to).ok_or_else(cut);
        let mut hashed = part(0, self.checksum)?.to_vec();
        hashed.extend_from_slice(part(self.checksum + 4, self.certificate_entry)?);
        hashed.extend_from_slice(part(self.certificate_entry + 8, self.headers)?);
        let mut sections: Vec<_> = self.sections.iter().filter(|it| it.size > 0).collect();
        sections.sort_by_key(|section| section.at);
        let mut sum = self.headers;
        for section in sections {
            if section.at < sum {
                return Err(cut());
            }
            hashed.extend_from_slice(section.data);
            sum += section.size;
        }
        // What follows the sections counts, except the certificate table at the very end.
        let certificates = self.certificates()?.len();
        let end = self.bytes.len().checked_sub(certificates).ok_or_else(cut)?;
        hashed.extend_from_slice(part(sum, end)?);
        Ok(hash.of(&hashed))
    }

    /// The certificate table, empty in an image that is not signed.
    ///
    /// # Errors
    /// When it is not the end of the file.
    pub fn certificates(&self) -> Result<&'a [u8], MeasureError> {
        let at = offset_at(self.bytes, self.certificate_entry).unwrap_or_default();
        let size = offset_at(self.bytes, self.certificate_entry + 4).unwrap_or_default();
        if size == 0 {
            return Ok(&[]);
        }
        let is_last = at.checked_add(size) == Some(self.bytes.len()) && at >= self.headers;
        let table = self.bytes.get(at..).filter(|_| is_last);
        table.ok_or(MeasureError::Pe("its certificate table is not its end"))
    }

    /// Sections in the order of the table.
    ///
    /// # Errors
    /// When a name is not text.
    pub fn sections(&self) -> Result<Vec<PeSection<'_>>, MeasureError> {
        let named = self.sections.iter().map(|raw| {
            let end = raw.name.iter().position(|byte| *byte == 0).unwrap_or(8);
            let name = raw
                .name
                .get(..end)
                .and_then(|name| str::from_utf8(name).ok());
            Some(PeSection {
                name: name?,
                data: raw.data.get(..raw.size_in_memory).unwrap_or(raw.data),
                size_in_memory: raw.size_in_memory,
            })
        });
        let named = named.collect::<Option<_>>();
        named.ok_or(MeasureError::Pe("the name of a section is not text"))
    }
}

impl<'a> Raw<'a> {
    fn read(bytes: &'a [u8], entry: &[u8; ENTRY]) -> Option<Self> {
        let (at, size) = (offset_at(entry, 20)?, offset_at(entry, 16)?);
        let data = if size == 0 {
            &[]
        } else {
            range(bytes, at, size)?
        };
        Some(Self {
            name: array(entry, 0)?,
            at,
            size,
            size_in_memory: offset_at(entry, 8)?,
            data,
        })
    }
}
