//! Asking a busy device again: exponential waits with jitter under one deadline. Any other error ends it at once.

use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};

use crate::DeviceError;

/// Time and chance as a retry needs them. Tests have their own, which does not sleep.
pub trait Time {
    /// Time since some fixed moment; never goes back.
    fn now(&self) -> Duration;

    /// Lets this much time pass.
    fn sleep(&self, wait: Duration);

    /// A number for the jitter, each as likely as another.
    fn chance(&self) -> u16;
}

/// The machine's own clock.
#[derive(Debug, Clone, Copy)]
pub struct SystemTime {
    since: std::time::Instant,
}

impl SystemTime {
    /// Begins now.
    #[must_use]
    pub fn new() -> Self {
        Self {
            since: std::time::Instant::now(),
        }
    }
}

impl Default for SystemTime {
    fn default() -> Self {
        Self::new()
    }
}

impl Time for SystemTime {
    fn now(&self) -> Duration {
        self.since.elapsed()
    }

    fn sleep(&self, wait: Duration) {
        std::thread::sleep(wait);
    }

    fn chance(&self) -> u16 {
        let mut bytes = [0_u8; 2];
        // Without randomness all wait the full time: slower, and never wrong.
        match SystemRandom::new().fill(&mut bytes) {
            Ok(()) => u16::from_be_bytes(bytes),
            Err(_) => u16::MAX,
        }
    }
}

/// How long to wait for a busy device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// The first wait.
    pub first: Duration,
    /// No wait is longer.
    pub longest: Duration,
    /// From the first request on; no request begins later.
    pub deadline: Duration,
}

impl Default for Retry {
    /// Two hundred seconds of morning rush are not worth a session: ten seconds, as AMD's drivers wait for two at a time.
    fn default() -> Self {
        Self {
            first: Duration::from_millis(20),
            longest: Duration::from_millis(1000),
            deadline: Duration::from_secs(10),
        }
    }
}

impl Retry {
    /// Asks until there is an answer, an error other than busy, or no time left.
    ///
    /// The n-th wait is between half and the whole of `first` times 2 to the n, and never longer than `longest`: two guests that
    /// collided do not collide again in step.
    ///
    /// # Errors
    /// The first error that is not [`DeviceError::Busy`]; [`DeviceError::StayedBusy`] when the next wait would pass the deadline.
    pub fn run<T>(
        &self,
        time: &dyn Time,
        mut ask: impl FnMut() -> Result<T, DeviceError>,
    ) -> Result<T, DeviceError> {
        let begun = time.now();
        let mut whole = self.first.min(self.longest);
        let mut asked: u32 = 0;
        loop {
            asked = asked.saturating_add(1);
            let device = match ask() {
                Err(DeviceError::Busy { device }) => device,
                done => return done,
            };
            let waited = time.now().saturating_sub(begun);
            let wait = jittered(whole, time.chance());
            if waited.saturating_add(wait) > self.deadline {
                return Err(DeviceError::StayedBusy {
                    device,
                    waited_ms: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
                    asked,
                });
            }
            time.sleep(wait);
            whole = whole.saturating_mul(2).min(self.longest);
        }
    }
}

/// Half of the wait, and as much of the other half as chance says.
fn jittered(whole: Duration, chance: u16) -> Duration {
    let half = whole / 2;
    half.saturating_add(half.saturating_mul(u32::from(chance)) / u32::from(u16::MAX))
}
