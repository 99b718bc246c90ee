//! The archive that the kernel unpacks into its root (cpio "newc"), with nothing in it that differs between two builds:
//! sorted names, numbers in that order, no owner, one time.
//!
//! Kernel's Documentation/driver-api/early-userspace/buffer-format.rst.

use std::collections::BTreeMap;

use crate::ImageError;

/// Longest name; the kernel's own bound is larger.
const NAME_BYTES_MAX: usize = 255;
/// The archive ends at a multiple of this.
const BLOCK: usize = 512;
const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;

/// What lies at a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry<'a> {
    /// A directory with these permissions.
    Directory(u32),
    /// A file with these permissions.
    File(u32, &'a [u8]),
}

/// An archive's entries by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Archive<'a>(BTreeMap<String, Entry<'a>>);

impl<'a> Archive<'a> {
    /// Adds an entry. Names have no `/` at the beginning; folders must be added too.
    ///
    /// # Errors
    /// [`ImageError::Name`] for a name that is no path, that is there already, or whose folder is not.
    pub fn add(&mut self, name: &str, entry: Entry<'a>) -> Result<(), ImageError> {
        let wrong = || ImageError::Name(name.chars().take(NAME_BYTES_MAX).collect());
        let is_part = |part: &str| {
            let plain = part.bytes().all(|byte| byte.is_ascii_graphic());
            !part.is_empty() && plain && part != "." && part != ".."
        };
        let inside = match name.rsplit_once('/') {
            Some((folder, _)) => matches!(self.0.get(folder), Some(Entry::Directory(_))),
            None => true,
        };
        let parts = name.split('/').all(is_part) && name.len() <= NAME_BYTES_MAX;
        if !parts || !inside || self.0.contains_key(name) {
            return Err(wrong());
        }
        self.0.insert(name.to_owned(), entry);
        Ok(())
    }

    /// Entries by name.
    pub fn entries(&self) -> impl Iterator<Item = (&str, Entry<'a>)> {
        self.0.iter().map(|(name, entry)| (name.as_str(), *entry))
    }

    /// The archive's bytes, with `epoch` as the time of every entry, in seconds since 1970.
    #[must_use]
    pub fn to_bytes(&self, epoch: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (inode, (name, entry)) in (1_u32..).zip(&self.0) {
            let (mode, links, data): (_, _, &[u8]) = match entry {
                Entry::Directory(mode) => (DIRECTORY | mode, 2, &[]),
                Entry::File(mode, data) => (FILE | mode, 1, data),
            };
            let head = Head {
                inode,
                mode,
                links,
                epoch,
            };
            head.append(&mut bytes, name, data);
        }
        let end = Head {
            inode: 0,
            mode: 0,
            links: 1,
            epoch: 0,
        };
        end.append(&mut bytes, "TRAILER!!!", &[]);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes
    }
}

struct Head {
    inode: u32,
    mode: u32,
    links: u32,
    epoch: u32,
}

impl Head {
    /// Magic, thirteen numbers of eight digits, name with a zero byte, data; name and data end at multiples of 4.
    fn append(&self, bytes: &mut Vec<u8>, name: &str, data: &[u8]) {
        let numbers = [
            self.inode as usize,
            self.mode as usize,
            0, // owner
            0, // group
            self.links as usize,
            self.epoch as usize,
            data.len(),
            0, // device, major and minor
            0,
            0, // of a device node
            0,
            name.len() + 1,
            0, // checksum, of another variant
        ];
        bytes.extend_from_slice(b"070701");
        for number in numbers {
            bytes.extend_from_slice(format!("{number:08X}").as_bytes());
        }
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(0);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
}
