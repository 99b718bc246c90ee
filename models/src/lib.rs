//! Sealed packages, layers, architectures and the engine. Synchronous; no network, no attestation.
//!
//! The way of a request: [`gguf`] and [`weights`] read a model (plain, or sealed: [`package`]), [`LoadedModel`] puts
//! tokenizer, template and network together, and [`engine`] runs it on one thread for many sequences at once.

mod cpu;
pub mod decoder;
pub mod device;
pub mod engine;
pub mod ggml;
pub mod gguf;
mod gpu;
pub mod grammar;
pub mod layers;
pub mod model;
pub mod package;
pub mod template;
pub mod tokenizer;
pub mod weights;

pub use model::{LoadError, LoadedModel, ModelText, RunningModel};
