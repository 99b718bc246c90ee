//! The clear header (rules PK-1 to PK-6): what anybody may read of a package. Nothing in it is
//! authenticated before [`super::SealedPackage::unlock`].

use std::fmt;

use super::CHUNK_LEN;
use super::chunk::{Cut, TAG_LEN};
use super::error::PackageError;
use super::frame::{self, Fields};
use super::tree::{Hash, sha256};

const MAGIC: &[u8; 8] = b"CASEMATE";
const VERSION: u32 = 1;
const HEADER_LEN_MAX: usize = 4096;
/// Magic, version and header length: enough to know how much more to read.
pub(super) const START_LEN: usize = 16;
/// Length and digest of the sealed manifest: what the publisher's signature leaves out (PK-33).
const TAIL_LEN: usize = 40;
/// Longest manifest in plain (rule PK-31).
pub(super) const MANIFEST_LEN_MAX: u64 = 64 << 20;
const SEALED_MANIFEST_LEN_MAX: u64 = MANIFEST_LEN_MAX + 65 * TAG_LEN as u64;
const KEY_ID_LEN_MAX: usize = 128;
/// What an algorithm number is for, in the order of the fields; 1 is the only number yet.
const ALGORITHMS: [&str; 4] = ["sealing", "derivation", "tree hash", "signature"];

/// A package's random name; no two packages share one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PackageId([u8; 16]);

impl PackageId {
    /// An id that was read somewhere.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// Rule PK-5: SHA-256 of the clear header, the model's digest everywhere (P-22).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PackageDigest([u8; 32]);

impl PackageDigest {
    /// A digest that was read somewhere.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

macro_rules! shown_as_hex {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    )*};
}
shown_as_hex!(PackageId, PackageDigest);

/// A clear header that was decoded strictly, with the bytes it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClearHeader {
    bytes: Vec<u8>,
    id: PackageId,
    epoch: u64,
    key_id: String,
    weights: Cut,
    manifest: Cut,
    manifest_digest: Hash,
}

impl ClearHeader {
    /// Decodes exactly a header's bytes.
    ///
    /// # Errors
    /// The rule of PK-1 to PK-4 that does not hold.
    pub fn parse(bytes: &[u8]) -> Result<Self, PackageError> {
        let malformed = PackageError::MalformedHeader;
        let len = header_len(bytes)?;
        if len != bytes.len() {
            return Err(malformed("its length field differs from its length"));
        }
        let mut fields = Fields::new(bytes);
        let short = || malformed("a field is cut short");
        fields.take(START_LEN).ok_or_else(short)?;
        let id = PackageId(fields.array().ok_or_else(short)?);
        let epoch = fields.u64().ok_or_else(short)?;
        let key_id = key_id(fields.framed().ok_or_else(short)?).ok_or(malformed(
            "key id is not 1 to 128 printable ASCII characters",
        ))?;
        for role in ALGORITHMS {
            let found = fields.u16().ok_or_else(short)?;
            if found != 1 {
                return Err(PackageError::UnsupportedAlgorithm { role, found });
            }
        }
        if fields.u32().ok_or_else(short)? != CHUNK_LEN as u32 {
            return Err(malformed("chunk length is not 1048576"));
        }
        let weights = Cut::of_sealed(fields.u64().ok_or_else(short)?)
            .ok_or(malformed("no content has this sealed length"))?;
        let sealed_manifest_len = fields.u64().ok_or_else(short)?;
        let manifest = Cut::of_sealed(sealed_manifest_len)
            .filter(|_| sealed_manifest_len <= SEALED_MANIFEST_LEN_MAX)
            .ok_or(malformed("no manifest has this sealed length"))?;
        let manifest_digest = fields.array().ok_or_else(short)?;
        if fields.left() != 0 {
            return Err(malformed("bytes are left over"));
        }
        Ok(Self {
            bytes: bytes.to_vec(),
            id,
            epoch,
            key_id,
            weights,
            manifest,
            manifest_digest,
        })
    }

    /// Rule PK-5.
    pub fn digest(&self) -> PackageDigest {
        PackageDigest(sha256(&[&self.bytes]))
    }

    /// The package's id.
    pub fn id(&self) -> PackageId {
        self.id
    }

    /// The package's epoch; a reader refuses one below its floor.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Which key-encryption key wraps the data key.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// Bytes of tensor data.
    pub fn content_len(&self) -> u64 {
        self.weights.plain_len()
    }

    /// Bytes of the whole file (rule PK-6).
    pub fn file_len(&self) -> u64 {
        self.weights_offset() + self.weights.sealed_len()
    }

    /// The header as it stands in the file.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What the publisher signs of the header (rule PK-33).
    pub(super) fn signed_bytes(&self) -> &[u8] {
        let end = self.bytes.len().saturating_sub(TAIL_LEN);
        self.bytes.get(..end).unwrap_or_default()
    }

    pub(super) fn weights(&self) -> Cut {
        self.weights
    }

    pub(super) fn manifest(&self) -> Cut {
        self.manifest
    }

    pub(super) fn manifest_digest(&self) -> &Hash {
        &self.manifest_digest
    }

    pub(super) fn manifest_offset(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub(super) fn weights_offset(&self) -> u64 {
        self.manifest_offset() + self.manifest.sealed_len()
    }
}

/// Length of the header that begins with `start`, once magic and version are known ones (PK-2, PK-3).
pub(super) fn header_len(start: &[u8]) -> Result<usize, PackageError> {
    let mut fields = Fields::new(start);
    if fields.array::<8>().as_ref() != Some(MAGIC) {
        return Err(PackageError::NotAPackage);
    }
    let short = PackageError::MalformedHeader("a field is cut short");
    let (Some(version), len) = (fields.u32(), fields.u32()) else {
        return Err(short);
    };
    if version != VERSION {
        return Err(PackageError::UnsupportedVersion { found: version });
    }
    let len = usize::try_from(len.ok_or(short)?).unwrap_or(usize::MAX);
    if (START_LEN..=HEADER_LEN_MAX).contains(&len) {
        return Ok(len);
    }
    Err(PackageError::MalformedHeader(
        "its length field is out of bounds",
    ))
}

/// What a sealer decides about a clear header.
pub(super) struct Draft<'a> {
    pub(super) id: PackageId,
    pub(super) epoch: u64,
    pub(super) key_id: &'a str,
    pub(super) weights: Cut,
}

impl Draft<'_> {
    /// The bytes that the publisher signs: all but the manifest's length and digest (rule PK-33).
    pub(super) fn signed_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&(self.header_len() as u32).to_be_bytes());
        out.extend_from_slice(self.id.as_bytes());
        out.extend_from_slice(&self.epoch.to_be_bytes());
        frame::put(&mut out, self.key_id.as_bytes());
        for _ in ALGORITHMS {
            out.extend_from_slice(&1u16.to_be_bytes());
        }
        out.extend_from_slice(&(CHUNK_LEN as u32).to_be_bytes());
        out.extend_from_slice(&self.weights.sealed_len().to_be_bytes());
        out
    }

    /// The whole header.
    pub(super) fn finish(&self, manifest: Cut, manifest_digest: &Hash) -> Vec<u8> {
        let mut out = self.signed_bytes();
        out.extend_from_slice(&manifest.sealed_len().to_be_bytes());
        out.extend_from_slice(manifest_digest);
        out
    }

    pub(super) fn header_len(&self) -> usize {
        // start, id, epoch, key id, algorithms, chunk length, length of the weights, tail
        START_LEN + 16 + 8 + 4 + self.key_id.len() + 8 + 4 + 8 + TAIL_LEN
    }
}

/// Rule PK-1: a key id that can be printed as it is.
pub(super) fn key_id(bytes: &[u8]) -> Option<String> {
    let fits =
        (1..=KEY_ID_LEN_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic);
    fits.then(|| String::from_utf8_lossy(bytes).into_owned())
}
