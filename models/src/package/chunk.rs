//! One part's chunks: where they lie, and how each is sealed and opened (rules PK-20 to PK-24).

use ring::aead::{Aad, LessSafeKey, Nonce, Tag};
use ring::error::Unspecified;
use zeroize::Zeroize;

use super::CHUNK_LEN;
use super::error::PackageError;
use super::frame;
use super::header::PackageId;
use super::key::{DataKey, Part, subkey};

/// Bytes of authentication tag behind each chunk.
pub(super) const TAG_LEN: usize = 16;
const CHUNK: u64 = CHUNK_LEN as u64;
const SEALED_CHUNK: u64 = CHUNK + TAG_LEN as u64;
const CHUNK_LABEL: &[u8] = b"casemate/chunk/v1";
/// Longest content (rule PK-4): indices stay far below what one AES-GCM key may seal.
pub(super) const CONTENT_LEN_MAX: u64 = 1 << 44;

/// How a plaintext of a given length is cut (rules PK-20, PK-23).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    plain_len: u64,
}

impl Cut {
    /// `None` beyond the longest content.
    pub(super) fn of_plain(plain_len: u64) -> Option<Self> {
        (plain_len <= CONTENT_LEN_MAX).then_some(Self { plain_len })
    }

    /// The cut whose sealed form is `sealed_len` bytes long, if there is one.
    pub(super) fn of_sealed(sealed_len: u64) -> Option<Self> {
        let tags = sealed_len
            .div_ceil(SEALED_CHUNK)
            .checked_mul(TAG_LEN as u64)?;
        let cut = Self::of_plain(sealed_len.checked_sub(tags)?)?;
        (cut.sealed_len() == sealed_len).then_some(cut)
    }

    pub(super) fn plain_len(self) -> u64 {
        self.plain_len
    }

    pub(super) fn chunks(self) -> u64 {
        self.plain_len.div_ceil(CHUNK).max(1)
    }

    pub(super) fn sealed_len(self) -> u64 {
        self.plain_len + self.chunks() * TAG_LEN as u64
    }

    pub(super) fn is_last(self, index: u64) -> bool {
        index + 1 == self.chunks()
    }

    /// Bytes of plaintext in chunk `index`; zero behind the last.
    pub(super) fn chunk_len(self, index: u64) -> usize {
        let start = index.saturating_mul(CHUNK);
        self.plain_len.saturating_sub(start).min(CHUNK) as usize
    }

    /// Where chunk `index` begins in the sealed part.
    pub(super) fn sealed_offset(index: u64) -> u64 {
        index * SEALED_CHUNK
    }
}

/// Seals and opens the chunks of one part of one package.
pub(super) struct ChunkKey {
    key: Box<LessSafeKey>,
    /// Associated data up to the part; index and flag follow.
    prefix: Vec<u8>,
}

impl ChunkKey {
    pub(super) fn derive(
        key: &DataKey,
        id: PackageId,
        epoch: u64,
        part: Part,
    ) -> Result<Self, Unspecified> {
        let mut prefix = CHUNK_LABEL.to_vec();
        frame::put(&mut prefix, id.as_bytes());
        frame::put(&mut prefix, &epoch.to_be_bytes());
        frame::put(&mut prefix, part.text());
        Ok(Self {
            key: subkey(key, id, part)?,
            prefix,
        })
    }

    /// Associated data of one chunk (rule PK-22).
    pub(super) fn associated(&self, index: u64, last: bool) -> Vec<u8> {
        let mut data = Vec::with_capacity(self.prefix.len() + 17);
        data.extend_from_slice(&self.prefix);
        frame::put(&mut data, &index.to_be_bytes());
        frame::put(&mut data, &[u8::from(last)]);
        data
    }

    /// Encrypts `chunk` in place and returns its tag.
    pub(super) fn seal(
        &self,
        index: u64,
        last: bool,
        chunk: &mut [u8],
    ) -> Result<Tag, Unspecified> {
        let aad = Aad::from(self.associated(index, last));
        self.key
            .seal_in_place_separate_tag(nonce(index), aad, chunk)
    }

    /// Decrypts `chunk` in place; wipes it if the tag does not hold.
    pub(super) fn open(
        &self,
        index: u64,
        last: bool,
        chunk: &mut [u8],
        tag: [u8; TAG_LEN],
    ) -> Result<(), PackageError> {
        let aad = Aad::from(self.associated(index, last));
        let opened = self
            .key
            .open_in_place_separate_tag(nonce(index), aad, tag.into(), chunk, 0..)
            .is_ok();
        if opened {
            return Ok(());
        }
        chunk.zeroize();
        Err(PackageError::CannotOpen)
    }
}

/// The index as a 96-bit integer (rule PK-21); never repeats under one subkey.
fn nonce(index: u64) -> Nonce {
    let mut bytes = [0; 12];
    if let Some(low) = bytes.last_chunk_mut() {
        *low = index.to_be_bytes();
    }
    Nonce::assume_unique_for_key(bytes)
}
