//! The engine's thread and the handle to it. A panic in a step ends the sequences that took part in it, never the thread.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom, SystemRandom};

use super::draft::{Ask, Draft, Drafter};
use super::gate::Gate;
use super::request::{EngineLimits, Failure, FinishReason, GenerateRequest, Sink, SubmitError};
use super::sampler::SamplingError;
use super::scheduler::{Arrival, Planned, Scheduler};
use super::sequence::{Next, Sequence};
use super::stop::{STOP_LEN_MAX, STOPS_MAX};
use super::weigh::{WeighRequest, Weighed};
use super::{Draw, Drawn, Engine, Opening, SequenceId, StepError, Tenant, Vocabulary, Work};

/// Stack of the engine's thread. A grammar's work recurses as deep as its expressions, which come from outside.
const STACK: usize = 16 << 20;

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
        weight: u32,
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
    /// Starts a thread for `engine`, and for a draft of the same vocabulary that guesses for it.
    ///
    /// # Errors
    /// When the system starts no thread.
    pub fn spawn(
        engine: Box<dyn Engine>,
        draft: Option<Draft>,
        vocabulary: Arc<dyn Vocabulary>,
        limits: EngineLimits,
    ) -> std::io::Result<Self> {
        let (sender, receiver) = channel();
        let context = engine.context_length().min(limits.cache_tokens_max);
        let vocabulary_len = engine.vocabulary();
        let gate = Gate::new(&limits);
        let worker = Worker {
            vocabulary_len: engine.vocabulary(),
            engine,
            vocabulary,
            idle: limits.idle_s_max,
            speculate: limits.speculate,
            drafter: draft.map(|draft| Drafter::new(draft, limits.prefill_tokens)),
            scheduler: Scheduler::new(limits),
            sequences: HashMap::new(),
            made: Drawn::default(),
            receiver,
        };
        let thread = thread::Builder::new()
            .name("engine".to_owned())
            .stack_size(STACK)
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
        self.queue(request, None, sink)
    }

    fn queue(
        &self,
        request: GenerateRequest,
        dictated: Option<Vec<u32>>,
        sink: Sink,
    ) -> Result<Ticket, SubmitError> {
        let tokens_max = self.check(&request)?;
        let (tenant, weight) = (request.tenant, request.weight.max(1));
        let place = self.inner.gate.enter(tenant)?;
        let seed = request.seed.map_or_else(random_seed, Ok)?;
        let cancelled = Arc::new(AtomicBool::new(false));
        let sequence = Sequence::new(request, tokens_max, seed, sink, cancelled.clone(), place);
        let sequence = match dictated {
            Some(answer) => sequence.dictated(answer),
            None => sequence,
        };
        let id = SequenceId(self.inner.next_id.fetch_add(1, Ordering::Relaxed));
        let command = Command::Run {
            id,
            tenant,
            weight,
            sequence: Box::new(sequence),
        };
        self.inner
            .sender
            .send(command)
            .map_err(|_| SubmitError::Stopped)?;
        Ok(Ticket { cancelled })
    }

    /// Queues an answer that is given, to be weighed; `told` hears how surprising the model finds it.
    ///
    /// # Errors
    /// [`SubmitError`], at once and without a word to `told`. [`SubmitError::ContextExceeded`] where prompt and answer are not both in the
    /// context.
    pub fn weigh(&self, request: WeighRequest, told: Weighed) -> Result<Ticket, SubmitError> {
        let (request, answer, sink) = request.dictated(told);
        let known = |id: &u32| (*id as usize) < self.inner.vocabulary;
        if !answer.iter().all(known) {
            return Err(SamplingError::UnknownToken.into());
        }
        let (prompt, limit) = (request.prompt.len() + answer.len(), self.inner.context);
        if prompt > limit {
            return Err(SubmitError::ContextExceeded { prompt, limit });
        }
        self.queue(request, Some(answer), sink)
    }

    /// Checks a request; answers how many tokens it may generate.
    fn check(&self, request: &GenerateRequest) -> Result<usize, SubmitError> {
        request.sampling.check()?;
        if request.logprobs.is_some_and(|reveal| !reveal.is_sound()) {
            let (name, range) = ("logprobs", "0 to 20");
            return Err(SamplingError::OutOfRange { name, range }.into());
        }
        let oracle = request.seed.is_some()
            || request.grammar.is_some()
            || request.logprobs.is_some()
            || !request.sampling.logit_bias.is_empty();
        if request.mark.is_some() && oracle {
            return Err(SubmitError::MarkBeside);
        }
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
            return Err(SamplingError::UnknownToken.into());
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
    /// Tokens that there are: the length of a row of logits.
    vocabulary_len: usize,
    scheduler: Scheduler,
    sequences: HashMap<SequenceId, (Tenant, Sequence)>,
    /// What came of a step; the memory is kept.
    made: Drawn,
    /// Seconds without work after which beginnings are forgotten.
    idle: u64,
    /// Whether tokens are guessed.
    speculate: bool,
    /// The model that guesses, if there is one.
    drafter: Option<Drafter>,
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
                true => self.wait(),
                false => self.receiver.try_recv(),
            };
            match command {
                Ok(Command::Run {
                    id,
                    tenant,
                    weight,
                    sequence,
                }) => {
                    self.scheduler.enqueue(Arrival {
                        sequence: id,
                        tenant,
                        weight,
                        tokens: sequence.tokens().len(),
                    });
                    self.sequences.insert(id, (tenant, *sequence));
                }
                Err(TryRecvError::Empty) => return true,
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// Waits for a command. After a while without one nothing is kept of what was computed.
    fn wait(&mut self) -> Result<Command, TryRecvError> {
        match self.receiver.recv_timeout(Duration::from_secs(self.idle)) {
            Ok(command) => Ok(command),
            Err(RecvTimeoutError::Disconnected) => Err(TryRecvError::Disconnected),
            Err(RecvTimeoutError::Timeout) => {
                self.engine.forget();
                if let Some(drafter) = &mut self.drafter {
                    drafter.forget();
                }
                self.receiver.recv().map_err(|_| TryRecvError::Disconnected)
            }
        }
    }

    fn turn(&mut self) {
        self.end_interrupted(Instant::now());
        while let Some(arrival) = self.scheduler.admit(self.engine.pages_free()) {
            self.open(arrival);
        }
        let planned = loop {
            let plan = self.scheduler.plan(self.engine.pages_free());
            match plan.preempted {
                Some(preempted) => self.give_up_memory(preempted),
                None => break plan.work,
            }
        };
        if planned.is_empty() {
            return;
        }
        self.guess(&planned);
        match self.step(&planned) {
            Ok(()) => self.accept(&planned),
            Err(error) if planned.len() == 1 => self.fail_all(&planned, &error),
            // One of them is to blame: alone, each shows whether it is the one.
            Err(_) => {
                for one in planned.iter().map(std::slice::from_ref) {
                    match self.step(one) {
                        Ok(()) => self.accept(one),
                        Err(error) => self.fail_all(one, &error),
                    }
                }
            }
        }
    }

    fn open(&mut self, arrival: Arrival) {
        let Some((tenant, sequence)) = self.sequences.get(&arrival.sequence) else {
            self.scheduler.remove(arrival.sequence);
            return;
        };
        let opening = Opening {
            tenant: *tenant,
            tokens: sequence.tokens(),
            capacity: sequence.capacity(),
        };
        match self.engine.open(arrival.sequence, opening) {
            Ok(cached) => self.scheduler.started(arrival.sequence, cached),
            Err(error) => self.fail(arrival.sequence, &error.to_string()),
        }
    }

    fn guess(&mut self, planned: &[Planned]) {
        let mut rows: usize = planned.iter().map(|planned| planned.range.len()).sum();
        let drawing = planned.iter().filter(|planned| planned.last);
        for planned in drawing.clone() {
            if let Some((_, sequence)) = self.sequences.get_mut(&planned.sequence)
                && (self.speculate || sequence.is_dictated())
            {
                sequence.guess(planned.guesses_max, rows);
                rows += sequence.guesses();
            }
        }
        let Some(drafter) = self.drafter.as_mut().filter(|_| self.speculate) else {
            return;
        };
        let asks = drawing.filter_map(|planned| {
            let (tenant, sequence) = self.sequences.get(&planned.sequence)?;
            let (count, draws) = sequence.ask(planned.guesses_max, rows, drafter)?;
            rows += count.saturating_sub(sequence.guesses());
            Some(Ask {
                sequence: planned.sequence,
                tenant: *tenant,
                tokens: sequence.tokens(),
                capacity: sequence.capacity(),
                count,
                sampling: sequence.sampling(),
                draws,
                mark: sequence.mark(),
            })
        });
        let asks = asks.collect();
        for (id, guesses) in drafter.guess(asks) {
            if let Some((_, sequence)) = self.sequences.get_mut(&id) {
                sequence.take_draft(guesses);
            }
        }
    }

    /// Frees the memory of a sequence that waits again.
    fn give_up_memory(&mut self, id: SequenceId) {
        self.engine.close(id);
        if let Some(drafter) = &mut self.drafter {
            drafter.close(id);
        }
    }

    fn end_interrupted(&mut self, now: Instant) {
        let interrupted = self.sequences.iter().filter_map(|(id, (_, sequence))| {
            sequence.interrupted(now).map(|reason| (*id, reason))
        });
        for (id, reason) in interrupted.collect::<Vec<_>>() {
            self.finish(id, reason);
        }
    }

    fn step(&mut self, planned: &[Planned]) -> Result<(), StepError> {
        let work = planned.iter().filter_map(|planned| {
            let (_, sequence) = self.sequences.get(&planned.sequence)?;
            Some(Work {
                sequence: planned.sequence,
                tokens: sequence.input(&planned.range, planned.last),
                logits: rows_of(planned, sequence),
            })
        });
        let work: Vec<Work<'_>> = work.collect();
        let draws = draws(&*self.engine, &self.sequences, planned);
        let (engine, made) = (&mut self.engine, &mut self.made);
        catch_unwind(AssertUnwindSafe(|| {
            engine.step_drawing(&work, &draws, made)
        }))
        .unwrap_or_else(|_| Err(StepError("the model's code panicked".to_owned())))
    }

    fn accept(&mut self, planned: &[Planned]) {
        let made = std::mem::take(&mut self.made);
        let mut row = 0;
        for (at, planned) in planned.iter().enumerate() {
            let id = planned.sequence;
            let Some((_, sequence)) = self.sequences.get_mut(&id) else {
                continue;
            };
            let (rows, guesses) = (rows_of(planned, sequence), sequence.guesses());
            if rows == 0 {
                self.scheduler.advance(id, planned.range.len(), 0);
                continue;
            }
            let vocabulary = &*self.vocabulary;
            let drawn = made.tokens.get(at).and_then(Option::as_ref);
            let millibits = made.millibits.get(at).and_then(Option::as_deref);
            let len = self.vocabulary_len;
            let own = made.logits.get(row * len..(row + rows) * len);
            let accepted = match (drawn, own) {
                (Some(drawn), _) if drawn.is_empty() => {
                    Ok(Err(SamplingError::NoFiniteLogit.into()))
                }
                (Some(drawn), _) => catch_unwind(AssertUnwindSafe(|| {
                    Ok(sequence.accept_drawn(drawn, millibits.unwrap_or_default(), vocabulary))
                })),
                (None, Some(own)) => {
                    row += rows;
                    catch_unwind(AssertUnwindSafe(|| sequence.accept(own, len, vocabulary)))
                }
                (None, None) => {
                    self.fail(id, "the model gave no logits");
                    continue;
                }
            };
            match accepted {
                Ok(Ok(accepted)) => {
                    if accepted.right < guesses {
                        self.engine.truncate(id, planned.range.end + accepted.right);
                    }
                    let computed = planned.range.len() + accepted.right;
                    self.scheduler.advance(id, computed, accepted.drawn);
                    if let Next::Finish(reason) = accepted.next {
                        self.finish(id, reason);
                    }
                }
                Ok(Err(halted)) => self.halt(id, halted.failure(), &halted.to_string()),
                Err(_) => self.fail(id, "the receiver of its events panicked"),
            }
        }
        self.made = made;
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
        self.halt(id, Failure::Engine, reason);
    }

    fn halt(&mut self, id: SequenceId, failure: Failure, reason: &str) {
        if let Some(sequence) = self.forget(id) {
            let fail = || sequence.fail(failure, reason.to_owned());
            let _ = catch_unwind(AssertUnwindSafe(fail));
        }
    }

    /// Takes a sequence out of everything that knows it.
    fn forget(&mut self, id: SequenceId) -> Option<Sequence> {
        self.scheduler.remove(id);
        self.give_up_memory(id);
        self.sequences.remove(&id).map(|(_, sequence)| sequence)
    }

    fn ids(&self) -> Vec<SequenceId> {
        self.sequences.keys().copied().collect()
    }
}

/// Rows of logits that a sequence wants of a step.
fn rows_of(planned: &Planned, sequence: &Sequence) -> usize {
    match planned.last {
        true => 1 + sequence.guesses(),
        false => 0,
    }
}

/// Which tokens the engine draws by itself: none, those behind the rows, or more where all sequences generate and have room
/// for as many.
fn draws<'a>(
    engine: &dyn Engine,
    sequences: &'a HashMap<SequenceId, (Tenant, Sequence)>,
    planned: &[Planned],
) -> Vec<Option<Draw<'a>>> {
    let drawn = |planned: &Planned| {
        let (_, sequence) = sequences.get(&planned.sequence)?;
        let most = engine.draws(sequence.rules()?);
        (planned.last && most > 0).then_some((sequence, most))
    };
    let each: Vec<_> = planned.iter().map(drawn).collect();
    let room = planned.iter().zip(&each).map(|(planned, one)| {
        let (sequence, most) = (*one)?;
        let alone = planned.range.len() == 1 && sequence.guesses() == 0;
        alone.then(|| planned.guesses_max.min(sequence.left()).min(most - 1))
    });
    let ahead = room.min().flatten().unwrap_or(0);
    let draw =
        |one: Option<(&'a Sequence, usize)>| one.map(|(sequence, _)| sequence.drawing(ahead));
    each.into_iter().map(draw).collect()
}
