//! How kernels for packed matrices are launched: which of them, and with how many blocks. Pure, so that it is tested where no
//! GPU is.

use super::UNIT;

/// Bytes that a rounded row has for a unit.
const ROUNDED_UNIT: usize = 48;
/// Warps of a block that multiplies.
const WARPS: usize = 8;
const WARP: usize = 32;
/// Rows that a kernel has at once, the rows of the matrix that each of its warps has then, and the same of a gated one.
pub(crate) const ROWS: [usize; 4] = [1, 2, 4, 8];
const HEIGHTS: [usize; 4] = [2, 2, 4, 4];
const GATED_HEIGHTS: [usize; 4] = [4, 4, 2, 2];
/// Columns of what comes of a gated product that a block has.
const GATED_COLUMNS: usize = 32;
/// Blocks that keep all of a GPU's processors busy.
const BLOCKS: usize = 264;

/// Bytes of a rounded row of so many columns.
pub const fn rounded_bytes(columns: usize) -> usize {
    columns / UNIT * ROUNDED_UNIT
}

/// A launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Which of the kernels, by [`ROWS`].
    pub(crate) which: usize,
    /// Kernels' worths of rows.
    pub(crate) chunks: usize,
    /// Warps that have a row of the matrix together.
    pub(crate) share: usize,
    pub(crate) blocks: usize,
    pub(crate) threads: usize,
}

/// The smallest kernel that has so many rows, or the largest, and how often.
fn chunks(rows: usize) -> (usize, usize) {
    let which = ROWS.iter().position(|most| rows <= *most);
    let which = which.unwrap_or(ROWS.len() - 1);
    (which, rows.div_ceil(ROWS[which]))
}

impl Plan {
    /// Of a product of `rows` with a matrix of heights × columns.
    pub(crate) fn multiply(rows: usize, heights: usize, columns: usize) -> Self {
        let (which, chunks) = chunks(rows);
        let share = share(columns / UNIT, heights);
        let each = WARPS / share * HEIGHTS[which];
        Self {
            which,
            chunks,
            share,
            blocks: heights.div_ceil(each) * chunks,
            threads: WARPS * WARP,
        }
    }

    /// Of a gated product, where `heights` are those of both.
    pub(crate) fn gated(rows: usize, heights: usize) -> Self {
        let (which, chunks) = chunks(rows);
        Self {
            which,
            chunks,
            share: 1,
            blocks: heights / 2 / GATED_COLUMNS * chunks,
            threads: GATED_COLUMNS / GATED_HEIGHTS[which] * WARP,
        }
    }

    /// Whether a matrix of so many heights is gated: gates, and as many rows that go through, in whole units.
    pub(crate) const fn gates(heights: usize) -> bool {
        heights.is_multiple_of(2 * GATED_COLUMNS)
    }
}

/// How many warps share a row of the matrix: so many that a thread has two units of it, and more where there are few rows. A
/// matter of the matrix alone: sums must not depend on the rows that are multiplied.
fn share(units: usize, heights: usize) -> usize {
    let mut share = 1;
    while share < WARPS
        && (units > 2 * WARP * share
            || units > WARP * share && heights / 2 * share < BLOCKS * WARPS)
    {
        share *= 2;
    }
    share
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warps_share_rows_that_are_long_or_few() {
        assert_eq!(share(64, 16384), 1);
        assert_eq!(share(64, 2048), 2);
        assert_eq!(share(128, 28672), 2);
        assert_eq!(share(256, 2048), 4);
        assert_eq!(share(448, 4096), 8);
        assert_eq!(share(8, 64), 1);
    }

    #[test]
    fn rows_beyond_the_largest_kernel_come_in_chunks_and_every_height_has_a_block() {
        for (rows, which, chunks) in [(1, 0, 1), (2, 1, 1), (3, 2, 1), (8, 3, 1), (9, 3, 2)] {
            let plan = Plan::multiply(rows, 100, 2048);
            assert_eq!((plan.which, plan.chunks), (which, chunks), "{rows}");
            let each = WARPS / plan.share * HEIGHTS[which];
            assert!(plan.blocks / chunks * each >= 100);
            assert_eq!(Plan::gated(rows, 256).blocks, 4 * chunks);
        }
        assert!(Plan::gates(128) && !Plan::gates(96));
    }
}
