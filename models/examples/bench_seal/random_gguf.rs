//! A GGUF file of a real shape (1.24 billion parameters, llama) with random Q8_0 and Q4_K blocks.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

const WIDTH: u64 = 2048;
const FEED_FORWARD: u64 = 8192;
const KEY_VALUE_WIDTH: u64 = 512;
const VOCABULARY: u64 = 128_256;
const LAYERS: usize = 16;

/// GGML's number of a block type, its elements and its bytes.
#[derive(Clone, Copy)]
struct Kind(u32, u64, u64);
const F32: Kind = Kind(0, 1, 4);
const Q8_0: Kind = Kind(8, 32, 34);
const Q4_K: Kind = Kind(12, 256, 144);

struct Tensor {
    name: String,
    /// Columns, then rows, as GGUF has them.
    shape: Vec<u64>,
    kind: Kind,
}

impl Tensor {
    fn len(&self) -> u64 {
        self.shape.iter().product::<u64>() / self.kind.1 * self.kind.2
    }
}

fn tensors() -> Vec<Tensor> {
    let matrix = |name: String, columns, rows, kind| Tensor {
        name,
        shape: vec![columns, rows],
        kind,
    };
    let norm = |name: String| Tensor {
        name,
        shape: vec![WIDTH],
        kind: F32,
    };
    let mut all = vec![matrix("token_embd.weight".into(), WIDTH, VOCABULARY, Q8_0)];
    for layer in 0..LAYERS {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        all.push(norm(name("attn_norm")));
        all.push(matrix(name("attn_q"), WIDTH, WIDTH, Q8_0));
        all.push(matrix(name("attn_k"), WIDTH, KEY_VALUE_WIDTH, Q8_0));
        all.push(matrix(name("attn_v"), WIDTH, KEY_VALUE_WIDTH, Q8_0));
        all.push(matrix(name("attn_output"), WIDTH, WIDTH, Q8_0));
        all.push(norm(name("ffn_norm")));
        all.push(matrix(name("ffn_gate"), WIDTH, FEED_FORWARD, Q4_K));
        all.push(matrix(name("ffn_up"), WIDTH, FEED_FORWARD, Q4_K));
        all.push(matrix(name("ffn_down"), FEED_FORWARD, WIDTH, Q8_0));
    }
    all.push(norm("output_norm".into()));
    all
}

/// Writes the file at `path`.
pub fn write(path: &Path) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let tensors = tensors();
    let text = |s: &str| [&(s.len() as u64).to_le_bytes(), s.as_bytes()].concat();
    let mut head = b"GGUF".to_vec();
    head.extend(3u32.to_le_bytes());
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend(1u64.to_le_bytes());
    head.extend(text("general.architecture"));
    head.extend(8u32.to_le_bytes());
    head.extend(text("llama"));
    let mut offset = 0u64;
    for tensor in &tensors {
        head.extend(text(&tensor.name));
        head.extend((tensor.shape.len() as u32).to_le_bytes());
        tensor
            .shape
            .iter()
            .for_each(|size| head.extend(size.to_le_bytes()));
        head.extend(tensor.kind.0.to_le_bytes());
        head.extend(offset.to_le_bytes());
        offset += tensor.len().next_multiple_of(32);
    }
    head.resize(head.len().next_multiple_of(32), 0);
    out.write_all(&head)?;
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for tensor in &tensors {
        for _ in 0..tensor.len().next_multiple_of(32) / 8 {
            out.write_all(&random.next().to_le_bytes())?;
        }
    }
    out.into_inner()?.sync_all()
}

/// xorshift64*: fast and good enough to defeat compression.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}
