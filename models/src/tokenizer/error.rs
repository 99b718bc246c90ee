//! Why a vocabulary is refused, or a text.

use crate::gguf::GgufError;

/// A refusal by the tokenizer. Never holds text that was to be tokenised.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A key has another type.
    #[error(transparent)]
    Header(#[from] GgufError),
    /// A key that must be there.
    #[error("the model has no {0}; convert it together with its tokenizer")]
    Missing(&'static str),
    /// Metadata that contradicts itself.
    #[error("the model's vocabulary is malformed: {0}")]
    Malformed(&'static str),
    /// A kind of vocabulary that this version does not know.
    #[error("tokenizer model {0:?} is not supported; supported are llama and gpt2")]
    UnsupportedModel(String),
    /// A pre-tokenizer that this version does not know.
    #[error("pre-tokenizer {0:?} is not supported")]
    UnsupportedPre(String),
    /// A text that makes the pre-tokenizer search without end.
    #[error("the text is too complex to be cut into tokens")]
    TooComplex,
}
