//! What anybody writes: shingles of public text, which say nothing about who sends them. 1 MiB, filled once at the start.

use super::filter::{three_bits, word};
use super::hash::GuardKey;
use super::shingle::Prompt;

/// Words of 64 bits.
const WORDS: usize = 131_072;

/// A Bloom filter of public shingles, under the guard's key. Empty, it takes nothing away.
#[derive(Debug, Clone)]
pub struct Background {
    bits: Vec<u64>,
}

impl Default for Background {
    fn default() -> Self {
        Self {
            bits: vec![0; WORDS],
        }
    }
}

impl Background {
    /// Shingles of `lines`. A filter of this size tells some 500,000 of them from others with one mistake in a hundred.
    pub fn of_lines<'a>(key: &GuardKey, lines: impl IntoIterator<Item = &'a str>) -> Self {
        let mut filled = Self::default();
        let nothing = Self::default();
        for line in lines {
            for shingle in Prompt::read(key, &nothing, line).shingles() {
                if let Some(word) = filled.bits.get_mut(word::<WORDS>(*shingle)) {
                    *word |= three_bits(*shingle);
                }
            }
        }
        filled
    }

    /// Whether the shingle is public.
    #[must_use]
    pub fn has(&self, shingle: u64) -> bool {
        let (word, bits) = (self.bits.get(word::<WORDS>(shingle)), three_bits(shingle));
        word.is_some_and(|word| word & bits == bits)
    }

    /// Those that are public, and the others, in their order.
    pub(super) fn part(&self, shingles: &[u64]) -> (Vec<u64>, Vec<u64>) {
        let (mut public, mut others) = (
            Vec::with_capacity(shingles.len()),
            Vec::with_capacity(shingles.len()),
        );
        for shingle in shingles {
            let of = if self.has(*shingle) {
                &mut public
            } else {
                &mut others
            };
            of.push(*shingle);
        }
        (public, others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_million_public_shingles_are_told_from_others() {
        let key = GuardKey::new([4; 16]);
        let word = |n: u64| format!("{:016x}", key.hash_words(&[n]));
        let lines: Vec<String> = (0..50_000)
            .map(|line| (0..10).map(|at| word(10 * line + at) + " ").collect())
            .collect();
        let public = Background::of_lines(&key, lines.iter().map(String::as_str));
        let known: u32 = public.bits.iter().map(|word| word.count_ones()).sum();
        assert!(known > 1_200_000, "{known} bits of 500,000 shingles");
        let mistaken = (0..100_000)
            .filter(|n| public.has(key.hash_words(&[*n, 1])))
            .count();
        assert!(mistaken < 1000, "{mistaken} of 100,000");
    }

    #[test]
    fn public_wording_is_taken_away_and_the_rest_stays() {
        let key = GuardKey::new([4; 16]);
        let public = Background::of_lines(&key, ["what is the best way to Rome", "two words"]);
        let read = |text| Prompt::read(&key, &public, text);
        let ghent = read("What is the best way to Ghent?");
        assert_eq!((ghent.shingles().len(), ghent.public().len()), (2, 5));
        let rome = read("What is the best way to Rome?");
        assert_eq!((rome.shingles().len(), rome.public().len()), (0, 7));
        assert!(!rome.is_blank());
        assert!(read("two words").is_blank());
        let plain = Prompt::read(
            &key,
            &Background::default(),
            "What is the best way to Rome?",
        );
        assert_eq!(plain.shingles().len(), 7);
    }
}
