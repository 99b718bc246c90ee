//! The hash of the last characters of a text, of one that grows at its end or at its beginning.

/// The multiplier of rolling hashes, odd: the fraction of the golden ratio.
const BASE: u64 = 0x9e37_79b9_7f4a_7c15;
/// What it is multiplied by for 1.
const INVERSE: u64 = inverse(BASE);

/// The hash of the last `len` characters of a text that grows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rolling(u64);

impl Rolling {
    /// Bits of which the upper half depends on all characters: what the last one adds is in the low bits until it is multiplied.
    pub const fn spread(self) -> u64 {
        self.0.wrapping_mul(BASE)
    }

    /// Adds a character; `leaving` is the one that stood `len` before it, and `power` that of `len`.
    pub fn push(&mut self, c: char, leaving: Option<char>, power: u64) {
        let gone = leaving.map_or(0, |c| value(c).wrapping_mul(power));
        let change = value(c).wrapping_sub(gone);
        self.0 = self.0.wrapping_mul(BASE).wrapping_add(change);
    }

    /// The same of a text that grows at its beginning: the hash of its first `len` characters. `leaving` is the one that stood `len`
    /// behind it, and `power` that of `len`.
    pub fn push_before(&mut self, c: char, leaving: Option<char>, power: u64) {
        let gone = leaving.map_or(0, value);
        let before = self.0.wrapping_sub(gone).wrapping_mul(INVERSE);
        let weight = power.wrapping_mul(INVERSE);
        self.0 = before.wrapping_add(value(c).wrapping_mul(weight));
    }
}

/// Newton's steps double the bits that are right, of which an odd number has three to begin with.
const fn inverse(odd: u64) -> u64 {
    let (mut inverse, mut right) = (odd, 3);
    while right < u64::BITS {
        inverse = inverse.wrapping_mul(2_u64.wrapping_sub(odd.wrapping_mul(inverse)));
        right *= 2;
    }
    inverse
}

/// A character as a hash sees it; never 0.
fn value(c: char) -> u64 {
    u64::from(u32::from(c)) + 1
}

/// What a character weighs `len` places later.
pub const fn power(len: usize) -> u64 {
    let (mut power, mut at) = (1_u64, 0);
    while at < len {
        power = power.wrapping_mul(BASE);
        at += 1;
    }
    power
}
