//! Bounded admission to the models. A full server says so now instead of letting callers wait behind it (S14); a caller who
//! leaves frees his place with his receiver.

use std::collections::HashMap;
use std::sync::Arc;

use casemate_attestation::Sha256Digest;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::api::Message;

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
    /// Nothing to continue.
    #[error("the prompt has no tokens")]
    Empty,
}

/// One piece of work for a model.
pub struct Job {
    /// What to continue.
    pub prompt: Prompt,
    /// Tokens of the answer, at most.
    pub tokens_max: usize,
    /// 0 is greedy.
    pub temperature: f64,
    /// Nucleus; 1 is all.
    pub top_p: f64,
    /// The caller's seed.
    pub seed: Option<u64>,
}

/// What a model sends back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// One more token, and the text that became certain with it (may be empty).
    Token(String),
    /// The model ended by itself, or reached its limit of tokens.
    End(Finish),
    /// The engine failed; its log has the details.
    Failed,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The model's own end, or a stop sequence.
    Stop,
    /// No tokens left.
    Length,
}

impl Finish {
    /// OpenAI's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// The model has no room for another sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// A model that is loaded and can continue texts. The engine of a package, or a scripted one in tests of the server.
pub trait Generator: Send + Sync + 'static {
    /// Tokens that prompt and answer may have together.
    fn context_tokens(&self) -> usize;

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

    /// Starts a job. Dropping the receiver ends it.
    ///
    /// # Errors
    /// [`Full`].
    fn start(&self, job: Job) -> Result<mpsc::Receiver<Event>, Full>;
}

/// A job under way, with its place in the queue.
pub struct Running {
    /// What the model sends.
    pub events: mpsc::Receiver<Event>,
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

    /// Takes a place and starts the job.
    ///
    /// # Errors
    /// [`Full`].
    pub fn start(&self, model: &Arc<dyn Generator>, job: Job) -> Result<Running, Full> {
        let place = Arc::clone(&self.places)
            .try_acquire_owned()
            .map_err(|_| Full)?;
        Ok(Running {
            events: model.start(job)?,
            _place: place,
        })
    }
}
