//! Answers that say the same again and again: a decoder in such a loop is of no use to anybody, and what follows long ones
//! may be text of the training (Nasr et al. 2023, attack S26). Pure; one number for each length of period.

/// When an answer that repeats itself ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RepetitionRule {
    /// How often the same one to four tokens may stand in a row.
    pub times_max: u32,
    /// Whether the answer ends there, or goes on and says only at its end that it happened.
    pub stops: bool,
}

/// The longest period that is looked at: a real model that was told to repeat a word fell into three ("of the Law").
const PERIODS: usize = 4;

/// What an answer has repeated so far.
#[derive(Debug, Clone, Default)]
pub struct Repetitions {
    /// The last tokens, the latest first.
    last: [Option<u32>; PERIODS],
    /// For each period, how many tokens in a row were equal to the one that many places before.
    equal: [u32; PERIODS],
}

impl Repetitions {
    /// Adds a token; answers how often what ends with it stands in a row, the longest of all periods.
    pub fn push(&mut self, token: u32) -> u32 {
        let mut times = 1;
        let periods = (1_u32..).zip(self.last.iter().zip(&mut self.equal));
        for (period, (before, equal)) in periods {
            *equal = match *before == Some(token) {
                true => equal.saturating_add(1),
                false => 0,
            };
            times = times.max(1 + *equal / period);
        }
        self.last.rotate_right(1);
        if let Some(latest) = self.last.first_mut() {
            *latest = Some(token);
        }
        times
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(tokens: &[u32]) -> u32 {
        let mut repetitions = Repetitions::default();
        tokens
            .iter()
            .map(|token| repetitions.push(*token))
            .last()
            .unwrap_or(0)
    }

    #[test]
    fn one_to_four_tokens_in_turn_are_counted() {
        assert_eq!(times(&[7; 64]), 64);
        assert_eq!(times(&[7; 63]), 63);
        assert_eq!(times(&[7, 8].repeat(64)), 64);
        assert_eq!(times(&[1, 7, 8, 7, 8, 7]), 2, "the third pair is not whole");
        assert_eq!(times(&[1, 2, 3].repeat(64)), 64);
        assert_eq!(times(&[1, 2, 3, 4].repeat(64)), 64);
        assert_eq!(times(&[1, 2, 3, 1].repeat(64)), 64);
        assert_eq!(times(&[1, 2, 3, 4, 5].repeat(40)), 1, "longer are text");
    }

    #[test]
    fn another_token_begins_anew() {
        assert_eq!(times(&[7, 7, 7, 8]), 1);
        assert_eq!(times(&[7, 7, 8, 7, 7]), 2);
        let mut tokens = [5, 6].repeat(63);
        tokens.extend([9, 5, 6]);
        assert_eq!(times(&tokens), 1);
    }
}
