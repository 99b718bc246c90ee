//! Gemma 3: norms before and after each half of a block, GELU, a window in five of six layers with a rotation of its own.
//! Norms are converted with their 1 added.

use super::metadata::{CONTEXT_MAX, Metadata};
use super::rope::{Factors, RopeRules};
use crate::decoder::ArchitectureError;
use crate::decoder::config::{
    Activation, DecoderConfig, FeedForwardConfig, RopeConfig, RopePairs, RopeScaling, Window,
};

const ROPE: RopeRules = RopeRules {
    pairs: RopePairs::Halves,
    factors: Factors::Never,
    yarn_constants: false,
};
/// Every so-manieth layer sees everything.
const FULL_EVERY: usize = 6;
/// Only the model of 27B has so many, and it scales scores by its width and not by that of a head.
const LAYERS_OF_27B: usize = 62;

pub(super) fn config(metadata: &Metadata<'_>) -> Result<DecoderConfig, ArchitectureError> {
    let feed_forward = FeedForwardConfig {
        activation: Activation::Gelu,
        ..metadata.feed_forward()?
    };
    let rope = metadata.rope(&ROPE)?;
    let window = window(metadata, &rope)?;
    let mut config = metadata.config(rope, feed_forward)?;
    config.window = window;
    config.embedding_scale = (config.width as f32).sqrt();
    if config.layers == LAYERS_OF_27B {
        config.score_scale = 1.0 / ((config.width / config.heads) as f32).sqrt();
    }
    config.score_cap = metadata.positive_unless_zero("attn_logit_softcapping")?;
    config.logit_cap = metadata.positive_unless_zero("final_logit_softcapping")?;
    config.parts.head_norms = true;
    config.parts.post_norms = true;
    Ok(config)
}

fn window(metadata: &Metadata<'_>, rope: &RopeConfig) -> Result<Option<Window>, ArchitectureError> {
    let Some(tokens) = metadata.size_unless_zero("attention.sliding_window", CONTEXT_MAX)? else {
        return Ok(None);
    };
    let full_every = metadata.full_every(FULL_EVERY)?;
    let base = metadata.positive("rope.freq_base_swa")?.unwrap_or(10_000.0);
    let own = RopeConfig {
        base: f64::from(base),
        scaling: RopeScaling::None,
        ..rope.clone()
    };
    // With a window nothing is squeezed; what YaRN multiplies on top of its usual factor would be.
    let factor = metadata.positive("rope.scaling.attn_factor")?;
    match factor.filter(|factor| *factor != 1.0) {
        Some(factor) => Err(metadata.variant("rope.scaling.attn_factor", &factor.to_string())),
        None => Ok(Some(Window {
            tokens,
            full_every,
            rope: Some(own),
        })),
    }
}
