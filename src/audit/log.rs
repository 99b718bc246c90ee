//! The thread that owns the file. Records that come while it writes go into its next write together.

use std::path::Path;
use std::thread;

use casemate_attestation::UnixTime;
use tokio::sync::{mpsc, oneshot};

use super::event::AuditEvent;
use super::file::{AuditError, AuditFile, Durability};

/// Records that may wait to be written, and records of one write.
const WAITING_MAX: usize = 4096;
const BATCH_MAX: usize = 256;

/// The audit log of one process. Cheap to clone; the file is closed when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct AuditLog {
    waiting: mpsc::Sender<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    time: UnixTime,
    event: AuditEvent,
    /// Who waits for it; nobody for a note.
    reply: Option<oneshot::Sender<Result<u64, AuditError>>>,
}

impl AuditLog {
    /// Opens or begins the log at `path`, and continues its numbers.
    ///
    /// # Errors
    /// [`AuditError`]: the file cannot be used, or the system refuses a thread.
    pub fn open(path: &Path, durability: Durability) -> Result<Self, AuditError> {
        let file = AuditFile::open(path, durability)?;
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        thread::Builder::new()
            .name("audit".into())
            .spawn(move || work(file, receiver))
            .map_err(|error| AuditError::Io {
                action: "start the writer of",
                file: path.to_owned(),
                reason: error.to_string(),
            })?;
        Ok(Self { waiting: sender })
    }

    /// Records an event and waits until it is written. Returns its number.
    ///
    /// # Errors
    /// [`AuditError`]: it is not recorded, and what it is about must not happen.
    pub async fn record(&self, time: UnixTime, event: AuditEvent) -> Result<u64, AuditError> {
        let (reply, answer) = oneshot::channel();
        self.send(time, event, Some(reply))?;
        answer.await.map_err(|_| AuditError::Closed)?
    }

    /// [`AuditLog::record`] for threads outside of the async runtime; inside of it this panics.
    ///
    /// # Errors
    /// As [`AuditLog::record`].
    pub fn record_blocking(&self, time: UnixTime, event: AuditEvent) -> Result<u64, AuditError> {
        let (reply, answer) = oneshot::channel();
        self.send(time, event, Some(reply))?;
        answer.blocking_recv().map_err(|_| AuditError::Closed)?
    }

    /// Records something that has happened already, without waiting. It is on disk with the next record that somebody waits
    /// for. A failure is in the program's log.
    pub fn note(&self, time: UnixTime, event: AuditEvent) {
        if let Err(error) = self.send(time, event, None) {
            tracing::error!(%error, "an audit record is lost");
        }
    }

    /// [`AuditLog::note`] for what a stranger can cause as often as he likes. Half of the queue stays free for decisions, so
    /// that a flood of refusals loses its own records and nobody else's.
    pub fn note_refusal(&self, time: UnixTime, event: AuditEvent) {
        if self.waiting.capacity() > WAITING_MAX / 2 {
            self.note(time, event);
        } else {
            tracing::warn!(
                "refusals come faster than the audit log can write; one is not recorded"
            );
        }
    }

    fn send(
        &self,
        time: UnixTime,
        event: AuditEvent,
        reply: Option<oneshot::Sender<Result<u64, AuditError>>>,
    ) -> Result<(), AuditError> {
        self.waiting
            .try_send(Waiting { time, event, reply })
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => AuditError::Busy,
                mpsc::error::TrySendError::Closed(_) => AuditError::Closed,
            })
    }
}

fn work(mut file: AuditFile, mut waiting: mpsc::Receiver<Waiting>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while waiting.blocking_recv_many(&mut batch, BATCH_MAX) > 0 {
        let (records, replies): (Vec<_>, Vec<_>) = batch
            .drain(..)
            .map(|Waiting { time, event, reply }| ((time, event), reply))
            .unzip();
        let awaited = replies.iter().any(Option::is_some);
        let first = file.append(&records, awaited);
        if let Err(error) = &first {
            tracing::error!(%error, "audit records lost; what they are about is refused");
        }
        for (index, reply) in (0_u64..).zip(replies) {
            if let Some(reply) = reply {
                // Whoever gave up waiting has treated it as a refusal.
                let _ = reply.send(first.clone().map(|first| first + index));
            }
        }
    }
}
