//! Barriers: a character that nobody uses marks the places across which no control token may be recognised.

use super::finder::TokenFinder;

/// U+FDD0, which Unicode reserves for a program's own use. In a user's text it becomes U+FFFD.
pub const BARRIER: char = '\u{fdd0}';

/// `content` with barriers: inside every text of a token in `markup` (whatever its case), and at both ends, and next
/// to the white space there (which templates trim), where a token's text could be completed from outside.
pub(super) fn insert(content: &str, markup: &TokenFinder) -> String {
    let content = content.replace(BARRIER, "\u{fffd}");
    let folded = content.to_ascii_lowercase();
    let trimmed_start = folded.len() - folded.trim_start().len();
    let trimmed_end = folded.trim_end().len();
    let mut places = Vec::new();
    for token in markup.texts().map(str::to_ascii_lowercase) {
        let first = token.chars().next().map_or(0, char::len_utf8);
        let inside = folded.match_indices(&token).map(|(at, _)| at + first);
        places.extend(inside.filter(|_| token.len() > first));
        for (cut, _) in token.char_indices().skip(1) {
            let (head, tail) = token.split_at(cut);
            let starts = [0, trimmed_start].into_iter();
            places.extend(starts.filter(|at| begins(folded.get(*at..), tail)));
            let ends = [folded.len(), trimmed_end].into_iter();
            places.extend(ends.filter(|at| ends_with(folded.get(..*at), head)));
        }
    }
    places.sort_unstable();
    places.dedup();
    let mut out = content;
    for place in places.into_iter().rev() {
        out.insert(place, BARRIER);
    }
    out
}

/// Whether `text` begins with `tail`, or is the beginning of it.
fn begins(text: Option<&str>, tail: &str) -> bool {
    text.is_some_and(|text| !text.is_empty() && (text.starts_with(tail) || tail.starts_with(text)))
}

/// Whether `text` ends with `head`, or is the end of it.
fn ends_with(text: Option<&str>, head: &str) -> bool {
    text.is_some_and(|text| !text.is_empty() && (text.ends_with(head) || head.ends_with(text)))
}

/// `rendered` without barriers, and where in it they stood, ascending.
pub(super) fn remove(rendered: &str) -> (String, Vec<usize>) {
    let mut text = String::with_capacity(rendered.len());
    let mut barriers = Vec::new();
    for piece in rendered.split_inclusive(BARRIER) {
        match piece.strip_suffix(BARRIER) {
            Some(before) => {
                text.push_str(before);
                barriers.push(text.len());
            }
            None => text.push_str(piece),
        }
    }
    (text, barriers)
}
