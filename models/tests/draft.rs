//! A draft guesses and changes nothing: not the text, not what is drawn how often, whatever becomes of the draft itself.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

#[path = "support/bench.rs"]
mod bench;
#[path = "support/tiny_model.rs"]
mod tiny_model;

use std::collections::BTreeMap;

use bench::{Bench, engine, load, request, text, with_step};
use casemate_models::engine::sampler::{Distribution, Past};
use casemate_models::engine::{
    Engine, EngineLimits, Executor, GenerateRequest, Opening, PAGE, SamplingParams, SequenceId,
    StepError, Work,
};
use casemate_models::model::LoadError;
use tiny_model::{Family, Meta, Sizes, TinyModel};

/// One thread each: two engines take turns, and more would wait for each other.
fn limits(executor: Executor) -> EngineLimits {
    EngineLimits {
        threads: 1,
        ..bench::limits(executor)
    }
}

fn large() -> TinyModel {
    TinyModel::new(Family::Qwen3, 21)
}

/// Says something else than the large one most of the time.
fn small() -> TinyModel {
    let sizes = Sizes {
        layers: 1,
        ..Sizes::default()
    };
    TinyModel::sized(Family::Llama, 22, sizes)
}

fn requests() -> Vec<GenerateRequest> {
    let mut requests: Vec<GenerateRequest> = (0..6)
        .map(|seed| request(seed, text(seed, 5 + 40 * seed as usize), 50))
        .collect();
    requests[1].sampling.temperature = 0.0;
    requests[2].sampling.repetition_penalty = 1.3;
    requests[3].sampling.top_k = 3;
    requests
}

fn run(limits: EngineLimits, draft: Option<Box<dyn Engine>>) -> (Vec<String>, Bench) {
    let bench = Bench::drafted(&large(), limits, draft);
    (bench.all(requests()), bench)
}

#[test]
fn no_text_changes_whatever_the_draft_says() {
    for executor in [Executor::Packed, Executor::Reference] {
        let (plain, _) = run(limits(executor), None);
        for draft in [large(), small()] {
            let draft = engine(&draft, limits(Executor::Reference));
            let (drafted, bench) = run(limits(executor), Some(draft));
            assert_eq!(drafted, plain, "{executor:?}");
            assert!(bench.drafts() > 0);
        }
    }
}

#[test]
fn a_draft_that_is_right_saves_steps() {
    let once = |draft| {
        let bench = Bench::drafted(&large(), limits(Executor::Packed), draft);
        let said = bench.all(vec![request(0, text(0, 30), 80)]);
        (said, bench.steps())
    };
    let (plain, steps) = once(None);
    let (drafted, fewer) = once(Some(engine(&large(), limits(Executor::Packed))));
    assert_eq!(drafted, plain);
    assert!(fewer * 3 < steps, "{fewer} steps of {steps}");
}

#[test]
fn a_draft_that_is_wrong_is_hardly_asked_any_more() {
    let draft = engine(&small(), limits(Executor::Reference));
    let bench = Bench::drafted(&large(), limits(Executor::Packed), Some(draft));
    bench.all(vec![request(0, text(0, 30), 400)]);
    assert!(
        bench.drafts() * 5 < bench.steps(),
        "{} drafts beside {} steps",
        bench.drafts(),
        bench.steps()
    );
}

#[test]
fn memory_that_runs_out_on_either_side_costs_guesses_only() {
    let (plain, _) = run(limits(Executor::Packed), None);
    for pages in [1, 2, 5, 9] {
        let little = EngineLimits {
            cache_tokens_max: pages * PAGE,
            sequences_max: 1,
            ..limits(Executor::Packed)
        };
        let (drafted, bench) = run(limits(Executor::Packed), Some(engine(&large(), little)));
        assert_eq!(drafted, plain, "{pages} pages for the draft");
        assert_eq!(bench.draft_pages_free(), pages + 1, "all pages are back");
    }
    let tight = EngineLimits {
        cache_tokens_max: 9 * PAGE,
        ..limits(Executor::Packed)
    };
    let draft = engine(&large(), limits(Executor::Packed));
    assert_eq!(run(tight, Some(draft)).0, plain, "others give way");
}

#[test]
fn a_context_that_is_too_short_costs_guesses_only() {
    let (plain, _) = run(limits(Executor::Packed), None);
    let short = large().set("qwen3.context_length", Meta::Unsigned(64));
    let draft = engine(&short, limits(Executor::Packed));
    assert_eq!(run(limits(Executor::Packed), Some(draft)).0, plain);
}

/// A draft that breaks every few steps.
fn broken(engine: Box<dyn Engine>) -> Box<dyn Engine> {
    let mut steps = 0;
    with_step(engine, move |engine, batch, logits| {
        steps += 1;
        match steps % 7 {
            3 => Err(StepError("on purpose".to_owned())),
            5 => panic!("on purpose"),
            6 => {
                logits.clear();
                Ok(())
            }
            _ => engine.step(batch, logits),
        }
    })
}

#[test]
fn a_draft_that_breaks_costs_guesses_only() {
    let (plain, _) = run(limits(Executor::Packed), None);
    let broken = broken(engine(&large(), limits(Executor::Packed)));
    let (drafted, bench) = run(limits(Executor::Packed), Some(broken));
    assert!(bench.drafts() >= 7, "each way to break was met");
    assert_eq!(drafted, plain);
}

/// What comes out must be drawn as often as the large model says, to the accuracy that so many draws have: Pearson's
/// chi-squared over every pair of tokens that can come.
#[test]
fn pairs_of_tokens_are_drawn_as_often_as_the_large_model_says() {
    const DRAWN: u32 = 1_600;
    let sampling = SamplingParams {
        temperature: 1.0,
        top_k: 3,
        ..SamplingParams::default()
    };
    let prompt = text(5, 40);
    let expected = pairs(&prompt, &sampling);
    assert_eq!(expected.len(), 9);
    for draft in [large(), small()] {
        let draft = engine(&draft, limits(Executor::Reference));
        let bench = Bench::drafted(&large(), limits(Executor::Packed), Some(draft));
        let mut found: BTreeMap<String, u32> = BTreeMap::new();
        for first in (0..DRAWN).step_by(16) {
            let requests = (first..first + 16).map(|seed| GenerateRequest {
                sampling: sampling.clone(),
                // A third, so that the second may be guessed.
                ..request(seed, prompt.clone(), 3)
            });
            for said in bench.all(requests.collect()) {
                let pair: Vec<&str> = said.split_whitespace().take(2).collect();
                *found.entry(pair.join(" ")).or_default() += 1;
            }
        }
        let statistic: f64 = expected
            .iter()
            .map(|(pair, probability)| {
                let expected = probability * f64::from(DRAWN);
                let found = f64::from(found.get(pair).copied().unwrap_or_default());
                (found - expected).powi(2) / expected
            })
            .sum();
        assert_eq!(found.values().sum::<u32>(), DRAWN);
        assert!(found.keys().all(|pair| expected.contains_key(pair)));
        // Eight degrees of freedom: one of ten thousand fair runs is above 31.8. The seeds are fixed, so this is no lottery.
        assert!(statistic < 31.8, "{statistic}");
        assert!(bench.drafts() > 0);
    }
}

/// The probability of each pair, by the large model alone.
fn pairs(prompt: &[u32], sampling: &SamplingParams) -> BTreeMap<String, f64> {
    let mut pairs = BTreeMap::new();
    for (first, probability) in after(prompt, sampling) {
        let context = [prompt, &[first]].concat();
        for (second, then) in after(&context, sampling) {
            pairs.insert(format!("{first} {second}"), probability * then);
        }
    }
    pairs
}

fn after(context: &[u32], sampling: &SamplingParams) -> Vec<(u32, f64)> {
    let mut engine = engine(&large(), limits(Executor::Packed));
    let sequence = SequenceId::new(0);
    let opening = Opening {
        tenant: bench::tenant(0),
        tokens: &[],
        capacity: context.len(),
    };
    engine.open(sequence, opening).unwrap();
    let work = Work {
        sequence,
        tokens: context,
        logits: 1,
    };
    let mut logits = Vec::new();
    engine.step(&[work], &mut logits).unwrap();
    Distribution::new(&logits, sampling, Past::default())
        .unwrap()
        .tokens
}

#[test]
fn a_draft_of_another_vocabulary_is_refused() {
    let mut tokens = TinyModel::new(Family::Llama, 23);
    let Some(Meta::Texts(names)) = tokens.metadata.get_mut("tokenizer.ggml.tokens") else {
        panic!("a tiny model has tokens");
    };
    names.swap(40, 41);
    let target = load(&large(), limits(Executor::Packed));
    let draft = load(&tokens, limits(Executor::Packed));
    match target.with_draft(draft) {
        Err(LoadError::DraftVocabulary { differs: 40, .. }) => {}
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("accepted"),
    }
    let target = load(&large(), limits(Executor::Packed));
    let draft = load(&small(), limits(Executor::Packed));
    assert!(target.with_draft(draft).unwrap().spawn().is_ok());
}
