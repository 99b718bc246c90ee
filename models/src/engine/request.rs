//! What is asked of the engine, and what it answers. Neither is ever printed: there is no `Debug` for text or tokens.

use std::ops::ControlFlow;
use std::time::Instant;

use casemate_kernels::KvKind;

use super::PAGE;
use super::learnt::Learnt;
use super::logprobs::{Reveal, TokenLogprobs};
use super::mark::MarkKey;
use super::repetition::RepetitionRule;
use super::sampler::{SamplingError, SamplingParams};
use crate::grammar::Grammar;

/// Bounds of everything that the engine holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineLimits {
    /// Sequences that run at once.
    pub sequences_max: usize,
    /// Requests that wait, beside those that run.
    pub queue_max: usize,
    /// Requests of one tenant, waiting and running.
    pub tenant_max: usize,
    /// Tokens of all running sequences together: the memory of keys and values.
    pub cache_tokens_max: usize,
    /// Prompt tokens in one step, of all sequences together.
    pub prefill_tokens: usize,
    /// Bytes of weights, keys and values together; a model that may need more is not loaded.
    pub memory_bytes_max: u64,
    /// Where it is computed.
    pub device: DeviceChoice,
    /// Who computes.
    pub executor: Executor,
    /// How keys and values are kept, where the model runs on packed weights.
    pub cache: KvKind,
    /// Whether tokens are guessed from the text so far; it changes no text.
    pub speculate: bool,
    /// Seconds without any request after which nothing is kept of what was computed.
    pub idle_s_max: u64,
    /// Threads that compute; 0 takes as many as the machine runs at once.
    pub threads: usize,
}

impl Default for EngineLimits {
    fn default() -> Self {
        Self {
            sequences_max: 16,
            queue_max: 64,
            tenant_max: 32,
            cache_tokens_max: 32_768,
            prefill_tokens: 256,
            memory_bytes_max: u64::MAX,
            device: DeviceChoice::Cpu,
            executor: Executor::Best,
            cache: KvKind::F16,
            speculate: true,
            idle_s_max: 300,
            threads: 0,
        }
    }
}

/// Where models are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The processor.
    Cpu,
    /// The NVIDIA GPU of this number, with its own executor.
    Cuda(usize),
}

impl EngineLimits {
    /// Pages for the tokens that there may be; each sequence may leave one half empty.
    pub(crate) fn pages(&self) -> usize {
        self.cache_tokens_max.div_ceil(PAGE) + self.sequences_max
    }
}

/// Who computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Executor {
    /// Packed weights where a model is large enough for speed to matter, the reference otherwise.
    Best,
    /// Packed weights wherever they can be had. On a GPU: products of packed weights by kernels of our own, where
    /// [`Self::Best`] leaves them to candle. They were compared with its own results on processors that emulate a GPU, and
    /// have yet to be timed on one.
    Packed,
    /// candle's tensors, in ggml's order of operations.
    Reference,
    /// What computes on GPUs; on processors it is slow, and there for tests.
    Device,
}

/// Whose request it is, as far as fairness goes: an opaque value that the caller derives, such as a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tenant(pub [u8; 32]);

/// A request for text.
pub struct GenerateRequest {
    /// For whom.
    pub tenant: Tenant,
    /// The tenant's share beside others', above 0; 1 where all are alike.
    pub weight: u32,
    /// Ids of the prompt, at least one.
    pub prompt: Vec<u32>,
    /// How tokens are drawn.
    pub sampling: SamplingParams,
    /// Tokens to generate at most; without it, until the context is full.
    pub tokens_max: Option<usize>,
    /// Texts at which the answer ends; they are not part of it.
    pub stop: Vec<String>,
    /// Makes draws repeatable; without it they are random.
    pub seed: Option<u64>,
    /// Which tokens may follow; without it all.
    pub grammar: Option<Box<Grammar>>,
    /// What is told of probabilities; without it none are computed.
    pub logprobs: Option<Reveal>,
    /// Whose mark the answer carries; without it none.
    pub mark: Option<MarkKey>,
    /// When an answer that repeats itself ends; without it never.
    pub repetition: Option<RepetitionRule>,
    /// When the answer ends even if it is not complete.
    pub deadline: Option<Instant>,
}

/// What the engine says about a request. After [`Event::Finished`] or [`Event::Failed`] nothing follows.
#[derive(Clone, PartialEq)]
pub enum Event {
    /// More text, never empty and never ending inside a character.
    Text {
        /// The text.
        text: String,
        /// The tokens that were drawn since the event before.
        tokens: Vec<u32>,
        /// What those tokens tell of the model.
        learnt: Learnt,
        /// Where they were asked for: of each token whose text is out with this event.
        logprobs: Vec<TokenLogprobs>,
    },
    /// The answer is complete.
    Finished {
        /// Why it ended.
        reason: FinishReason,
        /// Whether its tokens repeated as often as [`GenerateRequest::repetition`] says, stopped there or not.
        repeated: bool,
        /// What the tokens since the last text tell of the model.
        learnt: Learnt,
        /// How many tokens it took.
        usage: Usage,
    },
    /// The answer cannot go on; the reason says nothing about the text.
    Failed {
        /// Whose fault it is.
        failure: Failure,
        /// What failed.
        reason: String,
        /// How many tokens it took.
        usage: Usage,
    },
}

/// Whose fault it is that an answer cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The engine's.
    Engine,
    /// The request's: its grammar allows no token, or needs too much work.
    Grammar,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended it, or a stop string was reached.
    Stop,
    /// The bound on tokens was reached, or the context is full.
    Length,
    /// It repeated the same one to four tokens.
    Repetition,
    /// Nobody listens any more.
    Cancelled,
    /// The deadline has passed.
    Deadline,
}

/// Tokens of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// In the prompt.
    pub prompt_tokens: usize,
    /// Drawn, the one that ended the answer included.
    pub completion_tokens: usize,
}

/// Where events go. Called on the engine's thread, so it must not wait; `Break` cancels the request.
pub type Sink = Box<dyn FnMut(Event) -> ControlFlow<()> + Send>;

/// Why a request was not taken.
#[derive(Debug, thiserror::Error, PartialEq)]
#[non_exhaustive]
pub enum SubmitError {
    /// The queue is full, or the tenant's share of it.
    #[error("the engine is busy; try again later")]
    Busy,
    /// The prompt leaves no room for an answer.
    #[error(
        "the prompt has {prompt} tokens and the context holds {limit}, prompt and answer together"
    )]
    ContextExceeded {
        /// Tokens in the prompt.
        prompt: usize,
        /// Tokens in the context.
        limit: usize,
    },
    /// A request that can have no answer.
    #[error("the request is empty: it has no prompt token, or asks for no token")]
    Empty,
    /// A stop string that is empty, or too many or too long ones.
    #[error("stop strings must be at most {count_max} texts of 1 to {len_max} bytes")]
    BadStop {
        /// How many are accepted.
        count_max: usize,
        /// How long one may be, in bytes.
        len_max: usize,
    },
    /// A mark where its noise would be frozen noise: beside a seed, a bias, a grammar or probabilities it would read the
    /// model's own numbers (attack S18).
    #[error("an answer with a seed, a bias, a grammar or probabilities cannot be marked")]
    MarkBeside,
    /// A sampling parameter out of its range.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// The engine was shut down.
    #[error("the engine has stopped")]
    Stopped,
}
