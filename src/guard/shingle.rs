//! A prompt as the guard sees it: keyed hashes of its three-word shingles, of the edges of its lines, and of the whole. The text
//! itself is not kept.

use super::background::Background;
use super::hash::GuardKey;
use super::layout;
use super::letters::{Letter, Letters};
use super::order::ascending;

/// Bytes at the beginning and at the end of a prompt that are read. Templates stand at the ends; work per prompt is bounded.
const END_BYTES: usize = 2048;
/// Words of one shingle.
pub(super) const WORDS: usize = 3;
/// Shingles at each end: 2 KiB have some 350 in English, and 680 in Han. As many as keep the price of any prompt (G16).
const END_SHINGLES: usize = 256;
const END_WORDS: usize = END_SHINGLES + WORDS - 1;
/// Shingles and marks that are kept. Only long prompts of short lines have more: the smallest hashes are kept then, because
/// they are the same in prompts that are alike (Broder, On the resemblance and containment of documents, 1997).
const KEPT_MAX: usize = 2 * END_SHINGLES + 64;

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
        let (first, last) = end_words(key, head, tail);
        let mut all = Vec::with_capacity(first.len() + last.len() + layout::MARKS_MAX);
        for end in [&first, &last] {
            all.extend(end.windows(WORDS).map(shingle));
        }
        let blank = all.is_empty();
        if !blank {
            layout::gather(key, (head, tail), &mut all);
        }
        let mut all = ascending(&all);
        all.dedup();
        all.truncate(KEPT_MAX);
        let (public, shingles) = background.part(&all);
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

/// One shingle of the hashes of its words, which nobody knows who has no key: a sum tells different ones apart as well as a second
/// keyed hash would.
pub(super) fn shingle(words: &[u64]) -> u64 {
    let sum = |sum: u64, word: &u64| sum.rotate_left(21).wrapping_add(*word);
    words.iter().fold(0, sum)
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

/// Hashes of the first and of the last words; all together if nothing is between them.
fn end_words(key: &GuardKey, head: &str, tail: &str) -> (Vec<u64>, Vec<u64>) {
    let mut first = Vec::with_capacity(END_WORDS);
    let mut take = |word: &str| {
        first.push(key.hash(word.as_bytes()));
        first.len() < END_WORDS
    };
    let rest = words_while(head, &mut take);
    if !tail.is_empty() {
        return (first, words(key, last_words(tail).unwrap_or(tail)));
    }
    if let Some(last) = last_words(rest) {
        return (first, words(key, last));
    }
    first.extend(words(key, rest));
    (first, Vec::new())
}

/// The last words, if there are more before them.
fn last_words(text: &str) -> Option<&str> {
    let letters = Letters::get();
    let (mut words, mut in_word) = (0, false);
    let mut before = text.chars();
    loop {
        let end = before.as_str().len();
        let letter = letters.of(before.next_back()?);
        let is_part = matches!(letter, Letter::Part(_) | Letter::Parts);
        if letter == Letter::Alone || is_part && !in_word {
            if words == END_WORDS {
                return text.get(end..);
            }
            words += 1;
        }
        in_word = is_part;
    }
}

/// Hands each word on, in their order.
pub(super) fn each_word(text: &str, mut take: impl FnMut(&str)) {
    words_while(text, |word| {
        take(word);
        true
    });
}

/// Hands words on as long as more are wanted. What was not read.
fn words_while(text: &str, mut take: impl FnMut(&str) -> bool) -> &str {
    let letters = Letters::get();
    let mut word = String::new();
    let mut rest = text;
    loop {
        if word.is_empty() {
            let (plain, after) = rest.split_at(plain_bytes(rest));
            if ends_word(after) {
                // Most words are in the text as they are taken.
                rest = after.get(1..).unwrap_or_default();
                let goes_on = plain.is_empty() || take(plain);
                if !goes_on || rest.is_empty() {
                    return rest;
                }
                continue;
            }
            word.push_str(plain);
            rest = after;
        }
        let mut characters = rest.chars();
        let letter = characters.next().map(|next| (next, letters.of(next)));
        match letter {
            Some((_, Letter::Part(lower))) => word.push(lower),
            Some((several, Letter::Parts)) => word.extend(several.to_lowercase()),
            // What ends a word is looked at again, without one.
            _ if !word.is_empty() => {
                if !take(&word) {
                    return rest;
                }
                word.clear();
                continue;
            }
            Some((alone, Letter::Alone)) if !take(alone.encode_utf8(&mut [0; 4])) => {
                return characters.as_str();
            }
            Some(_) => {}
            None => return rest,
        }
        rest = characters.as_str();
    }
}

/// Bytes at the beginning that are lower-case letters and digits of ASCII.
fn plain_bytes(text: &str) -> usize {
    let is_other = |byte: u8| !byte.is_ascii_lowercase() && !byte.is_ascii_digit();
    text.bytes().position(is_other).unwrap_or(text.len())
}

/// Whether no word goes on here, as far as one byte tells.
fn ends_word(after: &str) -> bool {
    let next = after.bytes().next();
    next.is_none_or(|byte| byte.is_ascii() && !byte.is_ascii_alphanumeric())
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
    fn words_are_the_same_wherever_they_are_read_from() {
        let words = |text: &str| {
            let mut words = Vec::new();
            each_word(text, |word| words.push(word.to_owned()));
            words
        };
        let text = "plain w0rds, Big ONES; naïve élan-vital x何y ẞtrasse. İt ends";
        let expected = [
            "plain",
            "w0rds",
            "big",
            "ones",
            "naïve",
            "élan",
            "vital",
            "x",
            "何",
            "y",
            "ßtrasse",
            "i\u{307}t",
            "ends",
        ];
        assert_eq!(words(text), expected);
        assert_eq!(words(" - "), [""; 0]);
        assert_eq!(words("one"), ["one"]);
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
    fn a_long_list_keeps_what_lists_like_it_keep() {
        let list = |from: usize| -> String {
            let lines = (from..from + 400).map(|n| format!("- a{n}: b{n} c{n}\n"));
            lines.collect()
        };
        let (one, next) = (shingles(&list(0)), shingles(&list(3)));
        assert_eq!((one.len(), next.len()), (KEPT_MAX, KEPT_MAX));
        let both = one.iter().filter(|one| next.contains(one)).count();
        assert!(both > KEPT_MAX * 9 / 10, "{both}");
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
