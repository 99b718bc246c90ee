//! A small model that guesses for a large one. It reads what each sequence has, draws with the sequence's own parameters
//! and random numbers, and so says what the large model will probably draw.
//!
//! As with every guess ([`speculate`](super::speculate)), only the token that the large model draws anyway counts: the
//! draft changes no text. Whatever goes wrong in it, memory that runs out included, costs guesses and nothing else.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::mark::{self, MarkKey};
use super::sampler::{self, Draws, Past, SamplingParams};
use super::{Engine, Opening, PAGE, SequenceId, StepError, Tenant, Work};

/// A small model beside a large one with the same vocabulary.
pub struct Draft {
    engine: Box<dyn Engine>,
    cost: f64,
}

impl Draft {
    /// A model that guesses. `cost` is what one of its steps takes, as a part of a step of the large model.
    pub fn new(engine: Box<dyn Engine>, cost: f64) -> Self {
        Self { engine, cost }
    }
}

/// A sequence that wants guesses.
pub(super) struct Ask<'a> {
    pub(super) sequence: SequenceId,
    pub(super) tenant: Tenant,
    /// Its tokens so far, at least one.
    pub(super) tokens: &'a [u32],
    /// Tokens that it may have in the end.
    pub(super) capacity: usize,
    /// Guesses wanted.
    pub(super) count: usize,
    /// How its tokens are drawn.
    pub(super) sampling: &'a SamplingParams,
    /// The random numbers that it will draw with.
    pub(super) draws: Draws,
    /// Whose mark its tokens carry, and how many of them are the prompt's.
    pub(super) mark: Option<(MarkKey, usize)>,
}

/// The draft, and what it has read of each sequence.
pub(super) struct Drafter {
    draft: Draft,
    /// Tokens that it reads in one step.
    prefill: usize,
    /// Tokens that went through it, by sequence.
    read: HashMap<SequenceId, Vec<u32>>,
    logits: Vec<f32>,
}

/// An ask under way.
struct Guessing<'a> {
    ask: Ask<'a>,
    /// Tokens that come next; all of the sequence's own are among them or were read before.
    next: Vec<u32>,
    /// Whether the sequence was read to its end, so that a guess can be drawn.
    ready: bool,
    guesses: Vec<u32>,
}

impl Drafter {
    pub(super) fn new(draft: Draft, prefill: usize) -> Self {
        Self {
            draft,
            prefill: prefill.max(1),
            read: HashMap::new(),
            logits: Vec::new(),
        }
    }

    /// What a guess costs, as a part of a step of the large model.
    pub(super) fn cost(&self) -> f64 {
        self.draft.cost
    }

    /// Tokens that a sequence can have here.
    pub(super) fn context(&self) -> usize {
        self.draft.engine.context_length()
    }

    /// Guesses for each of `asks`, as many as wanted or none: of a sequence that it has not read to the end yet, it
    /// reads some more.
    pub(super) fn guess(&mut self, asks: Vec<Ask<'_>>) -> Vec<(SequenceId, Vec<u32>)> {
        let mut budget = self.prefill;
        let mut under_way: Vec<Guessing<'_>> = asks
            .into_iter()
            .filter_map(|ask| self.begin(ask, &mut budget))
            .collect();
        while under_way.iter().any(|one| !one.next.is_empty()) {
            if self.step(&mut under_way).is_err() {
                // Which sequence was to blame does not matter: nothing is lost but guesses.
                for one in &under_way {
                    self.close(one.ask.sequence);
                }
                return Vec::new();
            }
        }
        let guessed = under_way.into_iter();
        guessed.map(|one| (one.ask.sequence, one.guesses)).collect()
    }

    /// Forgets a sequence.
    pub(super) fn close(&mut self, sequence: SequenceId) {
        if self.read.remove(&sequence).is_some() {
            self.draft.engine.close(sequence);
        }
    }

    /// Forgets what is kept of sequences that are closed.
    pub(super) fn forget(&mut self) {
        self.draft.engine.forget();
    }

    /// Opens a sequence if need be, and takes back what it does not say any more. `None` if there is no room for it.
    fn begin<'a>(&mut self, ask: Ask<'a>, budget: &mut usize) -> Option<Guessing<'a>> {
        if !self.read.contains_key(&ask.sequence) {
            let opening = Opening {
                tenant: ask.tenant,
                tokens: ask.tokens,
                capacity: ask.capacity.min(self.context()),
            };
            let known = self.draft.engine.open(ask.sequence, opening).ok()?;
            let known = ask.tokens.get(..known)?.to_vec();
            self.read.insert(ask.sequence, known);
        }
        let read = self.read.get_mut(&ask.sequence)?;
        let same = read.iter().zip(ask.tokens).take_while(|(a, b)| a == b);
        // The last token is read anew if need be: a guess is drawn from what follows it.
        let same = same.count().min(ask.tokens.len().checked_sub(1)?);
        if same < read.len() {
            read.truncate(same);
            self.draft.engine.truncate(ask.sequence, same);
        }
        let pages = (ask.tokens.len() + ask.count).div_ceil(PAGE) - same.div_ceil(PAGE);
        if pages > self.draft.engine.pages_free() {
            // Its own pages help others more than it.
            self.close(ask.sequence);
            return None;
        }
        let left = ask.tokens.get(same..)?;
        let next = left.get(..left.len().min(*budget))?;
        *budget -= next.len();
        Some(Guessing {
            next: next.to_vec(),
            ready: next.len() == left.len(),
            guesses: Vec::new(),
            ask,
        })
    }

    /// One step of the draft for all that have something to read.
    fn step(&mut self, under_way: &mut [Guessing<'_>]) -> Result<(), StepError> {
        let busy = under_way.iter().filter(|one| !one.next.is_empty());
        let work: Vec<Work<'_>> = busy
            .map(|one| Work {
                sequence: one.ask.sequence,
                tokens: &one.next,
                logits: usize::from(one.ready),
            })
            .collect();
        let (engine, logits) = (&mut self.draft.engine, &mut self.logits);
        catch_unwind(AssertUnwindSafe(|| engine.step(&work, logits)))
            .unwrap_or_else(|_| Err(StepError("the draft's code panicked".to_owned())))?;
        let mut rows = self.logits.chunks_exact(engine.vocabulary().max(1));
        for one in under_way.iter_mut().filter(|one| !one.next.is_empty()) {
            let next = std::mem::take(&mut one.next);
            if let Some(read) = self.read.get_mut(&one.ask.sequence) {
                read.extend(next);
            }
            if one.ready {
                let row = rows.next();
                let row = row.ok_or_else(|| StepError("the draft gave no logits".to_owned()))?;
                one.draw(row);
            }
        }
        Ok(())
    }
}

impl Guessing<'_> {
    /// Draws a guess as the sequence draws tokens. Where nothing can be drawn there are no more guesses.
    fn draw(&mut self, logits: &[f32]) {
        let point = self.ask.draws.next_point();
        let looks_back = self.ask.sampling.looks_back() || self.ask.mark.is_some();
        let context = match looks_back {
            true => [self.ask.tokens, &self.guesses].concat(),
            false => Vec::new(),
        };
        // Where a repetition is broken, and what a grammar permits, is not known here: a guess may be wrong for it.
        let past = Past {
            tokens: &context,
            breaks: &[],
        };
        let marked = self.ask.mark.as_ref().and_then(|(key, prompt)| {
            let answer = context.get(*prompt..)?;
            mark::context(answer).map(|context| key.noise(context))
        });
        let drawn = match marked {
            None => sampler::draw(logits, self.ask.sampling, past, point),
            Some(noise) => mark::draw(logits, self.ask.sampling, past, &noise, point),
        };
        let Ok(token) = drawn else {
            return;
        };
        self.guesses.push(token);
        if self.guesses.len() < self.ask.count {
            self.next = vec![token];
        }
    }
}
