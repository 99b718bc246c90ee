//! A model whose answers repeat: a copy of a model with random weights in which the layers add nothing to what they are
//! given. With an output that is the embedding, the likeliest token is then always the last one once more. All matrices
//! are still read and multiplied, so that a step takes as long as before.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::bail;
use casemate_models::weights::{GgufFile, WeightSource as _};

/// What layers add is the product of these: of attention, and of the feed-forward part.
const LAST_MATRICES: [&str; 2] = [".attn_output.weight", ".ffn_down.weight"];
const OUTPUT: &str = "output.weight";
/// Zeros that are written at once.
const PIECE: usize = 1 << 20;

/// Writes the copy.
///
/// # Errors
/// When the model is none that this can be done to.
pub fn write(model: &Path, copy: &Path) -> anyhow::Result<()> {
    let source = GgufFile::open(model)?;
    let header = source.header();
    if header.tensor_index(OUTPUT).is_some() {
        bail!("the model's output is not its embedding: name another with --guess-model");
    }
    let last = |name: &str| LAST_MATRICES.iter().any(|end| name.ends_with(end));
    let tensors = header.tensors().iter();
    let ranges: Vec<(u64, u64)> = tensors
        .filter(|tensor| last(tensor.name()))
        .map(|tensor| (header.data_offset() + tensor.offset(), tensor.byte_len()))
        .collect();
    if ranges.is_empty() {
        bail!("the model's layers are of another kind: name another model with --guess-model");
    }
    fs::copy(model, copy)?;
    let file = OpenOptions::new().write(true).open(copy)?;
    // In every format of blocks, and in every format of floats, zero bytes are zeros.
    let zeros = vec![0; PIECE];
    for (mut at, len) in ranges {
        let end = at + len;
        while at < end {
            let piece = (end - at).min(PIECE as u64);
            let zeros = zeros.get(..piece as usize).unwrap_or_default();
            file.write_all_at(zeros, at)?;
            at += piece;
        }
    }
    Ok(())
}
