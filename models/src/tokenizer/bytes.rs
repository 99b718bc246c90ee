//! What bytes each token stands for, in one block of memory.

use super::Kind;
use crate::gguf::Texts;

/// The bytes of every token.
pub(super) struct TokenBytes {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl TokenBytes {
    /// SentencePiece: `▁` is a space, `<0x0A>` is a byte.
    pub(super) fn of_spm(tokens: &Texts, kinds: &[Kind]) -> Self {
        Self::collect(tokens, kinds, |text, kind, bytes| match kind {
            Kind::Byte => bytes.extend(byte_token(text)),
            _ => bytes.extend_from_slice(text.replace('▁', " ").as_bytes()),
        })
    }

    /// Byte-level BPE: each character stands for one byte.
    pub(super) fn of_bpe(tokens: &Texts, kinds: &[Kind]) -> Self {
        Self::collect(tokens, kinds, |text, kind, bytes| {
            let mapped: Option<Vec<u8>> = text.chars().map(char_to_byte).collect();
            match mapped {
                Some(mapped) if kind != Kind::UserDefined => bytes.extend(mapped),
                _ => bytes.extend_from_slice(text.as_bytes()),
            }
        })
    }

    fn collect(tokens: &Texts, kinds: &[Kind], append: impl Fn(&str, Kind, &mut Vec<u8>)) -> Self {
        let mut bytes = Vec::new();
        let mut ends = Vec::with_capacity(tokens.len());
        for (text, kind) in tokens.iter().zip(kinds) {
            if !matches!(kind, Kind::Control | Kind::Unknown) {
                append(text, *kind, &mut bytes);
            }
            ends.push(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        }
        Self { bytes, ends }
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn get(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let start = match id.checked_sub(1) {
            None => 0,
            Some(before) => self.ends.get(before).copied().unwrap_or_default() as usize,
        };
        let end = self.ends.get(id).copied().unwrap_or_default() as usize;
        self.bytes.get(start..end).unwrap_or_default()
    }
}

/// `<0x0A>` to 10.
pub(super) fn byte_token(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    u8::from_str_radix(digits, 16).ok()
}

/// GPT-2's alphabet: printable Latin-1 stands for itself, the other 68 bytes follow from U+0100 on.
pub(super) fn byte_to_char(byte: u8) -> char {
    match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
        0..=0x20 => shifted(u32::from(byte)),
        0x7f..=0xa0 => shifted(u32::from(byte) - 0x7f + 0x21),
        0xad => shifted(0x43),
    }
}

fn shifted(index: u32) -> char {
    char::from_u32(0x100 + index).unwrap_or(char::REPLACEMENT_CHARACTER)
}

fn char_to_byte(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ 0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        code @ 0x121..=0x142 => u8::try_from(code - 0x121 + 0x7f).ok(),
        0x143 => Some(0xad),
        code => u8::try_from(code)
            .ok()
            .filter(|byte| byte_to_char(*byte) == c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_a_character_of_its_own() {
        for byte in 0..=255_u8 {
            assert_eq!(char_to_byte(byte_to_char(byte)), Some(byte));
        }
        assert_eq!(
            (byte_to_char(b' '), byte_to_char(b'\n'), byte_to_char(0x7f)),
            ('Ġ', 'Ċ', 'ġ')
        );
    }
}
