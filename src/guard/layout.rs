//! How the lines of a prompt begin and end. A short template ("Answer the question:") has too few words for shingles of its
//! own, and puts them at the edge of a line, as labels or behind list marks. Public wording at such edges is background too.

use super::hash::GuardKey;
use super::letters::{Letter, Letters};
use super::shingle::shingle;

/// Lines that are read at each end of a prompt.
const END_LINES: usize = 16;
/// Marks of all of them at the most.
pub(super) const MARKS_MAX: usize = 2 * END_LINES * 4;
/// Bytes of a word that count: a line of Han is one word here.
const WORD_BYTES: usize = 64;

/// What a mark says. It begins the mark, as the first of a shingle's words does, so that marks of different kinds do not meet, nor
/// any other shingle.
const BEGINS: u64 = 1;
const ENDS: u64 = 2;
const WHOLE: u64 = 3;
const LABEL: u64 = 4;
const LIST: u64 = 5;

/// Adds the marks of a prompt's beginning and end: at most four a line, of the first and the last 16 lines.
pub(super) fn gather(key: &GuardKey, (head, tail): (&str, &str), marks: &mut Vec<u64>) {
    let mut hashing = Hashing::new(key);
    let lines = head.lines().chain(tail.lines()).map(str::trim);
    let mut lines = lines.filter(|line| !line.is_empty());
    for line in lines.by_ref().take(END_LINES) {
        of_line(&mut hashing, line, marks);
    }
    for line in lines.rev().take(END_LINES) {
        of_line(&mut hashing, line, marks);
    }
}

fn of_line(hashing: &mut Hashing<'_>, line: &str, marks: &mut Vec<u64>) {
    let first = line.chars().next().unwrap_or_default();
    if matches!(first, '-' | '*' | '•' | '#') {
        let sign = u64::from(u32::from(first));
        marks.push(hashing.key.hash_words(&[LIST, sign]));
    }
    let mut ahead = words(line);
    let Some(one) = ahead.next().map(|word| hashing.of(word)) else {
        return;
    };
    let two = ahead.next().map(|word| hashing.of(word));
    match (label_words(line), two) {
        (1, _) => marks.push(shingle(&[LABEL, one])),
        (2, Some(two)) => marks.push(shingle(&[LABEL, one, two])),
        (3, Some(two)) => {
            let three = ahead.next().map(|word| hashing.of(word));
            marks.extend(three.map(|three| shingle(&[LABEL, one, two, three])));
        }
        _ => {}
    }
    let Some(two) = two else {
        return marks.push(shingle(&[WHOLE, one]));
    };
    marks.push(shingle(&[BEGINS, one, two]));
    let mut back = words_back(line);
    if let (Some(last), Some(before)) = (back.next(), back.next()) {
        marks.push(shingle(&[ENDS, hashing.of(last), hashing.of(before)]));
    }
}

/// How many words stand before the first colon: three at most are a label, and no more than four are counted.
fn label_words(line: &str) -> usize {
    let label = line.split_once(':').map(|(label, _)| label);
    words(label.unwrap_or_default()).take(4).count()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(parts_words).filter(|word| !word.is_empty())
}

fn words_back(text: &str) -> impl Iterator<Item = &str> {
    text.rsplit(parts_words).filter(|word| !word.is_empty())
}

/// Here a line of Han is one word, and is read to its end.
fn parts_words(character: char) -> bool {
    Letters::get().of(character) == Letter::Gap
}

/// Hashes words in lower case, one after the other in the same memory.
struct Hashing<'a> {
    key: &'a GuardKey,
    letters: &'static Letters,
    lower: String,
}

impl<'a> Hashing<'a> {
    fn new(key: &'a GuardKey) -> Self {
        Self {
            key,
            letters: Letters::get(),
            lower: String::with_capacity(2 * WORD_BYTES),
        }
    }

    fn of(&mut self, word: &str) -> u64 {
        let end = word.floor_char_boundary(WORD_BYTES);
        let word = word.get(..end).unwrap_or_default();
        let is_lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        if word.bytes().all(is_lower) {
            return self.key.hash(word.as_bytes());
        }
        self.lower.clear();
        for character in word.chars() {
            match self.letters.of(character) {
                Letter::Part(one) => self.lower.push(one),
                _ => self.lower.extend(character.to_lowercase()),
            }
        }
        self.key.hash(self.lower.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(text: &str) -> Vec<u64> {
        let mut marks = Vec::new();
        gather(&GuardKey::new([6; 16]), (text, ""), &mut marks);
        marks.sort_unstable();
        marks.dedup();
        marks
    }

    fn shared(one: &str, other: &str) -> usize {
        let other = marks(other);
        let one = marks(one);
        one.iter().filter(|mark| other.contains(mark)).count()
    }

    #[test]
    fn short_templates_share_their_edges_and_plain_questions_share_none() {
        assert_eq!(
            shared(
                "Answer the following question:\nWhere is the Rhine?",
                "answer the following question:\nWho wrote Faust?"
            ),
            2,
            "a beginning and an end; four words are no label"
        );
        assert_eq!(
            shared("Question: who\nAnswer:", "Question: when\nAnswer:"),
            3,
            "two labels and a line of one word"
        );
        assert_eq!(shared("- Rome\n- Ghent", "which?\n- Bern"), 1, "a list");
        assert_eq!(shared("Where is the Rhine?", "Who wrote Faust?"), 0);
        assert_eq!(marks(" \n\n ??\n"), [0_u64; 0]);
    }

    #[test]
    fn han_are_letters() {
        assert!(('\u{4e00}'..='\u{9fff}').all(char::is_alphanumeric));
        assert_eq!(marks("\u{4e00}\u{9fff} b"), marks("\u{4e00}\u{9fff}, b"));
    }

    #[test]
    fn a_text_of_lines_alone_costs_a_bounded_number_of_marks() {
        let text: String = (0..5000).map(|n| format!("- a{n}: b{n} c{n}\n")).collect();
        let all = marks(&text);
        assert_eq!(all.len(), 2 * END_LINES * 3 + 1);
        let many = |from: usize, lines: usize| {
            let part: String = text.split_inclusive('\n').skip(from).take(lines).collect();
            marks(&part).iter().filter(|one| all.contains(one)).count()
        };
        assert_eq!(many(0, END_LINES), END_LINES * 3 + 1);
        assert_eq!(many(5000 - END_LINES, END_LINES), END_LINES * 3 + 1);
        assert_eq!(many(END_LINES, 1000), 1, "a list, and none of its lines");
    }
}
