//! Engines of tiny models behind their threads, watched from outside: steps, free pages, and what they say.

#![allow(dead_code, reason = "each test file uses its part of this")]

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};

use casemate_models::LoadedModel;
use casemate_models::engine::{
    Draft, Engine, EngineHandle, EngineLimits, Event, Executor, FinishReason, GenerateRequest,
    Opening, SamplingParams, SequenceId, StepError, Tenant, Ticket, Vocabulary, Work,
};
use casemate_models::weights::GgufFile;

use crate::tiny_model::{TinyModel, VOCABULARY};

/// Bounds that small tests do not meet.
pub fn limits(executor: Executor) -> EngineLimits {
    EngineLimits {
        executor,
        threads: 2,
        cache_tokens_max: 2048,
        ..EngineLimits::default()
    }
}

/// The model in memory.
pub fn load(model: &TinyModel, limits: EngineLimits) -> LoadedModel {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    model.write(&path);
    let file = GgufFile::open(&path).unwrap();
    let executor = limits.executor;
    let loaded = LoadedModel::load(&file, limits, &mut |_, _| {}).unwrap();
    assert_eq!(loaded.reference().is_none(), executor == Executor::Packed);
    loaded
}

/// The engine of a model.
pub fn engine(model: &TinyModel, limits: EngineLimits) -> Box<dyn Engine> {
    load(model, limits).into_engine()
}

/// Token ids that differ from place to place, and from seed to seed.
pub fn text(seed: u32, len: usize) -> Vec<u32> {
    (0..len as u32)
        .map(|at| 4 + (at * 37 + seed * 101 + at * at % 7) % 251)
        .collect()
}

/// One of many.
pub fn tenant(name: u8) -> Tenant {
    Tenant([name; 32])
}

/// A request of one of three tenants, drawn with a temperature.
pub fn request(seed: u32, prompt: Vec<u32>, tokens_max: usize) -> GenerateRequest {
    GenerateRequest {
        tenant: tenant(seed as u8 % 3),
        weight: 1,
        prompt,
        sampling: SamplingParams {
            temperature: 0.8,
            top_p: 0.95,
            ..SamplingParams::default()
        },
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

/// What is seen of an engine from outside.
#[derive(Clone, Default)]
struct Seen {
    steps: Arc<AtomicUsize>,
    /// Pages, when a sequence was last closed.
    free: Arc<AtomicUsize>,
}

/// What a step does, with the engine that it is given.
type Step =
    Box<dyn FnMut(&mut dyn Engine, &[Work<'_>], &mut Vec<f32>) -> Result<(), StepError> + Send>;

/// An engine that is watched.
struct Watched {
    engine: Box<dyn Engine>,
    step: Step,
    seen: Seen,
}

impl Watched {
    fn new(engine: Box<dyn Engine>) -> Self {
        let seen = Seen::default();
        seen.free.store(engine.pages_free(), Ordering::SeqCst);
        Self {
            engine,
            step: Box::new(|engine, batch, logits| engine.step(batch, logits)),
            seen,
        }
    }
}

/// An engine whose steps are what `step` makes of them.
pub fn with_step(
    engine: Box<dyn Engine>,
    step: impl FnMut(&mut dyn Engine, &[Work<'_>], &mut Vec<f32>) -> Result<(), StepError>
    + Send
    + 'static,
) -> Box<dyn Engine> {
    Box::new(Watched {
        step: Box::new(step),
        ..Watched::new(engine)
    })
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
        self.seen
            .free
            .store(self.engine.pages_free(), Ordering::SeqCst);
    }
    fn forget(&mut self) {
        self.engine.forget();
    }
    fn step(&mut self, batch: &[Work<'_>], logits: &mut Vec<f32>) -> Result<(), StepError> {
        self.seen.steps.fetch_add(1, Ordering::Relaxed);
        (self.step)(&mut *self.engine, batch, logits)
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

/// An engine's thread, and what is seen of the engine.
pub struct Bench {
    handle: EngineHandle,
    seen: Seen,
    /// What is seen of its draft.
    drafted: Seen,
}

impl Bench {
    /// The engine of a model by itself.
    pub fn new(model: &TinyModel, limits: EngineLimits) -> Self {
        Self::drafted(model, limits, None)
    }

    /// The engine of a model beside a draft's. A guess is said to cost a tenth of a step.
    pub fn drafted(
        model: &TinyModel,
        limits: EngineLimits,
        draft: Option<Box<dyn Engine>>,
    ) -> Self {
        let watched = Watched::new(engine(model, limits.clone()));
        let seen = watched.seen.clone();
        let mut drafted = Seen::default();
        let draft = draft.map(|draft| {
            let draft = Watched::new(draft);
            drafted = draft.seen.clone();
            Draft::new(Box::new(draft), 0.1)
        });
        let numbers = Numbers((0..VOCABULARY).map(|id| format!("{id} ")).collect());
        let handle = EngineHandle::spawn(Box::new(watched), draft, Arc::new(numbers), limits);
        Self {
            handle: handle.unwrap(),
            seen,
            drafted,
        }
    }

    /// Steps until now.
    pub fn steps(&self) -> usize {
        self.seen.steps.load(Ordering::Relaxed)
    }

    /// Steps of the draft until now.
    pub fn drafts(&self) -> usize {
        self.drafted.steps.load(Ordering::Relaxed)
    }

    /// Pages that were free when a sequence was last closed.
    pub fn pages_free(&self) -> usize {
        self.seen.free.load(Ordering::SeqCst)
    }

    /// The same of the draft.
    pub fn draft_pages_free(&self) -> usize {
        self.drafted.free.load(Ordering::SeqCst)
    }

    /// Starts a request.
    pub fn submit(&self, request: GenerateRequest) -> (Receiver<Event>, Ticket) {
        let (sender, events) = channel();
        let sink = Box::new(move |event| match sender.send(event) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        });
        (events, self.handle.submit(request, sink).unwrap())
    }

    /// What the engine says to all of `requests`, which run beside each other.
    pub fn all(&self, requests: Vec<GenerateRequest>) -> Vec<String> {
        let runs: Vec<_> = requests
            .into_iter()
            .map(|request| self.submit(request))
            .collect();
        runs.into_iter()
            .map(|(events, _ticket)| said(&events))
            .collect()
    }
}

fn said(events: &Receiver<Event>) -> String {
    let mut said = String::new();
    loop {
        match events.recv().unwrap() {
            Event::Text { text, .. } => said += &text,
            Event::Finished { reason, .. } => {
                assert_eq!(reason, FinishReason::Length);
                return said;
            }
            Event::Failed { reason, .. } => panic!("{reason}"),
        }
    }
}
