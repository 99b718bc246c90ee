//! SentencePiece BPE with scores: of all neighbouring pieces whose union is a token, the union with the highest score
//! is made first, of equals the leftmost. What is no token in the end is spelt with byte tokens.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use super::bytes::byte_token;
use super::{Kind, TokenizerError};
use crate::gguf::{GgufHeader, Texts};

pub(super) struct SpmVocabulary {
    /// Tokens that plain text may become, with their scores.
    tokens: HashMap<String, (u32, f32)>,
    /// Ids of the byte tokens, or of the unknown token where there is none.
    bytes: Vec<Option<u32>>,
    adds_space: bool,
}

impl SpmVocabulary {
    pub(super) fn from_header(
        header: &GgufHeader,
        tokens: &Texts,
        kinds: &[Kind],
    ) -> Result<Self, TokenizerError> {
        let scores = header
            .array("tokenizer.ggml.scores")?
            .and_then(|array| array.as_floats())
            .ok_or(TokenizerError::Missing("tokenizer.ggml.scores"))?;
        if scores.len() != tokens.len() {
            return Err(TokenizerError::Malformed(
                "scores has another length than tokens",
            ));
        }
        let unknown = kinds
            .iter()
            .position(|kind| *kind == Kind::Unknown)
            .map(|id| id as u32);
        let mut bytes = vec![unknown; 256];
        let mut by_text = HashMap::with_capacity(tokens.len());
        for (id, ((text, kind), score)) in tokens.iter().zip(kinds).zip(scores).enumerate() {
            match kind {
                Kind::Byte => {
                    let slot = byte_token(text).and_then(|byte| bytes.get_mut(usize::from(byte)));
                    *slot.ok_or(TokenizerError::Malformed("a byte token is not like <0x0A>"))? =
                        Some(id as u32);
                }
                kind if kind.is_mergeable() => {
                    by_text.insert(text.to_owned(), (id as u32, *score as f32));
                }
                _ => {}
            }
        }
        Ok(Self {
            tokens: by_text,
            bytes,
            adds_space: header
                .boolean("tokenizer.ggml.add_space_prefix")?
                .unwrap_or(true),
        })
    }

    /// Whether a space stands before the first word of a text.
    pub(super) fn adds_space(&self) -> bool {
        self.adds_space
    }

    pub(super) fn encode(&self, text: &str, at_start: bool, ids: &mut Vec<u32>) {
        let prefix = if at_start && self.adds_space {
            "▁"
        } else {
            ""
        };
        let text = format!("{prefix}{}", text.replace(' ', "▁"));
        let mut merge = Merge::new(self, &text);
        merge.run();
        for piece in merge.pieces() {
            match self.tokens.get(piece) {
                Some((id, _)) => ids.push(*id),
                None => ids.extend(
                    piece
                        .bytes()
                        .filter_map(|byte| *self.bytes.get(usize::from(byte))?),
                ),
            }
        }
    }
}

/// A piece of the text: a run of characters, linked to its neighbours.
struct Symbol {
    start: usize,
    len: usize,
    previous: Option<usize>,
    next: Option<usize>,
}

/// A union that could be made.
struct Candidate {
    score: f32,
    left: usize,
    right: usize,
    len: usize,
}

struct Merge<'a> {
    vocabulary: &'a SpmVocabulary,
    text: &'a str,
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Candidate>,
}

impl<'a> Merge<'a> {
    fn new(vocabulary: &'a SpmVocabulary, text: &'a str) -> Self {
        let count = text.chars().count();
        let symbols = text
            .char_indices()
            .enumerate()
            .map(|(index, (start, c))| Symbol {
                start,
                len: c.len_utf8(),
                previous: index.checked_sub(1),
                next: Some(index + 1).filter(|next| *next < count),
            });
        let mut merge = Self {
            vocabulary,
            text,
            symbols: symbols.collect(),
            queue: BinaryHeap::new(),
        };
        for left in 0..count.saturating_sub(1) {
            merge.propose(Some(left), Some(left + 1));
        }
        merge
    }

    fn propose(&mut self, left: Option<usize>, right: Option<usize>) {
        let (Some(left), Some(right)) = (left, right) else {
            return;
        };
        let (Some(first), Some(second)) = (self.symbols.get(left), self.symbols.get(right)) else {
            return;
        };
        let len = first.len + second.len;
        let union = self.text.get(first.start..first.start + len);
        if let Some((_, score)) = union.and_then(|union| self.vocabulary.tokens.get(union)) {
            let score = *score;
            self.queue.push(Candidate {
                score,
                left,
                right,
                len,
            });
        }
    }

    fn run(&mut self) {
        while let Some(candidate) = self.queue.pop() {
            if let Some((previous, next)) = self.unite(&candidate) {
                self.propose(previous, Some(candidate.left));
                self.propose(Some(candidate.left), next);
            }
        }
    }

    /// Makes the union if both pieces are still as they were; answers the new neighbours.
    fn unite(&mut self, candidate: &Candidate) -> Option<(Option<usize>, Option<usize>)> {
        let right = self.symbols.get(candidate.right)?;
        let left = self.symbols.get(candidate.left)?;
        if left.len == 0 || right.len == 0 || left.len + right.len != candidate.len {
            return None;
        }
        let next = right.next;
        self.symbols.get_mut(candidate.right)?.len = 0;
        if let Some(after) = next.and_then(|next| self.symbols.get_mut(next)) {
            after.previous = Some(candidate.left);
        }
        let left = self.symbols.get_mut(candidate.left)?;
        left.len = candidate.len;
        left.next = next;
        Some((left.previous, next))
    }

    fn pieces(&self) -> impl Iterator<Item = &'a str> {
        let live = self.symbols.iter().filter(|symbol| symbol.len > 0);
        live.filter_map(|symbol| self.text.get(symbol.start..symbol.start + symbol.len))
    }
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score
            .total_cmp(&other.score)
            .then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Candidate {}
