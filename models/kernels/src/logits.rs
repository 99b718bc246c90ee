//! What a draw asks of the logits of a whole vocabulary, compiled once for each instruction set: exponentials and their sum, and
//! which tokens are far enough above the others. A vocabulary does not fit the nearest cache, so that a look at it costs as much
//! as some arithmetic: what can be had by the way is.

use crate::elementwise::{self, LANES, MAGIC, add_lanes, for_each_set};
use crate::isa::Isa;

/// Numbers of which [`maxima`] finds the largest.
pub const BLOCK: usize = elementwise::BLOCK;
/// Numbers that are added up at once.
const STEP: usize = 2 * LANES;

/// 2^r on [-1/2, 1/2], to 1.1e-7 of it: the highest power first, and last the one before 1. Found by reweighted least squares.
#[allow(
    clippy::approx_constant,
    reason = "the last is nearly ln 2, and not meant to be"
)]
const POWER: [f32; 5] = [
    1.326_472_7e-3,
    9.671_513e-3,
    5.550_733_6e-2,
    2.402_224_2e-1,
    6.931_47e-1,
];
/// Powers of two below the least have no share.
const LEAST: f32 = -126.0;
const MOST: f32 = 127.0;
/// `x · LINE + EXPONENT`, as bits, is nearly 2^x as a number: between powers of two it is a line.
const LINE: f32 = (1_u32 << 23) as f32;
const EXPONENT: f32 = MOST * LINE;
/// The same for powers of e.
const PER_NAT: f32 = std::f32::consts::LOG2_E * LINE;
/// What the line has too much on average: 3/2 for 1/ln 2.
const LEVEL: f32 = 0.961_796_7;
/// Of a block's rows the lines begin at powers a quarter apart, and a row's sum is too large by that: so rows are off by different
/// amounts, which are next to nothing together.
const ROWS: usize = BLOCK / LANES;
const TOO_LARGE: [f32; ROWS] = [1.0, 1.189_207_1, std::f32::consts::SQRT_2, 1.681_792_9];

/// `x = e^((x - best) · scale)`; what is no finite number, and what would be below the smallest that 32 bits hold, becomes zero.
pub fn exponentials(isa: Isa, x: &mut [f32], best: f32, scale: f32) {
    powers(isa, x, best, of_two(scale));
}

/// The sum of `e^((x - best) · scale)`, in which what is no finite number has no part; `x` stays as it is. In 32 bits: who has
/// more than some thousand numbers adds up sums of parts.
pub fn exponential_sum(isa: Isa, x: &[f32], best: f32, scale: f32) -> f32 {
    let scale = of_two(scale);
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx512 {
        // SAFETY: only `Isa::detect` and `Isa::available` make this value, where the set is there.
        // JUSTIFICATION: a vocabulary's sum is in the way of every token; two instructions of this set do what takes eight, and
        // it takes two thirds of the time.
        return unsafe { avx512::power_sum(x, best, scale) };
    }
    power_sum(isa, x, best, scale)
}

for_each_set! {
    fn powers(x: &mut [f32], best: f32, scale: Factor) = powers_of::<true>, powers_of::<ALWAYS_FUSED>;
}

for_each_set! {
    fn power_sum(x: &[f32], best: f32, scale: Factor) -> f32 = power_sum_of::<true>, power_sum_of::<ALWAYS_FUSED>;
}

/// The largest number of each block. Below all numbers where nothing is one.
pub fn maxima(isa: Isa, x: &[f32]) -> Vec<f32> {
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx512 {
        // SAFETY: as in `exponential_sum`.
        // JUSTIFICATION: a maximum that passes over what is no number is one instruction of this set, and three without; every
        // draw begins with it, and it takes half the time.
        return unsafe { avx512::maxima(x) };
    }
    any_maxima(isa, x)
}

/// The same, and nearly the sum of `e^(x - reference)`: it takes little more time than the maxima alone. Exponentials are drawn as
/// lines between powers of two (Schraudolph 1999), which is off by up to 4 % for each of them, by a four-hundredth for many that
/// are the same, and by a thousandth for many that are not: who knows the largest puts those in exactly ([`coarse_shares`]). What
/// is no finite number, or more than 87 below the reference, has no part in it; nothing may be as far above it.
pub fn maxima_and_coarse_sum(isa: Isa, x: &[f32], reference: f32) -> (Vec<f32>, f32) {
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx512 {
        // SAFETY: as in `exponential_sum`.
        // JUSTIFICATION: as in `maxima`, and a conversion that knows numbers from others takes a third of the time.
        return unsafe { avx512::maxima_and_coarse_sum(x, reference) };
    }
    (maxima(isa, x), any_coarse_sum(isa, x, reference))
}

/// What numbers at these places have of that sum.
pub fn coarse_shares(numbers: &[(u32, f32)], reference: f32) -> f32 {
    let begin = begins(reference);
    let mut sums = [0.0; ROWS];
    for (at, x) in numbers {
        let row = *at as usize / LANES % ROWS;
        let bits = f64::from(*x) * f64::from(PER_NAT) + f64::from(begin[row]);
        sums[row] += line(bits as f32);
    }
    levelled(sums)
}

for_each_set! {
    fn any_maxima(x: &[f32]) -> Vec<f32> = maxima_of;
}

for_each_set! {
    fn any_coarse_sum(x: &[f32], reference: f32) -> f32 = coarse_sum_of::<true>, coarse_sum_of::<ALWAYS_FUSED>;
}

/// Numbers from `floor` on behind their places, where `maxima` are those of all. What is no finite number is not among them.
pub fn from_floor(isa: Isa, x: &[f32], maxima: &[f32], floor: f32) -> Vec<(u32, f32)> {
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx512 {
        // SAFETY: as in `exponential_sum`.
        // JUSTIFICATION: comparisons are bits with this set; it takes a third of the time.
        return unsafe { avx512::from_floor(x, maxima, floor) };
    }
    any_from_floor(isa, x, maxima, floor)
}

for_each_set! {
    fn any_from_floor(x: &[f32], maxima: &[f32], floor: f32) -> Vec<(u32, f32)> = any_from_floor_of;
}

/// Whether products and sums are rounded once without a set's being chosen. Where they are not, it would take a function call.
const ALWAYS_FUSED: bool = cfg!(target_arch = "aarch64");

/// `a · b + c`.
#[inline(always)]
fn fused<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    match FUSED {
        true => a.mul_add(b, c),
        false => a * b + c,
    }
}

/// A factor in 32 bits, and what they leave of it.
type Factor = (f32, f32);

/// The factor of powers of two for that of powers of e.
fn of_two(scale: f32) -> Factor {
    let exact = f64::from(scale) * std::f64::consts::LOG2_E;
    let near = exact as f32;
    (near, (exact - f64::from(near)) as f32)
}

/// `2^((x - best) · scale)`.
#[inline(always)]
fn power<const FUSED: bool>(x: f32, best: f32, scale: Factor) -> f32 {
    let (least, most) = (LEAST / scale.0, MOST / scale.0);
    let far = x - best;
    let counts = far > least && x < f32::INFINITY;
    let far = if far > least { far } else { least };
    let far = if far < most { far } else { most };
    let shifted = far * scale.0 + MAGIC;
    let n = shifted - MAGIC;
    let r = fused::<FUSED>(far, scale.0, -n);
    let r = fused::<FUSED>(far, scale.1, r);
    let [highest, lower @ ..] = POWER;
    let p = lower
        .iter()
        .fold(highest, |p, factor| fused::<FUSED>(p, r, *factor));
    let p = fused::<FUSED>(p, r, 1.0);
    let shift = shifted.to_bits().wrapping_shl(23);
    let power = f32::from_bits(p.to_bits().wrapping_add(shift));
    if counts { power } else { 0.0 }
}

#[inline(always)]
fn powers_of<const FUSED: bool>(x: &mut [f32], best: f32, scale: Factor) {
    for x in x {
        *x = power::<FUSED>(*x, best, scale);
    }
}

#[inline(always)]
fn power_sum_of<const FUSED: bool>(x: &[f32], best: f32, scale: Factor) -> f32 {
    let mut sums = [0.0_f32; STEP];
    let (steps, rest) = x.as_chunks::<STEP>();
    for step in steps {
        for (sum, x) in sums.iter_mut().zip(step) {
            *sum += power::<FUSED>(*x, best, scale);
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        *sum += power::<FUSED>(*x, best, scale);
    }
    sums.iter().sum()
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

/// Where the lines of each row begin that are drawn to `x · PER_NAT`.
fn begins(reference: f32) -> [f32; ROWS] {
    let own = |row| f64::from(EXPONENT) + f64::from(LINE) / ROWS as f64 * row as f64;
    std::array::from_fn(|row| (own(row) - f64::from(reference) * f64::from(PER_NAT)) as f32)
}

/// The sum of all rows.
#[inline(always)]
fn levelled(sums: [f32; ROWS]) -> f32 {
    let sums = sums.iter().zip(TOO_LARGE);
    sums.map(|(sum, too_large)| sum / too_large * LEVEL).sum()
}

#[inline(always)]
fn coarse_sum_of<const FUSED: bool>(x: &[f32], reference: f32) -> f32 {
    let begin = begins(reference);
    let mut sums = [[0.0_f32; LANES]; ROWS];
    for block in x.chunks(BLOCK) {
        for ((sums, row), begins) in sums.iter_mut().zip(block.chunks(LANES)).zip(begin) {
            for (sum, x) in sums.iter_mut().zip(row) {
                *sum += line(fused::<FUSED>(*x, PER_NAT, begins));
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

#[inline(always)]
fn any_from_floor_of(x: &[f32], maxima: &[f32], floor: f32) -> Vec<(u32, f32)> {
    from_floor_by(x, maxima, |block| {
        let mut places = 0;
        for (at, part) in (0..).step_by(LANES).zip(block.as_chunks::<LANES>().0) {
            if part.iter().fold(false, |any, x| any | (*x >= floor)) {
                for (at, x) in (at..).zip(part) {
                    places |= u64::from(*x >= floor) << at;
                }
            }
        }
        places
    })
}

/// Which of 64 numbers are meant, `places_in` says bit by bit: of maxima, and then of their blocks.
#[inline(always)]
fn from_floor_by(
    x: &[f32],
    maxima: &[f32],
    places_in: impl Fn(&[f32; BLOCK]) -> u64,
) -> Vec<(u32, f32)> {
    let mut found = Vec::new();
    for (first, maxima) in (0..).step_by(BLOCK).zip(maxima.chunks(BLOCK)) {
        for at in places(places_in(&filled_up(maxima))) {
            let first = (first + at) * BLOCK;
            let numbers = x.get(first..).unwrap_or_default();
            let meant = match numbers.first_chunk() {
                Some(block) => places_in(block),
                None => places_in(&filled_up(numbers)),
            };
            for at in places(meant) {
                if let Some(number) = numbers.get(at).filter(|number| number.is_finite()) {
                    found.push(((first + at) as u32, *number));
                }
            }
        }
    }
    found
}

/// The places of a number's bits.
#[inline(always)]
fn places(mut bits: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let place = (bits != 0).then(|| bits.trailing_zeros() as usize);
        bits &= bits.wrapping_sub(1);
        place
    })
}

/// As many numbers as a block has, and what is none behind them.
#[inline(always)]
fn filled_up(rest: &[f32]) -> [f32; BLOCK] {
    let mut block = [f32::NEG_INFINITY; BLOCK];
    for (to, x) in block.iter_mut().zip(rest) {
        *to = *x;
    }
    block
}

/// The same with this set's own instructions for fractions, powers and comparisons.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::{
        BLOCK, Factor, LEAST, PER_NAT, POWER, ROWS, STEP, begins, filled_up, from_floor_by,
        levelled,
    };
    use crate::elementwise::LANES;

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    pub(super) fn power_sum(x: &[f32], best: f32, scale: Factor) -> f32 {
        let sums = sums(x, |x| power(x, best, scale));
        let mut all = [0.0_f32; STEP];
        for (all, sum) in all.as_chunks_mut::<LANES>().0.iter_mut().zip(sums) {
            // SAFETY: sixteen numbers are written to an array of them.
            // JUSTIFICATION: there is no other way from a register to an array.
            unsafe { _mm512_storeu_ps(all.as_mut_ptr(), sum) };
        }
        all.iter().sum()
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    pub(super) fn maxima(x: &[f32]) -> Vec<f32> {
        maxima_and(x, |_| ())
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    pub(super) fn maxima_and_coarse_sum(x: &[f32], reference: f32) -> (Vec<f32>, f32) {
        let begin = begins(reference).map(|begins| _mm512_set1_ps(begins));
        let mut sums = [_mm512_setzero_ps(); ROWS];
        let maxima = maxima_and(x, |rows| {
            for ((sum, row), begins) in sums.iter_mut().zip(rows).zip(begin) {
                *sum = _mm512_add_ps(*sum, line(row, begins));
            }
        });
        (maxima, levelled(sums.map(|sum| _mm512_reduce_add_ps(sum))))
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

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn sums(x: &[f32], f: impl Fn(__m512) -> __m512) -> [__m512; 2] {
        let mut sums = [_mm512_setzero_ps(); 2];
        let (steps, rest) = x.as_chunks::<STEP>();
        let mut last = [f32::NEG_INFINITY; STEP];
        for (last, x) in last.iter_mut().zip(rest) {
            *last = *x;
        }
        for step in steps.iter().chain([&last]) {
            for (sum, x) in sums.iter_mut().zip(step.as_chunks::<LANES>().0) {
                *sum = _mm512_add_ps(*sum, f(load(x)));
            }
        }
        sums
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    pub(super) fn from_floor(x: &[f32], maxima: &[f32], floor: f32) -> Vec<(u32, f32)> {
        from_floor_by(x, maxima, |block| {
            let mut places = 0;
            for (at, part) in (0..).step_by(LANES).zip(block.as_chunks::<LANES>().0) {
                let from = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(load(part), _mm512_set1_ps(floor));
                places |= u64::from(from) << at;
            }
            places
        })
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load(x: &[f32; LANES]) -> __m512 {
        // SAFETY: sixteen numbers are read from an array of them, wherever it lies.
        // JUSTIFICATION: there is no other way from an array to a register.
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }

    /// As [`super::line`]: of what is no number the maximum is zero, and what is too large for the conversion becomes the integer
    /// that is a negative zero.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn line(x: __m512, begins: __m512) -> __m512 {
        let bits = _mm512_fmadd_ps(x, _mm512_set1_ps(PER_NAT), begins);
        let bits = _mm512_max_ps(bits, _mm512_setzero_ps());
        _mm512_castsi512_ps(_mm512_cvtps_epi32(bits))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    fn power(x: __m512, best: f32, scale: Factor) -> __m512 {
        let [near, left] = [scale.0, scale.1].map(|scale| _mm512_set1_ps(scale));
        let far = _mm512_sub_ps(x, _mm512_set1_ps(best));
        // Neither holds for what is no number.
        let counts = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(far, _mm512_set1_ps(LEAST / scale.0));
        let counts =
            _mm512_mask_cmp_ps_mask::<_CMP_LT_OQ>(counts, x, _mm512_set1_ps(f32::INFINITY));
        let n = _mm512_roundscale_ps::<0>(_mm512_mul_ps(far, near));
        let r = _mm512_fmsub_ps(far, near, n);
        let r = _mm512_fmadd_ps(far, left, r);
        let [highest, lower @ ..] = POWER;
        let mut p = _mm512_set1_ps(highest);
        for factor in lower {
            p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(factor));
        }
        let p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0));
        _mm512_maskz_scalef_ps(counts, p, n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Vec<f32> {
        let mut x: Vec<f32> = (0..3001).map(|at| (at as f32 * 0.77).sin() * 9.0).collect();
        (x[3], x[700], x[999], x[2000]) = (f32::NAN, f32::NEG_INFINITY, -400.0, f32::INFINITY);
        x
    }

    #[test]
    fn exponentials_are_close_and_have_an_end() {
        for isa in Isa::available() {
            for step in 0..8_700 {
                let x = step as f32 / -100.0;
                let mut one = [x];
                exponentials(isa, &mut one, 0.0, 1.0);
                let exact = f64::from(x).exp();
                // Where sums are not fused the power is rounded to 32 bits before its fraction is taken.
                let rounded = if isa == Isa::Portable && !ALWAYS_FUSED {
                    f64::from(-x) * 2e-7
                } else {
                    0.0
                };
                let bound = 3e-7 + rounded;
                let error = (f64::from(one[0]) - exact).abs() / exact;
                assert!(error < bound, "{isa:?}, {x}: {error}");
                assert_eq!(exponential_sum(isa, &[x], 0.0, 1.0), one[0], "{isa:?}, {x}");
            }
            let mut none = [-88.0, -1e30, f32::NEG_INFINITY, f32::INFINITY, f32::NAN];
            exponentials(isa, &mut none, 0.0, 1.0);
            assert_eq!(none, [0.0; 5], "{isa:?}");
            let mut same = [3.25];
            exponentials(isa, &mut same, 3.25, 1e3);
            assert_eq!(same, [1.0], "{isa:?}");
            let far = exponential_sum(isa, &[500.0, 1.0], 1.0, 1.0);
            assert!(far > 1e38, "{isa:?}: {far}");
        }
    }

    #[test]
    fn a_sum_of_exponentials_is_that_of_the_exponentials() {
        let x = some();
        let finite = x.iter().filter(|x| x.is_finite());
        let exact: f64 = finite.map(|x| (f64::from(x - 9.0) * 0.7).exp()).sum();
        for isa in Isa::available() {
            let sum = exponential_sum(isa, &x, 9.0, 0.7);
            assert!(
                (f64::from(sum) - exact).abs() < 1e-5 * exact,
                "{isa:?}: {sum} {exact}"
            );
            let one_by_one = exponential_sum(isa, &x[..32], 9.0, 0.7);
            let mut powers = x[..32].to_vec();
            exponentials(isa, &mut powers, 9.0, 0.7);
            assert_eq!(powers.iter().sum::<f32>(), one_by_one, "{isa:?}");
        }
        let fused: Vec<f32> = Isa::available()
            .into_iter()
            .filter(|isa| *isa != Isa::Portable)
            .map(|isa| exponential_sum(isa, &x, 9.0, 0.7))
            .collect();
        assert!(fused.iter().all(|sum| *sum == fused[0]), "{fused:?}");
    }

    fn exact(x: &[f32], reference: f32) -> f64 {
        let share = |x: &f32| f64::from(*x - reference).exp();
        x.iter().filter(|x| x.is_finite()).map(share).sum()
    }

    fn off(isa: Isa, x: &[f32], reference: f32) -> f64 {
        let (_, sum) = maxima_and_coarse_sum(isa, x, reference);
        f64::from(sum) / exact(x, reference) - 1.0
    }

    #[test]
    fn a_coarse_sum_is_near_the_exact_one() {
        let spread = (0..9_001_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 16) as f32 / 6e3);
        let beside = [f32::NAN, f32::NEG_INFINITY, f32::INFINITY, -400.0];
        let spread: Vec<f32> = spread.chain(beside).collect();
        for isa in Isa::available() {
            for reference in [9.0, 40.0, -30.0] {
                let off = off(isa, &spread, reference);
                assert!(off.abs() < 1e-3, "{isa:?}, {reference}: {off}");
                let (largest, _) = maxima_and_coarse_sum(isa, &spread, reference);
                assert_eq!(largest, maxima(isa, &spread), "{isa:?}");
            }
            for step in -8_500..8_500 {
                let x = step as f32 / 100.0;
                assert!(off(isa, &[x], 0.0).abs() < 0.04, "{isa:?}, {x}");
            }
            for step in 0..200 {
                let off = off(isa, &[step as f32 / -100.0; 512], 0.0);
                assert!(off.abs() < 2.5e-3, "{isa:?}, {step}: {off}");
            }
            for none in [f32::NEG_INFINITY, f32::INFINITY, f32::NAN, -89.0, -1e30] {
                let (_, sum) = maxima_and_coarse_sum(isa, &[none; 300], 0.0);
                assert_eq!(sum, 0.0, "{isa:?}, {none}");
            }
            assert_eq!(maxima_and_coarse_sum(isa, &[], 0.0), (Vec::new(), 0.0));
        }
    }

    #[test]
    fn what_some_numbers_have_of_a_coarse_sum_is_known() {
        let x = some();
        for isa in Isa::available() {
            let (maxima, sum) = maxima_and_coarse_sum(isa, &x, 9.0);
            let all = from_floor(isa, &x, &maxima, f32::NEG_INFINITY);
            let off = coarse_shares(&all, 9.0) / sum - 1.0;
            assert!(off.abs() < 1e-6, "{isa:?}: {off}");
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

    #[test]
    fn what_is_from_the_floor_on_is_found() {
        let x = some();
        for isa in Isa::available() {
            for floor in [f32::NEG_INFINITY, -1e9, -9.0, 0.0, 8.9, 10.0] {
                let found = from_floor(isa, &x, &maxima(isa, &x), floor);
                let reaches = |(_, x): &(u32, f32)| *x >= floor && x.is_finite();
                let all: Vec<(u32, f32)> = (0..).zip(x.clone()).filter(reaches).collect();
                assert_eq!(found, all, "{isa:?}, {floor}");
            }
        }
    }
}
