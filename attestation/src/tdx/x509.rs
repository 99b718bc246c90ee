//! A certificate as it is written (RFC 5280, section 4.1), read from DER. Judges nothing of what it says.

use super::extension::{BIT_STRING, Extension, INTEGER, OBJECT_ID, SEQUENCE, extensions};
use crate::der::{time, value};
use crate::digest::UnixTime;
use crate::reader::Reader;

const SET: u8 = 0x31;
/// The version and the extensions, each in a wrapper of its own.
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
/// The kinds of text that names are written in.
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;

const COMMON_NAME: [u8; 3] = [0x55, 0x04, 0x03];

/// The AlgorithmIdentifier of a key on P-256 (RFC 5480, section 2.1.1).
const P256_KEY: [u8; 21] = [
    0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
    0xce, 0x3d, 0x03, 0x01, 0x07,
];

/// What a certificate is made of. Names and algorithms are whole, with their headers.
pub(crate) struct Read<'a> {
    pub(crate) signed: &'a [u8],
    pub(crate) algorithm: &'a [u8],
    /// With the count of unused bits.
    pub(crate) signature: &'a [u8],
    pub(crate) version: Option<&'a [u8]>,
    pub(crate) serial: &'a [u8],
    pub(crate) algorithm_inside: &'a [u8],
    pub(crate) issuer: &'a [u8],
    pub(crate) from: UnixTime,
    pub(crate) until: UnixTime,
    pub(crate) subject: &'a [u8],
    /// Of the subject. One that is no text is known to be there.
    pub(crate) common_names: Vec<Option<&'a str>>,
    key_algorithm: &'a [u8],
    key: &'a [u8],
    pub(crate) extensions: Vec<Extension<'a>>,
}

impl<'a> Read<'a> {
    /// The content of a Certificate.
    pub(crate) fn of(content: &'a [u8]) -> Option<Self> {
        let mut parts = Reader::new(content);
        let (signed, inside) = value(&mut parts, SEQUENCE)?;
        let (algorithm, _) = value(&mut parts, SEQUENCE)?;
        let (_, signature) = value(&mut parts, BIT_STRING)?;
        let mut inside = Reader::new(inside);
        let version = match inside.left().first() {
            Some(&VERSION) => Some(inner(&mut inside, VERSION, INTEGER)?),
            _ => None,
        };
        let (_, serial) = value(&mut inside, INTEGER)?;
        let (algorithm_inside, _) = value(&mut inside, SEQUENCE)?;
        let (issuer, _) = value(&mut inside, SEQUENCE)?;
        let (_, validity) = value(&mut inside, SEQUENCE)?;
        let mut validity = Reader::new(validity);
        let (from, until) = (time(&mut validity)?, time(&mut validity)?);
        let (subject, names) = value(&mut inside, SEQUENCE)?;
        let (_, key) = value(&mut inside, SEQUENCE)?;
        let mut key = Reader::new(key);
        let (key_algorithm, _) = value(&mut key, SEQUENCE)?;
        let (_, point) = value(&mut key, BIT_STRING)?;
        let extensions = if inside.is_empty() {
            Vec::new()
        } else {
            let (_, wrapped) = value(&mut inside, EXTENSIONS)?;
            let mut wrapped = Reader::new(wrapped);
            let all = extensions(&mut wrapped)?;
            wrapped.is_empty().then_some(all)?
        };
        let read = Self {
            signed,
            algorithm,
            signature,
            version,
            serial,
            algorithm_inside,
            issuer,
            from,
            until,
            subject,
            common_names: common_names(names)?,
            key_algorithm,
            key: point,
            extensions,
        };
        let readers = [parts, inside, validity, key];
        readers.iter().all(Reader::is_empty).then_some(read)
    }

    /// The first extension of this kind.
    pub(crate) fn extension(&self, id: &[u8]) -> Option<&Extension<'a>> {
        self.extensions.iter().find(|extension| extension.id == id)
    }

    /// An uncompressed point of P-256 with its first byte.
    pub(crate) fn p256_point(&self) -> Option<&'a [u8]> {
        match self.key {
            [0, point @ ..] if self.key_algorithm == P256_KEY => {
                (point.len() == 65 && point.first() == Some(&4)).then_some(point)
            }
            _ => None,
        }
    }
}

/// The content of a value that stands alone in another.
fn inner<'a>(reader: &mut Reader<'a>, outer: u8, tag: u8) -> Option<&'a [u8]> {
    let (_, wrapped) = value(reader, outer)?;
    let mut wrapped = Reader::new(wrapped);
    let (_, content) = value(&mut wrapped, tag)?;
    wrapped.is_empty().then_some(content)
}

/// The common names of a Name, in the order in which they stand.
fn common_names(content: &[u8]) -> Option<Vec<Option<&str>>> {
    let mut common = Vec::new();
    let mut sets = Reader::new(content);
    while !sets.is_empty() {
        let (_, set) = value(&mut sets, SET)?;
        let mut set = Reader::new(set);
        while !set.is_empty() {
            let (_, pair) = value(&mut set, SEQUENCE)?;
            let mut pair = Reader::new(pair);
            let (_, kind) = value(&mut pair, OBJECT_ID)?;
            let tag = *pair.left().first()?;
            let (_, text) = value(&mut pair, tag)?;
            pair.is_empty().then_some(())?;
            if kind == COMMON_NAME {
                let known = matches!(tag, UTF8_STRING | PRINTABLE_STRING);
                common.push(std::str::from_utf8(text).ok().filter(|_| known));
            }
        }
    }
    Some(common)
}
