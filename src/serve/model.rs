//! A running model of the models crate as a [`Generator`] of the server.

use std::ops::ControlFlow;
use std::sync::Arc;

use casemate_attestation::Sha256Digest;
use casemate_models::engine::{
    self, Failure, FinishReason, GenerateRequest, SamplingError, SubmitError, Tenant, WeighRequest,
};
use casemate_models::grammar::{Grammar, GrammarError, Shape};
use casemate_models::model::RunningModel;
use casemate_models::template::{self, ChatMessage, RenderOptions, TemplateError};
use casemate_models::tokenizer::Tokenizer;
use tokio::sync::{mpsc, oneshot};

use crate::api::{Message, Role};
use crate::policy::TeamName;
use crate::queue::{
    Event, Events, Finish, Generator, Job, Prompt, PromptError, StartError, TokenLogprobs,
    TokenText, Weigh, Weight,
};
use crate::session::now;

/// One served model.
pub struct Served(RunningModel);

impl Served {
    /// Serves a model whose engine runs.
    pub fn new(model: RunningModel) -> Self {
        Self(model)
    }
}

impl Generator for Served {
    fn context_tokens(&self) -> usize {
        self.0.engine().context_length()
    }

    fn width(&self) -> usize {
        self.0.text().width()
    }

    fn encode_chat(&self, messages: &[Message]) -> Result<Prompt, PromptError> {
        let messages: Vec<ChatMessage> = messages.iter().map(chat_message).collect();
        let options = RenderOptions {
            add_generation_prompt: true,
            now: now().secs(),
        };
        match self.0.encode_chat(&messages, &options) {
            Ok(ids) => Ok(Prompt(ids)),
            Err(TemplateError::Missing) => Err(PromptError::NoTemplate),
            Err(_) => Err(PromptError::Template),
        }
    }

    fn encode_text(&self, text: &str) -> Result<Prompt, PromptError> {
        let encoded = self.0.encode_text(text).map(Prompt);
        encoded.map_err(|_| PromptError::TooComplex)
    }

    fn grammar(&self, shape: &Shape) -> Result<Grammar, GrammarError> {
        self.0.grammar(shape)
    }

    fn start(&self, job: Job) -> Result<Events, StartError> {
        // One place for each token and the end: the engine's thread never waits for a reader, and a slow one costs no
        // more memory than its own answer.
        let (sender, receiver) = mpsc::channel(job.tokens_max.saturating_add(2));
        let request = GenerateRequest {
            tenant: tenant(&job.tenant),
            weight: job.share,
            prompt: job.prompt.0,
            sampling: job.sampling,
            tokens_max: Some(job.tokens_max),
            stop: job.stop,
            seed: job.seed,
            grammar: job.grammar,
            logprobs: job.logprobs,
            mark: job.mark,
            repetition: job.repetition,
            deadline: Some(job.deadline),
        };
        let text = Arc::clone(self.0.text());
        let translated = move |event| translated(event, text.tokenizer());
        let sink = Box::new(move |event| match sender.try_send(translated(event)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        });
        match self.0.engine().submit(request, sink) {
            Ok(ticket) => Ok(Events::new(receiver, Some(Box::new(ticket)))),
            Err(error) => Err(not_taken(&error)),
        }
    }

    fn weigh(&self, weigh: Weigh) -> Result<Weight, StartError> {
        let (sender, receiver) = oneshot::channel();
        let request = WeighRequest {
            tenant: tenant(&weigh.tenant),
            weight: weigh.share,
            prompt: weigh.prompt.0,
            answer: weigh.answer,
            deadline: Some(weigh.deadline),
        };
        let told = Box::new(move |weight| {
            // Whoever asked may be gone.
            let _ = sender.send(weight);
        });
        match self.0.engine().weigh(request, told) {
            Ok(ticket) => Ok(Weight::new(receiver, Some(Box::new(ticket)))),
            Err(error) => Err(not_taken(&error)),
        }
    }
}

fn not_taken(error: &SubmitError) -> StartError {
    match error {
        SubmitError::Busy => StartError::Full,
        SubmitError::Sampling(SamplingError::UnknownToken) => StartError::UnknownToken,
        error => {
            tracing::error!(%error, "the engine takes no job");
            StartError::Refused
        }
    }
}

fn chat_message(message: &Message) -> ChatMessage {
    ChatMessage {
        role: match message.role {
            Role::System => template::Role::System,
            Role::User => template::Role::User,
            Role::Assistant => template::Role::Assistant,
        },
        content: message.content.clone(),
    }
}

fn tenant(team: &TeamName) -> Tenant {
    Tenant(*Sha256Digest::of(team.as_str().as_bytes()).as_bytes())
}

/// What a token says: see [`TokenText`].
fn token_text(tokenizer: &Tokenizer, id: u32) -> TokenText {
    let bytes = tokenizer.token_bytes(id);
    let text = match std::str::from_utf8(bytes) {
        Ok("") => tokenizer.markup_text(id).unwrap_or_default().to_owned(),
        Ok(text) => text.to_owned(),
        Err(_) => {
            let hex = bytes.iter().map(|byte| format!("\\x{byte:02x}"));
            format!("bytes:{}", hex.collect::<String>())
        }
    };
    TokenText {
        text,
        bytes: (!bytes.is_empty()).then(|| bytes.to_vec()),
    }
}

fn token_logprobs(tokenizer: &Tokenizer, told: engine::TokenLogprobs) -> TokenLogprobs {
    let top = told.top.into_iter();
    TokenLogprobs {
        token: token_text(tokenizer, told.token),
        logprob: told.logprob,
        top: top
            .map(|(id, logprob)| (token_text(tokenizer, id), logprob))
            .collect(),
        offset: told.offset as u64,
    }
}

fn translated(event: engine::Event, tokenizer: &Tokenizer) -> Event {
    let count = |tokens: usize| u64::try_from(tokens).unwrap_or(u64::MAX);
    match event {
        engine::Event::Text {
            text,
            tokens,
            learnt,
            logprobs,
        } => Event::Text {
            text,
            tokens,
            learnt,
            logprobs: logprobs
                .into_iter()
                .map(|told| token_logprobs(tokenizer, told))
                .collect(),
        },
        engine::Event::Finished {
            reason,
            repeated,
            learnt,
            usage,
        } => {
            let finish = match reason {
                FinishReason::Stop => Finish::Stop,
                FinishReason::Length => Finish::Length,
                FinishReason::Repetition => Finish::Repetition,
                FinishReason::Deadline => return Event::TimedOut,
                FinishReason::Cancelled => return Event::Failed,
            };
            Event::End {
                finish,
                repeated,
                telling: false,
                tokens: count(usage.completion_tokens),
                learnt,
            }
        }
        engine::Event::Failed {
            failure: Failure::Grammar,
            ..
        } => Event::Stuck,
        engine::Event::Failed { reason, .. } => {
            tracing::error!(reason, "the engine failed");
            Event::Failed
        }
    }
}
