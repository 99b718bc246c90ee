//! Which numbers of a vocabulary are large enough: of blocks by their maxima, and then of those blocks alone.

use super::maxima::BLOCK;
use crate::elementwise::{LANES, for_each_set};
use crate::isa::Isa;

/// How many numbers there is room for before any is found.
const FOUND: usize = 512;

/// Numbers from `floor` on behind their places, where `maxima` are those of all; nothing where more than `blocks_max` blocks have
/// some. What is no finite number is not among them.
pub fn from_floor(
    isa: Isa,
    x: &[f32],
    maxima: &[f32],
    floor: f32,
    blocks_max: usize,
) -> Option<Vec<(u32, f32)>> {
    #[cfg(target_arch = "x86_64")]
    match isa {
        // SAFETY: as in `super::exponential_sum`.
        // JUSTIFICATION: comparisons are bits with this set; it takes a third of the time.
        Isa::Avx512 => return unsafe { avx512::from_floor(x, maxima, floor, blocks_max) },
        Isa::Avx2 | Isa::Avx512Narrow | Isa::AvxVnni => {
            // SAFETY: as above, and the JUSTIFICATION too.
            return unsafe { avx2::from_floor(x, maxima, floor, blocks_max) };
        }
        Isa::Portable | Isa::Neon | Isa::NeonDot => {}
    }
    any_from_floor(isa, x, maxima, floor, blocks_max)
}

for_each_set! {
    fn any_from_floor(x: &[f32], maxima: &[f32], floor: f32, blocks_max: usize) -> Option<Vec<(u32, f32)>> = any_from_floor_of;
}

#[inline(always)]
fn any_from_floor_of(
    x: &[f32],
    maxima: &[f32],
    floor: f32,
    blocks_max: usize,
) -> Option<Vec<(u32, f32)>> {
    from_floor_by(x, maxima, blocks_max, |block| {
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
    blocks_max: usize,
    places_in: impl Fn(&[f32; BLOCK]) -> u64,
) -> Option<Vec<(u32, f32)>> {
    let mut blocks = Vec::with_capacity(maxima.len().div_ceil(BLOCK));
    for maxima in maxima.chunks(BLOCK) {
        blocks.push(match maxima.first_chunk() {
            Some(maxima) => places_in(maxima),
            None => places_in(&filled_up(maxima)),
        });
    }
    let count: u32 = blocks.iter().map(|blocks| blocks.count_ones()).sum();
    if count as usize > blocks_max {
        return None;
    }
    let mut found = Vec::with_capacity(FOUND);
    for (first, blocks) in (0..).step_by(BLOCK).zip(blocks) {
        for at in places(blocks) {
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
    Some(found)
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

/// As many numbers as a block has: behind these, what is no number.
#[inline(always)]
pub(super) fn filled_up(rest: &[f32]) -> [f32; BLOCK] {
    let mut block = [f32::NAN; BLOCK];
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
    pub(super) fn from_floor(
        x: &[f32],
        maxima: &[f32],
        floor: f32,
        blocks_max: usize,
    ) -> Option<Vec<(u32, f32)>> {
        from_floor_by(x, maxima, blocks_max, |block| {
            let mut places = 0;
            for (at, part) in (0..).step_by(LANES).zip(block.as_chunks::<LANES>().0) {
                let from = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(load(part), _mm512_set1_ps(floor));
                places |= u64::from(from) << at;
            }
            places
        })
    }
}

/// The same with AVX2's.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::from_floor_by;

    const WIDTH: usize = 8;

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn from_floor(
        x: &[f32],
        maxima: &[f32],
        floor: f32,
        blocks_max: usize,
    ) -> Option<Vec<(u32, f32)>> {
        from_floor_by(x, maxima, blocks_max, |block| {
            let mut places = 0;
            for (at, part) in (0..).step_by(WIDTH).zip(block.as_chunks::<WIDTH>().0) {
                // SAFETY: eight numbers are read from an array of them, wherever it lies.
                // JUSTIFICATION: there is no other way from an array to a register.
                let part = unsafe { _mm256_loadu_ps(part.as_ptr()) };
                let from = _mm256_cmp_ps::<_CMP_GE_OQ>(part, _mm256_set1_ps(floor));
                // Eight bits.
                places |= u64::from(_mm256_movemask_ps(from).cast_unsigned()) << at;
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
                let maxima = maxima(isa, &x);
                let blocks = maxima.iter().filter(|x| **x >= floor).count();
                let found = from_floor(isa, &x, &maxima, floor, blocks);
                let reaches = |(_, x): &(u32, f32)| *x >= floor && x.is_finite();
                let all: Vec<(u32, f32)> = (0..).zip(x.clone()).filter(reaches).collect();
                assert_eq!(found, Some(all), "{isa:?}, {floor}");
                if let Some(fewer) = blocks.checked_sub(1) {
                    let none = from_floor(isa, &x, &maxima, floor, fewer);
                    assert_eq!(none, None, "{isa:?}, {floor}");
                }
            }
        }
    }
}
