//! Reading a sealed part: chunks are decrypted in parallel, in place where they will stay.
//!
//! A chunk that lies wholly inside the caller's buffer is read into it and decrypted there. The others, at
//! most two in a read, pass through a staging buffer that is wiped before it is given up. No plaintext
//! exists twice beyond those buffers.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;
use zeroize::{Zeroize, Zeroizing};

use super::CHUNK_LEN;
use super::chunk::{ChunkKey, Cut, TAG_LEN};
use super::error::PackageError;

/// Staging buffers kept for reuse; more exist only while more threads read.
const STAGING_KEPT: usize = 8;

/// Chunks that a thread opens by itself: whoever reads so little at a time has threads of its own.
const PIECES_ALONE: usize = 6;

/// One sealed part of an open package.
pub(super) struct PartReader {
    file: File,
    /// Where the part begins in the file.
    start: u64,
    cut: Cut,
    key: ChunkKey,
    staging: Mutex<Vec<Staging>>,
}

/// A decrypted chunk that several reads need a piece of.
struct Staging {
    index: u64,
    chunk: Zeroizing<Vec<u8>>,
}

/// What one chunk contributes to a read.
struct Piece<'a> {
    index: u64,
    /// First byte wanted of the chunk.
    from: usize,
    into: &'a mut [u8],
}

impl PartReader {
    pub(super) fn new(file: File, start: u64, cut: Cut, key: ChunkKey) -> Self {
        Self {
            file,
            start,
            cut,
            key,
            staging: Mutex::new(Vec::new()),
        }
    }

    pub(super) fn cut(&self) -> Cut {
        self.cut
    }

    /// Fills `into` with the plaintext that begins at `offset`; on an error `into` is wiped.
    pub(super) fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), PackageError> {
        let len = into.len() as u64;
        let end = offset
            .checked_add(len)
            .filter(|end| *end <= self.cut.plain_len());
        if end.is_none() {
            return Err(PackageError::OutsideContent { offset, len });
        }
        let pieces = pieces(offset, into);
        let done = match pieces.len() {
            ..=PIECES_ALONE => pieces.into_iter().try_for_each(|piece| self.fill(piece)),
            _ => pieces
                .into_par_iter()
                .try_for_each(|piece| self.fill(piece)),
        };
        done.inspect_err(|_| into.zeroize())
    }

    /// Reads and opens chunk `index` into `into`, which is exactly as long as the chunk.
    pub(super) fn open_chunk(&self, index: u64, into: &mut [u8]) -> Result<(), PackageError> {
        let tag = self.read_sealed(index, into)?;
        self.open_sealed(index, into, tag)
    }

    /// Reads chunk `index` as it lies in the file.
    pub(super) fn read_sealed(
        &self,
        index: u64,
        into: &mut [u8],
    ) -> Result<[u8; TAG_LEN], PackageError> {
        let at = self.start + Cut::sealed_offset(index);
        let mut tag = [0; TAG_LEN];
        self.read_exact(at, into)?;
        self.read_exact(at + into.len() as u64, &mut tag)?;
        Ok(tag)
    }

    /// Opens in place what [`PartReader::read_sealed`] read.
    pub(super) fn open_sealed(
        &self,
        index: u64,
        chunk: &mut [u8],
        tag: [u8; TAG_LEN],
    ) -> Result<(), PackageError> {
        self.key.open(index, self.cut.is_last(index), chunk, tag)
    }

    fn read_exact(&self, at: u64, into: &mut [u8]) -> Result<(), PackageError> {
        self.file
            .read_exact_at(into, at)
            .map_err(|error| match error.kind() {
                // The length was right when the package was opened: the file was cut since.
                io::ErrorKind::UnexpectedEof => PackageError::Truncated {
                    expected: at + into.len() as u64,
                    found: self.file.metadata().map_or(0, |about| about.len()),
                },
                _ => PackageError::Read(error),
            })
    }

    fn fill(&self, piece: Piece<'_>) -> Result<(), PackageError> {
        let Piece { index, from, into } = piece;
        if from == 0 && into.len() == self.cut.chunk_len(index) {
            return self.open_chunk(index, into);
        }
        let staging = self.staged(index)?;
        let wanted = staging
            .chunk
            .get(from..from + into.len())
            .ok_or(PackageError::CannotOpen)?;
        into.copy_from_slice(wanted);
        let mut kept = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < STAGING_KEPT {
            kept.push(staging);
        }
        Ok(())
    }

    /// Chunk `index` in a staging buffer: the one that holds it, else the least recently used one.
    fn staged(&self, index: u64) -> Result<Staging, PackageError> {
        let reused = {
            let mut kept = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
            let at = kept.iter().position(|staging| staging.index == index);
            match at {
                Some(at) => return Ok(kept.remove(at)),
                None if kept.is_empty() => None,
                None => Some(kept.remove(0)),
            }
        };
        let mut chunk = match reused {
            Some(staging) => staging.chunk,
            None => Zeroizing::new(Vec::with_capacity(CHUNK_LEN)),
        };
        chunk.resize(self.cut.chunk_len(index), 0);
        self.open_chunk(index, &mut chunk)?;
        Ok(Staging { index, chunk })
    }
}

/// Cuts `into` at chunk borders, the first byte standing at `offset` in the content.
fn pieces(offset: u64, into: &mut [u8]) -> Vec<Piece<'_>> {
    let mut pieces = Vec::with_capacity(into.len() / CHUNK_LEN + 2);
    let (mut index, mut from) = (
        offset / CHUNK_LEN as u64,
        (offset % CHUNK_LEN as u64) as usize,
    );
    let mut rest = into;
    while !rest.is_empty() {
        let len = rest.len().min(CHUNK_LEN - from);
        let (into, behind) = rest.split_at_mut(len);
        pieces.push(Piece { index, from, into });
        (rest, index, from) = (behind, index + 1, 0);
    }
    pieces
}
