//! What a decoder is made of, as plain numbers: every family's metadata ends here, and both executors start here.

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
    /// Rotation of queries and keys.
    pub(crate) rope: RopeConfig,
    /// Layers that see only the last tokens.
    pub(crate) window: Option<Window>,
    /// The other half of a block.
    pub(crate) feed_forward: FeedForwardConfig,
    /// What blocks have beside the usual.
    pub(crate) parts: Parts,
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
    /// Not at all. Factors in the tensor `rope_freqs.weight` still hold.
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
    /// Factors per pair from tensors (phi3's long and short rope), and what multiplies cosines and sines.
    Factors {
        /// Up to `original_context` tokens of context.
        short: Vec<f32>,
        /// Beyond.
        long: Vec<f32>,
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
}
