//! The inner products: a tile of sixteen rows of weights against a group of rows of activations.
//!
//! Written once over [`Lanes`], for a number of activation rows known to the compiler: all sums stay in registers and an
//! activation is an operand in memory that is broadcast. `blocks` blocks are read from `tile` (sixteen rows) and from
//! `words` (`M` rows); sums go on from what `out[row · 16 + lane]` holds and are stored there.
//!
//! A row's sum is made in the same order whatever `M` is: an answer does not depend on what is computed beside it.
//!
//! JUSTIFICATION of this file: [`Lanes`] is unsafe to call, and its loads take pointers. With slices each load would be
//! checked in innermost loops that reach 78 % of what a loop of nothing but products does (AVX-512 of Zen 4: 367 of 473
//! GOPS a core).

mod table;

use crate::format::{Kind, Precision, VECTOR};
use crate::isa::{Lanes, TILE};

/// A kernel for one kind of weights, one instruction set and one number of activation rows.
///
/// # Safety
/// The processor must have the set; `tile` must hold `blocks` packed blocks, `words` as many blocks of a group of the
/// kernel's size, and `out` 16 numbers for each of its rows: zeros, or the sums of the blocks before.
pub(crate) type Kernel =
    unsafe fn(tile: *const u8, words: *const u32, blocks: usize, out: *mut f32);

/// What unpacks units of weights to bytes ([`crate::wide`]).
///
/// # Safety
/// The processor must have the set; `from` must hold `units` units of the kind's bits, and `to` eight vectors for each.
pub(crate) type Unpacker = unsafe fn(from: *const u8, units: usize, to: *mut u8);

/// Bytes ahead that are asked for when arithmetic is dense: the hardware's own prefetcher does not run far enough.
const AHEAD: usize = 2048;
/// Bytes ahead that are asked for into the second cache where few rows wait for memory: it takes more requests at a time
/// than the first. One row of an 8192 × 2048 matrix of Q4_K, Xeon with AVX-512: 0.39 ms instead of 0.51 (8 KB ahead: 0.41).
const FAR_AHEAD: usize = 16384;

/// What a kernel reads: where, and which lanes of it.
#[derive(Clone, Copy)]
struct Source {
    block: *const u8,
    lane: usize,
}

impl Source {
    /// One value of `size` bytes per row.
    #[inline(always)]
    unsafe fn per_row(self, offset: usize, size: usize) -> *const u8 {
        // SAFETY: inside the block; the caller's offsets are the layout's.
        // JUSTIFICATION: see the head of this file.
        unsafe { self.block.add(offset + self.lane * size) }
    }
}

/// Bytes of a unit.
const fn unit_len(bits: usize, wide: bool) -> usize {
    VECTOR * if wide { 8 } else { bits }
}

/// The `at`-th unpacked vector of a unit: four columns of each row, unsigned.
#[inline(always)]
unsafe fn unpack<S: Lanes, const BITS: usize, const WIDE: bool>(
    unit: *const u8,
    lane: usize,
    at: usize,
) -> S::I {
    // SAFETY: a unit is `BITS` vectors, or eight where it is wide, and `at` is below 8.
    // JUSTIFICATION: see the head of this file.
    unsafe {
        let vector = |index: usize| S::load(unit.add(index * VECTOR + lane * 4));
        if WIDE {
            return vector(at);
        }
        match BITS {
            8 => vector(at),
            4..=6 => {
                let low = vector(at / 2);
                let low = S::and(if at % 2 == 1 { S::right::<4>(low) } else { low }, 15);
                match BITS {
                    6 => {
                        let high = vector(4 + at / 4);
                        let high = match at % 4 {
                            0 => S::left::<4>(high),
                            1 => S::left::<2>(high),
                            2 => high,
                            _ => S::right::<2>(high),
                        };
                        S::or_and(low, high, 0x30)
                    }
                    5 => {
                        let high = vector(4);
                        let high = match at {
                            0 => S::left::<4>(high),
                            1 => S::left::<3>(high),
                            2 => S::left::<2>(high),
                            3 => S::left::<1>(high),
                            4 => high,
                            5 => S::right::<1>(high),
                            6 => S::right::<2>(high),
                            _ => S::right::<3>(high),
                        };
                        S::or_and(low, high, 0x10)
                    }
                    _ => low,
                }
            }
            _ => {
                let low = vector(at / 4);
                let low = match at % 4 {
                    0 => low,
                    1 => S::right::<2>(low),
                    2 => S::right::<4>(low),
                    _ => S::right::<6>(low),
                };
                let low = S::and(low, 3);
                if BITS == 2 {
                    return low;
                }
                let high = vector(2);
                let high = match at {
                    0 => S::left::<2>(high),
                    1 => S::left::<1>(high),
                    2 => high,
                    3 => S::right::<1>(high),
                    4 => S::right::<2>(high),
                    5 => S::right::<3>(high),
                    6 => S::right::<4>(high),
                    _ => S::right::<5>(high),
                };
                S::or_and(low, high, 0x04)
            }
        }
    }
}

/// Unpacks `units` units of `BITS` bits to bytes.
#[inline(always)]
unsafe fn unpack_all<S: Lanes, const BITS: usize>(from: *const u8, units: usize, to: *mut u8) {
    // SAFETY: the caller vouches for the units, and each becomes eight vectors.
    // JUSTIFICATION: see the head of this file.
    unsafe {
        for unit in 0..units {
            let from = from.add(unit * unit_len(BITS, false));
            let to = to.add(unit * unit_len(BITS, true));
            ahead::<S, 2, BITS, false>(from);
            for at in 0..8 {
                let mut lane = 0;
                while lane < TILE {
                    let bytes = unpack::<S, BITS, false>(from, lane, at);
                    S::keep(bytes, to.add(at * VECTOR + lane * 4));
                    lane += S::LANES;
                }
            }
        }
    }
}

/// Asks for the units [`AHEAD`] and [`FAR_AHEAD`] bytes further on. What is wide was written a moment ago.
#[inline(always)]
unsafe fn ahead<S: Lanes, const M: usize, const BITS: usize, const WIDE: bool>(unit: *const u8) {
    if WIDE {
        return;
    }
    for vector in 0..BITS {
        let at = unit.wrapping_add(vector * VECTOR);
        // SAFETY: a prefetch may name any address.
        // JUSTIFICATION: see the head of this file; both distances say why.
        unsafe {
            if M < 8 {
                S::prefetch_later(at.wrapping_add(FAR_AHEAD));
            }
            if M > 1 {
                S::prefetch(at.wrapping_add(AHEAD));
            }
        }
    }
}

/// A word of activations of row `row`.
#[inline(always)]
unsafe fn int<const M: usize>(words: *const u32, word: usize, row: usize) -> i32 {
    // SAFETY: the caller's words are the layout's.
    // JUSTIFICATION: see the head of this file.
    unsafe { words.add(word * M + row).read() as i32 }
}

/// The same, of a float.
#[inline(always)]
unsafe fn float<S: Lanes, const M: usize>(words: *const u32, word: usize, row: usize) -> S::F {
    // SAFETY: the caller's words are the layout's.
    // JUSTIFICATION: see the head of this file.
    unsafe { S::float(f32::from_bits(words.add(word * M + row).read())) }
}

/// Each row's sums so far, at a register's lanes.
#[inline(always)]
unsafe fn load_rows<S: Lanes, const M: usize>(out: *const f32, lane: usize) -> [S::F; M] {
    // SAFETY: `out` has 16 numbers for each of `M` rows.
    // JUSTIFICATION: see the head of this file.
    std::array::from_fn(|row| unsafe { S::load_f32(out.add(row * TILE + lane).cast()) })
}

/// Stores each row's sums at a register's lanes.
#[inline(always)]
unsafe fn store_rows<S: Lanes, const M: usize>(sums: [S::F; M], out: *mut f32, lane: usize) {
    for (row, sum) in sums.into_iter().enumerate() {
        // SAFETY: `out` has 16 numbers for each of `M` rows.
        // JUSTIFICATION: see the head of this file.
        unsafe { S::store(sum, out.add(row * TILE + lane)) }
    }
}

/// Q4_K, Q5_K: sub-blocks of 32 with a scale and a minimum each.
#[inline(always)]
unsafe fn superblock_32<S: Lanes, const M: usize, const BITS: usize, const WIDE: bool>(
    tile: Source,
    words: *const u32,
    blocks: usize,
    out: *mut f32,
) {
    const MINIMA: usize = 4 * TILE + 8 * TILE;
    const UNITS: usize = 4 * TILE + 16 * TILE;
    let unit_len = unit_len(BITS, WIDE);
    let (packed, step) = (UNITS + 8 * unit_len, Precision::Bytes256.words());
    // SAFETY: offsets are those of `format` and `activations`, and the caller vouches for `blocks` of them.
    // JUSTIFICATION: see the head of this file.
    unsafe {
        let mut sums = load_rows::<S, M>(out, tile.lane);
        for block in 0..blocks {
            let source = Source {
                block: tile.block.add(block * packed),
                ..tile
            };
            let words = words.add(block * step * M);
            let scale = S::load_f16(source.per_row(0, 2));
            // Products with the scales of sub-blocks are integers below 2²⁴, so that a fused sum rounds them no more than
            // once; it takes half the time of an integer product.
            let mut partial = [S::float(0.0); M];
            for sub in 0..8 {
                let unit = source.block.add(UNITS + sub * unit_len);
                ahead::<S, M, BITS, WIDE>(unit);
                let mut dots = [S::int(0); M];
                for at in 0..8 {
                    let weights = unpack::<S, BITS, WIDE>(unit, source.lane, at);
                    for (row, dot) in dots.iter_mut().enumerate() {
                        *dot = S::dot(*dot, weights, int::<M>(words, sub * 8 + at, row));
                    }
                }
                let own = S::to_float(S::load_u8(source.per_row(4 * TILE + sub * TILE, 1)));
                for (partial, dot) in partial.iter_mut().zip(dots) {
                    *partial = S::fma(S::to_float(dot), own, *partial);
                }
            }
            let minimum = S::load_f16(source.per_row(2 * TILE, 2));
            let mut minima = [S::int(0); M];
            for pair in 0..4 {
                let pairs = S::load_u8_pairs(source.per_row(MINIMA + pair * 2 * TILE, 2));
                for (row, sum) in minima.iter_mut().enumerate() {
                    *sum = S::dot_pairs(*sum, pairs, int::<M>(words, 64 + pair, row));
                }
            }
            for (row, sum) in sums.iter_mut().enumerate() {
                let whole = S::mul(partial[row], scale);
                let whole = S::fnma(S::to_float(minima[row]), minimum, whole);
                *sum = S::fma(whole, float::<S, M>(words, 92, row), *sum);
            }
        }
        store_rows::<S, M>(sums, out, tile.lane);
    }
}

/// Q6_K, Q3_K, Q2_K: sub-blocks of 16 with a scale each; Q2_K with a minimum each too.
#[inline(always)]
unsafe fn superblock_16<S: Lanes, const M: usize, const BITS: usize, const WIDE: bool>(
    tile: Source,
    words: *const u32,
    blocks: usize,
    out: *mut f32,
) {
    let minimum = BITS == 2;
    let scales = if minimum { 4 * TILE } else { 2 * TILE };
    let minima_at = scales + 16 * TILE;
    let units = if minimum {
        minima_at + 16 * TILE
    } else {
        minima_at
    };
    let unit_len = unit_len(BITS, WIDE);
    let (packed, step) = (units + 8 * unit_len, Precision::Bytes256.words());
    // SAFETY: offsets are those of `format` and `activations`, and the caller vouches for `blocks` of them.
    // JUSTIFICATION: see the head of this file.
    unsafe {
        let mut sums = load_rows::<S, M>(out, tile.lane);
        for block in 0..blocks {
            let source = Source {
                block: tile.block.add(block * packed),
                ..tile
            };
            let words = words.add(block * step * M);
            let scale = S::load_f16(source.per_row(0, 2));
            // Products with the scales of sub-blocks are integers of at most 2²⁴.
            let mut partial = [S::float(0.0); M];
            for sub in 0..8 {
                let unit = source.block.add(units + sub * unit_len);
                ahead::<S, M, BITS, WIDE>(unit);
                for half in 0..2 {
                    let mut dots = [S::int(0); M];
                    if !minimum {
                        for (row, dot) in dots.iter_mut().enumerate() {
                            // What takes an offset of 32 away; Q3_K's is 4.
                            let start = int::<M>(words, 76 + 2 * sub + half, row);
                            *dot = S::int(if BITS == 6 { start } else { start >> 3 });
                        }
                    }
                    for at in 4 * half..4 * half + 4 {
                        let weights = unpack::<S, BITS, WIDE>(unit, source.lane, at);
                        for (row, dot) in dots.iter_mut().enumerate() {
                            *dot = S::dot(*dot, weights, int::<M>(words, sub * 8 + at, row));
                        }
                    }
                    let own = source.per_row(scales + (2 * sub + half) * TILE, 1);
                    let own = if minimum {
                        S::load_u8(own)
                    } else {
                        S::load_i8(own)
                    };
                    let own = S::to_float(own);
                    for (partial, dot) in partial.iter_mut().zip(dots) {
                        *partial = S::fma(S::to_float(dot), own, *partial);
                    }
                }
            }
            let mut lowered = [S::float(0.0); M];
            if minimum {
                let minimum = S::load_f16(source.per_row(2 * TILE, 2));
                let mut minima = [S::int(0); M];
                for pair in 0..8 {
                    let pairs = S::load_u8_pairs(source.per_row(minima_at + pair * 2 * TILE, 2));
                    for (row, sum) in minima.iter_mut().enumerate() {
                        *sum = S::dot_pairs(*sum, pairs, int::<M>(words, 68 + pair, row));
                    }
                }
                for (lowered, minima) in lowered.iter_mut().zip(minima) {
                    *lowered = S::fnma(S::to_float(minima), minimum, *lowered);
                }
            }
            for (row, sum) in sums.iter_mut().enumerate() {
                let whole = S::fma(partial[row], scale, lowered[row]);
                *sum = S::fma(whole, float::<S, M>(words, 92, row), *sum);
            }
        }
        store_rows::<S, M>(sums, out, tile.lane);
    }
}

/// Q4_0, Q4_1, Q5_0, Q5_1, Q8_0: blocks of 32 with a scale and, if `MINIMUM`, a minimum.
#[inline(always)]
unsafe fn block_32<
    S: Lanes,
    const M: usize,
    const BITS: usize,
    const MINIMUM: bool,
    const WIDE: bool,
>(
    tile: Source,
    words: *const u32,
    blocks: usize,
    out: *mut f32,
) {
    let units = if MINIMUM { 4 * TILE } else { 2 * TILE };
    let (packed, step) = (units + unit_len(BITS, WIDE), Precision::Bytes32.words());
    // SAFETY: offsets are those of `format` and `activations`, and the caller vouches for `blocks` of them.
    // JUSTIFICATION: see the head of this file.
    unsafe {
        let mut sums = load_rows::<S, M>(out, tile.lane);
        for block in 0..blocks {
            let source = Source {
                block: tile.block.add(block * packed),
                ..tile
            };
            let words = words.add(block * step * M);
            let unit = source.block.add(units);
            ahead::<S, M, BITS, WIDE>(unit);
            let mut dots = [S::int(0); M];
            if !MINIMUM {
                for (row, dot) in dots.iter_mut().enumerate() {
                    // What takes an offset of 128, or of 8, away; Q5_0's is 16.
                    *dot = match BITS {
                        8 => S::dot_wide_start(int::<M>(words, 8, row)),
                        5 => S::int(int::<M>(words, 11, row).wrapping_mul(2)),
                        _ => S::int(int::<M>(words, 11, row)),
                    };
                }
            }
            for at in 0..8 {
                let weights = unpack::<S, BITS, WIDE>(unit, source.lane, at);
                for (row, dot) in dots.iter_mut().enumerate() {
                    let activations = int::<M>(words, at, row);
                    *dot = match BITS {
                        8 => S::dot_wide(*dot, weights, activations),
                        _ => S::dot(*dot, weights, activations),
                    };
                }
            }
            let scale = S::load_f16(source.per_row(0, 2));
            for (row, sum) in sums.iter_mut().enumerate() {
                let both = S::mul(scale, float::<S, M>(words, 9, row));
                *sum = S::fma(S::to_float(dots[row]), both, *sum);
            }
            if MINIMUM {
                let minimum = S::load_f16(source.per_row(2 * TILE, 2));
                for (row, sum) in sums.iter_mut().enumerate() {
                    *sum = S::fma(minimum, float::<S, M>(words, 10, row), *sum);
                }
            }
        }
        store_rows::<S, M>(sums, out, tile.lane);
    }
}

/// F16, BF16: blocks of 32 fixed-point numbers with a scale, two columns at a time.
#[inline(always)]
unsafe fn fixed_32<S: Lanes, const M: usize>(
    tile: Source,
    words: *const u32,
    blocks: usize,
    out: *mut f32,
) {
    const UNITS: usize = 2 * TILE;
    let (packed, step) = (UNITS + 16 * VECTOR, Precision::Fixed32.words());
    // SAFETY: offsets are those of `format` and `activations`, and the caller vouches for `blocks` of them.
    // JUSTIFICATION: see the head of this file.
    unsafe {
        let mut sums = load_rows::<S, M>(out, tile.lane);
        for block in 0..blocks {
            let source = Source {
                block: tile.block.add(block * packed),
                ..tile
            };
            let words = words.add(block * step * M);
            let unit = source.block.add(UNITS);
            ahead::<S, M, 16, false>(unit);
            let mut dots = [S::int(0); M];
            for at in 0..16 {
                let weights = S::load(unit.add(at * VECTOR + source.lane * 4));
                for (row, dot) in dots.iter_mut().enumerate() {
                    *dot = S::dot_pairs(*dot, weights, int::<M>(words, at, row));
                }
            }
            let scale = S::load_bf16(source.per_row(0, 2));
            for (row, sum) in sums.iter_mut().enumerate() {
                let both = S::mul(scale, float::<S, M>(words, 16, row));
                *sum = S::fma(S::to_float(dots[row]), both, *sum);
            }
        }
        store_rows::<S, M>(sums, out, tile.lane);
    }
}

/// F32. Two sums a row, of even and odd columns.
#[inline(always)]
unsafe fn floats<S: Lanes, const M: usize>(
    tile: Source,
    words: *const u32,
    blocks: usize,
    out: *mut f32,
) {
    const COLUMN: usize = 4 * TILE;
    // SAFETY: offsets are those of `format` and `activations`, and the caller vouches for `blocks` of them.
    // JUSTIFICATION: see the head of this file.
    unsafe {
        let column = |at: usize| {
            let from = Source {
                block: tile.block.add(at * COLUMN),
                ..tile
            };
            S::load_f32(from.per_row(0, 4))
        };
        let (mut even, mut odd) = (load_rows::<S, M>(out, tile.lane), [S::float(0.0); M]);
        for pair in 0..blocks / 2 {
            if M > 1 {
                S::prefetch(tile.block.wrapping_add((2 * pair) * COLUMN + AHEAD));
            }
            let (first, second) = (column(2 * pair), column(2 * pair + 1));
            for row in 0..M {
                even[row] = S::fma(first, float::<S, M>(words, 2 * pair, row), even[row]);
                odd[row] = S::fma(second, float::<S, M>(words, 2 * pair + 1, row), odd[row]);
            }
        }
        if blocks % 2 == 1 {
            let last = column(blocks - 1);
            for (row, even) in even.iter_mut().enumerate() {
                *even = S::fma(last, float::<S, M>(words, blocks - 1, row), *even);
            }
        }
        for row in 0..M {
            // The sum of both: one times the first and the second.
            let sum = S::fma(even[row], S::float(1.0), odd[row]);
            S::store(sum, out.add(row * TILE + tile.lane));
        }
    }
}

/// The kernel of a kind: `K` numbers it as [`number`] does, since a kind cannot be a constant parameter. `WIDE` where
/// weights were [widened](crate::wide).
#[inline(always)]
unsafe fn any<S: Lanes, const K: u8, const M: usize, const WIDE: bool>(
    tile: *const u8,
    words: *const u32,
    blocks: usize,
    out: *mut f32,
) {
    let mut lane = 0;
    while lane < TILE {
        let tile = Source { block: tile, lane };
        // SAFETY: the caller vouches for everything; lanes from `lane` on are a register's worth.
        // JUSTIFICATION: see the head of this file.
        unsafe {
            match K {
                0 => floats::<S, M>(tile, words, blocks, out),
                1 => fixed_32::<S, M>(tile, words, blocks, out),
                2 => block_32::<S, M, 4, false, WIDE>(tile, words, blocks, out),
                3 => block_32::<S, M, 4, true, WIDE>(tile, words, blocks, out),
                4 => block_32::<S, M, 5, false, WIDE>(tile, words, blocks, out),
                5 => block_32::<S, M, 5, true, WIDE>(tile, words, blocks, out),
                6 => block_32::<S, M, 8, false, WIDE>(tile, words, blocks, out),
                7 => superblock_16::<S, M, 2, WIDE>(tile, words, blocks, out),
                8 => superblock_16::<S, M, 3, WIDE>(tile, words, blocks, out),
                9 => superblock_32::<S, M, 4, WIDE>(tile, words, blocks, out),
                10 => superblock_32::<S, M, 5, WIDE>(tile, words, blocks, out),
                _ => superblock_16::<S, M, 6, WIDE>(tile, words, blocks, out),
            }
        }
        lane += S::LANES;
    }
}

/// A kind's number.
pub(crate) const fn number(kind: Kind) -> u8 {
    match kind {
        Kind::F32 => 0,
        Kind::F16 | Kind::BF16 => 1,
        Kind::Q4_0 => 2,
        Kind::Q4_1 => 3,
        Kind::Q5_0 => 4,
        Kind::Q5_1 => 5,
        Kind::Q8_0 => 6,
        Kind::Q2K => 7,
        Kind::Q3K => 8,
        Kind::Q4K => 9,
        Kind::Q5K => 10,
        Kind::Q6K => 11,
    }
}

pub(crate) use table::{kernel, unpacker};
