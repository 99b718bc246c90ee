//! Matrices on a device: quantised as in the file, or floats.

use std::sync::Arc;

use candle_core::quantized::{QStorage, QTensor};
use candle_core::{DType, Device, Result, Tensor};
use zeroize::Zeroizing;

use super::Kernels;
use super::input::Input;
use super::packed::Packed;
use crate::decoder::weights::Matrix;
use crate::gguf::TensorType;
use crate::weights::{Rows, WeightError};

/// What makes matrices: a device, and kernels of ours where it has some.
pub(crate) struct Workshop {
    pub(super) device: Device,
    pub(super) kernels: Option<Arc<Kernels>>,
    /// Whether blocks are packed for kernels of ours, which then multiply them.
    pub(super) packs: bool,
}

/// A matrix.
pub(crate) enum GpuMatrix {
    /// 32-bit floats.
    Floats(Tensor),
    /// 16-bit floats of either kind. candle would answer products of 16 bits.
    Halves(Tensor, Option<Arc<Kernels>>),
    /// Blocks, as they are in the file.
    Blocks(Arc<QTensor>),
    /// Blocks that kernels of ours multiply.
    Packed(Packed),
}

impl GpuMatrix {
    /// Bytes that a matrix takes, with what candle's kernels may read behind its end.
    pub(super) fn byte_len(kind: TensorType, rows: usize, columns: usize) -> u64 {
        const PADDING: usize = 512;
        let elements = rows.saturating_mul(columns);
        let bytes = match is_float(kind) {
            true => elements.saturating_mul(kind.type_size()),
            false => (elements + PADDING) / kind.block_size() * kind.type_size(),
        };
        bytes as u64
    }

    /// `x · matrixᵀ` for each row of `x`.
    pub(super) fn forward(&self, x: &Input) -> Result<Tensor> {
        match self {
            Self::Packed(packed) => packed.forward(x),
            Self::Floats(floats) => x.numbers()?.matmul(&floats.t()?),
            Self::Halves(halves, Some(kernels)) => kernels.product(x.numbers()?, halves),
            Self::Halves(halves, None) => {
                let floats = halves.to_dtype(DType::F32)?;
                x.numbers()?.matmul(&floats.t()?)
            }
            Self::Blocks(blocks) => x.numbers()?.apply_op1_no_bwd(blocks.as_ref()),
        }
    }

    /// Matrices of the same kind and columns as one, all rows one behind another: one product rounds their inputs once. Else
    /// they come back as they are.
    pub(super) fn joined(matrices: Vec<Self>) -> Result<Vec<Self>> {
        let mut joined: Vec<Self> = Vec::with_capacity(matrices.len());
        for matrix in matrices {
            match (joined.last(), &matrix) {
                (Some(Self::Blocks(above)), Self::Blocks(own)) if alike(above, own)? => {
                    let both = Self::Blocks(Arc::new(stacked(above, own)?));
                    joined.pop();
                    joined.push(both);
                }
                (Some(Self::Packed(above)), Self::Packed(own)) => match above.stacked(own)? {
                    Some(both) => {
                        joined.pop();
                        joined.push(Self::Packed(both));
                    }
                    None => joined.push(matrix),
                },
                (Some(Self::Halves(above, kernels)), Self::Halves(own, _))
                    if above.dtype() == own.dtype() =>
                {
                    let both = Tensor::cat(&[above, own], 0)?;
                    let both = Self::Halves(both, kernels.clone());
                    joined.pop();
                    joined.push(both);
                }
                (Some(Self::Floats(above)), Self::Floats(own)) => {
                    let both = Self::Floats(Tensor::cat(&[above, own], 0)?);
                    joined.pop();
                    joined.push(both);
                }
                _ => joined.push(matrix),
            }
        }
        Ok(joined)
    }

    /// Whether so many rows are best rounded before they come to these matrices.
    pub(super) fn rounds(matrices: &[Self], rows: usize) -> bool {
        let packed = |matrix: &Self| matches!(matrix, Self::Packed(_));
        Packed::rounds(rows) && matrices.iter().all(packed)
    }

    /// `silu(x · gateᵀ) · (x · upᵀ)` of a matrix that has both, for a product with `next`. None: that takes several steps.
    pub(super) fn gated(&self, x: &Input, next: &Self) -> Result<Option<Input>> {
        match (self, next) {
            (Self::Packed(both), Self::Packed(_)) => both.gated(x),
            _ => Ok(None),
        }
    }

    /// Whether it has blocks that candle multiplies.
    pub(super) fn has_blocks(&self) -> bool {
        matches!(self, Self::Blocks(_))
    }

    /// Products of `x` with matrices that may have been [joined](Self::joined), each of so many columns as `widths` says.
    pub(super) fn products<const N: usize>(
        joined: &[Self],
        x: &Input,
        widths: [usize; N],
    ) -> Result<[Tensor; N]> {
        let mut products = joined.iter();
        // A product, and how many of its columns were handed out.
        let mut open: Option<(Tensor, usize)> = None;
        let parts = widths.map(|width| {
            let (product, start) = match open.take() {
                Some((product, done)) if done < product.dim(1)? => (product, done),
                _ => match products.next() {
                    Some(matrix) => (matrix.forward(x)?, 0),
                    None => candle_core::bail!("matrices have fewer rows than are wanted"),
                },
            };
            let part = product.narrow(1, start, width)?;
            open = Some((product, start + width));
            Ok(part)
        });
        let parts = parts.into_iter().collect::<Result<Vec<Tensor>>>()?;
        <[Tensor; N]>::try_from(parts).map_err(|_| candle_core::Error::msg("a product is missing"))
    }

    /// Rows of the matrix: an embedding's lookup.
    pub(super) fn rows(&self, ids: &Tensor) -> Result<Tensor> {
        match self {
            Self::Floats(floats) => floats.index_select(ids, 0),
            Self::Halves(halves, _) => halves.index_select(ids, 0)?.to_dtype(DType::F32),
            Self::Blocks(blocks) => blocks.embedding(ids),
            Self::Packed(packed) => packed.rows(ids),
        }
    }
}

fn alike(a: &QTensor, b: &QTensor) -> Result<bool> {
    let columns = |one: &QTensor| one.shape().dims2().map(|(_, columns)| columns);
    Ok(a.dtype() == b.dtype() && columns(a)? == columns(b)?)
}

/// The rows of `a`, and those of `b` behind them.
fn stacked(a: &QTensor, b: &QTensor) -> Result<QTensor> {
    let ((above, columns), (below, _)) = (a.shape().dims2()?, b.shape().dims2()?);
    let [over, under] =
        [a, b].map(|one| one.data().map(|bytes| Zeroizing::new(bytes.into_owned())));
    let bytes = Zeroizing::new([over?.as_slice(), under?.as_slice()].concat());
    let storage = QStorage::from_data(bytes.as_slice().into(), &a.device(), a.dtype())?;
    QTensor::new(storage, (above + below, columns))
}

fn is_float(kind: TensorType) -> bool {
    matches!(kind, TensorType::F32 | TensorType::F16 | TensorType::BF16)
}

impl Matrix for GpuMatrix {
    type Maker = Workshop;

    fn fits(kind: TensorType, _: usize, columns: usize) -> bool {
        // What candle's CUDA kernels multiply and look up.
        let known = !matches!(kind, TensorType::Q8_1 | TensorType::Q8K);
        known && columns.is_multiple_of(kind.block_size())
    }

    fn make(workshop: &Workshop, rows: &Rows<'_>) -> std::result::Result<Self, WeightError> {
        let (kind, shape) = (rows.kind(), (rows.rows(), rows.columns()));
        let Workshop {
            device,
            kernels,
            packs,
        } = workshop;
        let make = |bytes: &[u8]| {
            if let Some(kernels) = kernels.as_ref().filter(|_| *packs)
                && let Some(packed) = Packed::make(kernels, kind, shape, bytes)?
            {
                return Ok(Self::Packed(packed));
            }
            let dtype = match kind {
                TensorType::F32 => DType::F32,
                TensorType::F16 => DType::F16,
                TensorType::BF16 => DType::BF16,
                _ => {
                    let storage = QStorage::from_data(bytes.into(), device, kind)?;
                    return Ok(Self::Blocks(Arc::new(QTensor::new(storage, shape)?)));
                }
            };
            let floats = Tensor::from_raw_buffer(bytes, dtype, &[shape.0, shape.1], device)?;
            Ok(match dtype {
                DType::F32 => Self::Floats(floats),
                _ => Self::Halves(floats, kernels.clone()),
            })
        };
        rows.with_bytes(|bytes| make(bytes).map_err(|error: candle_core::Error| error.to_string()))
    }
}
