//! Text of an answer that waits to be sent, and how much of it fits.

use crate::queue::TokenLogprobs;

/// Text, with what is told of its tokens.
#[derive(Default)]
pub(super) struct Words {
    pub(super) text: String,
    pub(super) told: Vec<TokenLogprobs>,
}

impl Words {
    pub(super) fn add(&mut self, text: &str, told: Vec<TokenLogprobs>) {
        self.text.push_str(text);
        self.told.extend(told);
    }

    /// The longest beginning that `fits`, and whether it is all of them. What fits must also fit where it is shorter.
    pub(super) fn fitting(self, fits: impl Fn(&Self) -> bool) -> (Self, bool) {
        if fits(&self) {
            return (self, true);
        }
        // The empty beginning is what is left where nothing fits: whoever asks has kept room for that.
        let (mut enough, mut too_much) = (0, self.text.len());
        while too_much.saturating_sub(enough) > 1 {
            let middle = enough.midpoint(too_much);
            if fits(&self.beginning(middle)) {
                enough = middle;
            } else {
                too_much = middle;
            }
        }
        (self.beginning(enough), false)
    }

    /// At most `bytes` of the text, whole characters, and what is told of the tokens within.
    fn beginning(&self, bytes: usize) -> Self {
        let end = self.text.floor_char_boundary(bytes);
        let mut left = end;
        let told = self.told.iter().take_while(|one| {
            let length = one.token.bytes.as_ref().map_or(0, Vec::len);
            let within = length <= left;
            left = left.saturating_sub(length);
            within
        });
        Self {
            told: told.cloned().collect(),
            text: self.text.get(..end).unwrap_or_default().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::TokenText;

    fn words() -> Words {
        let mut words = Words::default();
        for text in ["Grüße", ", ", "Welt"] {
            let token = TokenText {
                text: text.into(),
                bytes: Some(text.as_bytes().to_vec()),
            };
            let told = TokenLogprobs {
                token,
                logprob: Some(-1.0),
                top: Vec::new(),
                offset: 0,
            };
            words.add(text, vec![told]);
        }
        words
    }

    #[test]
    fn what_fits_is_the_longest_beginning_of_whole_characters_and_of_the_tokens_within() {
        for (room, text, told) in [
            (100, "Grüße, Welt", 3),
            (13, "Grüße, Welt", 3),
            (12, "Grüße, Wel", 2),
            (9, "Grüße, ", 2),
            (8, "Grüße,", 1),
            (3, "Gr", 0),
            (0, "", 0),
        ] {
            let (found, all) = words().fitting(|words| words.text.len() <= room);
            assert_eq!(
                (found.text.as_str(), found.told.len()),
                (text, told),
                "{room}"
            );
            assert_eq!(all, room >= 13, "{room}");
        }
    }
}
