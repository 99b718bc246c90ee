//! What a character is, looked up: the tables of the standard library are searched, which costs tens of nanoseconds a character.

/// Characters below this are looked up: all alphabets that are written today, and kana.
const LOOKED_UP: u32 = 0x3400;

/// What can be said of a character.
pub(super) trait Answer: Copy {
    /// Of any.
    fn search(c: char) -> Self;

    /// The same of Han and Hangul, which is nearly all there is above; nothing of others.
    fn above(c: char) -> Option<Self>;
}

/// An answer for each character.
#[derive(Debug)]
pub(super) struct Lookup<T>(Vec<T>);

impl<T: Answer> Lookup<T> {
    pub(super) fn new() -> Self {
        let answer = |code| T::search(char::from_u32(code).unwrap_or_default());
        Self((0..LOOKED_UP).map(answer).collect())
    }

    pub(super) fn of(&self, c: char) -> T {
        let place = usize::try_from(u32::from(c)).unwrap_or(usize::MAX);
        match self.0.get(place) {
            Some(answer) => *answer,
            None => T::above(c).unwrap_or_else(|| T::search(c)),
        }
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
