//! The engine: one thread that owns a model and runs many sequences at once.
//!
//! [`EngineHandle::submit`] puts a request in the bounded queue ([`gate`]); the thread ([`runtime`]) admits sequences and
//! plans steps with the [`scheduler`], has the [`Engine`] compute logits for a whole batch, draws tokens with the
//! [`sampler`] and gives out text. Scheduler, sampler and stop strings are pure: no clock, no input or output.

pub mod draft;
pub mod gate;
pub mod learnt;
pub mod logprobs;
pub mod mark;
pub mod masked;
pub(crate) mod paged;
pub(crate) mod pages;
mod reference;
mod repetition;
mod request;
pub mod runtime;
pub mod sampler;
pub mod scheduler;
mod sequence;
pub mod speculate;
pub mod stop;
mod weigh;

pub use casemate_kernels::KvKind;
pub use draft::Draft;
pub use learnt::Learnt;
pub use logprobs::{LOGPROB_FLOOR, LOGPROB_STEP, LOGPROBS_MAX, Reveal, TokenLogprobs};
pub use mark::MarkKey;
pub use reference::ReferenceEngine;
pub use repetition::{RepetitionRule, Repetitions};
pub use request::{
    DeviceChoice, EngineLimits, Event, Executor, Failure, FinishReason, GenerateRequest, Sink,
    SubmitError, Tenant, Usage,
};
pub use runtime::{EngineHandle, Ticket};
pub use sampler::dry::DryParams;
pub use sampler::{SamplingError, SamplingParams, TemperatureOrder};
pub use weigh::{WeighRequest, Weighed};

/// Names a sequence while it is in the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(pub(crate) u64);

impl SequenceId {
    /// For whoever drives an [`Engine`] without its thread. Numbers of open sequences differ.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }
}

/// Tokens whose keys and values are given out together.
pub const PAGE: usize = casemate_kernels::PAGE;

/// What computes logits. It knows sequences by their id and keeps their keys and values; which sequence runs when is
/// the scheduler's business.
pub trait Engine: Send {
    /// Tokens that a sequence may have, prompt and answer together.
    fn context_length(&self) -> usize;

    /// Tokens that there are: the length of a row of logits.
    fn vocabulary(&self) -> usize;

    /// Pages of [`PAGE`] tokens that sequences can still have.
    fn pages_free(&self) -> usize;

    /// Makes a sequence known. Answers how many of its tokens need not be computed, because the same tenant's same
    /// beginning was computed before: less than all of them.
    ///
    /// # Errors
    /// [`StepError`] when there is no memory.
    fn open(&mut self, sequence: SequenceId, opening: Opening<'_>) -> Result<usize, StepError>;

    /// Forgets what comes after the first `len` tokens of a sequence.
    fn truncate(&mut self, sequence: SequenceId, len: usize);

    /// Frees what a sequence has. Unknown sequences are ignored.
    fn close(&mut self, sequence: SequenceId);

    /// Frees what is kept of sequences that are closed.
    fn forget(&mut self);

    /// Takes every sequence in `batch` further by its tokens. `logits` then holds, in order, the rows that each wants
    /// and nothing else. After an error no sequence has moved on.
    ///
    /// # Errors
    /// [`StepError`], for the batch as a whole.
    fn step(&mut self, batch: &[Work<'_>], logits: &mut Vec<f32>) -> Result<(), StepError>;

    /// How many tokens in a row it draws by these parameters where the logits are, before they need be looked at: 0 where
    /// whoever asks draws from logits.
    fn draws(&self, params: &SamplingParams) -> usize {
        let _ = params;
        0
    }

    /// As [`Self::step`], with tokens drawn where `draws`, one for each part of the batch, say so; there [`Self::draws`]
    /// must not be 0. A part whose tokens are drawn has no logits in what is answered.
    ///
    /// # Errors
    /// [`StepError`], for the batch as a whole.
    fn step_drawing(
        &mut self,
        batch: &[Work<'_>],
        draws: &[Option<Draw<'_>>],
        drawn: &mut Drawn,
    ) -> Result<(), StepError> {
        match draws.iter().any(Option::is_some) {
            true => Err(StepError("this engine draws no tokens".to_owned())),
            false => {
                drawn.tokens.clear();
                drawn.millibits.clear();
                self.step(batch, &mut drawn.logits)
            }
        }
    }

    /// How often steps crossed between host and device so far, where the two are not one.
    fn crossings(&self) -> Crossings {
        Crossings::default()
    }
}

/// How tokens are drawn where the logits are.
pub struct Draw<'a> {
    /// By which rules.
    pub params: &'a SamplingParams,
    /// A random number from 0 to below 1 for each row of logits that the part asks for. More of them draw more tokens, each
    /// behind the one before; then every part of the batch asks for one row and has as many numbers.
    pub points: Vec<f64>,
}

/// What came of a step.
#[derive(Default)]
pub struct Drawn {
    /// Rows of logits of the parts whose tokens are not drawn, in order.
    pub logits: Vec<f32>,
    /// For each part whose tokens are drawn what they are: at most one for each random number, fewer where the last one was
    /// decided too late for those behind it, and none where logits allow none.
    pub tokens: Vec<Option<Vec<u32>>>,
    /// For each of these tokens what is learnt from it, in thousandths of a bit ([`learnt::of_text`]).
    pub millibits: Vec<Option<Vec<u32>>>,
}

/// Copies between host and device. Launches are not counted: they carry no data and, on a confidential GPU, cost no
/// encryption of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Crossings {
    /// To the device.
    pub uploads: u64,
    /// To the host.
    pub downloads: u64,
    /// Bytes of both.
    pub bytes: u64,
}

/// A sequence that is about to run.
pub struct Opening<'a> {
    /// Whose it is. What one tenant computed never serves another.
    pub tenant: Tenant,
    /// Its tokens so far.
    pub tokens: &'a [u32],
    /// Tokens that it may have in the end.
    pub capacity: usize,
}

/// A sequence's part in a step.
pub struct Work<'a> {
    /// Which sequence.
    pub sequence: SequenceId,
    /// Tokens to append: a chunk of the prompt, or the token that was drawn last and guesses of what follows.
    pub tokens: &'a [u32],
    /// After how many of the last of these tokens logits are wanted.
    pub logits: usize,
}

/// What a token says, and whether it ends an answer.
pub trait Vocabulary: Send + Sync {
    /// The bytes that a token stands for: none for a control token.
    fn token_bytes(&self, id: u32) -> &[u8];

    /// Whether generation stops at this token.
    fn is_end(&self, id: u32) -> bool;
}

impl Vocabulary for crate::tokenizer::Tokenizer {
    fn token_bytes(&self, id: u32) -> &[u8] {
        Self::token_bytes(self, id)
    }

    fn is_end(&self, id: u32) -> bool {
        self.special().ends.contains(&id)
    }
}

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("a step of the model failed: {0}")]
pub struct StepError(pub String);
