//! Which runs of [`SUSPECT`] letters may be in a secret text: each of the two parts of one letter less of which such a run consists
//! is looked for among a bit for each hash. None that is in the text is missed; of others one in a thousand is found by mistake, or
//! when both of its parts are there. What that holds back goes out with the next letter: in all readings of an answer together one
//! letter in eighty or so.

use super::scan::SUSPECT;

/// Bits for each part of a text.
const BITS: usize = 32;
/// A run has a byte for each letter.
const RUN_BITS: u32 = u8::BITS * SUSPECT as u32;
const PART_BITS: u32 = RUN_BITS - u8::BITS;
/// What a part is multiplied by to spread its bits: the fraction of the golden ratio.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// The last letters of a text that grows at its end, or the first ones of one that grows at its beginning.
#[derive(Debug, Clone, Copy, Default)]
pub struct Run(u64);

impl Run {
    /// Adds a letter at the end.
    pub fn push(&mut self, letter: u8) {
        self.0 = self.0 >> u8::BITS | u64::from(letter) << PART_BITS;
    }

    /// Adds a letter at the beginning.
    pub fn push_before(&mut self, letter: u8) {
        self.0 = (self.0 << u8::BITS | u64::from(letter)) & ((1 << RUN_BITS) - 1);
    }

    /// All but the first letter.
    const fn last_part(self) -> u64 {
        self.0 >> u8::BITS
    }

    /// All but the last letter.
    const fn first_part(self) -> u64 {
        self.0 & ((1 << PART_BITS) - 1)
    }
}

/// Runs of a text.
pub struct Suspects(Vec<u64>);

impl Suspects {
    /// Of a text of such letters.
    pub fn new(letters: &[u8]) -> Self {
        let words = letters.len() * BITS / u64::BITS as usize + 1;
        let mut suspects = Self(vec![0; words]);
        // A part is the end of eight bytes, which are read at once, but for those at the beginning.
        let mut run = Run::default();
        for letter in letters.iter().take(size_of::<u64>()) {
            run.push(*letter);
            suspects.add(run.last_part());
        }
        for window in letters.windows(size_of::<u64>()) {
            let window = window.first_chunk().copied().unwrap_or_default();
            suspects.add(u64::from_le_bytes(window) >> (u64::BITS - PART_BITS));
        }
        suspects
    }

    /// Whether a run may be one of them.
    pub fn may_have(&self, run: Run) -> bool {
        self.may_have_part(run.first_part()) && self.may_have_part(run.last_part())
    }

    fn may_have_part(&self, part: u64) -> bool {
        let (word, bit) = self.place(part);
        self.0.get(word).is_some_and(|word| word & bit > 0)
    }

    fn add(&mut self, part: u64) {
        let (word, bit) = self.place(part);
        if let Some(word) = self.0.get_mut(word) {
            *word |= bit;
        }
    }

    /// The word of a part, by the upper bits of its hash, and its bit there, by others.
    fn place(&self, part: u64) -> (usize, u64) {
        let hash = part.wrapping_mul(SPREAD);
        let word = (u128::from(hash) * self.0.len() as u128) >> u64::BITS;
        (word as usize, 1 << (hash >> 28 & 63))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(letters: &[u8], push: fn(&mut Run, u8)) -> Run {
        let mut run = Run::default();
        letters.iter().for_each(|letter| push(&mut run, *letter));
        run
    }

    #[test]
    fn every_run_is_found_and_hardly_any_other() {
        let mut state = 1_u64;
        let mut letters = |count: usize| -> Vec<u8> {
            let mut letter = || {
                state = state.wrapping_mul(SPREAD).wrapping_add(1);
                b'a' + (state >> 60) as u8
            };
            (0..count).map(|_| letter()).collect()
        };
        let text = letters(10_000);
        let suspects = Suspects::new(&text);
        for window in text.windows(SUSPECT) {
            assert!(suspects.may_have(run(window, Run::push)));
            let mut backwards = window.to_vec();
            backwards.reverse();
            assert!(suspects.may_have(run(&backwards, Run::push_before)));
        }
        let others = letters(100_000);
        let is_mistaken = |window: &&[u8]| suspects.may_have(run(window, Run::push));
        let mistaken = others.windows(SUSPECT).filter(is_mistaken).count();
        assert!((1..250).contains(&mistaken), "{mistaken} of 100,000");
    }

    #[test]
    fn short_texts_have_no_run() {
        for text in ["", "abcde"] {
            let suspects = Suspects::new(text.as_bytes());
            assert!(!suspects.may_have(run(b"abcdef", Run::push)), "{text}");
        }
    }
}
