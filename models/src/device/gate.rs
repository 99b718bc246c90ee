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

impl Drop for Recording {
    fn drop(&mut self) {
        STATE
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .recording -= 1;
        CHANGED.notify_all();
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        STATE
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .settling -= 1;
        CHANGED.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;

    #[test]
    fn nothing_is_settled_while_somebody_records() {
        let recorded = AtomicBool::new(false);
        let (first, second) = (recording(), recording());
        std::thread::scope(|scope| {
            let settled = scope.spawn(|| {
                let _settling = settling();
                assert!(recorded.load(Ordering::SeqCst), "settled too early");
            });
            drop(first);
            std::thread::sleep(Duration::from_millis(20));
            recorded.store(true, Ordering::SeqCst);
            drop(second);
            settled.join().unwrap();
        });
        // And again, the other way round.
        let several = (settling(), settling());
        std::thread::scope(|scope| {
            let recording = scope.spawn(|| drop(recording()));
            drop(several);
            recording.join().unwrap();
        });
    }
}
