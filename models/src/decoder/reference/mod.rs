//! The executor on candle's tensors, for every device: what each decoder computes, in ggml's order on processors. It is
//! what faster executors are compared with.

mod attention;
mod feed_forward;
mod rotation;

use candle_core::{Device, Result as TensorResult, Tensor};

use crate::engine::EngineLimits;
use crate::gguf::TensorType;
use crate::layers::{Linear, RmsNorm};
use crate::weights::{Loader, Rows as TensorRows, WeightError};

use super::config::DecoderConfig;
use super::weights::{self, DecoderWeights, Matrix};
use attention::{Attention, LayerCache, Span};
use feed_forward::FeedForward;
pub(crate) use feed_forward::route;
use rotation::Rotations;

impl Matrix for Linear {
    type Maker = Device;

    fn fits(_: TensorType, _: usize, _: usize) -> bool {
        true
    }

    fn make(device: &Device, rows: &TensorRows<'_>) -> Result<Self, WeightError> {
        let shape = (rows.rows(), rows.columns());
        rows.with_bytes(|bytes| {
            let made = Self::from_bytes(device, rows.kind(), shape, bytes);
            made.map_err(|error| error.to_string())
        })
    }
}

/// A decoder's weights.
pub struct Decoder {
    config: DecoderConfig,
    embedding: Linear,
    blocks: Vec<Block>,
    norm: RmsNorm,
    output: Linear,
    rotations: Rotations,
    device: Device,
}

struct Block {
    attention_norm: RmsNorm,
    attention: Attention,
    attention_post_norm: Option<RmsNorm>,
    feed_forward_norm: RmsNorm,
    feed_forward: FeedForward,
    feed_forward_post_norm: Option<RmsNorm>,
}

/// Keys and values of one sequence, and how many tokens they are of.
pub struct Cache {
    layers: Vec<LayerCache>,
    len: usize,
    capacity: usize,
}

impl Cache {
    /// Tokens that went through the model.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Forgets what comes after the first `len` tokens.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Whether no token did.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Tokens of one sequence that go through the model next.
pub struct Rows<'a> {
    /// What is appended to the sequence.
    pub tokens: &'a [u32],
    /// The sequence.
    pub cache: &'a mut Cache,
    /// For which of the tokens logits are wanted.
    pub logits: WantedLogits,
}

impl Rows<'_> {
    fn span(&self, layer: usize) -> TensorResult<Span<'_>> {
        let cache = self.cache.layers.get(layer);
        let cache = cache.ok_or(candle_core::Error::Msg("a cache lacks a layer".into()))?;
        Ok(Span {
            cache,
            before: self.cache.len,
            rows: self.tokens.len(),
        })
    }
}

/// For which tokens logits are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WantedLogits {
    /// None: more of the prompt follows.
    None,
    /// The last one's: the next token is sampled from them.
    Last,
    /// All.
    All,
}

impl Decoder {
    /// Loads the weights. `limits` say how many tokens a sequence may have: where a model turns long sequences by other
    /// factors than short ones, that decides.
    ///
    /// # Errors
    /// [`WeightError`] naming a tensor that is missing, misshapen or not part of the architecture.
    pub(crate) fn load(
        config: DecoderConfig,
        limits: &EngineLimits,
        device: &Device,
        loader: &mut Loader<'_>,
    ) -> Result<Self, WeightError> {
        let weights = DecoderWeights::load(&config, device, loader)?;
        let capacity = config.context.min(limits.cache_tokens_max);
        let made = Self::from_weights(config, capacity, device, weights);
        made.map_err(|error| WeightError::Tensor {
            name: "token_embd.weight".to_owned(),
            reason: error.to_string(),
        })
    }

    fn from_weights(
        config: DecoderConfig,
        capacity: usize,
        device: &Device,
        weights: DecoderWeights<Linear>,
    ) -> TensorResult<Self> {
        let rotations = Rotations::new(&config, &weights, capacity);
        let blocks = weights.blocks.into_iter().enumerate();
        let blocks = blocks.map(|(layer, block)| Block::new(&config, device, layer, block));
        Ok(Self {
            blocks: blocks.collect::<TensorResult<_>>()?,
            norm: RmsNorm::new(weights.norm, config.norm_epsilon, device)?,
            output: weights.output.unwrap_or_else(|| weights.embedding.clone()),
            embedding: weights.embedding,
            rotations,
            device: device.clone(),
            config,
        })
    }

    /// Its sizes.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// An empty cache with room for `capacity` tokens.
    ///
    /// # Errors
    /// When the device refuses memory.
    pub fn cache(&self, capacity: usize) -> TensorResult<Cache> {
        let (heads, columns) = (self.config.key_value_heads, self.config.head_width);
        let layer = |_| LayerCache::new(heads, capacity, columns, &self.device);
        let layers = (0..self.config.layers)
            .map(layer)
            .collect::<TensorResult<Vec<_>>>()?;
        Ok(Cache {
            layers,
            len: 0,
            capacity,
        })
    }

    /// Takes all `batch` one step further; answers the logits that were wanted, in order. When it fails no cache has
    /// moved on.
    ///
    /// # Errors
    /// When a token is unknown, a cache is full or a tensor operation fails.
    pub fn forward(&self, batch: &mut [Rows<'_>]) -> TensorResult<Vec<Vec<f32>>> {
        let mut x = self.embed(batch)?;
        let rotations = self.rotations.at(batch, &self.device)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            let spans = batch.iter().map(|rows| rows.span(layer));
            let spans = spans.collect::<TensorResult<Vec<_>>>()?;
            let rotation = rotations.of(&self.config, layer);
            let attended = block.attention.forward(
                &block.attention_norm.forward(&x)?,
                rotation,
                rotations.growth(),
                &spans,
            )?;
            x = (x + normed(&block.attention_post_norm, attended)?)?;
            let fed = block
                .feed_forward
                .forward(&block.feed_forward_norm.forward(&x)?)?;
            x = (&x + normed(&block.feed_forward_post_norm, fed)?)?;
        }
        let logits = self.logits(&x, batch)?;
        for rows in batch {
            rows.cache.len += rows.tokens.len();
        }
        Ok(logits)
    }

    /// Checks a batch and looks its tokens up.
    fn embed(&self, batch: &[Rows<'_>]) -> TensorResult<Tensor> {
        if batch
            .iter()
            .any(|rows| rows.cache.len + rows.tokens.len() > rows.cache.capacity)
        {
            candle_core::bail!("a sequence outgrows its cache");
        }
        let tokens: Vec<u32> = batch.iter().flat_map(|rows| rows.tokens).copied().collect();
        let known = |id: &u32| (*id as usize) < self.config.vocabulary;
        if tokens.is_empty() || !tokens.iter().all(known) {
            candle_core::bail!("a batch is empty or has a token outside the vocabulary");
        }
        let x = self.embedding.rows(&Tensor::new(tokens, &self.device)?)?;
        match self.config.embedding_scale {
            1.0 => Ok(x),
            scale => x * f64::from(scale),
        }
    }

    fn logits(&self, x: &Tensor, batch: &[Rows<'_>]) -> TensorResult<Vec<Vec<f32>>> {
        let mut wanted = Vec::new();
        let mut end = 0_u32;
        for rows in batch {
            let start = end;
            end += rows.tokens.len() as u32;
            match rows.logits {
                WantedLogits::None => {}
                WantedLogits::Last => wanted.push(end - 1),
                WantedLogits::All => wanted.extend(start..end),
            }
        }
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let x = x.index_select(&Tensor::new(wanted, &self.device)?, 0)?;
        let logits = self.output.forward(&self.norm.forward(&x)?)?;
        match self.config.logit_cap {
            None => logits,
            Some(cap) => bend(&logits, cap)?,
        }
        .to_vec2::<f32>()
    }
}

impl Block {
    fn new(
        config: &DecoderConfig,
        device: &Device,
        layer: usize,
        block: weights::Block<Linear>,
    ) -> TensorResult<Self> {
        let norm = |factors| RmsNorm::new(factors, config.norm_epsilon, device);
        Ok(Self {
            attention_norm: norm(block.attention_norm)?,
            attention_post_norm: block.attention_post_norm.map(norm).transpose()?,
            feed_forward_norm: norm(block.feed_forward_norm)?,
            feed_forward: FeedForward::new(config, block.feed_forward),
            feed_forward_post_norm: block.feed_forward_post_norm.map(norm).transpose()?,
            attention: Attention {
                heads: config.heads,
                key_value_heads: config.key_value_heads,
                scale: config.score_scale,
                cap: config.score_cap,
                sight: config.sight(layer),
                query_norm: None,
                key_norm: None,
                query: attention::Projection::new(block.query, device)?,
                key: attention::Projection::new(block.key, device)?,
                value: attention::Projection::new(block.value, device)?,
                output: block.output,
            }
            .with_norms(block.head_norms, norm)?,
        })
    }
}

fn normed(norm: &Option<RmsNorm>, x: Tensor) -> TensorResult<Tensor> {
    match norm {
        Some(norm) => norm.forward(&x),
        None => Ok(x),
    }
}

/// `cap · tanh(x / cap)`.
fn bend(x: &Tensor, cap: f32) -> TensorResult<Tensor> {
    (x * (1.0 / f64::from(cap)))?.tanh()? * f64::from(cap)
}
