//! Speculative decoding: how many guesses pay, and guesses without a second model: what followed the last tokens when
//! they stood in the text before is guessed to follow again (prompt lookup). Pure. A second model is in
//! [`draft`](super::draft).
//!
//! A guess is taken only if the token that is drawn anyway, by the same logits and the same random number, is the one that
//! was guessed. So a text is the same with and without guesses; they only save steps.

/// Guesses of one step at most.
pub const GUESSES_MAX: usize = 7;
/// Tokens that must have stood there before: the longest match of these lengths counts.
const MATCH: [usize; 3] = [4, 3, 2];
/// Tokens that a beginner's guesses are trusted with: right about every second time.
const TRUST_FIRST: f64 = 0.5;
/// How fast experience counts.
const LEARNING: f64 = 0.25;
/// What a row beside the first costs in a step, as a part of what a step of one row costs (measured: four rows take
/// about 1.5 times as long as one, eight 2.2 times).
const ROW_COST: f64 = 0.17;
/// Draws without a guess after which guessing is tried again.
const PATIENCE: u32 = 32;

/// A sequence's experience with guesses of one origin.
#[derive(Debug, Clone)]
pub struct Speculator {
    /// How likely a guessed token is right.
    trust: f64,
    /// Draws since the last guess.
    silent: u32,
}

impl Default for Speculator {
    fn default() -> Self {
        Self {
            trust: TRUST_FIRST,
            silent: 0,
        }
    }
}

impl Speculator {
    /// What may follow `tokens`: at most `max` tokens, none where it would not pay. `rows` are computed anyway.
    pub fn guess(&mut self, tokens: &[u32], max: usize, rows: usize) -> Vec<u32> {
        let count = self.count(max, rows, 0.0);
        let found = if count == 0 { None } else { lookup(tokens) };
        let guesses = found.map_or(Vec::new(), |from| continued(tokens, from, count));
        self.made(guesses.len());
        guesses
    }

    /// How many guesses to make, `max` at most, when each costs `cost` beside its row, as a part of a step of one row.
    pub fn count(&self, max: usize, rows: usize, cost: f64) -> usize {
        match self.worth(max.min(GUESSES_MAX), rows, cost) {
            0 if self.silent >= PATIENCE && max > 0 => 1,
            count => count,
        }
    }

    /// Notes how many guesses were made for a draw.
    pub fn made(&mut self, guesses: usize) {
        self.silent = match guesses {
            0 => self.silent.saturating_add(1),
            _ => 0,
        };
    }

    /// How likely a guess is right, as far as is known.
    pub fn trust(&self) -> f64 {
        self.trust
    }

    /// Learns how many of the guesses were right before the first wrong one.
    pub fn learn(&mut self, guesses: usize, right: usize) {
        // Of the tokens that were put to the test: the right ones, and the one that was not.
        for at in 0..guesses.min(right + 1) {
            let found = if at < right { 1.0 } else { 0.0 };
            self.trust += LEARNING * (found - self.trust);
        }
    }

    /// The number of guesses that yields most tokens for its time.
    fn worth(&self, max: usize, rows: usize, cost: f64) -> usize {
        let rows = rows.max(1) as f64;
        let without = 1.0 + ROW_COST * (rows - 1.0);
        let gain = |guesses: usize| {
            let yielded: f64 = (0..=guesses as i32)
                .map(|power| self.trust.powi(power))
                .sum();
            yielded / (1.0 + (ROW_COST + cost) * guesses as f64 / without)
        };
        let best = (0..=max).max_by(|a, b| gain(*a).total_cmp(&gain(*b)).then(b.cmp(a)));
        best.unwrap_or(0)
    }
}

/// `count` tokens from place `from` on. Where the text ends it goes on with what is guessed: what repeats with a short
/// period is guessed as far as anything else.
fn continued(tokens: &[u32], from: usize, count: usize) -> Vec<u32> {
    let mut guesses = Vec::with_capacity(count);
    for at in from..from + count {
        let known = tokens.get(at);
        let next = known.or_else(|| guesses.get(at - tokens.len())).copied();
        guesses.extend(next);
    }
    guesses
}

/// Where the text goes on after the latest earlier place that reads like its end.
fn lookup(tokens: &[u32]) -> Option<usize> {
    MATCH.into_iter().find_map(|len| {
        let end = tokens.len().checked_sub(len).filter(|end| *end > 0)?;
        let last = tokens.get(end..)?;
        // The place may overlap the end, not be it.
        let windows = tokens.get(..tokens.len() - 1)?.windows(len);
        let found = windows
            .enumerate()
            .rev()
            .find(|(_, window)| *window == last);
        found.map(|(at, _)| at + len)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_followed_before_is_guessed() {
        let mut speculator = Speculator::default();
        assert_eq!(speculator.guess(&[1, 2, 3, 4, 5, 1, 2, 3], 3, 1), [4, 5]);
        assert_eq!(speculator.guess(&[9, 9, 9, 9], 2, 1), [9, 9]);
        assert!(speculator.guess(&[1, 2, 3, 4, 5], 3, 1).is_empty());
        assert!(speculator.guess(&[], 3, 1).is_empty());
        assert!(speculator.guess(&[7], 3, 1).is_empty());
    }

    #[test]
    fn a_short_period_is_guessed_beyond_the_end_of_the_text() {
        let mut speculator = Speculator {
            trust: 1.0,
            silent: 0,
        };
        let guesses = speculator.guess(&[5, 1, 2, 3, 1, 2, 3, 1, 2], 7, 1);
        assert_eq!(guesses, [3, 1, 2, 3, 1, 2, 3]);
        assert_eq!(speculator.guess(&[9, 9, 9], 4, 1), [9; 4]);
    }

    #[test]
    fn wrong_guesses_end_guessing_and_right_ones_lengthen_it() {
        let text = [1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3];
        let mut bad = Speculator::default();
        for _ in 0..8 {
            bad.learn(3, 0);
        }
        assert!(bad.guess(&text, 7, 1).is_empty());
        let silent = (0..100)
            .take_while(|_| bad.guess(&text, 7, 1).is_empty())
            .count();
        assert_eq!(
            silent as u32,
            PATIENCE - 1,
            "after a while one is tried again"
        );
        let mut good = Speculator::default();
        for _ in 0..8 {
            good.learn(3, 3);
        }
        assert_eq!(good.guess(&text, 7, 1).len(), 7);
        assert_eq!(good.guess(&text, 2, 1).len(), 2);
        assert!(good.guess(&text, 0, 1).is_empty());
    }
}
