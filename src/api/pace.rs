//! When an answer leaves that is shaped (docs/GUARD.md), and how a document does that was not asked for as a stream: behind
//! as many ticks as an answer of its length has, with white space behind it. A refusal leaves as an answer would.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::header::HeaderName;
use http::{HeaderValue, Response};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};

use super::body::{Answer, Piece};
use super::{ApiError, Service};
use crate::guard::shape::{CELL_BYTES, Cells, Filler, Shape};
use crate::session::Connection;

/// Tells clients that filler may be taken out, and how large the cells are.
pub const CELLS_HEADER: HeaderName = HeaderName::from_static("x-casemate-cells");

/// Cells that wait for the network.
pub(super) const QUEUED_MAX: usize = 4;

/// When the cells of one answer leave.
pub(super) struct Pace {
    shape: Shape,
    arrived: Instant,
    begins: OnceLock<Instant>,
    streamed: AtomicBool,
}

impl Service {
    /// The pace of this caller's answers; nothing where policy leaves them open.
    pub(super) fn pace(&self, connection: &Connection) -> Option<Arc<Pace>> {
        let bundle = self.access.bundle();
        let team = bundle.team_of(connection.principal());
        let shape = team.and_then(|(team, _)| bundle.document().guard().shape(team));
        connection.peer().records.even(shape.is_some());
        shape.map(|shape| {
            Arc::new(Pace {
                shape,
                arrived: Instant::now(),
                begins: OnceLock::new(),
                streamed: AtomicBool::new(false),
            })
        })
    }
}

impl Pace {
    /// Notes whether a stream was asked for, also where the request is refused before it is read in earnest.
    pub(super) fn look_at(&self, body: &[u8]) {
        #[derive(Deserialize)]
        struct Asked {
            stream: Option<bool>,
        }
        let streamed = serde_json::from_slice::<Asked>(body).is_ok_and(|a| a.stream == Some(true));
        self.streamed.store(streamed, Ordering::Relaxed);
    }

    pub(super) const fn shape(&self) -> &Shape {
        &self.shape
    }

    /// When the first cell leaves. Asked for the first time it is decided: at the next of the ticks since the request came.
    pub(super) fn begins(&self) -> Instant {
        let next = || self.arrived + self.shape.begins(self.arrived.elapsed());
        *self.begins.get_or_init(next)
    }

    /// When cell `number`, from 1, leaves.
    pub(super) fn leaves(&self, number: u32) -> Instant {
        let ticks = number.saturating_sub(1);
        self.begins() + self.shape.tick().saturating_mul(ticks)
    }

    /// When the cell is made ready that leaves at `leaves`: a twentieth of a tick before.
    pub(super) fn packs(&self, leaves: Instant) -> Instant {
        let lead = self.shape.tick().checked_div(20).unwrap_or_default();
        leaves.checked_sub(lead).unwrap_or(leaves)
    }

    /// When the next cell leaves after one that left at `leaves`. A cell that was late keeps the next one where it was: never
    /// two at once.
    pub(super) fn after(&self, leaves: Instant) -> Instant {
        let tick = self.shape.tick();
        let late = Instant::now().saturating_duration_since(leaves);
        let missed = late.as_nanos().checked_div(tick.as_nanos()).unwrap_or(0);
        let ticks = u32::try_from(missed).unwrap_or(u32::MAX).saturating_add(1);
        leaves + tick.saturating_mul(ticks)
    }

    /// The most bytes of a document.
    pub(super) fn document_bytes_max(&self) -> usize {
        let cells = usize::try_from(self.shape.longest()).unwrap_or(usize::MAX);
        cells.saturating_mul(CELL_BYTES)
    }

    /// Sends `document` as the body of `head` when an answer of its length or of the time that it took would have left: a cell
    /// with the tick before the last, the rest with the last.
    pub(super) async fn document(
        &self,
        head: Response<Answer>,
        document: &[u8],
    ) -> Response<Answer> {
        let mut cells = Cells::new(Filler::Spaces);
        cells.push(document);
        let elapsed = Instant::now().saturating_duration_since(self.begins());
        let ticks = elapsed
            .as_nanos()
            .div_ceil(self.shape.tick().as_nanos().max(1));
        let in_time = u32::try_from(ticks).unwrap_or(u32::MAX).saturating_add(2);
        let length = self.shape.length(cells.needed(0).max(in_time));
        let first = Bytes::from(cells.take());
        let rest: Vec<u8> = (1..length).flat_map(|_| cells.take()).collect();
        sleep_until(self.leaves(length.saturating_sub(1))).await;
        let (sender, receiver) = mpsc::channel(QUEUED_MAX);
        let last = self.leaves(length);
        tokio::spawn(async move {
            // Nobody reads any more, where these fail.
            if sender.send(Piece::Data(first)).await.is_ok() {
                sleep_until(last).await;
                drop(sender.send(Piece::Last(Bytes::from(rest))).await);
            }
        });
        with_cells(head.map(|_| Answer::Stream(receiver)))
    }

    /// A refusal, as a document or as the cells of a stream, whichever was asked for.
    pub(super) async fn refusal(&self, error: ApiError) -> Response<Answer> {
        let document = error.to_json_within(self.document_bytes_max());
        let head = error.into_answer();
        if !self.streamed.load(Ordering::Relaxed) {
            return self.document(head, &document).await;
        }
        let mut cells = Cells::new(Filler::Spaces);
        cells.push(&document);
        let length = self.shape.length(cells.needed(0));
        let (sender, receiver) = mpsc::channel(QUEUED_MAX);
        let (begins, tick) = (self.begins(), self.shape.tick());
        tokio::spawn(async move {
            let mut ticks = interval_at(begins, tick);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            while cells.sent() < length {
                ticks.tick().await;
                let cell = Bytes::from(cells.take());
                let piece = match cells.sent() == length {
                    true => Piece::Last(cell),
                    false => Piece::Data(cell),
                };
                if sender.send(piece).await.is_err() {
                    return;
                }
            }
        });
        sleep_until(begins).await;
        with_cells(head.map(|_| Answer::Stream(receiver)))
    }
}

/// Says what clients need to know to take the filler out.
pub(super) fn with_cells(mut answer: Response<Answer>) -> Response<Answer> {
    let headers = answer.headers_mut();
    headers.insert(CELLS_HEADER, HeaderValue::from(CELL_BYTES));
    answer
}
