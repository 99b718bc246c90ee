//! Threads that wait for work by looking for it: a step of a model is hundreds of parallel regions of some microseconds,
//! and waking a sleeping thread takes longer than one of them.
//!
//! A region's parts are taken in turn by whoever is free. After [`SPINS`] looks in vain a thread sleeps; the next region
//! wakes it.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, Thread};

/// Looks in vain before a thread sleeps: some 100 µs.
const SPINS: u32 = 20_000;

/// A team of threads, of which the caller is one.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// One region at a time.
    turn: Mutex<()>,
}

struct Shared {
    /// Counts regions; the lowest bit of none. Workers act when it changes.
    region: AtomicU64,
    /// The region's parts, how many were taken, and how many workers have not left it yet.
    parts: AtomicUsize,
    taken: AtomicUsize,
    inside: AtomicUsize,
    /// A thin pointer to the region's closure reference, valid while `inside` is not zero.
    job: AtomicUsize,
    failed: AtomicBool,
    stop: AtomicBool,
    asleep: Vec<AtomicBool>,
}

type Job<'a> = &'a (dyn Fn(usize) + Sync);

impl Pool {
    /// A team of `threads`, the caller of [`Self::run`] included: at least one.
    ///
    /// # Errors
    /// When the system starts no thread.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let helpers = threads.max(1) - 1;
        let shared = Arc::new(Shared {
            region: AtomicU64::new(0),
            parts: AtomicUsize::new(0),
            taken: AtomicUsize::new(0),
            inside: AtomicUsize::new(0),
            job: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            asleep: (0..helpers).map(|_| AtomicBool::new(false)).collect(),
        });
        let start = |index: usize| {
            let shared = shared.clone();
            thread::Builder::new()
                .name(format!("kernel-{index}"))
                .spawn(move || shared.work(index))
        };
        let workers = (0..helpers).map(start).collect::<std::io::Result<_>>()?;
        Ok(Self {
            shared,
            workers,
            turn: Mutex::new(()),
        })
    }

    /// Threads, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `job` with every number below `parts`, on all threads; returns when all are done.
    ///
    /// # Panics
    /// When a part panicked, after all others have ended. A region must not begin another.
    pub fn run(&self, parts: usize, job: Job<'_>) {
        if self.workers.is_empty() || parts <= 1 {
            (0..parts).for_each(job);
            return;
        }
        let _turn: MutexGuard<'_, ()> = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &*self.shared;
        shared.parts.store(parts, Ordering::Relaxed);
        shared.taken.store(0, Ordering::Relaxed);
        shared.inside.store(self.workers.len(), Ordering::Relaxed);
        shared.job.store((&raw const job).addr(), Ordering::Relaxed);
        let exposed = (&raw const job).expose_provenance();
        debug_assert_eq!(exposed, shared.job.load(Ordering::Relaxed));
        shared.region.fetch_add(1, Ordering::SeqCst);
        for (worker, asleep) in self.workers.iter().zip(&shared.asleep) {
            if asleep.load(Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        let mine = catch_unwind(AssertUnwindSafe(|| shared.take_parts(job)));
        // The closure is borrowed by the workers until the last of them has left. One that takes long has perhaps lost
        // its processor to another thread, which may be waiting for this one's.
        let mut spins = 0;
        while shared.inside.load(Ordering::Acquire) != 0 {
            if spins < SPINS {
                spins += 1;
                std::hint::spin_loop();
            } else {
                thread::yield_now();
            }
        }
        if let Err(panic) = mine {
            shared.failed.store(false, Ordering::Relaxed);
            resume_unwind(panic);
        }
        if shared.failed.swap(false, Ordering::Relaxed) {
            resume_unwind(Box::new("a part of a parallel region panicked"));
        }
    }

    /// Cuts `data` into pieces of `piece` elements (the last may be shorter) and calls `job` with each and its number.
    ///
    /// # Panics
    /// As [`Self::run`].
    pub fn each_mut<T: Send>(
        &self,
        data: &mut [T],
        piece: usize,
        job: impl Fn(usize, &mut [T]) + Sync,
    ) {
        let piece = piece.max(1);
        let (len, start) = (data.len(), Start(data.as_mut_ptr()));
        self.run(len.div_ceil(piece), &|part| {
            let from = part * piece;
            // SAFETY: each part is run once and pieces do not overlap; all lie inside `data`, which is borrowed here.
            // JUSTIFICATION: a safe cut would need a lock or a list for each of hundreds of regions in a step.
            let piece = unsafe {
                std::slice::from_raw_parts_mut(start.get().add(from), piece.min(len - from))
            };
            job(part, piece);
        });
    }
}

/// A pointer that threads may share; what they do with it is justified where it is used.
pub(crate) struct Start<T>(pub(crate) *mut T);

// SAFETY: sharing the address does nothing; each use says why it is sound.
// JUSTIFICATION: what several threads write in parts is one allocation, which safe code would have to cut beforehand.
unsafe impl<T: Send> Sync for Start<T> {}

impl<T> Start<T> {
    pub(crate) fn get(&self) -> *mut T {
        self.0
    }
}

impl Shared {
    fn take_parts(&self, job: Job<'_>) {
        loop {
            let part = self.taken.fetch_add(1, Ordering::Relaxed);
            if part >= self.parts.load(Ordering::Relaxed) {
                return;
            }
            job(part);
        }
    }

    fn work(&self, index: usize) {
        let mut seen = 0;
        while let Some(region) = self.next_region(seen, index) {
            seen = region;
            let job =
                std::ptr::with_exposed_provenance::<Job<'_>>(self.job.load(Ordering::Relaxed));
            // SAFETY: the region began before this thread saw its number, so the address is this region's; `run` keeps
            // the reference alive until `inside` is zero, which this thread's decrement below comes before.
            // JUSTIFICATION: scoped threads would be started anew for each region.
            let job: Job<'_> = unsafe { *job };
            if catch_unwind(AssertUnwindSafe(|| self.take_parts(job))).is_err() {
                self.failed.store(true, Ordering::Relaxed);
            }
            self.inside.fetch_sub(1, Ordering::Release);
        }
    }

    /// Waits for a region after number `seen`; `None` when the team is dissolved.
    fn next_region(&self, seen: u64, index: usize) -> Option<u64> {
        let asleep = self.asleep.get(index)?;
        let mut spins = 0;
        loop {
            let region = self.region.load(Ordering::SeqCst);
            if self.stop.load(Ordering::Relaxed) {
                return None;
            }
            if region != seen {
                return Some(region);
            }
            spins += 1;
            if spins < SPINS {
                std::hint::spin_loop();
                continue;
            }
            asleep.store(true, Ordering::SeqCst);
            // A region that began before the flag was set would not wake this thread: look again.
            if self.region.load(Ordering::SeqCst) == seen && !self.stop.load(Ordering::SeqCst) {
                thread::park();
            }
            asleep.store(false, Ordering::SeqCst);
            spins = 0;
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            let thread: &Thread = worker.thread();
            thread.unpark();
            let _ = worker.join();
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({} threads)", self.threads())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_runs_once() {
        let pool = Pool::new(3).unwrap_or_else(|error| panic!("{error}"));
        for parts in [0, 1, 2, 7, 1000] {
            let runs: Vec<AtomicUsize> = (0..parts).map(|_| AtomicUsize::new(0)).collect();
            pool.run(parts, &|part| {
                if let Some(runs) = runs.get(part) {
                    runs.fetch_add(1, Ordering::Relaxed);
                }
            });
            assert!(runs.iter().all(|runs| runs.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn pieces_cover_the_slice() {
        let pool = Pool::new(2).unwrap_or_else(|error| panic!("{error}"));
        let mut data = vec![0; 1003];
        pool.each_mut(&mut data, 10, |part, piece| piece.fill(part + 1));
        let expected = (0..1003).map(|at| at / 10 + 1);
        assert!(data.iter().copied().eq(expected));
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_goes_on() {
        let pool = Pool::new(2).unwrap_or_else(|error| panic!("{error}"));
        for round in 0..50 {
            let failed = catch_unwind(AssertUnwindSafe(|| {
                pool.run(8, &|part| assert!(part != round % 8, "told to"));
            }));
            assert!(failed.is_err());
            let count = AtomicUsize::new(0);
            pool.run(8, &|_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(count.load(Ordering::Relaxed), 8);
        }
    }

    #[test]
    fn sleepers_are_woken() {
        let pool = Pool::new(2).unwrap_or_else(|error| panic!("{error}"));
        for _ in 0..5 {
            std::thread::sleep(std::time::Duration::from_millis(20));
            let mut data = vec![0; 64];
            pool.each_mut(&mut data, 1, |_, piece| piece.fill(1));
            assert!(data.iter().all(|one| *one == 1));
        }
    }
}
