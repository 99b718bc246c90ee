//! What kernels are told: rows, heads, rotations, pages; checked before a kernel sees it.

use std::sync::Arc;

use cudarc::driver::sys::CUdeviceptr;
use cudarc::driver::{CudaStream, CudaView, DevicePtr, DeviceRepr};
use half::f16;

use super::CudaError;

/// Heads of rows: rows × count × columns.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    /// Rows.
    pub rows: usize,
    /// Heads of each.
    pub count: usize,
    /// Columns of each head.
    pub columns: usize,
}

impl Heads {
    pub(super) const fn len(&self) -> usize {
        self.rows * self.count * self.columns
    }
}

/// Rows of numbers, perhaps parts of longer rows.
pub struct Rows<'a> {
    /// From the first row's first number to the last row's last, at least.
    pub numbers: CudaView<'a, f32>,
    /// Numbers from one row's first to the next one's.
    pub stride: usize,
}

impl Rows<'_> {
    /// The stride, if there are `rows` rows of `columns`.
    pub(super) fn of(&self, rows: usize, columns: usize) -> Result<i32, CudaError> {
        let needed = rows.saturating_sub(1) * self.stride + columns;
        let enough = self.numbers.len() >= needed && (rows < 2 || self.stride >= columns);
        check(enough, "rows that are too short")?;
        int(self.stride)
    }
}

/// How heads are normalised and rotated.
pub struct Turning<'a> {
    /// Cosines and sines: places × half of the columns that are rotated.
    pub cosines: CudaView<'a, f32>,
    /// As many.
    pub sines: CudaView<'a, f32>,
    /// Columns that are rotated.
    pub turned: usize,
    /// Whether pairs are neighbours, and not halves.
    pub neighbours: bool,
    /// Factors of each column and epsilon of the root-mean-square norm before that, if there is one.
    pub norm: Option<(CudaView<'a, f32>, f32)>,
}

/// What queries look at: pages of sequences. Numbers are 32-bit, in the order of the docstrings.
pub struct View<'a> {
    /// The row of each cell, sequences × rows of each; what is no row is not there.
    pub rows_of: CudaView<'a, u32>,
    /// For each query (sequence by sequence, query head by query head, row by row) how many slots lie between the view's
    /// first and its own.
    pub lags: CudaView<'a, u32>,
    /// Pages of each sequence, as many for each.
    pub pages: CudaView<'a, u32>,
    /// Sequences.
    pub sequences: usize,
    /// Tokens that a query sees, its own included.
    pub sight: usize,
}

/// Where keys and values are, and how scores are bent.
pub struct Attended<'a> {
    /// A layer's keys, key-value heads × slots × columns, and its values behind them.
    pub memory: CudaView<'a, f16>,
    /// Heads of keys.
    pub key_value_heads: usize,
    /// Bends scores: `cap · tanh(score / cap)`.
    pub cap: Option<f32>,
}

#[repr(C)]
pub(super) struct TurnPart {
    cosines: CUdeviceptr,
    sines: CUdeviceptr,
    factors: CUdeviceptr,
    epsilon: f32,
    pub(super) places: i32,
    turned: i32,
    neighbours: i32,
}

// SAFETY: plain numbers in C's layout, as the kernels' own structure has them.
// JUSTIFICATION: kernels take more than can be read one by one.
unsafe impl DeviceRepr for TurnPart {}

impl Turning<'_> {
    pub(super) fn part(
        &self,
        heads: Heads,
        stream: &Arc<CudaStream>,
    ) -> Result<TurnPart, CudaError> {
        let half = self.turned / 2;
        let places = self.cosines.len() / half.max(1);
        let norm = self.norm.as_ref();
        check(
            half > 0
                && self.turned == 2 * half
                && self.turned <= heads.columns
                && heads.columns <= 256
                && places > 0
                && self.cosines.len() == places * half
                && self.sines.len() == self.cosines.len()
                && norm.is_none_or(|(factors, _)| factors.len() == heads.columns),
            "a rotation",
        )?;
        // The tables live as long as the model: longer than any kernel that reads them.
        let address = |view: &CudaView<'_, f32>| view.device_ptr(stream).0;
        Ok(TurnPart {
            cosines: address(&self.cosines),
            sines: address(&self.sines),
            factors: norm.map_or(0, |(factors, _)| address(factors)),
            epsilon: norm.map_or(0.0, |(_, epsilon)| *epsilon),
            places: int(places)?,
            turned: int(self.turned)?,
            neighbours: i32::from(self.neighbours),
        })
    }
}

pub(super) const fn check(holds: bool, why: &'static str) -> Result<(), CudaError> {
    match holds {
        true => Ok(()),
        false => Err(CudaError::Shape(why)),
    }
}

/// A number for a kernel.
pub(super) fn int(number: usize) -> Result<i32, CudaError> {
    i32::try_from(number).map_err(|_| CudaError::Shape("more than a kernel counts"))
}
