//! Metadata and tensors that do not fit together, family by family: refused at load, and named.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

#[path = "support/executors.rs"]
mod executors;
#[path = "support/tiny_model.rs"]
mod tiny_model;

use executors::refusal;
use tiny_model::{Family, Meta, TinyModel};

#[test]
fn what_does_not_fit_together_is_refused_by_name() {
    const EPSILON: &str = "attention.layer_norm_rms_epsilon";
    let cases: [(Family, &str, Meta, &str); 29] = [
        (
            Family::Llama,
            "block_count",
            Meta::Unsigned(0),
            "llama.block_count is zero",
        ),
        (
            Family::Llama,
            "block_count",
            Meta::Unsigned(u32::MAX),
            "llama.block_count is too large",
        ),
        (
            Family::Llama,
            "block_count",
            Meta::Text("three"),
            "llama.block_count",
        ),
        (Family::Llama, "block_count", Meta::Unsigned(4), "\"blk.3."),
        (Family::Llama, "block_count", Meta::Unsigned(2), "\"blk.2."),
        (
            Family::Qwen2,
            "embedding_length",
            Meta::Unsigned(0),
            "qwen2.embedding_length is zero",
        ),
        (
            Family::Qwen2,
            "embedding_length",
            Meta::Unsigned(32),
            "token_embd.weight",
        ),
        (
            Family::Qwen3,
            "attention.head_count",
            Meta::Unsigned(0),
            "qwen3.attention.head_count",
        ),
        (
            Family::Qwen3,
            "attention.head_count_kv",
            Meta::Unsigned(3),
            "key-value heads do not",
        ),
        (
            Family::Qwen3,
            "attention.value_length",
            Meta::Unsigned(8),
            "attention.value_length",
        ),
        (
            Family::Qwen3,
            "attention.key_length",
            Meta::Unsigned(1 << 20),
            "attention.key_length",
        ),
        (
            Family::Qwen3,
            "feed_forward_length",
            Meta::Unsigned(97),
            "ffn_gate",
        ),
        (
            Family::Qwen3,
            "context_length",
            Meta::Unsigned(0),
            "qwen3.context_length is zero",
        ),
        (
            Family::Qwen3,
            "attention.causal",
            Meta::Bool(false),
            "qwen3.attention.causal",
        ),
        (
            Family::Qwen2,
            "attention.sliding_window",
            Meta::Unsigned(8),
            "attention.sliding_window",
        ),
        (
            Family::Qwen3Moe,
            "expert_count",
            Meta::Unsigned(0),
            "lacks qwen3moe.expert_count",
        ),
        (
            Family::Qwen3Moe,
            "expert_count",
            Meta::Unsigned(1 << 30),
            "qwen3moe.expert_count",
        ),
        (
            Family::Qwen3Moe,
            "expert_count",
            Meta::Unsigned(3),
            "ffn_gate_inp",
        ),
        (
            Family::Qwen3Moe,
            "expert_used_count",
            Meta::Unsigned(5),
            "qwen3moe.expert_used_count",
        ),
        (
            Family::Qwen3Moe,
            "expert_group_count",
            Meta::Unsigned(2),
            "expert_group_count",
        ),
        (
            Family::Qwen3Moe,
            "expert_shared_count",
            Meta::Unsigned(1),
            "expert_shared_count",
        ),
        (
            Family::Llama,
            EPSILON,
            Meta::Float(f32::NAN),
            "layer_norm_rms_epsilon",
        ),
        (
            Family::Llama,
            EPSILON,
            Meta::Float(2.0),
            "layer_norm_rms_epsilon",
        ),
        (
            Family::Llama,
            "rope.freq_base",
            Meta::Float(-1.0),
            "llama.rope.freq_base",
        ),
        (
            Family::Llama,
            "rope.dimension_count",
            Meta::Unsigned(18),
            "the rotated columns",
        ),
        (
            Family::Llama,
            "rope.scaling.factor",
            Meta::Float(f32::INFINITY),
            "scaling.factor",
        ),
        (
            Family::Llama,
            "rope.scaling.type",
            Meta::Text("dynamic"),
            "scaling.type = dynamic",
        ),
        (
            Family::Gemma3,
            "rope.scaling.type",
            Meta::Text("longrope"),
            "scaling.type = longrope",
        ),
        (
            Family::Gemma3,
            "attention.sliding_window_pattern",
            Meta::Bools(vec![true, false, true, true, false]),
            "sliding_window_pattern",
        ),
    ];
    for (family, key, value, expected) in cases {
        let said = refusal(&TinyModel::new(family, 9).set(key, value));
        assert!(
            said.contains(expected),
            "{family:?} {key}: {said:?} and not {expected:?}"
        );
    }
    for (family, key) in [
        (Family::Llama, "embedding_length"),
        (Family::Qwen2, "block_count"),
        (Family::Qwen3, "attention.head_count"),
        (Family::Phi3, "feed_forward_length"),
        (Family::Gemma3, "context_length"),
        (Family::Gemma3, EPSILON),
        (Family::Qwen3Moe, "expert_used_count"),
    ] {
        let said = refusal(&TinyModel::new(family, 9).without(key));
        assert_eq!(
            said,
            format!("the model's metadata lacks {}.{key}", family.name())
        );
    }
}

#[test]
fn a_tensor_too_few_or_too_many_is_named() {
    for family in Family::ALL {
        let model = TinyModel::new(family, 10);
        for name in model.tensors.keys() {
            let mut lacking = model.clone();
            lacking.tensors.remove(name);
            // What may be left out: an output beside the embedding, a bias or factors of which all are left out.
            let optional = ["output.weight", "rope_freqs.weight"].contains(&name.as_str());
            let said = refusal(&lacking);
            assert!(
                optional && said.is_empty() || !said.is_empty(),
                "{family:?} without {name}"
            );
            let named = said.contains(name.trim_end_matches(".weight"));
            assert!(
                optional || named || name.starts_with("blk.0."),
                "{family:?} {name}: {said}"
            );
        }
        let mut more = model.clone();
        more.add("blk.1.attn_sinks.weight", &[4], 0.0, 1.0);
        assert!(
            refusal(&more).contains("\"blk.1.attn_sinks.weight\""),
            "{family:?}"
        );
    }
}

#[test]
fn supported_families_are_named() {
    let mut model = TinyModel::new(Family::Llama, 11);
    let key = "general.architecture".to_owned();
    model.metadata.insert(key, Meta::Text("mamba"));
    let said = refusal(&model);
    assert!(said.contains("\"mamba\""), "{said}");
    for family in Family::ALL {
        assert!(said.contains(family.name()), "{said}");
    }
}
