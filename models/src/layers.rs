//! Matrices and norms on candle's tensors, for every architecture and device.

use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{Device, Module, Result, Tensor};
use candle_nn::ops;

use crate::ggml::{self, HalfMatrix};

/// A matrix without bias. F32 is kept as a tensor for candle's matrix product; every other type stays as it is in
/// the file, also F16 and BF16, which candle would widen.
#[derive(Clone)]
pub struct Linear(Matrix);

#[derive(Clone)]
enum Matrix {
    /// As candle multiplies it.
    Plain(QMatMul),
    /// As candle multiplies it, with inputs rounded as ggml rounds them.
    Snapped(QMatMul),
    /// 16-bit floats on the processor.
    Half(Arc<HalfMatrix>),
}

impl Linear {
    /// A matrix of a file's bytes, rows first.
    ///
    /// # Errors
    /// When the device refuses memory.
    pub fn from_bytes(
        device: &Device,
        kind: GgmlDType,
        shape: (usize, usize),
        bytes: &[u8],
    ) -> Result<Self> {
        let storage = QStorage::from_data(bytes.into(), device, kind)?;
        Self::new(QTensor::new(storage, shape)?)
    }

    /// A matrix of rows `out` and columns `in`.
    ///
    /// # Errors
    /// When the tensor cannot be converted.
    pub fn new(weight: QTensor) -> Result<Self> {
        let (kind, on_cpu) = (weight.dtype(), weight.device().is_cpu());
        Ok(Self(match kind {
            GgmlDType::F32 => Matrix::Plain(QMatMul::from_qtensor(weight)?),
            GgmlDType::F16 if on_cpu => Matrix::Half(Arc::new(HalfMatrix::new(&weight)?)),
            _ if on_cpu && rounds_to_blocks(kind, weight.shape().dims()) => {
                Matrix::Snapped(QMatMul::QTensor(Arc::new(weight)))
            }
            _ => Matrix::Plain(QMatMul::QTensor(Arc::new(weight))),
        }))
    }

    /// `x · weightᵀ` for each row of `x`.
    ///
    /// # Errors
    /// When shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match &self.0 {
            Matrix::Plain(matrix) => matrix.forward(x),
            Matrix::Snapped(matrix) => matrix.forward(&ggml::snap(x)?),
            Matrix::Half(matrix) => matrix.forward(x),
        }
    }

    /// Rows of the matrix: an embedding's lookup. Only the rows asked for are dequantised.
    ///
    /// # Errors
    /// When an id is out of range.
    pub fn rows(&self, ids: &Tensor) -> Result<Tensor> {
        match &self.0 {
            Matrix::Plain(matrix) | Matrix::Snapped(matrix) => matrix.embedding(ids),
            Matrix::Half(matrix) => matrix.rows(ids),
        }
    }
}

/// Whether candle rounds the inputs of such a matrix to 8 bits in blocks of 32. Q8_0 matrices of even superblocks it
/// may rearrange, and then rounds in blocks of 256.
fn rounds_to_blocks(kind: GgmlDType, shape: &[usize]) -> bool {
    use GgmlDType::{Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};
    let rearranged = matches!(shape, [rows, columns] if rows % 16 == 0 && columns % 256 == 0);
    match kind {
        Q8_0 => !rearranged,
        Q4_0 | Q4_1 | Q5_0 | Q5_1 => true,
        _ => false,
    }
}

/// Root-mean-square normalisation.
pub struct RmsNorm {
    weight: Tensor,
    /// The same on the processor.
    factors: Vec<f32>,
    epsilon: f32,
}

impl RmsNorm {
    /// A norm with one factor per column.
    ///
    /// # Errors
    /// When the device refuses memory.
    pub fn new(factors: Vec<f32>, epsilon: f32, device: &Device) -> Result<Self> {
        Ok(Self {
            weight: Tensor::new(factors.as_slice(), device)?,
            factors,
            epsilon,
        })
    }

    /// Each row of `x`, normalised and scaled.
    ///
    /// # Errors
    /// When shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match x.device().is_cpu() {
            true => ggml::rms_norm(x, &self.factors, self.epsilon),
            false => ops::rms_norm(&x.contiguous()?, &self.weight, self.epsilon),
        }
    }
}
