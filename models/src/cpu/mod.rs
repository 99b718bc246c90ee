//! Decoders on processors: packed weights, plain slices, paged keys and values, one team of threads.
//!
//! Fast where [`crate::decoder::reference`] is exact to ggml's last bit. [`CpuEngine::fits`] says which models it takes.

mod matrix;
mod network;

use std::collections::HashMap;

use casemate_kernels::{KvPages, KvShape, PAGE, Pool, Span};

use crate::decoder::config::DecoderConfig;
use crate::decoder::weights::{DecoderWeights, Matrix};
use crate::engine::{Engine, EngineLimits, SequenceId, StepError, Work};
use crate::gguf::GgufHeader;
use crate::weights::{Loader, WeightError};
use matrix::CpuMatrix;
use network::Network;

/// Columns from which on a model is worth the fast way. Smaller ones are quick in any way, and the reference says what
/// llama.cpp says to the last bit.
const WIDTH_MIN: usize = 512;

/// The engine that runs a decoder on packed weights.
pub(crate) struct CpuEngine {
    network: Network,
    pages: KvPages,
    free: Vec<u32>,
    sequences: HashMap<SequenceId, Sequence>,
}

/// A sequence's pages and how many tokens went through the model.
#[derive(Default)]
struct Sequence {
    pages: Vec<u32>,
    len: usize,
}

impl CpuEngine {
    /// Whether all of a model's matrices can be packed, and it is large enough for that to matter.
    pub(crate) fn fits(config: &DecoderConfig, header: &GgufHeader) -> bool {
        let matrices = header
            .tensors()
            .iter()
            .filter_map(|tensor| match tensor.shape() {
                [.., rows, columns] => Some((tensor.kind(), *rows, *columns)),
                _ => None,
            });
        let mut fits = matrices.map(|(kind, rows, columns)| CpuMatrix::fits(kind, rows, columns));
        config.width >= WIDTH_MIN && config.head_width.is_multiple_of(16) && fits.all(|fits| fits)
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
        let shape = KvShape {
            layers: config.layers,
            heads: config.key_value_heads,
            head_width: config.head_width,
        };
        // Each sequence may leave a page half empty.
        let pages = limits.cache_tokens_max.div_ceil(PAGE) + limits.sequences_max;
        let pages = KvPages::new(shape, pages)
            .map_err(|error| WeightError::Io(std::io::Error::other(error)))?;
        Ok(Self {
            network: Network::new(config, weights, pool),
            free: (0..pages.len() as u32).rev().collect(),
            pages,
            sequences: HashMap::new(),
        })
    }

    /// Pages for `rows` more tokens of a sequence.
    fn grow(&mut self, id: SequenceId, rows: usize) -> Result<(), StepError> {
        let sequence = self.sequences.get_mut(&id);
        let sequence = sequence.ok_or_else(|| StepError("a sequence is not open".into()))?;
        let needed = (sequence.len + rows).div_ceil(PAGE);
        while sequence.pages.len() < needed {
            let page = self.free.pop();
            let page =
                page.ok_or_else(|| StepError("no page is left for keys and values".into()))?;
            sequence.pages.push(page);
        }
        Ok(())
    }
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

    fn open(&mut self, sequence: SequenceId, _capacity: usize) -> Result<(), StepError> {
        self.sequences.insert(sequence, Sequence::default());
        Ok(())
    }

    fn close(&mut self, sequence: SequenceId) {
        let closed = self.sequences.remove(&sequence).unwrap_or_default();
        for page in closed.pages {
            self.pages.wipe(page);
            self.free.push(page);
        }
    }

    fn step(&mut self, batch: &[Work<'_>]) -> Result<Vec<Vec<f32>>, StepError> {
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
            if work.wants_logits {
                wanted.push(tokens.len() - 1);
            }
            spans.push(Span {
                pages: &sequence.pages,
                before: sequence.len,
                rows: work.tokens.len(),
            });
        }
        let vocabulary = self.network.config().vocabulary;
        let logits = self
            .network
            .forward(&mut self.pages, &spans, &tokens, &wanted)?;
        let logits = logits
            .chunks_exact(vocabulary)
            .map(<[f32]>::to_vec)
            .collect();
        for work in batch {
            if let Some(sequence) = self.sequences.get_mut(&work.sequence) {
                sequence.len += work.tokens.len();
            }
        }
        Ok(logits)
    }
}
