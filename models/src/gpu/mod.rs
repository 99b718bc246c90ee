//! Decoders on a device: weights, keys, values and logits stay there, and tokens are drawn there. A step crosses to the
//! device once or twice and back once, or twice where logits are wanted, whatever the layers, the vocabulary and the
//! number of sequences. The code runs on every device of candle's, so that processors test what GPUs run; but for
//! kernels of our own and for graphs, which only CUDA has.

mod attention;
mod batch;
mod course;
mod draw;
mod experts;
#[cfg(feature = "cuda")]
mod graph;
mod input;
#[cfg(feature = "cuda")]
mod kernels;
mod link;
mod matrix;
mod memory;
mod network;
#[cfg(not(feature = "cuda"))]
mod no_kernels;
mod packed;
mod record;
mod run;

use std::sync::Arc;

use crate::decoder::config::DecoderConfig;
use crate::decoder::weights::{DecoderWeights, Matrix};
use crate::device::Opened;
use crate::engine::paged::Paged;
use crate::engine::{
    Crossings, Draw, Drawn, Engine, EngineLimits, Executor, Opening, SamplingParams, SequenceId,
    StepError, Work,
};
use crate::gguf::{GgufHeader, TensorInfo};
use crate::weights::{Loader, WeightError};
use draw::Drawer;
#[cfg(feature = "cuda")]
use kernels::{Kernels, PackedMatrix};
use link::Link;
use matrix::{GpuMatrix, Workshop};
use memory::KvMemory;
use network::Network;
#[cfg(not(feature = "cuda"))]
use no_kernels::{Kernels, PackedMatrix};
use packed::Packed;
use record::Recordings;

/// Passes that a step may take in a row, each fed with what the one before drew.
const PASSES_MAX: usize = 4;
/// Places and slots are numbered in 32-bit floats.
const TOKENS_MAX: usize = 1 << 24;

/// The engine that runs a decoder on a device.
pub(crate) struct GpuEngine {
    network: Network,
    /// None: the vocabulary is too large to draw from.
    drawer: Option<Drawer>,
    sequences: Paged<KvMemory>,
    link: Link,
    recordings: Recordings,
    /// Tokens that a sequence may have.
    capacity: usize,
    /// The last that is let go.
    _device: Opened,
}

impl GpuEngine {
    /// Bytes of weights, and of keys, values and what a step works with.
    pub(crate) fn memory(
        config: &DecoderConfig,
        header: &GgufHeader,
        limits: &EngineLimits,
    ) -> (u64, u64) {
        let weights = header.tensors().iter().map(weight_bytes);
        let cache = KvMemory::byte_len(config, limits.pages());
        let capacity = config.context.min(limits.cache_tokens_max) as u64;
        let rows = (limits.prefill_tokens + limits.sequences_max) as u64;
        // Scores before and after the softmax, and the mask: 32-bit floats, of a sequence that fills its capacity.
        let scores = (config.heads as u64).saturating_mul(rows * 3 * 4);
        let work = scores.saturating_mul(capacity);
        let weights = weights.fold(0, u64::saturating_add);
        // A prompt's matrices as 16-bit floats, one after another; a joined one is two.
        let largest = header.tensors().iter().map(weights_of).max();
        let unpacked = match limits.executor {
            Executor::Packed => {
                Packed::unpacked_bytes(largest.unwrap_or_default().saturating_mul(2))
            }
            _ => 0,
        };
        let work = work.saturating_add(unpacked);
        let recorded = Recordings::byte_len(config.vocabulary);
        (weights, cache.saturating_add(work).saturating_add(recorded))
    }

    /// Loads the weights, and reserves pages for the tokens that `limits` allow.
    ///
    /// # Errors
    /// [`WeightError`]: also when the device refuses memory, or has no kernels for a matrix.
    pub(crate) fn load(
        config: DecoderConfig,
        limits: &EngineLimits,
        device: Opened,
        loader: &mut Loader<'_>,
    ) -> Result<Self, WeightError> {
        let refused = |error: candle_core::Error| {
            WeightError::Io(std::io::Error::other(failed(&error).to_string()))
        };
        let capacity = config.context.min(limits.cache_tokens_max);
        if capacity > TOKENS_MAX {
            let reason = format!("a device numbers {TOKENS_MAX} tokens of a sequence at most");
            return Err(WeightError::Io(std::io::Error::other(reason)));
        }
        let link = Link::new(device.clone());
        let kernels = Kernels::of(&device).map_err(refused)?.map(Arc::new);
        let workshop = Workshop {
            device: device.clone(),
            kernels: kernels.clone(),
            packs: limits.executor == Executor::Packed,
        };
        let weights = DecoderWeights::<GpuMatrix>::load(&config, &workshop, loader)?;
        let made = || {
            let memory = KvMemory::new(&config, limits.pages(), &device)?;
            let drawer = Drawer::new(config.vocabulary, &link)?;
            let network = Network::new(config, weights, capacity, &link, kernels)?;
            // The engine's thread has a stream of its own.
            device.synchronize()?;
            Ok((memory, drawer, network))
        };
        let (memory, drawer, network) = made().map_err(refused)?;
        Ok(Self {
            network,
            drawer,
            sequences: Paged::new(memory),
            link: Link::new(device.clone()),
            recordings: Recordings::new(),
            capacity,
            _device: device,
        })
    }
}

fn weight_bytes(tensor: &TensorInfo) -> u64 {
    let columns = tensor.shape().last().copied().unwrap_or_default();
    let rows = tensor.shape().iter().rev().skip(1).product();
    GpuMatrix::byte_len(tensor.kind(), rows, columns)
}

fn weights_of(tensor: &TensorInfo) -> usize {
    tensor
        .shape()
        .iter()
        .copied()
        .fold(1, usize::saturating_mul)
}

/// Whether all matrices of a model can be had on a device.
pub(crate) fn misfit(header: &GgufHeader) -> Option<&TensorInfo> {
    header.tensors().iter().find(|tensor| {
        let columns = tensor.shape().last().copied().unwrap_or_default();
        !GpuMatrix::fits(tensor.kind(), 0, columns)
    })
}

/// What failed, without the trace that the library may add.
fn failed(error: &candle_core::Error) -> StepError {
    let said = error.to_string();
    StepError(said.lines().next().unwrap_or_default().to_owned())
}

impl Engine for GpuEngine {
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
        let mut drawn = Drawn::default();
        self.step_drawing(batch, &[], &mut drawn)?;
        *logits = drawn.logits;
        Ok(())
    }

    fn draws(&self, params: &SamplingParams) -> usize {
        match self.drawer.is_some() && draw::is_drawn(params) {
            true => PASSES_MAX,
            false => 0,
        }
    }

    fn step_drawing(
        &mut self,
        batch: &[Work<'_>],
        draws: &[Option<Draw<'_>>],
        drawn: &mut Drawn,
    ) -> Result<(), StepError> {
        self.run(batch, draws, drawn)
    }

    fn crossings(&self) -> Crossings {
        self.link.crossed()
    }
}
