//! Bytes of tokens to text, token by token: a character is given out when its last byte is there.

/// The bytes of a character that has begun, at most three.
#[derive(Default)]
pub struct TextStream {
    pending: Vec<u8>,
}

impl TextStream {
    /// Adds a token's bytes; answers the text that is complete now. Bytes that are no UTF-8 become U+FFFD.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let mut rest: &[u8] = &self.pending;
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    rest = after;
                    let Some(bad) = error.error_len() else {
                        break;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = rest.get(bad..).unwrap_or_default();
                }
            }
        }
        self.pending = rest.to_vec();
        text
    }

    /// Bytes of a character that has begun and is not complete.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// The end of the text: a character that was not completed becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_waits_for_its_last_byte() {
        let mut stream = TextStream::default();
        let smile = "🙂".as_bytes();
        assert_eq!(stream.push(&smile[..1]), "");
        assert_eq!(stream.push(&smile[1..3]), "");
        assert_eq!(stream.push(&smile[3..]), "🙂");
        assert_eq!(stream.push(b"a\xffb\xf0"), "a\u{fffd}b");
        assert_eq!(stream.push(b"c"), "\u{fffd}c");
        assert_eq!(stream.push(&smile[..2]), "");
        assert_eq!(stream.finish(), "\u{fffd}");
        assert_eq!(stream.finish(), "");
    }

    proptest::proptest! {
        #[test]
        fn cutting_text_anywhere_gives_the_text_back(text: String, cuts in proptest::collection::vec(1_usize..5, 0..40)) {
            let mut stream = TextStream::default();
            let mut got = String::new();
            let mut rest = text.as_bytes();
            for cut in cuts {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                got.push_str(&stream.push(now));
                rest = later;
            }
            got.push_str(&stream.push(rest));
            got.push_str(&stream.finish());
            assert_eq!(got, text);
        }
    }
}
