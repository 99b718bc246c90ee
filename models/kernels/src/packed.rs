//! A matrix in the packed layout (see [`crate::format`]).

use crate::block::{Block, float};
use crate::buffer::{Buffer, OutOfMemory};
use crate::format::Kind;
use crate::isa::TILE;
use crate::pool::Pool;

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
        columns > 0 && columns.is_multiple_of(kind.block())
    }

    /// Bytes that a packed matrix takes.
    pub fn byte_len(kind: Kind, rows: usize, columns: usize) -> usize {
        let blocks = columns / kind.block();
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
        let block = kind.block();
        if !Self::fits(kind, columns) || rows == 0 {
            return Err(PackError::Shape {
                rows,
                columns,
                block,
            });
        }
        let row_len = columns / block * kind.file_bytes();
        let expected = row_len.saturating_mul(rows);
        if file.len() != expected {
            return Err(PackError::Length {
                found: file.len(),
                expected,
            });
        }
        let mut buffer = Buffer::zeroed(Self::byte_len(kind, rows, columns))?;
        let tile_len = columns / block * kind.packed_bytes();
        pool.each_mut(buffer.as_mut_slice(), tile_len, |tile, packed| {
            let from = tile * TILE * row_len;
            let to = file.len().min(from + TILE * row_len);
            let rows = file[from..to].chunks_exact(row_len);
            match block {
                1 => pack_floats(kind, rows, packed),
                _ => pack_blocks(kind, rows, packed),
            }
        });
        Ok(Self {
            kind,
            rows,
            columns,
            buffer,
        })
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
        self.columns / self.kind.block()
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
        if kind.block() == 1 {
            let size = kind.file_bytes();
            for (column, out) in tile.chunks_exact(size * TILE).zip(out) {
                *out = float(kind, &column[row * size..][..size]);
            }
            return true;
        }
        let mut block = Block::EMPTY;
        let blocks = tile.chunks_exact(kind.packed_bytes());
        for (packed, out) in blocks.zip(out.chunks_exact_mut(kind.block())) {
            block.read_packed(kind, row, packed);
            block.values(kind, out);
        }
        true
    }
}

fn pack_blocks<'a>(kind: Kind, rows: impl Iterator<Item = &'a [u8]>, packed: &mut [u8]) {
    let mut block = Block::EMPTY;
    for (row, file) in rows.enumerate() {
        let blocks = packed.chunks_exact_mut(kind.packed_bytes());
        for (packed, file) in blocks.zip(file.chunks_exact(kind.file_bytes())) {
            block.read_file(kind, file);
            block.write_packed(kind, row, packed);
        }
    }
}

fn pack_floats<'a>(kind: Kind, rows: impl Iterator<Item = &'a [u8]>, packed: &mut [u8]) {
    let size = kind.file_bytes();
    for (row, file) in rows.enumerate() {
        let columns = packed.chunks_exact_mut(size * TILE);
        for (packed, file) in columns.zip(file.chunks_exact(size)) {
            packed[row * size..][..size].copy_from_slice(file);
        }
    }
}
