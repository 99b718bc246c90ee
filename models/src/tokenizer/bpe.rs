//! Byte-level BPE: text is cut into words by the pre-tokenizer's patterns, each byte becomes a character, and the
//! merges are applied in their order.

use fancy_regex::Regex;
use tokenizers::Model as _;
use tokenizers::models::bpe::{BPE, Vocab};

use super::bytes::byte_to_char;
use super::pre::PreTokenizer;
use super::{Kind, TokenizerError};
use crate::gguf::{Array, GgufHeader, Texts};

const NO_SUCH_TOKEN: TokenizerError =
    TokenizerError::Malformed("a merge makes a token that is not there");

pub(super) struct BpeVocabulary {
    patterns: Vec<Regex>,
    bpe: BPE,
}

impl BpeVocabulary {
    pub(super) fn from_header(
        header: &GgufHeader,
        tokens: &Texts,
        kinds: &[Kind],
    ) -> Result<Self, TokenizerError> {
        let pre = PreTokenizer::from_name(header.text("tokenizer.ggml.pre")?.unwrap_or("default"))?;
        let merges = header
            .array("tokenizer.ggml.merges")?
            .and_then(Array::as_texts)
            .ok_or(TokenizerError::Missing("tokenizer.ggml.merges"))?;
        let all = tokens.iter().zip(kinds).enumerate();
        let mergeable = all.filter(|(_, (_, kind))| kind.is_mergeable());
        let vocabulary: Vocab = mergeable
            .map(|(id, (text, _))| (text.to_owned(), id as u32))
            .collect();
        let merges: Option<Vec<(String, String)>> = merges.iter().map(split_pair).collect();
        let merges = merges.ok_or(TokenizerError::Malformed("a merge is not a pair"))?;
        // The builder joins each pair in a buffer of the longest token's size, and panics where it does not fit.
        let longest = vocabulary.keys().map(String::len).max().unwrap_or(0);
        let fits = |(left, right): &(String, String)| left.len() + right.len() <= longest;
        if !merges.iter().all(fits) {
            return Err(NO_SUCH_TOKEN);
        }
        // No cache: it would keep the words of past prompts, and answer faster for words that others have used.
        let bpe = BPE::builder()
            .vocab_and_merges(vocabulary, merges)
            .cache_capacity(0)
            .ignore_merges(pre.whole_words_first())
            .build()
            .map_err(|_| NO_SUCH_TOKEN)?;
        Ok(Self {
            patterns: pre.patterns()?,
            bpe,
        })
    }

    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let mut words = vec![text];
        for pattern in &self.patterns {
            words = split(pattern, &words)?;
        }
        for word in words {
            let mapped: String = word.bytes().map(byte_to_char).collect();
            let tokens = self
                .bpe
                .tokenize(&mapped)
                .map_err(|_| TokenizerError::TooComplex)?;
            ids.extend(tokens.iter().map(|token| token.id));
        }
        Ok(())
    }
}

/// A merge is two texts with a space between; neither is empty.
fn split_pair(pair: &str) -> Option<(String, String)> {
    let (left, right) = pair.split_once(' ')?;
    (!left.is_empty() && !right.is_empty()).then(|| (left.to_owned(), right.to_owned()))
}

/// Cuts each word into what the pattern matches and what lies between.
fn split<'a>(pattern: &Regex, words: &[&'a str]) -> Result<Vec<&'a str>, TokenizerError> {
    let mut pieces = Vec::with_capacity(words.len());
    for word in words {
        let mut end = 0;
        for found in pattern.find_iter(word) {
            let found = found.map_err(|_| TokenizerError::TooComplex)?;
            pieces.extend(word.get(end..found.start()).filter(|gap| !gap.is_empty()));
            pieces.extend(word.get(found.range()).filter(|piece| !piece.is_empty()));
            end = found.end();
        }
        pieces.extend(word.get(end..).filter(|rest| !rest.is_empty()));
    }
    Ok(pieces)
}
