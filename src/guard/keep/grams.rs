//! All runs of a fixed length of a secret text, to be asked by a rolling hash: 6 to 12 bytes for each character, and no false answer,
//! because what is found is compared.

use std::sync::Arc;

use super::rolling::{Rolling, power};

/// Runs of `len` characters.
pub struct Grams {
    text: Arc<[char]>,
    len: usize,
    /// Starts of runs plus one, by hash; 0 is empty. At most two thirds full.
    table: Vec<u32>,
}

impl Grams {
    /// All runs of `len` characters in `text`; of runs that come again the first. `len` is at least 1.
    pub fn new(text: &Arc<[char]>, len: usize) -> Self {
        let runs = (text.len() + 1).saturating_sub(len);
        let mut grams = Self {
            text: Arc::clone(text),
            len,
            table: vec![0; (runs + runs / 2 + 1).next_power_of_two()],
        };
        let mut rolling = Rolling::default();
        let power = power(len);
        for (at, c) in text.iter().enumerate() {
            let leaving = at.checked_sub(len).and_then(|before| text.get(before));
            rolling.push(*c, leaving.copied(), power);
            if let Some(start) = (at + 1).checked_sub(len) {
                grams.insert(rolling, start);
            }
        }
        grams
    }

    /// Whether these characters, `len` of them with this hash, are one of its runs.
    pub fn has(&self, hash: Rolling, run: impl Iterator<Item = char> + Clone) -> bool {
        self.free(hash, |start| {
            let own = self.run(start);
            !own.is_empty() && own.iter().copied().eq(run.clone())
        })
        .is_none()
    }

    fn insert(&mut self, hash: Rolling, start: usize) {
        let run = self.run(start);
        // Letter by letter: these are too few for a call.
        let same = |other: usize| self.run(other).iter().zip(run).all(|(a, b)| a == b);
        let free = self.free(hash, same);
        if let Some(place) = free.and_then(|free| self.table.get_mut(free)) {
            *place = u32::try_from(start + 1).unwrap_or(0);
        }
    }

    /// The slot in which a run with this hash would stand; nothing where one stands already of which `same` says so.
    fn free(&self, hash: Rolling, same: impl Fn(usize) -> bool) -> Option<usize> {
        // There is a power of two of slots.
        let mask = self.table.len() - 1;
        let mut slot = (hash.spread() >> 32) as usize & mask;
        while let Some(place) = self.table.get(slot).filter(|place| **place > 0) {
            if same(*place as usize - 1) {
                return None;
            }
            slot = (slot + 1) & mask;
        }
        Some(slot)
    }

    fn run(&self, start: usize) -> &[char] {
        self.text.get(start..start + self.len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(grams: &Grams, run: &str) -> bool {
        let mut rolling = Rolling::default();
        let chars: Vec<char> = run.chars().collect();
        for c in &chars {
            rolling.push(*c, None, power(grams.len));
        }
        grams.has(rolling, chars.iter().copied())
    }

    #[test]
    fn every_run_is_found_and_nothing_else() {
        let text: Arc<[char]> = "thequickbrownfoxthequickdog".chars().collect();
        let grams = Grams::new(&text, 6);
        for start in 0..=text.len() - 6 {
            let run: String = text[start..start + 6].iter().collect();
            assert!(has(&grams, &run), "{run}");
        }
        for run in ["quickd0", "thequi", "thequx", "kthequ"] {
            let expected = text.iter().collect::<String>().contains(run) && run.len() == 6;
            assert_eq!(has(&grams, run), expected, "{run}");
        }
        assert!(!has(&Grams::new(&text[..5].into(), 6), "thequi"));
        assert!(!has(&Grams::new(&[].into(), 6), "thequi"));
    }

    #[test]
    fn a_hash_that_rolls_is_that_of_its_last_characters() {
        let text: Vec<char> = "abcdefghijklmnopkjihgfedc".chars().collect();
        let grams = Grams::new(&"cdefghzz".chars().collect(), 6);
        let (mut rolling, mut before) = (Rolling::default(), Rolling::default());
        let (mut found, mut backwards) = (Vec::new(), Vec::new());
        for (at, c) in text.iter().enumerate() {
            let leaving = at.checked_sub(6).map(|before| text[before]);
            rolling.push(*c, leaving, power(6));
            before.push_before(*c, leaving, power(6));
            let Some(first) = (at + 1).checked_sub(6) else {
                continue;
            };
            let run = text[first..=at].iter().copied();
            if grams.has(rolling, run.clone()) {
                found.push(at);
            }
            if grams.has(before, run.rev()) {
                backwards.push(at);
            }
        }
        assert_eq!((found, backwards), (vec![7], vec![24]));
    }
}
