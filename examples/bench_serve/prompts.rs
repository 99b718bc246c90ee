//! What is asked: texts of random words that are all different, and texts that are to be repeated.

use crate::load::{Load, Target};
use crate::options::Options;

/// Words for random texts; most tokenizers know most of them as one token.
const WORDS: &[&str] = &[
    "river", "stone", "light", "engine", "paper", "window", "garden", "market", "number", "letter",
    "mountain", "winter", "summer", "table", "music", "doctor", "teacher", "village", "island",
    "bridge", "forest", "answer", "question", "yellow", "silver", "morning", "evening", "kitchen",
    "coffee", "bread", "water", "green", "north", "south", "story", "history", "science",
    "machine", "animal", "horse", "train", "street", "church", "school", "friend", "family",
    "mother", "father", "child", "night", "world", "money", "power", "voice", "heart", "hand",
    "eye", "door", "floor", "wall", "ship", "sea", "sky", "sun",
];

/// Words of the first try, from which follows how many make a prompt.
const FIRST_TRY: usize = 200;

/// A source of random texts of about the same number of tokens.
pub struct Words {
    state: u64,
    words: usize,
}

/// How long a text is.
#[derive(Debug, Clone, Copy)]
pub enum Length {
    /// As the command line says.
    Asked,
    /// An eighth of that: what matters is the answer.
    Short,
}

impl Words {
    /// Asks `target` how many tokens a text of words has, which also warms it up.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn calibrated(target: &Target, options: &Options) -> anyhow::Result<Self> {
        let mut words = Self {
            state: 0x5eed,
            words: FIRST_TRY,
        };
        let load = Load::new(words.prompts(1, Length::Asked), 1, options).answers_of(1);
        let turn = load.run(target).await?;
        let tokens = turn
            .answers
            .first()
            .map_or(FIRST_TRY, |answer| answer.prompt);
        words.words = (FIRST_TRY * options.prompt / tokens.max(1)).max(1);
        Ok(words)
    }

    /// So many texts that were never given out before.
    pub fn prompts(&mut self, count: usize, length: Length) -> Vec<String> {
        let words = match length {
            Length::Asked => self.words,
            Length::Short => self.words.div_ceil(8),
        };
        (0..count).map(|_| self.prompt(words)).collect()
    }

    fn prompt(&mut self, words: usize) -> String {
        let words: Vec<&str> = (0..words).map(|_| self.word()).collect();
        words.join(" ")
    }

    fn word(&mut self) -> &'static str {
        // An odd multiplier and increment: a full period, the same texts in every run.
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let at = (self.state >> 33) as usize % WORDS.len();
        WORDS.get(at).copied().unwrap_or("sun")
    }
}

/// A passage that stands in its text twice and has begun a third time: whoever goes on quotes it.
pub fn repetitive(round: usize, count: usize) -> Vec<String> {
    let mut words = Words {
        state: round as u64,
        words: 64,
    };
    let text = |passage: String| {
        let start: Vec<&str> = passage.split(' ').take(12).collect();
        format!("{passage}.\n{passage}.\n{}", start.join(" "))
    };
    words
        .prompts(count, Length::Asked)
        .into_iter()
        .map(text)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_differ_from_each_other_and_not_from_run_to_run() {
        let make = || {
            let mut words = Words {
                state: 1,
                words: 40,
            };
            words.prompts(16, Length::Asked)
        };
        let texts = make();
        let mut different = texts.clone();
        different.sort_unstable();
        different.dedup();
        assert_eq!(different.len(), 16);
        assert_eq!(texts, make());
        assert!(texts.iter().all(|text| text.split(' ').count() == 40));
        let short = Words {
            state: 1,
            words: 40,
        }
        .prompts(1, Length::Short);
        assert_eq!(short.concat().split(' ').count(), 5);
    }

    #[test]
    fn a_repetitive_text_begins_its_passage_a_third_time() {
        let texts = repetitive(3, 2);
        assert_eq!(texts.len(), 2);
        for text in texts {
            let lines: Vec<&str> = text.lines().collect();
            assert!(matches!(lines.as_slice(), [first, second, third]
                if first == second && first.starts_with(third)));
        }
    }
}
