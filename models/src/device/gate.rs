//! Devices are opened and closed while nobody records, and nobody records meanwhile: both have the driver wait for all work
//! of all threads on a GPU, which spoils what another thread records there.

use std::sync::{Condvar, Mutex, PoisonError};

/// Who is at it.
struct State {
    recording: usize,
    /// Opening or closing, or waiting for that.
    settling: usize,
}

static STATE: Mutex<State> = Mutex::new(State {
    recording: 0,
    settling: 0,
});
static CHANGED: Condvar = Condvar::new();

/// While it lives no device is opened or closed.
pub(crate) struct Recording(());

/// While it lives nobody records.
pub(crate) struct Settling(());

/// Waits until no device is opened or closed.
pub(crate) fn recording() -> Recording {
    let state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    let state = CHANGED.wait_while(state, |state| state.settling > 0);
    state.unwrap_or_else(PoisonError::into_inner).recording += 1;
    Recording(())
}

/// Waits until nobody records.
pub(crate) fn settling() -> Settling {
    let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    state.settling += 1;
    let state = CHANGED.wait_while(state, |state| state.recording > 0);
    drop(state.unwrap_or_else(PoisonError::into_inner));
    Settling(())
}

/// Changes who is at it, and wakes who waits for that.
fn change(change: impl FnOnce(&mut State)) {
    change(&mut STATE.lock().unwrap_or_else(PoisonError::into_inner));
    CHANGED.notify_all();
}

impl Drop for Recording {
    fn drop(&mut self) {
        change(|state| state.recording -= 1);
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        change(|state| state.settling -= 1);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;

    /// Whether what `wait` waits for comes only after what is held is let go.
    fn waits<T: Send>(held: [T; 2], wait: impl Fn() + Sync) {
        let free = AtomicBool::new(false);
        let [first, second] = held;
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                wait();
                assert!(free.load(Ordering::SeqCst), "it did not wait");
            });
            drop(first);
            std::thread::sleep(Duration::from_millis(20));
            free.store(true, Ordering::SeqCst);
            drop(second);
            waiting.join().unwrap();
        });
    }

    #[test]
    fn nothing_is_settled_while_somebody_records_nor_recorded_while_something_is_settled() {
        waits([recording(), recording()], || drop(settling()));
        waits([settling(), settling()], || drop(recording()));
    }
}
