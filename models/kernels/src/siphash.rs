//! SipHash-2-4 (Aumasson and Bernstein 2012) over whole words, for many messages that differ in their last word: the noise of
//! all tokens that may follow a context.

use crate::elementwise::for_each_set;
use crate::isa::Isa;

/// Messages at once.
const LANES: usize = 8;

/// Where a message is after some of its words.
#[derive(Clone, Copy)]
pub struct SipState([u64; 4]);

impl SipState {
    /// Before the first word.
    pub fn new(key: [u64; 2]) -> Self {
        let [low, high] = key;
        Self([
            low ^ 0x736f_6d65_7073_6575,
            high ^ 0x646f_7261_6e64_6f6d,
            low ^ 0x6c79_6765_6e65_7261,
            high ^ 0x7465_6462_7974_6573,
        ])
    }

    /// After one word more.
    pub fn absorb(&mut self, word: u64) {
        let mut lanes = self.0.map(|part| [part]);
        absorb(&mut lanes, &[word]);
        self.0 = lanes.map(|[part]| part);
    }

    /// What the message hashes to when `last` is its last word.
    pub fn finish(&self, last: u64) -> u64 {
        let [hash] = finish(self.0, &[last]);
        hash
    }

    /// The same for each of these last words.
    pub fn finish_each(&self, isa: Isa, last: &[u64]) -> Vec<u64> {
        let mut hashes = vec![0; last.len()];
        finish_all(isa, self.0, last, &mut hashes);
        hashes
    }
}

for_each_set! {
    fn finish_all(state: [u64; 4], last: &[u64], hashes: &mut [u64]) = finish_all_of;
}

#[inline(always)]
fn finish_all_of(state: [u64; 4], last: &[u64], hashes: &mut [u64]) {
    let (each, rest) = last.as_chunks();
    let (to_each, to_rest) = hashes.as_chunks_mut::<LANES>();
    for (last, hashes) in each.iter().zip(to_each) {
        *hashes = finish(state, last);
    }
    let mut words = [0; LANES];
    for (word, last) in words.iter_mut().zip(rest) {
        *word = *last;
    }
    for (hash, to) in finish(state, &words).into_iter().zip(to_rest) {
        *to = hash;
    }
}

#[inline(always)]
fn finish<const N: usize>(state: [u64; 4], last: &[u64; N]) -> [u64; N] {
    let mut state = state.map(|part| [part; N]);
    absorb(&mut state, last);
    for part in &mut state[2] {
        *part ^= 0xff;
    }
    for _ in 0..4 {
        round(&mut state);
    }
    let [a, b, c, d] = state;
    std::array::from_fn(|lane| a[lane] ^ b[lane] ^ c[lane] ^ d[lane])
}

#[inline(always)]
fn absorb<const N: usize>(state: &mut [[u64; N]; 4], words: &[u64; N]) {
    for (part, word) in state[3].iter_mut().zip(words) {
        *part ^= word;
    }
    round(state);
    round(state);
    for (part, word) in state[0].iter_mut().zip(words) {
        *part ^= word;
    }
}

#[inline(always)]
fn round<const N: usize>(state: &mut [[u64; N]; 4]) {
    let [a, b, c, d] = state;
    for lane in 0..N {
        a[lane] = a[lane].wrapping_add(b[lane]);
        c[lane] = c[lane].wrapping_add(d[lane]);
        b[lane] = b[lane].rotate_left(13) ^ a[lane];
        d[lane] = d[lane].rotate_left(16) ^ c[lane];
        a[lane] = a[lane].rotate_left(32);
        c[lane] = c[lane].wrapping_add(b[lane]);
        a[lane] = a[lane].wrapping_add(d[lane]);
        b[lane] = b[lane].rotate_left(17) ^ c[lane];
        d[lane] = d[lane].rotate_left(21) ^ a[lane];
        c[lane] = c[lane].rotate_left(32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::Hasher;

    #[test]
    #[expect(
        deprecated,
        reason = "the standard library's SipHash-2-4 is what it is compared with"
    )]
    fn hashes_are_siphash() {
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        // The 20 bytes of five numbers: the last word has what is left of them and their count.
        let last: Vec<u64> = (0..37_u64).map(|at| (at * 977) | (20 << 56)).collect();
        let mut state = SipState::new(key);
        state.absorb(1 | (2 << 32));
        state.absorb(u64::from(u32::MAX) | (4 << 32));
        let expected: Vec<u64> = last
            .iter()
            .map(|last| {
                let mut other = std::hash::SipHasher::new_with_keys(key[0], key[1]);
                for word in [1, 2, u32::MAX, 4, *last as u32] {
                    other.write(&word.to_le_bytes());
                }
                other.finish()
            })
            .collect();
        for isa in Isa::available() {
            assert_eq!(state.finish_each(isa, &last), expected, "{isa:?}");
        }
        for (last, expected) in last.iter().zip(&expected) {
            assert_eq!(state.finish(*last), *expected);
        }
        assert!(state.finish_each(Isa::detect(), &[]).is_empty());
    }
}
