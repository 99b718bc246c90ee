//! Sequences whose keys and values stand in pages: what every executor with pages does alike.

use std::collections::HashMap;

use super::pages::{self, Beginning, PageMemory, Pages};
use super::{Opening, PAGE, SequenceId, StepError};

/// Open sequences, and the pages of all.
pub(crate) struct Paged<M: PageMemory> {
    pages: Pages<M>,
    sequences: HashMap<SequenceId, Sequence>,
}

/// A sequence's pages, and what they hold.
pub(crate) struct Sequence {
    pages: Vec<u32>,
    /// Tokens that went through the model.
    len: usize,
    /// What the pages before `recent` hold.
    beginning: Beginning,
    /// Tokens behind the last page that may be found by others.
    recent: Vec<u32>,
}

/// Open sequences, to be looked at while the memory is written.
pub(crate) struct Sequences<'a>(&'a HashMap<SequenceId, Sequence>);

impl Sequence {
    /// Its pages, in order.
    pub(crate) fn pages(&self) -> &[u32] {
        &self.pages
    }

    /// Tokens that went through the model.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    fn publish<M: PageMemory>(&mut self, pages: &mut Pages<M>) {
        let whole = self.recent.len() / PAGE * PAGE;
        let first = self.len.saturating_sub(self.recent.len()) / PAGE;
        for (at, tokens) in self.recent.chunks_exact(PAGE).enumerate() {
            self.beginning = pages::next(&self.beginning, tokens);
            if let Some(page) = self.pages.get(first + at) {
                pages.publish(*page, self.beginning);
            }
        }
        self.recent.drain(..whole);
    }
}

impl<'a> Sequences<'a> {
    /// One of them.
    ///
    /// # Errors
    /// When it is not open.
    pub(crate) fn of(&self, id: SequenceId) -> Result<&'a Sequence, StepError> {
        self.0.get(&id).ok_or_else(not_open)
    }
}

fn not_open() -> StepError {
    StepError("a sequence is not open".into())
}

impl<M: PageMemory> Paged<M> {
    /// No sequence yet.
    pub(crate) fn new(memory: M) -> Self {
        Self {
            pages: Pages::new(memory),
            sequences: HashMap::new(),
        }
    }

    /// Pages that can be had.
    pub(crate) fn free(&self) -> usize {
        self.pages.free()
    }

    /// The memory, and who has which part of it.
    pub(crate) fn split(&mut self) -> (&mut M, Sequences<'_>) {
        (&mut self.pages.memory, Sequences(&self.sequences))
    }

    /// As [`super::Engine::open`].
    pub(crate) fn open(&mut self, id: SequenceId, opening: &Opening<'_>) -> usize {
        let mut sequence = Sequence {
            pages: Vec::new(),
            len: 0,
            beginning: pages::root(opening.tenant),
            recent: Vec::new(),
        };
        // The last token is computed in any case: the next one is drawn from its logits.
        let reusable = opening.tokens.len().saturating_sub(1) / PAGE;
        for tokens in opening.tokens.chunks_exact(PAGE).take(reusable) {
            let beginning = pages::next(&sequence.beginning, tokens);
            let Some(page) = self.pages.find(&beginning) else {
                break;
            };
            sequence.pages.push(page);
            sequence.beginning = beginning;
            sequence.len += PAGE;
        }
        let cached = sequence.len;
        self.sequences.insert(id, sequence);
        cached
    }

    /// As [`super::Engine::truncate`].
    pub(crate) fn truncate(&mut self, id: SequenceId, len: usize) {
        if let Some(sequence) = self.sequences.get_mut(&id)
            && len < sequence.len
        {
            let kept = sequence.recent.len().saturating_sub(sequence.len - len);
            sequence.recent.truncate(kept);
            sequence.len = len;
            // A page that only guesses filled is given back, so that the scheduler's count of pages stays true.
            while sequence.pages.len() > len.div_ceil(PAGE) {
                if let Some(page) = sequence.pages.pop() {
                    self.pages.release(page);
                }
            }
        }
    }

    /// As [`super::Engine::close`].
    pub(crate) fn close(&mut self, id: SequenceId) {
        if let Some(mut sequence) = self.sequences.remove(&id) {
            sequence.publish(&mut self.pages);
            // The end first: it is the least likely to come again.
            for page in sequence.pages.into_iter().rev() {
                self.pages.release(page);
            }
        }
    }

    /// As [`super::Engine::forget`].
    pub(crate) fn forget(&mut self) {
        self.pages.forget();
    }

    /// Gives a sequence pages for `rows` more tokens, and lets others find the pages that are full: what they hold is
    /// final, since guesses that were wrong have been taken back before the next step.
    ///
    /// # Errors
    /// When it is not open, or no page is left.
    pub(crate) fn grow(&mut self, id: SequenceId, rows: usize) -> Result<(), StepError> {
        let sequence = self.sequences.get_mut(&id).ok_or_else(not_open)?;
        sequence.publish(&mut self.pages);
        let needed = (sequence.len + rows).div_ceil(PAGE);
        while sequence.pages.len() < needed {
            let page = self.pages.take();
            let page =
                page.ok_or_else(|| StepError("no page is left for keys and values".into()))?;
            sequence.pages.push(page);
        }
        Ok(())
    }

    /// Notes that these tokens of a sequence went through the model.
    pub(crate) fn advance(&mut self, id: SequenceId, tokens: &[u32]) {
        if let Some(sequence) = self.sequences.get_mut(&id) {
            sequence.len += tokens.len();
            sequence.recent.extend_from_slice(tokens);
        }
    }
}
