//! One request while it is in the engine: its tokens, its draws, and its text on the way out.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::draft::Drafter;
use super::gate::Place;
use super::learnt::{Draw as Judged, Learnt};
use super::logprobs::{Reveal, TokenLogprobs, Untold};
use super::mark::{self, MarkKey};
use super::masked::Masked;
use super::repetition::{RepetitionRule, Repetitions};
use super::request::{Event, Failure, FinishReason, GenerateRequest, Sink, Usage};
use super::sampler::dry::Breaks;
use super::sampler::{self, Draws, Past, SamplingError, SamplingParams};
use super::speculate::Speculator;
use super::stop::StopFilter;
use super::{Draw, Vocabulary};
use crate::grammar::{Grammar, Stuck};
use crate::tokenizer::TextStream;

pub(super) struct Sequence {
    tokens: Vec<u32>,
    prompt: usize,
    tokens_max: usize,
    /// The whole answer, where it is given and only weighed.
    dictated: Option<Vec<u32>>,
    sampling: SamplingParams,
    breaks: Breaks,
    /// Moves on with the tokens that are accepted: it is as right after giving way and after wrong guesses.
    grammar: Option<Box<Grammar>>,
    draws: Draws,
    /// Experience with what the text itself suggests.
    lookup: Speculator,
    /// Experience with what a draft suggests.
    draft: Speculator,
    /// Guesses at the end of `tokens`.
    guesses: usize,
    /// Whether they are a draft's.
    drafted: bool,
    stream: TextStream,
    stop: StopFilter,
    /// What is told of probabilities.
    logprobs: Option<Reveal>,
    mark: Option<MarkKey>,
    repetition: Option<RepetitionRule>,
    repetitions: Repetitions,
    /// Whether it repeated as often as its rule says.
    repeated: bool,
    untold: Untold,
    unsaid: Vec<u32>,
    /// What the tokens tell that no event has said.
    learnt: Learnt,
    sink: Sink,
    deadline: Option<Instant>,
    cancelled: Arc<AtomicBool>,
    _place: Place,
}

/// What came of a step.
#[derive(Default)]
pub(super) struct Accepted {
    /// Tokens that were drawn.
    pub(super) drawn: usize,
    /// Guesses that were right: the model need not compute them again.
    pub(super) right: usize,
    pub(super) next: Next,
}

/// Why no token was drawn.
#[derive(Debug, thiserror::Error)]
pub(super) enum Halted {
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    #[error(transparent)]
    Grammar(#[from] Stuck),
}

impl Halted {
    pub(super) fn failure(&self) -> Failure {
        match self {
            Self::Sampling(_) => Failure::Engine,
            Self::Grammar(_) => Failure::Grammar,
        }
    }
}

/// What a sequence does after a token.
#[derive(Default)]
pub(super) enum Next {
    #[default]
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
            dictated: None,
            sampling: request.sampling,
            breaks: Breaks::default(),
            grammar: request.grammar,
            draws: Draws::new(seed),
            lookup: Speculator::default(),
            draft: Speculator::default(),
            guesses: 0,
            drafted: false,
            stream: TextStream::default(),
            stop: StopFilter::new(request.stop),
            logprobs: request.logprobs,
            mark: request.mark,
            repetition: request.repetition,
            repetitions: Repetitions::default(),
            repeated: false,
            untold: Untold::default(),
            unsaid: Vec::new(),
            learnt: Learnt::default(),
            sink,
            deadline: request.deadline,
            cancelled,
            _place: place,
        }
    }

    /// With an answer that is given: as many tokens as it may have.
    pub(super) fn dictated(mut self, answer: Vec<u32>) -> Self {
        self.dictated = Some(answer);
        self
    }

    /// The rest of an answer that is given.
    fn dictation(&self) -> Option<&[u32]> {
        let said = self.tokens().len() - self.prompt;
        self.dictated.as_ref()?.get(said..)
    }

    /// Its tokens so far, without guesses.
    pub(super) fn tokens(&self) -> &[u32] {
        let known = self.tokens.len() - self.guesses;
        self.tokens.get(..known).unwrap_or_default()
    }

    pub(super) fn capacity(&self) -> usize {
        self.prompt + self.tokens_max
    }

    /// Whether its answer is given.
    pub(super) fn is_dictated(&self) -> bool {
        self.dictated.is_some()
    }

    /// Guesses what follows from the text so far: at most `max` tokens. `rows` are computed anyway in the step. What is dictated is no
    /// guess that could be wrong: as much of it as there is room for.
    pub(super) fn guess(&mut self, max: usize, rows: usize) {
        let max = max.min(self.left());
        let guesses = match self.dictation() {
            Some(rest) => rest.get(..max).unwrap_or_default().to_vec(),
            None => self.lookup.guess(&self.tokens, max, rows),
        };
        self.put(guesses, false);
    }

    /// Whose mark its tokens carry, and how many of them are the prompt's.
    pub(super) fn mark(&self) -> Option<(MarkKey, usize)> {
        self.mark.clone().map(|key| (key, self.prompt))
    }

    /// Asks a draft what follows, unless the text itself has said what is more likely right.
    pub(super) fn ask(&self, max: usize, rows: usize, drafter: &Drafter) -> Option<(usize, Draws)> {
        let more_trusted = self.guesses > 0 && self.lookup.trust() >= self.draft.trust();
        let room = drafter.context().checked_sub(self.tokens().len() + 1)?;
        let max = max.min(self.left() + self.guesses).min(room);
        let count = self.draft.count(max, rows, drafter.cost());
        (count > 0 && !more_trusted && !self.is_dictated()).then(|| (count, self.draws.clone()))
    }

    /// Takes a draft's guesses instead of those that it has; none leave these in place.
    pub(super) fn take_draft(&mut self, guesses: Vec<u32>) {
        if !guesses.is_empty() {
            self.draft.made(guesses.len());
            self.tokens.truncate(self.tokens.len() - self.guesses);
            self.put(guesses, true);
        }
    }

    fn put(&mut self, guesses: Vec<u32>, drafted: bool) {
        self.guesses = guesses.len();
        self.drafted = drafted;
        self.tokens.extend(guesses);
    }

    /// How its tokens are drawn.
    pub(super) fn sampling(&self) -> &SamplingParams {
        &self.sampling
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
    ) -> Result<Accepted, Halted> {
        let guessed = self.take_guesses();
        let mut accepted = Accepted::default();
        for (at, logits) in logits.chunks_exact(vocabulary_len).enumerate() {
            let token = match self.dictation().and_then(<[u32]>::first) {
                Some(token) => {
                    let token = *token;
                    self.learnt.add(Learnt::of_text(logits, token));
                    token
                }
                None => self.draw(logits, vocabulary)?,
            };
            if let Some(reveal) = self.logprobs
                && !vocabulary.is_end(token)
            {
                let told = TokenLogprobs::new(logits, token, reveal);
                self.untold.push(told, vocabulary.token_bytes(token).len());
            }
            accepted.drawn += 1;
            let complete = self.follow(token, vocabulary)?;
            accepted.next = match self.take(token, vocabulary) {
                Next::GoOn | Next::Finish(FinishReason::Length) if complete => {
                    Next::Finish(FinishReason::Stop)
                }
                next => next,
            };
            let right = guessed.get(at) == Some(&token);
            accepted.right += usize::from(right);
            if !right || !matches!(accepted.next, Next::GoOn) {
                break;
            }
        }
        if !self.is_dictated() {
            self.learn(guessed.len(), accepted.right);
        }
        Ok(accepted)
    }

    /// Takes its guesses back: what is drawn says which of them were right.
    fn take_guesses(&mut self) -> Vec<u32> {
        let known = self.tokens.len() - self.guesses;
        self.guesses = 0;
        self.tokens.split_off(known)
    }

    /// Learns how many of its guesses were right.
    fn learn(&mut self, guesses: usize, right: usize) {
        match std::mem::take(&mut self.drafted) {
            true => self.draft.learn(guesses, right),
            false => {
                self.draft.made(0);
                self.lookup.learn(guesses, right);
            }
        }
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
        let tokens_alone = self.grammar.is_none()
            && self.logprobs.is_none()
            && self.mark.is_none()
            && self.dictated.is_none();
        tokens_alone.then_some(&self.sampling)
    }

    /// How many tokens it may have behind the next one: so many guesses there is room for.
    pub(super) fn left(&self) -> usize {
        self.capacity().saturating_sub(self.tokens.len() + 1)
    }

    /// As [`Self::accept`], of tokens that were drawn as [`Self::drawing`] said.
    /// `millibits` say what each tells.
    pub(super) fn accept_drawn(
        &mut self,
        drawn: &[u32],
        millibits: &[u32],
        vocabulary: &dyn Vocabulary,
    ) -> Accepted {
        let guessed = self.take_guesses();
        let mut accepted = Accepted::default();
        for (at, token) in drawn.iter().enumerate() {
            let _ = self.draws.next_point();
            self.learnt
                .add(Learnt::of_drawn(millibits.get(at).copied()));
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
        self.learn(guessed.len(), accepted.right);
        accepted
    }

    fn draw(&mut self, raw: &[f32], vocabulary: &dyn Vocabulary) -> Result<u32, Halted> {
        let masked = match &mut self.grammar {
            Some(grammar) => Some(Masked::of(raw, &grammar.follows()?, true)?),
            None => None,
        };
        let point = self.draws.next_point();
        let dry = &self.sampling.dry;
        let breaks = match dry.is_off() {
            true => &[],
            false => self.breaks.of(&self.tokens, dry, vocabulary),
        };
        let tokens = &self.tokens;
        let past = Past { tokens, breaks };
        let answer = tokens.get(self.prompt..).unwrap_or_default();
        let marked = self.mark.as_ref().zip(mark::context(answer));
        // Beside a grammar there is no mark.
        let outcome = match (&masked, marked) {
            (Some(masked), _) => masked.draw(&self.sampling, past, point)?,
            (None, None) => sampler::draw_outcome(raw, &self.sampling, past, point, true)?,
            (None, Some((key, context))) => {
                mark::draw_outcome(raw, &self.sampling, past, &key.noise(context), point, true)?
            }
        };
        let judged = Judged {
            raw,
            masked: masked.as_ref(),
            params: &self.sampling,
        };
        self.learnt.add(judged.learnt(&outcome));
        Ok(outcome.token)
    }

    /// Takes the grammar further. True when it allows nothing after this token.
    fn follow(&mut self, token: u32, vocabulary: &dyn Vocabulary) -> Result<bool, Stuck> {
        match &mut self.grammar {
            Some(grammar) if !vocabulary.is_end(token) => grammar.accept(token),
            _ => Ok(false),
        }
    }

    /// Appends a token and gives out what it decides.
    fn take(&mut self, token: u32, vocabulary: &dyn Vocabulary) -> Next {
        self.tokens.push(token);
        self.unsaid.push(token);
        if vocabulary.is_end(token) {
            return Next::Finish(FinishReason::Stop);
        }
        let text = self.stream.push(vocabulary.token_bytes(token));
        self.untold.made(&text, self.stream.pending());
        let released = self.stop.push(&text);
        if self.say(released.text).is_break() {
            return Next::Finish(FinishReason::Cancelled);
        }
        if released.stopped {
            self.stream = TextStream::default();
            return Next::Finish(FinishReason::Stop);
        }
        if self.repeats(token) {
            return Next::Finish(FinishReason::Repetition);
        }
        match self.tokens.len() - self.prompt >= self.tokens_max {
            true => Next::Finish(FinishReason::Length),
            false => Next::GoOn,
        }
    }

    /// Whether it ends here because it repeats itself.
    fn repeats(&mut self, token: u32) -> bool {
        let Some(rule) = self.repetition else {
            return false;
        };
        self.repeated |= self.repetitions.push(token) >= rule.times_max;
        self.repeated && rule.stops
    }

    /// Says the rest and that it is over.
    pub(super) fn finish(mut self, reason: FinishReason) {
        let rest = self.stream.finish();
        self.untold.made(&rest, 0);
        let released = self.stop.push(&rest);
        let held = self.stop.finish();
        let usage = self.usage();
        if self.say(released.text + &held).is_continue() {
            let _ = (self.sink)(Event::Finished {
                reason,
                repeated: self.repeated,
                learnt: self.learnt,
                usage,
            });
        }
    }

    /// Says that the answer cannot go on.
    pub(super) fn fail(mut self, failure: Failure, reason: String) {
        let usage = self.usage();
        let _ = (self.sink)(Event::Failed {
            failure,
            reason,
            usage,
        });
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
        let logprobs = self.untold.released(text.len());
        (self.sink)(Event::Text {
            text,
            logprobs,
            tokens: std::mem::take(&mut self.unsaid),
            learnt: std::mem::take(&mut self.learnt),
        })
    }
}
