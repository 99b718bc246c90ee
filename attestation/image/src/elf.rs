//! What is read of 64-bit ELF files: sections by name, and whether a file asks for an interpreter.
//!
//! System V ABI, chapter 4 and 5, for little-endian x86-64.

/// Most sections and program headers that are looked at.
const HEADERS_MAX: usize = 4096;
const PROGRAM_INTERPRETER: u32 = 3;
const MACHINE_X86_64: u16 = 62;
const NO_BITS: u32 = 8;

/// A file whose first bytes say that it is one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Elf<'a>(&'a [u8]);

impl<'a> Elf<'a> {
    /// `None` when the bytes are no 64-bit little-endian ELF for x86-64.
    pub(crate) fn read(bytes: &'a [u8]) -> Option<Self> {
        let elf = Self(bytes);
        let known = bytes.starts_with(b"\x7fELF\x02\x01\x01") && elf.u16(18)? == MACHINE_X86_64;
        known.then_some(elf)
    }

    /// Executable (2), or position-independent (3).
    pub(crate) fn is_program(&self) -> bool {
        matches!(self.u16(16), Some(2 | 3))
    }

    /// Whether an interpreter is asked for; `None` when headers are damaged.
    pub(crate) fn is_dynamic(&self) -> Option<bool> {
        let (at, size, count) = (self.offset(32)?, self.u16(54)?, self.u16(56)?);
        let mut found = count == 0;
        for header in headers(at, size, count)? {
            found |= self.u32(header)? == PROGRAM_INTERPRETER;
        }
        Some(found)
    }

    /// The section of this name; `None` when there is none, or headers are damaged.
    pub(crate) fn section(&self, wanted: &str) -> Option<&'a [u8]> {
        let (at, size, count) = (self.offset(40)?, self.u16(58)?, self.u16(60)?);
        let mut places = headers(at, size, count)?;
        let names = self.contents(*places.get(usize::from(self.u16(62)?))?)?;
        places.retain(|place| {
            let name = self.u32(*place).and_then(|at| usize::try_from(at).ok());
            let name = name.and_then(|at| names.get(at..));
            name.and_then(|name| name.split(|byte| *byte == 0).next()) == Some(wanted.as_bytes())
        });
        self.contents(*places.first()?)
    }

    fn contents(&self, header: usize) -> Option<&'a [u8]> {
        let (at, size) = (self.offset(header + 24)?, self.offset(header + 32)?);
        let in_file = self.u32(header + 4)? != NO_BITS;
        let end = at.checked_add(size)?;
        self.0.get(at..end).filter(|_| in_file)
    }

    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..)?.first_chunk().copied()
    }

    fn u16(&self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_le_bytes)
    }

    fn u32(&self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    fn offset(&self, at: usize) -> Option<usize> {
        usize::try_from(u64::from_le_bytes(self.array(at)?)).ok()
    }
}

/// Places of `count` headers, far enough from the end of what a number holds to look into them.
fn headers(at: usize, size: u16, count: u16) -> Option<Vec<usize>> {
    let (size, count) = (usize::from(size), usize::from(count));
    let fits = count <= HEADERS_MAX && at < usize::MAX / 2;
    fits.then(|| (0..count).map(|index| at + index * size).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_is_a_dynamic_program_and_damage_never_panics() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let elf = Elf::read(&own).unwrap();
        assert!(elf.is_program());
        assert_eq!(elf.is_dynamic(), Some(true));
        assert!(elf.section(".comment").is_some_and(|it| !it.is_empty()));
        assert_eq!(elf.section(".modinfo"), None);
        assert!(Elf::read(&own[..18]).is_none());
        for at in 0..64 {
            let mut damaged = own[..4096].to_vec();
            damaged[at] = 0xff;
            if let Some(elf) = Elf::read(&damaged) {
                let _ = (elf.is_program(), elf.is_dynamic(), elf.section(".comment"));
            }
        }
    }
}
