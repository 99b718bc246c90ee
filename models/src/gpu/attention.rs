//! Attention over pages. Where few rows of each sequence attend and there are kernels of ours, keys and values are read where
//! they are; else a group's are gathered, multiplied and masked together, whatever sequences they belong to.

use candle_core::{D, Result, Tensor};
use candle_nn::{ops, rotary_emb};

use super::Kernels;
use super::input::Input;
use super::link::Link;
use super::matrix::GpuMatrix;
use super::memory::KvMemory;
use super::network::{Norm, Placing, Prepared, Seeing, Seen, bend};
use crate::decoder::config::{DecoderConfig, RopePairs};
use crate::decoder::rope::Rope;
use crate::decoder::weights::Projection;

/// Cosines and sines of every position.
pub(super) struct Rotation {
    /// Positions × half of the columns that are rotated.
    pub(super) cosines: Tensor,
    pub(super) sines: Tensor,
    pub(super) pairs: RopePairs,
}

/// How a kernel of ours is to turn the heads of rows.
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "read on CUDA only"))]
pub(super) struct Turn<'a> {
    pub(super) rotation: &'a Rotation,
    /// Factors and epsilon of the norm before.
    pub(super) norm: Option<(&'a Tensor, f32)>,
    /// Each row's place.
    pub(super) places: &'a Tensor,
    /// Heads of a row.
    pub(super) heads: usize,
}

/// What a kernel of ours is to look at.
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "read on CUDA only"))]
pub(super) struct Look<'a> {
    /// Each cell's row, sequence by sequence.
    pub(super) rows_of: &'a Tensor,
    /// For each query how many slots lie between the view's first and its own.
    pub(super) lags: &'a Tensor,
    /// Pages, as many of each sequence.
    pub(super) pages: &'a Tensor,
    pub(super) sequences: usize,
    /// Tokens that a query sees, its own included.
    pub(super) sight: usize,
    /// Bends scores.
    pub(super) cap: Option<f32>,
    pub(super) key_value_heads: usize,
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

/// Attention of one block.
pub(super) struct Attention {
    /// For queries, keys and values, joined where they are alike.
    products: Vec<GpuMatrix>,
    /// What is added to each, where there is something.
    biases: [Option<Tensor>; 3],
    head_width: usize,
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
        let bias = |bias: Option<Vec<f32>>| {
            let up = |bias: Vec<f32>| {
                let len = bias.len();
                link.up(bias, (1, len))
            };
            bias.map(up).transpose()
        };
        Ok(Self {
            biases: [bias(query.bias)?, bias(key.bias)?, bias(value.bias)?],
            products: GpuMatrix::joined(vec![query.matrix, key.matrix, value.matrix])?,
            head_width: config.head_width,
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
        (layer, windowed): (usize, bool),
        x: &Input,
        prepared: &Prepared<'_>,
        memory: &KvMemory,
    ) -> Result<Tensor> {
        let query = self.place((layer, windowed), x, &prepared.placing, memory)?;
        let kernels = match &prepared.placing {
            Placing::Kernels(kernels, _) => Some(*kernels),
            Placing::Operations { .. } => None,
        };
        let found = match (&prepared.seeing, kernels) {
            (
                Seeing::Pages {
                    sequences,
                    rows_of,
                    views,
                },
                Some(kernels),
            ) => {
                let view = self.of_sight(views, |view| view.sight)?;
                let look = Look {
                    rows_of,
                    lags: &view.lags,
                    pages: &view.pages,
                    sequences: *sequences,
                    sight: self.sight,
                    cap: self.cap,
                    key_value_heads: self.key_value_heads,
                };
                let rounds = GpuMatrix::rounds(std::slice::from_ref(&self.output), prepared.rows);
                kernels.attend(&query, self.heads, &memory.layer(layer)?, &look, rounds)?
            }
            (Seeing::Pages { .. }, None) => {
                candle_core::bail!("pages are read by kernels, of which there are none")
            }
            (Seeing::Gathered { groups, order }, kernels) => {
                let query = split(&query, self.heads, None)?;
                let found = groups.iter();
                let found = found.map(|seen| self.attend(layer, &query, seen, memory, kernels));
                let found = found.collect::<Result<Vec<_>>>()?;
                Input::Numbers(self.join(&found, order, prepared.rows)?)
            }
        };
        self.output.forward(&found)
    }

    /// Whether so many rows are best rounded before they come here.
    pub(super) fn rounds(&self, rows: usize) -> bool {
        GpuMatrix::rounds(&self.products, rows)
    }

    /// The view that sees as far as this layer does.
    fn of_sight<'a, V>(&self, views: &'a [V], sight: impl Fn(&V) -> usize) -> Result<&'a V> {
        let view = views.iter().find(|view| sight(view) == self.sight);
        view.ok_or_else(|| candle_core::Error::msg("a layer's window was not planned for"))
    }

    /// Queries, keys and values of rows: rows × columns of all heads each.
    fn products(&self, x: &Input) -> Result<[Tensor; 3]> {
        let (queries, keys) = (
            self.heads * self.head_width,
            self.key_value_heads * self.head_width,
        );
        let products = GpuMatrix::products(&self.products, x, [queries, keys, keys])?;
        let [query, key, value] = &self.biases;
        let added = |product: Tensor, bias: &Option<Tensor>| match bias {
            Some(bias) => product.broadcast_add(bias),
            None => Ok(product),
        };
        let [a, b, c] = products;
        Ok([added(a, query)?, added(b, key)?, added(c, value)?])
    }

    /// Queries, rows × columns of all heads, scaled and rotated; keys and values are stored.
    fn place(
        &self,
        (layer, windowed): (usize, bool),
        x: &Input,
        placing: &Placing<'_>,
        memory: &KvMemory,
    ) -> Result<Tensor> {
        let (query_norm, key_norm) = self.norms.as_ref().map(|(query, key)| (query, key)).unzip();
        let [query, key, value] = self.products(x)?;
        match placing {
            Placing::Kernels(kernels, placed) => {
                let turn = placed.turn(windowed, query_norm, self.heads);
                let query = kernels.turn(&query, &turn, self.scale, placed.growth)?;
                let turn = placed.turn(windowed, key_norm, self.key_value_heads);
                let here = memory.layer(layer)?;
                kernels.store((&key, &value), &here, &placed.slots, &turn)?;
                Ok(query)
            }
            Placing::Operations {
                turns,
                growth,
                slots,
            } => {
                let [usual, own] = turns;
                let turns = if windowed { own } else { usual };
                let rows = query.dim(0)?;
                let query = split(&query, self.heads, query_norm)?;
                let mut query = (turns.apply(&query)? * f64::from(self.scale))?;
                if let Some(growth) = growth {
                    query = query.broadcast_mul(growth)?;
                }
                let key = turns.apply(&split(&key, self.key_value_heads, key_norm)?)?;
                let value = split(&value, self.key_value_heads, None)?;
                memory.store(layer, slots, &key, &value)?;
                let query = query.transpose(0, 1)?.contiguous()?;
                query.reshape((rows, ()))
            }
        }
    }

    /// What a group's queries (heads × rows × columns) find, of all queries that share a head of keys; key-value heads ×
    /// queries × columns.
    fn attend(
        &self,
        layer: usize,
        query: &Tensor,
        seen: &Seen,
        memory: &KvMemory,
        kernels: Option<&Kernels>,
    ) -> Result<Tensor> {
        let view = self.of_sight(&seen.views, |view| view.sight)?;
        let (groups, sequences) = (self.key_value_heads, seen.sequences);
        let (heads, rows, columns) = query.dims3()?;
        let query = query.reshape((groups, heads / groups * rows, columns))?;
        let by_sequence = |x: Tensor| {
            let each = x.dim(1)? / sequences;
            x.reshape((groups, sequences, each, columns))
        };
        let query = by_sequence(query.index_select(&seen.queries, 1)?)?;
        let keys = by_sequence(memory.keys(layer, &view.slots)?)?;
        let values = by_sequence(memory.values(layer, &view.slots)?)?;
        let scores = query.matmul(&keys.transpose(2, 3)?)?;
        let weights = match (kernels, &view.mask) {
            (Some(kernels), _) => {
                kernels.soften(&scores, &view.lags, groups, (self.sight, self.cap))?
            }
            (None, Some(mask)) => {
                let bent = match self.cap {
                    Some(cap) => bend(&scores, cap)?,
                    None => scores,
                };
                ops::softmax_last_dim(&bent.broadcast_add(mask)?)?
            }
            (None, None) => candle_core::bail!("nothing says what a query sees"),
        };
        weights
            .matmul(&values)?
            .reshape((groups, seen.queries.elem_count(), columns))
    }

    /// What groups found, one behind another, as rows × columns of all heads.
    fn join(&self, found: &[Tensor], order: &Tensor, rows: usize) -> Result<Tensor> {
        let found = match found {
            [one] => one.clone(),
            several => Tensor::cat(several, 1)?,
        };
        let columns = found.dim(2)?;
        let found = found.index_select(order, 1)?;
        let found = found.reshape((self.heads, rows, columns))?;
        let found = found.transpose(0, 1)?.contiguous()?;
        found.reshape((rows, self.heads * columns))
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
