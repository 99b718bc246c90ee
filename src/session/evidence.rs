//! Owns the security processor. While it works on one report, everyone who asks meanwhile is gathered into the next (P-24):
//! a fleet's morning waits for two reports at most, not for one each.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use casemate_attestation::{
    Batch, BatchPath, Binding, Context, DeviceSet, Envelope, EnvelopeParts, EvidenceProvider,
    HardwareEvidence, Platform, ProviderError,
};
use tokio::sync::{mpsc, oneshot};

use super::SessionError;

/// For how long a busy processor is asked again, and how long to wait in between. A provider that waits by itself takes longer
/// than that and is asked once.
const PATIENCE: Duration = Duration::from_secs(1);
const RETRY_WAIT: Duration = Duration::from_millis(50);

/// Makes evidence for connections. Cheap to clone; the thread ends when the last clone is dropped.
#[derive(Clone)]
pub struct EvidenceBatcher {
    waiting: mpsc::Sender<Waiting>,
    platform: Platform,
}

struct Waiting {
    binding: Binding,
    reply: oneshot::Sender<Result<Share, SessionError>>,
}

/// One connection's share of a report.
struct Share {
    hardware: Arc<HardwareEvidence>,
    batch: Option<BatchPath>,
}

impl EvidenceBatcher {
    /// Starts the thread that owns `provider`. At most `waiting_max` connections wait; more are told to come back.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn start(provider: Arc<dyn EvidenceProvider>, waiting_max: usize) -> std::io::Result<Self> {
        let (sender, receiver) = mpsc::channel(waiting_max.max(1));
        let platform = provider.platform();
        thread::Builder::new()
            .name("evidence".into())
            .spawn(move || work(&*provider, receiver, waiting_max.max(1)))?;
        Ok(Self {
            waiting: sender,
            platform,
        })
    }

    /// What kind of evidence comes out.
    pub fn platform(&self) -> Platform {
        self.platform
    }

    /// An envelope whose report signs `binding`, alone or within a batch. `devices` are those whose digest `context` carries: they
    /// answered this session alone, and the report that they travel with may serve others.
    ///
    /// # Errors
    /// [`SessionError::EvidenceBusy`] when too many wait, [`SessionError::EvidenceUnavailable`] when the machine fails.
    pub async fn evidence(
        &self,
        binding: Binding,
        context: Context,
        devices: Option<DeviceSet>,
    ) -> Result<Envelope, SessionError> {
        let (reply, answer) = oneshot::channel();
        self.waiting
            .try_send(Waiting { binding, reply })
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => SessionError::EvidenceBusy,
                mpsc::error::TrySendError::Closed(_) => SessionError::EvidenceUnavailable,
            })?;
        let share = answer
            .await
            .map_err(|_| SessionError::EvidenceUnavailable)??;
        let parts = EnvelopeParts {
            platform: self.platform,
            direction: binding.direction(),
            hardware: (*share.hardware).clone(),
            context,
            batch: share.batch,
            devices,
        };
        Envelope::build(parts).map_err(|error| {
            tracing::error!(%error, "evidence cannot be written");
            SessionError::EvidenceUnavailable
        })
    }
}

fn work(provider: &dyn EvidenceProvider, mut waiting: mpsc::Receiver<Waiting>, batch_max: usize) {
    while let Some(first) = waiting.blocking_recv() {
        let mut batch = vec![first];
        while batch.len() < batch_max
            && let Ok(next) = waiting.try_recv()
        {
            batch.push(next);
        }
        // Whoever gave up meanwhile needs no leaf.
        batch.retain(|waiting| !waiting.reply.is_closed());
        answer(provider, batch);
    }
}

fn answer(provider: &dyn EvidenceProvider, waiting: Vec<Waiting>) {
    let bindings: Vec<Binding> = waiting.iter().map(|waiting| waiting.binding).collect();
    let (report_data, tree) = match bindings.as_slice() {
        [] => return,
        [alone] => (*alone.as_bytes(), None),
        many => match Batch::new(many) {
            Ok(tree) => (tree.report_data(), Some(tree)),
            Err(error) => {
                tracing::error!(%error, "batch refused");
                return;
            }
        },
    };
    let report = report(provider, &report_data).map(Arc::new);
    for (index, waiting) in waiting.into_iter().enumerate() {
        let share = report.as_ref().map_err(Clone::clone).map(|hardware| Share {
            hardware: Arc::clone(hardware),
            batch: tree.as_ref().and_then(|tree| tree.path(index)),
        });
        // The connection may be gone; that is its own affair.
        let _ = waiting.reply.send(share);
    }
}

fn report(
    provider: &dyn EvidenceProvider,
    report_data: &[u8; 64],
) -> Result<HardwareEvidence, SessionError> {
    let begun = Instant::now();
    loop {
        match catch_unwind(AssertUnwindSafe(|| provider.evidence(report_data))) {
            Ok(Ok(hardware)) => return Ok(hardware),
            Ok(Err(ProviderError::Busy)) if begun.elapsed() < PATIENCE => {
                thread::sleep(RETRY_WAIT);
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "no evidence");
                return Err(SessionError::EvidenceUnavailable);
            }
            Err(_) => {
                tracing::error!("the evidence provider panicked");
                return Err(SessionError::EvidenceUnavailable);
            }
        }
    }
}
