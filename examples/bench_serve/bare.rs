//! The product's engine alone: the same requests, in this process, without HTTP, session, policy or audit.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};
use casemate_models::engine::{
    EngineLimits, Event, GenerateRequest, SamplingParams, Tenant, Ticket,
};
use casemate_models::weights::GgufFile;
use casemate_models::{LoadedModel, RunningModel};

use crate::load::{Answer, Load, Turn};
use crate::options::Options;
use crate::place;
use crate::prompts::repetitive;

/// A loaded model.
pub struct Bare(RunningModel);

struct Ended {
    index: usize,
    answer: anyhow::Result<Answer>,
}

impl Bare {
    /// Loads the model with the bounds that the server's configuration has, and runs it once.
    ///
    /// # Errors
    /// When it cannot.
    pub fn load(model: &Path, options: &Options) -> anyhow::Result<Self> {
        let limits = EngineLimits {
            sequences_max: place::sequences(options),
            queue_max: place::QUEUE,
            tenant_max: place::QUEUE,
            cache_tokens_max: place::cache_tokens(options),
            threads: options.threads,
            speculate: false,
            ..EngineLimits::default()
        };
        let loaded = LoadedModel::load(&GgufFile::open(model)?, limits, &mut |_, _| {})?;
        let bare = Self(loaded.spawn()?);
        bare.run(&Load::new(repetitive(0, 1), 1, options).answers_of(1))?;
        Ok(bare)
    }

    /// Has the engine answer `load`, tokenizing included, as many requests at once as there would be clients.
    ///
    /// # Errors
    /// When a request fails.
    pub fn run(&self, load: &Load) -> anyhow::Result<Turn> {
        let (sender, receiver) = channel();
        let started = Instant::now();
        let mut tickets = Vec::new();
        let mut waiting = load.prompts().iter().enumerate();
        for (index, prompt) in waiting.by_ref().take(load.clients()) {
            tickets.push(self.submit(index, prompt, load.answer(), &sender)?);
        }
        let mut answers = Vec::new();
        while answers.len() < load.prompts().len() {
            let ended = receiver.recv_timeout(Duration::from_secs(600))?;
            answers.push((ended.index, ended.answer?));
            if let Some((index, prompt)) = waiting.next() {
                tickets.push(self.submit(index, prompt, load.answer(), &sender)?);
            }
        }
        let wall = started.elapsed();
        answers.sort_by_key(|(index, _)| *index);
        let answers = answers.into_iter().map(|(_, answer)| answer).collect();
        Ok(Turn { wall, answers })
    }

    fn submit(
        &self,
        index: usize,
        prompt: &str,
        tokens: usize,
        sender: &Sender<Ended>,
    ) -> anyhow::Result<Ticket> {
        let (asked, sender) = (Instant::now(), sender.clone());
        let prompt = self.0.encode_text(prompt);
        let prompt = prompt.map_err(|error| anyhow!("the prompt: {error}"))?;
        if prompt.is_empty() {
            bail!("an empty prompt");
        }
        let request = GenerateRequest {
            tenant: Tenant([7; 32]),
            weight: 1,
            prompt,
            sampling: SamplingParams {
                temperature: 0.0,
                ..SamplingParams::default()
            },
            tokens_max: Some(tokens),
            stop: Vec::new(),
            seed: None,
            grammar: None,
            logprobs: None,
            mark: None,
            repetition: None,
            deadline: None,
        };
        let (mut first, mut all) = (None, String::new());
        let sink = Box::new(move |event| {
            let answer = match event {
                Event::Text { text, .. } => {
                    first.get_or_insert_with(|| asked.elapsed());
                    all.push_str(&text);
                    return ControlFlow::Continue(());
                }
                Event::Finished { usage, .. } => Ok(Answer {
                    first: first.unwrap_or_else(|| asked.elapsed()),
                    prompt: usage.prompt_tokens,
                    tokens: usage.completion_tokens,
                    text: std::mem::take(&mut all),
                }),
                Event::Failed { reason, .. } => Err(anyhow!("the engine failed: {reason}")),
            };
            match sender.send(Ended { index, answer }) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        });
        Ok(self.0.engine().submit(request, sink)?)
    }
}
