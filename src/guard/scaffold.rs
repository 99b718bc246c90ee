//! The wording of templates that many share, as far as two officers may ever open it: of a family that was found, the shingles
//! that were seen in at least [`PROMPTS_MIN`] distinct prompts. That is the scaffold: what stands in a slot differs from prompt to
//! prompt and never gets there.
//!
//! Hashes cannot be turned back, so text is kept from prompts that come *after* a shingle was that common, three words at most of
//! each, sealed under a key that is born and lost with the process. Of any other wording no text is ever kept.

use std::collections::HashSet;
use std::fmt;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use super::hash::GuardKey;
use super::shingle::{self, WORDS, each_word, ends};

/// A shingle's text may be opened once it was seen in so many distinct prompts.
pub const PROMPTS_MIN: u16 = 20;
/// Bytes of a word that are kept.
const WORD_BYTES_MAX: usize = 32;

/// Text that nobody reads without the key.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed {
    nonce: [u8; NONCE_LEN],
    bytes: Vec<u8>,
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealed(..)")
    }
}

/// The words of one shingle, sealed, and the shingle's hash.
pub type Wording = (u64, Sealed);

/// Seals wording and opens it.
pub struct Seals(LessSafeKey);

impl fmt::Debug for Seals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seals(..)")
    }
}

impl Seals {
    /// Under a key of 32 random bytes; nothing where the library takes no such key.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Option<Self> {
        let key = UnboundKey::new(&AES_256_GCM, key).ok()?;
        Some(Self(LessSafeKey::new(key)))
    }

    /// Seals the text of those shingles of a prompt that are `wanted`. Without randomness nothing is kept.
    #[must_use]
    pub fn wording(&self, key: &GuardKey, text: &str, wanted: &HashSet<u64>) -> Vec<Wording> {
        let mut found: Vec<Wording> = Vec::new();
        let (head, tail) = ends(text);
        for end in [head, tail] {
            let mut words: Vec<(u64, Zeroizing<String>)> = Vec::new();
            each_word(end, |word| {
                let kept = word.floor_char_boundary(WORD_BYTES_MAX);
                let text = word.get(..kept).unwrap_or_default().to_owned();
                words.push((key.hash(word.as_bytes()), Zeroizing::new(text)));
            });
            for words in words.windows(WORDS) {
                let hashes: Vec<u64> = words.iter().map(|(hash, _)| *hash).collect();
                let shingle = shingle::shingle(&hashes);
                let new = found.iter().all(|(known, _)| *known != shingle);
                if new && wanted.contains(&shingle) {
                    let text = words.iter().map(|(_, text)| text.as_str());
                    let text = Zeroizing::new(text.collect::<Vec<_>>().join(" "));
                    found.extend(self.seal(shingle, &text).map(|sealed| (shingle, sealed)));
                }
            }
        }
        found
    }

    fn seal(&self, shingle: u64, text: &str) -> Option<Sealed> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).ok()?;
        let mut bytes = text.as_bytes().to_vec();
        let about = Aad::from(shingle.to_be_bytes());
        let unique = Nonce::assume_unique_for_key(nonce);
        self.0
            .seal_in_place_append_tag(unique, about, &mut bytes)
            .ok()?;
        Some(Sealed { nonce, bytes })
    }

    /// The words of a shingle.
    #[must_use]
    pub fn open(&self, (shingle, sealed): &Wording) -> Option<String> {
        let mut bytes = sealed.bytes.clone();
        let about = Aad::from(shingle.to_be_bytes());
        let nonce = Nonce::assume_unique_for_key(sealed.nonce);
        let text = self.0.open_in_place(nonce, about, &mut bytes).ok()?;
        String::from_utf8(text.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::{Background, Prompt};

    fn seals() -> Seals {
        Seals::new(&[3; 32]).unwrap()
    }

    #[test]
    fn only_what_is_wanted_is_sealed_and_reads_as_it_was_written() {
        let key = GuardKey::new([1; 16]);
        let text = "Summarise the ticket: MARKER-SLOT and more, summarise the ticket!";
        let all = Prompt::read(&key, &Background::default(), text);
        let words = |text: &str| {
            let hashes: Vec<u64> = text
                .split(' ')
                .map(|one| key.hash(one.as_bytes()))
                .collect();
            shingle::shingle(&hashes)
        };
        let scaffold = words("summarise the ticket");
        assert!(all.shingles().contains(&scaffold), "hashed as prompts are");
        let wanted = HashSet::from([scaffold, words("never said here")]);
        let found = seals().wording(&key, text, &wanted);
        assert_eq!(found.len(), 1, "once, though it stands there twice");
        let opened = seals().open(&found[0]);
        assert_eq!(opened.as_deref(), Some("summarise the ticket"));
        assert_eq!(format!("{found:?}"), format!("[({scaffold}, Sealed(..))]"));
        assert_eq!(Seals::new(&[4; 32]).unwrap().open(&found[0]), None);
        let moved = (words("never said here"), found[0].1.clone());
        assert_eq!(seals().open(&moved), None, "it belongs to its shingle");
        assert_eq!(seals().wording(&key, text, &HashSet::new()), []);
    }

    #[test]
    fn a_word_is_kept_in_part() {
        let key = GuardKey::new([1; 16]);
        let long = "é".repeat(500);
        let text = format!("one {long} two");
        let hashes = ["one", &long, "two"].map(|word| key.hash(word.as_bytes()));
        let wanted = HashSet::from([shingle::shingle(&hashes)]);
        let found = seals().wording(&key, &text, &wanted);
        let opened = seals().open(&found[0]).unwrap();
        assert_eq!(opened, format!("one {} two", "é".repeat(16)));
    }
}
