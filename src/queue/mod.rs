//! Bounded admission to the models. A full server says so now instead of letting callers wait behind it (S14); a caller who
//! leaves frees its place at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use casemate_attestation::Sha256Digest;
use casemate_models::engine::{Learnt, MarkKey, RepetitionRule, Reveal, SamplingParams};
use casemate_models::grammar::{Grammar, GrammarError, Shape};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::api::Message;
use crate::policy::TeamName;

mod weighed;

pub use weighed::Weighing;

/// Tokens of a prompt, ready for the model. A secret: nothing prints it.
pub struct Prompt(pub Vec<u32>);

/// Why a prompt cannot be made. The text holds nothing of the prompt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PromptError {
    /// The model has no chat template.
    #[error("the model has no chat template; use /v1/completions")]
    NoTemplate,
    /// The template refuses these messages.
    #[error("the model's chat template refuses these messages")]
    Template,
    /// The text would take the tokenizer too long.
    #[error("the text is too complex for the model's tokenizer")]
    TooComplex,
    /// Nothing to continue.
    #[error("the prompt has no tokens")]
    Empty,
}

/// One piece of work for a model.
pub struct Job {
    /// For whom: jobs of one tenant share turns, and later memory, with no other tenant's.
    pub tenant: TeamName,
    /// The tenant's share beside others', at least 1.
    pub share: u32,
    /// What to continue.
    pub prompt: Prompt,
    /// Tokens of the answer, at most.
    pub tokens_max: usize,
    /// How tokens are drawn.
    pub sampling: SamplingParams,
    /// Which tokens may follow; without it all.
    pub grammar: Option<Box<Grammar>>,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// What the draws come from: never the caller's own seed, which says how two draws compare.
    pub seed: Option<u64>,
    /// What is told of probabilities; without it nothing.
    pub logprobs: Option<Reveal>,
    /// Whose mark the answer carries; without it nobody's.
    pub mark: Option<MarkKey>,
    /// When an answer that repeats itself ends; without it never.
    pub repetition: Option<RepetitionRule>,
    /// When the answer ends, complete or not.
    pub deadline: Instant,
}

impl Job {
    /// The same work after another prompt.
    fn again(&self, prompt: Prompt) -> Self {
        Self {
            tenant: self.tenant.clone(),
            share: self.share,
            prompt,
            tokens_max: self.tokens_max,
            sampling: self.sampling.clone(),
            grammar: self
                .grammar
                .as_ref()
                .map(|grammar| Box::new(grammar.again())),
            stop: self.stop.clone(),
            seed: self.seed,
            logprobs: self.logprobs,
            mark: self.mark.clone(),
            repetition: self.repetition,
            deadline: self.deadline,
        }
    }
}

/// An answer to be weighed: how surprising it is after a prompt.
pub struct Weigh {
    /// For whom.
    pub tenant: TeamName,
    /// The tenant's share beside others', at least 1.
    pub share: u32,
    /// What it is weighed after.
    pub prompt: Prompt,
    /// Its tokens, at least one. A secret.
    pub answer: Vec<u32>,
    /// When nobody waits for the weight any more.
    pub deadline: Instant,
}

/// A weight that is being found. Dropping it ends the work within one step.
pub struct Weight {
    receiver: oneshot::Receiver<Option<u64>>,
    _ticket: Option<Box<dyn Send + Sync>>,
}

impl Weight {
    /// A weight from `receiver`; `ticket` is kept as long, for an engine that notices its end.
    pub fn new(
        receiver: oneshot::Receiver<Option<u64>>,
        ticket: Option<Box<dyn Send + Sync>>,
    ) -> Self {
        Self {
            receiver,
            _ticket: ticket,
        }
    }

    /// Thousandths of a bit; `None` where it was not found.
    async fn told(self) -> Option<u64> {
        self.receiver.await.ok().flatten()
    }
}

/// What a model sends back. Nothing follows [`Event::End`], [`Event::TimedOut`], [`Event::Stuck`] and
/// [`Event::Failed`].
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// More text, and the tokens drawn since the event before.
    Text {
        /// Never empty, never ending inside a character.
        text: String,
        /// Tokens drawn for it.
        tokens: Vec<u32>,
        /// What those tokens tell of the model.
        learnt: Learnt,
        /// Where they were asked for: of each token whose text is out with this event.
        logprobs: Vec<TokenLogprobs>,
    },
    /// The model ended by itself, at a stop sequence, or at its limit of tokens.
    End {
        /// Why.
        finish: Finish,
        /// Whether it repeated itself as often as its job says, ended by it or not.
        repeated: bool,
        /// Whether it tells more of its prompt than its [`Weighing`] permits, or stands in place of an answer that did.
        telling: bool,
        /// Tokens of the whole answer.
        tokens: u64,
        /// What the tokens since the last text tell of the model.
        learnt: Learnt,
    },
    /// The job's deadline has passed.
    TimedOut,
    /// The job's grammar allows no token, or needs too much work.
    Stuck,
    /// The engine failed; its log has the details.
    Failed,
}

/// The probability of a token of the answer, and of others in its place.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// The token that was drawn.
    pub token: TokenText,
    /// Natural logarithm of its probability; nothing where it is not among the likeliest.
    pub logprob: Option<f64>,
    /// The likeliest tokens, as many as were asked for, the likeliest first.
    pub top: Vec<(TokenText, f64)>,
    /// Characters of the answer before it.
    pub offset: u64,
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenText {
    /// As text. A token that ends inside a character reads `bytes:` and its bytes in hexadecimal; a control token
    /// reads as its name.
    pub text: String,
    /// Its bytes; a control token has none.
    pub bytes: Option<Vec<u8>>,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The model's own end, or a stop sequence.
    Stop,
    /// No tokens left.
    Length,
    /// It said the same again and again.
    Repetition,
    /// What would have followed is kept in.
    Withheld,
}

impl Finish {
    /// OpenAI's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Repetition | Self::Withheld => "content_filter",
        }
    }

    /// The word of the audit log.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Repetition => "repetition",
            Self::Withheld => "withheld",
            _ => self.as_str(),
        }
    }
}

/// Why a job was not started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartError {
    /// No room for another sequence now.
    Full,
    /// The job favours or disfavours a token that the model does not have.
    UnknownToken,
    /// The model has stopped, or cannot take the job; its log has the details.
    Refused,
}

/// Events of a job. Dropping them ends the job within one step.
pub struct Events {
    receiver: mpsc::Receiver<Event>,
    _ticket: Option<Box<dyn Send + Sync>>,
}

impl Events {
    /// Events from `receiver`; `ticket` is kept as long, for an engine that notices its end.
    pub fn new(receiver: mpsc::Receiver<Event>, ticket: Option<Box<dyn Send + Sync>>) -> Self {
        Self {
            receiver,
            _ticket: ticket,
        }
    }

    /// The next event; `None` if the engine went away without a word.
    pub async fn next(&mut self) -> Option<Event> {
        self.receiver.recv().await
    }
}

/// A model that is loaded and can continue texts. The engine of a package, or a scripted one in tests of the server.
pub trait Generator: Send + Sync + 'static {
    /// Tokens that prompt and answer may have together.
    fn context_tokens(&self) -> usize;

    /// Columns of its residual stream. Fewer than a quarter as many probabilities of a place are told.
    fn width(&self) -> usize;

    /// Tokens of a conversation, under the model's template.
    ///
    /// # Errors
    /// [`PromptError`].
    fn encode_chat(&self, messages: &[Message]) -> Result<Prompt, PromptError>;

    /// Tokens of a plain text.
    ///
    /// # Errors
    /// [`PromptError`].
    fn encode_text(&self, text: &str) -> Result<Prompt, PromptError>;

    /// The grammar of an answer of this shape. May take seconds.
    ///
    /// # Errors
    /// [`GrammarError`] says what is wrong with the schema.
    fn grammar(&self, shape: &Shape) -> Result<Grammar, GrammarError>;

    /// Starts a job.
    ///
    /// # Errors
    /// [`StartError`].
    fn start(&self, job: Job) -> Result<Events, StartError>;

    /// Starts to weigh an answer.
    ///
    /// # Errors
    /// [`StartError`].
    fn weigh(&self, weigh: Weigh) -> Result<Weight, StartError>;
}

/// A job under way, with its place in the queue.
pub struct Running {
    /// What the model sends.
    pub events: Events,
    _place: OwnedSemaphorePermit,
}

/// The models that this server serves, by digest, and the places for work on them.
pub struct Queue {
    order: Vec<Sha256Digest>,
    models: HashMap<Sha256Digest, Arc<dyn Generator>>,
    places: Arc<Semaphore>,
}

impl Queue {
    /// Serves `models` in the order given, with `places` jobs at once, waiting ones included.
    pub fn new(models: Vec<(Sha256Digest, Arc<dyn Generator>)>, places: usize) -> Self {
        let order = models.iter().map(|(digest, _)| *digest).collect();
        let places = Arc::new(Semaphore::new(places));
        Self {
            order,
            models: models.into_iter().collect(),
            places,
        }
    }

    /// Digests in the order served: what the binding carries (P-20).
    pub fn order(&self) -> &[Sha256Digest] {
        &self.order
    }

    /// The model with this digest.
    pub fn model(&self, digest: &Sha256Digest) -> Option<&Arc<dyn Generator>> {
        self.models.get(digest)
    }

    /// Takes a place and starts the job; with a weighing its answer is weighed before it ends, in the same place.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(
        &self,
        model: &Arc<dyn Generator>,
        job: Job,
        weighing: Option<Weighing>,
    ) -> Result<Running, StartError> {
        let place = Arc::clone(&self.places)
            .try_acquire_owned()
            .map_err(|_| StartError::Full)?;
        Ok(Running {
            events: match weighing {
                Some(weighing) => weighed::start(model, job, weighing)?,
                None => model.start(job)?,
            },
            _place: place,
        })
    }
}
