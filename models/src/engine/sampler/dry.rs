//! DRY, "don't repeat yourself" (text-generation-webui, llama.cpp): a token that would lengthen a repetition of the end of the
//! text loses `multiplier · base^(length - allowed_length)`, where `length` is how many tokens repeat so far.
//!
//! Pure, and linear in the window for every text: the lengths come from a Z-array over the window read backwards.

use std::collections::HashMap;

use super::super::Vocabulary;

/// The most tokens that are looked at.
pub const DRY_WINDOW_MAX: usize = 4096;
/// The most breakers, and the bytes of one.
pub const DRY_BREAKERS_MAX: usize = 16;
/// The longest breaker in bytes.
pub const DRY_BREAKER_LEN_MAX: usize = 64;
/// The most that is taken from a logit: as good as never, and still a number to compute with.
const PENALTY_MAX: f64 = 1e9;

/// How repetitions are penalised.
#[derive(Debug, Clone, PartialEq)]
pub struct DryParams {
    /// The penalty of a repetition that is just long enough. 0 to 100; 0 penalises nothing.
    pub multiplier: f64,
    /// By what the penalty grows with each further token. 1 to 100.
    pub base: f64,
    /// The shortest repetition that is penalised, in tokens: at least 1, at most [`DRY_WINDOW_MAX`].
    pub allowed_length: usize,
    /// Texts that no repetition reaches across. At most [`DRY_BREAKERS_MAX`] of 1 to [`DRY_BREAKER_LEN_MAX`] bytes.
    pub breakers: Vec<String>,
    /// How many of the last tokens, prompt included, are looked at. At most [`DRY_WINDOW_MAX`].
    pub window: usize,
}

impl Default for DryParams {
    fn default() -> Self {
        Self {
            multiplier: 0.0,
            base: 1.75,
            allowed_length: 2,
            breakers: ["\n", ":", "\"", "*"].map(str::to_owned).to_vec(),
            window: DRY_WINDOW_MAX,
        }
    }
}

impl DryParams {
    /// Whether nothing is penalised.
    pub fn is_off(&self) -> bool {
        self.multiplier == 0.0 || self.window == 0
    }

    /// The first rule that does not hold: the parameter and its range.
    pub(super) fn broken_rule(&self) -> Option<(&'static str, &'static str)> {
        let fits = |text: &String| (1..=DRY_BREAKER_LEN_MAX).contains(&text.len());
        let breakers = self.breakers.len() <= DRY_BREAKERS_MAX && self.breakers.iter().all(fits);
        let rules = [
            (
                "dry_multiplier",
                "0 to 100",
                (0.0..=100.0).contains(&self.multiplier),
            ),
            ("dry_base", "1 to 100", (1.0..=100.0).contains(&self.base)),
            (
                "dry_allowed_length",
                "1 to 4096",
                (1..=DRY_WINDOW_MAX).contains(&self.allowed_length),
            ),
            (
                "dry_sequence_breakers",
                "at most 16 texts of 1 to 64 bytes",
                breakers,
            ),
            (
                "dry_penalty_last_n",
                "0 to 4096",
                self.window <= DRY_WINDOW_MAX,
            ),
        ];
        let broken = rules.into_iter().find(|(_, _, holds)| !holds);
        broken.map(|(name, range, _)| (name, range))
    }

    /// What each token loses that would lengthen a repetition. `breaks` says of each of `tokens` whether a breaker ends
    /// in it; where it is shorter than `tokens`, nothing breaks.
    pub fn penalties(&self, tokens: &[u32], breaks: &[bool]) -> HashMap<u32, f64> {
        let mut penalties = HashMap::new();
        if self.is_off() {
            return penalties;
        }
        for (token, length) in self.repetitions(tokens, breaks) {
            let grown = self.base.powf((length - self.allowed_length) as f64);
            let penalty = (self.multiplier * grown).min(PENALTY_MAX);
            penalties.insert(token, penalty);
        }
        penalties
    }

    /// Tokens that followed what the text now ends with, and how many tokens of it: the most for each token, at least
    /// `allowed_length`.
    fn repetitions(&self, tokens: &[u32], breaks: &[bool]) -> HashMap<u32, usize> {
        let start = tokens.len().saturating_sub(self.window.min(DRY_WINDOW_MAX));
        let breaks_at = |at: usize| breaks.get(at).copied().unwrap_or(false);
        let mut backwards: Vec<(u32, bool)> = (start..)
            .zip(tokens.get(start..).unwrap_or_default())
            .map(|(at, token)| (*token, breaks_at(at)))
            .collect();
        backwards.reverse();
        // The end of the text after its last breaker: nothing longer is a repetition.
        let reach = backwards.iter().position(|(_, breaks)| *breaks);
        let reach = reach.unwrap_or(backwards.len());
        let mut found: HashMap<u32, usize> = HashMap::new();
        if reach < self.allowed_length {
            return found;
        }
        let lengths = z_array(&backwards, |(a, _), (b, _)| a == b);
        // What stands before a place of the reversed text followed it.
        for (length, (token, breaks)) in lengths.iter().skip(1).zip(&backwards) {
            let length = (*length).min(reach);
            if length >= self.allowed_length && !breaks {
                let longest = found.entry(*token).or_default();
                *longest = (*longest).max(length);
            }
        }
        found
    }
}

/// For each place, how many items from there on are the same as those from the start on (Gusfield 1997, section 1.4).
fn z_array<T>(items: &[T], same: impl Fn(&T, &T) -> bool) -> Vec<usize> {
    let mut lengths = vec![0; items.len()];
    // The stretch that matches the start and ends last.
    let (mut left, mut right) = (0, 0);
    for at in 1..items.len() {
        let known = lengths.get(at - left).copied().unwrap_or_default();
        let mut length = if at < right { known.min(right - at) } else { 0 };
        while let (Some(here), Some(there)) = (items.get(at + length), items.get(length))
            && same(here, there)
        {
            length += 1;
        }
        if at + length > right {
            (left, right) = (at, at + length);
        }
        if let Some(place) = lengths.get_mut(at) {
            *place = length;
        }
    }
    lengths
}

/// In which tokens of a text a breaker ends. Control tokens break, too.
#[derive(Default)]
pub struct Breaks {
    flags: Vec<bool>,
    /// The last bytes of the text: one less than the longest breaker has.
    tail: Vec<u8>,
}

impl Breaks {
    /// Looks at those of `tokens` that it has not seen yet; answers what is known of all of them.
    pub fn of(
        &mut self,
        tokens: &[u32],
        params: &DryParams,
        vocabulary: &dyn Vocabulary,
    ) -> &[bool] {
        let longest = params.breakers.iter().map(String::len).max().unwrap_or(1);
        for token in tokens.get(self.flags.len()..).unwrap_or_default() {
            let bytes = vocabulary.token_bytes(*token);
            let ends = |breaker: &String| self.ends_in(breaker.as_bytes(), bytes);
            let breaks = bytes.is_empty() || params.breakers.iter().any(ends);
            self.flags.push(breaks);
            self.tail.extend_from_slice(bytes);
            let surplus = self.tail.len().saturating_sub(longest - 1);
            self.tail.drain(..surplus);
        }
        &self.flags
    }

    /// Whether `breaker` ends among `bytes`, be it that it begins before them.
    fn ends_in(&self, breaker: &[u8], bytes: &[u8]) -> bool {
        let before = self.tail.len().saturating_sub(breaker.len() - 1);
        let before = self.tail.get(before..).unwrap_or_default();
        let text = [before, bytes].concat();
        text.windows(breaker.len()).any(|window| window == breaker)
    }
}

#[cfg(test)]
#[allow(
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]
mod tests {
    use super::*;

    /// The scheme as it is described, place by place and token by token.
    fn naive(params: &DryParams, tokens: &[u32], breaks: &[bool]) -> HashMap<u32, usize> {
        let start = tokens.len().saturating_sub(params.window);
        let (tokens, breaks) = (&tokens[start..], &breaks[start..]);
        let mut found: HashMap<u32, usize> = HashMap::new();
        for next in 1..tokens.len() {
            let mut length = 0;
            while length < next
                && tokens[next - 1 - length] == tokens[tokens.len() - 1 - length]
                && !breaks[tokens.len() - 1 - length]
            {
                length += 1;
            }
            if length >= params.allowed_length && !breaks[next] {
                let longest = found.entry(tokens[next]).or_default();
                *longest = length.max(*longest);
            }
        }
        found
    }

    proptest::proptest! {
        #[test]
        fn lengths_are_those_of_the_naive_scheme(
            text in proptest::collection::vec((0_u32..3, proptest::bool::weighted(0.05)), 0..120),
            window in 0_usize..130, allowed_length in 1_usize..6
        ) {
            let (tokens, breaks): (Vec<u32>, Vec<bool>) = text.into_iter().unzip();
            let params = DryParams { multiplier: 0.8, allowed_length, window, ..DryParams::default() };
            let expected = naive(&params, &tokens, &breaks);
            assert_eq!(params.repetitions(&tokens, &breaks), expected);
            let penalties = params.penalties(&tokens, &breaks);
            assert_eq!(penalties.len(), expected.len());
            for (token, length) in expected {
                let penalty = 0.8 * 1.75_f64.powi((length - allowed_length) as i32);
                assert!((penalties[&token] - penalty.min(PENALTY_MAX)).abs() <= 1e-9 * penalty);
            }
        }
    }

    #[test]
    fn the_token_that_would_repeat_more_loses_more() {
        let params = DryParams {
            multiplier: 1.0,
            base: 2.0,
            ..DryParams::default()
        };
        // 1 2 3 was followed by 4, and 2 3 by 5 as well.
        let tokens = [1, 2, 3, 4, 9, 2, 3, 5, 8, 1, 2, 3];
        let expected = HashMap::from([(4, 2.0), (5, 1.0)]);
        assert_eq!(params.penalties(&tokens, &[]), expected);
        let off = DryParams::default();
        assert!(off.penalties(&tokens, &[]).is_empty());
    }

    #[test]
    fn a_text_of_one_token_is_bounded_in_time_and_penalty() {
        let params = DryParams {
            multiplier: 100.0,
            base: 100.0,
            ..DryParams::default()
        };
        let tokens = vec![7; 100_000];
        assert_eq!(
            params.penalties(&tokens, &[]),
            HashMap::from([(7, PENALTY_MAX)])
        );
        let mut compared = 0_usize;
        let count = std::cell::RefCell::new(&mut compared);
        z_array(&tokens[..DRY_WINDOW_MAX], |a, b| {
            **count.borrow_mut() += 1;
            a == b
        });
        assert!(
            compared <= 2 * DRY_WINDOW_MAX,
            "{compared} comparisons are not linear"
        );
    }

    struct Words(Vec<&'static str>);

    impl Vocabulary for Words {
        fn token_bytes(&self, id: u32) -> &[u8] {
            self.0[id as usize].as_bytes()
        }

        fn is_end(&self, _: u32) -> bool {
            false
        }
    }

    #[test]
    fn breakers_are_found_inside_tokens_and_across_them() {
        let words = Words(vec!["a", "b\nc", "Us", "er", ": x", ""]);
        let params = DryParams {
            breakers: vec!["\n".into(), "User:".into()],
            ..DryParams::default()
        };
        let mut breaks = Breaks::default();
        assert_eq!(breaks.of(&[0, 1, 2], &params, &words), [false, true, false]);
        let tokens = [0, 1, 2, 3, 4, 4, 0, 5];
        let expected = [false, true, false, false, true, false, false, true];
        assert_eq!(breaks.of(&tokens, &params, &words), expected);
        assert_eq!(
            Breaks::default().of(&tokens, &params, &words),
            expected,
            "at once or token by token"
        );
    }
}
