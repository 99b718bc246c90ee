//! Time in which nobody sleeps: every wait is written down, and passes at once.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use casemate_devices::Time;

#[derive(Default)]
pub struct Waits {
    now: Cell<Duration>,
    pub waits: RefCell<Vec<Duration>>,
    pub chance: Cell<u16>,
}

impl Waits {
    pub fn count(&self) -> usize {
        self.waits.borrow().len()
    }

    /// The device takes its time.
    pub fn pass(&self, time: Duration) {
        self.now.set(self.now.get() + time);
    }
}

impl Time for Waits {
    fn now(&self) -> Duration {
        self.now.get()
    }

    fn sleep(&self, wait: Duration) {
        self.waits.borrow_mut().push(wait);
        self.pass(wait);
    }

    fn chance(&self) -> u16 {
        self.chance.get()
    }
}
