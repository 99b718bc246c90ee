//! What a character is, looked up: the tables of the standard library are searched, which costs tens of nanoseconds a character.

use std::ops::Range;

/// Characters that are looked up: all alphabets that are written today, and kana.
const ALPHABETS: Range<u32> = 0..0x3400;
/// And the wide and narrow forms of East Asian keyboards.
const FORMS: Range<u32> = 0xff00..0x1_0000;

/// What can be said of a character.
pub(super) trait Answer: Copy {
    /// Of any.
    fn search(c: char) -> Self;

    /// The same of Han and Hangul, which is nearly all else that is written; nothing of others.
    fn han_or_hangul(c: char) -> Option<Self>;
}

/// An answer for each character.
#[derive(Debug)]
pub(super) struct Lookup<T> {
    alphabets: Vec<T>,
    forms: Vec<T>,
}

impl<T: Answer> Lookup<T> {
    pub(super) fn new() -> Self {
        let answer = |code| T::search(char::from_u32(code).unwrap_or_default());
        Self {
            alphabets: ALPHABETS.map(answer).collect(),
            forms: FORMS.map(answer).collect(),
        }
    }

    pub(super) fn of(&self, c: char) -> T {
        match self.alphabets.get(c as usize) {
            Some(answer) => *answer,
            None => self.of_others(c),
        }
    }

    fn of_others(&self, c: char) -> T {
        let form = || {
            self.forms
                .get((c as usize).checked_sub(FORMS.start as usize)?)
        };
        T::han_or_hangul(c)
            .or_else(|| form().copied())
            .unwrap_or_else(|| T::search(c))
    }
}

#[cfg(test)]
impl<T: Answer + PartialEq + std::fmt::Debug> Lookup<T> {
    /// What is looked up is what a search says.
    pub(super) fn assert_right(&self) {
        for c in '\0'..=char::MAX {
            assert_eq!(self.of(c), T::search(c), "{c:?}");
        }
    }
}
