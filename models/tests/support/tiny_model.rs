//! Tiny models of every family with random weights, as the bytes of GGUF files: whole enough to generate, small enough to
//! be made anew for each test, and open to every kind of damage. The vocabulary is that of bytes.

#![allow(dead_code, reason = "each test file uses its part of this")]

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

/// A metadata value.
#[derive(Clone)]
pub enum Meta {
    Unsigned(u32),
    Float(f32),
    Text(&'static str),
    Bool(bool),
    Texts(Vec<String>),
    Floats(Vec<f32>),
    Integers(Vec<i32>),
    Bools(Vec<bool>),
}

/// A tensor, rows first, and what the file is to say of it if not the truth.
#[derive(Clone)]
pub struct TinyTensor {
    pub shape: Vec<usize>,
    pub floats: Vec<f32>,
    pub kind: GgmlDType,
    /// Done to its bytes when all is made.
    pub damage: Option<fn(&mut [u8])>,
    pub said_kind: Option<u32>,
    pub said_offset: Option<u64>,
    pub said_shape: Option<Vec<u64>>,
}

/// The families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Llama,
    Mistral3,
    Qwen2,
    Qwen3,
    Qwen3Moe,
    Gemma3,
    Phi3,
}

impl Family {
    pub const ALL: [Self; 7] = [
        Self::Llama,
        Self::Mistral3,
        Self::Qwen2,
        Self::Qwen3,
        Self::Qwen3Moe,
        Self::Gemma3,
        Self::Phi3,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral3 => "mistral3",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Qwen3Moe => "qwen3moe",
            Self::Gemma3 => "gemma3",
            Self::Phi3 => "phi3",
        }
    }
}

/// Sizes of a tiny model.
#[derive(Clone, Copy)]
pub struct Sizes {
    pub layers: usize,
    pub width: usize,
    pub heads: usize,
    pub key_value_heads: usize,
    pub head_width: usize,
    pub feed_forward: usize,
    pub experts: usize,
    pub experts_used: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            layers: 3,
            width: 64,
            heads: 4,
            key_value_heads: 2,
            head_width: 16,
            feed_forward: 96,
            experts: 4,
            experts_used: 2,
        }
    }
}

/// Control tokens before those of the bytes.
pub const CONTROLS: [&str; 4] = ["<unk>", "<s>", "</s>", "<pad>"];
/// Tokens.
pub const VOCABULARY: usize = CONTROLS.len() + 256;
pub const CONTEXT: u32 = 256;

/// A model that can still be changed.
#[derive(Clone)]
pub struct TinyModel {
    pub family: Family,
    pub sizes: Sizes,
    pub metadata: BTreeMap<String, Meta>,
    pub tensors: BTreeMap<String, TinyTensor>,
    random: u64,
}

impl TinyModel {
    /// A model of the usual sizes.
    pub fn new(family: Family, seed: u64) -> Self {
        Self::sized(family, seed, Sizes::default())
    }

    /// A model of these sizes.
    pub fn sized(family: Family, seed: u64, sizes: Sizes) -> Self {
        let mut model = Self {
            family,
            sizes,
            metadata: BTreeMap::new(),
            tensors: BTreeMap::new(),
            random: seed,
        };
        model.describe();
        model.fill();
        model
    }

    /// Sets a key of the architecture.
    pub fn set(mut self, key: &str, value: Meta) -> Self {
        let key = format!("{}.{key}", self.family.name());
        self.metadata.insert(key, value);
        self
    }

    /// Sets a key of the architecture to a number.
    pub fn number(self, key: &str, value: u32) -> Self {
        self.set(key, Meta::Unsigned(value))
    }

    /// Sets a key of the architecture to a fraction.
    pub fn float(self, key: &str, value: f32) -> Self {
        self.set(key, Meta::Float(value))
    }

    /// Takes a key of the architecture away.
    pub fn without(mut self, key: &str) -> Self {
        let key = format!("{}.{key}", self.family.name());
        assert!(self.metadata.remove(&key).is_some(), "there is no {key}");
        self
    }

    /// A tensor.
    pub fn tensor(&mut self, name: &str) -> &mut TinyTensor {
        self.tensors.get_mut(name).unwrap()
    }

    /// With a tensor changed.
    pub fn with(mut self, name: &str, change: impl FnOnce(&mut TinyTensor)) -> Self {
        change(self.tensor(name));
        self
    }

    /// Matrices of this type, where whole blocks fit; vectors and routers stay floats.
    pub fn quantised(mut self, kind: GgmlDType) -> Self {
        for (name, tensor) in &mut self.tensors {
            let columns = tensor.shape.last().copied().unwrap();
            let matrix = tensor.shape.len() > 1 && !name.contains("gate_inp");
            if matrix && columns.is_multiple_of(kind.block_size()) {
                tensor.kind = kind;
            }
        }
        self
    }

    /// Adds a tensor of random numbers around `centre`.
    pub fn add(&mut self, name: &str, shape: &[usize], centre: f32, spread: f32) {
        let count = shape.iter().product::<usize>();
        let floats = (0..count)
            .map(|_| centre + spread * self.normal())
            .collect();
        let tensor = TinyTensor {
            shape: shape.to_vec(),
            floats,
            kind: GgmlDType::F32,
            damage: None,
            said_kind: None,
            said_offset: None,
            said_shape: None,
        };
        self.tensors.insert(name.to_owned(), tensor);
    }

    /// Puts tensors of whole rows together: what fused files hold.
    pub fn fuse(mut self, parts: &[&str], whole: &str) -> Self {
        for layer in 0..self.sizes.layers {
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            let parts = parts
                .iter()
                .map(|part| self.tensors.remove(&name(part)).unwrap());
            let fused = parts.reduce(|mut all, part| {
                all.floats.extend(part.floats);
                *all.shape.first_mut().unwrap() += part.shape.first().unwrap();
                all
            });
            self.tensors.insert(name(whole), fused.unwrap());
        }
        self
    }

    fn matrix(&mut self, name: &str, rows: usize, columns: usize) {
        self.add(name, &[rows, columns], 0.0, 1.2 / (columns as f32).sqrt());
    }

    fn describe(&mut self) {
        let sizes = self.sizes;
        let name = self.family.name();
        let numbers = [
            ("block_count", sizes.layers),
            ("embedding_length", sizes.width),
            ("feed_forward_length", sizes.feed_forward),
            ("attention.head_count", sizes.heads),
            ("attention.head_count_kv", sizes.key_value_heads),
            ("attention.key_length", sizes.head_width),
            ("attention.value_length", sizes.head_width),
            ("context_length", CONTEXT as usize),
        ];
        for (key, value) in numbers {
            let value = Meta::Unsigned(value as u32);
            self.metadata.insert(format!("{name}.{key}"), value);
        }
        let mut say = |key: &str, value| self.metadata.insert(format!("{name}.{key}"), value);
        say("attention.layer_norm_rms_epsilon", Meta::Float(1e-5));
        match self.family {
            Family::Gemma3 => {
                say("attention.sliding_window", Meta::Unsigned(8));
                say("attention.sliding_window_pattern", Meta::Unsigned(3));
                say("rope.freq_base", Meta::Float(1e6));
            }
            Family::Qwen3Moe => {
                say("expert_count", Meta::Unsigned(sizes.experts as u32));
                say(
                    "expert_used_count",
                    Meta::Unsigned(sizes.experts_used as u32),
                );
                say(
                    "expert_feed_forward_length",
                    Meta::Unsigned(sizes.feed_forward as u32),
                );
            }
            Family::Phi3 => {
                say(
                    "rope.scaling.original_context_length",
                    Meta::Unsigned(CONTEXT / 2),
                );
                say("rope.scaling.attn_factor", Meta::Float(1.1));
            }
            Family::Mistral3 => {
                say("rope.scaling.type", Meta::Text("yarn"));
                say("rope.scaling.factor", Meta::Float(8.0));
                say("rope.scaling.original_context_length", Meta::Unsigned(12));
                say("attention.temperature_scale", Meta::Float(0.4));
            }
            _ => {}
        }
        let bytes = (0..256).map(|byte| format!("<0x{byte:02X}>"));
        let tokens = CONTROLS.iter().map(|text| (*text).to_owned()).chain(bytes);
        let kind = |id: usize| match id {
            0 => 2,
            id if id < CONTROLS.len() => 3,
            _ => 6,
        };
        let general = [
            ("general.architecture", Meta::Text(name)),
            ("tokenizer.ggml.model", Meta::Text("llama")),
            ("tokenizer.ggml.tokens", Meta::Texts(tokens.collect())),
            ("tokenizer.ggml.scores", Meta::Floats(vec![0.0; VOCABULARY])),
            (
                "tokenizer.ggml.token_type",
                Meta::Integers((0..VOCABULARY).map(kind).collect()),
            ),
            ("tokenizer.ggml.bos_token_id", Meta::Unsigned(1)),
            ("tokenizer.ggml.eos_token_id", Meta::Unsigned(2)),
            ("tokenizer.ggml.unknown_token_id", Meta::Unsigned(0)),
        ];
        self.metadata
            .extend(general.map(|(key, value)| (key.to_owned(), value)));
    }

    fn fill(&mut self) {
        let Sizes {
            layers,
            width,
            heads,
            key_value_heads,
            head_width,
            feed_forward: wide,
            experts,
            ..
        } = self.sizes;
        let family = self.family;
        let (queries, keys) = (heads * head_width, key_value_heads * head_width);
        self.add("token_embd.weight", &[VOCABULARY, width], 0.0, 0.3);
        self.add("output_norm.weight", &[width], 1.0, 0.3);
        if matches!(family, Family::Llama | Family::Qwen3Moe) {
            self.matrix("output.weight", VOCABULARY, width);
        }
        if family == Family::Llama {
            self.add("rope_freqs.weight", &[head_width / 2], 3.0, 0.5);
        }
        if family == Family::Phi3 {
            self.add("rope_factors_short.weight", &[head_width / 2], 2.0, 0.3);
            self.add("rope_factors_long.weight", &[head_width / 2], 8.0, 1.0);
        }
        for layer in 0..layers {
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            for norm in ["attn_norm", "ffn_norm"] {
                self.add(&name(norm), &[width], 1.0, 0.3);
            }
            for (part, rows) in [("attn_q", queries), ("attn_k", keys), ("attn_v", keys)] {
                self.matrix(&name(part), rows, width);
                if family == Family::Qwen2 {
                    self.add(&format!("blk.{layer}.{part}.bias"), &[rows], 0.0, 0.3);
                }
            }
            self.matrix(&name("attn_output"), width, queries);
            if matches!(family, Family::Qwen3 | Family::Qwen3Moe | Family::Gemma3) {
                self.add(&name("attn_q_norm"), &[head_width], 1.0, 0.3);
                self.add(&name("attn_k_norm"), &[head_width], 1.0, 0.3);
            }
            if family == Family::Gemma3 {
                self.add(&name("post_attention_norm"), &[width], 1.0, 0.3);
                self.add(&name("post_ffw_norm"), &[width], 1.0, 0.3);
            }
            let spread = |columns: usize| 1.2 / (columns as f32).sqrt();
            if family == Family::Qwen3Moe {
                self.matrix(&name("ffn_gate_inp"), experts, width);
                self.add(
                    &name("ffn_gate_exps"),
                    &[experts, wide, width],
                    0.0,
                    spread(width),
                );
                self.add(
                    &name("ffn_up_exps"),
                    &[experts, wide, width],
                    0.0,
                    spread(width),
                );
                self.add(
                    &name("ffn_down_exps"),
                    &[experts, width, wide],
                    0.0,
                    spread(wide),
                );
            } else {
                self.matrix(&name("ffn_gate"), wide, width);
                self.matrix(&name("ffn_up"), wide, width);
                self.matrix(&name("ffn_down"), width, wide);
            }
        }
        if family == Family::Phi3 {
            let fused = self
                .clone()
                .fuse(&["attn_q", "attn_k", "attn_v"], "attn_qkv");
            *self = fused.fuse(&["ffn_gate", "ffn_up"], "ffn_up");
        }
    }

    /// A number around zero, about as wide as a normal distribution.
    fn normal(&mut self) -> f32 {
        let mut sum = 0.0;
        for _ in 0..4 {
            // SplitMix64.
            self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = self.random;
            mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^= mixed >> 31;
            sum += (mixed >> 40) as f32 / (1 << 24) as f32 - 0.5;
        }
        sum * 1.7
    }

    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(3_u32.to_le_bytes());
        file.extend((self.tensors.len() as u64).to_le_bytes());
        file.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            put_text(&mut file, key);
            value.put(&mut file);
        }
        let mut data = Vec::new();
        for (name, tensor) in &self.tensors {
            data.resize(data.len().next_multiple_of(32), 0);
            put_text(&mut file, name);
            let shape = tensor.shape.iter().rev().map(|size| *size as u64).collect();
            let shape = tensor.said_shape.clone().unwrap_or(shape);
            file.extend((shape.len() as u32).to_le_bytes());
            file.extend(shape.iter().flat_map(|size| size.to_le_bytes()));
            file.extend(tensor.said_kind.unwrap_or(id(tensor.kind)).to_le_bytes());
            let offset = tensor.said_offset.unwrap_or(data.len() as u64);
            file.extend(offset.to_le_bytes());
            data.extend(tensor.bytes());
        }
        file.resize(file.len().next_multiple_of(32), 0);
        file.extend(data);
        file
    }

    /// The file, written.
    pub fn write(&self, path: &Path) {
        std::fs::write(path, self.bytes()).unwrap();
    }
}

impl TinyTensor {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = match self.kind {
            GgmlDType::F32 => self.floats.iter().flat_map(|x| x.to_le_bytes()).collect(),
            kind => {
                let columns = self.shape.last().copied().unwrap();
                let shape = (self.floats.len() / columns, columns);
                let floats = Tensor::from_vec(self.floats.clone(), shape, &Device::Cpu).unwrap();
                let made = QTensor::quantize(&floats, kind).unwrap();
                made.data().unwrap().to_vec()
            }
        };
        if let Some(damage) = self.damage {
            damage(&mut bytes);
        }
        bytes
    }
}

impl Meta {
    fn put(&self, file: &mut Vec<u8>) {
        fn list<T>(file: &mut Vec<u8>, kind: u32, all: &[T], put: impl Fn(&mut Vec<u8>, &T)) {
            file.extend(9_u32.to_le_bytes());
            file.extend(kind.to_le_bytes());
            file.extend((all.len() as u64).to_le_bytes());
            all.iter().for_each(|one| put(file, one));
        }
        match self {
            Self::Unsigned(value) => file.extend([4_u32, *value].map(u32::to_le_bytes).concat()),
            Self::Float(value) => {
                file.extend(6_u32.to_le_bytes());
                file.extend(value.to_le_bytes());
            }
            Self::Bool(value) => {
                file.extend(7_u32.to_le_bytes());
                file.push(u8::from(*value));
            }
            Self::Text(text) => {
                file.extend(8_u32.to_le_bytes());
                put_text(file, text);
            }
            Self::Texts(all) => list(file, 8, all, |file, text| put_text(file, text)),
            Self::Floats(all) => list(file, 6, all, |file, x| file.extend(x.to_le_bytes())),
            Self::Integers(all) => list(file, 5, all, |file, x| file.extend(x.to_le_bytes())),
            Self::Bools(all) => list(file, 7, all, |file, x| file.push(u8::from(*x))),
        }
    }
}

fn put_text(file: &mut Vec<u8>, text: &str) {
    file.extend((text.len() as u64).to_le_bytes());
    file.extend(text.as_bytes());
}

fn id(kind: GgmlDType) -> u32 {
    match kind {
        GgmlDType::F32 => 0,
        GgmlDType::F16 => 1,
        GgmlDType::Q4_0 => 2,
        GgmlDType::Q4_1 => 3,
        GgmlDType::Q5_0 => 6,
        GgmlDType::Q5_1 => 7,
        GgmlDType::Q8_0 => 8,
        GgmlDType::Q8_1 => 9,
        GgmlDType::Q2K => 10,
        GgmlDType::Q3K => 11,
        GgmlDType::Q4K => 12,
        GgmlDType::Q5K => 13,
        GgmlDType::Q6K => 14,
        GgmlDType::Q8K => 15,
        GgmlDType::BF16 => 30,
    }
}
