//! A decoder's tensors by name, for whoever computes with them: each executor brings its own kind of matrix.

use std::ops::Range;

use super::config::{DecoderConfig, Experts, RopeScaling};
use crate::gguf::TensorType;
use crate::weights::{Loader, Rows, WeightError};

/// A matrix of an executor's own kind.
pub(crate) trait Matrix: Sized {
    /// What is needed to make one: threads, or a device.
    type Maker;

    /// Whether such a matrix can be made; a model with one that cannot is not loaded by this executor.
    fn fits(kind: TensorType, rows: usize, columns: usize) -> bool;

    /// Makes a matrix of a tensor's rows, which it reads.
    ///
    /// # Errors
    /// [`WeightError`].
    fn make(maker: &Self::Maker, rows: &Rows<'_>) -> Result<Self, WeightError>;
}

/// All tensors of a decoder.
pub(crate) struct DecoderWeights<M> {
    pub(crate) embedding: M,
    pub(crate) blocks: Vec<Block<M>>,
    pub(crate) norm: Vec<f32>,
    /// None: the embedding serves.
    pub(crate) output: Option<M>,
    /// Divide each pair's angle, in short sequences if there are others for long ones.
    pub(crate) rope_factors: Option<Vec<f32>>,
    /// The same in sequences of more tokens than [`RopeScaling::Factors`] says.
    pub(crate) rope_factors_long: Option<Vec<f32>>,
}

/// A block's.
pub(crate) struct Block<M> {
    pub(crate) attention_norm: Vec<f32>,
    pub(crate) query: Projection<M>,
    pub(crate) key: Projection<M>,
    pub(crate) value: Projection<M>,
    pub(crate) output: M,
    /// Norms of a head's query and key.
    pub(crate) head_norms: Option<(Vec<f32>, Vec<f32>)>,
    pub(crate) attention_post_norm: Option<Vec<f32>>,
    pub(crate) feed_forward_norm: Vec<f32>,
    pub(crate) feed_forward: FeedForward<M>,
    pub(crate) feed_forward_post_norm: Option<Vec<f32>>,
}

/// A matrix and what is added to its products.
pub(crate) struct Projection<M> {
    pub(crate) matrix: M,
    pub(crate) bias: Option<Vec<f32>>,
}

/// The other half of a block.
pub(crate) enum FeedForward<M> {
    /// One.
    Dense(Gated<M>),
    /// Several, and the matrix that scores them.
    Experts { router: M, experts: Vec<Gated<M>> },
}

/// `down(activation(gate(x)) · up(x))`.
pub(crate) struct Gated<M> {
    pub(crate) gate: M,
    pub(crate) up: M,
    pub(crate) down: M,
}

impl<M: Matrix> DecoderWeights<M> {
    /// Loads everything; a tensor that is left over is refused, since it would change what the model computes.
    ///
    /// # Errors
    /// [`WeightError`] naming a tensor that is missing, misshapen or not part of the architecture.
    pub(crate) fn load(
        config: &DecoderConfig,
        maker: &M::Maker,
        loader: &mut Loader<'_>,
    ) -> Result<Self, WeightError> {
        let mut source = Source { maker, loader };
        let (rows, width) = (config.vocabulary, config.width);
        let embedding = source.matrix("token_embd.weight", rows, width)?;
        let output = match source.loader.has("output.weight") {
            true => Some(source.matrix("output.weight", rows, width)?),
            false => None,
        };
        let pairs = config.rope.dimensions / 2;
        let by_context = matches!(config.rope.scaling, RopeScaling::Factors { .. });
        let [rope_factors, rope_factors_long] = match by_context {
            true => [
                Some(source.floats("rope_factors_short.weight", pairs)?),
                Some(source.floats("rope_factors_long.weight", pairs)?),
            ],
            false => [
                source.optional_floats(config.parts.rope_factors, "rope_freqs.weight", pairs)?,
                None,
            ],
        };
        let blocks = (0..config.layers).map(|layer| Block::load(config, &mut source, layer));
        let blocks = blocks.collect::<Result<_, _>>()?;
        let norm = source.floats("output_norm.weight", width)?;
        loader.finish()?;
        Ok(Self {
            embedding,
            blocks,
            norm,
            output,
            rope_factors,
            rope_factors_long,
        })
    }
}

struct Source<'a, 'b, M: Matrix> {
    maker: &'a M::Maker,
    loader: &'a mut Loader<'b>,
}

impl<M: Matrix> Source<'_, '_, M> {
    fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<M, WeightError> {
        let whole = 0..rows;
        let mut made = self.parts(name, &[rows, columns], std::slice::from_ref(&whole))?;
        made.pop()
            .ok_or_else(|| WeightError::Missing(name.to_owned()))
    }

    /// Cuts a tensor of whole rows into matrices.
    fn parts(
        &mut self,
        name: &str,
        shape: &[usize],
        parts: &[Range<usize>],
    ) -> Result<Vec<M>, WeightError> {
        let maker = self.maker;
        self.loader.take(name, shape, |all| {
            let make = |rows: &Range<usize>| {
                if !M::fits(all.kind(), rows.len(), all.columns()) {
                    return Err(all.error(format!("{:?} is not for this executor", all.kind())));
                }
                let short = || all.error("it is shorter than its shape".to_owned());
                M::make(maker, &all.part(rows).ok_or_else(short)?)
            };
            parts.iter().map(make).collect()
        })
    }

    fn floats(&mut self, name: &str, len: usize) -> Result<Vec<f32>, WeightError> {
        self.loader.floats(name, len)
    }

    fn optional_floats(
        &mut self,
        wanted: bool,
        name: &str,
        len: usize,
    ) -> Result<Option<Vec<f32>>, WeightError> {
        wanted.then(|| self.floats(name, len)).transpose()
    }
}

impl<M: Matrix> Block<M> {
    fn load(
        config: &DecoderConfig,
        source: &mut Source<'_, '_, M>,
        layer: usize,
    ) -> Result<Self, WeightError> {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let (width, parts) = (config.width, config.parts);
        let (queries, keys) = (config.query_width(), config.key_value_width());
        let [query, key, value] = if parts.fused_attention {
            let all = queries + 2 * keys;
            let rows = [0..queries, queries..queries + keys, queries + keys..all];
            let cut = source.parts(&name("attn_qkv.weight"), &[all, width], &rows)?;
            <[M; 3]>::try_from(cut).map_err(|_| WeightError::Missing(name("attn_qkv.weight")))?
        } else {
            [
                source.matrix(&name("attn_q.weight"), queries, width)?,
                source.matrix(&name("attn_k.weight"), keys, width)?,
                source.matrix(&name("attn_v.weight"), keys, width)?,
            ]
        };
        let mut bias = |part: &str, len| source.optional_floats(parts.biases, &name(part), len);
        let query = Projection {
            matrix: query,
            bias: bias("attn_q.bias", queries)?,
        };
        let key = Projection {
            matrix: key,
            bias: bias("attn_k.bias", keys)?,
        };
        let value = Projection {
            matrix: value,
            bias: bias("attn_v.bias", keys)?,
        };
        let head_norms = match parts.head_norms {
            true => Some((
                source.floats(&name("attn_q_norm.weight"), config.head_width)?,
                source.floats(&name("attn_k_norm.weight"), config.head_width)?,
            )),
            false => None,
        };
        let post = parts.post_norms;
        Ok(Self {
            attention_norm: source.floats(&name("attn_norm.weight"), width)?,
            query,
            key,
            value,
            output: source.matrix(&name("attn_output.weight"), width, queries)?,
            head_norms,
            attention_post_norm: source.optional_floats(
                post,
                &name("post_attention_norm.weight"),
                width,
            )?,
            feed_forward_norm: source.floats(&name("ffn_norm.weight"), width)?,
            feed_forward: FeedForward::load(config, source, layer)?,
            feed_forward_post_norm: source.optional_floats(
                post,
                &name("post_ffw_norm.weight"),
                width,
            )?,
        })
    }
}

impl<M: Matrix> FeedForward<M> {
    fn load(
        config: &DecoderConfig,
        source: &mut Source<'_, '_, M>,
        layer: usize,
    ) -> Result<Self, WeightError> {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        let (width, wide) = (config.width, config.feed_forward.width);
        if let Some(Experts { count, .. }) = config.feed_forward.experts {
            let router = source.matrix(&name("ffn_gate_inp"), count, width)?;
            let mut all = |part: &str, rows: usize, columns: usize| {
                let cut: Vec<_> = (0..count).map(|at| at * rows..(at + 1) * rows).collect();
                source.parts(&name(part), &[count, rows, columns], &cut)
            };
            let gates = all("ffn_gate_exps", wide, width)?;
            let ups = all("ffn_up_exps", wide, width)?;
            let downs = all("ffn_down_exps", width, wide)?;
            let experts = gates.into_iter().zip(ups).zip(downs);
            let experts = experts.map(|((gate, up), down)| Gated { gate, up, down });
            return Ok(Self::Experts {
                router,
                experts: experts.collect(),
            });
        }
        let (gate, up) = if config.parts.fused_gate {
            let rows = [0..wide, wide..2 * wide];
            let cut = source.parts(&name("ffn_up"), &[2 * wide, width], &rows)?;
            let [gate, up] =
                <[M; 2]>::try_from(cut).map_err(|_| WeightError::Missing(name("ffn_up")))?;
            (gate, up)
        } else {
            (
                source.matrix(&name("ffn_gate"), wide, width)?,
                source.matrix(&name("ffn_up"), wide, width)?,
            )
        };
        let down = source.matrix(&name("ffn_down"), width, wide)?;
        Ok(Self::Dense(Gated { gate, up, down }))
    }
}
