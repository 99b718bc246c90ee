//! A model that is loaded whole: network, tokenizer and template from one source, ready to be given to its engine.

use std::ops::Deref;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use candle_core::Device;

use crate::cpu::CpuEngine;
use crate::decoder::{ArchitectureError, Decoder, DecoderConfig};
use crate::device::{self, DeviceError};
use crate::engine::{
    DeviceChoice, Draft, Engine, EngineHandle, EngineLimits, Executor, KvKind, ReferenceEngine,
};
use crate::gguf::{GgufHeader, TensorInfo, TensorType};
use crate::gpu::{self, GpuEngine};
use crate::grammar::{Grammar, GrammarError, Grammars, Shape};
use crate::template::{ChatMessage, ChatTemplate, RenderOptions, TemplateError};
use crate::tokenizer::{Tokenizer, TokenizerError};
use crate::weights::{LoadProgress, Loader, WeightError, WeightSource};

/// Why a model was not loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// Its architecture.
    #[error(transparent)]
    Architecture(#[from] ArchitectureError),
    /// Its tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Its chat template.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// Its weights.
    #[error(transparent)]
    Weights(#[from] WeightError),
    /// The embedding has another number of rows than the vocabulary has tokens.
    #[error("the model has {rows} embeddings and its vocabulary {tokens} tokens")]
    VocabularyMismatch {
        /// Rows of the embedding.
        rows: usize,
        /// Tokens of the vocabulary.
        tokens: usize,
    },
    /// A draft must say the same tokens as the model that it guesses for.
    #[error(
        "the draft has another vocabulary than the model: {tokens} tokens against {expected}, and token {differs} \
         is another; take a draft of the same family"
    )]
    DraftVocabulary {
        /// Tokens of the draft.
        tokens: usize,
        /// Tokens of the model.
        expected: usize,
        /// The first id that stands for something else.
        differs: usize,
    },
    /// The device that it is for.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// It needs more memory than it may have.
    #[error(
        "the model needs about {} MiB (weights {} MiB, cache of {cache_tokens} tokens {} MiB) and may use {} MiB; \
         allow more, or lower the number of cached tokens",
        mib(weights + cache), mib(*weights), mib(*cache), mib(*limit)
    )]
    TooLarge {
        /// Bytes of weights, with the copies that are made for speed.
        weights: u64,
        /// Bytes of keys and values.
        cache: u64,
        /// Tokens that the cache holds.
        cache_tokens: u64,
        /// Bytes that it may use.
        limit: u64,
    },
}

fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

/// The parts of a model that deal in text: what a server needs beside the engine.
pub struct ModelText {
    name: String,
    context: usize,
    width: usize,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    /// Made when the first one is asked for.
    grammars: OnceLock<Result<Grammars, GrammarError>>,
}

impl ModelText {
    fn from_source(
        source: &dyn WeightSource,
        context: usize,
        width: usize,
    ) -> Result<Self, LoadError> {
        let header = source.header();
        let tokenizer = Tokenizer::from_header(header)?;
        let text = header
            .text("tokenizer.chat_template")
            .map_err(TokenizerError::from)?;
        let template = text
            .map(|text| ChatTemplate::new(text, &tokenizer))
            .transpose()?;
        Ok(Self {
            name: source.name().to_owned(),
            context,
            width,
            tokenizer,
            template,
            grammars: OnceLock::new(),
        })
    }

    /// The same of a model that has so many embeddings.
    fn of_vocabulary(
        source: &dyn WeightSource,
        (context, width): (usize, usize),
        rows: usize,
    ) -> Result<Self, LoadError> {
        let text = Self::from_source(source, context, width)?;
        match text.tokenizer.len() {
            tokens if tokens == rows => Ok(text),
            tokens => Err(LoadError::VocabularyMismatch { rows, tokens }),
        }
    }

    /// The model's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Tokens that the model was made for, prompt and answer together.
    pub fn context_length(&self) -> usize {
        self.context
    }

    /// Columns of its residual stream: how many numbers its last layer reads of a context.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Its vocabulary.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Its chat template, if it has one.
    pub fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    /// Ids of a chat, up to where the assistant's answer begins. Contents never become control tokens.
    ///
    /// # Errors
    /// [`TemplateError`]: no template, a conversation that the template refuses, or work without end.
    pub fn encode_chat(
        &self,
        messages: &[ChatMessage],
        options: &RenderOptions,
    ) -> Result<Vec<u32>, TemplateError> {
        let template = self.template.as_ref().ok_or(TemplateError::Missing)?;
        let harmless: Vec<ChatMessage> = messages
            .iter()
            .map(|message| ChatMessage {
                role: message.role,
                content: self.tokenizer.harmless(&message.content),
            })
            .collect();
        let rendered = template.render(&harmless, options)?;
        let ids = self
            .tokenizer
            .encode_rendered(&rendered)
            .map_err(|_| TemplateError::TooMuchWork)?;
        Ok(self.tokenizer.with_bos(ids))
    }

    /// The grammar of an answer of this shape. Takes up to seconds: not for the engine's thread.
    ///
    /// # Errors
    /// [`GrammarError`] says what is wrong with the schema.
    pub fn grammar(&self, shape: &Shape) -> Result<Grammar, GrammarError> {
        let made = self.grammars.get_or_init(|| self.tokenizer.grammars());
        made.as_ref().map_err(|error| *error)?.compile(shape)
    }

    /// Ids of plain text, with `bos` where the vocabulary asks for it. The text never becomes a control token.
    ///
    /// # Errors
    /// [`TokenizerError::TooComplex`].
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.tokenizer.encode_text(text)
    }
}

/// Who computes a model.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Packed,
    Reference,
    Device,
}

impl Way {
    fn of(config: &DecoderConfig, header: &GgufHeader, limits: &EngineLimits) -> Self {
        match (limits.device, limits.executor) {
            (DeviceChoice::Cuda(_), _) | (_, Executor::Device) => Self::Device,
            (_, executor) if CpuEngine::takes(config, header, executor) => Self::Packed,
            _ => Self::Reference,
        }
    }
}

/// What computes.
enum Network {
    /// Tensors on a device.
    Device(Box<GpuEngine>),
    /// Packed weights and plain slices.
    Packed(Box<CpuEngine>),
    /// candle, in ggml's order of operations.
    Reference(Box<Decoder>),
}

/// Says so when it goes: also if a thread that has it panics or is not started.
struct Finished<'a>(&'a OnceLock<()>);

impl Drop for Finished<'_> {
    fn drop(&mut self) {
        let _first = self.0.set(());
    }
}

/// A model in memory.
pub struct LoadedModel {
    network: Network,
    text: Arc<ModelText>,
    limits: EngineLimits,
    /// Bytes of weights in memory.
    weights: u64,
    draft: Option<Draft>,
}

impl LoadedModel {
    /// Loads a model; `progress` hears of bytes done and bytes in all.
    ///
    /// # Errors
    /// [`LoadError`]. Metadata and memory are checked before the first tensor is read, tokenizer and template while the
    /// first ones are: no further one is read when they are refused.
    pub fn load(
        source: &dyn WeightSource,
        limits: EngineLimits,
        progress: LoadProgress<'_>,
    ) -> Result<Self, LoadError> {
        let config = DecoderConfig::from_header(source.header())?;
        let (sizes, rows) = ((config.context, config.width), config.vocabulary);
        // A vocabulary of 128,000 takes as long as half the weights, on one thread: both are read at once.
        let refused = AtomicBool::new(false);
        let text_read = OnceLock::<()>::new();
        let mut progress = |done: u64, all: u64| {
            // What the vocabulary is made of is gone before most of the weights are there: both together would be more
            // memory than either.
            if done > all / 4 * 3 {
                text_read.wait();
            }
            progress(done, all);
        };
        let (text, loaded) = std::thread::scope(|scope| {
            let reader = std::thread::Builder::new().name("tokenizer".to_owned());
            let finished = Finished(&text_read);
            let reader = reader.spawn_scoped(scope, || {
                let _finished = finished;
                let text = ModelText::of_vocabulary(source, sizes, rows);
                refused.store(text.is_err(), Ordering::Relaxed);
                // It was made of half a million texts that nobody needs any more.
                casemate_kernels::heap::trim();
                text
            });
            let loaded = load_network(config, source, &limits, &mut progress, &refused);
            let text = match reader {
                Ok(reader) => reader.join().unwrap_or_else(|panic| resume_unwind(panic)),
                Err(error) => Err(WeightError::Io(error).into()),
            };
            (text, loaded)
        });
        let (text, (network, weights)) = (text?, loaded?);
        Ok(Self {
            network,
            text: Arc::new(text),
            limits,
            weights,
            draft: None,
        })
    }

    /// Lets a smaller model guess for this one ([`Draft`]); it changes no text. A step reads all weights once, so what
    /// a guess costs is taken to be the ratio of their sizes.
    ///
    /// # Errors
    /// [`LoadError::DraftVocabulary`] when their tokens are not the same.
    pub fn with_draft(mut self, draft: Self) -> Result<Self, LoadError> {
        let (own, other) = (&self.text.tokenizer, &draft.text.tokenizer);
        let (expected, tokens) = (own.len(), other.len());
        let same = |id: &usize| {
            let id = u32::try_from(*id).unwrap_or(u32::MAX);
            own.token_bytes(id) == other.token_bytes(id)
        };
        let count = expected.min(tokens);
        let differs = (0..count).find(|id| !same(id)).unwrap_or(count);
        if differs < expected.max(tokens) {
            return Err(LoadError::DraftVocabulary {
                tokens,
                expected,
                differs,
            });
        }
        let cost = draft.weights as f64 / self.weights.max(1) as f64;
        self.draft = Some(Draft::new(draft.into_engine(), cost));
        Ok(self)
    }

    /// What deals in text.
    pub fn text(&self) -> &Arc<ModelText> {
        &self.text
    }

    /// The network by itself, if it is the one that follows ggml to the last bit: for comparisons.
    pub fn reference(&self) -> Option<&Decoder> {
        match &self.network {
            Network::Packed(_) | Network::Device(_) => None,
            Network::Reference(network) => Some(network),
        }
    }

    /// What computes, without the thread that serves requests: for measurements and comparisons.
    pub fn into_engine(self) -> Box<dyn Engine> {
        match self.network {
            Network::Packed(engine) => engine,
            Network::Device(engine) => engine,
            Network::Reference(network) => Box::new(ReferenceEngine::new(*network, &self.limits)),
        }
    }

    /// Starts the engine's thread.
    ///
    /// # Errors
    /// When the system starts no thread.
    pub fn spawn(mut self) -> std::io::Result<RunningModel> {
        let draft = self.draft.take();
        let text = self.text.clone();
        let limits = self.limits.clone();
        let engine = self.into_engine();
        let vocabulary = TextVocabulary(text.clone());
        let engine = EngineHandle::spawn(engine, draft, Arc::new(vocabulary), limits)?;
        Ok(RunningModel { text, engine })
    }
}

/// A model and its engine. Clones share both.
#[derive(Clone)]
pub struct RunningModel {
    text: Arc<ModelText>,
    engine: EngineHandle,
}

impl RunningModel {
    /// What deals in text.
    pub fn text(&self) -> &Arc<ModelText> {
        &self.text
    }

    /// The way to the engine.
    pub fn engine(&self) -> &EngineHandle {
        &self.engine
    }
}

impl Deref for RunningModel {
    type Target = ModelText;

    fn deref(&self) -> &ModelText {
        &self.text
    }
}

struct TextVocabulary(Arc<ModelText>);

impl crate::engine::Vocabulary for TextVocabulary {
    fn token_bytes(&self, id: u32) -> &[u8] {
        self.0.tokenizer.token_bytes(id)
    }

    fn is_end(&self, id: u32) -> bool {
        self.0.tokenizer.special().ends.contains(&id)
    }
}

/// Checks that a model fits and loads what computes; answers the bytes of weights that it takes too.
fn load_network(
    config: DecoderConfig,
    source: &dyn WeightSource,
    limits: &EngineLimits,
    progress: LoadProgress<'_>,
    given_up: &AtomicBool,
) -> Result<(Network, u64), LoadError> {
    let way = Way::of(&config, source.header(), limits);
    let device = device::open(limits.device)?;
    if way == Way::Device {
        check_device(source.header(), limits)?;
    }
    let weights = check_memory(source.header(), &config, limits, way, &device)?;
    let mut loader = Loader::new(source, progress, given_up);
    let network = match way {
        Way::Device => {
            let engine = GpuEngine::load(config, limits, device, &mut loader)?;
            Network::Device(Box::new(engine))
        }
        Way::Packed => Network::Packed(Box::new(CpuEngine::load(config, limits, &mut loader)?)),
        Way::Reference => {
            let decoder = Decoder::load(config, limits, &device, &mut loader)?;
            Network::Reference(Box::new(decoder))
        }
    };
    Ok((network, weights))
}

/// What a device cannot do.
fn check_device(header: &GgufHeader, limits: &EngineLimits) -> Result<(), LoadError> {
    if limits.cache != KvKind::F16 {
        return Err(DeviceError::CacheKind.into());
    }
    match gpu::misfit(header) {
        None => Ok(()),
        Some(tensor) => Err(DeviceError::Kind {
            tensor: tensor.name().to_owned(),
            kind: format!("{:?}", tensor.kind()),
        }
        .into()),
    }
}

/// Bytes that the weights will take, if they and the cache fit.
fn check_memory(
    header: &GgufHeader,
    config: &DecoderConfig,
    limits: &EngineLimits,
    way: Way,
    device: &Device,
) -> Result<u64, LoadError> {
    let cache_tokens = limits.cache_tokens_max as u64;
    let (weights, cache) = match way {
        Way::Device => GpuEngine::memory(config, header, limits),
        Way::Packed => CpuEngine::memory(config, header, limits),
        Way::Reference => {
            let weights = header.tensors().iter().map(resident_bytes);
            let cache = cache_tokens.saturating_mul(config.cache_bytes_per_token());
            (weights.fold(0, u64::saturating_add), cache)
        }
    };
    let limit = limits.memory_bytes_max.min(device::bytes_free(device)?);
    match weights.checked_add(cache) {
        Some(needed) if needed <= limit => Ok(weights),
        _ => Err(LoadError::TooLarge {
            weights,
            cache,
            cache_tokens,
            limit,
        }),
    }
}

/// Bytes of a tensor in memory: candle 0.11 keeps a second, rearranged copy of matrices of these types beside the first
/// one when they are used (Q4_K grows by a third in it).
fn resident_bytes(tensor: &TensorInfo) -> u64 {
    let len = tensor.byte_len();
    match tensor.kind() {
        TensorType::Q4K => len.saturating_add(len / 3 * 4),
        TensorType::Q8_0 | TensorType::Q6K => len.saturating_add(len / 8 * 9),
        _ => len,
    }
}
