//! What a mask leaves of a vocabulary, and by the way what is looked for among all of it.

#[cfg(target_arch = "x86_64")]
use super::BLOCK;
use super::maxima::{Exponentials, maxima_and_coarse_sums};
use crate::elementwise::for_each_set;
use crate::isa::Isa;

/// Numbers that have a bit in a word.
const WORD: usize = u32::BITS as usize;
const BITS: [u32; WORD] = bits();

const fn bits() -> [u32; WORD] {
    let mut bits = [1; WORD];
    let mut at = 1;
    while at < WORD {
        bits[at] = bits[at - 1] << 1;
        at += 1;
    }
    bits
}

for_each_set! {
    /// Numbers whose bits are set, the lowest of the first word first. Others, and those behind the last word, are minus infinity.
    pub fn masked(x: &[f32], words: &[u32]) -> Vec<f32> = masked_of;
}

/// The same; and of all numbers, masked or not, what [`maxima_and_coarse_sums`] finds.
pub fn masked_and_looked_at<const N: usize>(
    isa: Isa,
    x: &[f32],
    words: &[u32],
    of: [Exponentials; N],
) -> (Vec<f32>, (Vec<f32>, [f32; N])) {
    #[cfg(target_arch = "x86_64")]
    match isa {
        // SAFETY: as in `super::exponential_sum`.
        // JUSTIFICATION: as in `super::maxima`; numbers are copied while they are looked at, and only once.
        Isa::Avx512 => return unsafe { avx512::masked_and_looked_at(x, words, of) },
        Isa::Avx2 | Isa::Avx512Narrow | Isa::AvxVnni => {
            // SAFETY: as above, and the JUSTIFICATION too.
            return unsafe { avx2::masked_and_looked_at(x, words, of) };
        }
        Isa::Portable | Isa::Neon | Isa::NeonDot => {}
    }
    (masked(isa, x, words), maxima_and_coarse_sums(isa, x, of))
}

#[inline(always)]
fn masked_of(x: &[f32], words: &[u32]) -> Vec<f32> {
    let mut left = Vec::with_capacity(x.len() + WORD);
    let (parts, rest) = x.as_chunks::<WORD>();
    let word = |at: usize| words.get(at).copied().unwrap_or_default();
    for (at, part) in parts.iter().enumerate() {
        left.extend_from_slice(&masked_part(part, word(at)));
    }
    if !rest.is_empty() {
        let mut last = [f32::NEG_INFINITY; WORD];
        for (to, x) in last.iter_mut().zip(rest) {
            *to = *x;
        }
        left.extend_from_slice(&masked_part(&last, word(parts.len())));
        left.truncate(x.len());
    }
    left
}

#[inline(always)]
fn masked_part(x: &[f32; WORD], word: u32) -> [f32; WORD] {
    let mut left = [f32::NEG_INFINITY; WORD];
    for ((left, x), bit) in left.iter_mut().zip(x).zip(&BITS) {
        *left = if word & bit != 0 {
            *x
        } else {
            f32::NEG_INFINITY
        };
    }
    left
}

/// What is left while blocks are looked at one by one.
#[cfg(target_arch = "x86_64")]
struct Left<'a> {
    left: Vec<f32>,
    whole: usize,
    pairs: std::slice::Chunks<'a, u32>,
}

#[cfg(target_arch = "x86_64")]
impl<'a> Left<'a> {
    fn of(x: &[f32], words: &'a [u32]) -> Self {
        Self {
            left: Vec::with_capacity(x.len()),
            whole: x.len() / BLOCK * BLOCK,
            pairs: words.chunks(BLOCK / WORD),
        }
    }

    /// The bits of the next block; nothing for what is behind whole blocks, which is not looked at as it is.
    #[inline(always)]
    fn next_bits(&mut self) -> Option<u64> {
        if self.left.len() >= self.whole {
            return None;
        }
        let words = self.pairs.next().unwrap_or_default();
        let word = |at: usize| u64::from(words.get(at).copied().unwrap_or_default());
        Some(word(0) | word(1) << WORD)
    }

    /// With what is behind whole blocks.
    fn finish(mut self, x: &[f32], words: &[u32]) -> Vec<f32> {
        let behind = words.get(self.left.len() / WORD..).unwrap_or_default();
        let rest = x.get(self.left.len()..).unwrap_or_default();
        self.left.extend_from_slice(&masked_of(rest, behind));
        self.left
    }
}

/// The same with this set's own way to choose by bits.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::super::maxima::{BLOCK, Exponentials, avx512};
    use super::Left;
    use crate::elementwise::LANES;

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    pub(super) fn masked_and_looked_at<const N: usize>(
        x: &[f32],
        words: &[u32],
        of: [Exponentials; N],
    ) -> (Vec<f32>, (Vec<f32>, [f32; N])) {
        let mut to = Left::of(x, words);
        let found = avx512::looked_at(x, of, |rows| {
            let Some(mut bits) = to.next_bits() else {
                return;
            };
            let mut block = [0.0; BLOCK];
            for (to, row) in block.as_chunks_mut::<LANES>().0.iter_mut().zip(rows) {
                let none = _mm512_set1_ps(f32::NEG_INFINITY);
                let left = _mm512_mask_blend_ps(bits as u16, none, row);
                // SAFETY: sixteen numbers are written to an array of them.
                // JUSTIFICATION: there is no other way from a register to an array.
                unsafe { _mm512_storeu_ps(to.as_mut_ptr(), left) };
                bits >>= LANES;
            }
            to.left.extend_from_slice(&block);
        });
        (to.finish(x, words), found)
    }
}

/// The same with AVX2.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::super::maxima::{BLOCK, Exponentials, avx2};
    use super::Left;

    const WIDTH: usize = 8;

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn masked_and_looked_at<const N: usize>(
        x: &[f32],
        words: &[u32],
        of: [Exponentials; N],
    ) -> (Vec<f32>, (Vec<f32>, [f32; N])) {
        let mut to = Left::of(x, words);
        let found = avx2::looked_at(x, of, |registers| {
            let Some(mut bits) = to.next_bits() else {
                return;
            };
            let own = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
            let mut block = [0.0; BLOCK];
            for (to, register) in block.as_chunks_mut::<WIDTH>().0.iter_mut().zip(registers) {
                let has = _mm256_and_si256(_mm256_set1_epi32(i32::from(bits as u8)), own);
                let has = _mm256_castsi256_ps(_mm256_cmpeq_epi32(has, own));
                let left = _mm256_blendv_ps(_mm256_set1_ps(f32::NEG_INFINITY), register, has);
                // SAFETY: eight numbers are written to an array of them.
                // JUSTIFICATION: there is no other way from a register to an array.
                unsafe { _mm256_storeu_ps(to.as_mut_ptr(), left) };
                bits >>= WIDTH;
            }
            to.left.extend_from_slice(&block);
        });
        (to.finish(x, words), found)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::some;
    use super::*;

    #[test]
    fn what_has_a_bit_is_left() {
        let all = some();
        let word = |at: u32| at.wrapping_mul(2_654_435_761);
        let all_words: Vec<u32> = (1..=100).map(word).collect();
        for isa in Isa::available() {
            for (len, count) in [
                (0, 0),
                (1, 1),
                (63, 2),
                (64, 2),
                (130, 3),
                (130, 5),
                (3001, 94),
            ] {
                let (x, words) = (&all[..len], &all_words[..count]);
                let follows = |at: usize| {
                    words
                        .get(at / 32)
                        .is_some_and(|word| word >> (at % 32) & 1 == 1)
                };
                let expected = (0..).zip(x).map(|(at, x)| match follows(at) {
                    true => *x,
                    false => f32::NEG_INFINITY,
                });
                let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                let expected: Vec<f32> = expected.collect();
                assert_eq!(
                    bits(&masked(isa, x, words)),
                    bits(&expected),
                    "{isa:?}, {len}"
                );
                let of = [9.0, 20.0].map(|reference| Exponentials {
                    reference,
                    heat: 0.7,
                });
                let (left, looked) = masked_and_looked_at(isa, x, words, of);
                assert_eq!(bits(&left), bits(&expected), "{isa:?}, {len}");
                assert_eq!(looked, maxima_and_coarse_sums(isa, x, of), "{isa:?}, {len}");
            }
        }
    }
}
