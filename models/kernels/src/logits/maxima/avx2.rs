//! The same with AVX2: what the compiler makes of it takes twice as long.

use std::arch::x86_64::*;

use super::super::floor::filled_up;
use super::{BLOCK, Exponentials, Lines, ROWS, levelled};
use crate::elementwise::LANES;

/// Registers of a block; two have a row.
const REGISTERS: usize = 2 * ROWS;
const WIDTH: usize = LANES / 2;

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn maxima(x: &[f32]) -> Vec<f32> {
    maxima_and(x, |_| ())
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn maxima_and_coarse_sums<const N: usize>(
    x: &[f32],
    of: [Exponentials; N],
) -> (Vec<f32>, [f32; N]) {
    looked_at(x, of, |_| ())
}

/// Maxima, coarse sums, and something else with the registers of each block; behind them stands what is no number.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in super::super) fn looked_at<const N: usize>(
    x: &[f32],
    of: [Exponentials; N],
    mut also: impl FnMut([__m256; REGISTERS]),
) -> (Vec<f32>, [f32; N]) {
    let lines = of.map(Lines::of).map(|Lines { slope, begins }| {
        let begins = begins.map(|begin| _mm256_set1_ps(begin));
        (_mm256_set1_ps(slope), begins)
    });
    let mut sums = [[_mm256_setzero_ps(); ROWS]; N];
    let maxima = maxima_and(x, |registers| {
        also(registers);
        for (sums, (slope, begins)) in sums.iter_mut().zip(lines) {
            let rows = registers.as_chunks::<2>().0;
            for ((sum, row), begin) in sums.iter_mut().zip(rows).zip(begins) {
                let [low, high] = row.map(|half| line(half, slope, begin));
                *sum = _mm256_add_ps(*sum, _mm256_add_ps(low, high));
            }
        }
    });
    let added = |sum: __m256| {
        let mut lanes = [0.0_f32; WIDTH];
        // SAFETY: eight numbers are written to an array of them.
        // JUSTIFICATION: there is no other way from a register to an array.
        unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), sum) };
        lanes.iter().sum()
    };
    let sums = sums.map(|sums| levelled(sums.map(added)));
    (maxima, sums)
}

/// The maxima, and something else with the registers of each block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn maxima_and(x: &[f32], mut also: impl FnMut([__m256; REGISTERS])) -> Vec<f32> {
    let (blocks, rest) = x.as_chunks::<BLOCK>();
    let mut maxima = vec![f32::NEG_INFINITY; x.len().div_ceil(BLOCK)];
    let (fours, _) = maxima.as_chunks_mut::<4>();
    let (four_blocks, single_blocks) = blocks.as_chunks::<4>();
    let mut of_block = |block: &[f32; BLOCK]| {
        let mut registers = [_mm256_setzero_ps(); REGISTERS];
        for (register, part) in registers.iter_mut().zip(block.as_chunks::<WIDTH>().0) {
            // SAFETY: eight numbers are read from an array of them, wherever it lies.
            // JUSTIFICATION: there is no other way from an array to a register.
            *register = unsafe { _mm256_loadu_ps(part.as_ptr()) };
        }
        also(registers);
        // Of two of which one is no number the maximum is the second.
        let mut largest = [_mm256_set1_ps(f32::NEG_INFINITY); 2];
        for pair in registers.as_chunks::<2>().0 {
            for (largest, register) in largest.iter_mut().zip(pair) {
                *largest = _mm256_max_ps(*register, *largest);
            }
        }
        let largest = _mm256_max_ps(largest[0], largest[1]);
        let high = _mm256_extractf128_ps::<1>(largest);
        _mm_max_ps(_mm256_castps256_ps128(largest), high)
    };
    for (maxima, blocks) in fours.iter_mut().zip(four_blocks) {
        let [a, b, c, d] = blocks.each_ref().map(&mut of_block);
        // Lanes are turned over, so that each has those of one block.
        let ab = _mm_max_ps(_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b));
        let cd = _mm_max_ps(_mm_unpacklo_ps(c, d), _mm_unpackhi_ps(c, d));
        let lanes = _mm_max_ps(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab));
        // SAFETY: four numbers are written to an array of them.
        // JUSTIFICATION: there is no other way from a register to an array.
        unsafe { _mm_storeu_ps(maxima.as_mut_ptr(), lanes) };
    }
    let last = (!rest.is_empty()).then(|| filled_up(rest));
    let left = maxima.iter_mut().skip(4 * four_blocks.len());
    for (maximum, block) in left.zip(single_blocks.iter().chain(&last)) {
        let lanes = of_block(block);
        let lanes = _mm_max_ps(lanes, _mm_movehl_ps(lanes, lanes));
        *maximum = _mm_cvtss_f32(_mm_max_ps(lanes, _mm_movehdup_ps(lanes)));
    }
    maxima
}

/// As [`super::line`]: what is no number, and what is too large for the conversion, becomes the least integer.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn line(x: __m256, slope: __m256, begin: __m256) -> __m256 {
    let bits = _mm256_cvtps_epi32(_mm256_fmadd_ps(x, slope, begin));
    _mm256_castsi256_ps(_mm256_max_epi32(bits, _mm256_setzero_si256()))
}
