//! The largest numbers of a vocabulary's blocks, and by the way nearly what all exponentials are together.

use super::{ALWAYS_FUSED, fused};
use crate::elementwise::{self, LANES, add_lanes, for_each_set};
use crate::isa::Isa;

/// Numbers of which [`maxima`] finds the largest.
pub const BLOCK: usize = elementwise::BLOCK;
/// `x · LINE + EXPONENT`, as bits, is nearly 2^x as a number: between powers of two it is a line.
const LINE: f32 = (1_u32 << 23) as f32;
const EXPONENT: f32 = 127.0 * LINE;
/// The same for powers of e.
const PER_NAT: f32 = std::f32::consts::LOG2_E * LINE;
/// What the line has too much on average: 3/2 for 1/ln 2.
const LEVEL: f32 = 0.961_796_7;
/// Of a block's rows the lines begin at powers a quarter apart, and a row's sum is too large by that: so rows are off by different
/// amounts, which are next to nothing together.
const ROWS: usize = BLOCK / LANES;
const TOO_LARGE: [f32; ROWS] = [1.0, 1.189_207_1, std::f32::consts::SQRT_2, 1.681_792_9];

/// The largest number of each block. Below all numbers where nothing is one.
pub fn maxima(isa: Isa, x: &[f32]) -> Vec<f32> {
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx512 {
        // SAFETY: as in `super::exponential_sum`.
        // JUSTIFICATION: a maximum that passes over what is no number is one instruction of this set, and three without; every
        // draw begins with it, and it takes half the time.
        return unsafe { avx512::maxima(x) };
    }
    any_maxima(isa, x)
}

/// `e^((x - reference) · heat)` for each number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exponentials {
    /// What has 1.
    pub reference: f32,
    /// What differences are multiplied by.
    pub heat: f32,
}

/// The same, and nearly the sums of these exponentials: one takes little more time than the maxima alone. Exponentials are drawn as
/// lines between powers of two (Schraudolph 1999), which is off by up to 4 % for each of them, by a four-hundredth for many that
/// are the same, and by a thousandth for many that are not: who knows the largest puts those in exactly ([`coarse_shares`]). What
/// is no finite number, or after the heat more than 87 below the reference, has no part in it; nothing may be as far above it.
pub fn maxima_and_coarse_sums<const N: usize>(
    isa: Isa,
    x: &[f32],
    of: [Exponentials; N],
) -> (Vec<f32>, [f32; N]) {
    let lines = of.map(Lines::of);
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx512 {
        // SAFETY: as in `super::exponential_sum`.
        // JUSTIFICATION: as in `maxima`, and a conversion that knows numbers from others takes a third of the time.
        return unsafe { avx512::maxima_and_coarse_sums(x, lines) };
    }
    let sums = lines.map(|lines| any_coarse_sum(isa, x, lines));
    (maxima(isa, x), sums)
}

/// What numbers at these places have of such a sum.
pub fn coarse_shares(numbers: &[(u32, f32)], of: Exponentials) -> f32 {
    let Lines { slope, begins } = Lines::of(of);
    let mut sums = [0.0; ROWS];
    for (at, x) in numbers {
        let row = *at as usize / LANES % ROWS;
        let bits = f64::from(*x) * f64::from(slope) + f64::from(begins[row]);
        sums[row] += line(bits as f32);
    }
    levelled(sums)
}

/// Lines `x · slope + begins`, one for each row of a block.
#[derive(Clone, Copy)]
struct Lines {
    slope: f32,
    begins: [f32; ROWS],
}

impl Lines {
    fn of(of: Exponentials) -> Self {
        let Exponentials { reference, heat } = of;
        let slope = PER_NAT * heat;
        let own = |row| f64::from(EXPONENT) + f64::from(LINE) / ROWS as f64 * row as f64;
        let begin = |row| (own(row) - f64::from(reference) * f64::from(slope)) as f32;
        Self {
            slope,
            begins: std::array::from_fn(begin),
        }
    }
}

for_each_set! {
    fn any_maxima(x: &[f32]) -> Vec<f32> = maxima_of;
}

for_each_set! {
    fn any_coarse_sum(x: &[f32], lines: Lines) -> f32 = coarse_sum_of::<true>, coarse_sum_of::<ALWAYS_FUSED>;
}

/// The number that has these bits: nothing where it would be too small, and of what is too large or no number.
#[inline(always)]
fn line(bits: f32) -> f32 {
    let bits = if bits > 0.0 && bits < f32::INFINITY {
        bits
    } else {
        0.0
    };
    f32::from_bits(bits as i32 as u32)
}

/// The sum of all rows.
#[inline(always)]
fn levelled(sums: [f32; ROWS]) -> f32 {
    let sums = sums.iter().zip(TOO_LARGE);
    sums.map(|(sum, too_large)| sum / too_large * LEVEL).sum()
}

#[inline(always)]
fn coarse_sum_of<const FUSED: bool>(x: &[f32], lines: Lines) -> f32 {
    let Lines { slope, begins } = lines;
    let mut sums = [[0.0_f32; LANES]; ROWS];
    for block in x.chunks(BLOCK) {
        for ((sums, row), begin) in sums.iter_mut().zip(block.chunks(LANES)).zip(begins) {
            for (sum, x) in sums.iter_mut().zip(row) {
                *sum += line(fused::<FUSED>(*x, slope, begin));
            }
        }
    }
    levelled(sums.map(add_lanes))
}

#[inline(always)]
fn maxima_of(x: &[f32]) -> Vec<f32> {
    let of_block = |block: &[f32]| {
        let mut largest = [f32::NEG_INFINITY; LANES];
        for row in block.chunks(LANES) {
            for (largest, x) in largest.iter_mut().zip(row) {
                *largest = if *x > *largest { *x } else { *largest };
            }
        }
        let larger = |a: f32, b: f32| if b > a { b } else { a };
        largest.into_iter().fold(f32::NEG_INFINITY, larger)
    };
    x.chunks(BLOCK).map(of_block).collect()
}

/// The same with this set's own instructions for maxima and conversions.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::super::avx512::load;
    use super::super::floor::filled_up;
    use super::{BLOCK, Lines, ROWS, levelled};

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    pub(super) fn maxima(x: &[f32]) -> Vec<f32> {
        maxima_and(x, |_| ())
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    pub(super) fn maxima_and_coarse_sums<const N: usize>(
        x: &[f32],
        lines: [Lines; N],
    ) -> (Vec<f32>, [f32; N]) {
        let lines = lines.map(|Lines { slope, begins }| {
            let begins = begins.map(|begin| _mm512_set1_ps(begin));
            (_mm512_set1_ps(slope), begins)
        });
        let mut sums = [[_mm512_setzero_ps(); ROWS]; N];
        let maxima = maxima_and(x, |rows| {
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
}

#[cfg(test)]
mod tests {
    use super::super::floor::from_floor;
    use super::super::tests::some;
    use super::*;

    const HEATS: [f32; 3] = [1.0, 1.0 / 0.7, 0.4];

    fn beside(reference: f32, heat: f32) -> Exponentials {
        Exponentials { reference, heat }
    }

    fn cases() -> impl Iterator<Item = (Isa, f32)> {
        let all = Isa::available().into_iter();
        all.flat_map(|isa| HEATS.map(|heat| (isa, heat)))
    }

    fn exact(x: &[f32], reference: f32, heat: f32) -> f64 {
        let share = |x: &f32| (f64::from(*x - reference) * f64::from(heat)).exp();
        x.iter().filter(|x| x.is_finite()).map(share).sum()
    }

    fn off(isa: Isa, x: &[f32], reference: f32, heat: f32) -> f64 {
        let (_, [sum]) = maxima_and_coarse_sums(isa, x, [beside(reference, heat)]);
        f64::from(sum) / exact(x, reference, heat) - 1.0
    }

    #[test]
    fn a_coarse_sum_is_near_the_exact_one() {
        let spread = (0..9_001_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 16) as f32 / 6e3);
        let odd = [f32::NAN, f32::NEG_INFINITY, f32::INFINITY, -400.0];
        let spread: Vec<f32> = spread.chain(odd).collect();
        for (isa, heat) in cases() {
            for reference in [9.0, 40.0, -30.0] {
                let off = off(isa, &spread, reference, heat);
                assert!(off.abs() < 1e-3, "{isa:?}, {reference}, {heat}: {off}");
            }
            for step in -8_500..8_500 {
                let x = step as f32 / 100.0 / heat;
                assert!(off(isa, &[x], 0.0, heat).abs() < 0.04, "{isa:?}, {x}");
            }
            for step in 0..200 {
                let off = off(isa, &[step as f32 / -100.0 / heat; 512], 0.0, heat);
                assert!(off.abs() < 2.5e-3, "{isa:?}, {step}, {heat}: {off}");
            }
            for none in [
                f32::NEG_INFINITY,
                f32::INFINITY,
                f32::NAN,
                -89.0 / heat,
                -1e30,
            ] {
                let (_, sums) = maxima_and_coarse_sums(isa, &[none; 300], [beside(0.0, heat)]);
                assert_eq!(sums, [0.0], "{isa:?}, {none}, {heat}");
            }
            let none = maxima_and_coarse_sums(isa, &[], [beside(0.0, heat)]);
            assert_eq!(none, (Vec::new(), [0.0]));
        }
    }

    #[test]
    fn sums_that_are_had_together_are_those_that_are_had_alone() {
        let x = some();
        for isa in Isa::available() {
            let of = HEATS.map(|heat| beside(9.0, heat));
            let (largest, sums) = maxima_and_coarse_sums(isa, &x, of);
            let alone = of.map(|of| maxima_and_coarse_sums(isa, &x, [of]).1);
            assert_eq!(sums, alone.map(|[sum]| sum), "{isa:?}");
            assert_eq!(largest, maxima(isa, &x), "{isa:?}");
            let nothing = maxima_and_coarse_sums(isa, &x, []);
            assert_eq!(nothing, (largest, []), "{isa:?}");
        }
    }

    #[test]
    fn what_some_numbers_have_of_a_coarse_sum_is_known() {
        let x = some();
        for (isa, heat) in cases() {
            let of = beside(9.0, heat);
            let (maxima, [sum]) = maxima_and_coarse_sums(isa, &x, [of]);
            let all = from_floor(isa, &x, &maxima, f32::NEG_INFINITY, usize::MAX).unwrap();
            let off = coarse_shares(&all, of) / sum - 1.0;
            assert!(off.abs() < 1e-6, "{isa:?}, {heat}: {off}");
        }
    }

    #[test]
    fn maxima_are_those_of_blocks() {
        for len in [0, 1, 64, 70, 256, 300, 3001] {
            let x = &some()[..len];
            let larger = |a: f32, b: &f32| if *b > a { *b } else { a };
            let largest = |block: &[f32]| block.iter().fold(f32::NEG_INFINITY, larger);
            let exact: Vec<f32> = x.chunks(BLOCK).map(largest).collect();
            for isa in Isa::available() {
                assert_eq!(maxima(isa, x), exact, "{isa:?}, {len}");
            }
        }
    }
}
