//! Phi 3, 3.5 and 4: llama's blocks with fused tensors, rotated in halves, with factors for short and long contexts.

use super::metadata::Metadata;
use super::rope::{Factors, RopeRules};
use crate::decoder::config::RopePairs;
use crate::decoder::{ArchitectureError, DecoderConfig};

const ROPE: RopeRules = RopeRules {
    pairs: RopePairs::Halves,
    factors: Factors::WhenThere,
    yarn_constants: false,
};

pub(super) fn config(metadata: &Metadata<'_>) -> Result<DecoderConfig, ArchitectureError> {
    let mut config = metadata.config(metadata.rope(&ROPE)?, metadata.feed_forward()?)?;
    config.window = metadata.window()?;
    config.parts.fused_gate = true;
    Ok(config)
}
