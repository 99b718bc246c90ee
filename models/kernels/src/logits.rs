//! What a draw asks of the logits of a whole vocabulary, compiled once for each instruction set: exponentials and their sum, and
//! which tokens are far enough above the others. A vocabulary does not fit the nearest cache, so that a look at it costs as much
//! as some arithmetic: what can be had by the way is.

mod floor;
mod mask;
mod maxima;

pub use floor::from_floor;
pub use mask::{masked, masked_and_looked_at};
pub use maxima::{BLOCK, Exponentials, coarse_shares, maxima, maxima_and_coarse_sums};

use crate::elementwise::{LANES, MAGIC, add_lanes, for_each_set};
use crate::isa::Isa;

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

/// The sum of `e^d` and that of `e^d · d`, where `d = (x - best) · scale`; the same of them is true as of [`exponential_sum`].
pub fn exponential_moments(isa: Isa, x: &[f32], best: f32, scale: f32) -> [f32; 2] {
    let [sum, first] = power_moments(isa, x, best, of_two(scale));
    [sum, first * scale]
}

for_each_set! {
    fn power_moments(x: &[f32], best: f32, scale: Factor) -> [f32; 2] = power_moments_of::<true>, power_moments_of::<ALWAYS_FUSED>;
}

for_each_set! {
    fn powers(x: &mut [f32], best: f32, scale: Factor) = powers_of::<true>, powers_of::<ALWAYS_FUSED>;
}

for_each_set! {
    fn power_sum(x: &[f32], best: f32, scale: Factor) -> f32 = power_sum_of::<true>, power_sum_of::<ALWAYS_FUSED>;
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

#[inline(always)]
fn power_moments_of<const FUSED: bool>(x: &[f32], best: f32, scale: Factor) -> [f32; 2] {
    let (least, most) = (LEAST / scale.0, MOST / scale.0);
    let mut sums = [0.0_f32; LANES];
    let mut firsts = [0.0_f32; LANES];
    let (steps, rest) = x.as_chunks::<LANES>();
    let mut last = [f32::NEG_INFINITY; LANES];
    for (last, x) in last.iter_mut().zip(rest) {
        *last = *x;
    }
    for step in steps.iter().chain([&last]) {
        for ((sum, first), x) in sums.iter_mut().zip(&mut firsts).zip(step) {
            let share = power::<FUSED>(*x, best, scale);
            let far = *x - best;
            // What has no share has no distance.
            let far = if far > least { far } else { 0.0 };
            let far = if far < most { far } else { 0.0 };
            *sum += share;
            *first += share * far;
        }
    }
    [sums, firsts].map(add_lanes)
}

/// The same with this set's own instructions for fractions and powers.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::{Factor, LEAST, POWER, STEP};
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

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn load(x: &[f32; LANES]) -> __m512 {
        // SAFETY: sixteen numbers are read from an array of them, wherever it lies.
        // JUSTIFICATION: there is no other way from an array to a register.
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
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

    pub(super) fn some() -> Vec<f32> {
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
    fn moments_are_those_of_the_exponentials() {
        let x = some();
        let finite = x.iter().filter(|x| x.is_finite());
        let far = finite.map(|x| f64::from(x - 9.0) * 0.7);
        let exact: [f64; 2] = [
            far.clone().map(f64::exp).sum(),
            far.map(|d| d.exp() * d).sum(),
        ];
        for isa in Isa::available() {
            let moments = exponential_moments(isa, &x, 9.0, 0.7);
            for (found, exact) in moments.into_iter().zip(exact) {
                let off = f64::from(found) / exact - 1.0;
                assert!(off.abs() < 1e-5, "{isa:?}: {found} {exact}");
            }
            let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -400.0];
            assert_eq!(
                exponential_moments(isa, &odd, 0.0, 1.0),
                [0.0; 2],
                "{isa:?}"
            );
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
}
