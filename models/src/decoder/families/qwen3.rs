//! Qwen 3: Qwen 2's blocks with norms of each head's queries and keys.

use super::metadata::Metadata;
use super::qwen2;
use crate::decoder::config::FeedForwardConfig;
use crate::decoder::{ArchitectureError, DecoderConfig};

pub(super) fn config(metadata: &Metadata<'_>) -> Result<DecoderConfig, ArchitectureError> {
    with(metadata, metadata.feed_forward()?)
}

pub(super) fn with(
    metadata: &Metadata<'_>,
    feed_forward: FeedForwardConfig,
) -> Result<DecoderConfig, ArchitectureError> {
    let mut config = qwen2::with(metadata, feed_forward)?;
    config.parts.head_norms = true;
    Ok(config)
}
