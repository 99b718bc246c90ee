//! A prompt as the guard sees it: keyed hashes of its three-word shingles, of the edges of its lines, and of the whole. The text
//! itself is not kept.

use super::background::Background;
use super::hash::GuardKey;
use super::layout;

/// Bytes at the beginning and at the end of a prompt that are read. Templates stand at the ends; work per prompt is bounded.
const END_BYTES: usize = 2048;
/// Shingles at each end: 2 KiB have some 350 in English, and 680 in Han. As many as keep the price of any prompt (G16).
const END_SHINGLES: usize = 256;
/// Words of one shingle.
pub(super) const WORDS: usize = 3;

/// What the guard takes from the last turn of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    digest: u64,
    shingles: Vec<u64>,
    public: Vec<u64>,
    blank: bool,
}

impl Prompt {
    /// Reads a text: words are runs of letters and digits in lower case; a character of a script without spaces is a word.
    /// Shingles of the background are kept apart: they tell no template, and still fill its slot.
    #[must_use]
    pub fn read(key: &GuardKey, background: &Background, text: &str) -> Self {
        let (head, tail) = ends(text);
        let (head_words, tail_words) = (words(key, head), words(key, tail));
        let all = || head_words.windows(WORDS).chain(tail_words.windows(WORDS));
        let tail_from = all().count().saturating_sub(END_SHINGLES);
        let kept = (0..).zip(all());
        let kept = kept.filter(|(at, _)| *at < END_SHINGLES || *at >= tail_from);
        let mut shingles: Vec<u64> = kept.map(|(_, words)| key.hash_words(words)).collect();
        let blank = shingles.is_empty();
        if !blank {
            layout::gather(key, head, &mut shingles);
            layout::gather(key, tail, &mut shingles);
        }
        shingles.sort_unstable();
        shingles.dedup();
        let (public, shingles) = shingles.into_iter().partition(|one| background.has(*one));
        Self {
            digest: key.hash(text.as_bytes()),
            shingles,
            public,
            blank,
        }
    }

    /// Hash of the whole text.
    #[must_use]
    pub const fn digest(&self) -> u64 {
        self.digest
    }

    /// Whether the text has fewer than three words, and so no shingle at all.
    #[must_use]
    pub const fn is_blank(&self) -> bool {
        self.blank
    }

    /// Hashes of the distinct shingles and marks of line edges that are not public, ascending.
    #[must_use]
    pub fn shingles(&self) -> &[u64] {
        &self.shingles
    }

    /// Those that anybody writes, ascending.
    #[must_use]
    pub fn public(&self) -> &[u64] {
        &self.public
    }
}

/// Beginning and end, which do not overlap.
pub(super) fn ends(text: &str) -> (&str, &str) {
    if text.len() <= END_BYTES * 2 {
        return (text, "");
    }
    let first = text.floor_char_boundary(END_BYTES);
    let last = text.ceil_char_boundary(text.len().saturating_sub(END_BYTES));
    let head = text.get(..first).unwrap_or_default();
    (head, text.get(last..).unwrap_or_default())
}

/// Hashes of the words, in their order.
pub(super) fn words(key: &GuardKey, text: &str) -> Vec<u64> {
    let mut hashes = Vec::new();
    each_word(text, |word| hashes.push(key.hash(word.as_bytes())));
    hashes
}

/// Hands each word on, in their order.
pub(super) fn each_word(text: &str, mut take: impl FnMut(&str)) {
    let mut word = String::new();
    for character in text.chars() {
        let alone = stands_alone(character);
        if (alone || !character.is_alphanumeric()) && !word.is_empty() {
            take(&word);
            word.clear();
        }
        if alone {
            take(character.encode_utf8(&mut [0; 4]));
        } else if character.is_ascii_alphanumeric() {
            word.push(character.to_ascii_lowercase());
        } else if character.is_alphanumeric() {
            word.extend(character.to_lowercase());
        }
    }
    if !word.is_empty() {
        take(&word);
    }
}

/// Scripts that put no space between words: Thai to Khmer, kana, Han.
const fn stands_alone(character: char) -> bool {
    matches!(character,
        '\u{e00}'..='\u{eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' | '\u{3040}'..='\u{30ff}'
        | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Prompt {
        Prompt::read(&GuardKey::new([1; 16]), &Background::default(), text)
    }

    fn shingles(text: &str) -> Vec<u64> {
        read(text).shingles
    }

    /// Of a text without colons, of one line: without the marks of its two edges.
    fn inner(text: &str) -> usize {
        shingles(text).len() - 2
    }

    #[test]
    fn case_and_punctuation_do_not_count_and_words_do() {
        assert_eq!(
            shingles("One two. THREE-four"),
            shingles("one, TWO three four!")
        );
        assert_eq!(inner("one two three four"), 2);
        assert_eq!(shingles("one two"), [0_u64; 0]);
        assert_eq!(inner("a a a a a a"), 1, "distinct ones");
        assert_eq!(
            shingles("何が起きた").len(),
            4,
            "five characters, three shingles, and the line as one word"
        );
        assert_ne!(shingles("one two three"), shingles("one two tree"));
    }

    #[test]
    fn dense_text_costs_no_more_and_both_its_ends_count() {
        let han = |from: u32| -> String { (from..from + 650).filter_map(char::from_u32).collect() };
        let dense = format!("{}{}", han(0x4e00), han(0x6e00));
        let seen = shingles(&dense);
        assert!(seen.len() <= 2 * END_SHINGLES + 4, "{}", seen.len());
        let known = |part: &str| {
            shingles(part)
                .iter()
                .filter(|one| seen.contains(one))
                .count()
        };
        let first: String = dense.chars().take(100).collect();
        let last: String = dense.chars().skip(1200).collect();
        assert!(known(&first) >= 98 && known(&last) >= 98);
        let middle: String = dense.chars().skip(300).take(50).collect();
        assert_eq!(known(&middle), 0);
    }

    #[test]
    fn a_long_prompt_costs_no_more_than_its_ends() {
        let words = |from: usize| {
            (from..from + 500)
                .map(|n| format!("w{n} "))
                .collect::<String>()
        };
        let (head, tail) = (words(0), words(1000));
        let long = format!("{head}{}{tail}", "é".repeat(1_000_000));
        let seen = shingles(&long);
        assert!(
            seen.len() > 500 && seen.len() <= 2 * END_SHINGLES + 8,
            "{}",
            seen.len()
        );
        assert_ne!(
            read(&long).digest(),
            read(&long[..long.len() - 1]).digest(),
            "the digest is of all of it"
        );
    }
}
