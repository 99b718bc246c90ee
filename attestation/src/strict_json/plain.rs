//! The walk that most documents pass: plain JSON, in one pass over its bytes and nearly without memory.
//!
//! It only ever says "strict for certain". Whatever is not plain (an escape in a key, a fraction, many keys, an error) is left to
//! the whole walk, which alone refuses: nothing passes here that it would refuse.

use super::DEPTH_MAX;

/// Most keys of a plain object. Every key is compared with those before it.
const KEYS_MAX: usize = 32;
/// Most digits of a plain number: all of them fit into 64 bits.
const DIGITS_MAX: usize = 18;
/// Bytes of a text that are looked at together.
const BLOCK: usize = 8;

/// Whether this is one JSON object from its first byte to its last, plain, with no key twice and not too deep.
pub(super) fn is_strict(text: &str) -> bool {
    let mut walk = Walk {
        left: text.as_bytes(),
        keys: Vec::with_capacity(2 * KEYS_MAX),
    };
    text.starts_with('{') && walk.value(0).is_some() && walk.left.is_empty()
}

struct Walk<'a> {
    left: &'a [u8],
    /// Of the objects that are open, the innermost one's last.
    keys: Vec<&'a [u8]>,
}

impl<'a> Walk<'a> {
    fn value(&mut self, depth: usize) -> Option<()> {
        match self.left {
            [b'"', ..] => self.text().map(drop),
            [b'{', ..] => self.object(depth),
            [b'[', ..] => self.list(depth),
            [b't', b'r', b'u', b'e', left @ ..]
            | [b'n', b'u', b'l', b'l', left @ ..]
            | [b'f', b'a', b'l', b's', b'e', left @ ..] => {
                self.left = left;
                Some(())
            }
            _ => self.number(),
        }
    }

    fn object(&mut self, depth: usize) -> Option<()> {
        self.opened(depth)?;
        let outside = self.keys.len();
        if self.comes(b'}') {
            return Some(());
        }
        loop {
            let key = self.text()?;
            if key.contains(&b'\\') {
                return None;
            }
            let others = self.keys.get(outside..)?;
            if others.len() == KEYS_MAX || others.contains(&key) {
                return None;
            }
            self.keys.push(key);
            self.space();
            if !self.comes(b':') {
                return None;
            }
            self.value(depth + 1)?;
            self.space();
            if self.comes(b'}') {
                self.keys.truncate(outside);
                return Some(());
            }
            if !self.comes(b',') {
                return None;
            }
        }
    }

    fn list(&mut self, depth: usize) -> Option<()> {
        self.opened(depth)?;
        if self.comes(b']') {
            return Some(());
        }
        loop {
            self.value(depth + 1)?;
            self.space();
            if self.comes(b']') {
                return Some(());
            }
            if !self.comes(b',') {
                return None;
            }
        }
    }

    /// Past the bracket, to what stands first inside.
    fn opened(&mut self, depth: usize) -> Option<()> {
        if depth >= DEPTH_MAX {
            return None;
        }
        let (_, left) = self.left.split_first()?;
        self.left = left;
        self.space();
        Some(())
    }

    /// Passes this byte and the space behind it, if it comes next.
    fn comes(&mut self, wanted: u8) -> bool {
        let Some((next, left)) = self.left.split_first() else {
            return false;
        };
        if *next != wanted {
            return false;
        }
        self.left = left;
        if wanted != b'}' && wanted != b']' {
            self.space();
        }
        true
    }

    fn space(&mut self) {
        while let [b' ' | b'\t' | b'\n' | b'\r', left @ ..] = self.left {
            self.left = left;
        }
    }

    /// A text without its quotes.
    fn text(&mut self) -> Option<&'a [u8]> {
        let [b'"', inside @ ..] = self.left else {
            return None;
        };
        let mut at = 0_usize;
        loop {
            while let Some(block) = inside.get(at..)?.first_chunk() {
                let letters = letters_of(*block);
                at += letters;
                if letters < BLOCK {
                    break;
                }
            }
            match inside.get(at)? {
                b'"' => break,
                b'\\' if is_escaped(*inside.get(at + 1)?) => at += 2,
                byte if is_letter(*byte) => at += 1,
                _ => return None,
            }
        }
        let (text, left) = inside.split_at_checked(at)?;
        self.left = left.get(1..)?;
        Some(text)
    }

    fn number(&mut self) -> Option<()> {
        let digits = self.left.strip_prefix(b"-").unwrap_or(self.left);
        let count = digits
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        let (number, left) = digits.split_at_checked(count)?;
        let whole = !matches!(left, [b'.' | b'e' | b'E', ..]);
        let shortest = matches!(number, [b'0'] | [b'1'..=b'9', ..]);
        (whole && shortest && count <= DIGITS_MAX).then(|| self.left = left)
    }
}

/// How many bytes of a block come before the first that is no letter.
const fn letters_of(block: [u8; BLOCK]) -> usize {
    /// One in every byte.
    const ONES: u64 = u64::MAX / 0xff;
    const HIGHEST: u64 = ONES << 7;
    let block = u64::from_le_bytes(block);
    let quote = block ^ (ONES * b'"' as u64);
    let backslash = block ^ (ONES * b'\\' as u64);
    // What is subtracted borrows from later bytes alone, so that the first mark is right.
    let control = block.wrapping_sub(ONES * 0x20) & !block;
    let quote = quote.wrapping_sub(ONES) & !quote;
    let backslash = backslash.wrapping_sub(ONES) & !backslash;
    let marks = (control | quote | backslash) & HIGHEST;
    (marks.trailing_zeros() / u8::BITS) as usize
}

/// Whether a byte stands in a text as what it is.
const fn is_letter(byte: u8) -> bool {
    byte >= 0x20 && byte != b'"' && byte != b'\\'
}

/// Whether a byte may follow a backslash. Characters by number can be wrong, and are not plain.
const fn is_escaped(byte: u8) -> bool {
    matches!(byte, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::walked_whole;
    use super::*;

    fn nested(depth: usize) -> String {
        format!(
            "{{\"a\":{}{}}}",
            "[".repeat(depth - 1),
            "]".repeat(depth - 1)
        )
    }

    fn keys(count: usize) -> String {
        let keys: Vec<String> = (0..count).map(|key| format!("\"{key}\":0")).collect();
        format!("{{{}}}", keys.join(","))
    }

    #[test]
    fn plain_documents_need_no_other_walk() {
        for text in [
            "{}",
            "{ }",
            r#"{"a":{"a":1},"b":{"a":2}}"#,
            "{\r\n\t\"a\" : [ 1 , 2 , [ ] , { } ] , \"b\" : null }",
            r#"{"a":[true,false,null,0,-0,-1,999999999999999999],"":"","é":"ü€"}"#,
            r#"{"a":"\"\\\/\b\f\n\r\t and a text of more than two blocks of letters"}"#,
            &nested(DEPTH_MAX),
            &keys(KEYS_MAX),
        ] {
            assert!(is_strict(text), "{text}");
            assert_eq!(walked_whole(text.as_bytes()), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_is_not_plain_is_left_to_the_whole_walk() {
        for text in [
            r#"{"a":1,"a":2}"#,
            r#"{"a":{"b":1,"c":[],"b":2}}"#,
            r#"{"a":{"b":1},"a":2}"#,
            r#"{"\u0061":1}"#,
            r#"{"\n":1}"#,
            r#"{"a":"\u0061"}"#,
            r#"{"a":"\x"}"#,
            r#"{"a":"\"}"#,
            "{\"a\":\"\n\"}",
            "{\"a\":\"sixteen letters \n sixteen letters\"}",
            r#"{"a":1.0}"#,
            r#"{"a":1e1}"#,
            r#"{"a":1E1}"#,
            r#"{"a":01}"#,
            r#"{"a":-}"#,
            r#"{"a":+1}"#,
            r#"{"a":1000000000000000000}"#,
            r#"{"a":tru}"#,
            r#"{"a":}"#,
            r#"{"a"}"#,
            r#"{"a",1}"#,
            r#"{"a":1,}"#,
            r#"{"a":1 "b":2}"#,
            r#"{,}"#,
            r#"{a:1}"#,
            r#"{"a":[1,]}"#,
            r#"{"a":[1 2]}"#,
            r#"{"a":[}"#,
            r#"{"a":1"#,
            r#"{"a":"b"#,
            "{} ",
            " {}",
            "{}}",
            "[]",
            "1",
            "",
            &nested(DEPTH_MAX + 1),
            &keys(KEYS_MAX + 1),
        ] {
            assert!(!is_strict(text), "{text}");
        }
    }

    #[test]
    fn every_byte_of_a_block_is_a_letter_or_is_where_it_stops() {
        for at in 0..BLOCK {
            for byte in 0..=u8::MAX {
                for later in [b'a', b'"', 0, 0xff] {
                    let mut block = [b'a'; BLOCK];
                    block[at] = byte;
                    block[at + 1..].fill(later);
                    let found = block.iter().position(|byte| !is_letter(*byte));
                    assert_eq!(letters_of(block), found.unwrap_or(BLOCK), "{block:?}");
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4096) })]

        /// Pieces of documents in any order, so that many are one and most are nearly one.
        #[test]
        fn whatever_passes_here_passes_the_whole_walk(
            pieces in prop::collection::vec(prop::sample::select(vec![
                "{", "}", "[", "]", ",", ":", "\"a\":", "\"a\"", "\"b\":1", "\"\\u0061\":", " ", "1", "-0", "00", "1.5", "1e999",
                "true", "nul", "\"\\n\"", "\"\\ud800\"", "\"\t\"", "{}", "[]", "\"c\":{\"a\":1}", "\"d\":[0,1]", ",\"e\":[]",
            ]), 0..12),
        ) {
            let text = format!("{{{}}}", pieces.concat());
            prop_assert!(!is_strict(&text) || walked_whole(text.as_bytes()).is_ok());
        }
    }
}
