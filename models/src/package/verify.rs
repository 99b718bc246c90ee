//! The full check (rule PK-42): every chunk, the content's tree hash and the source file's hash.

use rayon::prelude::*;
use ring::digest::Context;
use zeroize::Zeroizing;

use super::error::PackageError;
use super::open::UnlockedPackage;
use super::tree::{self, Hash};
use super::{CHUNK_LEN, Progress};

/// Chunks opened at once while the batch before them is hashed.
const BATCH_CHUNKS: usize = 8;

impl UnlockedPackage {
    /// Reads all of the content and compares both hashes with what the publisher signed. Bytes of content
    /// are reported to `progress`.
    ///
    /// # Errors
    /// [`PackageError::CannotOpen`], [`PackageError::TreeHashDiffers`] or
    /// [`PackageError::SourceHashDiffers`].
    pub fn verify(&self, progress: &Progress<'_>) -> Result<(), PackageError> {
        let len = self.clear_header().content_len();
        let batch_len = len.min((BATCH_CHUNKS * CHUNK_LEN) as u64);
        let batch = || Zeroizing::new(vec![0; batch_len as usize]);
        let (mut filling, mut hashing) = (batch(), batch());
        let mut source = self.source_start.clone();
        let mut leaves = Vec::new();
        let (mut at, mut ready) = (0, 0);
        // Each turn opens one batch while the one before it is hashed, which only one thread can do.
        loop {
            let size = (len - at).min(batch_len) as usize;
            let (now, _) = filling.split_at_mut(size);
            let (before, _) = hashing.split_at(ready);
            let (opened, ()) = rayon::join(|| self.open_batch(at, now), || source.update(before));
            leaves.extend(opened?);
            progress(size as u64);
            (at, ready) = (at + size as u64, size);
            std::mem::swap(&mut filling, &mut hashing);
            if size == 0 {
                break;
            }
        }
        self.compare(leaves, source)
    }

    /// Opens the chunks that begin at `offset`, a multiple of the chunk length, and hashes each.
    fn open_batch(&self, offset: u64, into: &mut [u8]) -> Result<Vec<Hash>, PackageError> {
        let first = offset / CHUNK_LEN as u64;
        into.par_chunks_mut(CHUNK_LEN)
            .enumerate()
            .map(|(index, chunk)| {
                self.weights.open_chunk(first + index as u64, chunk)?;
                Ok(tree::leaf(chunk))
            })
            .collect()
    }

    fn compare(&self, mut leaves: Vec<Hash>, source: Context) -> Result<(), PackageError> {
        if leaves.is_empty() {
            // Empty content: its one empty chunk (PK-20) still has to open.
            self.weights.open_chunk(0, &mut [])?;
            leaves.push(tree::leaf(&[]));
        }
        if tree::root(leaves) != self.tree_hash {
            return Err(PackageError::TreeHashDiffers);
        }
        if tree::finish(source) != self.source_hash {
            return Err(PackageError::SourceHashDiffers);
        }
        Ok(())
    }
}
