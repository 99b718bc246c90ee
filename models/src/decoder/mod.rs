//! Decoders: what families have in common (`config`, `rope`, `weights`), and how each family's metadata becomes a
//! configuration (`families`). [`Decoder`] computes on candle's tensors.

pub(crate) mod config;
mod error;
mod families;
pub(crate) mod reference;
pub(crate) mod rope;
pub(crate) mod weights;

pub use config::DecoderConfig;
pub use error::ArchitectureError;
pub use reference::{Cache, Decoder, Rows, WantedLogits};
