//! What of a character matters to words: whether it is part of one, is one, or stands between them, and its lower case.

use std::sync::LazyLock;

use super::lookup::{Answer, Lookup};

/// One character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Letter {
    /// Between words.
    Gap,
    /// A word: of a script that puts no space between words.
    Alone,
    /// Part of a word, and what it is in lower case.
    Part(char),
    /// Part of a word that is several characters in lower case.
    Parts,
}

/// All of them.
pub(super) type Letters = Lookup<Letter>;

static LETTERS: LazyLock<Letters> = LazyLock::new(Letters::new);

impl Letters {
    pub(super) fn get() -> &'static Self {
        &LETTERS
    }
}

impl Answer for Letter {
    fn search(character: char) -> Self {
        if stands_alone(character) {
            return Self::Alone;
        }
        if !character.is_alphanumeric() {
            return Self::Gap;
        }
        let mut lower = character.to_lowercase();
        match (lower.next(), lower.next()) {
            (Some(one), None) => Self::Part(one),
            _ => Self::Parts,
        }
    }

    fn han_or_hangul(character: char) -> Option<Self> {
        match character {
            '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' => Some(Self::Alone),
            '\u{ac00}'..='\u{d7a3}' => Some(Self::Part(character)),
            _ => None,
        }
    }
}

/// Scripts that put no space between words: Thai to Khmer, kana, Han.
const fn stands_alone(character: char) -> bool {
    matches!(character,
        '\u{e00}'..='\u{eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' | '\u{3040}'..='\u{30ff}'
        | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_looked_up_is_what_the_standard_library_says() {
        let letters = Letters::get();
        letters.assert_right();
        let of = |character| letters.of(character);
        assert_eq!(
            [of('Ж'), of('ß'), of('7')],
            ['ж', 'ß', '7'].map(Letter::Part)
        );
        assert_eq!(
            [of('何'), of('ก'), of('한')],
            [Letter::Alone, Letter::Alone, Letter::Part('한')]
        );
        assert_eq!(
            [of('İ'), of('-'), of('\u{2014}')],
            [Letter::Parts, Letter::Gap, Letter::Gap]
        );
    }
}
