//! Mistral 3 and Ministral 3: llama's, with YaRN's constants in the file and queries that grow with their position.

use super::llama;
use super::metadata::{CONTEXT_MAX, Metadata};
use super::rope::{Factors, RopeRules};
use crate::decoder::config::{QueryGrowth, RopePairs};
use crate::decoder::{ArchitectureError, DecoderConfig};

const ROPE: RopeRules = RopeRules {
    pairs: RopePairs::Neighbours,
    factors: Factors::WhenSaid,
    yarn_constants: true,
};

pub(super) fn config(metadata: &Metadata<'_>) -> Result<DecoderConfig, ArchitectureError> {
    let mut config = llama::with_rope(metadata, &ROPE)?;
    if let Some(scale) = metadata.positive_unless_zero("attention.temperature_scale")? {
        let every = metadata.size("rope.scaling.original_context_length", CONTEXT_MAX)?;
        config.query_growth = Some(QueryGrowth {
            scale,
            every: every.unwrap_or(config.context),
        });
    }
    Ok(config)
}
