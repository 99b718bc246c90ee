//! All runs of a fixed length of a secret text, to be asked by a rolling hash: 8 bytes for each character, and no false answer,
//! because what is found is compared.

/// The multiplier of rolling hashes: odd, with its bits spread.
const BASE: u64 = 0x9e37_79b9_7f4a_7c15 | 1;

/// Runs of `len` characters.
pub struct Grams {
    text: Vec<char>,
    len: usize,
    /// Starts of runs plus one, by hash; 0 is empty. At most half full.
    table: Vec<u32>,
}

/// The hash of the last `len` characters of a text that grows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rolling(u64);

impl Rolling {
    /// Adds a character; `leaving` is the one that stood `len` before it, and `power` that of `len`.
    pub fn push(&mut self, c: char, leaving: Option<char>, power: u64) {
        let gone = leaving.map_or(0, |c| value(c).wrapping_mul(power));
        self.0 = self
            .0
            .wrapping_mul(BASE)
            .wrapping_add(value(c))
            .wrapping_sub(gone);
    }
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

impl Grams {
    /// All runs of `len` characters in `text`; of runs that come again the first. `len` is at least 1.
    pub fn new(text: &[char], len: usize) -> Self {
        let runs = (text.len() + 1).saturating_sub(len);
        let mut grams = Self {
            text: text.to_vec(),
            len,
            table: vec![0; (runs * 2).next_power_of_two()],
        };
        let mut rolling = Rolling::default();
        for (at, c) in text.iter().enumerate() {
            let leaving = at.checked_sub(len).and_then(|before| text.get(before));
            rolling.push(*c, leaving.copied(), power(len));
            if let Some(start) = (at + 1).checked_sub(len) {
                grams.insert(rolling, start);
            }
        }
        grams
    }

    /// Whether these characters, `len` of them with this hash, are one of its runs.
    pub fn has(&self, hash: Rolling, run: impl Iterator<Item = char> + Clone) -> bool {
        let mut slot = self.slot(hash);
        while let Some(start) = self.start(slot) {
            if self.is_run(start, run.clone()) {
                return true;
            }
            slot = (slot + 1) % self.table.len();
        }
        false
    }

    fn insert(&mut self, hash: Rolling, start: usize) {
        let mut slot = self.slot(hash);
        while let Some(other) = self.start(slot) {
            let run = self.text.get(start..start + self.len).unwrap_or_default();
            if self.is_run(other, run.iter().copied()) {
                return;
            }
            slot = (slot + 1) % self.table.len();
        }
        if let Some(place) = self.table.get_mut(slot) {
            *place = u32::try_from(start + 1).unwrap_or(0);
        }
    }

    fn slot(&self, hash: Rolling) -> usize {
        // The high bits depend on all characters.
        (hash.0 >> 32) as usize % self.table.len().max(1)
    }

    fn start(&self, slot: usize) -> Option<usize> {
        let place = self.table.get(slot).copied().unwrap_or(0);
        (place > 0).then(|| place as usize - 1)
    }

    fn is_run(&self, start: usize, run: impl Iterator<Item = char>) -> bool {
        let own = self.text.get(start..start + self.len).unwrap_or_default();
        !own.is_empty() && own.iter().copied().eq(run)
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
        let text: Vec<char> = "thequickbrownfoxthequickdog".chars().collect();
        let grams = Grams::new(&text, 6);
        for start in 0..=text.len() - 6 {
            let run: String = text[start..start + 6].iter().collect();
            assert!(has(&grams, &run), "{run}");
        }
        for run in ["quickd0", "thequi", "thequx", "kthequ"] {
            let expected = text.iter().collect::<String>().contains(run) && run.len() == 6;
            assert_eq!(has(&grams, run), expected, "{run}");
        }
        assert!(!has(&Grams::new(&text[..5], 6), "thequi"));
        assert!(!has(&Grams::new(&[], 6), "thequi"));
    }

    #[test]
    fn a_hash_that_rolls_is_that_of_its_last_characters() {
        let text: Vec<char> = "abcdefghijklmnop".chars().collect();
        let grams = Grams::new(&"cdefghzz".chars().collect::<Vec<_>>(), 6);
        let mut rolling = Rolling::default();
        let mut found = Vec::new();
        for (at, c) in text.iter().enumerate() {
            let leaving = at.checked_sub(6).map(|before| text[before]);
            rolling.push(*c, leaving, power(6));
            if at >= 5 && grams.has(rolling, text[at - 5..=at].iter().copied()) {
                found.push(at);
            }
        }
        assert_eq!(found, [7]);
    }
}
