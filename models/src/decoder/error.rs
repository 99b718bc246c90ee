//! Why a model's metadata is not that of a decoder which this version can run.

use super::families;
use crate::gguf::GgufError;

/// Why a model is not one that this version can run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchitectureError {
    /// A key has another type.
    #[error(transparent)]
    Header(#[from] GgufError),
    /// Another architecture.
    #[error("architecture {0:?} is not supported; supported are {names}", names = families::names())]
    Unsupported(String),
    /// A variant of the architecture that would compute something else.
    #[error("the model uses {0}, which is not supported")]
    UnsupportedVariant(String),
    /// A key that must be there.
    #[error("the model's metadata lacks {0}")]
    Missing(String),
    /// Numbers that do not fit together.
    #[error("the model's metadata is inconsistent: {0}")]
    Inconsistent(String),
}
