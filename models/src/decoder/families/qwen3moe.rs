//! Qwen 3 with a mixture of experts in every block.

use super::metadata::{Metadata, WIDTH_MAX};
use super::qwen3;
use crate::decoder::config::{Activation, FeedForwardConfig};
use crate::decoder::{ArchitectureError, DecoderConfig};

pub(super) fn config(metadata: &Metadata<'_>) -> Result<DecoderConfig, ArchitectureError> {
    let experts = metadata.experts()?;
    let experts = experts.ok_or_else(|| metadata.missing("expert_count"))?;
    let width = match metadata.size_unless_zero("expert_feed_forward_length", WIDTH_MAX * 8)? {
        Some(width) => width,
        None => metadata.feed_forward()?.width / experts.used,
    };
    let feed_forward = FeedForwardConfig {
        width,
        activation: Activation::Silu,
        experts: Some(experts),
    };
    qwen3::with(metadata, feed_forward)
}
