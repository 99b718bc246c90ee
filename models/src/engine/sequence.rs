//! One request while it is in the engine: its tokens, its draws, and its text on the way out.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::gate::Place;
use super::request::{Event, FinishReason, GenerateRequest, Sink, Usage};
use super::sampler::{self, Draws, SamplingError, SamplingParams};
use super::speculate::Speculator;
use super::stop::StopFilter;
use super::{Draw, Vocabulary};
use crate::tokenizer::TextStream;

pub(super) struct Sequence {
    tokens: Vec<u32>,
    prompt: usize,
    tokens_max: usize,
    sampling: SamplingParams,
    draws: Draws,
    speculator: Speculator,
    /// Guesses at the end of `tokens`.
    guesses: usize,
    stream: TextStream,
    stop: StopFilter,
    unsaid: Vec<u32>,
    sink: Sink,
    deadline: Option<Instant>,
    cancelled: Arc<AtomicBool>,
    _place: Place,
}

/// What came of a step.
pub(super) struct Accepted {
    /// Tokens that were drawn.
    pub(super) drawn: usize,
    /// Guesses that were right: the model need not compute them again.
    pub(super) right: usize,
    pub(super) next: Next,
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
            speculator: Speculator::default(),
            guesses: 0,
            stream: TextStream::default(),
            stop: StopFilter::new(request.stop),
            unsaid: Vec::new(),
            sink,
            deadline: request.deadline,
            cancelled,
            _place: place,
        }
    }

    /// Its tokens so far, without guesses.
    pub(super) fn tokens(&self) -> &[u32] {
        let known = self.tokens.len() - self.guesses;
        self.tokens.get(..known).unwrap_or_default()
    }

    pub(super) fn capacity(&self) -> usize {
        self.prompt + self.tokens_max
    }

    /// Guesses what follows: at most `max` tokens. `rows` are computed anyway in the step.
    pub(super) fn guess(&mut self, max: usize, rows: usize) {
        // The last token that may be drawn needs no guess behind it.
        let guesses = self
            .speculator
            .guess(&self.tokens, max.min(self.left()), rows);
        self.guesses = guesses.len();
        self.tokens.extend(guesses);
    }

    /// What goes through the model: `range` of its tokens, and its guesses if those are the last.
    pub(super) fn input(&self, range: &Range<usize>, last: bool) -> &[u32] {
        let end = if last {
            range.end + self.guesses
        } else {
            range.end
        };
        self.tokens.get(range.start..end).unwrap_or_default()
    }

    /// How many guesses it has.
    pub(super) fn guesses(&self) -> usize {
        self.guesses
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

    /// Draws from the logits after its last token, and from those after its guesses as long as they were right. Gives
    /// out the text that this decides. `logits` are rows of `vocabulary_len`.
    pub(super) fn accept(
        &mut self,
        logits: &[f32],
        vocabulary_len: usize,
        vocabulary: &dyn Vocabulary,
    ) -> Result<Accepted, SamplingError> {
        let known = self.tokens.len() - self.guesses;
        let guessed = self.tokens.split_off(known);
        self.guesses = 0;
        let mut accepted = Accepted {
            drawn: 0,
            right: 0,
            next: Next::GoOn,
        };
        for (at, logits) in logits.chunks_exact(vocabulary_len).enumerate() {
            let token = self.draw(logits)?;
            accepted.drawn += 1;
            accepted.next = self.take(token, vocabulary);
            let right = guessed.get(at) == Some(&token);
            accepted.right += usize::from(right);
            if !right || !matches!(accepted.next, Next::GoOn) {
                break;
            }
        }
        self.speculator.learn(guessed.len(), accepted.right);
        Ok(accepted)
    }

    /// How its next tokens are drawn where the logits are, if they can be: behind its last token, and behind each guess or,
    /// without guesses, behind `ahead` tokens that are not known yet.
    pub(super) fn drawing(&self, ahead: usize) -> Draw<'_> {
        let mut draws = self.draws.clone();
        let points = (0..=self.guesses + ahead).map(|_| draws.next_point());
        Draw {
            params: &self.sampling,
            points: points.collect(),
        }
    }

    /// By which rules its tokens may be drawn where the logits are, if nothing but tokens is asked for.
    pub(super) fn rules(&self) -> Option<&SamplingParams> {
        Some(&self.sampling)
    }

    /// How many tokens it may have behind the next one.
    pub(super) fn left(&self) -> usize {
        self.capacity().saturating_sub(self.tokens.len() + 1)
    }

    /// As [`Self::accept`], of tokens that were drawn as [`Self::drawing`] said.
    pub(super) fn accept_drawn(&mut self, drawn: &[u32], vocabulary: &dyn Vocabulary) -> Accepted {
        let known = self.tokens.len() - self.guesses;
        let guessed = self.tokens.split_off(known);
        self.guesses = 0;
        let mut accepted = Accepted {
            drawn: 0,
            right: 0,
            next: Next::GoOn,
        };
        for (at, token) in drawn.iter().enumerate() {
            let _ = self.draws.next_point();
            accepted.drawn += 1;
            accepted.next = self.take(*token, vocabulary);
            // Without guesses the model was fed with every token but the last.
            let right = match guessed.is_empty() {
                true => at + 1 < drawn.len(),
                false => guessed.get(at) == Some(token),
            };
            accepted.right += usize::from(right);
            if !right || !matches!(accepted.next, Next::GoOn) {
                break;
            }
        }
        self.speculator.learn(guessed.len(), accepted.right);
        accepted
    }

    fn draw(&mut self, logits: &[f32]) -> Result<u32, SamplingError> {
        let point = self.draws.next_point();
        sampler::draw(logits, &self.sampling, &self.tokens, point)
    }

    /// Appends a token and gives out what it decides.
    fn take(&mut self, token: u32, vocabulary: &dyn Vocabulary) -> Next {
        self.tokens.push(token);
        self.unsaid.push(token);
        if vocabulary.is_end(token) {
            return Next::Finish(FinishReason::Stop);
        }
        let text = self.stream.push(vocabulary.token_bytes(token));
        let released = self.stop.push(&text);
        if self.say(released.text).is_break() {
            return Next::Finish(FinishReason::Cancelled);
        }
        if released.stopped {
            self.stream = TextStream::default();
            return Next::Finish(FinishReason::Stop);
        }
        match self.tokens.len() - self.prompt >= self.tokens_max {
            true => Next::Finish(FinishReason::Length),
            false => Next::GoOn,
        }
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
            completion_tokens: self.tokens().len() - self.prompt,
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
