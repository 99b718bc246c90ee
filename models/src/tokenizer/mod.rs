//! Text to token ids and back, from a GGUF file's metadata.
//!
//! A user's text never becomes a control token. Plain text ([`Tokenizer::encode_text`]) is merged with a vocabulary
//! that does not contain control tokens. For a chat, contents are first made harmless ([`Tokenizer::harmless`]): a
//! [`BARRIER`] is put inside every control token's text that they hold, and at their ends where they could complete
//! one together with what stands beside them. The template then works on the contents as they are, and
//! [`Tokenizer::encode_rendered`] takes the barriers out again and recognises no control token across one. Between
//! control tokens, template and contents are tokenised together, so that honest text gets the ids of the training.

mod barrier;
mod bpe;
mod bytes;
mod error;
mod finder;
mod pre;
mod spm;
mod stream;

pub use barrier::BARRIER;
use bpe::BpeVocabulary;
use bytes::TokenBytes;
pub use error::TokenizerError;
use finder::{Piece, TokenFinder};
use spm::SpmVocabulary;
pub use stream::TextStream;

use crate::gguf::{Array, GgufHeader, Texts};
use crate::grammar::{GrammarError, Grammars};

/// A vocabulary and how text is cut into it.
pub struct Tokenizer {
    model: Model,
    /// Control and markup tokens: recognised in template text only.
    markup: TokenFinder,
    /// Tokens that are plain text but are never merged from pieces, such as runs of spaces.
    verbatim: TokenFinder,
    bytes: TokenBytes,
    special: SpecialTokens,
}

enum Model {
    Spm(SpmVocabulary),
    Bpe(Box<BpeVocabulary>),
}

/// The ids that mean something to the engine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Beginning of a text.
    pub bos: Option<u32>,
    /// End of a text.
    pub eos: Option<u32>,
    /// Ends of a text or of a turn: generation stops at each of them.
    pub ends: Vec<u32>,
    /// Whether a prompt begins with `bos`.
    pub add_bos: bool,
}

impl Tokenizer {
    /// Builds the tokenizer that the metadata describes.
    ///
    /// # Errors
    /// [`TokenizerError`], naming what is missing, malformed or not supported.
    pub fn from_header(header: &GgufHeader) -> Result<Self, TokenizerError> {
        let tokens = header
            .array("tokenizer.ggml.tokens")?
            .and_then(Array::as_texts)
            .filter(|tokens| !tokens.is_empty())
            .ok_or(TokenizerError::Missing("tokenizer.ggml.tokens"))?;
        if u32::try_from(tokens.len()).is_err() {
            return Err(TokenizerError::Malformed("more tokens than 32 bits count"));
        }
        let kinds = kinds(header, tokens.len())?;
        let family = header
            .text("tokenizer.ggml.model")?
            .ok_or(TokenizerError::Missing("tokenizer.ggml.model"))?;
        let model = match family {
            "llama" => Model::Spm(SpmVocabulary::from_header(header, tokens, &kinds)?),
            "gpt2" => Model::Bpe(Box::new(BpeVocabulary::from_header(
                header, tokens, &kinds,
            )?)),
            other => return Err(TokenizerError::UnsupportedModel(other.to_owned())),
        };
        let bytes = match model {
            Model::Spm(_) => TokenBytes::of_spm(tokens, &kinds),
            Model::Bpe(_) => TokenBytes::of_bpe(tokens, &kinds),
        };
        let of = |wanted: fn(Kind, &str) -> bool| {
            let all = tokens.iter().zip(&kinds).enumerate();
            TokenFinder::new(
                all.filter(|(_, (text, kind))| wanted(**kind, text))
                    .map(|(id, (text, _))| (text, id as u32)),
            )
        };
        Ok(Self {
            markup: of(|kind, text| kind.is_markup(text)),
            verbatim: of(|kind, text| kind == Kind::UserDefined && !kind.is_markup(text)),
            special: SpecialTokens::from_header(header, tokens, &kinds)?,
            model,
            bytes,
        })
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Never: a vocabulary has tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The ids that mean something to the engine.
    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// A control token's text, for a template that writes `bos_token` or `eos_token`.
    pub fn markup_text(&self, id: u32) -> Option<&str> {
        self.markup.text(id)
    }

    /// A user's content for a template, with barriers where a control token could arise.
    pub fn harmless(&self, content: &str) -> String {
        barrier::insert(content, &self.markup)
    }

    /// Ids of what a template rendered: control tokens are recognised where no barrier stands inside them. Adds no
    /// `bos`.
    ///
    /// # Errors
    /// [`TokenizerError::TooComplex`].
    pub fn encode_rendered(&self, rendered: &str) -> Result<Vec<u32>, TokenizerError> {
        let (text, barriers) = barrier::remove(rendered);
        let is_whole = |at: usize, len: usize| {
            let first_inside = barriers.partition_point(|barrier| *barrier <= at);
            barriers
                .get(first_inside)
                .is_none_or(|barrier| *barrier >= at + len)
        };
        let mut ids = Vec::with_capacity(text.len() / 3);
        let mut after_special = true;
        self.markup.split(&text, is_whole, |piece| {
            match piece {
                Piece::Token(id) => {
                    ids.push(id);
                    after_special = true;
                }
                Piece::Text(text) => {
                    self.encode_plain(text, after_special, &mut ids)?;
                    after_special = false;
                }
            }
            Ok(())
        })?;
        Ok(ids)
    }

    /// Ids of a user's text: no control token, and `bos` in front where the vocabulary asks for it.
    ///
    /// # Errors
    /// [`TokenizerError::TooComplex`].
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        if !text.is_empty() {
            self.encode_plain(text, true, &mut ids)?;
        }
        Ok(self.with_bos(ids))
    }

    /// `ids` with `bos` in front, where the vocabulary asks for it and it is not there.
    pub fn with_bos(&self, mut ids: Vec<u32>) -> Vec<u32> {
        let bos = self.special.bos.filter(|_| self.special.add_bos);
        if let Some(bos) = bos.filter(|bos| ids.first() != Some(bos)) {
            ids.insert(0, bos);
        }
        ids
    }

    /// A decoder for the tokens that follow a prompt.
    pub fn text_stream(&self) -> TextStream {
        TextStream::default()
    }

    /// The bytes that a token stands for: none for a control token.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.bytes.get(id)
    }

    /// Grammars over this vocabulary. Control tokens and markup never follow in one, ends only where it is complete.
    ///
    /// # Errors
    /// [`GrammarError::Unsupported`].
    pub fn grammars(&self) -> Result<Grammars, GrammarError> {
        let word = |id: u32| match self.markup_text(id) {
            Some(_) => Vec::new(),
            None => self.token_bytes(id).to_vec(),
        };
        let words = (0..self.len() as u32).map(word).collect();
        Grammars::new(words, self.special.ends.clone())
    }

    /// The text of `ids` from the beginning of a text: control tokens are left out, and so is the space that the
    /// vocabulary puts before a text's first word.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut stream = TextStream::default();
        let mut text = String::new();
        for &id in ids {
            text.push_str(&stream.push(self.token_bytes(id)));
        }
        text.push_str(&stream.finish());
        match &self.model {
            Model::Spm(vocabulary) if vocabulary.adds_space() => {
                text.strip_prefix(' ').map(str::to_owned).unwrap_or(text)
            }
            _ => text,
        }
    }

    fn encode_plain(
        &self,
        text: &str,
        at_start: bool,
        ids: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        let mut at_start = at_start;
        self.verbatim.split(
            text,
            |_, _| true,
            |piece| {
                match (piece, &self.model) {
                    (Piece::Token(id), _) => {
                        ids.push(id);
                        at_start = true;
                        return Ok(());
                    }
                    (Piece::Text(text), Model::Spm(model)) => model.encode(text, at_start, ids),
                    (Piece::Text(text), Model::Bpe(model)) => model.encode(text, ids)?,
                }
                at_start = false;
                Ok(())
            },
        )
    }
}

/// What GGUF calls `token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl Kind {
    /// Whether a user's text must never become this token. Converters mark chat markup as user-defined as often as
    /// control; user-defined tokens that are plain text are runs of whitespace and single characters.
    fn is_markup(self, text: &str) -> bool {
        match self {
            Self::Control | Self::Unknown => true,
            Self::UserDefined => {
                text.chars().count() > 1 && !text.chars().all(|c| c.is_whitespace() || c == '▁')
            }
            _ => false,
        }
    }

    /// Whether plain text may be merged into this token.
    fn is_mergeable(self) -> bool {
        matches!(self, Self::Normal | Self::Unused | Self::Byte)
    }
}

fn kinds(header: &GgufHeader, count: usize) -> Result<Vec<Kind>, TokenizerError> {
    let Some(array) = header.array("tokenizer.ggml.token_type")? else {
        return Ok(vec![Kind::Normal; count]);
    };
    let numbers = array
        .as_integers()
        .filter(|numbers| numbers.len() == count)
        .ok_or(TokenizerError::Malformed(
            "token_type has another length than tokens",
        ))?;
    let kind = |number: &i64| match number {
        1 => Ok(Kind::Normal),
        2 => Ok(Kind::Unknown),
        3 => Ok(Kind::Control),
        4 => Ok(Kind::UserDefined),
        5 => Ok(Kind::Unused),
        6 => Ok(Kind::Byte),
        _ => Err(TokenizerError::Malformed(
            "token_type has an undefined number",
        )),
    };
    numbers.iter().map(kind).collect()
}

impl SpecialTokens {
    fn from_header(
        header: &GgufHeader,
        tokens: &Texts,
        kinds: &[Kind],
    ) -> Result<Self, TokenizerError> {
        let id = |key: &str| match header.unsigned(key)? {
            None => Ok(None),
            Some(id) if (id as usize) < tokens.len() => Ok(Some(id as u32)),
            Some(_) => Err(TokenizerError::Malformed(
                "a special token is not in the vocabulary",
            )),
        };
        let mut ends = Vec::new();
        for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
            ends.extend(id(&format!("tokenizer.ggml.{key}"))?);
        }
        let by_text = tokens
            .iter()
            .zip(kinds)
            .enumerate()
            .filter(|(_, (text, kind))| kind.is_markup(text) && TURN_ENDS.contains(text));
        ends.extend(by_text.map(|(id, _)| id as u32));
        ends.sort_unstable();
        ends.dedup();
        let is_spm = header.text("tokenizer.ggml.model")? == Some("llama");
        Ok(Self {
            bos: id("tokenizer.ggml.bos_token_id")?,
            eos: id("tokenizer.ggml.eos_token_id")?,
            ends,
            add_bos: header
                .boolean("tokenizer.ggml.add_bos_token")?
                .unwrap_or(is_spm),
        })
    }
}

/// Tokens that end a turn in known models, whatever their metadata says.
const TURN_ENDS: [&str; 9] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<EOT>",
    "<|EOT|>",
];
