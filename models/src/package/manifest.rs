//! The manifest (rules PK-30 to PK-34): what the package holds, and who says so.

use std::ops::Range;

use ring::signature::{ED25519, UnparsedPublicKey};
use zeroize::Zeroizing;

use super::error::PackageError;
use super::frame::{self, Fields};
use super::header::{ClearHeader, MANIFEST_LEN_MAX};
use super::tree::Hash;

const FORMAT: &[u8] = b"casemate/manifest/v1";
const SIGNATURE_LABEL: &[u8] = b"casemate/package-signature/v1";
const TEXT_LEN_MAX: usize = 128;

/// The Ed25519 public key of whoever may publish packages: the organisation's release key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublisherKey([u8; 32]);

impl PublisherKey {
    /// A key that was read from the organisation's folder or a pinned configuration.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// A manifest that was decoded strictly. Says nothing about who wrote it: see [`Manifest::verify`].
pub struct Manifest {
    bytes: Zeroizing<Vec<u8>>,
    name: String,
    version: String,
    source_header: Range<usize>,
    content_len: u64,
    tree_hash: Hash,
    source_hash: Hash,
    publisher: PublisherKey,
    signature: [u8; 64],
    signed_len: usize,
}

impl Manifest {
    /// Decodes a manifest's plaintext.
    ///
    /// # Errors
    /// [`PackageError::MalformedManifest`] naming the item that is not as PK-30 says.
    pub fn parse(bytes: Zeroizing<Vec<u8>>) -> Result<Self, PackageError> {
        let malformed = PackageError::MalformedManifest;
        let mut fields = Fields::new(&bytes);
        if fields.framed() != Some(FORMAT) {
            return Err(malformed("its format is not casemate/manifest/v1"));
        }
        let bad_text = malformed("name or version is not 1 to 128 bytes of printable text");
        let (Some(name), Some(version)) = (
            fields.framed().and_then(text),
            fields.framed().and_then(text),
        ) else {
            return Err(bad_text);
        };
        let header = fields
            .framed()
            .ok_or(malformed("source header is cut short"))?
            .len();
        let header_end = bytes.len() - fields.left();
        let short = || malformed("an item has another length than it must have");
        let content_len = fields
            .framed_array()
            .map(u64::from_be_bytes)
            .ok_or_else(short)?;
        let tree_hash = fields.framed_array().ok_or_else(short)?;
        let source_hash = fields.framed_array().ok_or_else(short)?;
        let publisher = PublisherKey(fields.framed_array().ok_or_else(short)?);
        let signed_len = bytes.len() - fields.left();
        let signature = fields.framed_array().ok_or_else(short)?;
        if fields.left() != 0 {
            return Err(malformed("bytes are left over"));
        }
        let source_header = header_end - header..header_end;
        Ok(Self {
            name,
            version,
            source_header,
            content_len,
            tree_hash,
            source_hash,
            publisher,
            signature,
            signed_len,
            bytes,
        })
    }

    /// The plaintext that it was decoded from.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Checks who published (PK-33, PK-34) and that manifest and clear header describe one package (PK-31).
    /// Says nothing about the weights: see [`super::UnlockedPackage::verify`].
    ///
    /// # Errors
    /// [`PackageError::WrongPublisher`], [`PackageError::BadSignature`] or
    /// [`PackageError::MalformedManifest`].
    pub fn verify(
        self,
        header: &ClearHeader,
        pinned: &PublisherKey,
    ) -> Result<VerifiedManifest, PackageError> {
        if self.publisher != *pinned {
            return Err(PackageError::WrongPublisher {
                found: hex::encode(self.publisher.0),
            });
        }
        let signed = self.bytes.get(..self.signed_len).unwrap_or_default();
        let message = signature_message(header.signed_bytes(), signed);
        check_signature(pinned, &message, &self.signature).ok_or(PackageError::BadSignature)?;
        if self.content_len != header.content_len() {
            return Err(PackageError::MalformedManifest(
                "content length differs from the header's",
            ));
        }
        Ok(VerifiedManifest(self))
    }
}

/// A manifest whose publisher was checked. The only way to one is [`Manifest::verify`].
pub struct VerifiedManifest(Manifest);

impl VerifiedManifest {
    pub(super) fn name(&self) -> &str {
        &self.0.name
    }

    pub(super) fn version(&self) -> &str {
        &self.0.version
    }

    pub(super) fn source_header(&self) -> &[u8] {
        self.0
            .bytes
            .get(self.0.source_header.clone())
            .unwrap_or_default()
    }

    pub(super) fn tree_hash(&self) -> Hash {
        self.0.tree_hash
    }

    pub(super) fn source_hash(&self) -> Hash {
        self.0.source_hash
    }
}

/// What a sealer puts into a manifest.
pub(super) struct Draft<'a> {
    pub(super) name: &'a str,
    pub(super) version: &'a str,
    pub(super) source_header: &'a [u8],
    pub(super) content_len: u64,
    pub(super) tree_hash: &'a Hash,
    pub(super) source_hash: &'a Hash,
    pub(super) publisher: &'a PublisherKey,
}

impl Draft<'_> {
    /// Everything but the signature.
    pub(super) fn signed_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(self.source_header.len() + 1024));
        let content_len = self.content_len.to_be_bytes();
        let items: [&[u8]; 8] = [
            FORMAT,
            self.name.as_bytes(),
            self.version.as_bytes(),
            self.source_header,
            &content_len,
            self.tree_hash,
            self.source_hash,
            self.publisher.as_bytes(),
        ];
        for item in items {
            frame::put(&mut out, item);
        }
        out
    }
}

/// Ends a manifest with its signature; `None` when it is longer than PK-31 allows.
pub(super) fn finish(
    mut signed: Zeroizing<Vec<u8>>,
    signature: &[u8; 64],
) -> Option<Zeroizing<Vec<u8>>> {
    frame::put(&mut signed, signature);
    (signed.len() as u64 <= MANIFEST_LEN_MAX).then_some(signed)
}

/// What the publisher signs (rule PK-33).
pub(super) fn signature_message(header: &[u8], manifest: &[u8]) -> Zeroizing<Vec<u8>> {
    let len = SIGNATURE_LABEL.len() + header.len() + manifest.len() + 8;
    let mut message = Zeroizing::new(Vec::with_capacity(len));
    message.extend_from_slice(SIGNATURE_LABEL);
    frame::put(&mut message, header);
    frame::put(&mut message, manifest);
    message
}

/// `Some` if `signature` over `message` is the key's.
pub(super) fn check_signature(
    key: &PublisherKey,
    message: &[u8],
    signature: &[u8; 64],
) -> Option<()> {
    UnparsedPublicKey::new(&ED25519, key.as_bytes())
        .verify(message, signature)
        .ok()
}

/// Rule PK-30: text that can be shown as it is.
pub(super) fn text(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    let fits = (1..=TEXT_LEN_MAX).contains(&bytes.len()) && !text.chars().any(char::is_control);
    fits.then(|| text.to_owned())
}
