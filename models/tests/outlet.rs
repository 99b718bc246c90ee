//! What the engine does for the guard: marks in answers, whoever guesses and whoever computes, and the end of answers that
//! repeat themselves.

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
use casemate_models::engine::sampler::{self, Draws, Past};
use casemate_models::engine::{
    EngineLimits, Executor, FinishReason, GenerateRequest, MarkKey, RepetitionRule, Reveal,
    SamplingParams, SubmitError, learnt, mark,
};
use casemate_models::grammar::Shape;
use casemate_models::model::RunningModel;
use executors::{after, engine, load_for};
use tiny_model::{Family, TinyModel};

fn key() -> MarkKey {
    MarkKey::from_bytes([3; 16])
}

fn marked(at: u32) -> GenerateRequest {
    let mut request = request(at, executors::text(9 + at as usize), 60);
    request.seed = None;
    request.mark = Some(key());
    // Wide enough that there is a choice at every place.
    request.sampling.temperature = 1.5;
    request
}

fn limits(executor: Executor, speculate: bool) -> EngineLimits {
    EngineLimits {
        executor,
        speculate,
        threads: 1,
        cache_tokens_max: 2048,
        ..EngineLimits::default()
    }
}

/// Every token whose context is new is the one that the noise of the context decides; how many there were.
fn check(
    answer: &Answer,
    prompt: &[u32],
    direct: &mut dyn casemate_models::engine::Engine,
) -> usize {
    let request = marked(0);
    let mut tokens = prompt.to_vec();
    let mut decided = 0;
    for token in &answer.tokens {
        if let Some(context) = mark::context(&tokens[prompt.len()..]) {
            let logits = after(direct, &tokens);
            let noise = key().noise(context);
            let drawn = mark::draw(&logits, &request.sampling, Past::default(), &noise, 0.5);
            decided += usize::from(drawn == Ok(*token));
        }
        tokens.push(*token);
    }
    decided
}

#[test]
fn the_mark_decides_whoever_computes_and_whoever_guesses() {
    let model = TinyModel::new(Family::Llama, 41);
    let small = TinyModel::new(Family::Llama, 42);
    for (executor, speculate, draft) in [
        (Executor::Reference, false, None),
        (Executor::Reference, true, None),
        (Executor::Packed, true, None),
        (Executor::Device, true, None),
        (Executor::Reference, true, Some(&model)),
        (Executor::Reference, true, Some(&small)),
    ] {
        let load =
            |model: &TinyModel| load_for(model, executor, limits(executor, speculate)).unwrap();
        let mut loaded = load(&model);
        if let Some(draft) = draft {
            loaded = loaded.with_draft(load(draft)).unwrap();
        }
        let running = loaded.spawn().unwrap();
        let answers = ask_all(&running, (0..4).map(marked).collect());
        let mut direct = engine(&model, executor, 2048);
        for (at, answer) in answers.iter().enumerate() {
            let prompt = marked(at as u32).prompt;
            let decided = check(answer, &prompt, &mut *direct);
            let free = answer.tokens.len().saturating_sub(mark::CONTEXT);
            // Contexts that come again, and near-ties between ways of adding up, are left.
            assert!(
                decided + 6 >= free,
                "{executor:?} {speculate}: {decided} of {free}"
            );
        }
    }
}

/// What an answer tells is the sum of its tokens' surprise in the model's own logits: whoever computes, whoever guesses, wherever
/// tokens are drawn, marked or not, with a temperature or without.
#[test]
fn an_answer_tells_the_surprise_of_its_tokens_whoever_draws_them() {
    let model = TinyModel::new(Family::Llama, 45);
    for (executor, speculate) in [
        (Executor::Reference, false),
        (Executor::Packed, true),
        (Executor::Device, true),
    ] {
        let running = load_for(&model, executor, limits(executor, speculate)).unwrap();
        let running = running.spawn().unwrap();
        let request = |at: u32| {
            let mut request = marked(at);
            request.mark = request.mark.filter(|_| at >= 4);
            request.sampling.temperature = [0.0, 0.7, 1.0, 1.5][at as usize % 4];
            request.sampling.top_k = if at == 1 { 40 } else { 0 };
            request
        };
        let prompts: Vec<Vec<u32>> = (0..8).map(|at| request(at).prompt).collect();
        let answers = ask_all(&running, (0..8).map(request).collect());
        let mut direct = engine(&model, executor, 2048);
        let mut whole = 0;
        for (answer, mut tokens) in answers.iter().zip(prompts) {
            // Tokens without text at the very end are told by nobody.
            if answer.tokens.len() != 60 {
                continue;
            }
            let mut sum = 0;
            for token in &answer.tokens {
                sum += u64::from(learnt::of_text(&after(&mut *direct, &tokens), *token));
                tokens.push(*token);
            }
            whole += 1;
            let off = answer.learnt.millibits.abs_diff(sum);
            assert!(off <= 120, "{executor:?}: {:?} {sum}", answer.learnt);
            assert!(sum > 60 * 50 && answer.learnt.arranged_millibits == 0);
        }
        assert!(whole >= 4, "{executor:?}: {whole} answers");
    }
}

/// Of a large vocabulary nobody adds up all exponentials once more, with a mark or without: a thousandth of a bit is missing at
/// most, beside what a token costs at least.
#[test]
fn what_a_token_of_a_large_vocabulary_tells_is_had_by_the_way() {
    let mut draws = Draws::new(8);
    let logits: Vec<f32> = (0..50_001)
        .map(|_| (-(1.0 - draws.next_point()).ln() * 1.4) as f32)
        .collect();
    for (temperature, top_p) in [0.0, 0.2, 0.7, 1.0, 1.9]
        .into_iter()
        .flat_map(|heat| [(heat, 1.0), (heat, 0.9)])
    {
        let params = SamplingParams {
            temperature,
            top_p,
            ..SamplingParams::default()
        };
        let judged = learnt::Draw {
            raw: &logits,
            masked: None,
            params: &params,
        };
        for turn in 0..40 {
            let (noise, point) = (key().noise([turn, 1, 2, 3]), f64::from(turn) / 40.0);
            let past = Past::default();
            let plain = sampler::draw_outcome(&logits, &params, past, point, true).unwrap();
            let marked = mark::draw_outcome(&logits, &params, past, &noise, point, true).unwrap();
            let alone = sampler::draw(&logits, &params, past, point).unwrap();
            assert_eq!(plain.token, alone, "{temperature}, {top_p}");
            for outcome in [plain, marked] {
                assert!(outcome.raw.is_some(), "{temperature}, {top_p}");
                let exact = learnt::of_text(&logits, outcome.token);
                let off = judged.learnt(&outcome).millibits.abs_diff(exact.into());
                assert!(off <= 1, "{temperature}, {top_p}: {off}");
            }
        }
    }
}

#[test]
fn two_answers_of_one_request_differ_although_marked() {
    let model = TinyModel::new(Family::Llama, 43);
    let running = load_for(&model, Executor::Best, EngineLimits::default());
    let running = running.unwrap().spawn().unwrap();
    let (one, two) = (ask(&running, marked(1)), ask(&running, marked(1)));
    assert_ne!(one.tokens, two.tokens);
}

#[test]
fn s18_no_mark_beside_what_would_make_an_oracle_of_its_noise() {
    let model = TinyModel::new(Family::Llama, 44);
    let running = load_for(&model, Executor::Best, EngineLimits::default());
    let running: RunningModel = running.unwrap().spawn().unwrap();
    let changes: [&dyn Fn(&mut GenerateRequest); 4] = [
        &|request| request.seed = Some(7),
        &|request| request.sampling.logit_bias = vec![(70, 1.0)],
        &|request| request.logprobs = Some(Reveal { top: 0, known: 5 }),
        &|request| request.grammar = Some(Box::new(running.grammar(&Shape::Object).unwrap())),
    ];
    for change in changes {
        let mut request = marked(1);
        change(&mut request);
        let sink = Box::new(|_| std::ops::ControlFlow::Continue(()));
        let refused = running.engine().submit(request, sink).err();
        assert_eq!(refused, Some(SubmitError::MarkBeside));
    }
}

/// An answer that can say nothing but these tokens.
fn stuck(running: &RunningModel, tokens: &[u32], rule: Option<RepetitionRule>) -> Answer {
    let mut request = request(5, executors::text(9), 150);
    request.sampling.logit_bias = tokens.iter().map(|id| (*id, 100.0)).collect();
    // One token, or two in turn: what was said last is less likely than what was said before.
    request.sampling.temperature = 0.0;
    request.sampling.penalty_window = 1;
    request.sampling.presence_penalty = if tokens.len() > 1 { 50.0 } else { 0.0 };
    request.repetition = rule;
    ask(running, request)
}

#[test]
fn s26_an_answer_that_repeats_one_token_or_two_ends() {
    for (executor, seed) in [(Executor::Reference, 45), (Executor::Packed, 46)] {
        let model = TinyModel::new(Family::Llama, seed);
        let running = load_for(&model, executor, limits(executor, true));
        let running = running.unwrap().spawn().unwrap();
        let rule = |stops| {
            Some(RepetitionRule {
                times_max: 64,
                stops,
            })
        };
        for tokens in [&[70][..], &[70, 71]] {
            let stopped = stuck(&running, tokens, rule(true));
            assert_eq!(stopped.reason, Some(FinishReason::Repetition));
            assert_eq!(stopped.tokens.len(), 64 * tokens.len());
            assert!(stopped.repeated);
            // In shadow it goes on and says so; without a rule nobody looks.
            let noted = stuck(&running, tokens, rule(false));
            assert_eq!(
                (noted.reason, noted.repeated),
                (Some(FinishReason::Length), true)
            );
            assert_eq!(noted.tokens.len(), 150);
            let free = stuck(&running, tokens, None);
            assert_eq!(
                (free.reason, free.repeated),
                (Some(FinishReason::Length), false)
            );
        }
        let plain = ask(&running, request(5, executors::text(9), 150));
        assert!(!plain.repeated);
    }
}
