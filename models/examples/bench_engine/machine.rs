//! What the machine allows.

use std::hint::black_box;
use std::thread;
use std::time::Instant;

use casemate_kernels::{Buffer, OutOfMemory};

/// Numbers read in one test: 512 MiB, more than any cache here holds.
const NUMBERS: usize = 64 << 20;
const PASSES: usize = 5;

/// The best of some passes over more memory than caches hold, in GB/s, all threads together. Built for every x86-64
/// processor and without huge pages, it is a lower estimate of what the memory gives.
pub fn read_gigabytes_per_second(threads: usize) -> f64 {
    let numbers = vec![1_u64; NUMBERS];
    let share = NUMBERS.div_ceil(threads);
    let pass = |_| {
        let started = Instant::now();
        thread::scope(|scope| {
            for part in numbers.chunks(share) {
                scope.spawn(move || black_box(sum(part)));
            }
        });
        (NUMBERS * size_of::<u64>()) as f64 / 1e9 / started.elapsed().as_secs_f64()
    };
    (0..PASSES).map(pass).fold(0.0, f64::max)
}

/// Writes to `bytes` of memory and gives it back: a host that takes back what its guest does not use has then lent it again,
/// to whoever starts next. Without, a start takes up to 0.8 s longer after a pause of some seconds.
///
/// # Errors
/// When there is not as much.
pub fn touch(bytes: usize) -> Result<(), OutOfMemory> {
    // In huge pages, as weights are: small ones would come out of other parts of the memory.
    let mut memory = Buffer::zeroed(bytes)?;
    memory.as_mut_slice().fill(1);
    black_box(memory);
    Ok(())
}

fn sum(numbers: &[u64]) -> u64 {
    let mut sums = [0_u64; 32];
    for chunk in numbers.chunks_exact(sums.len()) {
        for (sum, number) in sums.iter_mut().zip(chunk) {
            *sum = sum.wrapping_add(*number);
        }
    }
    sums.iter().copied().fold(0, u64::wrapping_add)
}
