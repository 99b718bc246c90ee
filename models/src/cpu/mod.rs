//! Decoders on processors: packed weights, plain slices, paged keys and values, one team of threads.
//!
//! Fast where [`crate::decoder::reference`] is exact to ggml's last bit. [`CpuEngine::takes`] says which models it takes.

mod matrix;
mod network;

use casemate_kernels::{KvPages, KvShape, Pool, Span};

use crate::decoder::config::DecoderConfig;
use crate::decoder::weights::{DecoderWeights, Matrix};
use crate::engine::paged::Paged;
use crate::engine::{Engine, EngineLimits, Executor, Opening, SequenceId, StepError, Work};
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
    sequences: Paged<KvPages>,
}

impl CpuEngine {
    /// Whether a model's matrices can all be packed, and should be.
    pub(crate) fn takes(config: &DecoderConfig, header: &GgufHeader, executor: Executor) -> bool {
        match executor {
            Executor::Reference | Executor::Device => false,
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
        (weights, page.saturating_mul(limits.pages() as u64))
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
        let memory = KvPages::new(shape(&config, limits), limits.pages())
            .map_err(|error| WeightError::Io(std::io::Error::other(error)))?;
        let capacity = config.context.min(limits.cache_tokens_max);
        Ok(Self {
            network: Network::new(config, weights, pool, capacity),
            sequences: Paged::new(memory),
        })
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
        self.sequences.free()
    }

    fn open(&mut self, id: SequenceId, opening: Opening<'_>) -> Result<usize, StepError> {
        Ok(self.sequences.open(id, &opening))
    }

    fn truncate(&mut self, id: SequenceId, len: usize) {
        self.sequences.truncate(id, len);
    }

    fn close(&mut self, id: SequenceId) {
        self.sequences.close(id);
    }

    fn forget(&mut self) {
        self.sequences.forget();
    }

    fn step(&mut self, batch: &[Work<'_>], logits: &mut Vec<f32>) -> Result<(), StepError> {
        for work in batch {
            self.sequences.grow(work.sequence, work.tokens.len())?;
        }
        let (memory, sequences) = self.sequences.split();
        let mut wanted = Vec::new();
        let mut tokens = Vec::new();
        let mut spans = Vec::with_capacity(batch.len());
        for work in batch {
            let sequence = sequences.of(work.sequence)?;
            tokens.extend_from_slice(work.tokens);
            wanted.extend(tokens.len() - work.logits.min(work.tokens.len())..tokens.len());
            spans.push(Span {
                pages: sequence.pages(),
                before: sequence.len(),
                rows: work.tokens.len(),
            });
        }
        self.network
            .forward(memory, &spans, &tokens, &wanted, logits)?;
        for work in batch {
            self.sequences.advance(work.sequence, work.tokens);
        }
        Ok(())
    }
}
