//! How far every quantisation agrees with llama.cpp: log-probabilities along prompts, and greedy continuations up to
//! their first difference, which must be a near-tie. Prints the table that `docs/PERFORMANCE.md` shows.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

mod support;

use casemate_models::LoadedModel;
use casemate_models::decoder::{Cache, Decoder, Rows, WantedLogits};
use casemate_models::engine::EngineLimits;
use casemate_models::weights::GgufFile;
use serde_json::Value;

/// Nats between our choice and the reference's, in our own model, that still count as a near-tie.
const NEAR_TIE: f64 = 0.1;

/// A model, a quantisation, how many of its 20 continuations are equal at least, and how far log-probabilities of the
/// five likeliest tokens may be from the reference's.
const BARS: [(&str, &str, usize, f64); 13] = [
    ("stories260K", "F32", 20, 1e-4),
    ("stories260K", "Q8_0", 20, 3.1e-5),
    ("stories260K", "F16", 18, 0.02),
    ("stories260K", "BF16", 16, 0.1),
    ("stories260K", "Q4_0", 15, 0.3),
    ("tinystories-656K", "F32", 20, 1e-4),
    ("tinystories-656K", "Q8_0", 20, 3.1e-5),
    ("tinystories-656K", "F16", 19, 0.02),
    ("tinystories-656K", "Q4_K_M", 18, 0.1),
    ("tinystories-656K", "Q5_0", 18, 0.1),
    ("tinystories-656K", "Q4_0", 17, 0.1),
    ("tinystories-656K", "Q5_1", 5, 0.3),
    ("tinystories-656K", "Q4_1", 1, 0.3),
];

fn ids(value: &Value) -> Vec<u32> {
    let ids = value.as_array().unwrap().iter();
    ids.map(|id| id.as_u64().unwrap() as u32).collect()
}

fn log_probabilities(logits: &[f32]) -> Vec<f64> {
    let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
    let minus = sum.ln();
    let each = logits.iter().map(|logit| f64::from(*logit) - minus);
    each.collect()
}

fn forward(
    model: &Decoder,
    cache: &mut Cache,
    tokens: &[u32],
    logits: WantedLogits,
) -> Vec<Vec<f32>> {
    let rows = Rows {
        tokens,
        cache,
        logits,
    };
    model.forward(&mut [rows]).unwrap()
}

/// The largest difference of a log-probability.
fn largest_difference(model: &Decoder, cases: &Value, quantisation: &str) -> f64 {
    let mut largest = 0.0_f64;
    for case in cases.as_array().unwrap() {
        let tokens = ids(&case["tokens"]);
        let mut cache = model.cache(tokens.len()).unwrap();
        let logits = forward(model, &mut cache, &tokens, WantedLogits::All);
        for row in case["quants"][quantisation].as_array().unwrap() {
            let ours = log_probabilities(&logits[row["pos"].as_u64().unwrap() as usize]);
            for pair in row["top5"].as_array().unwrap() {
                let found = ours[pair[0].as_u64().unwrap() as usize];
                largest = largest.max((found - pair[1].as_f64().unwrap()).abs());
            }
        }
    }
    largest
}

/// Greedy continuations of one quantisation.
#[derive(Default)]
struct Greedy {
    equal: usize,
    all: usize,
    /// Tokens before the first difference, of the others.
    before: Vec<usize>,
    /// The largest margin at a first difference.
    margin: f64,
}

fn greedy(model: &Decoder, cases: &Value, quantisation: &str) -> Greedy {
    let mut found = Greedy::default();
    for case in cases.as_array().unwrap() {
        let expected = ids(&case["greedy"][quantisation]["tokens"]);
        let mut input = ids(&case["prompt_tokens"]);
        let mut cache = model.cache(input.len() + expected.len()).unwrap();
        let difference = expected.iter().enumerate().find_map(|(at, token)| {
            let logits = forward(model, &mut cache, &input, WantedLogits::Last).remove(0);
            let ours = log_probabilities(&logits);
            let best = ours.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            input = vec![*token];
            let margin = best - ours[*token as usize];
            (margin > 0.0).then_some((at, margin))
        });
        found.all += 1;
        match difference {
            None => found.equal += 1,
            Some((at, margin)) => {
                found.before.push(at);
                found.margin = found.margin.max(margin);
            }
        }
    }
    found
}

#[test]
fn every_quantisation_agrees_up_to_near_ties() {
    println!(
        "| model | type | greedy equal | tokens before a difference (median) | largest margin there | largest difference of a log-probability | between two builds of llama.cpp |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (model, quantisation, equal_min, difference_max) in BARS {
        let Some(reference) = support::shared(&format!("models/reference/{model}.json")) else {
            return;
        };
        let reference = support::json(&reference);
        let path = format!("models/{model}/{model}-{quantisation}.gguf");
        let file = GgufFile::open(&support::shared(&path).unwrap()).unwrap();
        let loaded = LoadedModel::load(&file, EngineLimits::default(), &mut |_, _| {}).unwrap();
        let difference = largest_difference(
            loaded.reference().unwrap(),
            &reference["top5"],
            quantisation,
        );
        let mut greedy = greedy(
            loaded.reference().unwrap(),
            &reference["greedy"],
            quantisation,
        );
        greedy.before.sort_unstable();
        let median = greedy.before.get(greedy.before.len() / 2);
        println!(
            "| {model} | {quantisation} | {} of {} | {} | {:.4} | {difference:.6} | {} |",
            greedy.equal,
            greedy.all,
            median.map_or("-".to_owned(), usize::to_string),
            greedy.margin,
            reference["between_builds"][quantisation]["max_abs_logprob_difference_between_builds"],
        );
        let what = format!("{model} {quantisation}");
        assert!(greedy.equal >= equal_min, "{what}: {} equal", greedy.equal);
        assert!(
            greedy.margin <= NEAR_TIE,
            "{what}: margin {}",
            greedy.margin
        );
        assert!(difference <= difference_max, "{what}: {difference}");
    }
}
