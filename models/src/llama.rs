//! The llama family (llama 1 to 3, mistral, and what is converted as `llama`): its configuration from metadata, and how
//! it is put together from [`crate::layers`].

use candle_core::{Device, Result as TensorResult, Tensor};

use crate::decoder::config::{
    Activation, DecoderConfig, FeedForwardConfig, Parts, RopeConfig, RopePairs, RopeScaling,
};
use crate::gguf::{GgufError, GgufHeader};
use crate::layers::{Attention, FeedForward, LayerCache, Linear, RmsNorm, Rope, Span};
use crate::weights::{Loader, WeightError};

/// Why a model is not one that this version can run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchitectureError {
    /// A key has another type.
    #[error(transparent)]
    Header(#[from] GgufError),
    /// Another architecture.
    #[error("architecture {0:?} is not supported; supported is llama")]
    Unsupported(String),
    /// A variant of the architecture that would compute something else.
    #[error("the model uses {0}, which is not supported")]
    UnsupportedVariant(String),
    /// A key that must be there.
    #[error("the model's metadata lacks {0}")]
    Missing(String),
    /// Numbers that do not fit together.
    #[error("the model's metadata is inconsistent: {0}")]
    Inconsistent(&'static str),
}

/// Sizes and constants of a llama model. All counts are at least one and bounded, and the heads divide evenly.
#[derive(Debug, Clone, PartialEq)]
pub struct LlamaConfig {
    pub(crate) layers: usize,
    pub(crate) width: usize,
    pub(crate) feed_forward: usize,
    pub(crate) heads: usize,
    pub(crate) key_value_heads: usize,
    pub(crate) head_width: usize,
    pub(crate) vocabulary: usize,
    pub(crate) context: usize,
    norm_epsilon: f32,
    rope_dimensions: usize,
    rope_base: f64,
    rope_scale: f64,
}

/// Bounds of what metadata may claim: well above every published model of the family.
const LAYERS_MAX: u64 = 1_024;
const WIDTH_MAX: u64 = 1 << 17;
const CONTEXT_MAX: u64 = 1 << 24;

impl LlamaConfig {
    /// Reads and checks the metadata.
    ///
    /// # Errors
    /// [`ArchitectureError`], naming the key or the variant.
    pub fn from_header(header: &GgufHeader) -> Result<Self, ArchitectureError> {
        let architecture = header.text("general.architecture")?.unwrap_or_default();
        if architecture != "llama" {
            return Err(ArchitectureError::Unsupported(architecture.to_owned()));
        }
        let optional = |key: &str, max: u64| match header.unsigned(&format!("llama.{key}"))? {
            Some(0) => Err(ArchitectureError::Inconsistent("a size is zero")),
            Some(found) if found > max => {
                Err(ArchitectureError::Inconsistent("a size is too large"))
            }
            found => Ok(found.map(|found| found as usize)),
        };
        let required = |key: &str, max: u64| {
            optional(key, max)?.ok_or_else(|| ArchitectureError::Missing(format!("llama.{key}")))
        };
        let width = required("embedding_length", WIDTH_MAX)?;
        let heads = required("attention.head_count", WIDTH_MAX)?;
        let head_width = optional("attention.key_length", WIDTH_MAX)?.unwrap_or(width / heads);
        let tensors = header.tensors();
        let embedding = header
            .tensor_index("token_embd.weight")
            .and_then(|index| tensors.get(index));
        let embedding = embedding.ok_or(ArchitectureError::Missing("token_embd.weight".into()))?;
        let window = optional("attention.sliding_window", CONTEXT_MAX)?.unwrap_or(usize::MAX);
        let config = Self {
            layers: required("block_count", LAYERS_MAX)?,
            width,
            feed_forward: required("feed_forward_length", WIDTH_MAX * 8)?,
            heads,
            key_value_heads: optional("attention.head_count_kv", WIDTH_MAX)?.unwrap_or(heads),
            head_width,
            vocabulary: embedding.shape().first().copied().unwrap_or_default(),
            context: required("context_length", CONTEXT_MAX)?.min(window),
            norm_epsilon: norm_epsilon(header)?,
            rope_dimensions: optional("rope.dimension_count", WIDTH_MAX)?.unwrap_or(head_width),
            rope_base: header.float("llama.rope.freq_base")?.unwrap_or(10_000.0),
            rope_scale: rope_scale(header)?,
        };
        config.check(optional("attention.value_length", WIDTH_MAX)?)?;
        if optional("expert_count", WIDTH_MAX).ok().flatten().is_some() {
            return Err(ArchitectureError::UnsupportedVariant(
                "a mixture of experts".into(),
            ));
        }
        Ok(config)
    }

    fn check(&self, value_width: Option<usize>) -> Result<(), ArchitectureError> {
        let rules = [
            (self.head_width > 0, "heads are narrower than one column"),
            (
                self.heads.is_multiple_of(self.key_value_heads),
                "key-value heads do not divide heads",
            ),
            (
                value_width.is_none_or(|width| width == self.head_width),
                "keys and values differ in width",
            ),
            (
                self.rope_dimensions.is_multiple_of(2) && self.rope_dimensions <= self.head_width,
                "the rotated columns are odd or more than a head has",
            ),
            (
                self.heads * self.head_width <= WIDTH_MAX as usize * 8,
                "the heads together are too wide",
            ),
            (
                self.rope_base.is_finite() && self.rope_base > 0.0,
                "the rotation's base is not positive",
            ),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, broken)) => Err(ArchitectureError::Inconsistent(broken)),
            None => Ok(()),
        }
    }

    /// The same, as every family says it.
    pub(crate) fn decoder(&self) -> DecoderConfig {
        DecoderConfig {
            layers: self.layers,
            width: self.width,
            heads: self.heads,
            key_value_heads: self.key_value_heads,
            head_width: self.head_width,
            vocabulary: self.vocabulary,
            context: self.context,
            norm_epsilon: self.norm_epsilon,
            embedding_scale: 1.0,
            score_scale: 1.0 / (self.head_width as f32).sqrt(),
            score_cap: None,
            logit_cap: None,
            rope: RopeConfig {
                dimensions: self.rope_dimensions,
                base: self.rope_base,
                pairs: RopePairs::Neighbours,
                scaling: match self.rope_scale {
                    1.0 => RopeScaling::None,
                    scale => RopeScaling::Linear(scale),
                },
            },
            window: None,
            feed_forward: FeedForwardConfig {
                width: self.feed_forward,
                activation: Activation::Silu,
                experts: None,
            },
            parts: Parts::default(),
        }
    }

    /// Bytes of keys and values that one token needs.
    pub fn cache_bytes_per_token(&self) -> u64 {
        (self.layers * self.key_value_heads * self.head_width * 2 * size_of::<f32>()) as u64
    }
}

fn norm_epsilon(header: &GgufHeader) -> Result<f32, ArchitectureError> {
    const KEY: &str = "llama.attention.layer_norm_rms_epsilon";
    let found = header
        .float(KEY)?
        .ok_or_else(|| ArchitectureError::Missing(KEY.to_owned()))?;
    Some(found as f32)
        .filter(|epsilon| *epsilon > 0.0 && *epsilon < 1.0)
        .ok_or(ArchitectureError::Inconsistent(
            "the norm's epsilon is not between 0 and 1",
        ))
}

fn rope_scale(header: &GgufHeader) -> Result<f64, ArchitectureError> {
    let factor = header.float("llama.rope.scaling.factor")?.unwrap_or(1.0);
    match header.text("llama.rope.scaling.type")?.unwrap_or("none") {
        "none" => Ok(1.0),
        "linear" if factor.is_finite() && factor > 0.0 => Ok(1.0 / factor),
        other => Err(ArchitectureError::UnsupportedVariant(format!(
            "rope scaling {other:?}"
        ))),
    }
}

/// A llama model's weights.
pub struct Llama {
    config: LlamaConfig,
    embedding: Linear,
    blocks: Vec<Block>,
    norm: RmsNorm,
    output: Linear,
    rope: Rope,
    device: Device,
}

struct Block {
    attention_norm: RmsNorm,
    attention: Attention,
    feed_forward_norm: RmsNorm,
    feed_forward: FeedForward,
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

impl Llama {
    /// Loads the weights.
    ///
    /// # Errors
    /// [`WeightError`] naming a tensor that is missing, misshapen or not part of the architecture.
    pub(crate) fn load(config: LlamaConfig, loader: &mut Loader<'_>) -> Result<Self, WeightError> {
        let shape = [config.vocabulary, config.width];
        let embedding = loader.linear("token_embd.weight", &shape)?;
        let output = match loader.has("output.weight") {
            true => loader.linear("output.weight", &shape)?,
            false => embedding.clone(),
        };
        let factors = match loader.has("rope_freqs.weight") {
            true => Some(loader.floats("rope_freqs.weight", config.rope_dimensions / 2)?),
            false => None,
        };
        let rope = Rope::new(
            config.rope_dimensions,
            config.rope_base,
            config.rope_scale,
            factors.as_deref(),
        );
        let blocks = (0..config.layers).map(|layer| Block::load(&config, loader, layer));
        let blocks = blocks.collect::<Result<Vec<_>, _>>()?;
        let norm = loader.norm("output_norm.weight", config.width, config.norm_epsilon)?;
        loader.finish()?;
        let device = loader.device().clone();
        Ok(Self {
            config,
            embedding,
            blocks,
            norm,
            output,
            rope,
            device,
        })
    }

    /// Its sizes.
    pub fn config(&self) -> &LlamaConfig {
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
        if batch
            .iter()
            .any(|rows| rows.cache.len + rows.tokens.len() > rows.cache.capacity)
        {
            candle_core::bail!("a sequence outgrows its cache");
        }
        let tokens: Vec<u32> = batch.iter().flat_map(|rows| rows.tokens).copied().collect();
        if tokens.is_empty()
            || tokens
                .iter()
                .any(|id| *id as usize >= self.config.vocabulary)
        {
            candle_core::bail!("a batch is empty or has a token outside the vocabulary");
        }
        let positions = batch
            .iter()
            .flat_map(|rows| rows.cache.len..rows.cache.len + rows.tokens.len());
        let rotation = self.rope.at(&positions.collect::<Vec<_>>(), &self.device);
        let mut x = self.embedding.rows(&Tensor::new(tokens, &self.device)?)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            let spans = batch.iter().map(|rows| rows.span(layer));
            let spans = spans.collect::<TensorResult<Vec<_>>>()?;
            let attended =
                block
                    .attention
                    .forward(&block.attention_norm.forward(&x)?, &rotation, &spans)?;
            x = (x + attended)?;
            x = (&x
                + block
                    .feed_forward
                    .forward(&block.feed_forward_norm.forward(&x)?)?)?;
        }
        let logits = self.logits(&x, batch)?;
        for rows in batch {
            rows.cache.len += rows.tokens.len();
        }
        Ok(logits)
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
        self.output
            .forward(&self.norm.forward(&x)?)?
            .to_vec2::<f32>()
    }
}

impl Block {
    fn load(
        config: &LlamaConfig,
        loader: &mut Loader<'_>,
        layer: usize,
    ) -> Result<Self, WeightError> {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        let (width, wide) = (config.width, config.feed_forward);
        let queries = config.heads * config.head_width;
        let keys = config.key_value_heads * config.head_width;
        Ok(Self {
            attention_norm: loader.norm(&name("attn_norm"), width, config.norm_epsilon)?,
            attention: Attention {
                query: loader.linear(&name("attn_q"), &[queries, width])?,
                key: loader.linear(&name("attn_k"), &[keys, width])?,
                value: loader.linear(&name("attn_v"), &[keys, width])?,
                output: loader.linear(&name("attn_output"), &[width, queries])?,
                heads: config.heads,
                key_value_heads: config.key_value_heads,
            },
            feed_forward_norm: loader.norm(&name("ffn_norm"), width, config.norm_epsilon)?,
            feed_forward: FeedForward {
                gate: loader.linear(&name("ffn_gate"), &[wide, width])?,
                up: loader.linear(&name("ffn_up"), &[wide, width])?,
                down: loader.linear(&name("ffn_down"), &[width, wide])?,
            },
        })
    }
}
