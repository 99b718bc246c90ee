//! The packed layout: what a file's blocks become in memory.
//!
//! Sixteen rows form a *tile*. A tile is a sequence of *blocks* (256 or 32 columns; 1 for F32), each holding what the
//! sixteen rows have there: scales first, row by row, then *units* of 32 columns. A unit of `b`-bit weights is `b` vectors
//! of 64 bytes; byte `4·row + i` of the eight vectors that unpack from it is column `4·k + i` of that row, for the `k`-th.
//! Weights are unsigned (an offset is taken away in the sum) and keep their number of bits: a packed matrix is at most
//! 3 % larger than the file's (Q2_K: 19 %).
//!
//! | kind | block | head, bytes | units |
//! |---|---|---|---|
//! | Q4_K, Q5_K | 256 | scale F16 ×16, minimum F16 ×16, 8 × 16 scales, 4 × 16 pairs of minima | 8 of 4 or 5 bits |
//! | Q6_K, Q3_K | 256 | scale F16 ×16, 16 × 16 signed scales | 8 of 6 or 3 bits |
//! | Q2_K | 256 | scale F16 ×16, minimum F16 ×16, 16 × 16 scales, 8 × 16 pairs of minima | 8 of 2 bits |
//! | Q4_0, Q5_0, Q8_0 | 32 | scale F16 ×16 | 1 of 4, 5 or 8 bits |
//! | Q4_1, Q5_1 | 32 | scale F16 ×16, minimum F16 ×16 | 1 of 4 or 5 bits |
//! | F16, BF16 | 32 | scale BF16 ×16 | 1 of 16 bits: see [`crate::fixed`] |
//! | F32 | 1 | | 16 numbers |

use crate::isa::TILE;

/// How weights are stored in a file (ggml's names).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(
    missing_docs,
    reason = "the names are ggml's and say all there is to say"
)]
pub enum Kind {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
}

/// What kind of activations a kind of weights is multiplied with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precision {
    /// 8 bits, a scale for each 256 columns (ggml's Q8_K).
    Bytes256,
    /// 8 bits, a scale for each 32 columns (ggml's Q8_0 and Q8_1).
    Bytes32,
    /// 14 bits, a scale for each 32 columns.
    Fixed32,
    /// As they are.
    Float,
}

/// Bytes of an unpacked vector.
pub(crate) const VECTOR: usize = 64;
/// Columns of a unit.
pub(crate) const UNIT: usize = 32;

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 13] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// Columns of a packed block. A row of halves may end inside one.
    pub const fn block(self) -> usize {
        match self {
            Self::F16 | Self::BF16 => 32,
            _ => self.file_block(),
        }
    }

    /// Columns of a block in a file: rows are whole ones.
    pub const fn file_block(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Bytes of a row's block in a file.
    pub const fn file_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2K => 84,
            Self::Q3K => 110,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// Bits of a weight; for floats, of a number.
    pub(crate) const fn bits(self) -> usize {
        match self {
            Self::F32 => 32,
            Self::F16 | Self::BF16 => 16,
            Self::Q8_0 => 8,
            Self::Q6K => 6,
            Self::Q5_0 | Self::Q5_1 | Self::Q5K => 5,
            Self::Q4_0 | Self::Q4_1 | Self::Q4K => 4,
            Self::Q3K => 3,
            Self::Q2K => 2,
        }
    }

    /// Bytes before a packed block's units.
    pub(crate) const fn head_bytes(self) -> usize {
        match self {
            Self::F32 => 0,
            Self::F16 | Self::BF16 | Self::Q4_0 | Self::Q5_0 | Self::Q8_0 => 2 * TILE,
            Self::Q4_1 | Self::Q5_1 => 4 * TILE,
            Self::Q4K | Self::Q5K => (4 + 8 + 8) * TILE,
            Self::Q6K | Self::Q3K => (2 + 16) * TILE,
            Self::Q2K => (4 + 16 + 16) * TILE,
        }
    }

    /// Bytes of a packed block: sixteen rows.
    pub const fn packed_bytes(self) -> usize {
        self.head_bytes() + self.block() * TILE * self.bits() / 8
    }

    /// What the weights' offset is: a stored weight is this much more than the one that is meant.
    pub(crate) const fn offset(self) -> i32 {
        match self {
            Self::Q8_0 => 128,
            Self::Q6K => 32,
            Self::Q5_0 => 16,
            Self::Q4_0 => 8,
            Self::Q3K => 4,
            _ => 0,
        }
    }

    /// What activations are multiplied with it.
    pub const fn precision(self) -> Precision {
        match self {
            Self::F32 => Precision::Float,
            Self::F16 | Self::BF16 => Precision::Fixed32,
            _ if self.block() == 32 => Precision::Bytes32,
            _ => Precision::Bytes256,
        }
    }
}

impl Precision {
    /// Columns that share what a block of activations holds.
    pub const fn block(self) -> usize {
        match self {
            Self::Bytes256 => 256,
            Self::Bytes32 | Self::Fixed32 => 32,
            Self::Float => 1,
        }
    }

    /// Whether a row may end inside a block.
    pub(crate) const fn ends_anywhere(self) -> bool {
        matches!(self, Self::Fixed32 | Self::Float)
    }

    /// 32-bit words that one row's block takes in [`crate::Activations`].
    pub(crate) const fn words(self) -> usize {
        match self {
            // Bytes; pairs of sums over 32, over 16; -32 times the sums over 16; the scale.
            Self::Bytes256 => 64 + 4 + 8 + 16 + 1,
            // Bytes; -128 times the sum; the scale; scale · sum; -8 times the sum.
            Self::Bytes32 => 8 + 4,
            // Pairs; the scale.
            Self::Fixed32 => 16 + 1,
            Self::Float => 1,
        }
    }
}
