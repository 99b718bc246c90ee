//! Keyed hashes, so that what is kept says nothing without the key: SipHash-1-3 (Aumasson and Bernstein, 2012), which the
//! standard library has with a fixed key only.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

/// The key of all hashes of one guard. It is born in the enclave and lost with it.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct GuardKey([u64; 2]);

impl fmt::Debug for GuardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GuardKey(..)")
    }
}

impl GuardKey {
    /// A key of 16 random bytes.
    #[must_use]
    pub fn new(bytes: [u8; 16]) -> Self {
        let [low, high] = halves(u128::from_le_bytes(bytes));
        Self([low, high])
    }

    /// SipHash-1-3 of `bytes`.
    #[must_use]
    pub fn hash(&self, bytes: &[u8]) -> u64 {
        let mut state = State::new(self.0);
        let (words, rest) = bytes.as_chunks();
        for word in words {
            state.absorb(u64::from_le_bytes(*word));
        }
        let length = (bytes.len() as u64 & 0xff) << 56;
        state.absorb(length | word_of(rest));
        state.finish()
    }

    /// SipHash-1-3 of the little-endian bytes of `words`.
    #[must_use]
    pub fn hash_words(&self, words: &[u64]) -> u64 {
        let mut state = State::new(self.0);
        for word in words {
            state.absorb(*word);
        }
        state.absorb((words.len() as u64).wrapping_mul(8) << 56);
        state.finish()
    }
}

/// Fewer than eight bytes as a little-endian number. Those of short words, four and more, are two numbers that overlap.
fn word_of(bytes: &[u8]) -> u64 {
    if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        let [first, last] = [first, last].map(|four| u64::from(u32::from_le_bytes(*four)));
        return first | (last << ((bytes.len() - 4) * 8));
    }
    let bytes = bytes.iter().rev();
    bytes.fold(0, |word, byte| (word << 8) | u64::from(*byte))
}

/// The low and the high half.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the halves are what is meant"
)]
fn halves(whole: u128) -> [u64; 2] {
    [whole as u64, (whole >> 64) as u64]
}

struct State([u64; 4]);

impl State {
    const fn new([low, high]: [u64; 2]) -> Self {
        Self([
            low ^ 0x736f_6d65_7073_6575,
            high ^ 0x646f_7261_6e64_6f6d,
            low ^ 0x6c79_6765_6e65_7261,
            high ^ 0x7465_6462_7974_6573,
        ])
    }

    fn absorb(&mut self, word: u64) {
        self.0[3] ^= word;
        self.round();
        self.0[0] ^= word;
    }

    fn finish(mut self) -> u64 {
        self.0[2] ^= 0xff;
        for _ in 0..3 {
            self.round();
        }
        let [a, b, c, d] = self.0;
        a ^ b ^ c ^ d
    }

    fn round(&mut self) {
        let [mut a, mut b, mut c, mut d] = self.0;
        a = a.wrapping_add(b);
        b = b.rotate_left(13) ^ a;
        a = a.rotate_left(32);
        c = c.wrapping_add(d);
        d = d.rotate_left(16) ^ c;
        a = a.wrapping_add(d);
        d = d.rotate_left(21) ^ a;
        c = c.wrapping_add(b);
        b = b.rotate_left(17) ^ c;
        c = c.rotate_left(32);
        self.0 = [a, b, c, d];
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{DefaultHasher, Hasher as _};

    use super::*;

    #[test]
    fn hashes_as_the_standard_library_does_under_its_fixed_key() {
        let key = GuardKey::new([0; 16]);
        let bytes: Vec<u8> = (0..=200).collect();
        for length in 0..bytes.len() {
            let mut theirs = DefaultHasher::new();
            theirs.write(&bytes[..length]);
            assert_eq!(
                key.hash(&bytes[..length]),
                theirs.finish(),
                "{length} bytes"
            );
        }
    }

    #[test]
    fn words_hash_as_their_bytes_and_every_bit_of_the_key_counts() {
        let (words, plain) = ([3, u64::MAX, 5], GuardKey::new([7; 16]));
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(plain.hash_words(&words), plain.hash(&bytes));
        for bit in 0..128 {
            let mut other = [7; 16];
            other[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(
                GuardKey::new(other).hash(&bytes),
                plain.hash(&bytes),
                "{bit}"
            );
        }
        assert_eq!(format!("{plain:?}"), "GuardKey(..)");
    }
}
