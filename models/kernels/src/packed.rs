//! A matrix in the packed layout (see [`crate::format`]).

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::block::Block;
use crate::buffer::{Buffer, OutOfMemory};
use crate::fixed;
use crate::format::Kind;
use crate::isa::TILE;
use crate::pack::pack_tile;
use crate::pool::Pool;

/// Bytes of a file that a thread holds while it packs them: at most, and at least where a matrix is cut for all threads.
const STAGED_MAX: usize = 4 << 20;
const STAGED_MIN: usize = 256 << 10;
/// Parts of a matrix for each thread, so that none waits long for another.
const PARTS_PER_THREAD: usize = 4;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A matrix of weights, rows outputs and columns inputs, sixteen rows interleaved.
#[derive(Debug)]
pub struct Packed {
    kind: Kind,
    rows: usize,
    columns: usize,
    buffer: Buffer,
}

/// Why a matrix was not packed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// Columns that are no whole blocks, or nothing at all.
    #[error("{rows} rows of {columns} columns are no whole blocks of {block}")]
    Shape {
        /// Rows.
        rows: usize,
        /// Columns.
        columns: usize,
        /// Columns of a block.
        block: usize,
    },
    /// Another number of bytes than the shape needs.
    #[error("the matrix has {found} bytes and its shape needs {expected}")]
    Length {
        /// What was given.
        found: usize,
        /// What the shape needs.
        expected: usize,
    },
    /// It fits no memory.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

impl Packed {
    /// Whether a matrix of this kind and width can be packed.
    pub fn fits(kind: Kind, columns: usize) -> bool {
        columns > 0 && columns.is_multiple_of(kind.file_block())
    }

    /// Bytes that a packed matrix takes.
    pub fn byte_len(kind: Kind, rows: usize, columns: usize) -> usize {
        let blocks = columns.div_ceil(kind.block());
        rows.div_ceil(TILE)
            .saturating_mul(blocks)
            .saturating_mul(kind.packed_bytes())
    }

    /// Packs a file's bytes, rows first, on all threads. Rows beyond the last are zero.
    ///
    /// # Errors
    /// [`PackError`].
    pub fn new(
        kind: Kind,
        rows: usize,
        columns: usize,
        file: &[u8],
        pool: &Pool,
    ) -> Result<Self, PackError> {
        let expected = Self::file_len(kind, rows, columns)?;
        if file.len() != expected {
            return Err(PackError::Length {
                found: file.len(),
                expected,
            });
        }
        Self::read(kind, rows, columns, pool, |offset, into| {
            into.copy_from_slice(&file[offset..offset + into.len()]);
            Ok(())
        })
    }

    /// The same of bytes that are not in memory yet: `read` fills what it is given with those from an offset on. All
    /// threads read and pack at once, a few megabytes each, so that neither waits for the other and no second copy of
    /// the matrix exists.
    ///
    /// # Errors
    /// [`PackError`], or what `read` answers; then the first of several.
    pub fn read<E: From<PackError> + Send>(
        kind: Kind,
        rows: usize,
        columns: usize,
        pool: &Pool,
        read: impl Fn(usize, &mut [u8]) -> Result<(), E> + Sync,
    ) -> Result<Self, E> {
        let file_len = Self::file_len(kind, rows, columns)?;
        let row_len = file_len / rows;
        let len = Self::byte_len(kind, rows, columns);
        let mut buffer = Buffer::zeroed(len).map_err(PackError::from)?;
        let tile_len = columns.div_ceil(kind.block()) * kind.packed_bytes();
        let share = file_len / (pool.threads() * PARTS_PER_THREAD);
        let tiles = (share.clamp(STAGED_MIN, STAGED_MAX) / (TILE * row_len)).max(1);
        let staging: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
        let failed: Mutex<Option<E>> = Mutex::new(None);
        pool.each_mut(buffer.as_mut_slice(), tiles * tile_len, |part, packed| {
            if lock(&failed).is_some() {
                return;
            }
            let first = part * tiles * TILE;
            let rows = (rows - first).min(tiles * TILE);
            let mut staged = lock(&staging).pop().unwrap_or_default();
            staged.resize(rows * row_len, 0);
            match read(first * row_len, &mut staged) {
                Ok(()) => {
                    let files = staged.chunks(TILE * row_len);
                    for (packed, file) in packed.chunks_exact_mut(tile_len).zip(files) {
                        pack_tile(kind, file.chunks_exact(row_len), packed);
                    }
                }
                Err(error) => {
                    lock(&failed).get_or_insert(error);
                }
            }
            lock(&staging).push(staged);
        });
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(Self {
                kind,
                rows,
                columns,
                buffer,
            }),
        }
    }

    /// Bytes that a matrix has in a file.
    fn file_len(kind: Kind, rows: usize, columns: usize) -> Result<usize, PackError> {
        let row_len = columns / kind.file_block() * kind.file_bytes();
        match row_len.checked_mul(rows) {
            Some(len) if Self::fits(kind, columns) && rows > 0 => Ok(len),
            _ => Err(PackError::Shape {
                rows,
                columns,
                block: kind.file_block(),
            }),
        }
    }

    /// How the weights are stored.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Blocks of a row.
    pub(crate) fn blocks(&self) -> usize {
        self.columns.div_ceil(self.kind.block())
    }

    /// Bytes of a tile.
    pub(crate) fn tile_len(&self) -> usize {
        self.blocks() * self.kind.packed_bytes()
    }

    /// The tiles' bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.buffer.as_slice()
    }

    /// What row `row` is worth: an embedding's lookup. False, and `out` untouched, when there is no such row or `out`
    /// is not as long as a row.
    #[must_use]
    pub fn row(&self, row: usize, out: &mut [f32]) -> bool {
        if row >= self.rows || out.len() != self.columns {
            return false;
        }
        let tile = &self.bytes()[row / TILE * self.tile_len()..][..self.tile_len()];
        let (kind, row) = (self.kind, row % TILE);
        let mut block = Block::EMPTY;
        let blocks = tile.chunks_exact(kind.packed_bytes());
        for (packed, out) in blocks.zip(out.chunks_mut(kind.block())) {
            match kind {
                Kind::F32 => {
                    let bytes = packed.as_chunks().0.get(row);
                    out.fill(bytes.map_or(f32::NAN, |bytes| f32::from_le_bytes(*bytes)));
                }
                Kind::F16 | Kind::BF16 => fixed::values(row, packed, out),
                _ => {
                    block.read_packed(kind, row, packed);
                    block.values(kind, out);
                }
            }
        }
        true
    }
}

impl Drop for Packed {
    fn drop(&mut self) {
        self.buffer.as_mut_slice().fill(0);
    }
}
