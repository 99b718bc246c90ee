//! What a model's header says that bars and bounds depend on.

use std::path::Path;

use casemate_models::gguf::{GgufHeader, TensorInfo};
use casemate_models::weights::{GgufFile, WeightSource};

use crate::Anyhow;

/// A model as far as its bars are concerned.
pub struct Facts {
    /// The file's name.
    pub name: String,
    /// How it is quantised, as `llama-quantize` calls it.
    pub quantisation: String,
    /// Its class of size.
    pub size: Size,
    /// Bytes of weights that decoding one token reads.
    pub bytes_per_token: f64,
    /// 8-bit operations for one token of a prompt: two for each weight of the layers.
    pub operations_per_token: f64,
}

/// Sizes for which there are bars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// About 1.2 billion parameters.
    Small,
    /// About 8 billion.
    Large,
    /// Others, which have no bars.
    Other,
}

impl Size {
    const fn of(parameters: u64) -> Self {
        match parameters {
            1_000_000_000..=1_600_000_000 => Self::Small,
            7_000_000_000..=9_000_000_000 => Self::Large,
            _ => Self::Other,
        }
    }
}

const EMBEDDING: &str = "token_embd.weight";
const OUTPUT: &str = "output.weight";

impl Facts {
    /// Reads a file's header.
    ///
    /// # Errors
    /// When it is no model.
    pub fn read(path: &Path) -> Anyhow<Self> {
        let file = GgufFile::open(path)?;
        let header = file.header();
        let tied = header.tensor_index(OUTPUT).is_none();
        let parameters = header.tensors().iter().map(elements).sum();
        let multiplied = |tensor: &&TensorInfo| tensor.name() != EMBEDDING || tied;
        let in_layers = |tensor: &&TensorInfo| {
            tensor.name() != EMBEDDING && tensor.name() != OUTPUT && tensor.shape().len() > 1
        };
        let bytes: u64 = (header.tensors().iter().filter(multiplied))
            .map(TensorInfo::byte_len)
            .sum();
        let weights: u64 = (header.tensors().iter().filter(in_layers))
            .map(elements)
            .sum();
        Ok(Self {
            name: file.name().to_owned(),
            quantisation: quantisation(header)?,
            size: Size::of(parameters),
            bytes_per_token: bytes as f64,
            operations_per_token: 2.0 * weights as f64,
        })
    }
}

fn elements(tensor: &TensorInfo) -> u64 {
    tensor.shape().iter().map(|size| *size as u64).product()
}

fn quantisation(header: &GgufHeader) -> Anyhow<String> {
    let name = match header.unsigned("general.file_type")? {
        Some(0) => "F32",
        Some(1) => "F16",
        Some(2) => "Q4_0",
        Some(3) => "Q4_1",
        Some(7) => "Q8_0",
        Some(8) => "Q5_0",
        Some(9) => "Q5_1",
        Some(15) => "Q4_K_M",
        Some(17) => "Q5_K_M",
        Some(18) => "Q6_K",
        Some(32) => "BF16",
        Some(other) => return Ok(format!("type {other}")),
        None => "unknown type",
    };
    Ok(name.to_owned())
}
