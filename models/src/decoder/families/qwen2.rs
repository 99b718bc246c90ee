//! Qwen 2 and 2.5: llama's blocks with biases, rotated in halves.

use super::metadata::Metadata;
use super::rope::{Factors, RopeRules};
use crate::decoder::config::{FeedForwardConfig, RopePairs};
use crate::decoder::{ArchitectureError, DecoderConfig};

const ROPE: RopeRules = RopeRules {
    pairs: RopePairs::Halves,
    factors: Factors::Never,
    yarn_constants: false,
};

pub(super) fn config(metadata: &Metadata<'_>) -> Result<DecoderConfig, ArchitectureError> {
    with(metadata, metadata.feed_forward()?)
}

pub(super) fn with(
    metadata: &Metadata<'_>,
    feed_forward: FeedForwardConfig,
) -> Result<DecoderConfig, ArchitectureError> {
    // Which layers have it is not in the file: the converter leaves a window out.
    if let Some(window) = metadata.window()? {
        return Err(metadata.variant("attention.sliding_window", &window.tokens.to_string()));
    }
    metadata.config(metadata.rope(&ROPE)?, feed_forward)
}
