//! Rows of activations, rounded as a kind of weights wants them, in the order in which kernels read them.
//!
//! Rows are cut into *groups* of up to [`GROUP_MAX`]; within a group everything stands row beside row, so that a kernel
//! needs one pointer: for each block of columns first the words of four bytes (or the float), then sums and scales.
//! Rounding is ggml's (`quantize_row_q8_K`, `quantize_row_q8_0`, `_q8_1`), so that the integers are llama.cpp's.

use half::f16;

use crate::elementwise::for_each_set;
use crate::fixed;
use crate::format::Precision;
use crate::isa::Isa;
use crate::pool::{Pool, Start};

/// Rows that one kernel takes at once.
pub(crate) const GROUP_MAX: usize = 12;
/// Numbers of rows that kernels exist for.
pub(crate) const GROUPS: [usize; 7] = [1, 2, 3, 4, 6, 8, GROUP_MAX];
/// Rows that are taken at once where sums of more would not stay in registers.
const GROUP_NARROW: usize = 8;

/// Rounded rows, for weights of one [`Precision`].
#[derive(Debug)]
pub struct Activations {
    precision: Precision,
    rows: usize,
    columns: usize,
    groups: Vec<Group>,
    words: Vec<u32>,
}

/// Some rows that a kernel takes together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Group {
    /// The first of its rows.
    pub(crate) first: usize,
    /// Its rows.
    pub(crate) rows: usize,
    /// The kernel's rows: what is beyond its own is zero.
    pub(crate) size: usize,
    /// Where it begins, in words.
    pub(crate) start: usize,
}

impl Activations {
    /// Room for nothing yet.
    pub fn new(precision: Precision) -> Self {
        Self {
            precision,
            rows: 0,
            columns: 0,
            groups: Vec::new(),
            words: Vec::new(),
        }
    }

    /// What they are rounded to.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// How many rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// How long each is.
    pub fn columns(&self) -> usize {
        self.columns
    }

    pub(crate) fn groups(&self) -> &[Group] {
        &self.groups
    }

    pub(crate) fn words(&self) -> &[u32] {
        &self.words
    }

    /// Rounds `rows`, `columns` each; `row` writes the exact values of a row where it is told to. Memory is kept for
    /// the next time.
    ///
    /// False, and nothing is changed, when `columns` are no whole blocks.
    #[must_use]
    pub fn fill(
        &mut self,
        rows: usize,
        columns: usize,
        pool: &Pool,
        row: impl Fn(usize, &mut [f32]) + Sync,
    ) -> bool {
        let block = self.precision.block();
        if !columns.is_multiple_of(block) && !self.precision.ends_anywhere() {
            return false;
        }
        let blocks = columns.div_ceil(block);
        self.lay_out(rows, columns);
        let (isa, precision, groups) = (Isa::detect(), self.precision, &self.groups);
        let words = Start(self.words.as_mut_ptr());
        pool.run(groups.len(), &|part| {
            let Some(group) = groups.get(part) else {
                return;
            };
            // What is beyond a row's end, inside its last block, stays zero.
            let mut exact = vec![0.0; blocks * block];
            let len = precision.words() * blocks * group.size;
            // SAFETY: `lay_out` gave each group this range of `words` and no other group any of it; the borrow of
            // `self` lasts until `run` returns.
            // JUSTIFICATION: groups differ in length, so a safe cut would need a list in each step.
            let words =
                unsafe { std::slice::from_raw_parts_mut(words.get().add(group.start), len) };
            for at in 0..group.size {
                if at < group.rows {
                    row(group.first + at, &mut exact[..columns]);
                } else {
                    exact.fill(0.0);
                }
                round_row(isa, precision, &exact, at, group.size, words);
            }
        });
        true
    }

    fn lay_out(&mut self, rows: usize, columns: usize) {
        (self.rows, self.columns) = (rows, columns);
        let words_per_row = columns.div_ceil(self.precision.block()) * self.precision.words();
        let most = match Isa::detect() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => GROUP_MAX,
            _ => GROUP_NARROW,
        };
        self.groups.clear();
        let (mut first, mut start) = (0, 0);
        while first < rows {
            let left = rows - first;
            let rows = match left.div_ceil(most) {
                // Two groups share what one could not take: 6 and 3 rather than 8 and 1.
                2 => GROUPS
                    .into_iter()
                    .find(|size| 2 * size >= left)
                    .unwrap_or(most),
                _ => left.min(most),
            };
            let size = GROUPS
                .into_iter()
                .find(|size| *size >= rows)
                .unwrap_or(GROUP_MAX);
            self.groups.push(Group {
                first,
                rows,
                size,
                start,
            });
            first += rows;
            start += size * words_per_row;
        }
        // Every word of every group is written: what is there needs no wiping.
        self.words.resize(start.max(self.words.len()), 0);
    }
}

for_each_set! {
    /// Rounds one row of a group.
    fn round_row(precision: Precision, exact: &[f32], at: usize, size: usize, words: &mut [u32]) = round_any;
}

#[inline(always)]
fn round_any(precision: Precision, exact: &[f32], at: usize, size: usize, words: &mut [u32]) {
    let blocks = exact.chunks_exact(precision.block());
    let words = words.chunks_exact_mut(precision.words() * size);
    match precision {
        Precision::Float => {
            for (exact, words) in exact.iter().zip(words) {
                words[at] = exact.to_bits();
            }
        }
        Precision::Bytes32 => {
            for (exact, words) in blocks.zip(words) {
                let mut bytes = [0; 32];
                let (scale, sum, both) = round_32(exact, &mut bytes);
                let rest = [
                    sum.wrapping_mul(-128) as u32,
                    scale.to_bits(),
                    both.to_bits(),
                    sum.wrapping_mul(-8) as u32,
                ];
                put(words, at, size, quads(&bytes).chain(rest));
            }
        }
        Precision::Fixed32 => {
            for (exact, words) in blocks.zip(words) {
                let (smallest, largest) = extremes(exact);
                let max = largest.max(-smallest);
                let inverse = if max > 0.0 { fixed::LARGEST / max } else { 0.0 };
                let pairs = exact.as_chunks::<2>().0.iter();
                let pairs =
                    pairs.map(|pair| pair_of(to_int(pair[0] * inverse), to_int(pair[1] * inverse)));
                put(
                    words,
                    at,
                    size,
                    pairs.chain([(max / fixed::LARGEST).to_bits()]),
                );
            }
        }
        Precision::Bytes256 => {
            for (exact, words) in blocks.zip(words) {
                let mut bytes = [0; 256];
                let scale = round_256(exact, &mut bytes);
                let sums = sums_16(&bytes);
                let fours = sums.as_chunks::<4>().0.iter();
                let of_32 = fours.map(|sums| {
                    pair_of(sums[0].wrapping_add(sums[1]), sums[2].wrapping_add(sums[3]))
                });
                let twos = sums.as_chunks::<2>().0.iter();
                let of_16 = twos.map(|sums| pair_of(sums[0], sums[1]));
                let starts = sums.iter().map(|sum| sum.wrapping_mul(-32) as u32);
                let rest = of_32.chain(of_16).chain(starts).chain([scale.to_bits()]);
                let (first, last) = words.split_at_mut(64 * size);
                put(first, at, size, quads(&bytes));
                put(last, at, size, rest);
            }
        }
    }
}

/// Writes a row's words, `size` rows standing beside each other.
#[inline(always)]
fn put(words: &mut [u32], at: usize, size: usize, row: impl Iterator<Item = u32>) {
    for (word, value) in words.chunks_exact_mut(size).zip(row) {
        word[at] = value;
    }
}

/// Four columns at a time.
#[inline(always)]
fn quads(bytes: &[i8]) -> impl Iterator<Item = u32> {
    let quads = bytes.as_chunks().0.iter();
    quads.map(|four: &[i8; 4]| u32::from_le_bytes(four.map(|byte| byte as u8)))
}

#[inline(always)]
fn pair_of(low: i32, high: i32) -> u32 {
    (low as u32 & 0xffff) | (high as u32) << 16
}

#[inline(always)]
fn sums_16(bytes: &[i8; 256]) -> [i32; 16] {
    let mut sums = [0; 16];
    for (sum, bytes) in sums.iter_mut().zip(bytes.as_chunks::<16>().0) {
        *sum = bytes
            .iter()
            .fold(0_i32, |sum, byte| sum.wrapping_add(i32::from(*byte)));
    }
    sums
}

/// The smallest and the largest value, sixteen lanes at a time.
#[inline(always)]
fn extremes(exact: &[f32]) -> (f32, f32) {
    let (mut smallest, mut largest) = ([0.0_f32; 16], [0.0_f32; 16]);
    for chunk in exact.as_chunks::<16>().0 {
        for ((small, large), x) in smallest.iter_mut().zip(&mut largest).zip(chunk) {
            *small = if x < small { *x } else { *small };
            *large = if x > large { *x } else { *large };
        }
    }
    (
        smallest.into_iter().fold(0.0, f32::min),
        largest.into_iter().fold(0.0, f32::max),
    )
}

/// ggml's Q8_0 and Q8_1: 127 steps to the largest magnitude, halves to even. Answers the scale, the sum of the bytes, and
/// the product of both: scale and product as F16 holds them.
#[inline(always)]
fn round_32(exact: &[f32], bytes: &mut [i8; 32]) -> (f32, i32, f32) {
    let (smallest, largest) = extremes(exact);
    let max = largest.max(-smallest);
    let inverse = if max > 0.0 { 127.0 / max } else { 0.0 };
    let mut sum = 0_i32;
    for (byte, x) in bytes.iter_mut().zip(exact) {
        let step = to_int(x * inverse);
        *byte = step as i8;
        sum = sum.wrapping_add(step);
    }
    let scale = max / 127.0;
    let half = |x: f32| f16::from_f32(x).to_f32();
    (half(scale), sum, half(scale * sum as f32))
}

/// ggml's Q8_K: the value of largest magnitude, of equals the first, becomes -127.
#[inline(always)]
fn round_256(exact: &[f32], bytes: &mut [i8; 256]) -> f32 {
    let (smallest, largest) = extremes(exact);
    let max = match largest == -smallest {
        true => exact
            .iter()
            .copied()
            .find(|x| x.abs() == largest)
            .unwrap_or_default(),
        false if largest > -smallest => largest,
        false => smallest,
    };
    if max == 0.0 {
        return 0.0;
    }
    let inverse = -127.0 / max;
    for (byte, x) in bytes.iter_mut().zip(exact) {
        *byte = to_int(x * inverse).min(127) as i8;
    }
    1.0 / inverse
}

/// To the nearest integer, halves to even, for magnitudes below 2²²; what is no number becomes some integer.
#[inline(always)]
fn to_int(x: f32) -> i32 {
    // Adding 1.5 · 2²³ leaves the integer in the low bits of the sum.
    let bits = (x + 12_582_912.0).to_bits() as i32;
    (bits & 0x007f_ffff).wrapping_sub(0x0040_0000)
}
