//! Attention over pages: a group's keys and values are gathered, multiplied and masked together, whatever sequences they
//! belong to.

use candle_core::{D, Result, Tensor};
use candle_nn::{ops, rotary_emb};

use super::link::Link;
use super::matrix::GpuMatrix;
use super::memory::KvMemory;
use super::network::{Norm, Prepared, Seen, bend};
use crate::decoder::config::{DecoderConfig, RopePairs};
use crate::decoder::rope::Rope;
use crate::decoder::weights::Projection;

/// Cosines and sines of every position.
pub(super) struct Rotation {
    cosines: Tensor,
    sines: Tensor,
    pairs: RopePairs,
}

/// Those of a pass's rows.
pub(super) struct Turns {
    cosines: Tensor,
    sines: Tensor,
    pairs: RopePairs,
}

impl Rotation {
    pub(super) fn new(rope: &Rope, capacity: usize, link: &Link) -> Result<Self> {
        let mut turns = Vec::with_capacity(capacity * rope.len());
        for position in 0..capacity {
            rope.turns(position, capacity, &mut turns);
        }
        let (cosines, sines): (Vec<f32>, Vec<f32>) = turns.into_iter().unzip();
        let shape = (capacity, rope.len());
        Ok(Self {
            cosines: link.up(cosines, shape)?,
            sines: link.up(sines, shape)?,
            pairs: rope.pairs(),
        })
    }

    pub(super) fn at(&self, positions: &Tensor) -> Result<Turns> {
        Ok(Turns {
            cosines: self.cosines.index_select(positions, 0)?,
            sines: self.sines.index_select(positions, 0)?,
            pairs: self.pairs,
        })
    }
}

impl Turns {
    /// Rotates `x` of shape heads × rows × columns; columns beyond the rotated ones stay.
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let (columns, rotated) = (x.dim(D::Minus1)?, self.cosines.dim(1)? * 2);
        let x = x.unsqueeze(0)?;
        let head = match rotated == columns {
            true => x.clone(),
            false => x.narrow(D::Minus1, 0, rotated)?.contiguous()?,
        };
        let (cosines, sines) = (&self.cosines, &self.sines);
        let head = match self.pairs {
            RopePairs::Neighbours => rotary_emb::rope_i(&head, cosines, sines)?,
            RopePairs::Halves => rotary_emb::rope(&head, cosines, sines)?,
        };
        if rotated == columns {
            return head.squeeze(0);
        }
        let tail = x.narrow(D::Minus1, rotated, columns - rotated)?;
        Tensor::cat(&[&head, &tail], D::Minus1)?.squeeze(0)
    }
}

/// A matrix and what is added to its products.
struct Product {
    matrix: GpuMatrix,
    bias: Option<Tensor>,
}

impl Product {
    fn new(loaded: Projection<GpuMatrix>, link: &Link) -> Result<Self> {
        let bias = loaded.bias.map(|bias| {
            let len = bias.len();
            link.up(bias, (1, len))
        });
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
    query: Product,
    key: Product,
    value: Product,
    /// From the heads' results.
    output: GpuMatrix,
    /// Of each head's query and key.
    norms: Option<(Norm, Norm)>,
    heads: usize,
    key_value_heads: usize,
    /// Multiplies queries, and so scores.
    scale: f32,
    /// Bends scores.
    cap: Option<f32>,
    /// Tokens that a token sees, itself included.
    sight: usize,
}

impl Attention {
    /// That of a layer, of the projections for queries, keys and values.
    pub(super) fn new(
        config: &DecoderConfig,
        layer: usize,
        [query, key, value]: [Projection<GpuMatrix>; 3],
        output: GpuMatrix,
        norms: Option<(Norm, Norm)>,
        link: &Link,
    ) -> Result<Self> {
        Ok(Self {
            query: Product::new(query, link)?,
            key: Product::new(key, link)?,
            value: Product::new(value, link)?,
            output,
            norms,
            heads: config.heads,
            key_value_heads: config.key_value_heads,
            scale: config.score_scale,
            cap: config.score_cap,
            sight: config.sight(layer),
        })
    }

    /// What the rows find; their keys and values are stored first.
    pub(super) fn forward(
        &self,
        layer: usize,
        x: &Tensor,
        turns: &Turns,
        prepared: &Prepared,
        memory: &KvMemory,
    ) -> Result<Tensor> {
        let (query_norm, key_norm) = match &self.norms {
            Some((query, key)) => (Some(query), Some(key)),
            None => (None, None),
        };
        let query = split(&self.query.forward(x)?, self.heads, query_norm)?;
        let mut query = (turns.apply(&query)? * f64::from(self.scale))?;
        if let Some(growth) = &prepared.growth {
            query = query.broadcast_mul(growth)?;
        }
        let key = split(&self.key.forward(x)?, self.key_value_heads, key_norm)?;
        let value = split(&self.value.forward(x)?, self.key_value_heads, None)?;
        memory.store(layer, &prepared.slots, &turns.apply(&key)?, &value)?;

        let (rows, columns) = (prepared.rows, query.dim(D::Minus1)?);
        let groups = self.key_value_heads;
        let query = query.reshape((groups, self.heads / groups * rows, columns))?;
        let found = prepared.seen.iter();
        let found = found.map(|seen| self.attend(layer, &query, seen, memory));
        let found = found.collect::<Result<Vec<_>>>()?;
        let found = match found.as_slice() {
            [one] => one.clone(),
            several => Tensor::cat(several, 1)?,
        };
        let found = found.index_select(&prepared.order, 1)?;
        let found = found.reshape((self.heads, rows, columns))?;
        let found = found.transpose(0, 1)?.contiguous()?;
        self.output
            .forward(&found.reshape((rows, self.heads * columns))?)
    }

    /// What a group's queries find, of all queries that share a head of keys; key-value heads × queries × columns.
    fn attend(
        &self,
        layer: usize,
        query: &Tensor,
        seen: &Seen,
        memory: &KvMemory,
    ) -> Result<Tensor> {
        let view = seen.views.iter().find(|view| view.sight == self.sight);
        let Some(view) = view else {
            candle_core::bail!("a layer's window was not planned for")
        };
        let (groups, sequences) = (self.key_value_heads, seen.sequences);
        let columns = query.dim(D::Minus1)?;
        let by_sequence = |x: Tensor| {
            let each = x.dim(1)? / sequences;
            x.reshape((groups, sequences, each, columns))
        };
        let query = by_sequence(query.index_select(&seen.queries, 1)?)?;
        let keys = by_sequence(memory.keys(layer, &view.slots)?)?;
        let values = by_sequence(memory.values(layer, &view.slots)?)?;
        let mut scores = query.matmul(&keys.transpose(2, 3)?)?;
        if let Some(cap) = self.cap {
            scores = bend(&scores, cap)?;
        }
        let weights = ops::softmax_last_dim(&scores.broadcast_add(&view.mask)?)?;
        weights
            .matmul(&values)?
            .reshape((groups, seen.queries.elem_count(), columns))
    }
}

/// Rows of all heads' columns as heads × rows × columns, each head normalised where there is a norm.
fn split(x: &Tensor, heads: usize, norm: Option<&Norm>) -> Result<Tensor> {
    let (rows, all) = x.dims2()?;
    let x = x.reshape((rows, heads, all / heads))?;
    let x = match norm {
        Some(norm) => norm.forward(&x)?,
        None => x,
    };
    x.transpose(0, 1)?.contiguous()
}
