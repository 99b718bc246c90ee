//! What a product reads: numbers, or the same rounded for packed matrices, so that what makes them rounds them once.

use candle_core::{Result, Tensor};

/// Rows of a product's input.
pub(super) enum Input {
    /// 32-bit floats: rows × columns.
    Numbers(Tensor),
    /// Rounded by a kernel of ours: rows × bytes.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "made on CUDA only"))]
    Rounded(Tensor),
}

impl Input {
    /// Those of numbers.
    ///
    /// # Errors
    /// They are rounded, and what is asked for cannot use that.
    pub(super) fn numbers(&self) -> Result<&Tensor> {
        match self {
            Self::Numbers(numbers) => Ok(numbers),
            Self::Rounded(_) => candle_core::bail!("numbers were rounded for another product"),
        }
    }
}
