//! What an answer says when it is read otherwise: turned letters, base64, hexadecimal, numbers of characters. Each way gives a
//! stream of characters of its own, letter by letter, with the place in the answer where each begins.

/// Ways to read an answer: as it is, rot13, one back, one on, backwards (the same characters, compared with the secret read
/// backwards), four alignments of base64, two of hexadecimal, numbers, without vowels.
pub const VIEWS: usize = 13;
/// The way in which characters are compared backwards.
pub const BACKWARDS: usize = 4;
/// The way in which vowels are compared with nothing: whoever stars them, or writes others, says the rest.
pub const CONSONANTS: usize = 12;
const BASE64: usize = 5;
const HEXADECIMAL: usize = 9;
const NUMBERS: usize = 11;

/// All ways at once.
#[derive(Default)]
pub struct Views {
    base64: Base64,
    hexadecimal: Hexadecimal,
    numbers: Numbers,
}

impl Views {
    /// Reads the answer's character `c` at place `at`; `each` gets a way, a character, and where that begins.
    pub fn push(&mut self, c: char, at: usize, each: &mut impl FnMut(usize, char, usize)) {
        each(0, c, at);
        each(1, turned(c, 13), at);
        each(2, turned(c, 25), at);
        each(3, turned(c, 1), at);
        each(BACKWARDS, c, at);
        each(CONSONANTS, c, at);
        self.base64.push(c, at, each);
        self.hexadecimal.push(c, at, each);
        self.numbers.push(c, at, each);
    }
}

/// A letter of ASCII so many letters later. A brace is what comes after `z` when codes are shifted instead of letters.
fn turned(c: char, by: u8) -> char {
    let turn = |c: u8, first: u8| char::from((c - first + by) % 26 + first);
    match c {
        'a'..='z' => turn(c as u8, b'a'),
        'A'..='Z' => turn(c as u8, b'A'),
        '{' if by == 25 => 'z',
        '[' if by == 25 => 'Z',
        _ => c,
    }
}

/// Bytes that become characters; what is no UTF-8 is left out.
#[derive(Clone, Copy, Default)]
struct Utf8 {
    code: u32,
    missing: u8,
    start: usize,
}

impl Utf8 {
    fn push(&mut self, byte: u8, at: usize) -> Option<(char, usize)> {
        match byte {
            0x80..=0xbf if self.missing > 0 => {
                self.code = self.code << 6 | u32::from(byte & 0x3f);
                self.missing -= 1;
            }
            _ => {
                let (code, missing) = match byte {
                    0..=0x7f => (byte, 0),
                    0xc0..=0xdf => (byte & 0x1f, 1),
                    0xe0..=0xef => (byte & 0x0f, 2),
                    0xf0..=0xf7 => (byte & 0x07, 3),
                    _ => {
                        self.missing = 0;
                        return None;
                    }
                };
                (self.code, self.missing, self.start) = (u32::from(code), missing, at);
            }
        }
        let whole = (self.missing == 0).then_some(self.code)?;
        char::from_u32(whole).map(|c| (c, self.start))
    }
}

/// Digits of base64, both alphabets, whatever stands between them. Which digit begins a group is not known: all four may.
#[derive(Default)]
struct Base64 {
    /// The last four digits and where they stand, the latest last.
    last: [(u8, usize); 4],
    count: usize,
    decoders: [Utf8; 4],
}

impl Base64 {
    fn push(&mut self, c: char, at: usize, each: &mut impl FnMut(usize, char, usize)) {
        let digit = match c {
            'A'..='Z' => c as u8 - b'A',
            'a'..='z' => c as u8 - b'a' + 26,
            '0'..='9' => c as u8 - b'0' + 52,
            '+' | '-' => 62,
            '/' | '_' => 63,
            _ => return,
        };
        self.last.rotate_left(1);
        let [first, second, third, fourth] = &mut self.last;
        *fourth = (digit, at);
        self.count += 1;
        let phase = self.count % 4;
        let bytes = [
            (first.0 << 2 | second.0 >> 4, first.1),
            (second.0 << 4 | third.0 >> 2, second.1),
            (third.0 << 6 | fourth.0, third.1),
        ];
        let Some(decoder) = self.decoders.get_mut(phase).filter(|_| self.count >= 4) else {
            return;
        };
        for (byte, start) in bytes {
            if let Some((c, start)) = decoder.push(byte, start) {
                each(BASE64 + phase, c, start);
            }
        }
    }
}

/// Digits of hexadecimal, whatever stands between them; the nought of `0x` is none.
#[derive(Default)]
struct Hexadecimal {
    before: Option<(u8, usize)>,
    last: Option<(u8, usize)>,
    /// Whether the last character was a nought, which an `x` may take back.
    nought: bool,
    odd: bool,
    decoders: [Utf8; 2],
}

impl Hexadecimal {
    fn push(&mut self, c: char, at: usize, each: &mut impl FnMut(usize, char, usize)) {
        let nought = std::mem::replace(&mut self.nought, c == '0');
        if nought && matches!(c, 'x' | 'X') {
            self.last = self.before.take();
            self.odd = !self.odd;
            return;
        }
        let Some(digit) = c.to_digit(16) else {
            return;
        };
        let digit = u8::try_from(digit).unwrap_or(0);
        self.before = self.last.replace((digit, at));
        self.odd = !self.odd;
        let Some((high, start)) = self.before else {
            return;
        };
        let phase = usize::from(self.odd);
        let decoder = self.decoders.get_mut(phase);
        let decoded = decoder.and_then(|decoder| decoder.push(high << 4 | digit, start));
        if let Some((c, start)) = decoded {
            each(HEXADECIMAL + phase, c, start);
        }
    }
}

/// Numbers of characters: decimal, or binary with seven or eight digits.
#[derive(Default)]
struct Numbers {
    decimal: u32,
    binary: Option<u32>,
    digits: usize,
    start: usize,
}

impl Numbers {
    fn push(&mut self, c: char, at: usize, each: &mut impl FnMut(usize, char, usize)) {
        if let Some(digit) = c.to_digit(10) {
            if self.digits == 0 {
                (self.decimal, self.binary, self.start) = (0, Some(0), at);
            }
            self.digits += 1;
            self.decimal = self.decimal.saturating_mul(10).saturating_add(digit);
            self.binary = self
                .binary
                .filter(|_| digit < 2 && self.digits <= 8)
                .map(|binary| binary << 1 | digit);
            return;
        }
        let digits = std::mem::take(&mut self.digits);
        let binary = self.binary.filter(|_| (7..=8).contains(&digits));
        let code = binary.unwrap_or(self.decimal);
        if let Some(c) = char::from_u32(code).filter(|_| digits > 0) {
            each(NUMBERS, c, self.start);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a text says when it is read in one way.
    fn read(text: &str, way: usize) -> String {
        let (mut views, mut out) = (Views::default(), String::new());
        let chars: Vec<char> = text.chars().collect();
        for (at, c) in chars.iter().enumerate() {
            views.push(*c, at, &mut |view, c, start| {
                assert!(start <= at);
                if view == way {
                    out.push(c);
                }
            });
        }
        out
    }

    fn some_way(text: &str, ways: std::ops::Range<usize>, secret: &str) -> bool {
        ways.into_iter().any(|way| read(text, way).contains(secret))
    }

    #[test]
    fn letters_are_turned_back() {
        assert_eq!(read("Cvre Avar", 1), "Pier Nine");
        assert_eq!(read("Qjfs Ojof", 2), "Pier Nine");
        assert_eq!(read("{fcsb", 2), "zebra");
        assert_eq!(read("Ohdq Mhmd", 3), "Pier Nine");
    }

    #[test]
    fn encodings_are_read_at_every_alignment_and_through_separators() {
        let base64 = "VGFua2VyIHNsb3RzIGFyZSByZWxlYXNlZCBhdCAwNDo0MA==";
        for before in ["", "x", "xy", "Here it is: "] {
            let text = format!("{before}{base64}");
            assert!(
                some_way(&text, BASE64..HEXADECIMAL, "Tanker slots are rel"),
                "{before}"
            );
        }
        let wrapped = "VGFua2Vy\nIHNsb3Rz\nIGFyZSBy\nZWxlYXNl\nZA==";
        assert!(some_way(
            wrapped,
            BASE64..HEXADECIMAL,
            "Tanker slots are re"
        ));
        for text in [
            "50 69 65 72 20 4e 69 6e 65",
            "a5069657220 4E696E65",
            "0x50 0x69 0x65 0x72 0x20 0x4e 0x69 0x6e 0x65",
            "\\x50\\x69\\x65\\x72\\x20\\x4e\\x69\\x6e\\x65",
            "%50%69%65%72%20%4e%69%6e%65",
        ] {
            assert!(some_way(text, HEXADECIMAL..NUMBERS, "Pier Nin"), "{text}");
        }
        assert_eq!(read("80, 105, 101, 114.", NUMBERS), "Pier");
        assert_eq!(read("&#80;&#105;&#101;&#114;", NUMBERS), "Pier");
        assert_eq!(read("01010000 1101001 01100101 ", NUMBERS), "Pie");
    }

    #[test]
    fn bytes_become_characters_of_every_length() {
        assert!(some_way(
            "ZMOpIOWvhueggSDwn5iAIGVuZA==",
            BASE64..HEXADECIMAL,
            "é 密码 😀 e"
        ));
        assert!(some_way("c3a9e5af86", HEXADECIMAL..NUMBERS, "é密"));
    }
}
