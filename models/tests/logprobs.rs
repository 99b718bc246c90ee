//! Log-probabilities through the engine's thread: they are those of the model's own logits, go out with the text they
//! belong to, and change nothing of it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

#[path = "support/answers.rs"]
mod answers;
#[path = "support/executors.rs"]
mod executors;
#[path = "support/tiny_model.rs"]
mod tiny_model;

use answers::{Answer, ask, ask_all, request};
use casemate_models::engine::{
    EngineLimits, Executor, FinishReason, GenerateRequest, LOGPROB_FLOOR, LOGPROB_STEP,
    LOGPROBS_MAX, PAGE, Reveal, SamplingError, SubmitError, TokenLogprobs,
};
use executors::{after, engine, load_for};
use tiny_model::{Family, TinyModel};

/// What may change the text but never what is told of a context.
fn with_options(seed: u32) -> GenerateRequest {
    let mut request = request(seed, executors::text(20 + seed as usize), 40);
    request.sampling.top_p = 0.9;
    request.sampling.repetition_penalty = 1.3;
    request.sampling.logit_bias = vec![(70, 3.0), (71, -5.0)];
    request
}

fn telling(mut request: GenerateRequest, count: usize) -> GenerateRequest {
    request.logprobs = Some(Reveal {
        top: count,
        known: LOGPROBS_MAX.max(count),
    });
    request
}

fn limits(executor: Executor) -> EngineLimits {
    EngineLimits {
        executor,
        threads: 1,
        cache_tokens_max: 2048,
        ..EngineLimits::default()
    }
}

/// The natural logarithms of a softmax, in the plainest way.
fn plain(logits: &[f32]) -> Vec<f64> {
    let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
    let share = |logit: &f32| (f64::from(*logit).exp() / sum).ln();
    logits.iter().map(share).collect()
}

#[test]
fn values_are_those_of_the_models_own_logits_whatever_changes_the_draw() {
    let model = TinyModel::new(Family::Llama, 21);
    let loaded = load_for(&model, Executor::Reference, limits(Executor::Reference));
    let running = loaded.unwrap().spawn().unwrap();
    let mut direct = engine(&model, Executor::Reference, 2048);
    let (mut withheld, mut seen) = (0, 0);
    for seed in 0..6 {
        let mut request = telling(with_options(seed), 5);
        // Flat enough that improbable tokens are drawn, too.
        request.sampling.temperature = 3.0;
        request.sampling.top_p = 1.0;
        let prompt = request.prompt.clone();
        let answer = ask(&running, request);
        let drawn: Vec<u32> = answer.logprobs.iter().map(|one| one.token).collect();
        let spoken = |id: &u32| !running.tokenizer().token_bytes(*id).is_empty();
        let spoken: Vec<u32> = answer.tokens.iter().copied().filter(spoken).collect();
        assert_eq!(drawn, spoken, "each token that has text, in order");
        let mut context = prompt.clone();
        let mut told = answer.logprobs.iter();
        for token in &answer.tokens {
            if !running.tokenizer().token_bytes(*token).is_empty() {
                let logits = after(&mut *direct, &context);
                check(told.next().unwrap(), &plain(&logits), &mut withheld);
                seen += 1;
            }
            context.push(*token);
        }
    }
    assert!(withheld > 0 && withheld < seen, "{withheld} of {seen}");
}

fn check(told: &TokenLogprobs, expected: &[f64], withheld: &mut usize) {
    let mut order: Vec<u32> = (0..expected.len() as u32).collect();
    order.sort_by(|a, b| expected[*b as usize].total_cmp(&expected[*a as usize]));
    assert_eq!(told.top.len(), 5);
    for ((id, logprob), by_hand) in told.top.iter().zip(&order) {
        assert!(near(*logprob, expected[*by_hand as usize]));
        assert!(near(*logprob, expected[*id as usize]));
    }
    match told.logprob {
        Some(logprob) => assert!(near(logprob, expected[told.token as usize])),
        None => {
            *withheld += 1;
            let rank = order.iter().position(|id| *id == told.token).unwrap();
            assert!(rank + 1 >= LOGPROBS_MAX, "rank {rank} is withheld");
        }
    }
}

/// Whether a value is what is told of this one: rounded, and not below the floor.
fn near(told: f64, exact: f64) -> bool {
    (told - exact.max(LOGPROB_FLOOR)).abs() < LOGPROB_STEP / 2.0 + 1e-4
}

fn texts(answers: &[Answer]) -> Vec<(&str, Option<FinishReason>)> {
    let each = answers.iter().map(|one| (one.text.as_str(), one.reason));
    each.collect()
}

#[test]
fn a_text_is_the_same_with_them_beside_others_with_guesses_and_after_giving_way() {
    for executor in [Executor::Reference, Executor::Packed] {
        let model = TinyModel::new(Family::Qwen3, 22);
        let start = |limits| load_for(&model, executor, limits).unwrap().spawn().unwrap();
        let running = start(limits(executor));
        let plain: Vec<Answer> = (0..6)
            .map(|seed| ask(&running, with_options(seed)))
            .collect();
        assert!(plain.iter().all(|answer| answer.logprobs.is_empty()));
        let requests = || (0..6).map(|seed| telling(with_options(seed), 3)).collect();
        let alone: Vec<Answer> = (0..6)
            .map(|seed| ask(&running, telling(with_options(seed), 3)))
            .collect();
        assert_eq!(texts(&alone), texts(&plain));
        let unguessed = EngineLimits {
            speculate: false,
            ..limits(executor)
        };
        let tight = EngineLimits {
            cache_tokens_max: 8 * PAGE,
            ..limits(executor)
        };
        for limits in [limits(executor), unguessed, tight] {
            let together = ask_all(&start(limits), requests());
            assert_eq!(texts(&together), texts(&plain));
            for (together, alone) in together.iter().zip(&alone) {
                assert_eq!(together.logprobs.len(), alone.logprobs.len());
                for (one, other) in together.logprobs.iter().zip(&alone.logprobs) {
                    assert_eq!((one.token, one.offset), (other.token, other.offset));
                    let apart = one.logprob.unwrap_or(0.0) - other.logprob.unwrap_or(0.0);
                    // Keys and values of packed weights are F16; a batch adds in another order.
                    assert!(apart.abs() < LOGPROB_STEP + 1e-2, "{apart}");
                }
            }
        }
    }
}

#[test]
fn only_tokens_whose_text_is_given_out_are_told_of() {
    let model = TinyModel::new(Family::Llama, 23);
    let running = load_for(&model, Executor::Best, EngineLimits::default());
    let running = running.unwrap().spawn().unwrap();
    let mut stopped = 0;
    for seed in 0..12 {
        let whole = ask(&running, telling(with_options(seed), 0));
        let characters: Vec<char> = whole.text.chars().collect();
        let stop: String = characters[characters.len() / 2..][..2].iter().collect();
        let mut request = telling(with_options(seed), 0);
        request.stop = vec![stop.clone()];
        let answer = ask(&running, request);
        assert!(!answer.text.contains(&stop));
        let bytes = answer.logprobs.iter();
        let bytes: Vec<u8> = bytes
            .flat_map(|one| running.tokenizer().token_bytes(one.token))
            .copied()
            .collect();
        let told = String::from_utf8_lossy(&bytes).into_owned();
        assert!(answer.text.starts_with(&told), "{told:?} {:?}", answer.text);
        stopped += usize::from(answer.reason == Some(FinishReason::Stop));
        for one in &answer.logprobs {
            let before: String = answer.text.chars().take(one.offset).collect();
            assert!(answer.text.starts_with(&before) && one.offset < answer.text.chars().count());
        }
    }
    assert!(stopped > 6, "{stopped} answers met their stop string");
}

#[test]
fn more_than_the_bound_is_refused_at_once() {
    let model = TinyModel::new(Family::Llama, 24);
    let running = load_for(&model, Executor::Best, EngineLimits::default());
    let running = running.unwrap().spawn().unwrap();
    let request = telling(with_options(1), LOGPROBS_MAX + 1);
    let sink = Box::new(|_| std::ops::ControlFlow::Continue(()));
    let refused = running.engine().submit(request, sink).err();
    let expected = SamplingError::OutOfRange {
        name: "logprobs",
        range: "0 to 20",
    };
    assert_eq!(refused, Some(SubmitError::Sampling(expected)));
}
