//! The engine's thread with a scripted engine: who shares a step, what ends a request, and what one request's end
//! means for the others.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use casemate_models::engine::{
    Engine, EngineHandle, EngineLimits, Event, FinishReason, GenerateRequest, Opening, PAGE,
    SamplingParams, SequenceId, StepError, SubmitError, Tenant, Ticket, Vocabulary, Work,
};

const TOKENS: u32 = 64;
const END: u32 = 63;
/// A prompt token that makes a step panic.
const BOOM: u32 = 62;
const CONTEXT: usize = 128;
/// Longer than any of these tests takes unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the scripted engine was asked: for each step the sequences and their numbers of tokens.
#[derive(Default)]
struct Log {
    steps: Vec<Vec<(SequenceId, usize)>>,
    /// What went through the model of each sequence.
    open: HashMap<SequenceId, Vec<u32>>,
}

impl Log {
    fn pages(&self) -> usize {
        self.open
            .values()
            .map(|tokens| tokens.len().div_ceil(PAGE))
            .sum()
    }
}

/// Says the token after the last one; a step waits for a permit.
struct Scripted {
    log: Arc<Mutex<Log>>,
    permits: Receiver<()>,
    pages: usize,
}

impl Engine for Scripted {
    fn context_length(&self) -> usize {
        CONTEXT
    }

    fn vocabulary(&self) -> usize {
        TOKENS as usize
    }

    fn pages_free(&self) -> usize {
        self.pages - self.log.lock().unwrap().pages()
    }

    fn open(&mut self, sequence: SequenceId, _: Opening<'_>) -> Result<usize, StepError> {
        self.log.lock().unwrap().open.insert(sequence, Vec::new());
        Ok(0)
    }

    fn truncate(&mut self, sequence: SequenceId, len: usize) {
        let mut log = self.log.lock().unwrap();
        log.open.get_mut(&sequence).unwrap().truncate(len);
    }

    fn close(&mut self, sequence: SequenceId) {
        self.log.lock().unwrap().open.remove(&sequence);
    }

    fn forget(&mut self) {}

    fn step(&mut self, batch: &[Work<'_>], rows: &mut Vec<f32>) -> Result<(), StepError> {
        // Without a sender every step is permitted.
        let _ = self.permits.recv();
        let boom = batch.iter().any(|work| work.tokens.contains(&BOOM));
        assert!(!boom, "the scripted engine was told to panic");
        let mut log = self.log.lock().unwrap();
        rows.clear();
        for work in batch {
            let tokens = log.open.get_mut(&work.sequence).unwrap();
            tokens.extend(work.tokens);
            let first = work.tokens.len() - work.logits;
            (first..work.tokens.len()).for_each(|at| rows.extend(logits(&work.tokens[..=at])));
        }
        assert!(
            log.pages() <= self.pages,
            "a step took pages that there are not"
        );
        let step = batch.iter().map(|work| (work.sequence, work.tokens.len()));
        log.steps.push(step.collect());
        Ok(())
    }
}

/// The next token is the likeliest; the others are likely enough to be drawn when the temperature is not zero.
fn logits(tokens: &[u32]) -> Vec<f32> {
    let next = (tokens[tokens.len() - 1] + 1) % BOOM;
    let logit = |id| match id {
        END | BOOM => f32::NEG_INFINITY,
        id if id == next => 2.0,
        id => (id * 7 % 11) as f32 / 10.0,
    };
    (0..TOKENS).map(logit).collect()
}

/// Token 0 says `a`, token 1 `b`, and so on.
struct Letters(Vec<u8>);

impl Vocabulary for Letters {
    fn token_bytes(&self, id: u32) -> &[u8] {
        &self.0[id as usize..=id as usize]
    }

    fn is_end(&self, id: u32) -> bool {
        id == END
    }
}

struct Bench {
    /// Dropped before the engine, whose thread would otherwise wait for a permit for ever.
    permits: Option<Sender<()>>,
    engine: EngineHandle,
    log: Arc<Mutex<Log>>,
}

impl Bench {
    /// An engine whose steps wait for [`Bench::permit`].
    fn held(limits: EngineLimits) -> Self {
        let (sender, permits) = channel();
        let log = Arc::<Mutex<Log>>::default();
        let scripted = Scripted {
            log: log.clone(),
            permits,
            pages: limits.cache_tokens_max.div_ceil(PAGE),
        };
        let letters = Letters((0..TOKENS as u8).map(|id| b'a' + id % 26).collect());
        let engine = EngineHandle::spawn(Box::new(scripted), None, Arc::new(letters), limits);
        Self {
            engine: engine.unwrap(),
            log,
            permits: Some(sender),
        }
    }

    /// An engine that runs freely.
    fn free(limits: EngineLimits) -> Self {
        let mut bench = Self::held(limits);
        bench.release();
        bench
    }

    fn permit(&self, steps: usize) {
        let sender = self.permits.as_ref().unwrap();
        (0..steps).for_each(|_| sender.send(()).unwrap());
    }

    fn release(&mut self) {
        self.permits = None;
    }

    fn submit(&self, request: GenerateRequest) -> Result<Run, SubmitError> {
        let (sender, events) = channel();
        let sink = Box::new(move |event| {
            let _ = sender.send(event);
            ControlFlow::Continue(())
        });
        let ticket = self.engine.submit(request, sink)?;
        Ok(Run { events, ticket })
    }

    fn steps(&self) -> usize {
        self.log.lock().unwrap().steps.len()
    }

    /// Waits until so many steps are done.
    fn wait_for_steps(&self, steps: usize) {
        let started = Instant::now();
        while self.steps() < steps {
            assert!(started.elapsed() < PATIENCE, "the engine stands still");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

struct Run {
    events: Receiver<Event>,
    ticket: Ticket,
}

/// How a request ended.
#[derive(Debug, PartialEq)]
enum End {
    Finished(FinishReason),
    Failed(String),
}

impl Run {
    /// All text, the number of tokens and the end.
    fn wait(self) -> (String, usize, End) {
        let (text, tokens, end) = collect(&self.events);
        drop(self.ticket);
        (text, tokens, end)
    }
}

fn collect(events: &Receiver<Event>) -> (String, usize, End) {
    let mut said = String::new();
    loop {
        match events.recv_timeout(PATIENCE).unwrap() {
            Event::Text { text, .. } => said += &text,
            Event::Finished { reason, usage, .. } => {
                return (said, usage.completion_tokens, End::Finished(reason));
            }
            Event::Failed { reason, usage, .. } => {
                return (said, usage.completion_tokens, End::Failed(reason));
            }
        }
    }
}

fn request(tenant: u8, prompt: &[u32], tokens_max: usize) -> GenerateRequest {
    GenerateRequest {
        tenant: Tenant([tenant; 32]),
        weight: 1,
        prompt: prompt.to_vec(),
        sampling: SamplingParams {
            temperature: 0.0,
            ..SamplingParams::default()
        },
        tokens_max: Some(tokens_max),
        stop: Vec::new(),
        seed: Some(1),
        grammar: None,
        logprobs: None,
        mark: None,
        repetition: None,
        deadline: None,
    }
}

const LENGTH: End = End::Finished(FinishReason::Length);

#[test]
fn sequences_that_come_while_others_run_join_their_steps() {
    let bench = Bench::held(EngineLimits::default());
    let first = bench.submit(request(1, &[0], 6)).unwrap();
    bench.permit(2);
    bench.wait_for_steps(2);
    let second = bench.submit(request(2, &[10], 3)).unwrap();
    let third = bench.submit(request(2, &[20], 2)).unwrap();
    bench.permit(100);
    assert_eq!(first.wait(), ("bcdefg".into(), 6, LENGTH));
    assert_eq!(second.wait(), ("lmn".into(), 3, LENGTH));
    assert_eq!(third.wait(), ("vw".into(), 2, LENGTH));
    let log = bench.log.lock().unwrap();
    let together = log.steps.iter().filter(|step| step.len() == 3).count();
    assert_eq!(together, 2, "steps of all three");
    assert!(log.steps.len() <= 7, "nobody ran alone for long");
    assert!(log.open.is_empty(), "what has ended is closed");
}

#[test]
fn prompts_are_taken_in_pieces_beside_those_that_generate() {
    let bench = Bench::free(EngineLimits {
        prefill_tokens: 4,
        ..EngineLimits::default()
    });
    let prompt: Vec<u32> = (0..10).collect();
    let run = bench.submit(request(1, &prompt, 2)).unwrap();
    assert_eq!(run.wait(), ("kl".into(), 2, LENGTH));
    let log = bench.log.lock().unwrap();
    let sizes: Vec<usize> = log.steps.iter().map(|step| step[0].1).collect();
    assert_eq!(sizes, [4, 4, 2, 1]);
}

#[test]
fn dropping_a_ticket_ends_the_request_within_one_step_and_frees_its_place() {
    let limits = EngineLimits {
        tenant_max: 1,
        ..EngineLimits::default()
    };
    let bench = Bench::held(limits);
    let Run { events, ticket } = bench.submit(request(1, &[0], 100)).unwrap();
    bench.permit(3);
    bench.wait_for_steps(3);
    let busy = bench.submit(request(1, &[0], 1)).err();
    assert_eq!(busy, Some(SubmitError::Busy));
    drop(ticket);
    bench.permit(5);
    let (_, tokens, end) = collect(&events);
    assert_eq!(end, End::Finished(FinishReason::Cancelled));
    assert!((3..=4).contains(&tokens), "{tokens} tokens");
    assert!(bench.steps() <= 4, "{} steps", bench.steps());
    assert!(bench.log.lock().unwrap().open.is_empty());
    // Its last word comes a moment before its place is free.
    let started = Instant::now();
    let next = loop {
        match bench.submit(request(1, &[0], 1)) {
            Ok(run) => break run,
            Err(error) => assert_eq!(error, SubmitError::Busy),
        }
        assert!(started.elapsed() < PATIENCE, "the place is never free");
    };
    assert_eq!(next.wait().2, LENGTH);
}

#[test]
fn a_receiver_that_breaks_off_cancels_its_request() {
    let bench = Bench::free(EngineLimits::default());
    let sink = Box::new(|_| ControlFlow::Break(()));
    let ticket = bench.engine.submit(request(1, &[0], 100), sink).unwrap();
    bench.wait_for_steps(1);
    let other = bench.submit(request(1, &[0], 2)).unwrap();
    assert_eq!(other.wait().2, LENGTH);
    assert!(bench.steps() <= 3, "nothing was generated for nobody");
    drop(ticket);
}

#[test]
fn s15_a_panic_in_a_step_ends_the_sequence_to_blame_and_nothing_else() {
    let bench = Bench::held(EngineLimits::default());
    let good = bench.submit(request(1, &[0], 5)).unwrap();
    bench.permit(2);
    bench.wait_for_steps(2);
    let bad = bench.submit(request(2, &[BOOM], 5)).unwrap();
    bench.permit(100);
    let (text, tokens, end) = bad.wait();
    assert_eq!((text.as_str(), tokens), ("", 0));
    let End::Failed(reason) = end else {
        panic!("a sequence outlived its panic")
    };
    assert!(reason.contains("panicked"), "{reason}");
    assert!(!reason.contains("scripted"), "a panic's words stay inside");
    assert_eq!(good.wait(), ("bcdef".into(), 5, LENGTH));
    let later = bench.submit(request(2, &[3], 2)).unwrap();
    assert_eq!(later.wait(), ("ef".into(), 2, LENGTH));
    assert!(bench.log.lock().unwrap().open.is_empty());
}

#[test]
fn a_panic_in_a_receiver_ends_its_request_alone() {
    let mut bench = Bench::held(EngineLimits::default());
    let other = bench.submit(request(1, &[0], 3)).unwrap();
    let sink = Box::new(|_| panic!("a receiver panics"));
    let ticket = bench.engine.submit(request(1, &[0], 100), sink).unwrap();
    bench.release();
    assert_eq!(other.wait(), ("bcd".into(), 3, LENGTH));
    let later = bench.submit(request(1, &[0], 3)).unwrap();
    assert_eq!(later.wait(), ("bcd".into(), 3, LENGTH));
    assert!(bench.steps() <= 7, "nothing was generated for nobody");
    drop(ticket);
}

#[test]
fn what_does_not_fit_is_refused_at_once() {
    let mut bench = Bench::held(EngineLimits {
        sequences_max: 1,
        queue_max: 2,
        tenant_max: 2,
        ..EngineLimits::default()
    });
    let submit = |tenant| bench.submit(request(tenant, &[0], 3));
    let (first, second) = (submit(1).unwrap(), submit(1).unwrap());
    assert_eq!(submit(1).err(), Some(SubmitError::Busy), "a tenant's share");
    let third = submit(2).unwrap();
    assert_eq!(submit(3).err(), Some(SubmitError::Busy), "the whole queue");
    bench.release();
    for run in [first, second, third] {
        assert_eq!(run.wait(), ("bcd".into(), 3, LENGTH));
    }
    let log = bench.log.lock().unwrap();
    assert!(log.steps.iter().all(|step| step.len() == 1));
}

#[test]
fn deadlines_end_requests_that_run_and_requests_that_wait() {
    let mut bench = Bench::held(EngineLimits {
        sequences_max: 1,
        ..EngineLimits::default()
    });
    let soon = Instant::now() + Duration::from_millis(200);
    let with_deadline = |prompt| GenerateRequest {
        deadline: Some(soon),
        ..request(1, &[prompt], 100)
    };
    let running = bench.submit(with_deadline(0)).unwrap();
    let waiting = bench.submit(with_deadline(1)).unwrap();
    bench.permit(2);
    bench.wait_for_steps(2);
    std::thread::sleep(soon.saturating_duration_since(Instant::now()));
    bench.release();
    let deadline = End::Finished(FinishReason::Deadline);
    let (text, tokens, end) = running.wait();
    assert_eq!(end, deadline);
    assert!((2..=3).contains(&tokens), "{tokens} tokens");
    assert!("bcd".starts_with(&text), "{text}");
    assert_eq!(waiting.wait(), (String::new(), 0, deadline));
}

#[test]
fn a_prompt_that_leaves_no_room_is_refused_with_both_numbers() {
    let refused = |limits: EngineLimits, len: usize| {
        let bench = Bench::free(limits);
        let run = bench.submit(request(1, &vec![0; len], 5));
        run.map(|run| run.wait().1)
    };
    let limit = CONTEXT;
    assert_eq!(refused(EngineLimits::default(), limit - 1), Ok(1));
    let error = refused(EngineLimits::default(), limit).unwrap_err();
    assert_eq!(
        error,
        SubmitError::ContextExceeded {
            prompt: limit,
            limit
        }
    );
    assert!(error.to_string().contains("128 tokens"), "{error}");
    let small = EngineLimits {
        cache_tokens_max: 16,
        ..EngineLimits::default()
    };
    let error = refused(small, 20).unwrap_err();
    assert_eq!(
        error,
        SubmitError::ContextExceeded {
            prompt: 20,
            limit: 16
        }
    );
    assert!(error.to_string().contains("20") && error.to_string().contains("16"));
}

#[test]
fn a_seed_gives_the_same_text_whatever_else_runs() {
    let drawn = |seed| GenerateRequest {
        seed: Some(seed),
        sampling: SamplingParams {
            temperature: 1.0,
            ..SamplingParams::default()
        },
        ..request(1, &[5], 40)
    };
    let alone = |seed| {
        let bench = Bench::free(EngineLimits::default());
        bench.submit(drawn(seed)).unwrap().wait().0
    };
    let expected = alone(7);
    assert_eq!(expected.len(), 40);
    assert_eq!(alone(7), expected);
    assert_ne!(alone(8), expected);
    let mut bench = Bench::held(EngineLimits::default());
    let others: Vec<Run> = (20..25)
        .map(|seed| bench.submit(drawn(seed)).unwrap())
        .collect();
    let run = bench.submit(drawn(7)).unwrap();
    bench.release();
    assert_eq!(run.wait().0, expected);
    for other in others {
        assert_ne!(other.wait().0, expected);
    }
    let log = bench.log.lock().unwrap();
    assert!(log.steps.iter().any(|step| step.len() == 6));
}

#[test]
fn a_stop_string_ends_the_answer_and_is_not_part_of_it() {
    let bench = Bench::free(EngineLimits::default());
    let stopping = |stop: &str| GenerateRequest {
        stop: vec![stop.into()],
        ..request(1, &[0], 8)
    };
    let stop = End::Finished(FinishReason::Stop);
    let run = bench.submit(stopping("efg")).unwrap();
    assert_eq!(run.wait(), ("bcd".into(), 6, stop));
    let run = bench.submit(stopping("efx")).unwrap();
    assert_eq!(run.wait(), ("bcdefghi".into(), 8, LENGTH));
}
