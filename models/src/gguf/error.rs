//! Why a GGUF header is refused. One variant per rule, in the order in which the bytes come.

/// A refusal of a GGUF header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The file does not begin with `GGUF`.
    #[error("no GGUF file: it does not begin with the letters GGUF")]
    WrongMagic,
    /// Another version than 2 or 3, or a big-endian file.
    #[error("GGUF version {0} is not supported; convert the file to version 3, little endian")]
    UnsupportedVersion(u32),
    /// The bytes end inside an item.
    #[error("the GGUF header is cut short inside its {0}")]
    Truncated(&'static str),
    /// A count or length above its bound.
    #[error("{what} of {found} exceeds the {max} that is accepted")]
    TooMany {
        /// Which item.
        what: &'static str,
        /// What the file says.
        found: u64,
        /// What is accepted.
        max: u64,
    },
    /// Text that is not UTF-8.
    #[error("a {0} is not UTF-8")]
    NotUtf8(&'static str),
    /// An empty key or tensor name.
    #[error("a {0} is empty")]
    Empty(&'static str),
    /// A metadata type number that the format does not define.
    #[error("metadata has a value of the unknown type {0}")]
    UnknownValueType(u32),
    /// A boolean other than 0 and 1.
    #[error("metadata has a boolean that is neither 0 nor 1")]
    BadBoolean,
    /// An array of arrays.
    #[error("metadata has an array of arrays")]
    NestedArray,
    /// A key that comes twice.
    #[error("metadata key {0:?} comes twice")]
    DuplicateKey(String),
    /// `general.alignment` is no power of two from 8 to 65536.
    #[error("general.alignment is not a power of two from 8 to 65536")]
    BadAlignment,
    /// A tensor name that comes twice.
    #[error("tensor {0:?} comes twice")]
    DuplicateTensor(String),
    /// No dimension, more than four, one of zero, or a product that no machine holds.
    #[error("tensor {0:?} has dimensions that are zero, too many or too large")]
    BadShape(String),
    /// A tensor type that this version does not decode.
    #[error(
        "tensor {name:?} has the type {kind}, which is not supported; convert to F32, F16, BF16, Q4_0 to Q8_0 or Q2_K to Q6_K"
    )]
    UnknownTensorType {
        /// The tensor.
        name: String,
        /// What ggml calls the type, or its number.
        kind: String,
    },
    /// Rows that do not consist of whole blocks of the tensor's type.
    #[error("tensor {0:?} has rows that are no whole number of blocks of its type")]
    PartialBlock(String),
    /// An offset off the alignment, or an end beyond what 63 bits hold.
    #[error("tensor {0:?} has an offset that is misaligned or out of range")]
    BadOffset(String),
    /// Two tensors share bytes.
    #[error("tensors {0:?} and {1:?} overlap")]
    Overlap(String, String),
    /// A key that the model needs and that has another type.
    #[error("metadata key {key:?} is not {expected}")]
    WrongType {
        /// The key.
        key: String,
        /// What it must be.
        expected: &'static str,
    },
}
