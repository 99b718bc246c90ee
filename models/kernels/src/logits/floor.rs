//! Which numbers of a vocabulary are large enough: of blocks by their maxima, and then of those blocks alone.

use super::maxima::BLOCK;
use crate::elementwise::{LANES, for_each_set};
use crate::isa::Isa;

/// How many numbers there is room for before any is found.
const FOUND: usize = 512;

for_each_set! {
    /// How many numbers are from `floor` on.
    pub fn count_from(x: &[f32], floor: f32) -> usize = count_from_of;
}

#[inline(always)]
fn count_from_of(x: &[f32], floor: f32) -> usize {
    let (steps, rest) = x.as_chunks::<LANES>();
    let mut counts = [0_u32; LANES];
    for step in steps {
        for (count, x) in counts.iter_mut().zip(step) {
            *count = count.wrapping_add(u32::from(*x >= floor));
        }
    }
    let rest = rest.iter().filter(|x| **x >= floor).count();
    counts.iter().sum::<u32>() as usize + rest
}

/// Numbers from `floor` on behind their places, where `maxima` are those of all. What is no finite number is not among them.
pub fn from_floor(isa: Isa, x: &[f32], maxima: &[f32], floor: f32) -> Vec<(u32, f32)> {
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx512 {
        // SAFETY: as in `super::exponential_sum`.
        // JUSTIFICATION: comparisons are bits with this set; it takes a third of the time.
        return unsafe { avx512::from_floor(x, maxima, floor) };
    }
    any_from_floor(isa, x, maxima, floor)
}

for_each_set! {
    fn any_from_floor(x: &[f32], maxima: &[f32], floor: f32) -> Vec<(u32, f32)> = any_from_floor_of;
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
    let mut found = Vec::with_capacity(FOUND);
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
pub(super) fn filled_up(rest: &[f32]) -> [f32; BLOCK] {
    let mut block = [f32::NEG_INFINITY; BLOCK];
    for (to, x) in block.iter_mut().zip(rest) {
        *to = *x;
    }
    block
}

/// The same with this set's own comparisons.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::super::avx512::load;
    use super::from_floor_by;
    use crate::elementwise::LANES;

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
}

#[cfg(test)]
mod tests {
    use super::super::maxima::maxima;
    use super::super::tests::some;
    use super::*;

    #[test]
    fn what_is_from_the_floor_on_is_found() {
        let x = some();
        for isa in Isa::available() {
            for floor in [f32::NEG_INFINITY, -1e9, -9.0, 0.0, 8.9, 10.0] {
                let found = from_floor(isa, &x, &maxima(isa, &x), floor);
                let reaches = |(_, x): &(u32, f32)| *x >= floor && x.is_finite();
                let all: Vec<(u32, f32)> = (0..).zip(x.clone()).filter(reaches).collect();
                assert_eq!(found, all, "{isa:?}, {floor}");
                let reach = x.iter().filter(|x| **x >= floor).count();
                assert_eq!(count_from(isa, &x, floor), reach, "{isa:?}, {floor}");
            }
        }
    }
}
