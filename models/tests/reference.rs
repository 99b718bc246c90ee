//! Greedy continuations against llama.cpp's, token for token, through the engine's thread.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

mod support;

use std::ops::ControlFlow;
use std::sync::mpsc;

use casemate_models::LoadedModel;
use casemate_models::engine::{EngineLimits, Event, GenerateRequest, SamplingParams, Tenant};
use casemate_models::weights::GgufFile;
use serde_json::Value;

fn ids(value: &Value) -> Vec<u32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_u64().unwrap() as u32)
        .collect()
}

fn agrees(model: &str, quantisation: &str) {
    let Some(reference) = support::shared(&format!("models/reference/{model}.json")) else {
        return;
    };
    let path = support::shared(&format!("models/{model}/{model}-{quantisation}.gguf")).unwrap();
    let file = GgufFile::open(&path).unwrap();
    let loaded = LoadedModel::load(&file, EngineLimits::default(), &mut |_, _| {}).unwrap();
    let running = loaded.spawn().unwrap();
    for case in support::json(&reference)["greedy"].as_array().unwrap() {
        let expected = ids(&case["greedy"][quantisation]["tokens"]);
        let (sender, receiver) = mpsc::channel();
        let request = GenerateRequest {
            tenant: Tenant([0; 32]),
            weight: 1,
            prompt: ids(&case["prompt_tokens"]),
            sampling: SamplingParams {
                temperature: 0.0,
                ..SamplingParams::default()
            },
            tokens_max: Some(expected.len()),
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
        let mut found = Vec::new();
        for event in receiver {
            match event {
                Event::Text { tokens, .. } => found.extend(tokens),
                Event::Finished { .. } => break,
                Event::Failed { reason, .. } => panic!("{reason}"),
            }
        }
        let said = expected.get(..found.len()).unwrap();
        assert!(
            found.len() + 1 >= expected.len(),
            "{model} {quantisation} {}",
            case["id"]
        );
        assert_eq!(found, said, "{model} {quantisation} {}", case["id"]);
    }
}

#[test]
fn greedy_output_of_f32_equals_the_reference() {
    for model in ["stories260K", "tinystories-656K"] {
        agrees(model, "F32");
    }
}

#[test]
fn greedy_output_of_q8_0_equals_the_reference() {
    for model in ["stories260K", "tinystories-656K"] {
        agrees(model, "Q8_0");
    }
}
