//! Matrices on a device: quantised as in the file, or floats.

use std::sync::Arc;

use candle_core::quantized::{QStorage, QTensor};
use candle_core::{Device, Result, Tensor};

use crate::decoder::weights::Matrix;
use crate::gguf::TensorType;
use crate::weights::{Rows, WeightError};

/// A matrix.
pub(crate) enum GpuMatrix {
    /// 32-bit floats; 16-bit ones are widened, since candle multiplies those with results of 16 bits.
    Floats(Tensor),
    /// Blocks, as they are in the file.
    Blocks(Arc<QTensor>),
}

impl GpuMatrix {
    /// Bytes that a matrix takes, with what candle's kernels may read behind its end.
    pub(super) fn byte_len(kind: TensorType, rows: usize, columns: usize) -> u64 {
        const PADDING: usize = 512;
        let elements = rows.saturating_mul(columns);
        let bytes = match is_float(kind) {
            true => elements.saturating_mul(size_of::<f32>()),
            false => (elements + PADDING) / kind.block_size() * kind.type_size(),
        };
        bytes as u64
    }

    /// `x · matrixᵀ` for each row of `x`.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Floats(floats) => x.matmul(&floats.t()?),
            Self::Blocks(blocks) => x.apply_op1_no_bwd(blocks.as_ref()),
        }
    }

    /// Rows of the matrix: an embedding's lookup.
    pub(super) fn rows(&self, ids: &Tensor) -> Result<Tensor> {
        match self {
            Self::Floats(floats) => floats.index_select(ids, 0),
            Self::Blocks(blocks) => blocks.embedding(ids),
        }
    }
}

fn is_float(kind: TensorType) -> bool {
    matches!(kind, TensorType::F32 | TensorType::F16 | TensorType::BF16)
}

impl Matrix for GpuMatrix {
    type Maker = Device;

    fn fits(kind: TensorType, _: usize, columns: usize) -> bool {
        // What candle's CUDA kernels multiply and look up.
        let known = !matches!(kind, TensorType::Q8_1 | TensorType::Q8K);
        known && columns.is_multiple_of(kind.block_size())
    }

    fn make(device: &Device, rows: &Rows<'_>) -> std::result::Result<Self, WeightError> {
        let (kind, shape) = (rows.kind(), (rows.rows(), rows.columns()));
        let make = |bytes: &[u8]| {
            if !is_float(kind) {
                let storage = QStorage::from_data(bytes.into(), device, kind)?;
                return Ok(Self::Blocks(Arc::new(QTensor::new(storage, shape)?)));
            }
            let storage = QStorage::from_data(bytes.into(), &Device::Cpu, kind)?;
            let floats = QTensor::new(storage, shape)?.dequantize(&Device::Cpu)?;
            Ok(Self::Floats(floats.to_device(device)?))
        };
        rows.with_bytes(|bytes| make(bytes).map_err(|error: candle_core::Error| error.to_string()))
    }
}
