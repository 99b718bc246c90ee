//! Decoders: what families have in common ([`config`], [`weights`]), and how each family's metadata becomes a configuration.

pub(crate) mod config;
pub(crate) mod rope;
pub(crate) mod weights;

pub use config::DecoderConfig;
