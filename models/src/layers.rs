//! Layers that decoders are assembled from, on candle's tensors: written once, for every architecture and device.
//! Rows of one call may belong to different sequences; only attention looks at which.

use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{D, DType, Device, Module, Result, Tensor};
use candle_nn::ops;

/// A matrix without bias. F32 is kept as a tensor for candle's matrix product; every other type stays as it is in
/// the file, also F16 and BF16, which candle would widen.
#[derive(Clone)]
pub struct Linear(QMatMul);

impl Linear {
    /// A matrix of rows `out` and columns `in`.
    ///
    /// # Errors
    /// When the tensor cannot be converted.
    pub fn new(weight: QTensor) -> Result<Self> {
        let is_f32 = weight.dtype() == GgmlDType::F32;
        let weight = Arc::new(weight);
        Ok(Self(if is_f32 {
            QMatMul::from_arc(weight)?
        } else {
            QMatMul::QTensor(weight)
        }))
    }

    /// `x · weightᵀ` for each row of `x`.
    ///
    /// # Errors
    /// When shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.0.forward(x)
    }

    /// Rows of the matrix: an embedding's lookup. Only the rows asked for are dequantised.
    ///
    /// # Errors
    /// When an id is out of range.
    pub fn rows(&self, ids: &Tensor) -> Result<Tensor> {
        self.0.embedding(ids)
    }
}

/// Root-mean-square normalisation.
pub struct RmsNorm {
    weight: Tensor,
    epsilon: f32,
}

impl RmsNorm {
    /// A norm with one factor per column.
    ///
    /// # Errors
    /// When the tensor cannot be converted.
    pub fn new(weight: &QTensor, epsilon: f32) -> Result<Self> {
        Ok(Self {
            weight: weight.dequantize(&weight.device())?,
            epsilon,
        })
    }

    /// Each row of `x`, normalised and scaled.
    ///
    /// # Errors
    /// When shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::rms_norm(&x.contiguous()?, &self.weight, self.epsilon)
    }
}

/// Rotary position embedding over neighbouring pairs of columns (ggml's NORM style).
pub struct Rope {
    /// Radians per position for each pair.
    frequencies: Vec<f64>,
}

/// Cosines and sines of a batch's positions.
pub struct Rotation {
    cos: Tensor,
    sin: Tensor,
}

impl Rope {
    /// `dimensions` columns are rotated. `factors` (one per pair) divide the frequencies, `scale` multiplies positions.
    pub fn new(dimensions: usize, base: f64, scale: f64, factors: Option<&[f32]>) -> Self {
        let frequency = |pair: usize| {
            let factor = factors
                .and_then(|factors| factors.get(pair))
                .map_or(1.0, |f| f64::from(*f));
            scale * base.powf(-2.0 * pair as f64 / dimensions as f64) / factor
        };
        Self {
            frequencies: (0..dimensions / 2).map(frequency).collect(),
        }
    }

    /// The rotation of rows at `positions`.
    ///
    /// # Errors
    /// When the device refuses memory.
    pub fn at(&self, positions: &[usize], device: &Device) -> Result<Rotation> {
        let angles = || {
            positions.iter().flat_map(|position| {
                self.frequencies
                    .iter()
                    .map(move |frequency| *position as f64 * frequency)
            })
        };
        let shape = (positions.len(), self.frequencies.len());
        let cos: Vec<f32> = angles().map(|angle| angle.cos() as f32).collect();
        let sin: Vec<f32> = angles().map(|angle| angle.sin() as f32).collect();
        Ok(Rotation {
            cos: Tensor::from_vec(cos, shape, device)?,
            sin: Tensor::from_vec(sin, shape, device)?,
        })
    }
}

impl Rotation {
    /// Rotates `x` of shape heads × rows × columns; columns beyond the rotated ones stay.
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let columns = x.dim(D::Minus1)?;
        let rotated = self.cos.dim(1)? * 2;
        let x = x.unsqueeze(0)?;
        if rotated == columns {
            return candle_nn::rotary_emb::rope_i(&x.contiguous()?, &self.cos, &self.sin)?
                .squeeze(0);
        }
        let head = x.narrow(D::Minus1, 0, rotated)?.contiguous()?;
        let tail = x.narrow(D::Minus1, rotated, columns - rotated)?;
        let head = candle_nn::rotary_emb::rope_i(&head, &self.cos, &self.sin)?;
        Tensor::cat(&[&head, &tail], D::Minus1)?.squeeze(0)
    }
}

/// Keys and values of one sequence in one layer, allocated once for all the tokens that it may ever have.
///
/// Nothing is wiped here: the process's allocator zeroes what is freed, so dropping a cache wipes it.
pub struct LayerCache {
    keys: Tensor,
    values: Tensor,
}

impl LayerCache {
    /// Room for `capacity` tokens.
    ///
    /// # Errors
    /// When the device refuses memory.
    pub fn new(heads: usize, capacity: usize, columns: usize, device: &Device) -> Result<Self> {
        let zeros = || Tensor::zeros((heads, capacity, columns), DType::F32, device);
        Ok(Self {
            keys: zeros()?,
            values: zeros()?,
        })
    }

    /// Writes keys and values (heads × rows × columns) from token `at` on; answers those of all tokens so far.
    fn extend(&self, at: usize, keys: &Tensor, values: &Tensor) -> Result<(Tensor, Tensor)> {
        let len = at + keys.dim(1)?;
        self.keys.slice_set(&keys.contiguous()?, 1, at)?;
        self.values.slice_set(&values.contiguous()?, 1, at)?;
        Ok((self.keys.narrow(1, 0, len)?, self.values.narrow(1, 0, len)?))
    }
}

/// Rows of a batch that belong to one sequence.
pub struct Span<'a> {
    /// The sequence's cache in this layer.
    pub cache: &'a LayerCache,
    /// The sequence's tokens before these rows.
    pub before: usize,
    /// How many rows.
    pub rows: usize,
}

/// Causal self-attention with grouped keys and values.
pub struct Attention {
    /// Projections to queries, keys and values, and back.
    pub query: Linear,
    /// To keys.
    pub key: Linear,
    /// To values.
    pub value: Linear,
    /// From the heads' results.
    pub output: Linear,
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of keys and values.
    pub key_value_heads: usize,
}

impl Attention {
    /// Attention of rows that belong, in order, to `spans`.
    ///
    /// # Errors
    /// When shapes do not fit or a cache is full.
    pub fn forward(&self, x: &Tensor, rotation: &Rotation, spans: &[Span<'_>]) -> Result<Tensor> {
        let split = |x: Tensor, heads: usize| {
            let (rows, columns) = x.dims2()?;
            x.reshape((rows, heads, columns / heads))?.transpose(0, 1)
        };
        let query = rotation.apply(&split(self.query.forward(x)?, self.heads)?)?;
        let key = rotation.apply(&split(self.key.forward(x)?, self.key_value_heads)?)?;
        let value = split(self.value.forward(x)?, self.key_value_heads)?;
        let mut row = 0;
        let mut results = Vec::with_capacity(spans.len());
        for span in spans {
            let of = |x: &Tensor| x.narrow(1, row, span.rows);
            let (keys, values) = span.cache.extend(span.before, &of(&key)?, &of(&value)?)?;
            results.push(self.attend(&of(&query)?, &keys, &values, span.before)?);
            row += span.rows;
        }
        self.output.forward(&Tensor::cat(&results, 0)?)
    }

    /// One sequence: queries (heads × rows × columns) against all its keys and values; answers rows × columns.
    fn attend(
        &self,
        query: &Tensor,
        keys: &Tensor,
        values: &Tensor,
        before: usize,
    ) -> Result<Tensor> {
        let (heads, rows, columns) = query.dims3()?;
        let (groups, len) = (self.key_value_heads, before + rows);
        let scale = 1.0 / (columns as f64).sqrt();
        let query =
            (query.contiguous()? * scale)?.reshape((groups, heads / groups * rows, columns))?;
        let mut scores = query.matmul(&keys.t()?)?;
        if rows > 1 {
            let mask = causal_mask(rows, before, query.device())?;
            let by_row = scores.reshape((heads, rows, len))?;
            scores = by_row
                .broadcast_add(&mask)?
                .reshape((groups, heads / groups * rows, len))?;
        }
        let weights = ops::softmax_last_dim(&scores.contiguous()?)?;
        let result = weights.matmul(values)?.reshape((heads, rows, columns))?;
        result.transpose(0, 1)?.reshape((rows, heads * columns))
    }
}

/// Zero where row `i` may look (tokens up to `before + i`), minus infinity elsewhere.
fn causal_mask(rows: usize, before: usize, device: &Device) -> Result<Tensor> {
    let len = before + rows;
    let cell = |index: usize| {
        if index % len > before + index / len {
            f32::NEG_INFINITY
        } else {
            0.0
        }
    };
    Tensor::from_vec(
        (0..rows * len).map(cell).collect::<Vec<_>>(),
        (rows, len),
        device,
    )
}

/// SwiGLU: `down(silu(gate(x)) · up(x))`.
pub struct FeedForward {
    /// Its gate.
    pub gate: Linear,
    /// To the wide side.
    pub up: Linear,
    /// Back to the narrow side.
    pub down: Linear,
}

impl FeedForward {
    /// Each row of `x` on its own.
    ///
    /// # Errors
    /// When shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.down
            .forward(&(ops::silu(&self.gate.forward(x)?)? * self.up.forward(x)?)?)
    }
}
