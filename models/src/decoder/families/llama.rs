//! Llama 1 to 3, Mistral, Mixtral, and whatever else is converted as `llama`.

use super::metadata::Metadata;
use super::rope::{Factors, RopeRules};
use crate::decoder::config::{FeedForwardConfig, RopePairs, RopeScaling};
use crate::decoder::{ArchitectureError, DecoderConfig};

const ROPE: RopeRules = RopeRules {
    pairs: RopePairs::Neighbours,
    factors: Factors::WhenSaid,
    yarn_constants: false,
};

pub(super) fn config(metadata: &Metadata<'_>) -> Result<DecoderConfig, ArchitectureError> {
    with_rope(metadata, &ROPE)
}

pub(super) fn with_rope(
    metadata: &Metadata<'_>,
    rules: &RopeRules,
) -> Result<DecoderConfig, ArchitectureError> {
    let feed_forward = FeedForwardConfig {
        experts: metadata.experts()?,
        ..metadata.feed_forward()?
    };
    let rope = metadata.rope(rules)?;
    let by_context = matches!(rope.scaling, RopeScaling::Factors { .. });
    let mut config = metadata.config(rope, feed_forward)?;
    config.parts.rope_factors = !by_context && metadata.has_tensor("rope_freqs.weight");
    config.window = metadata.window()?;
    Ok(config)
}
