//! Finds the texts of tokens inside a text: leftmost first, of several the longest.

use std::collections::HashMap;

use super::TokenizerError;

pub(super) enum Piece<'a> {
    Token(u32),
    Text(&'a str),
}

/// Tokens by the first byte of their text, the longest first.
pub(super) struct TokenFinder {
    by_first_byte: HashMap<u8, Vec<(String, u32)>>,
}

impl TokenFinder {
    pub(super) fn new<'a>(tokens: impl Iterator<Item = (&'a str, u32)>) -> Self {
        let mut by_first_byte: HashMap<u8, Vec<(String, u32)>> = HashMap::new();
        for (text, id) in tokens {
            if let Some(&first) = text.as_bytes().first() {
                by_first_byte
                    .entry(first)
                    .or_default()
                    .push((text.to_owned(), id));
            }
        }
        for tokens in by_first_byte.values_mut() {
            tokens.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        }
        Self { by_first_byte }
    }

    /// The text of token `id`.
    pub(super) fn text(&self, id: u32) -> Option<&str> {
        let mut all = self.by_first_byte.values().flatten();
        all.find(|(_, found)| *found == id)
            .map(|(text, _)| text.as_str())
    }

    /// All texts.
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        self.by_first_byte
            .values()
            .flatten()
            .map(|(text, _)| text.as_str())
    }

    /// Cuts `text` into tokens, where `allowed(start, length)` says so, and what lies between.
    pub(super) fn split<'a>(
        &self,
        text: &'a str,
        allowed: impl Fn(usize, usize) -> bool,
        mut each: impl FnMut(Piece<'a>) -> Result<(), TokenizerError>,
    ) -> Result<(), TokenizerError> {
        let mut start = 0;
        let mut at = 0;
        while let Some(&byte) = text.as_bytes().get(at) {
            let rest = text.get(at..).unwrap_or_default();
            let found = self.by_first_byte.get(&byte).and_then(|tokens| {
                tokens
                    .iter()
                    .find(|(token, _)| rest.starts_with(token) && allowed(at, token.len()))
            });
            let Some((token, id)) = found else {
                at += 1;
                continue;
            };
            if let Some(before) = text.get(start..at).filter(|before| !before.is_empty()) {
                each(Piece::Text(before))?;
            }
            each(Piece::Token(*id))?;
            at += token.len();
            start = at;
        }
        match text.get(start..).filter(|rest| !rest.is_empty()) {
            Some(rest) => each(Piece::Text(rest)),
            None => Ok(()),
        }
    }
}
