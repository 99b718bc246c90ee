//! Packed matrices on GPUs: few rows are multiplied as they are packed, many by matrix units as 16-bit floats.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::input::Input;
use super::{Kernels, PackedMatrix};
use crate::gguf::TensorType;

/// Rows up to which weights are read packed, once for eight rows: more are worth their being unpacked.
const ROWS_MAX: usize = 48;
/// Weights of a matrix that is unpacked at most, so that it takes half a gigabyte for a while.
const UNPACKED_MAX: usize = 1 << 28;

/// A matrix, and what multiplies it.
pub(crate) struct Packed {
    matrix: PackedMatrix,
    kernels: Arc<Kernels>,
}

impl Packed {
    /// Of a file's blocks, if there are kernels for them.
    pub(super) fn make(
        kernels: &Arc<Kernels>,
        kind: TensorType,
        shape: (usize, usize),
        bytes: &[u8],
    ) -> Result<Option<Self>> {
        let matrix = kernels.pack(kind, shape, bytes)?;
        Ok(matrix.map(|matrix| Self {
            matrix,
            kernels: kernels.clone(),
        }))
    }

    /// Bytes that a matrix of so many weights takes while it is unpacked.
    pub(super) fn unpacked_bytes(weights: usize) -> u64 {
        weights.min(UNPACKED_MAX) as u64 * 2
    }

    /// The rows of this one and, behind them, of another, if both are alike.
    pub(super) fn stacked(&self, below: &Self) -> Result<Option<Self>> {
        let matrix = self.kernels.stacked(&self.matrix, &below.matrix)?;
        Ok(matrix.map(|matrix| Self {
            matrix,
            kernels: self.kernels.clone(),
        }))
    }

    /// Whether so many rows are read rounded.
    pub(super) fn rounds(rows: usize) -> bool {
        rows <= ROWS_MAX
    }

    /// `x · matrixᵀ` for each row.
    pub(super) fn forward(&self, x: &Input) -> Result<Tensor> {
        let numbers = match x {
            Input::Rounded(rounded) => return self.kernels.multiply(rounded, &self.matrix),
            Input::Numbers(numbers) => numbers,
        };
        let small = Kernels::weights(&self.matrix) <= UNPACKED_MAX;
        if small && !Self::rounds(numbers.dim(0)?) {
            let unpacked = self.kernels.unpacked(&self.matrix)?;
            return self.kernels.product(numbers, &unpacked);
        }
        let rounded = self.kernels.round(numbers)?;
        self.kernels.multiply(&rounded, &self.matrix)
    }

    /// `silu(x · gateᵀ) · (x · upᵀ)`, rounded, of a matrix that has both. None: that takes several steps.
    pub(super) fn gated(&self, x: &Input) -> Result<Option<Input>> {
        match x {
            Input::Rounded(rounded) if Kernels::gates(&self.matrix) => {
                let made = self.kernels.multiply_gated(rounded, &self.matrix)?;
                Ok(Some(Input::Rounded(made)))
            }
            _ => Ok(None),
        }
    }

    /// Rows of the matrix.
    pub(super) fn rows(&self, ids: &Tensor) -> Result<Tensor> {
        self.kernels.lookup(&self.matrix, ids)
    }
}
