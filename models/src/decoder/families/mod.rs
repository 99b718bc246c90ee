//! From a family's metadata to a [`DecoderConfig`]: keys, defaults and formulas are llama.cpp's.
//!
//! Two things are read more literally than there: a window that a llama, mistral or phi3 file states is kept (llama.cpp
//! lets those see everything), and what would change the result without being computed is refused by name.

mod gemma3;
mod llama;
mod metadata;
mod mistral3;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3moe;
mod rope;

use super::{ArchitectureError, DecoderConfig};
use crate::gguf::GgufHeader;
use metadata::Metadata;

type Read = fn(&Metadata<'_>) -> Result<DecoderConfig, ArchitectureError>;

/// What `general.architecture` may say. Mistral's and Mixtral's models are converted as `llama`, newer ones of Mistral
/// as `mistral3`.
const FAMILIES: [(&str, Read); 7] = [
    ("llama", llama::config),
    ("mistral3", mistral3::config),
    ("qwen2", qwen2::config),
    ("qwen3", qwen3::config),
    ("qwen3moe", qwen3moe::config),
    ("gemma3", gemma3::config),
    ("phi3", phi3::config),
];

/// The supported architectures, for people.
pub(super) fn names() -> String {
    FAMILIES.map(|(name, _)| name).join(", ")
}

impl DecoderConfig {
    /// Reads and checks a model's metadata.
    ///
    /// # Errors
    /// [`ArchitectureError`], naming the key or the variant.
    pub fn from_header(header: &GgufHeader) -> Result<Self, ArchitectureError> {
        let architecture = header.text("general.architecture")?.unwrap_or_default();
        let family = FAMILIES.iter().find(|(name, _)| *name == architecture);
        let (_, read) =
            family.ok_or_else(|| ArchitectureError::Unsupported(architecture.to_owned()))?;
        let config = read(&Metadata::new(header, architecture)?)?;
        config.check()?;
        Ok(config)
    }
}
