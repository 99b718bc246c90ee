//! Answers of a team whose answers are shaped: a cell with every tick, whatever the model does meanwhile, and cells without
//! content until the answer has one of its lengths. One timer for each answer; nothing of the text decides when it fires.

use std::future::pending;
use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use tokio::sync::mpsc;
use tokio::time::{sleep, sleep_until};

use super::ApiError;
use super::answering::{Answering, LAST_WORD, Pipe, Step, event_stream, json_answer};
use super::body::{Answer, Piece};
use super::pace::{Pace, QUEUED_MAX, with_cells};
use super::sse::{DONE, Head, Usage, event};
use super::words::Words;
use crate::guard::shape::{CELL_BYTES, Cells, Filler};
use crate::queue::Finish;

/// Tokens whose probabilities wait for a cell, at the most; each is some hundred bytes.
const TOLD_MAX: usize = 8;
/// The longest error at the end of a stream, as an event.
const LAST_EVENT_BYTES_MAX: usize = 1024;

/// Sends the answer in cells; with `usage` the token counts come last.
pub(super) async fn stream(
    answering: Answering,
    head: Head,
    usage: bool,
    pace: &Arc<Pace>,
) -> Response<Answer> {
    let (sender, receiver) = mpsc::channel(QUEUED_MAX);
    let limit_s = answering.service.limits.reader_s_max;
    let begins = pace.begins();
    let stream = Stream::new(answering, head, usage, Arc::clone(pace));
    // A pipe that is dropped without a last cell, be it by a panic, is a cut for the peer.
    tokio::spawn(stream.pump(Pipe { sender, limit_s }));
    sleep_until(begins).await;
    with_cells(event_stream(receiver))
}

/// Collects the whole answer, as far as it comes in time.
pub(super) async fn whole(
    mut answering: Answering,
    head: &Head,
    pace: &Pace,
) -> Result<Response<Answer>, ApiError> {
    let bytes_max = pace.document_bytes_max();
    let over = pace.leaves(pace.shape().longest().saturating_sub(1));
    let mut words = Words::default();
    let mut finish = loop {
        let step = tokio::select! {
            step = answering.next() => step?,
            () = sleep_until(over) => Step::End(Finish::Length),
        };
        match step {
            Step::Text(text, told) => words.add(&text, told),
            Step::End(finish) => break finish,
        }
        if words.text.len() > bytes_max {
            break Finish::Length;
        }
    };
    let (told, usage) = (answering.logprobs, answering.usage());
    let write = |words: &Words, finish| {
        let told = told.then_some(words.told.as_slice());
        head.whole(&words.text, told, finish, usage)
    };
    let (words, all) = words.fitting(|words| write(words, Finish::Withheld).len() <= bytes_max);
    if !all {
        finish = Finish::Length;
    }
    answering.ended = finish.reason();
    drop(answering);
    let document = write(&words, finish);
    Ok(pace.document(json_answer(Bytes::new()), &document).await)
}

/// An answer on its way into cells.
struct Stream {
    /// The model's side, until the answer has ended.
    answering: Option<Answering>,
    head: Head,
    usage: bool,
    logprobs: bool,
    pace: Arc<Pace>,
    /// What came since the last event.
    words: Words,
    cells: Cells,
    /// Room that is kept for the end.
    end_bytes: usize,
    /// How many cells it has, once its end is packed.
    length: Option<u32>,
    /// Whether it ends as if it were cut, because it was.
    cut: bool,
}

impl Stream {
    fn new(answering: Answering, head: Head, usage: bool, pace: Arc<Pace>) -> Self {
        let mut cells = Cells::new(Filler::Comments);
        if let Some(opening) = head.opening(usage) {
            cells.push(&opening);
        }
        let most = Usage {
            prompt_tokens: u64::MAX,
            completion_tokens: u64::MAX,
            total_tokens: u64::MAX,
        };
        let end = [
            head.closing(Finish::Withheld, usage),
            head.counts(most),
            DONE,
        ];
        let end_bytes = end.iter().map(Bytes::len).sum::<usize>();
        Self {
            logprobs: answering.logprobs,
            answering: Some(answering),
            head,
            usage,
            pace,
            words: Words::default(),
            cells,
            end_bytes: end_bytes.max(LAST_EVENT_BYTES_MAX),
            length: None,
            cut: false,
        }
    }

    async fn pump(mut self, pipe: Pipe) {
        let pace = Arc::clone(&self.pace);
        let mut leaves = pace.begins();
        let timer = sleep_until(pace.packs(leaves));
        tokio::pin!(timer);
        let mut ready = None;
        loop {
            let takes_more = self.takes_more();
            let step = tokio::select! {
                biased;
                () = timer.as_mut() => None,
                () = pipe.sender.closed() => return,
                step = next(self.answering.as_mut()), if takes_more => Some(step),
            };
            if let Some(step) = step {
                self.take(step);
                continue;
            }
            // What is packed when the tick comes would leave later the more there is to pack: it is ready before.
            let Some((cell, last)) = ready.take() else {
                ready = Some(self.cell());
                timer.as_mut().reset(leaves);
                continue;
            };
            match self.leave(&pipe, cell, last).await {
                Ok(()) if last => return,
                Ok(()) => {}
                Err(error) => return self.abandon(&error),
            }
            leaves = pace.after(leaves);
            timer.as_mut().reset(pace.packs(leaves));
        }
    }

    /// Whether the model's side is asked for more: there is never much more than the next cell takes.
    fn takes_more(&self) -> bool {
        self.answering.is_some()
            && self.words.text.len() < CELL_BYTES
            && self.words.told.len() < TOLD_MAX
            && self.cells.waiting() < CELL_BYTES
    }

    fn take(&mut self, step: Result<Step, ApiError>) {
        match step {
            Ok(Step::Text(text, told)) => self.words.add(&text, told),
            Ok(Step::End(finish)) => self.end(finish),
            Err(error) => self.fail(&error),
        }
    }

    /// The next cell, and whether it is the last.
    fn cell(&mut self) -> (Bytes, bool) {
        if self.answering.is_some() {
            let full = self.cells.waiting() < CELL_BYTES && !self.pack();
            if full || self.left() <= self.cells.needed(self.end_bytes) {
                self.end(Finish::Length);
            }
        }
        let cell = Bytes::from(self.cells.take());
        let last = self
            .length
            .is_some_and(|length| self.cells.sent() >= length && self.cells.waiting() == 0);
        (cell, last)
    }

    /// Cells that may still leave.
    fn left(&self) -> u32 {
        self.pace
            .shape()
            .longest()
            .saturating_sub(self.cells.sent())
    }

    /// Packs the words that wait, as one event; no if they do not all fit.
    fn pack(&mut self) -> bool {
        if self.words.text.is_empty() && self.words.told.is_empty() {
            return true;
        }
        let words = std::mem::take(&mut self.words);
        let left = self.left();
        let write = |words: &Words| {
            let told = self.logprobs.then_some(words.told.as_slice());
            self.head.piece(&words.text, told, self.usage)
        };
        let fits = |words: &Words| {
            let bytes = write(words).len().saturating_add(self.end_bytes);
            self.cells.needed(bytes) <= left
        };
        let (words, all) = words.fitting(fits);
        if !words.text.is_empty() {
            let packed = write(&words);
            self.cells.push(&packed);
        }
        all
    }

    /// Packs the end, and lets the model's side go.
    fn end(&mut self, finish: Finish) {
        let Some(mut answering) = self.answering.take() else {
            return;
        };
        let finish = if self.pack() { finish } else { Finish::Length };
        answering.ended = finish.reason();
        self.cells.push(&self.head.closing(finish, self.usage));
        if self.usage {
            self.cells.push(&self.head.counts(answering.usage()));
        }
        self.cells.push(&DONE);
        self.close();
    }

    /// Packs an error, and remembers that what follows is no end.
    fn fail(&mut self, error: &ApiError) {
        let Some(mut answering) = self.answering.take() else {
            return;
        };
        self.pack();
        answering.ended = error.code();
        // What stands around the document of an event is shorter than that.
        let document = error.to_json_within(LAST_EVENT_BYTES_MAX.saturating_sub(16));
        self.cells.push(&event(&String::from_utf8_lossy(&document)));
        self.cut = true;
        self.close();
    }

    fn close(&mut self) {
        let cells = self.cells.sent().saturating_add(self.cells.needed(0));
        self.length = Some(self.pace.shape().length(cells));
    }

    async fn leave(&self, pipe: &Pipe, cell: Bytes, last: bool) -> Result<(), Option<ApiError>> {
        match (last, self.cut) {
            (false, _) => pipe.send(cell).await,
            (true, false) => pipe.put(Piece::Last(cell)).await,
            (true, true) => {
                pipe.send(cell).await?;
                sleep(LAST_WORD).await;
                Ok(())
            }
        }
    }

    /// Notes why nothing more leaves.
    fn abandon(&mut self, error: &Option<ApiError>) {
        if let (Some(answering), Some(error)) = (&mut self.answering, error) {
            answering.ended = error.code();
        }
    }
}

/// The next step; never, once the model's side was let go.
async fn next(answering: Option<&mut Answering>) -> Result<Step, ApiError> {
    match answering {
        Some(answering) => answering.next().await,
        None => pending().await,
    }
}
