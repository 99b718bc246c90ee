//! The same with AVX-512's own instructions for maxima and conversions.

use std::arch::x86_64::*;

use super::super::avx512::load;
use super::super::floor::filled_up;
use super::{BLOCK, Exponentials, Lines, ROWS, levelled};

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn maxima(x: &[f32]) -> Vec<f32> {
    maxima_and(x, |_| ())
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn maxima_and_coarse_sums<const N: usize>(
    x: &[f32],
    of: [Exponentials; N],
) -> (Vec<f32>, [f32; N]) {
    looked_at(x, of, |_| ())
}

/// Maxima, coarse sums, and something else with the rows of each block; behind them stands what is no number.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(in super::super) fn looked_at<const N: usize>(
    x: &[f32],
    of: [Exponentials; N],
    mut also: impl FnMut([__m512; ROWS]),
) -> (Vec<f32>, [f32; N]) {
    let lines = of.map(Lines::of).map(|Lines { slope, begins }| {
        let begins = begins.map(|begin| _mm512_set1_ps(begin));
        (_mm512_set1_ps(slope), begins)
    });
    let mut sums = [[_mm512_setzero_ps(); ROWS]; N];
    let maxima = maxima_and(x, |rows| {
        also(rows);
        for (sums, (slope, begins)) in sums.iter_mut().zip(lines) {
            for ((sum, row), begin) in sums.iter_mut().zip(rows).zip(begins) {
                *sum = _mm512_add_ps(*sum, line(row, slope, begin));
            }
        }
    });
    let sums = sums.map(|sums| levelled(sums.map(|sum| _mm512_reduce_add_ps(sum))));
    (maxima, sums)
}

/// The maxima, and something else with the rows of each block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn maxima_and(x: &[f32], mut also: impl FnMut([__m512; ROWS])) -> Vec<f32> {
    let (blocks, rest) = x.as_chunks::<BLOCK>();
    let mut maxima = vec![f32::NEG_INFINITY; x.len().div_ceil(BLOCK)];
    let (fours, _) = maxima.as_chunks_mut::<4>();
    let (four_blocks, single_blocks) = blocks.as_chunks::<4>();
    let mut of_block = |block: &[f32; BLOCK]| {
        let [a, b, c, d] = block.as_chunks().0 else {
            return _mm512_set1_ps(f32::NEG_INFINITY);
        };
        let rows = [a, b, c, d].map(|row| load(row));
        also(rows);
        let [a, b, c, d] = rows;
        // Of two of which one is no number the maximum is the second.
        let none = _mm512_set1_ps(f32::NEG_INFINITY);
        let (a, b) = (_mm512_max_ps(a, none), _mm512_max_ps(b, none));
        _mm512_max_ps(_mm512_max_ps(c, a), _mm512_max_ps(d, b))
    };
    for (maxima, blocks) in fours.iter_mut().zip(four_blocks) {
        let [a, b, c, d] = blocks.each_ref().map(&mut of_block);
        // Lanes are turned over, so that each four have one of each block.
        let ab = _mm512_max_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
        let cd = _mm512_max_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
        let low = _mm512_shuffle_ps::<0b01_00_01_00>(ab, cd);
        let high = _mm512_shuffle_ps::<0b11_10_11_10>(ab, cd);
        let lanes = _mm512_max_ps(low, high);
        let high = _mm512_extractf32x8_ps::<1>(lanes);
        let lanes = _mm256_max_ps(_mm512_castps512_ps256(lanes), high);
        let high = _mm256_extractf128_ps::<1>(lanes);
        let lanes = _mm_max_ps(_mm256_castps256_ps128(lanes), high);
        // SAFETY: four numbers are written to an array of them.
        // JUSTIFICATION: there is no other way from a register to an array.
        unsafe { _mm_storeu_ps(maxima.as_mut_ptr(), lanes) };
    }
    let last = (!rest.is_empty()).then(|| filled_up(rest));
    let left = maxima.iter_mut().skip(4 * four_blocks.len());
    for (maximum, block) in left.zip(single_blocks.iter().chain(&last)) {
        *maximum = _mm512_reduce_max_ps(of_block(block));
    }
    maxima
}

/// As [`super::line`]: of what is no number the maximum is zero, and what is too large for the conversion becomes the integer
/// that is a negative zero.
#[inline]
#[target_feature(enable = "avx512f")]
fn line(x: __m512, slope: __m512, begin: __m512) -> __m512 {
    let bits = _mm512_fmadd_ps(x, slope, begin);
    let bits = _mm512_max_ps(bits, _mm512_setzero_ps());
    _mm512_castsi512_ps(_mm512_cvtps_epi32(bits))
}
