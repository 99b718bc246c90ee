//! Answers of a given shape: JSON, or JSON of a schema. A [`Grammar`] says before each draw which tokens may follow.
//!
//! llguidance does the work (docs/decisions/0011). Schemas come from outside, so everything about them is bounded: what goes
//! in (`bounds.rs`), how much work compiling and each mask may take, how long is waited, and how many are compiled at once.
//! Errors are words of this file and never repeat what a schema says.

mod bounds;
mod error;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::{JsonCompileOptions, Matcher, ParserFactory};
use serde_json::{Value, json};

pub use bounds::{MULTIPLE_MAX, OBJECTS_MAX, PATTERN_LEN_MAX, PATTERNS_MAX, SCHEMA_LEN_MAX};
pub use error::{GrammarError, Stuck};

/// Schemas compiled at once. What is more is refused as busy.
const COMPILERS_MAX: usize = 4;
/// How long compiling a schema may take. Its bounds keep it far below that.
const COMPILE_MAX: Duration = Duration::from_secs(10);
/// Stack of a compiling thread: a schema's references are followed by recursion, one after the other.
const COMPILE_STACK: usize = 64 << 20;
/// Tokens whose bits stand together.
const WORD: usize = u32::BITS as usize;
/// White space between two parts of a JSON text: enough for deep indentation, too little to go on for ever.
const WHITE_SPACE: &str = r"[\x20\x0A\x0D\x09]{1,32}";

/// What an answer must be.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    /// Any JSON object.
    Object,
    /// A value of this JSON Schema.
    Schema(Value),
}

/// Compiles shapes to grammars over one vocabulary. Clones share it.
#[derive(Clone)]
pub struct Grammars {
    inner: Arc<Inner>,
}

struct Inner {
    factory: ParserFactory,
    ends: Vec<u32>,
    vocabulary_len: usize,
    compiling: AtomicUsize,
}

impl Grammars {
    /// Grammars over tokens that stand for these bytes, in the order of their ids. Tokens without bytes never follow;
    /// those in `ends` follow where an answer may end.
    ///
    /// # Errors
    /// [`GrammarError::Unsupported`] for a vocabulary that cannot be used.
    pub fn new(words: Vec<Vec<u8>>, ends: Vec<u32>) -> Result<Self, GrammarError> {
        let build = move || {
            let mut words = words;
            for end in &ends {
                if let Some(word) = words.get_mut(*end as usize) {
                    word.clear();
                }
            }
            // The end that the library knows is one token more than there are: real ends are allowed beside its masks.
            let end = u32::try_from(words.len()).map_err(|_| GrammarError::Unsupported)?;
            let vocabulary_len = words.len();
            words.push(Vec::new());
            let trie = TokTrie::from(&TokRxInfo::new(end + 1, end), &words);
            let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
            let slices = SlicedBiasComputer::json_slices();
            let mut factory =
                ParserFactory::new(&environment, InferenceCapabilities::default(), &slices)
                    .map_err(|_| GrammarError::Unsupported)?;
            factory.quiet();
            *factory.limits_mut() = limits();
            Ok(Self {
                inner: Arc::new(Inner {
                    factory,
                    ends,
                    vocabulary_len,
                    compiling: AtomicUsize::new(0),
                }),
            })
        };
        catch_unwind(AssertUnwindSafe(build)).unwrap_or(Err(GrammarError::Unsupported))
    }

    /// The grammar of a shape, at the beginning of an answer. Takes up to seconds: not for the engine's thread.
    ///
    /// # Errors
    /// [`GrammarError`] says what is wrong with the schema.
    pub fn compile(&self, shape: &Shape) -> Result<Grammar, GrammarError> {
        let mut schema = match shape {
            Shape::Object => json!({"type": "object"}),
            Shape::Schema(schema) => {
                bounds::check(schema)?;
                schema.clone()
            }
        };
        let options = JsonCompileOptions {
            whitespace_pattern: Some(WHITE_SPACE.to_owned()),
            ..JsonCompileOptions::default()
        };
        options.apply_to(&mut schema);
        let turn = Turn::take(&self.inner)?;
        let (sender, compiled) = mpsc::sync_channel(1);
        let compiler = thread::Builder::new()
            .name("grammar".to_owned())
            .stack_size(COMPILE_STACK);
        let started = compiler.spawn(move || {
            let compile = || turn.0.compile(schema);
            let made = catch_unwind(AssertUnwindSafe(compile));
            drop(turn);
            let _ = sender.send(made.unwrap_or(Err(GrammarError::Unsupported)));
        });
        started.map_err(|_| GrammarError::Busy)?;
        // A compiler that is not back in time keeps its turn, so that there are never more than a few.
        compiled
            .recv_timeout(COMPILE_MAX)
            .map_err(|_| GrammarError::TooComplex)?
    }
}

/// A place among those who compile.
struct Turn(Arc<Inner>);

impl Turn {
    fn take(inner: &Arc<Inner>) -> Result<Self, GrammarError> {
        let one_more = |now| (now < COMPILERS_MAX).then_some(now + 1);
        let order = Ordering::SeqCst;
        match inner.compiling.fetch_update(order, order, one_more) {
            Ok(_) => Ok(Self(Arc::clone(inner))),
            Err(_) => Err(GrammarError::Busy),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.compiling.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Inner {
    fn compile(&self, schema: Value) -> Result<Grammar, GrammarError> {
        let parser = self
            .factory
            .create_parser(TopLevelGrammar::from_json_schema(schema));
        let parser = parser.map_err(|error| GrammarError::of(&error.to_string()))?;
        let mut grammar = Grammar {
            matcher: Matcher::new(Ok(parser)),
            ends: self.ends.clone(),
            vocabulary_len: self.vocabulary_len,
        };
        // Most of what cannot be done shows at the first token, while nobody waits for an answer yet.
        let mask = grammar.matcher.compute_mask();
        let mask = mask.map_err(|error| GrammarError::of(&error.to_string()))?;
        match mask.is_zero() {
            true => Err(GrammarError::Impossible),
            false => Ok(grammar),
        }
    }
}

/// Bounds of the work for one grammar. On the machine of docs/PERFORMANCE.md a millisecond is about 50,000 of the first
/// fuel, 14,000 of the second, 20,000 items; a state of the lexer has about 2 kB.
fn limits() -> ParserLimits {
    ParserLimits {
        max_items_in_row: 2_000,
        initial_lexer_fuel: 200_000,
        step_lexer_fuel: 50_000,
        step_max_items: 20_000,
        max_lexer_states: 8_000,
        max_grammar_size: 50_000,
        precompute_large_lexemes: false,
        verbose_errors: false,
    }
}

/// Which tokens may follow in one answer. It moves on with the tokens that are accepted, and only with those.
pub struct Grammar {
    matcher: Matcher,
    ends: Vec<u32>,
    vocabulary_len: usize,
}

/// Which tokens may follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Follows {
    words: Vec<u32>,
}

impl Follows {
    /// Those of bits: the lowest one of the first word is that of the first token.
    pub fn of_words(words: Vec<u32>) -> Self {
        Self { words }
    }

    /// Their bits.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// How many they are.
    pub fn count(&self) -> usize {
        let bits = |word: &u32| u64::from(word.count_ones());
        usize::try_from(self.words.iter().map(bits).sum::<u64>()).unwrap_or(usize::MAX)
    }

    /// Their ids.
    pub fn ids(&self) -> impl Iterator<Item = u32> {
        let words = (0_u32..).step_by(WORD).zip(&self.words);
        words
            .filter(|(_, word)| **word != 0)
            .flat_map(|(first, word)| {
                let bits = (0..WORD as u32).filter(move |bit| word >> bit & 1 == 1);
                bits.map(move |bit| first + bit)
            })
    }
}

impl Grammar {
    /// The same grammar for another answer, as far on as this one is.
    #[must_use]
    pub fn again(&self) -> Self {
        Self {
            matcher: self.matcher.deep_clone(),
            ends: self.ends.clone(),
            vocabulary_len: self.vocabulary_len,
        }
    }

    /// Which tokens may follow. Ends may where the answer is complete.
    ///
    /// # Errors
    /// [`Stuck`]: none may, or finding out takes too much work.
    pub fn follows(&mut self) -> Result<Follows, Stuck> {
        let complete = self.matcher.is_accepting().map_err(|_| Stuck)?;
        let mut mask = self.matcher.compute_mask().map_err(|_| Stuck)?;
        for end in &self.ends {
            let at = *end as usize;
            if at < mask.len() {
                mask.set(at, complete);
            }
        }
        // Behind the vocabulary stands the end that the library knows.
        for at in self.vocabulary_len..mask.len() {
            mask.set(at, false);
        }
        match mask.is_zero() {
            true => Err(Stuck),
            false => Ok(Follows::of_words(mask.into())),
        }
    }

    /// Moves on by a token that was drawn, not an end. True when the answer is complete and nothing may follow.
    ///
    /// # Errors
    /// [`Stuck`]: the token may not follow, or finding out takes too much work.
    pub fn accept(&mut self, token: u32) -> Result<bool, Stuck> {
        self.matcher.consume_token(token).map_err(|_| Stuck)?;
        if self.matcher.is_error() || !self.matcher.stop_reason().is_ok() {
            return Err(Stuck);
        }
        Ok(self.matcher.is_stopped())
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]
mod tests;
