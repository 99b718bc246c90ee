//! Every family on tiny random models: each loads and generates, and nothing that its file holds is without effect. The
//! tests run over every executor.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

#[path = "support/executors.rs"]
mod executors;
#[path = "support/tiny_model.rs"]
mod tiny_model;

use std::ops::ControlFlow;
use std::sync::mpsc;

use casemate_models::engine::{Event, GenerateRequest, SamplingParams, Tenant};
use executors::*;
use tiny_model::{CONTEXT, Family, Meta, Sizes, TinyModel, TinyTensor};

#[test]
fn every_family_loads_and_generates() {
    for family in Family::ALL {
        let running = load(&TinyModel::new(family, 1)).unwrap().spawn().unwrap();
        assert_eq!(running.context_length(), CONTEXT as usize);
        let (sender, receiver) = mpsc::channel();
        let request = GenerateRequest {
            tenant: Tenant([0; 32]),
            weight: 1,
            prompt: text(20),
            sampling: SamplingParams {
                temperature: 0.0,
                ..SamplingParams::default()
            },
            tokens_max: Some(12),
            stop: Vec::new(),
            seed: Some(0),
            grammar: None,
            logprobs: None,
            mark: None,
            repetition: None,
            deadline: None,
        };
        let sink = Box::new(move |event| {
            let _ = sender.send(event);
            ControlFlow::Continue(())
        });
        let _ticket = running.engine().submit(request, sink).unwrap();
        let usage = receiver.into_iter().find_map(|event| match event {
            Event::Finished { usage, .. } => Some(usage),
            Event::Failed { reason, .. } => panic!("{family:?}: {reason}"),
            Event::Text { .. } => None,
        });
        assert!(usage.unwrap().completion_tokens > 0, "{family:?}");
    }
}

#[test]
fn token_by_token_at_once_and_beside_others_are_the_same() {
    for (executor, make) in EXECUTORS {
        for family in Family::ALL {
            let mut engine = make(&TinyModel::new(family, 2), ROOM);
            let tokens = text(30);
            let together = after(&mut *engine, &tokens);
            for (sequence, capacity) in [(0, 30), (1, 40), (2, 50)] {
                open(&mut *engine, sequence, capacity);
            }
            let (first, rest) = tokens.split_at(10);
            step(&mut *engine, &[first, &tokens[..3], &tokens[7..]]);
            let mut last = Vec::new();
            for token in rest {
                last = step(&mut *engine, &[&[*token], &[5], &[6, 7][..1]]).remove(0);
            }
            let apart = apart(&together, &last);
            assert!(apart < same(executor), "{executor} {family:?}: {apart}");
        }
    }
}

#[test]
fn every_tensor_has_its_effect() {
    let tokens = text(24);
    for (executor, make) in EXECUTORS {
        for family in Family::ALL {
            let model = TinyModel::new(family, 3);
            let rooms = [ROOM, ROOM + 1];
            let usual = rooms.map(|room| after(&mut *make(&model, room), &tokens));
            for name in model.tensors.keys() {
                let changed = model.clone().with(name, |tensor| {
                    for (at, x) in tensor.floats.iter_mut().enumerate() {
                        *x = *x * 1.3 + [0.02, -0.05, 0.03][at % 3];
                    }
                });
                // Factors of long sequences have theirs there.
                let which = usize::from(name.contains("_long"));
                let found = after(&mut *make(&changed, rooms[which]), &tokens);
                let apart = apart(&usual[which], &found);
                assert!(apart > OTHER, "{executor} {family:?} {name}: {apart}");
            }
        }
    }
}

#[test]
fn every_key_that_changes_the_arithmetic_has_its_effect() {
    let tokens = text(40);
    let float = Meta::Float;
    let yarn = |model: TinyModel| {
        let model = model.set("rope.scaling.type", Meta::Text("yarn"));
        let model = model.number("rope.scaling.original_context_length", 64);
        model.float("rope.scaling.factor", 4.0)
    };
    let changes: [(Family, &str, Meta); 17] = [
        (Family::Llama, "rope.freq_base", float(500.0)),
        (Family::Llama, "rope.scaling.factor", float(4.0)),
        (Family::Llama, "rope.scale_linear", float(4.0)),
        (Family::Llama, "attention.sliding_window", Meta::Unsigned(8)),
        (
            Family::Llama,
            "attention.layer_norm_rms_epsilon",
            float(0.1),
        ),
        (Family::Mistral3, "rope.scaling.yarn_beta_fast", float(0.1)),
        (Family::Mistral3, "rope.scaling.yarn_beta_slow", float(0.01)),
        (
            Family::Mistral3,
            "rope.scaling.yarn_log_multiplier",
            float(1.0),
        ),
        (Family::Mistral3, "attention.temperature_scale", float(0.9)),
        (Family::Qwen2, "rope.scaling.factor", float(4.0)),
        (Family::Qwen3Moe, "expert_used_count", Meta::Unsigned(1)),
        (Family::Gemma3, "rope.freq_base_swa", float(500.0)),
        (
            Family::Gemma3,
            "attention.sliding_window_pattern",
            Meta::Unsigned(2),
        ),
        (Family::Gemma3, "attn_logit_softcapping", float(0.5)),
        (Family::Gemma3, "final_logit_softcapping", float(1.0)),
        (Family::Phi3, "rope.scaling.attn_factor", float(1.4)),
        (Family::Phi3, "attention.sliding_window", Meta::Unsigned(8)),
    ];
    for (executor, make) in EXECUTORS {
        for (family, key, value) in &changes {
            let model = TinyModel::new(*family, 4);
            let usual = after(&mut *make(&model, ROOM), &tokens);
            let found = after(&mut *make(&model.set(key, value.clone()), ROOM), &tokens);
            let apart = apart(&usual, &found);
            assert!(apart > OTHER, "{executor} {family:?} {key}: {apart}");
        }
        let model = TinyModel::new(Family::Qwen3, 4);
        let usual = after(&mut *make(&model, ROOM), &tokens);
        let linear = after(
            &mut *make(&model.clone().float("rope.scaling.factor", 4.0), ROOM),
            &tokens,
        );
        let yarn = after(&mut *make(&yarn(model), ROOM), &tokens);
        assert!(
            apart(&usual, &yarn) > OTHER && apart(&linear, &yarn) > OTHER,
            "{executor}"
        );
    }
}

#[test]
fn a_layer_with_a_window_does_not_see_beyond_it() {
    const WINDOW: usize = 4;
    let sizes = Sizes::default();
    let all = |family| {
        let model = TinyModel::new(family, 5).number("attention.sliding_window", WINDOW as u32);
        match family {
            Family::Gemma3 => model.number("attention.sliding_window_pattern", 0),
            _ => model,
        }
    };
    // Layer by layer the last token looks one window further, itself included.
    let sight = sizes.layers * (WINDOW - 1) + 1;
    for (executor, make) in EXECUTORS {
        for family in [
            Family::Llama,
            Family::Mistral3,
            Family::Gemma3,
            Family::Phi3,
        ] {
            let mut engine = make(&all(family), ROOM);
            let tokens = text(sight + 3);
            let (usual, slow) = (
                after(&mut *engine, &tokens),
                one_by_one(&mut *engine, &tokens),
            );
            let apart = apart(&usual, &slow);
            assert!(apart < same(executor), "{executor} {family:?}: {apart}");
            for (changed, seen) in [(0, false), (2, false), (3, true), (sight, true)] {
                let mut other = tokens.clone();
                other[changed] += 1;
                let what = format!("{executor} {family:?}: token {changed} of {}", tokens.len());
                let found = after(&mut *engine, &other);
                assert_eq!(found != usual, seen, "{what}");
                assert_eq!(one_by_one(&mut *engine, &other) != slow, seen, "{what}");
            }
        }
        // A third layer that sees everything does see the first token.
        let seeing = TinyModel::new(Family::Gemma3, 5).number("attention.sliding_window", 4);
        let mut engine = make(&seeing, ROOM);
        let tokens = text(20);
        let mut other = tokens.clone();
        other[0] += 1;
        assert!(
            after(&mut *engine, &tokens) != after(&mut *engine, &other),
            "{executor}"
        );
    }
}

#[test]
fn fused_tensors_are_the_same_as_single_ones() {
    let tokens = text(20);
    for (executor, make) in EXECUTORS {
        for family in [Family::Llama, Family::Qwen2, Family::Qwen3, Family::Gemma3] {
            let model = TinyModel::new(family, 6);
            let fused = model
                .clone()
                .fuse(&["attn_q", "attn_k", "attn_v"], "attn_qkv");
            let usual = after(&mut *make(&model, ROOM), &tokens);
            assert_eq!(
                usual,
                after(&mut *make(&fused, ROOM), &tokens),
                "{executor} {family:?}"
            );
        }
        // Qwen 2 without biases is Phi 3 without factors.
        let mut single = TinyModel::new(Family::Qwen2, 6);
        single.tensors.retain(|name, _| !name.ends_with("bias"));
        let mut phi = TinyModel::new(Family::Phi3, 6).float("rope.scaling.attn_factor", 1.0);
        phi.tensors = single.tensors.clone();
        let phi = phi.fuse(&["ffn_gate", "ffn_up"], "ffn_up");
        let usual = after(&mut *make(&single, ROOM), &tokens);
        assert_eq!(usual, after(&mut *make(&phi, ROOM), &tokens), "{executor}");
    }
}

/// A dense model that has one expert's matrices.
fn dense_of(model: &TinyModel, expert: usize) -> TinyModel {
    let mut dense = TinyModel::new(Family::Qwen3, 0);
    let count = model.sizes.experts;
    let single = |name: &str, tensor: &TinyTensor| {
        let mut tensor = tensor.clone();
        if let [_, rows, columns] = tensor.shape[..] {
            let len = tensor.floats.len() / count;
            tensor.floats = tensor.floats[expert * len..(expert + 1) * len].to_vec();
            tensor.shape = vec![rows, columns];
        }
        (name.replace("_exps", ""), tensor)
    };
    let tensors = model
        .tensors
        .iter()
        .filter(|(name, _)| !name.contains("gate_inp"));
    dense.tensors = tensors.map(|(name, tensor)| single(name, tensor)).collect();
    dense
}

#[test]
fn a_router_that_always_picks_one_expert_makes_a_dense_model() {
    let tokens = text(20);
    for (executor, make) in EXECUTORS {
        // Where all are equally likely the first one is taken.
        let mut model = TinyModel::new(Family::Qwen3Moe, 7).number("expert_used_count", 1);
        for (name, tensor) in &mut model.tensors {
            if name.contains("gate_inp") {
                tensor.floats.fill(0.0);
            }
        }
        let found = after(&mut *make(&model, ROOM), &tokens);
        let [first, second] =
            [0, 1].map(|at| after(&mut *make(&dense_of(&model, at), ROOM), &tokens));
        assert!(apart(&first, &found) < SAME, "{executor}");
        assert!(apart(&second, &found) > OTHER, "{executor}");
        // Weights of equal experts add up to one.
        let mut equal = TinyModel::new(Family::Qwen3Moe, 7).number("expert_used_count", 3);
        for (name, tensor) in &mut equal.tensors {
            if name.contains("_exps") {
                let len = tensor.floats.len() / 4;
                tensor.floats = tensor.floats[..len].repeat(4);
            }
        }
        let found = after(&mut *make(&equal, ROOM), &tokens);
        let apart = apart(&first, &found);
        assert!(apart < same(executor), "{executor}: {apart}");
    }
}

#[test]
fn the_room_for_sequences_says_which_factors_turn_them() {
    let tokens = text(24);
    let model = TinyModel::new(Family::Phi3, 8);
    let mut swapped = model.clone();
    let names = ["short", "long"].map(|which| format!("rope_factors_{which}.weight"));
    let [short, long] = names
        .each_ref()
        .map(|name| swapped.tensor(name).floats.clone());
    swapped.tensor(&names[0]).floats = long;
    swapped.tensor(&names[1]).floats = short;
    for (executor, make) in EXECUTORS {
        let of = |model, room| after(&mut *make(model, room), &tokens);
        let (short, long) = (of(&model, ROOM), of(&model, ROOM + 1));
        assert!(apart(&short, &long) > OTHER, "{executor}");
        assert_eq!(of(&swapped, ROOM), long, "{executor}");
        assert_eq!(of(&swapped, ROOM + 1), short, "{executor}");
    }
}

#[test]
fn executors_agree() {
    let tokens = text(60);
    for family in Family::ALL {
        let model = TinyModel::new(family, 12);
        let [first, others @ ..] =
            EXECUTORS.map(|(name, make)| (name, after(&mut *make(&model, ROOM), &tokens)));
        // The others keep keys and values as 16-bit floats; the reference looks GELU up in a table of such.
        for (name, found) in others {
            let apart = apart(&first.1, &found);
            assert!(apart < 5e-3, "{name} {family:?}: {apart}");
        }
    }
}
