//! The engine for GPUs: what it computes and draws is what the others do, tenants stay apart, and few crossings are needed.
//! Where this binary has CUDA and a GPU is at hand these tests run there; elsewhere the same code runs on the processor.

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
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use casemate_models::engine::{
    Crossings, DeviceChoice, Draw, Drawn, Engine, EngineHandle, EngineLimits, Event, Executor,
    GenerateRequest, KvKind, Opening, PAGE, SamplingParams, SequenceId, StepError, Tenant,
    Vocabulary, Work,
};
use executors::{SAME, apart, device_at_hand, load_for, refusal, text};
use tiny_model::{Family, Sizes, TinyModel, VOCABULARY};

fn limits() -> EngineLimits {
    EngineLimits {
        cache_tokens_max: 2048,
        device: device_at_hand(),
        ..EngineLimits::default()
    }
}

fn limited(change: impl FnOnce(&mut EngineLimits)) -> EngineLimits {
    let mut changed = limits();
    change(&mut changed);
    changed
}

fn engine(model: &TinyModel, limits: EngineLimits) -> Box<dyn Engine> {
    let loaded = load_for(model, Executor::Device, limits).unwrap();
    assert!(loaded.reference().is_none());
    loaded.into_engine()
}

fn id(number: u64) -> SequenceId {
    SequenceId::new(number)
}

/// Opens a sequence of a tenant; answers how many of its tokens were known.
fn open(engine: &mut dyn Engine, number: u64, tenant: u8, tokens: &[u32]) -> usize {
    let opening = Opening {
        tenant: Tenant([tenant; 32]),
        tokens,
        capacity: tokens.len() + 100,
    };
    engine.open(id(number), opening).unwrap()
}

fn work(number: u64, tokens: &[u32], logits: usize) -> Work<'_> {
    Work {
        sequence: id(number),
        tokens,
        logits,
    }
}

/// Logits after the last of `tokens`.
fn step(engine: &mut dyn Engine, number: u64, tokens: &[u32]) -> Vec<f32> {
    let mut logits = Vec::new();
    engine
        .step(&[work(number, tokens, 1)], &mut logits)
        .unwrap();
    assert_eq!(logits.len(), VOCABULARY);
    logits
}

fn greedy() -> SamplingParams {
    SamplingParams {
        temperature: 0.0,
        ..SamplingParams::default()
    }
}

fn warm() -> SamplingParams {
    SamplingParams {
        temperature: 0.8,
        top_p: 0.95,
        ..SamplingParams::default()
    }
}

#[test]
fn a_beginning_is_computed_once_for_its_tenant_and_again_for_others() {
    let mut engine = engine(&TinyModel::new(Family::Llama, 3), limits());
    let engine = &mut *engine;
    let all = engine.pages_free();
    let tokens = text(3 * PAGE + 7);
    assert_eq!(open(engine, 0, 1, &tokens), 0);
    let first = step(engine, 0, &tokens);
    // While it still runs: what it has computed by its next step is found.
    step(engine, 0, &[9]);
    assert_eq!(open(engine, 1, 1, &tokens), 3 * PAGE);
    let found = step(engine, 1, &tokens[3 * PAGE..]);
    assert!(apart(&first, &found) < SAME, "{}", apart(&first, &found));
    assert_eq!(
        open(engine, 2, 2, &tokens),
        0,
        "a stranger computes everything"
    );
    let found = step(engine, 2, &tokens);
    assert!(apart(&first, &found) < SAME);
    for number in 0..3 {
        engine.close(id(number));
    }
    assert_eq!(engine.pages_free(), all, "what is only kept can be had");
    engine.forget();
    assert_eq!(open(engine, 3, 1, &tokens), 0, "nothing is kept");
    // Pages that others filled were wiped: what was in them changes nothing.
    let found = step(engine, 3, &tokens);
    assert!(apart(&first, &found) < SAME);
}

#[test]
fn what_is_taken_back_leaves_no_trace() {
    let mut engine = engine(&TinyModel::new(Family::Qwen3, 5), limits());
    let engine = &mut *engine;
    let tokens = text(2 * PAGE + 5);
    open(engine, 0, 1, &tokens);
    let usual = step(engine, 0, &tokens);
    open(engine, 1, 2, &tokens);
    step(engine, 1, &tokens[..PAGE - 2]);
    // Guesses across the end of a page, all of them wrong.
    let mut logits = Vec::new();
    let guesses = [7, 8, 9, 10, 11];
    engine.step(&[work(1, &guesses, 5)], &mut logits).unwrap();
    assert_eq!(logits.len(), 5 * VOCABULARY);
    engine.truncate(id(1), PAGE - 2);
    let found = step(engine, 1, &tokens[PAGE - 2..]);
    assert!(apart(&usual, &found) < SAME, "{}", apart(&usual, &found));
}

#[test]
fn what_cannot_be_computed_is_an_error_and_not_the_end() {
    let small = EngineLimits {
        cache_tokens_max: 2 * PAGE,
        sequences_max: 1,
        ..limits()
    };
    let mut engine = engine(&TinyModel::new(Family::Llama, 6), small);
    let engine = &mut *engine;
    open(engine, 0, 1, &[]);
    let tokens = text(4 * PAGE);
    let mut refused = |work: Work<'_>, draws: &[Option<Draw<'_>>], why: &str| {
        let said = engine.step_drawing(&[work], draws, &mut Drawn::default());
        let said = said
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        assert!(said.contains(why), "{said:?} and not {why:?}");
    };
    refused(work(0, &tokens, 1), &[], "longer than it may be");
    refused(
        work(0, &[VOCABULARY as u32], 1),
        &[],
        "outside the vocabulary",
    );
    refused(work(0, &[], 1), &[], "empty");
    refused(work(7, &[5], 1), &[], "not open");
    let params = greedy();
    let draw = |points: usize| {
        Some(Draw {
            params: &params,
            points: vec![0.5; points],
        })
    };
    refused(work(0, &[5, 6], 2), &[draw(1)], "does not exist");
    refused(work(0, &[5, 6], 2), &[draw(3)], "does not exist");
    step(engine, 0, &tokens[..2 * PAGE]);
    open(engine, 1, 1, &[]);
    let said = engine.step(&[work(1, &tokens[..2 * PAGE], 1)], &mut Vec::new());
    assert!(said.is_err_and(|error| error.to_string().contains("no page is left")));
    step(engine, 1, &tokens[..PAGE]);
    engine.close(id(0));
    engine.close(id(1));
    assert_eq!(engine.pages_free(), 3);
}

#[test]
fn a_row_without_a_finite_logit_draws_nothing() {
    let model = TinyModel::new(Family::Llama, 7);
    let broken = model.with("output.weight", |tensor| {
        let sign = |x: &mut f32| *x = 3e38_f32.copysign(*x);
        tensor.floats.iter_mut().for_each(sign);
    });
    let mut engine = engine(&broken, limits());
    open(&mut *engine, 0, 1, &[]);
    let (tokens, params) = (text(5), greedy());
    let mut logits = Vec::new();
    engine.step(&[work(0, &tokens, 1)], &mut logits).unwrap();
    let finite = logits.iter().filter(|logit| logit.is_finite()).count();
    let draw = Draw {
        params: &params,
        points: vec![0.5],
    };
    let mut drawn = Drawn::default();
    engine
        .step_drawing(&[work(0, &[5], 1)], &[Some(draw)], &mut drawn)
        .unwrap();
    // Whatever is not finite is for the host, which finds nothing to draw where all is not.
    let found = drawn.tokens.remove(0).unwrap();
    assert!(finite < VOCABULARY);
    assert_eq!(found.is_empty(), finite == 0, "{finite} finite logits");
}

/// An engine that is watched, and may be kept from drawing.
struct Watched {
    engine: Box<dyn Engine>,
    draws: bool,
    /// Steps, and how often they crossed.
    seen: Arc<Mutex<(usize, Crossings)>>,
}

impl Engine for Watched {
    fn context_length(&self) -> usize {
        self.engine.context_length()
    }
    fn vocabulary(&self) -> usize {
        self.engine.vocabulary()
    }
    fn pages_free(&self) -> usize {
        self.engine.pages_free()
    }
    fn open(&mut self, sequence: SequenceId, opening: Opening<'_>) -> Result<usize, StepError> {
        self.engine.open(sequence, opening)
    }
    fn truncate(&mut self, sequence: SequenceId, len: usize) {
        self.engine.truncate(sequence, len);
    }
    fn close(&mut self, sequence: SequenceId) {
        self.engine.close(sequence);
    }
    fn forget(&mut self) {
        self.engine.forget();
    }
    fn step(&mut self, batch: &[Work<'_>], logits: &mut Vec<f32>) -> Result<(), StepError> {
        self.engine.step(batch, logits)
    }
    fn draws(&self, params: &SamplingParams) -> usize {
        usize::from(self.draws) * self.engine.draws(params)
    }
    fn step_drawing(
        &mut self,
        batch: &[Work<'_>],
        draws: &[Option<Draw<'_>>],
        drawn: &mut Drawn,
    ) -> Result<(), StepError> {
        let done = self.engine.step_drawing(batch, draws, drawn);
        let mut seen = self.seen.lock().unwrap();
        *seen = (seen.0 + 1, self.engine.crossings());
        done
    }
}

/// Each token says its number.
struct Numbers(Vec<String>);

impl Vocabulary for Numbers {
    fn token_bytes(&self, id: u32) -> &[u8] {
        self.0[id as usize].as_bytes()
    }

    fn is_end(&self, _: u32) -> bool {
        false
    }
}

/// Texts of requests, steps, and crossings.
fn run(
    model: &TinyModel,
    limits: EngineLimits,
    draws: bool,
    requests: Vec<GenerateRequest>,
) -> (Vec<String>, usize, Crossings) {
    let seen = Arc::<Mutex<(usize, Crossings)>>::default();
    let watched = Watched {
        engine: engine(model, limits.clone()),
        draws,
        seen: seen.clone(),
    };
    let numbers = Numbers((0..VOCABULARY).map(|id| format!("{id} ")).collect());
    let handle = EngineHandle::spawn(Box::new(watched), None, Arc::new(numbers), limits).unwrap();
    let submitted = requests.into_iter().map(|request| {
        let (sender, events) = channel();
        let sink = Box::new(move |event| {
            let _ = sender.send(event);
            ControlFlow::Continue(())
        });
        (events, handle.submit(request, sink).unwrap())
    });
    let submitted: Vec<_> = submitted.collect();
    let said = submitted.iter().map(|(events, _)| said(events)).collect();
    let (steps, crossings) = *seen.lock().unwrap();
    (said, steps, crossings)
}

fn said(events: &Receiver<Event>) -> String {
    let mut said = String::new();
    for event in events {
        match event {
            Event::Text { text, .. } => said += &text,
            Event::Finished { .. } => return said,
            Event::Failed { reason, .. } => panic!("{reason}"),
        }
    }
    panic!("the answer has no end")
}

fn request(seed: u8, sampling: SamplingParams) -> GenerateRequest {
    GenerateRequest {
        tenant: Tenant([seed % 3; 32]),
        weight: 1,
        prompt: text(20 + 9 * usize::from(seed)),
        sampling,
        tokens_max: Some(40),
        stop: Vec::new(),
        seed: Some(seed.into()),
        grammar: None,
        logprobs: None,
        mark: None,
        repetition: None,
        deadline: None,
    }
}

/// Requests of all kinds: greedy ones, warm ones, and such as only the host can draw for.
fn requests() -> Vec<GenerateRequest> {
    let penalised = SamplingParams {
        repetition_penalty: 1.2,
        ..warm()
    };
    let kinds = [greedy(), warm(), SamplingParams::default(), penalised];
    let of = |seed: u8| request(seed, kinds[usize::from(seed) % kinds.len()].clone());
    (0..7).map(of).collect()
}

#[test]
fn tokens_drawn_on_the_device_are_those_that_the_host_draws() {
    for family in [Family::Llama, Family::Gemma3, Family::Qwen3Moe] {
        let model = TinyModel::new(family, 8);
        let (on_host, ..) = run(&model, limits(), false, requests());
        let (drawn, ..) = run(&model, limits(), true, requests());
        assert_eq!(drawn, on_host, "{family:?}");
        let again = run(&model, limits(), true, requests()).0;
        assert_eq!(again, drawn, "{family:?}");
    }
}

#[test]
fn a_text_is_the_same_alone_beside_others_after_giving_way_and_with_guesses() {
    let model = TinyModel::new(Family::Qwen3, 7);
    let alone = requests().into_iter();
    let alone = alone.map(|request| run(&model, limits(), true, vec![request]).0.remove(0));
    let alone: Vec<String> = alone.collect();
    assert_eq!(run(&model, limits(), true, requests()).0, alone);
    // Room for two or three of the seven: the others give way and are computed again.
    let tight = EngineLimits {
        cache_tokens_max: 8 * PAGE,
        sequences_max: 7,
        ..limits()
    };
    assert_eq!(run(&model, tight, true, requests()).0, alone);
    let silent = limited(|limits| limits.speculate = false);
    assert_eq!(run(&model, silent, true, requests()).0, alone);
}

#[test]
fn tokens_come_over_several_at_a_time() {
    let model = TinyModel::new(Family::Llama, 9);
    let quiet = limited(|limits| limits.speculate = false);
    let requests = || (0..4).map(|seed| request(seed, warm())).collect::<Vec<_>>();
    let (said, steps, crossings) = run(&model, quiet.clone(), true, requests());
    let (host, host_steps, host_crossings) = run(&model, quiet, false, requests());
    assert_eq!(said, host);
    assert!(
        2 * steps < host_steps,
        "{steps} steps instead of {host_steps}"
    );
    let per_token =
        |crossings: Crossings| (crossings.uploads + crossings.downloads) as f64 / (4.0 * 40.0);
    let (few, many) = (per_token(crossings), per_token(host_crossings));
    println!("{few:.3} crossings per token of four sequences, {many:.3} with logits on the host");
    // Three crossings for a step of four passes of four sequences, and what the prompts took.
    assert!(few < 0.4, "{few}");
    assert!(crossings.bytes * 4 < host_crossings.bytes);
}

/// What crosses in a step of `sequences` that draw a token each, and one that wants logits too if `logits`.
fn crossed(engine: &mut dyn Engine, sequences: u64, ahead: usize, logits: bool) -> (u64, u64) {
    for number in 0..sequences + 1 {
        open(engine, number, 1, &[]);
        step(engine, number, &text(5 + number as usize));
    }
    let params = [greedy(), SamplingParams::default(), warm()];
    let points = |_| 0.37;
    let draws = (0..sequences as usize).map(|at| {
        Some(Draw {
            params: &params[at % 3],
            points: (0..=ahead).map(points).collect(),
        })
    });
    let mut draws: Vec<_> = draws.collect();
    let mut batch: Vec<Work<'_>> = (0..sequences).map(|number| work(number, &[7], 1)).collect();
    if logits {
        batch.push(work(sequences, &[7], 1));
        draws.push(None);
    }
    let before = engine.crossings();
    let mut drawn = Drawn::default();
    engine.step_drawing(&batch, &draws, &mut drawn).unwrap();
    let after = engine.crossings();
    for number in 0..sequences + 1 {
        engine.close(id(number));
    }
    assert_eq!(drawn.logits.len(), usize::from(logits) * VOCABULARY);
    let tokens = drawn.tokens.iter().flatten();
    assert!(tokens.into_iter().all(|tokens| tokens.len() == ahead + 1));
    (
        after.uploads - before.uploads,
        after.downloads - before.downloads,
    )
}

#[test]
fn crossings_do_not_grow_with_layers_sequences_or_passes() {
    for family in Family::ALL {
        for layers in [1, 6] {
            let sizes = Sizes {
                layers,
                ..Sizes::default()
            };
            let mut engine = engine(&TinyModel::sized(family, 10, sizes), limits());
            let engine = &mut *engine;
            // Numbers and rules up, tokens down; where experts are picked, scores down and picks up in each layer.
            let picks = match family {
                Family::Qwen3Moe => layers as u64,
                _ => 0,
            };
            for (sequences, ahead) in [(1, 0), (3, 0), (9, 0), (3, 3)] {
                let passes = ahead as u64 + 1;
                let few = (2 + 2 * picks * passes, 1 + picks * passes);
                let found = crossed(engine, sequences, ahead, false);
                let what = format!("{family:?}, {layers} layers, {sequences} sequences");
                // Without a temperature no rules need be sent.
                assert!(found.1 == few.1 && found.0 <= few.0, "{what}: {found:?}");
                assert!(
                    found.0 + u64::from(sequences == 1) == few.0,
                    "{what}: {found:?}"
                );
            }
            let (up, down) = crossed(engine, 3, 0, true);
            assert_eq!(
                (up, down),
                (2 + 2 * picks, 2 + picks),
                "{family:?}: logits as well"
            );
        }
    }
}

#[test]
fn a_run_of_passes_is_what_single_steps_are() {
    for family in Family::ALL {
        let model = TinyModel::new(family, 11);
        let mut engine = engine(&model, limits());
        let engine = &mut *engine;
        let prompts: Vec<Vec<u32>> = [30, 62, 17].map(text).to_vec();
        let params = [greedy(), warm(), SamplingParams::default()];
        let points = [0.21, 0.68, 0.05, 0.93];
        let mut drawn = Drawn::default();
        // All at once.
        for (number, prompt) in (0..).zip(&prompts) {
            open(engine, number, 1, &[]);
            step(engine, number, prompt);
        }
        let works: Vec<Work<'_>> = (0..3).map(|number| work(number, &[9], 1)).collect();
        let draw = |params, points: &[f64]| {
            Some(Draw {
                params,
                points: points.to_vec(),
            })
        };
        let draws: Vec<_> = params.iter().map(|params| draw(params, &points)).collect();
        engine.step_drawing(&works, &draws, &mut drawn).unwrap();
        let together: Vec<Vec<u32>> = drawn.tokens.iter().flatten().cloned().collect();
        // One by one.
        for (number, (prompt, params)) in (10..).zip(prompts.iter().zip(&params)) {
            open(engine, number, 2, &[]);
            step(engine, number, prompt);
            let mut token = 9;
            for (at, point) in points.iter().enumerate() {
                let draws = [draw(params, &[*point])];
                engine
                    .step_drawing(&[work(number, &[token], 1)], &draws, &mut drawn)
                    .unwrap();
                token = drawn.tokens[0].as_ref().unwrap()[0];
                let expected = together[number as usize - 10][at];
                assert_eq!(token, expected, "{family:?}: sequence {number}, token {at}");
            }
            // And both sequences are in the same state then.
            let last = step(engine, number, &[token]);
            let other = step(engine, number - 10, &[token]);
            let apart = apart(&last, &other);
            assert!(apart < SAME, "{family:?}: {apart}");
        }
    }
}

#[test]
fn what_a_device_cannot_do_is_said_before_anything_is_read() {
    let model = TinyModel::new(Family::Llama, 12);
    let refused = |limits: EngineLimits| load_for(&model, Executor::Device, limits).err();
    let q8 = limited(|limits| limits.cache = KvKind::Q8);
    assert!(refused(q8).is_some_and(|said| said.contains("use cache \"f16\"")));
    let small = limited(|limits| limits.memory_bytes_max = 1 << 20);
    assert!(refused(small).is_some_and(|said| said.contains("allow more")));
    let absent = limited(|limits| limits.device = DeviceChoice::Cuda(4095));
    let said = refused(absent).unwrap();
    let expected = match cfg!(feature = "cuda") {
        true => "device \"cuda:4095\" cannot be used",
        false => "this binary was built without CUDA: use device \"cpu\"",
    };
    assert!(said.contains(expected), "{said}");
    assert_eq!(refusal(&model), "");
}
