//! Causal self-attention with grouped keys and values, of rows that belong to different sequences.

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::ops;

use crate::decoder::weights;
use crate::ggml;
use crate::layers::{Linear, RmsNorm};

use super::bend;
use super::rotation::Rotation;

/// Keys and values of one sequence in one layer, allocated once for all the tokens that it may ever have.
///
/// Nothing is wiped here: the process's allocator zeroes what is freed, so dropping a cache wipes it.
pub(super) struct LayerCache {
    keys: Tensor,
    values: Tensor,
}

impl LayerCache {
    /// Room for `capacity` tokens.
    pub(super) fn new(
        heads: usize,
        capacity: usize,
        columns: usize,
        device: &Device,
    ) -> Result<Self> {
        let zeros = || Tensor::zeros((heads, capacity, columns), DType::F32, device);
        Ok(Self {
            keys: zeros()?,
            values: zeros()?,
        })
    }

    /// Writes keys and values (heads × rows × columns) from token `at` on; answers those of the tokens from `from` on.
    fn extend(
        &self,
        at: usize,
        from: usize,
        keys: &Tensor,
        values: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let len = at + keys.dim(1)? - from;
        self.keys.slice_set(&keys.contiguous()?, 1, at)?;
        self.values.slice_set(&values.contiguous()?, 1, at)?;
        let of = |all: &Tensor| all.narrow(1, from, len);
        Ok((of(&self.keys)?, of(&self.values)?))
    }
}

/// Rows of a batch that belong to one sequence.
pub(super) struct Span<'a> {
    /// The sequence's cache in this layer.
    pub(super) cache: &'a LayerCache,
    /// The sequence's tokens before these rows.
    pub(super) before: usize,
    /// How many rows.
    pub(super) rows: usize,
}

/// A matrix and what is added to its products.
pub(super) struct Projection {
    matrix: Linear,
    bias: Option<Tensor>,
}

impl Projection {
    pub(super) fn new(loaded: weights::Projection<Linear>, device: &Device) -> Result<Self> {
        let bias = loaded.bias.map(|bias| Tensor::new(bias, device));
        Ok(Self {
            matrix: loaded.matrix,
            bias: bias.transpose()?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.matrix.forward(x)?;
        match &self.bias {
            Some(bias) => x.broadcast_add(bias),
            None => Ok(x),
        }
    }
}

/// Attention of one block.
pub(super) struct Attention {
    pub(super) query: Projection,
    pub(super) key: Projection,
    pub(super) value: Projection,
    /// From the heads' results.
    pub(super) output: Linear,
    /// Of each head's query.
    pub(super) query_norm: Option<RmsNorm>,
    /// Of each head's key.
    pub(super) key_norm: Option<RmsNorm>,
    pub(super) heads: usize,
    pub(super) key_value_heads: usize,
    /// Multiplies scores.
    pub(super) scale: f32,
    /// Bends scores.
    pub(super) cap: Option<f32>,
    /// Tokens that a token sees, itself included.
    pub(super) sight: usize,
}

impl Attention {
    /// With norms of heads, if there are any.
    pub(super) fn with_norms(
        mut self,
        norms: Option<(Vec<f32>, Vec<f32>)>,
        make: impl Fn(Vec<f32>) -> Result<RmsNorm>,
    ) -> Result<Self> {
        if let Some((query, key)) = norms {
            self.query_norm = Some(make(query)?);
            self.key_norm = Some(make(key)?);
        }
        Ok(self)
    }

    /// Attention of rows that belong, in order, to `spans`. `growth` multiplies queries.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        rotation: &Rotation,
        growth: Option<&Tensor>,
        spans: &[Span<'_>],
    ) -> Result<Tensor> {
        let split = |x: Tensor, heads: usize, norm: &Option<RmsNorm>| {
            let (rows, columns) = x.dims2()?;
            let x = x.reshape((rows, heads, columns / heads))?;
            match norm {
                Some(norm) => norm.forward(&x)?,
                None => x,
            }
            .transpose(0, 1)
        };
        let query = split(self.query.forward(x)?, self.heads, &self.query_norm)?;
        let mut query = rotation.apply(&query)?;
        if let Some(growth) = growth {
            query = query.broadcast_mul(growth)?;
        }
        let key = split(self.key.forward(x)?, self.key_value_heads, &self.key_norm)?;
        let key = rotation.apply(&key)?;
        let value = split(self.value.forward(x)?, self.key_value_heads, &None)?;
        let mut row = 0;
        let mut results = Vec::with_capacity(spans.len());
        for span in spans {
            let of = |x: &Tensor| x.narrow(1, row, span.rows);
            // The first token that the first row sees.
            let from = (span.before + 1).saturating_sub(self.sight);
            let extended = span
                .cache
                .extend(span.before, from, &of(&key)?, &of(&value)?)?;
            results.push(self.attend(&of(&query)?, &extended, span.before - from)?);
            row += span.rows;
        }
        self.output.forward(&Tensor::cat(&results, 0)?)
    }

    /// One sequence: queries (heads × rows × columns) against keys and values, of which `before` are of tokens before the
    /// rows; answers rows × columns.
    fn attend(
        &self,
        query: &Tensor,
        (keys, values): &(Tensor, Tensor),
        before: usize,
    ) -> Result<Tensor> {
        let (heads, rows, columns) = query.dims3()?;
        let (groups, len) = (self.key_value_heads, before + rows);
        let query = query
            .contiguous()?
            .reshape((groups, heads / groups * rows, columns))?;
        let mut scores = ggml::scores(&query, keys)?;
        let mut scale = self.scale;
        if let Some(cap) = self.cap {
            scores = bend(&(scores * f64::from(scale))?, cap)?;
            scale = 1.0;
        }
        if rows > 1 {
            let mask = mask(rows, before, self.sight, query.device())?;
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

/// Zero where row `i` may look (the last `sight` tokens up to `before + i`), minus infinity elsewhere.
fn mask(rows: usize, before: usize, sight: usize, device: &Device) -> Result<Tensor> {
    let len = before + rows;
    let cell = |index: usize| {
        let (token, last) = (index % len, before + index / len);
        if token > last || last - token >= sight {
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
