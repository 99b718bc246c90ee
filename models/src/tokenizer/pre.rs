//! How byte-level vocabularies cut text into words before merging: the patterns that stand behind the names in
//! `tokenizer.ggml.pre`. An unknown name is refused: wrong words give wrong tokens, and nobody would notice.

use fancy_regex::{Regex, RegexBuilder};

use super::TokenizerError;

/// A family of patterns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PreTokenizer {
    Default,
    Gpt2,
    Llama3,
    /// Llama 3's patterns, without looking whole words up first.
    Smaug,
    Qwen2,
    DeepseekCoder,
    DeepseekV3,
    Falcon,
    Starcoder,
    Bloom,
    Viking,
    Tekken,
    Gpt4o,
}

/// Steps of a pattern's search before it is given up. Real text needs a few for each character.
const BACKTRACK_LIMIT: usize = 64 << 20;

impl PreTokenizer {
    pub(super) fn from_name(name: &str) -> Result<Self, TokenizerError> {
        Ok(match name {
            "default" => Self::Default,
            "gpt-2" | "phi-2" | "mpt" | "olmo" | "jais" | "trillion" | "roberta-bpe"
            | "jina-es" | "jina-de" | "jina-v2-es" | "jina-v2-de" | "jina-v2-code" | "gigachat" => {
                Self::Gpt2
            }
            "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral"
            | "midm-2.0" | "lfm2" => Self::Llama3,
            "smaug-bpe" | "dbrx" | "chatglm-bpe" => Self::Smaug,
            "qwen2" | "deepseek-r1-qwen" | "stablelm2" | "hunyuan" | "megrez" | "kormo" => {
                Self::Qwen2
            }
            "deepseek-coder" => Self::DeepseekCoder,
            "deepseek-v3" | "hunyuan-dense" => Self::DeepseekV3,
            "falcon" => Self::Falcon,
            "starcoder" | "refact" | "command-r" | "smollm" | "codeshell" | "exaone"
            | "minerva-7b" => Self::Starcoder,
            "bloom" | "gpt3-finnish" | "poro-chat" => Self::Bloom,
            "viking" => Self::Viking,
            "tekken" => Self::Tekken,
            "gpt-4o" | "llama4" => Self::Gpt4o,
            other => return Err(TokenizerError::UnsupportedPre(other.to_owned())),
        })
    }

    /// Whether a word that is a token is taken whole, without its merges.
    pub(super) fn whole_words_first(self) -> bool {
        matches!(self, Self::Llama3 | Self::Tekken)
    }

    /// The patterns, applied one after another to what the one before left.
    pub(super) fn patterns(self) -> Result<Vec<Regex>, TokenizerError> {
        let compile = |pattern: &&str| {
            RegexBuilder::new(pattern)
                .backtrack_limit(BACKTRACK_LIMIT)
                .build()
                .map_err(|_| TokenizerError::Malformed("a pre-tokenizer's pattern is refused"))
        };
        self.sources().iter().map(compile).collect()
    }

    fn sources(self) -> &'static [&'static str] {
        match self {
            Self::Default => &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
            Self::Gpt2 => &[GPT2],
            Self::Llama3 | Self::Smaug => &[LLAMA3],
            Self::Qwen2 => &[QWEN2],
            Self::DeepseekCoder => &["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CJK, r"\p{N}"],
            Self::DeepseekV3 => &[r"\p{N}{1,3}", "[一-龥\u{3040}-ゟ゠-ヿ]+", DEEPSEEK_V3],
            Self::Falcon => &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"],
            Self::Starcoder => &[r"\p{N}", GPT2],
            Self::Bloom => &[r" ?[^(\s|.,!?…。，、।۔،)]+"],
            Self::Viking => &[r" ?[^(\s|.,!?…。，、।۔،)]+", r"\p{N}"],
            Self::Tekken => &[TEKKEN],
            Self::Gpt4o => &[GPT4O],
        }
    }
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";
const LLAMA3: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK_V3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?((?=[\p{L}])([^a-z]))*((?=[\p{L}])([^A-Z]))+|[^\r\n\p{L}\p{N}]?((?=[\p{L}])([^a-z]))+((?=[\p{L}])([^A-Z]))*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?((?=[\p{L}])([^a-z]))*((?=[\p{L}])([^A-Z]))+(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|[^\r\n\p{L}\p{N}]?((?=[\p{L}])([^a-z]))+((?=[\p{L}])([^A-Z]))*(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const CJK: &str = "[一-龥\u{800}-一가-\u{d7ff}]+";
