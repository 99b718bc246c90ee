//! The one program of the guest: static, because there is nothing beside it in the image.

use crate::ImageError;
use crate::elf::Elf;

/// Largest program.
pub const BYTES_MAX: usize = 256 * 1024 * 1024;

/// A program that needs no other file.
#[derive(Debug, Clone, Copy)]
pub struct Program<'a> {
    bytes: &'a [u8],
}

impl<'a> Program<'a> {
    /// Reads a program.
    ///
    /// # Errors
    /// [`ImageError::Program`].
    pub fn read(bytes: &'a [u8]) -> Result<Self, ImageError> {
        let refused = |what| Err(ImageError::Program(what));
        if bytes.len() > BYTES_MAX {
            return refused("it has more than 256 MiB");
        }
        let elf = Elf::read(bytes).filter(Elf::is_program);
        match elf.map(|elf| elf.is_dynamic()) {
            None => refused("it is no x86-64 ELF program"),
            Some(None) => refused("its headers are damaged"),
            Some(Some(true)) => {
                refused("it is linked dynamically; build it with -C target-feature=+crt-static")
            }
            Some(Some(false)) => Ok(Self { bytes }),
        }
    }

    /// The file.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// What compilers wrote into it, as `rustc version …`; empty when they wrote nothing.
    #[must_use]
    pub fn compilers(&self) -> Vec<String> {
        let comment = Elf::read(self.bytes).and_then(|elf| elf.section(".comment"));
        let lines = comment.unwrap_or_default().split(|byte| *byte == 0);
        let text = lines.filter_map(|line| str::from_utf8(line).ok());
        let text = text.filter(|line| !line.is_empty() && line.len() <= 200);
        let mut found: Vec<String> = text.take(16).map(str::to_owned).collect();
        found.sort();
        found.dedup();
        found
    }
}
