//! What a decoder is made of, as plain numbers: every family's metadata ends here, and both executors start here.

use super::ArchitectureError;

/// Columns of all heads together: eight times the widest model known.
const WIDTH_MAX: usize = 1 << 20;

/// Sizes and constants of a decoder. All counts are at least one and bounded; heads divide evenly.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    /// Blocks.
    pub(crate) layers: usize,
    /// Columns of the residual stream.
    pub(crate) width: usize,
    /// Heads of the queries.
    pub(crate) heads: usize,
    /// Heads of keys and values.
    pub(crate) key_value_heads: usize,
    /// Columns of a head.
    pub(crate) head_width: usize,
    /// Tokens that there are.
    pub(crate) vocabulary: usize,
    /// Tokens that it was made for, prompt and answer together.
    pub(crate) context: usize,
    /// Added to the mean square in norms.
    pub(crate) norm_epsilon: f32,
    /// Multiplies embeddings.
    pub(crate) embedding_scale: f32,
    /// Multiplies the products of queries and keys.
    pub(crate) score_scale: f32,
    /// Bends scores: `cap · tanh(score / cap)`.
    pub(crate) score_cap: Option<f32>,
    /// Bends logits in the same way.
    pub(crate) logit_cap: Option<f32>,
    /// Queries that grow with their position.
    pub(crate) query_growth: Option<QueryGrowth>,
    /// Rotation of queries and keys.
    pub(crate) rope: RopeConfig,
    /// Layers that see only the last tokens.
    pub(crate) window: Option<Window>,
    /// The other half of a block.
    pub(crate) feed_forward: FeedForwardConfig,
    /// What blocks have beside the usual.
    pub(crate) parts: Parts,
}

/// Queries at a position are multiplied by `1 + scale · ln(1 + floor(position / every))`.
#[derive(Debug, Clone, PartialEq)]
pub struct QueryGrowth {
    /// How much they grow.
    pub(crate) scale: f32,
    /// Tokens between two steps.
    pub(crate) every: usize,
}

impl QueryGrowth {
    /// What queries at `position` are multiplied by.
    pub(crate) fn factor(&self, position: usize) -> f32 {
        1.0 + self.scale * (1.0 + (position / self.every) as f32).ln()
    }
}

/// Rotary position embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// Columns that are rotated, from the first on.
    pub(crate) dimensions: usize,
    /// The frequencies' base.
    pub(crate) base: f64,
    /// Which columns turn together.
    pub(crate) pairs: RopePairs,
    /// How positions beyond the training length are squeezed.
    pub(crate) scaling: RopeScaling,
}

/// Which columns turn together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopePairs {
    /// Neighbours: 0 and 1, 2 and 3 (ggml's NORM).
    Neighbours,
    /// One of the first half with one of the second (ggml's NEOX).
    Halves,
}

/// How rotation angles are changed.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all. [`Parts::rope_factors`] still hold.
    None,
    /// Positions are multiplied.
    Linear(f64),
    /// YaRN (arXiv:2309.00071) as llama.cpp has it.
    Yarn {
        /// Positions are multiplied by this where frequencies are low.
        scale: f64,
        /// Tokens that the model was first trained for.
        original_context: usize,
        /// Where the ramp between the two begins and ends.
        beta_fast: f32,
        /// Its other end.
        beta_slow: f32,
        /// Multiplies cosines and sines.
        attention_factor: f32,
    },
    /// Factors per pair from two tensors: `rope_factors_short.weight` divides the angles of sequences that may have up to
    /// `original_context` tokens, `rope_factors_long.weight` those of longer ones.
    Factors {
        /// Positions are multiplied.
        scale: f64,
        /// Where short ends.
        original_context: usize,
        /// Multiplies cosines and sines.
        attention_factor: f32,
    },
}

/// Layers that see only the last tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    /// How many, the token itself included.
    pub(crate) tokens: usize,
    /// Every so-manieth layer sees all: layer `i` does when `i + 1` is a multiple. `None`: no layer does.
    pub(crate) full_every: Option<usize>,
    /// Rotation in layers with a window, if it is another.
    pub(crate) rope: Option<RopeConfig>,
}

/// The other half of a block.
#[derive(Debug, Clone, PartialEq)]
pub struct FeedForwardConfig {
    /// Columns of its wide side; of one expert's, where there are experts.
    pub(crate) width: usize,
    /// What is applied to its gate.
    pub(crate) activation: Activation,
    /// Several of them, of which a router picks some for each token.
    pub(crate) experts: Option<Experts>,
}

/// What is applied to a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + e^-x)`.
    Silu,
    /// The approximation of GELU with the hyperbolic tangent.
    Gelu,
}

/// A mixture of experts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Experts {
    /// How many there are.
    pub(crate) count: usize,
    /// How many a token goes through.
    pub(crate) used: usize,
    /// Whether the weights of the chosen ones are made to add up to one.
    pub(crate) normalised: bool,
}

/// What blocks have beside the usual, and where tensors are put together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Parts {
    /// Biases of queries, keys and values.
    pub(crate) biases: bool,
    /// Norms of each head's queries and keys before rotation.
    pub(crate) head_norms: bool,
    /// Norms after attention and after the feed-forward part, before they are added.
    pub(crate) post_norms: bool,
    /// One tensor `attn_qkv` for queries, keys and values, in this order.
    pub(crate) fused_attention: bool,
    /// One tensor `ffn_up` for gate and up, in this order.
    pub(crate) fused_gate: bool,
    /// A tensor `rope_freqs.weight` that divides each pair's angle.
    pub(crate) rope_factors: bool,
}

impl DecoderConfig {
    /// The window of a layer, if it has one.
    pub(crate) fn window_of(&self, layer: usize) -> Option<&Window> {
        self.window.as_ref().filter(|window| {
            window
                .full_every
                .is_none_or(|every| !(layer + 1).is_multiple_of(every))
        })
    }

    /// How many tokens a layer sees, the newest included.
    pub(crate) fn sight(&self, layer: usize) -> usize {
        self.window_of(layer)
            .map_or(usize::MAX, |window| window.tokens)
    }

    /// The rotation of a layer.
    pub(crate) fn rope_of(&self, layer: usize) -> &RopeConfig {
        let own = self
            .window_of(layer)
            .and_then(|window| window.rope.as_ref());
        own.unwrap_or(&self.rope)
    }

    /// Columns of all queries of a token.
    pub(crate) fn query_width(&self) -> usize {
        self.heads * self.head_width
    }

    /// Columns of all keys of a token, and of all values.
    pub(crate) fn key_value_width(&self) -> usize {
        self.key_value_heads * self.head_width
    }

    /// Bytes of keys and values that one token needs, as 32-bit floats.
    pub fn cache_bytes_per_token(&self) -> u64 {
        (self.layers * self.key_value_width() * 2 * size_of::<f32>()) as u64
    }

    /// Tokens that it was made for, prompt and answer together.
    pub fn context_length(&self) -> usize {
        self.context
    }

    /// Refuses numbers that do not fit together.
    pub(super) fn check(&self) -> Result<(), ArchitectureError> {
        let sizes = [
            (
                self.vocabulary > 0 && self.head_width > 0,
                "there are no tokens, or heads without columns",
            ),
            (
                self.heads.is_multiple_of(self.key_value_heads),
                "key-value heads do not divide heads",
            ),
            (
                self.query_width() <= WIDTH_MAX,
                "the heads together are too wide",
            ),
            (self.feed_forward.width > 0, "the experts share no column"),
        ];
        let ropes = [
            Some(&self.rope),
            self.window.as_ref().and_then(|window| window.rope.as_ref()),
        ];
        let ropes = ropes
            .into_iter()
            .flatten()
            .flat_map(|rope| rope.rules(self.head_width));
        match sizes.into_iter().chain(ropes).find(|(holds, _)| !holds) {
            Some((_, broken)) => Err(ArchitectureError::Inconsistent(broken.to_owned())),
            None => Ok(()),
        }
    }
}

impl RopeConfig {
    fn rules(&self, head_width: usize) -> [(bool, &'static str); 3] {
        let (magnitude, base_min) = match self.scaling {
            RopeScaling::None | RopeScaling::Linear(_) => (1.0, 0.0),
            // The ramp divides by the base's logarithm.
            RopeScaling::Yarn {
                attention_factor, ..
            } => (attention_factor, 1.0),
            RopeScaling::Factors {
                attention_factor, ..
            } => (attention_factor, 0.0),
        };
        [
            (
                self.dimensions.is_multiple_of(2) && self.dimensions <= head_width,
                "the rotated columns are odd or more than a head has",
            ),
            (
                self.base.is_finite() && self.base > base_min,
                "the rotation's base is not positive",
            ),
            (
                magnitude.is_finite() && magnitude > 0.0,
                "the rotation's attention factor is not positive",
            ),
        ]
    }
}
