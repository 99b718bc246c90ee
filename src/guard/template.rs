//! Templates that a team declares: what stands between the slots of its prompts, as digests that policy can carry. A declared
//! prompt is told from others by holding all of them.

use std::fmt;
use std::str::FromStr;

use super::filter::Bits;
use super::hash::GuardKey;
use super::shingle::{WORDS, ends, words};

/// The key of declared templates. It is public: a policy is written where no guard runs, and its officer has the text.
const PUBLIC_KEY: [u8; 16] = *b"casemate/templt1";

/// Shingles that a template needs, and those that are kept of a longer one: the smallest digests.
const SHINGLES_MIN: usize = 4;
const SHINGLES_MAX: usize = 32;
/// Bytes of a template's text: what stands outside of these is not read of a prompt either.
const TEXT_BYTES_MAX: usize = 2048;
/// Hexadecimal digits of one digest.
const DIGITS: usize = 16;

/// Why a text is no template that can be declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// A slot that is never closed.
    #[error("a slot begins with {{{{ and does not end with }}}}")]
    OpenSlot,
    /// Nothing varies: every prompt of it would be the same.
    #[error("the template has no slot; write {{{{name}}}} where prompts differ")]
    NoSlot,
    /// Too little fixed text to be told from other prompts.
    #[error(
        "outside its slots the template has {0} runs of three words; it needs at least {SHINGLES_MIN} to be told from other prompts"
    )]
    TooShort(usize),
    /// More text than is read of a prompt.
    #[error(
        "the template has {0} bytes; at most {TEXT_BYTES_MAX} at each end of a prompt are looked at"
    )]
    TooLong(usize),
    /// A digest in a policy that no template has.
    #[error(
        "a template's digest is {SHINGLES_MIN} to {SHINGLES_MAX} ascending numbers of 16 lower-case hexadecimal digits, without spaces; casemate guard declare prints one"
    )]
    Digest,
}

/// Digests of a template's shingles, ascending.
#[derive(Clone, PartialEq, Eq)]
pub struct Template(Vec<u64>);

impl Template {
    /// Reads the text of a template, in which `{{name}}` is where prompts differ. Words that touch a slot are not counted:
    /// what fills it may go on with them.
    ///
    /// # Errors
    /// [`TemplateError`].
    pub fn of_text(text: &str) -> Result<Self, TemplateError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(TemplateError::TooLong(text.len()));
        }
        let key = GuardKey::new(PUBLIC_KEY);
        let mut digests = Vec::new();
        let mut rest = text;
        let mut slots = 0_usize;
        loop {
            let (fixed, slot) = match rest.split_once("{{") {
                Some((fixed, slot)) => (fixed, Some(slot)),
                None => (rest, None),
            };
            let fixed = match slots {
                0 => fixed,
                _ => fixed.trim_start_matches(char::is_alphanumeric),
            };
            let fixed = match slot {
                None => fixed,
                Some(_) => fixed.trim_end_matches(char::is_alphanumeric),
            };
            let hashes = words(&key, fixed);
            digests.extend(hashes.windows(WORDS).map(|words| key.hash_words(words)));
            let Some(slot) = slot else { break };
            let (_, after) = slot.split_once("}}").ok_or(TemplateError::OpenSlot)?;
            rest = after;
            slots = slots.saturating_add(1);
        }
        digests.sort_unstable();
        digests.dedup();
        if slots == 0 {
            return Err(TemplateError::NoSlot);
        }
        if digests.len() < SHINGLES_MIN {
            return Err(TemplateError::TooShort(digests.len()));
        }
        digests.truncate(SHINGLES_MAX);
        Ok(Self(digests))
    }

    /// Whether a prompt holds all of it.
    #[must_use]
    pub fn is_in(&self, wording: &Wording) -> bool {
        // A policy has hundreds of templates, of which bits rule out nearly all.
        self.0.iter().all(|digest| wording.maybe.may_have(*digest))
            && self.0.iter().all(|digest| wording.digests.contains(digest))
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|digest| write!(f, "{digest:016x}"))
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Template({self})")
    }
}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let plain = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if !text.bytes().all(plain) || !text.len().is_multiple_of(DIGITS) {
            return Err(TemplateError::Digest);
        }
        let numbers = text.as_bytes().chunks(DIGITS).map(|digits| {
            let digits = std::str::from_utf8(digits).unwrap_or_default();
            u64::from_str_radix(digits, 16)
        });
        let digests: Vec<u64> = numbers
            .collect::<Result<_, _>>()
            .map_err(|_| TemplateError::Digest)?;
        let fits = (SHINGLES_MIN..=SHINGLES_MAX).contains(&digests.len());
        if fits && digests.is_sorted_by(|one, next| one < next) {
            Ok(Self(digests))
        } else {
            Err(TemplateError::Digest)
        }
    }
}

/// Words of 64 bits: fewer than one place in three is taken by what is read of a prompt.
const MAYBE_WORDS: usize = 64;

/// A prompt's shingles under the public key, to be compared with templates and thrown away.
pub struct Wording {
    digests: Vec<u64>,
    maybe: Bits<MAYBE_WORDS>,
}

impl Wording {
    /// Reads both ends of a prompt.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let key = GuardKey::new(PUBLIC_KEY);
        let (head, tail) = ends(text);
        let mut digests = Vec::new();
        for part in [head, tail] {
            let hashes = words(&key, part);
            digests.extend(hashes.windows(WORDS).map(|words| key.hash_words(words)));
        }
        Self {
            maybe: Bits::of(&digests),
            digests,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Summarise the following ticket in two plain sentences:\n\n{{ticket}}\n\nWrite the summary in {{language}}.";

    fn template() -> Template {
        Template::of_text(TEXT).unwrap()
    }

    fn holds(text: &str) -> bool {
        template().is_in(&Wording::of(text))
    }

    #[test]
    fn a_prompt_of_the_template_holds_it_whatever_fills_the_slots() {
        let filled = |ticket: &str, language| {
            TEXT.replace("{{ticket}}", ticket)
                .replace("{{language}}", language)
        };
        assert!(holds(&filled("The printer is on fire.", "Dutch")));
        assert!(holds(&filled(&"printer fire ".repeat(2000), "Dutch")));
        assert!(holds(&filled("", "")));
        assert!(!holds(
            "Summarise the following ticket in two plain sentences: the printer"
        ));
        assert!(!holds("The printer is on fire."));
    }

    #[test]
    fn words_that_touch_a_slot_do_not_count() {
        let touching =
            Template::of_text("one two three four five six pre{{x}}post seven eight nine ten")
                .unwrap();
        let filled = "one two three four five six prefixed postponed seven eight nine ten";
        assert!(touching.is_in(&Wording::of(filled)));
    }

    #[test]
    fn what_could_match_anything_or_nothing_is_refused() {
        let refused = |text: &str| Template::of_text(text).unwrap_err();
        assert_eq!(
            refused("Answer the question: {{q}}"),
            TemplateError::TooShort(1)
        );
        assert_eq!(refused("{{all}}"), TemplateError::TooShort(0));
        assert_eq!(
            refused("one two three four five six seven"),
            TemplateError::NoSlot
        );
        assert_eq!(
            refused("one two {{three four five six seven"),
            TemplateError::OpenSlot
        );
        let long = format!("{{{{x}}}}{}", "word ".repeat(500));
        assert_eq!(refused(&long), TemplateError::TooLong(long.len()));
    }

    #[test]
    fn the_digest_reads_back_and_nothing_else_does() {
        let text = template().to_string();
        assert_eq!(text.parse(), Ok(template()));
        assert!(text.len() <= SHINGLES_MAX * DIGITS);
        let (first, second) = text.split_at(DIGITS);
        let other = [
            String::new(),
            text.to_uppercase(),
            format!("{text}0"),
            format!(" {text}"),
            first.repeat(4),
            format!("{}{first}{}", &second[..DIGITS], &second[DIGITS..]),
            format!("+{}", &text[1..]),
        ];
        for other in other {
            assert_eq!(
                other.parse::<Template>(),
                Err(TemplateError::Digest),
                "{other}"
            );
        }
    }
}
