//! The engine's thread and the handle to it. A panic in a step ends the sequences that took part in it, never the thread.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use ring::rand::{SecureRandom, SystemRandom};

use super::gate::Gate;
use super::request::{EngineLimits, FinishReason, GenerateRequest, Sink, SubmitError};
use super::scheduler::{Arrival, Input, Planned, Scheduler};
use super::sequence::{Next, Sequence};
use super::stop::{STOP_LEN_MAX, STOPS_MAX};
use super::{Engine, SequenceId, StepError, Tenant, Vocabulary, Work};

/// The way to an engine's thread. Clones share it; when the last one goes the thread ends.
#[derive(Clone)]
pub struct EngineHandle {
    inner: Arc<Inner>,
}

struct Inner {
    sender: Sender<Command>,
    gate: Gate,
    context: usize,
    vocabulary: usize,
    next_id: AtomicU64,
    thread: Option<JoinHandle<()>>,
}

enum Command {
    Run {
        id: SequenceId,
        tenant: Tenant,
        sequence: Box<Sequence>,
    },
    Stop,
}

/// A request in the engine. Dropping it cancels the request within one step.
#[must_use = "dropping the ticket cancels the request"]
pub struct Ticket {
    cancelled: Arc<AtomicBool>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

impl EngineHandle {
    /// Starts a thread for `engine`, whose model knows `vocabulary_len` tokens.
    ///
    /// # Errors
    /// When the system starts no thread.
    pub fn spawn(
        engine: Box<dyn Engine>,
        vocabulary: Arc<dyn Vocabulary>,
        vocabulary_len: usize,
        limits: EngineLimits,
    ) -> std::io::Result<Self> {
        let (sender, receiver) = channel();
        let context = engine.context_length().min(limits.cache_tokens_max);
        let gate = Gate::new(&limits);
        let worker = Worker {
            engine,
            vocabulary,
            scheduler: Scheduler::new(limits),
            sequences: HashMap::new(),
            receiver,
        };
        let thread = thread::Builder::new()
            .name("engine".to_owned())
            .spawn(|| worker.run())?;
        Ok(Self {
            inner: Arc::new(Inner {
                sender,
                gate,
                context,
                vocabulary: vocabulary_len,
                next_id: AtomicU64::new(0),
                thread: Some(thread),
            }),
        })
    }

    /// Tokens that prompt and answer may have together.
    pub fn context_length(&self) -> usize {
        self.inner.context
    }

    /// Queues a request; its events go to `sink`.
    ///
    /// # Errors
    /// [`SubmitError`], at once and without a word to `sink`.
    pub fn submit(&self, request: GenerateRequest, sink: Sink) -> Result<Ticket, SubmitError> {
        let tokens_max = self.check(&request)?;
        let tenant = request.tenant;
        let place = self.inner.gate.enter(tenant)?;
        let seed = request.seed.map_or_else(random_seed, Ok)?;
        let cancelled = Arc::new(AtomicBool::new(false));
        let sequence = Sequence::new(request, tokens_max, seed, sink, cancelled.clone(), place);
        let id = SequenceId(self.inner.next_id.fetch_add(1, Ordering::Relaxed));
        let command = Command::Run {
            id,
            tenant,
            sequence: Box::new(sequence),
        };
        self.inner
            .sender
            .send(command)
            .map_err(|_| SubmitError::Stopped)?;
        Ok(Ticket { cancelled })
    }

    /// Checks a request; answers how many tokens it may generate.
    fn check(&self, request: &GenerateRequest) -> Result<usize, SubmitError> {
        request.sampling.check()?;
        let (prompt, limit) = (request.prompt.len(), self.inner.context);
        if prompt == 0 || request.tokens_max == Some(0) {
            return Err(SubmitError::Empty);
        }
        if prompt >= limit {
            return Err(SubmitError::ContextExceeded { prompt, limit });
        }
        let bad_stop = |stop: &String| stop.is_empty() || stop.len() > STOP_LEN_MAX;
        if request.stop.len() > STOPS_MAX || request.stop.iter().any(bad_stop) {
            return Err(SubmitError::BadStop {
                count_max: STOPS_MAX,
                len_max: STOP_LEN_MAX,
            });
        }
        let known = |id: &u32| (*id as usize) < self.inner.vocabulary;
        if !request.sampling.logit_bias.iter().all(|(id, _)| known(id)) {
            return Err(super::sampler::SamplingError::UnknownToken.into());
        }
        Ok(request.tokens_max.unwrap_or(usize::MAX).min(limit - prompt))
    }
}

fn random_seed() -> Result<u64, SubmitError> {
    let mut bytes = [0; 8];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| SubmitError::Stopped)?;
    Ok(u64::from_le_bytes(bytes))
}

impl Drop for Inner {
    fn drop(&mut self) {
        let _ = self.sender.send(Command::Stop);
        let thread = self
            .thread
            .take()
            .filter(|thread| thread.thread().id() != thread::current().id());
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

struct Worker {
    engine: Box<dyn Engine>,
    vocabulary: Arc<dyn Vocabulary>,
    scheduler: Scheduler,
    sequences: HashMap<SequenceId, Sequence>,
    receiver: Receiver<Command>,
}

impl Worker {
    fn run(mut self) {
        while self.receive() {
            // Steps and sinks are guarded one by one; this is for what nobody thought of.
            if catch_unwind(AssertUnwindSafe(|| self.turn())).is_err() {
                for id in self.ids() {
                    self.fail(id, "the engine was interrupted");
                }
            }
        }
        for id in self.ids() {
            self.finish(id, FinishReason::Cancelled);
        }
    }

    /// Takes what was sent; waits only when there is nothing to do. False when the thread is to end.
    fn receive(&mut self) -> bool {
        loop {
            let command = match self.scheduler.is_idle() {
                true => self.receiver.recv().map_err(|_| TryRecvError::Disconnected),
                false => self.receiver.try_recv(),
            };
            match command {
                Ok(Command::Run {
                    id,
                    tenant,
                    sequence,
                }) => {
                    let (prompt, capacity) = (sequence.prompt_len(), sequence.capacity());
                    self.scheduler.enqueue(
                        tenant,
                        Arrival {
                            sequence: id,
                            prompt,
                            capacity,
                        },
                    );
                    self.sequences.insert(id, *sequence);
                }
                Err(TryRecvError::Empty) => return true,
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn turn(&mut self) {
        self.end_interrupted(Instant::now());
        for arrival in self.scheduler.admit() {
            if let Err(error) = self.engine.open(arrival.sequence, arrival.capacity) {
                self.fail(arrival.sequence, &error.to_string());
            }
        }
        let planned = self.scheduler.plan();
        if planned.is_empty() {
            return;
        }
        match self.step(&planned) {
            Ok(logits) => self.accept(&planned, logits),
            Err(error) if planned.len() == 1 => self.fail_all(&planned, &error),
            // One of them is to blame: alone, each shows whether it is the one.
            Err(_) => {
                for one in planned.iter().map(std::slice::from_ref) {
                    match self.step(one) {
                        Ok(logits) => self.accept(one, logits),
                        Err(error) => self.fail_all(one, &error),
                    }
                }
            }
        }
    }

    fn end_interrupted(&mut self, now: Instant) {
        let interrupted = self
            .sequences
            .iter()
            .filter_map(|(id, sequence)| sequence.interrupted(now).map(|reason| (*id, reason)));
        for (id, reason) in interrupted.collect::<Vec<_>>() {
            self.finish(id, reason);
        }
    }

    fn step(&mut self, planned: &[Planned]) -> Result<Vec<Vec<f32>>, StepError> {
        let work = planned.iter().filter_map(|planned| {
            let sequence = self.sequences.get(&planned.sequence)?;
            Some(Work {
                sequence: planned.sequence,
                tokens: sequence.input(&planned.input),
                wants_logits: wants_logits(&planned.input),
            })
        });
        let work: Vec<Work<'_>> = work.collect();
        let engine = &mut self.engine;
        catch_unwind(AssertUnwindSafe(|| engine.step(&work)))
            .unwrap_or_else(|_| Err(StepError("the model's code panicked".to_owned())))
    }

    fn accept(&mut self, planned: &[Planned], logits: Vec<Vec<f32>>) {
        let mut logits = logits.into_iter();
        for Planned {
            sequence: id,
            input,
        } in planned
        {
            if let Input::Prompt { range, .. } = input {
                self.scheduler.advance_prompt(*id, range.len());
            }
            if !wants_logits(input) {
                continue;
            }
            let Some(sequence) = self.sequences.get_mut(id) else {
                continue;
            };
            let Some(logits) = logits.next() else {
                self.fail(*id, "the model gave no logits");
                continue;
            };
            let vocabulary = &*self.vocabulary;
            match catch_unwind(AssertUnwindSafe(|| sequence.accept(&logits, vocabulary))) {
                Ok(Ok(Next::GoOn)) => {}
                Ok(Ok(Next::Finish(reason))) => self.finish(*id, reason),
                Ok(Err(error)) => self.fail(*id, &error.to_string()),
                Err(_) => self.fail(*id, "the receiver of its events panicked"),
            }
        }
    }

    fn fail_all(&mut self, planned: &[Planned], error: &StepError) {
        for planned in planned {
            self.fail(planned.sequence, &error.to_string());
        }
    }

    fn finish(&mut self, id: SequenceId, reason: FinishReason) {
        if let Some(sequence) = self.forget(id) {
            let _ = catch_unwind(AssertUnwindSafe(|| sequence.finish(reason)));
        }
    }

    fn fail(&mut self, id: SequenceId, reason: &str) {
        if let Some(sequence) = self.forget(id) {
            let _ = catch_unwind(AssertUnwindSafe(|| sequence.fail(reason.to_owned())));
        }
    }

    /// Takes a sequence out of everything that knows it.
    fn forget(&mut self, id: SequenceId) -> Option<Sequence> {
        self.scheduler.remove(id);
        self.engine.close(id);
        self.sequences.remove(&id)
    }

    fn ids(&self) -> Vec<SequenceId> {
        self.sequences.keys().copied().collect()
    }
}

fn wants_logits(input: &Input) -> bool {
    matches!(input, Input::Drawn | Input::Prompt { last: true, .. })
}
