//! Pins: the inputs of an image by name and SHA-256, in the format of `sha256sum`. Whatever is not pinned is refused.

use std::collections::BTreeMap;

use crate::{ImageError, sha256};

/// The inputs that an image may be made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pins(BTreeMap<String, String>);

/// A pinned input that was found to be what is pinned.
#[derive(Debug, Clone, Copy)]
pub struct Pinned<'a> {
    name: &'a str,
    bytes: &'a [u8],
}

impl Pinned<'_> {
    /// The file's name.
    #[must_use]
    pub const fn name(&self) -> &str {
        self.name
    }

    /// Its contents.
    #[must_use]
    pub const fn bytes(&self) -> &[u8] {
        self.bytes
    }
}

impl Pins {
    /// Reads lines of a digest, two spaces and a name; lines that are empty or begin with `#` say nothing.
    ///
    /// # Errors
    /// [`ImageError::PinLine`], [`ImageError::PinnedTwice`].
    pub fn read(text: &str) -> Result<Self, ImageError> {
        let mut pins = BTreeMap::new();
        for (index, line) in text.lines().enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let lower = |digest: &str| {
                let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
                digest.len() == 64 && digest.bytes().all(digit)
            };
            let parts = line.split_once("  ");
            let parts = parts.filter(|(digest, name)| lower(digest) && is_file_name(name));
            let (digest, name) = parts.ok_or(ImageError::PinLine(index + 1))?;
            if pins.insert(name.to_owned(), digest.to_owned()).is_some() {
                return Err(ImageError::PinnedTwice(name.into()));
            }
        }
        Ok(Self(pins))
    }

    /// Holds a file to its pin.
    ///
    /// # Errors
    /// [`ImageError::NotPinned`], [`ImageError::OtherThanPinned`].
    pub fn check<'a>(&self, name: &'a str, bytes: &'a [u8]) -> Result<Pinned<'a>, ImageError> {
        let not_pinned = || ImageError::NotPinned(name.into());
        let pinned = self.0.get(name).ok_or_else(not_pinned)?;
        let found = sha256(bytes);
        if found != *pinned {
            return Err(ImageError::OtherThanPinned {
                name: name.into(),
                found,
                pinned: pinned.clone(),
            });
        }
        Ok(Pinned { name, bytes })
    }
}

fn is_file_name(name: &str) -> bool {
    let printable = name
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'/');
    !name.is_empty() && name.len() <= 255 && printable
}
