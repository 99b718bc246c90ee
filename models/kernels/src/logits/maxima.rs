//! The largest numbers of a vocabulary's blocks, and by the way nearly what all exponentials are together.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;

use super::floor::filled_up;
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
/// From these bits on there are no finite numbers.
const BITS_MAX: f32 = 255.0 * LINE;
/// What the line has too much on average: 3/2 for 1/ln 2.
const LEVEL: f32 = 0.961_796_7;
/// Of a block's rows the lines begin at powers a quarter apart, and a row's sum is too large by that: so rows are off by different
/// amounts, which are next to nothing together.
const ROWS: usize = BLOCK / LANES;
const TOO_LARGE: [f32; ROWS] = [1.0, 1.189_207_1, std::f32::consts::SQRT_2, 1.681_792_9];

/// The largest number of each block. Below all numbers where nothing is one.
pub fn maxima(isa: Isa, x: &[f32]) -> Vec<f32> {
    #[cfg(target_arch = "x86_64")]
    match isa {
        // SAFETY: as in `super::exponential_sum`.
        // JUSTIFICATION: a maximum that passes over what is no number is one instruction of this set, and three without; every
        // draw begins with it, and it takes half the time.
        Isa::Avx512 => return unsafe { avx512::maxima(x) },
        // SAFETY: as above, and the JUSTIFICATION too.
        Isa::Avx2 | Isa::Avx512Narrow | Isa::AvxVnni => return unsafe { avx2::maxima(x) },
        Isa::Portable | Isa::Neon | Isa::NeonDot => {}
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
    #[cfg(target_arch = "x86_64")]
    match isa {
        // SAFETY: as in `super::exponential_sum`.
        // JUSTIFICATION: as in `maxima`, and a conversion that knows numbers from others takes a third of the time.
        Isa::Avx512 => return unsafe { avx512::maxima_and_coarse_sums(x, of) },
        Isa::Avx2 | Isa::Avx512Narrow | Isa::AvxVnni => {
            // SAFETY: as above, and the JUSTIFICATION too.
            return unsafe { avx2::maxima_and_coarse_sums(x, of) };
        }
        Isa::Portable | Isa::Neon | Isa::NeonDot => {}
    }
    let sums = of.map(|of| any_coarse_sum(isa, x, Lines::of(of)));
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
    let bits = if bits > 0.0 { bits } else { 0.0 };
    let bits = if bits < BITS_MAX { bits } else { 0.0 };
    // SAFETY: what is no number is zero by now, and so is what is too large.
    // JUSTIFICATION: a conversion that looks for both once more is done number by number; the sum takes a ninth of the time.
    let bits = unsafe { bits.to_int_unchecked::<i32>() };
    f32::from_bits(bits.cast_unsigned())
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
    let (blocks, rest) = x.as_chunks::<BLOCK>();
    let last = [filled_up(rest)];
    for block in blocks.iter().chain(&last) {
        for ((sums, row), begin) in sums.iter_mut().zip(rows(block)).zip(&begins) {
            for (sum, x) in sums.iter_mut().zip(row) {
                *sum += line(fused::<FUSED>(*x, slope, *begin));
            }
        }
    }
    levelled(sums.map(add_lanes))
}

#[inline(always)]
fn maxima_of(x: &[f32]) -> Vec<f32> {
    let (blocks, rest) = x.as_chunks::<BLOCK>();
    let mut fours = Vec::with_capacity(blocks.len() + 1);
    let last = (!rest.is_empty()).then(|| filled_up(rest));
    for block in blocks.iter().chain(&last) {
        fours.push(largest_four(block));
    }
    // Four lanes of many blocks are compared at once, those of one are not.
    let largest = |[a, b, c, d]: &[f32; 4]| larger(larger(*a, *b), larger(*c, *d));
    fours.iter().map(largest).collect()
}

/// The largest numbers of four lanes.
#[inline(always)]
fn largest_four(block: &[f32; BLOCK]) -> [f32; 4] {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for row in rows(block) {
        for (lane, x) in lanes.iter_mut().zip(row) {
            *lane = larger(*x, *lane);
        }
    }
    std::array::from_fn(|at| {
        let pairs = [(0, 4), (8, 12)].map(|(a, b)| larger(lanes[at + a], lanes[at + b]));
        larger(pairs[0], pairs[1])
    })
}

/// The larger of two; the second where one is no number.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

#[inline(always)]
fn rows(block: &[f32; BLOCK]) -> &[[f32; LANES]] {
    block.as_chunks().0
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
