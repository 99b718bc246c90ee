//! The form in which texts are compared: letters and digits, in lower case, and nothing between them. Digits that are written for
//! letters are those letters, in the secret as in the answer, so that neither way of writing hides the other.

use std::sync::LazyLock;

use crate::guard::lookup::{Answer, Lookup};

/// What stands for a character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Normal {
    /// [`NONE`] where nothing does.
    c: char,
    letter: u8,
    is_consonant: bool,
}

const NONE: char = '\0';

static NORMAL: LazyLock<Lookup<Normal>> = LazyLock::new(Lookup::new);

/// Makes the table in which characters are looked up, which the first look would do.
pub fn prepare() {
    LazyLock::force(&NORMAL);
}

/// The one character that stands for `c`; none for spaces, punctuation, and marks that nobody sees.
#[must_use]
pub fn normal(c: char) -> Option<char> {
    let Normal { c, .. } = NORMAL.of(c);
    (c != NONE).then_some(c)
}

/// What stands for each character of a text.
pub fn each(text: &str) -> impl Iterator<Item = Normal> {
    let all = LazyLock::force(&NORMAL);
    text.chars().map(|c| all.of(c))
}

/// A normal character as a byte, which characters of other alphabets than ASCII's share; 0 for [`NONE`] alone.
pub const fn letter(c: char) -> u8 {
    // The fraction of the golden ratio: characters that are close to each other come far apart.
    let spread = (c as u32).wrapping_mul(0x9e37_79b9) >> 24;
    match c.is_ascii() {
        true => c as u8,
        false => spread as u8 | 0x80,
    }
}

impl Normal {
    const fn of(c: char) -> Self {
        Self {
            c,
            letter: letter(c),
            is_consonant: c != NONE && !is_vowel(c),
        }
    }

    /// Its [`letter`].
    pub const fn letter(self) -> u8 {
        self.letter
    }

    /// Whether there is anything to compare.
    pub const fn is_kept(self) -> bool {
        self.letter != 0
    }

    /// The same without vowels.
    pub const fn is_consonant(self) -> bool {
        self.is_consonant
    }
}

impl Answer for Normal {
    fn search(c: char) -> Self {
        // Full-width forms of East Asian keyboards say the same as ASCII's.
        let c = match u32::from(c) {
            wide @ 0xff01..=0xff5e => char::from_u32(wide - 0xfee0).unwrap_or(c),
            _ => c,
        };
        Self::of(match c {
            _ if c.is_ascii_alphanumeric() => meant(c.to_ascii_lowercase()),
            _ if c.is_alphanumeric() => c.to_lowercase().next().unwrap_or(c),
            _ => NONE,
        })
    }

    fn han_or_hangul(c: char) -> Option<Self> {
        match c {
            '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{ac00}'..='\u{d7a3}' => {
                Some(Self::of(c))
            }
            _ => None,
        }
    }
}

/// The letter that a digit is written for; of letters that look like one digit, one.
const fn meant(c: char) -> char {
    match c {
        '0' => 'o',
        '1' | 'l' => 'i',
        '3' => 'e',
        '4' => 'a',
        '5' => 's',
        '7' => 't',
        '8' => 'b',
        other => other,
    }
}

/// Whether a normal character is a vowel. Digits that are written for vowels are vowels in this form, and so is an `l`.
#[must_use]
pub const fn is_vowel(c: char) -> bool {
    matches!(c, 'a' | 'e' | 'i' | 'o' | 'u')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_and_digits_are_left() {
        let text = |text: &str| text.chars().filter_map(normal).collect::<String>();
        assert_eq!(text("Pier Nine, OM-7!\n"), "piernineomt");
        assert_eq!(text("Ｐｉｅｒ　９"), "pier9");
        assert_eq!(text("Ünï\u{200b}çode 密码"), "ünïçode密码");
        assert_eq!(text("*-_ \u{200d}"), "");
        LazyLock::force(&NORMAL).assert_right();
    }

    #[test]
    fn letters_of_ascii_are_bytes_and_others_are_beyond_them() {
        let letters = |text| each(text).map(Normal::letter).collect::<Vec<u8>>();
        assert_eq!(letters("Pier 9!"), b"pier\x009\0");
        let others = letters("ёж港。");
        assert!(others[..3].iter().all(|byte| *byte >= 0x80), "{others:x?}");
        assert_eq!(others[3..], [0]);
        assert_eq!(letters("ЖЁ"), [others[1], others[0]]);
        let kept = |is_kept: fn(Normal) -> bool| {
            let kept = each("So, 9 Ж!").filter(|normal| is_kept(*normal));
            kept.map(|normal| normal.c).collect::<String>()
        };
        assert_eq!(kept(Normal::is_kept), "so9ж");
        assert_eq!(kept(Normal::is_consonant), "s9ж");
    }
}
