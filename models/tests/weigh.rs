//! An answer that is given is weighed as the same answer would be that is drawn, whoever computes, guesses or runs beside it.

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

use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use answers::{Answer, ask, ask_all, request};
use casemate_models::engine::{
    EngineLimits, Executor, FinishReason, SamplingError, SubmitError, Tenant, Ticket, WeighRequest,
};
use casemate_models::model::RunningModel;
use executors::load_for;
use tiny_model::{Family, TinyModel};

const TOKENS: usize = 100;
/// Whoever computes in another order finds other last digits: thousandths of a bit, for each token.
const NEAR: f64 = 2.0;

fn limits(executor: Executor, speculate: bool) -> EngineLimits {
    EngineLimits {
        executor,
        speculate,
        threads: 1,
        cache_tokens_max: 2048,
        ..EngineLimits::default()
    }
}

fn weighing(prompt: &[u32], answer: &[u32]) -> WeighRequest {
    WeighRequest {
        tenant: Tenant([1; 32]),
        weight: 1,
        prompt: prompt.to_vec(),
        answer: answer.to_vec(),
        deadline: None,
    }
}

fn submit(
    running: &RunningModel,
    request: WeighRequest,
) -> Result<(Receiver<Option<u64>>, Ticket), SubmitError> {
    let (sender, told) = channel();
    let told_once = Box::new(move |weight| sender.send(weight).unwrap());
    let ticket = running.engine().weigh(request, told_once)?;
    Ok((told, ticket))
}

fn weigh(running: &RunningModel, request: WeighRequest) -> Option<u64> {
    let (told, _ticket) = submit(running, request).unwrap();
    let weight = told.recv().unwrap();
    assert!(told.recv().is_err(), "told once");
    weight
}

fn near(weight: Option<u64>, answer: &Answer) -> bool {
    let apart = weight.unwrap().abs_diff(answer.learnt.millibits);
    apart as f64 <= NEAR * answer.tokens.len() as f64
}

fn prompt(at: u32) -> Vec<u32> {
    executors::text(9 + at as usize)
}

/// Prompts with their answers that did not end by themselves: those have a token more than their text.
fn drawn(running: &RunningModel) -> Vec<(Vec<u32>, Answer)> {
    let requests = (0..24).map(|at| request(at, prompt(at), TOKENS)).collect();
    let answers = ask_all(running, requests).into_iter().enumerate();
    let answers: Vec<_> = answers
        .map(|(at, answer)| (prompt(at as u32), answer))
        .filter(|(_, answer)| answer.reason == Some(FinishReason::Length))
        .take(4)
        .collect();
    assert!(answers.len() > 1, "{}", answers.len());
    for (_, answer) in &answers {
        assert_eq!(answer.tokens.len(), TOKENS);
    }
    answers
}

#[test]
fn a_given_answer_weighs_what_it_told_when_it_was_drawn() {
    let model = TinyModel::new(Family::Llama, 41);
    let draft = TinyModel::new(Family::Llama, 42);
    for (executor, speculate, drafted) in [
        (Executor::Reference, false, false),
        (Executor::Reference, true, true),
        (Executor::Packed, true, false),
        (Executor::Device, true, false),
    ] {
        let load =
            |model: &TinyModel| load_for(model, executor, limits(executor, speculate)).unwrap();
        let mut loaded = load(&model);
        if drafted {
            loaded = loaded.with_draft(load(&draft)).unwrap();
        }
        let running = loaded.spawn().unwrap();
        let answers = drawn(&running);
        for (prompt, answer) in &answers {
            let alone = weigh(&running, weighing(prompt, &answer.tokens));
            assert!(near(alone, answer), "{executor:?} {alone:?}");
            // A part of it, and after another prompt.
            let part = weigh(&running, weighing(prompt, &answer.tokens[..1]));
            assert!(part.unwrap() < alone.unwrap());
            let elsewhere = weigh(&running, weighing(&prompt[3..], &answer.tokens));
            assert_ne!(elsewhere, alone);
        }
        // All of them at once, beside one that is drawn meanwhile.
        let beside = |(prompt, answer): &(Vec<u32>, Answer)| {
            submit(&running, weighing(prompt, &answer.tokens)).unwrap()
        };
        let runs: Vec<_> = answers.iter().map(beside).collect();
        let again = ask(&running, request(0, prompt(0), TOKENS));
        for ((told, _ticket), (_, answer)) in runs.iter().zip(&answers) {
            assert!(near(told.recv().unwrap(), answer), "{executor:?}");
        }
        let alone = ask(&running, request(0, prompt(0), TOKENS));
        if executor == Executor::Reference {
            assert!(again.tokens == alone.tokens, "{executor:?}");
        }
    }
}

#[test]
fn what_cannot_be_weighed_is_refused_and_what_is_cut_off_has_no_weight() {
    let model = TinyModel::new(Family::Llama, 41);
    let executor = Executor::Packed;
    let running = load_for(&model, executor, limits(executor, true))
        .unwrap()
        .spawn()
        .unwrap();
    let refused = |prompt: &[u32], answer: &[u32]| submit(&running, weighing(prompt, answer)).err();
    let unknown = Some(SubmitError::Sampling(SamplingError::UnknownToken));
    assert_eq!(refused(&prompt(0), &[u32::MAX]), unknown);
    assert_eq!(refused(&[], &[1]), Some(SubmitError::Empty));
    assert_eq!(refused(&prompt(0), &[]), Some(SubmitError::Empty));
    let limit = running.engine().context_length();
    let full = vec![3; limit - 9];
    assert_eq!(
        refused(&prompt(1), &full),
        Some(SubmitError::ContextExceeded {
            prompt: limit + 1,
            limit
        })
    );
    assert!(weigh(&running, weighing(&prompt(0), &full)).is_some());
    // Too late, and nobody there who wants to know.
    let mut late = weighing(&prompt(0), &full);
    late.deadline = Some(Instant::now() - Duration::from_secs(1));
    assert_eq!(weigh(&running, late), None);
    // Behind others that fill the memory.
    let full = || submit(&running, weighing(&prompt(0), &full)).unwrap();
    let _before = [full(), full(), full()];
    let (told, ticket) = full();
    drop(ticket);
    assert_eq!(told.recv(), Ok(None));
}
