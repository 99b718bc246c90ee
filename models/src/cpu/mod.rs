//! Decoders on processors: packed weights, plain slices, paged keys and values, one team of threads.
//!
//! Fast where [`crate::decoder::reference`] is exact to ggml's last bit. [`CpuEngine::takes`] says which models it takes.

mod matrix;
mod network;
mod pages;

use std::collections::HashMap;

use casemate_kernels::{KvPages, KvShape, Pool, Span};

use crate::decoder::config::DecoderConfig;
use crate::decoder::weights::{DecoderWeights, Matrix};
use crate::engine::{Engine, EngineLimits, Executor, Opening, PAGE, SequenceId, StepError, Work};
use crate::gguf::GgufHeader;
use crate::weights::{Loader, WeightError};
use matrix::CpuMatrix;
use network::Network;
use pages::{Beginning, Pages};

/// Columns from which on a model is worth the fast way. Smaller ones are quick in any way, and the reference says what
/// llama.cpp says to the last bit.
const WIDTH_MIN: usize = 512;

/// The engine that runs a decoder on packed weights.
pub(crate) struct CpuEngine {
    network: Network,
    pages: Pages,
    sequences: HashMap<SequenceId, Sequence>,
}

/// A sequence's pages, and what they hold.
struct Sequence {
    pages: Vec<u32>,
    /// Tokens that went through the model.
    len: usize,
    /// What the pages before `recent` hold.
    beginning: Beginning,
    /// Tokens behind the last page that may be found by others.
    recent: Vec<u32>,
}

impl CpuEngine {
    /// Whether a model's matrices can all be packed, and should be.
    pub(crate) fn takes(config: &DecoderConfig, header: &GgufHeader, executor: Executor) -> bool {
        match executor {
            Executor::Reference => false,
            Executor::Packed => Self::fits(config, header),
            Executor::Best => config.width >= WIDTH_MIN && Self::fits(config, header),
        }
    }

    fn fits(config: &DecoderConfig, header: &GgufHeader) -> bool {
        let matrices = header
            .tensors()
            .iter()
            .filter_map(|tensor| match tensor.shape() {
                [.., rows, columns] => Some((tensor.kind(), *rows, *columns)),
                _ => None,
            });
        let mut fits = matrices.map(|(kind, rows, columns)| CpuMatrix::fits(kind, rows, columns));
        KvShape::supports(config.head_width) && fits.all(|fits| fits)
    }

    /// Bytes of weights, and of keys and values, that a model takes here.
    pub(crate) fn memory(
        config: &DecoderConfig,
        header: &GgufHeader,
        limits: &EngineLimits,
    ) -> (u64, u64) {
        let weights = header.tensors().iter().map(|tensor| {
            let columns = tensor.shape().last().copied().unwrap_or_default();
            let rows = tensor.shape().iter().rev().skip(1).product();
            CpuMatrix::byte_len(tensor.kind(), rows, columns) as u64
        });
        let page = shape(config, limits).page_bytes() as u64;
        let weights = weights.fold(0, u64::saturating_add);
        (weights, page.saturating_mul(pages(limits) as u64))
    }

    /// Loads the weights, and reserves pages for the tokens that `limits` allow.
    ///
    /// # Errors
    /// [`WeightError`].
    pub(crate) fn load(
        config: DecoderConfig,
        limits: &EngineLimits,
        loader: &mut Loader<'_>,
    ) -> Result<Self, WeightError> {
        let pool = Pool::new(threads(limits))?;
        let weights = DecoderWeights::<CpuMatrix>::load(&config, &pool, loader)?;
        let memory = KvPages::new(shape(&config, limits), pages(limits))
            .map_err(|error| WeightError::Io(std::io::Error::other(error)))?;
        let capacity = config.context.min(limits.cache_tokens_max);
        Ok(Self {
            network: Network::new(config, weights, pool, capacity),
            pages: Pages::new(memory),
            sequences: HashMap::new(),
        })
    }

    /// Gives a sequence pages for `rows` more tokens, and lets others find the pages that are full: what they hold is
    /// final, since guesses that were wrong have been taken back before the next step.
    fn grow(&mut self, id: SequenceId, rows: usize) -> Result<(), StepError> {
        let sequence = self.sequences.get_mut(&id);
        let sequence = sequence.ok_or_else(|| StepError("a sequence is not open".into()))?;
        sequence.publish(&mut self.pages);
        let needed = (sequence.len + rows).div_ceil(PAGE);
        while sequence.pages.len() < needed {
            let page = self.pages.take();
            let page =
                page.ok_or_else(|| StepError("no page is left for keys and values".into()))?;
            sequence.pages.push(page);
        }
        Ok(())
    }
}

impl Sequence {
    fn publish(&mut self, pages: &mut Pages) {
        let whole = self.recent.len() / PAGE * PAGE;
        let first = self.len.saturating_sub(self.recent.len()) / PAGE;
        for (at, tokens) in self.recent.chunks_exact(PAGE).enumerate() {
            self.beginning = pages::next(&self.beginning, tokens);
            if let Some(page) = self.pages.get(first + at) {
                pages.publish(*page, self.beginning);
            }
        }
        self.recent.drain(..whole);
    }
}

fn shape(config: &DecoderConfig, limits: &EngineLimits) -> KvShape {
    KvShape {
        kind: limits.cache,
        layers: config.layers,
        heads: config.key_value_heads,
        head_width: config.head_width,
    }
}

/// Pages for the tokens that there may be; each sequence may leave one half empty.
fn pages(limits: &EngineLimits) -> usize {
    limits.cache_tokens_max.div_ceil(PAGE) + limits.sequences_max
}

/// Threads for a step: what the limits say, or what the machine has.
fn threads(limits: &EngineLimits) -> usize {
    match limits.threads {
        0 => std::thread::available_parallelism().map_or(1, |all| all.get()),
        some => some,
    }
}

impl Engine for CpuEngine {
    fn context_length(&self) -> usize {
        self.network.config().context
    }

    fn vocabulary(&self) -> usize {
        self.network.config().vocabulary
    }

    fn pages_free(&self) -> usize {
        self.pages.free()
    }

    fn open(&mut self, id: SequenceId, opening: Opening<'_>) -> Result<usize, StepError> {
        let mut sequence = Sequence {
            pages: Vec::new(),
            len: 0,
            beginning: pages::root(opening.tenant),
            recent: Vec::new(),
        };
        // The last token is computed in any case: the next one is drawn from its logits.
        let reusable = opening.tokens.len().saturating_sub(1) / PAGE;
        for tokens in opening.tokens.chunks_exact(PAGE).take(reusable) {
            let beginning = pages::next(&sequence.beginning, tokens);
            let Some(page) = self.pages.find(&beginning) else {
                break;
            };
            sequence.pages.push(page);
            sequence.beginning = beginning;
            sequence.len += PAGE;
        }
        let cached = sequence.len;
        self.sequences.insert(id, sequence);
        Ok(cached)
    }

    fn truncate(&mut self, id: SequenceId, len: usize) {
        if let Some(sequence) = self.sequences.get_mut(&id)
            && len < sequence.len
        {
            let kept = sequence.recent.len().saturating_sub(sequence.len - len);
            sequence.recent.truncate(kept);
            sequence.len = len;
            // A page that only guesses filled is given back, so that the scheduler's count of pages stays true.
            while sequence.pages.len() > len.div_ceil(PAGE) {
                if let Some(page) = sequence.pages.pop() {
                    self.pages.release(page);
                }
            }
        }
    }

    fn close(&mut self, id: SequenceId) {
        if let Some(mut sequence) = self.sequences.remove(&id) {
            sequence.publish(&mut self.pages);
            // The end first: it is the least likely to come again.
            for page in sequence.pages.into_iter().rev() {
                self.pages.release(page);
            }
        }
    }

    fn forget(&mut self) {
        self.pages.forget();
    }

    fn step(&mut self, batch: &[Work<'_>], logits: &mut Vec<f32>) -> Result<(), StepError> {
        for work in batch {
            self.grow(work.sequence, work.tokens.len())?;
        }
        let mut wanted = Vec::new();
        let mut tokens = Vec::new();
        let mut spans = Vec::with_capacity(batch.len());
        for work in batch {
            let sequence = self.sequences.get(&work.sequence);
            let sequence = sequence.ok_or_else(|| StepError("a sequence is not open".into()))?;
            tokens.extend_from_slice(work.tokens);
            wanted.extend(tokens.len() - work.logits.min(work.tokens.len())..tokens.len());
            spans.push(Span {
                pages: &sequence.pages,
                before: sequence.len,
                rows: work.tokens.len(),
            });
        }
        let memory = &mut self.pages.memory;
        self.network
            .forward(memory, &spans, &tokens, &wanted, logits)?;
        for work in batch {
            if let Some(sequence) = self.sequences.get_mut(&work.sequence) {
                sequence.len += work.tokens.len();
                sequence.recent.extend_from_slice(work.tokens);
            }
        }
        Ok(())
    }
}
