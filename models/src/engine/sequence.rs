//! One request while it is in the engine: its tokens, its draws, and its text on the way out.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::Vocabulary;
use super::gate::Place;
use super::request::{Event, FinishReason, GenerateRequest, Sink, Usage};
use super::sampler::{Distribution, Draws, SamplingError, SamplingParams};
use super::scheduler::Input;
use super::stop::StopFilter;
use crate::tokenizer::TextStream;

pub(super) struct Sequence {
    tokens: Vec<u32>,
    prompt: usize,
    tokens_max: usize,
    sampling: SamplingParams,
    draws: Draws,
    stream: TextStream,
    stop: StopFilter,
    unsaid: Vec<u32>,
    sink: Sink,
    deadline: Option<Instant>,
    cancelled: Arc<AtomicBool>,
    _place: Place,
}

/// What a sequence does after a token.
pub(super) enum Next {
    GoOn,
    Finish(FinishReason),
}

impl Sequence {
    pub(super) fn new(
        request: GenerateRequest,
        tokens_max: usize,
        seed: u64,
        sink: Sink,
        cancelled: Arc<AtomicBool>,
        place: Place,
    ) -> Self {
        Self {
            prompt: request.prompt.len(),
            tokens: request.prompt,
            tokens_max,
            sampling: request.sampling,
            draws: Draws::new(seed),
            stream: TextStream::default(),
            stop: StopFilter::new(request.stop),
            unsaid: Vec::new(),
            sink,
            deadline: request.deadline,
            cancelled,
            _place: place,
        }
    }

    pub(super) fn prompt_len(&self) -> usize {
        self.prompt
    }

    pub(super) fn capacity(&self) -> usize {
        self.prompt + self.tokens_max
    }

    pub(super) fn input(&self, input: &Input) -> &[u32] {
        let range = match input {
            Input::Prompt { range, .. } => range.clone(),
            Input::Drawn => self.tokens.len().saturating_sub(1)..self.tokens.len(),
        };
        self.tokens.get(range).unwrap_or_default()
    }

    /// Why it should end now although it is not complete.
    pub(super) fn interrupted(&self, now: Instant) -> Option<FinishReason> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Some(FinishReason::Cancelled);
        }
        self.deadline
            .filter(|deadline| *deadline <= now)
            .map(|_| FinishReason::Deadline)
    }

    /// Draws a token and gives out the text that it decides.
    pub(super) fn accept(
        &mut self,
        logits: &[f32],
        vocabulary: &dyn Vocabulary,
    ) -> Result<Next, SamplingError> {
        let distribution = Distribution::new(logits, &self.sampling, &self.tokens)?;
        let token = distribution
            .draw(self.draws.next_point())
            .ok_or(SamplingError::NoFiniteLogit)?;
        self.tokens.push(token);
        self.unsaid.push(token);
        if vocabulary.is_end(token) {
            return Ok(Next::Finish(FinishReason::Stop));
        }
        let text = self.stream.push(vocabulary.token_bytes(token));
        let released = self.stop.push(&text);
        if self.say(released.text).is_break() {
            return Ok(Next::Finish(FinishReason::Cancelled));
        }
        if released.stopped {
            self.stream = TextStream::default();
            return Ok(Next::Finish(FinishReason::Stop));
        }
        let full = self.tokens.len() - self.prompt >= self.tokens_max;
        Ok(if full {
            Next::Finish(FinishReason::Length)
        } else {
            Next::GoOn
        })
    }

    /// Says the rest and that it is over.
    pub(super) fn finish(mut self, reason: FinishReason) {
        let rest = self.stream.finish();
        let released = self.stop.push(&rest);
        let held = self.stop.finish();
        let usage = self.usage();
        if self.say(released.text + &held).is_continue() {
            let _ = (self.sink)(Event::Finished { reason, usage });
        }
    }

    /// Says that the engine failed.
    pub(super) fn fail(mut self, reason: String) {
        let usage = self.usage();
        let _ = (self.sink)(Event::Failed { reason, usage });
    }

    fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: self.prompt,
            completion_tokens: self.tokens.len() - self.prompt,
        }
    }

    fn say(&mut self, text: String) -> ControlFlow<()> {
        if text.is_empty() {
            return ControlFlow::Continue(());
        }
        (self.sink)(Event::Text {
            text,
            tokens: std::mem::take(&mut self.unsaid),
        })
    }
}
