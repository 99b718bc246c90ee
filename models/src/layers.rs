//! Layers that decoders are assembled from, on candle's tensors: written once, for every architecture and device.
//! Rows of one call may belong to different sequences; only attention looks at which.

use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{D, DType, Device, Module, Result, Tensor};
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
    /// When the tensor cannot be converted.
    pub fn new(weight: &QTensor, epsilon: f32) -> Result<Self> {
        let weight = weight.dequantize(&weight.device())?;
        Ok(Self {
            factors: weight.to_vec1()?,
            weight,
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

/// Rotary position embedding over neighbouring pairs of columns (ggml's NORM style).
pub struct Rope {
    /// From one pair's angle to the next one's.
    step: f32,
    /// Multiplies angles.
    scale: f32,
    /// Divides the angle of each pair.
    factors: Vec<f32>,
}

/// Cosines and sines of a batch's positions.
pub struct Rotation {
    /// Of each pair, row by row.
    turns: Vec<(f32, f32)>,
    pairs: usize,
    device: Device,
}

impl Rope {
    /// `dimensions` columns are rotated. `factors` (one per pair) divide the frequencies, `scale` multiplies positions.
    pub fn new(dimensions: usize, base: f64, scale: f64, factors: Option<&[f32]>) -> Self {
        let pairs = dimensions / 2;
        let factor = |pair| factors.and_then(|factors| factors.get(pair).copied());
        Self {
            step: (base as f32).powf(-2.0 / dimensions as f32),
            scale: scale as f32,
            factors: (0..pairs).map(|pair| factor(pair).unwrap_or(1.0)).collect(),
        }
    }

    /// The rotation of rows at `positions`.
    pub fn at(&self, positions: &[usize], device: &Device) -> Rotation {
        let mut turns = Vec::with_capacity(positions.len() * self.factors.len());
        for position in positions {
            // Single precision and one multiplication per pair, as ggml does it.
            let mut angle = *position as f32;
            for factor in &self.factors {
                let turned = self.scale * (angle / factor);
                turns.push((turned.cos(), turned.sin()));
                angle *= self.step;
            }
        }
        Rotation {
            turns,
            pairs: self.factors.len(),
            device: device.clone(),
        }
    }
}

impl Rotation {
    /// Rotates `x` of shape heads × rows × columns; columns beyond the rotated ones stay.
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        if self.device.is_cpu() {
            return ggml::rotate(x, &self.turns, self.pairs);
        }
        let columns = x.dim(D::Minus1)?;
        let rotated = self.pairs * 2;
        let shape = (x.dim(1)?, self.pairs);
        let (cos, sin): (Vec<f32>, Vec<f32>) = self.turns.iter().copied().unzip();
        let cos = Tensor::from_vec(cos, shape, &self.device)?;
        let sin = Tensor::from_vec(sin, shape, &self.device)?;
        let x = x.unsqueeze(0)?;
        let head = x.narrow(D::Minus1, 0, rotated)?.contiguous()?;
        let head = candle_nn::rotary_emb::rope_i(&head, &cos, &sin)?;
        if rotated == columns {
            return head.squeeze(0);
        }
        let tail = x.narrow(D::Minus1, rotated, columns - rotated)?;
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
        let scale = 1.0 / (columns as f32).sqrt();
        let query = query
            .contiguous()?
            .reshape((groups, heads / groups * rows, columns))?;
        let mut scores = ggml::scores(&query, keys)?;
        if rows > 1 {
            let mask = causal_mask(rows, before, query.device())?;
            let by_row = scores.reshape((heads, rows, len))?;
            scores = by_row
                .broadcast_add(&mask)?
                .reshape((groups, heads / groups * rows, len))?;
        }
        let weights = match scores.device().is_cpu() {
            true => ggml::softmax(&scores, scale)?,
            false => ops::softmax_last_dim(&(scores * f64::from(scale))?.contiguous()?)?,
        };
        let result = ggml::weigh(&weights, values, rows > 1)?.reshape((heads, rows, columns))?;
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
        let (gate, up) = (self.gate.forward(x)?, self.up.forward(x)?);
        self.down.forward(&match x.device().is_cpu() {
            true => ggml::swiglu(&gate, &up)?,
            false => (ops::silu(&gate)? * up)?,
        })
    }
}
