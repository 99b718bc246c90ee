//! A running model of the models crate as a [`Generator`] of the server.

use std::ops::ControlFlow;

use casemate_models::engine::{self, FinishReason, GenerateRequest, SamplingParams, Tenant};
use casemate_models::model::RunningModel;
use casemate_models::template::{self, ChatMessage, RenderOptions, TemplateError};
use tokio::sync::mpsc;

use crate::api::{Message, Role};
use crate::queue::{Event, Finish, Full, Generator, Job, Prompt, PromptError};
use crate::session::now;

/// One served model.
pub struct Served(pub RunningModel);

impl Generator for Served {
    fn context_tokens(&self) -> usize {
        self.0.engine().context_length()
    }

    fn encode_chat(&self, messages: &[Message]) -> Result<Prompt, PromptError> {
        let messages: Vec<ChatMessage> = messages
            .iter()
            .map(|message| ChatMessage {
                role: match message.role {
                    Role::System => template::Role::System,
                    Role::User => template::Role::User,
                    Role::Assistant => template::Role::Assistant,
                },
                content: message.content.clone(),
            })
            .collect();
        let options = RenderOptions { add_generation_prompt: true, now: now().secs() };
        match self.0.encode_chat(&messages, &options) {
            Ok(ids) => Ok(Prompt(ids)),
            Err(TemplateError::Missing) => Err(PromptError::NoTemplate),
            Err(_) => Err(PromptError::Template),
        }
    }

    fn encode_text(&self, text: &str) -> Result<Prompt, PromptError> {
        self.0.encode_text(text).map(Prompt).map_err(|_| PromptError::Template)
    }

    fn start(&self, job: Job) -> Result<mpsc::Receiver<Event>, Full> {
        // One place for each token and the end: the engine's thread never waits for a reader.
        let (sender, receiver) = mpsc::channel(job.tokens_max.saturating_add(2));
        let request = GenerateRequest {
            tenant: Tenant([0; 32]),
            prompt: job.prompt.0,
            sampling: SamplingParams {
                temperature: job.temperature,
                top_p: job.top_p,
                ..SamplingParams::default()
            },
            tokens_max: Some(job.tokens_max),
            stop: Vec::new(),
            seed: job.seed,
            deadline: None,
        };
        // The ticket lives in the sink, which the engine keeps while the request runs; a gone reader breaks it.
        let sink = Box::new(move |event| {
            let event = match event {
                engine::Event::Text { text, .. } => Event::Token(text),
                engine::Event::Finished { reason: FinishReason::Stop, .. } => Event::End(Finish::Stop),
                engine::Event::Finished { reason: FinishReason::Length, .. } => {
                    Event::End(Finish::Length)
                }
                engine::Event::Finished { .. } | engine::Event::Failed { .. } => Event::Failed,
            };
            match sender.try_send(event) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        });
        let ticket = self.0.engine().submit(request, sink).map_err(|_| Full)?;
        // Dropping the ticket would cancel; a gone receiver already does, through the sink.
        std::mem::forget(ticket);
        Ok(receiver)
    }
}
