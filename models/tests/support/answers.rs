//! Requests to a running model, and their answers whole.

#![allow(dead_code, reason = "each test file uses its part of this")]

use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, channel};

use casemate_models::engine::{
    Event, Failure, FinishReason, GenerateRequest, Learnt, SamplingParams, Tenant, Ticket,
    TokenLogprobs,
};
use casemate_models::model::RunningModel;

/// Everything that was said.
#[derive(Default)]
pub struct Answer {
    pub text: String,
    pub tokens: Vec<u32>,
    pub learnt: Learnt,
    pub logprobs: Vec<TokenLogprobs>,
    pub reason: Option<FinishReason>,
    pub repeated: bool,
    pub failed: Option<(Failure, String)>,
}

/// A request at temperature 1 with a seed.
pub fn request(seed: u32, prompt: Vec<u32>, tokens_max: usize) -> GenerateRequest {
    GenerateRequest {
        tenant: Tenant([seed as u8 % 3; 32]),
        weight: 1,
        prompt,
        sampling: SamplingParams::default(),
        tokens_max: Some(tokens_max),
        stop: Vec::new(),
        seed: Some(seed.into()),
        grammar: None,
        logprobs: None,
        mark: None,
        repetition: None,
        deadline: None,
    }
}

fn submit(running: &RunningModel, request: GenerateRequest) -> (Receiver<Event>, Ticket) {
    let (sender, events) = channel();
    let sink = Box::new(move |event| {
        let _ = sender.send(event);
        ControlFlow::Continue(())
    });
    (events, running.engine().submit(request, sink).unwrap())
}

fn collect(events: &Receiver<Event>) -> Answer {
    let mut answer = Answer::default();
    loop {
        match events.recv().unwrap() {
            Event::Text {
                text,
                tokens,
                learnt,
                logprobs,
            } => {
                answer.learnt.add(learnt);
                assert!(!text.is_empty());
                answer.text += &text;
                answer.tokens.extend(tokens);
                answer.logprobs.extend(logprobs);
            }
            Event::Finished {
                reason,
                repeated,
                learnt,
                ..
            } => {
                answer.learnt.add(learnt);
                answer.reason = Some(reason);
                answer.repeated = repeated;
                return answer;
            }
            Event::Failed {
                failure, reason, ..
            } => {
                answer.failed = Some((failure, reason));
                return answer;
            }
        }
    }
}

/// The answer to a request.
pub fn ask(running: &RunningModel, request: GenerateRequest) -> Answer {
    let (events, _ticket) = submit(running, request);
    collect(&events)
}

/// The answers to requests that run side by side.
pub fn ask_all(running: &RunningModel, requests: Vec<GenerateRequest>) -> Vec<Answer> {
    let runs = requests.into_iter().map(|one| submit(running, one));
    let runs: Vec<_> = runs.collect();
    runs.iter().map(|(events, _)| collect(events)).collect()
}
