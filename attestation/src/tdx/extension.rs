//! Extensions of certificates, lists and their entries (RFC 5280, section 4.2), read from DER.

use crate::der::value;
use crate::reader::Reader;

pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OBJECT_ID: u8 = 0x06;
const BOOLEAN: u8 = 0x01;
const OCTETS: u8 = 0x04;

pub(crate) const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
pub(crate) const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];

/// An extension, by the content of its object identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extension<'a> {
    pub(crate) id: &'a [u8],
    pub(crate) critical: bool,
    pub(crate) value: &'a [u8],
}

impl<'a> Extension<'a> {
    /// Its value as one DER value of this tag, without its header.
    pub(crate) fn content(&self, tag: u8) -> Option<&'a [u8]> {
        let mut reader = Reader::new(self.value);
        let (_, content) = value(&mut reader, tag)?;
        reader.is_empty().then_some(content)
    }

    fn read(reader: &mut Reader<'a>) -> Option<Self> {
        let (_, parts) = value(reader, SEQUENCE)?;
        let mut parts = Reader::new(parts);
        let (_, id) = value(&mut parts, OBJECT_ID)?;
        let critical = match parts.left().first() {
            Some(&BOOLEAN) => boolean(&mut parts)?,
            _ => false,
        };
        let (_, octets) = value(&mut parts, OCTETS)?;
        parts.is_empty().then_some(Self {
            id,
            critical,
            value: octets,
        })
    }
}

/// The extensions of a SEQUENCE, which comes next.
pub(crate) fn extensions<'a>(reader: &mut Reader<'a>) -> Option<Vec<Extension<'a>>> {
    let (_, content) = value(reader, SEQUENCE)?;
    let mut content = Reader::new(content);
    let mut all = Vec::with_capacity(8);
    while !content.is_empty() {
        all.push(Extension::read(&mut content)?);
    }
    Some(all)
}

/// BasicConstraints (RFC 5280, section 4.2.1.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Constraints {
    pub(crate) authority: bool,
    /// How many authorities may stand below.
    pub(crate) depth: Option<u8>,
}

impl Constraints {
    pub(crate) fn of(extension: &Extension<'_>) -> Option<Self> {
        let mut parts = Reader::new(extension.content(SEQUENCE)?);
        let authority = match parts.left().first() {
            Some(&BOOLEAN) => boolean(&mut parts)?,
            _ => false,
        };
        let depth = if parts.is_empty() {
            None
        } else {
            let (_, [depth @ 0..=0x7f]) = value(&mut parts, INTEGER)? else {
                return None;
            };
            Some(*depth)
        };
        parts.is_empty().then_some(Self { authority, depth })
    }
}

/// KeyUsage (RFC 5280, section 4.2.1.3), as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) signs: bool,
    pub(crate) signs_certificates: bool,
    pub(crate) signs_lists: bool,
}

impl Usage {
    pub(crate) fn of(extension: &Extension<'_>) -> Option<Self> {
        // Nine bits are named; the ninth has a byte of its own.
        let [unused @ 0..=7, first, rest @ ..] = extension.content(BIT_STRING)? else {
            return None;
        };
        let last = rest.first().unwrap_or(first);
        let unused_bits = (1_u8 << unused) - 1;
        (rest.len() < 2 && last & unused_bits == 0).then_some(Self {
            signs: first & 0x80 != 0,
            signs_certificates: first & 0x04 != 0,
            signs_lists: first & 0x02 != 0,
        })
    }
}

/// A BOOLEAN in one of the two forms that DER has.
fn boolean(reader: &mut Reader<'_>) -> Option<bool> {
    match value(reader, BOOLEAN)? {
        (_, [0]) => Some(false),
        (_, [0xff]) => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A default that is written all the same: Intel's do not, others' tools do.
    #[test]
    fn no_may_be_said_aloud() {
        let bytes = [
            0x30, 0x0a, 0x06, 3, 0x55, 0x1d, 0x13, 0x01, 1, 0, 0x04, 0, // not critical
        ];
        let read = Extension::read(&mut Reader::new(&bytes)).unwrap();
        assert_eq!((read.id, read.critical), (BASIC_CONSTRAINTS, false));
        let of = |boolean: &[u8]| {
            let value = [&[0x30, u8::try_from(boolean.len()).unwrap()], boolean].concat();
            Constraints::of(&Extension {
                value: &value,
                ..read
            })
        };
        let says = |authority| {
            Some(Constraints {
                authority,
                depth: None,
            })
        };
        assert_eq!(of(&[]), says(false));
        assert_eq!(of(&[0x01, 1, 0]), says(false));
        assert_eq!(of(&[0x01, 1, 0xff]), says(true));
        assert_eq!(of(&[0x01, 1, 1]), None, "DER has two booleans");
    }
}
