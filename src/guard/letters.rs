//! What of a character matters to words: whether it is part of one, is one, or stands between them, and its lower case.

use std::sync::LazyLock;

/// Characters below this are looked up: all alphabets that are written today.
const LOOKED_UP: u32 = 0x3000;

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

/// All of them. The tables of the standard library are searched, which costs tens of nanoseconds a character; this one is looked up.
#[derive(Debug)]
pub(super) struct Letters(Vec<Letter>);

static LETTERS: LazyLock<Letters> = LazyLock::new(|| {
    let characters = (0..LOOKED_UP).map(|code| char::from_u32(code).map_or(Letter::Gap, letter));
    Letters(characters.collect())
});

impl Letters {
    pub(super) fn get() -> &'static Self {
        &LETTERS
    }

    pub(super) fn of(&self, character: char) -> Letter {
        let place = usize::try_from(u32::from(character)).unwrap_or(usize::MAX);
        self.0
            .get(place)
            .copied()
            .unwrap_or_else(|| match character {
                // Nearly all there is above: Han and Hangul, which have no case.
                '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' => Letter::Alone,
                '\u{ac00}'..='\u{d7a3}' => Letter::Part(character),
                _ => letter(character),
            })
    }
}

fn letter(character: char) -> Letter {
    if stands_alone(character) {
        return Letter::Alone;
    }
    if !character.is_alphanumeric() {
        return Letter::Gap;
    }
    let mut lower = character.to_lowercase();
    match (lower.next(), lower.next()) {
        (Some(one), None) => Letter::Part(one),
        _ => Letter::Parts,
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
        for character in '\0'..=char::MAX {
            assert_eq!(letters.of(character), letter(character), "{character:?}");
        }
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
