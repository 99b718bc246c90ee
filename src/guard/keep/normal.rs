//! The form in which texts are compared: letters and digits, in lower case, and nothing between them. Digits that are written for
//! letters are those letters, in the secret as in the answer, so that neither way of writing hides the other.

/// The one character that stands for `c`; none for spaces, punctuation, and marks that nobody sees.
#[must_use]
pub fn normal(c: char) -> Option<char> {
    // Full-width forms of East Asian keyboards say the same as ASCII's.
    let c = match u32::from(c) {
        wide @ 0xff01..=0xff5e => char::from_u32(wide - 0xfee0).unwrap_or(c),
        _ => c,
    };
    if let Some(ascii) = ASCII.get(c as usize) {
        return *ascii;
    }
    is_kept(c).then(|| c.to_lowercase().next().unwrap_or(c))
}

/// What stands for each character of ASCII.
#[expect(
    clippy::indexing_slicing,
    reason = "in a constant, where it cannot fail later"
)]
const ASCII: [Option<char>; 128] = {
    let mut ascii = [None; 128];
    let mut at = 0;
    while at < ascii.len() {
        let c = at as u8 as char;
        if c.is_ascii_alphanumeric() {
            ascii[at] = Some(meant(c.to_ascii_lowercase()));
        }
        at += 1;
    }
    ascii
};

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

/// Whether a character is compared at all.
#[must_use]
pub fn is_kept(c: char) -> bool {
    match c.is_ascii() {
        true => c.is_ascii_alphanumeric(),
        false => c.is_alphanumeric(),
    }
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
    }
}
