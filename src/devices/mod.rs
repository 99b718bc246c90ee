//! This machine's GPUs and switches, asked one after the other for everybody who needs their answers (decision 0020).
//!
//! A device answers each session's own nonce, so that its answers cannot be shared as a processor's report is. What must stay true:
//! nobody waits for ever, nobody's requests keep the others' waiting, and an answer goes out only if it is genuine and of the very
//! devices that answered first.

mod fair;
mod steady;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use casemate_attestation::nvidia::{GpuNonce, NvidiaRejection, PinnedGpuRoot};
use casemate_attestation::{DeviceProvider, DeviceSet, ProviderError};
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::sync::{oneshot, watch};

use crate::session::now;
use fair::{FairQueue, Full};
use steady::Steady;

pub use fair::Lane;
pub use steady::DevicesChanged;

/// Why devices gave no answer that may be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceAskError {
    /// Too many wait, or the driver serves somebody else: come back later.
    #[error("this machine's devices are busy")]
    Busy,
    /// Nothing came back in time. The driver may still be at it.
    #[error("this machine's devices have not answered for {waited_s} s")]
    Silent {
        /// How long the present request takes already, in seconds.
        waited_s: u64,
    },
    /// The driver or a device answers with an error.
    #[error("this machine's devices: {0}")]
    Failed(ProviderError),
    /// An answer that no verifier would take.
    #[error("this machine's device {number} gave no genuine answer ({rule}): {rejection}", rule = .rejection.rule())]
    NotGenuine {
        /// Which of them, in the order of their reports.
        number: usize,
        /// The rule that refused.
        rejection: Box<NvidiaRejection>,
    },
    /// Attack G7. There is no way back but a new start.
    #[error(transparent)]
    Changed(#[from] DevicesChanged),
    /// The thread that asks has ended.
    #[error("nobody asks this machine's devices any more")]
    Ended,
}

/// Bounds of waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceLimits {
    /// Requests that wait at once.
    pub waiting_max: usize,
    /// From the request to the answer.
    pub patience: Duration,
}

/// Asks the devices. Cheap to clone; the thread that owns them ends with the last clone.
#[derive(Clone)]
pub struct DeviceAsker {
    handle: Arc<Handle>,
    patience: Duration,
}

impl std::fmt::Debug for DeviceAsker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DeviceAsker(..)")
    }
}

/// Tells the thread to end when nobody can ask any more.
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.wake.notify_all();
    }
}

/// Between those who ask and the thread.
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    changed: watch::Sender<Option<DevicesChanged>>,
}

struct State {
    queue: FairQueue<Waiting>,
    /// Since when the present request is with the driver.
    asking_since: Option<Instant>,
    /// When the devices gave an answer last, or the thread began.
    answered: Instant,
    closed: bool,
}

struct Waiting {
    nonce: GpuNonce,
    reply: oneshot::Sender<Result<DeviceSet, DeviceAskError>>,
}

impl DeviceAsker {
    /// Starts the thread that owns `provider`. Answers must chain to one of `roots`.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn start(
        provider: Arc<dyn DeviceProvider>,
        roots: Vec<PinnedGpuRoot>,
        limits: DeviceLimits,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                queue: FairQueue::new(limits.waiting_max),
                asking_since: None,
                answered: Instant::now(),
                closed: false,
            }),
            wake: Condvar::new(),
            changed: watch::Sender::new(None),
        });
        let (handle, mut steady) = (Arc::new(Handle(Arc::clone(&shared))), Steady::new(roots));
        thread::Builder::new()
            .name("devices".into())
            .spawn(move || shared.work(&*provider, &mut steady))?;
        Ok(Self {
            handle,
            patience: limits.patience,
        })
    }

    /// What all devices answer to `nonce`, in the turn of `lane`.
    ///
    /// # Errors
    /// [`DeviceAskError`]; there is no session without an answer.
    pub async fn answers(&self, lane: Lane, nonce: GpuNonce) -> Result<DeviceSet, DeviceAskError> {
        let (reply, answer) = oneshot::channel();
        self.handle.0.push(lane, Waiting { nonce, reply })?;
        match tokio::time::timeout(self.patience, answer).await {
            Ok(answered) => answered.map_err(|_| DeviceAskError::Busy)?,
            // Dropping the receiver takes the request out of the queue.
            Err(_) => Err(self.handle.0.late(self.patience)),
        }
    }

    /// Asks for nobody's session: are they still there, and still the same?
    ///
    /// # Errors
    /// [`DeviceAskError`].
    pub async fn check(&self) -> Result<(), DeviceAskError> {
        let mut nonce = [0; 32];
        SystemRandom::new()
            .fill(&mut nonce)
            .map_err(|_| DeviceAskError::Failed(ProviderError::Device("no randomness".into())))?;
        let nonce = GpuNonce::recorded(nonce);
        self.answers(Lane::Own, nonce).await.map(drop)
    }

    /// For how long the devices gave nobody an answer.
    pub fn unseen_for(&self) -> Duration {
        self.handle.0.lock().answered.elapsed()
    }

    /// Completes once other devices answered than at first.
    pub async fn change(&self) -> DevicesChanged {
        let mut changes = self.handle.0.changed.subscribe();
        loop {
            if let Some(changed) = changes.borrow_and_update().clone() {
                return changed;
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, lane: Lane, waiting: Waiting) -> Result<(), DeviceAskError> {
        // Whoever is displaced learns it by its reply's end.
        let pushed = self.lock().queue.push(lane, waiting);
        pushed.map_err(|Full| DeviceAskError::Busy)?;
        self.wake.notify_one();
        Ok(())
    }

    /// What it means that no answer came in time: others were first, or the driver stands still.
    fn late(&self, patience: Duration) -> DeviceAskError {
        let since = self.lock().asking_since;
        match since.map(|since| since.elapsed()) {
            // Half of it: the present request may have begun a little after the one that gave up.
            Some(waited) if waited >= patience / 2 => DeviceAskError::Silent {
                waited_s: waited.as_secs(),
            },
            _ => DeviceAskError::Busy,
        }
    }

    fn work(&self, provider: &dyn DeviceProvider, steady: &mut Steady) {
        while let Some(waiting) = self.next() {
            let answer = answer(provider, steady, &waiting.nonce);
            {
                let mut state = self.lock();
                state.asking_since = None;
                if answer.is_ok() {
                    state.answered = Instant::now();
                }
            }
            if let Err(error) = &answer {
                tracing::error!(%error, "no evidence of devices");
            }
            if let Err(DeviceAskError::Changed(changed)) = &answer {
                self.changed.send_replace(Some(changed.clone()));
            }
            // The connection may be gone; that is its own affair.
            let _ = waiting.reply.send(answer);
        }
    }

    /// The next request that somebody still waits for; `None` when nobody can ask any more.
    fn next(&self) -> Option<Waiting> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            match state.queue.pop() {
                Some(waiting) if waiting.reply.is_closed() => {}
                Some(waiting) => {
                    state.asking_since = Some(Instant::now());
                    return Some(waiting);
                }
                None => {
                    state = self
                        .wake
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

/// One request to the devices. After a change nothing is asked: what is in the machine is not what was attested.
fn answer(
    provider: &dyn DeviceProvider,
    steady: &mut Steady,
    nonce: &GpuNonce,
) -> Result<DeviceSet, DeviceAskError> {
    steady.unchanged()?;
    let asked = catch_unwind(AssertUnwindSafe(|| provider.devices(nonce)));
    let set = match asked {
        Ok(Ok(set)) => set,
        Ok(Err(ProviderError::Busy)) => return Err(DeviceAskError::Busy),
        Ok(Err(error)) => return Err(DeviceAskError::Failed(error)),
        Err(_) => {
            let panicked = ProviderError::Device("the provider panicked".into());
            return Err(DeviceAskError::Failed(panicked));
        }
    };
    steady.check(&set, nonce, now())?;
    Ok(set)
}
