//! What is measured in one go, by ours and by the peer alike, and the names of its figures.

use std::collections::BTreeMap;

use casemate_models::engine::{DeviceChoice, KvKind};

use crate::Anyhow;

/// Figures of one measurement by name.
pub type Figures = BTreeMap<String, f64>;

/// Tokens of a prompt before decoding is timed.
pub const PROMPT: usize = 16;
/// Tokens that are decoded against the clock.
pub const DECODED: usize = 64;
/// Tokens of each sequence that are decoded against the clock together with others.
pub const BATCH_DECODED: usize = 32;
/// Numbers of sequences that are decoded together.
pub const BATCHES: [usize; 5] = [2, 4, 8, 16, 32];
/// Tokens of the prompt whose processing is timed, and of a chunk of a longer prompt.
pub const PREFILL: usize = 512;
/// Tokens of context when peak memory is read.
pub const MEMORY_CONTEXT: usize = 4096;
/// The contexts whose decoding speeds are compared.
pub const CONTEXTS: [usize; 2] = [128, 8192];
/// The contexts that show how decoding slows down as they grow.
pub const DEPTHS: [usize; 5] = [128, 512, 2048, 8192, 16_384];
/// Tokens that are decoded against the clock at each of [`CONTEXTS`] and [`DEPTHS`].
pub const CONTEXT_DECODED: usize = 32;
/// Measurements in one child, of which the median counts; batches, which take longest, have one.
pub const REPETITIONS: usize = 3;

/// A measurement. The product's HTTP server has a benchmark of its own: this crate reaches no network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Job {
    /// One sequence.
    Decode,
    /// So many sequences together.
    Batch(usize),
    /// A prompt.
    Prefill,
    /// From the start of the process to the first token, of a plain model.
    Start,
    /// The same of a sealed model; the peer's is plain.
    Sealed,
    /// Peak memory.
    Memory,
    /// Decoding behind a long context against a short one, keys and values in 8 bits where the device can do that.
    Context,
    /// The same with keys and values as F16.
    ContextF16,
    /// Decoding behind contexts of growing length. It takes minutes, so it runs only where it is named.
    Depths,
}

impl Job {
    /// All that run unless others are named, in their order.
    pub fn all() -> Vec<Self> {
        let batches = BATCHES.map(Self::Batch);
        let others = [
            Self::Prefill,
            Self::Start,
            Self::Sealed,
            Self::Memory,
            Self::Context,
            Self::ContextF16,
        ];
        [&[Self::Decode], batches.as_slice(), &others].concat()
    }

    /// Its name on the command line.
    pub fn name(self) -> String {
        let name = match self {
            Self::Decode => "decode",
            Self::Batch(sequences) => return format!("batch-{sequences}"),
            Self::Prefill => "prefill",
            Self::Start => "start",
            Self::Sealed => "sealed",
            Self::Memory => "memory",
            Self::Context => "context",
            Self::ContextF16 => "context-f16",
            Self::Depths => "depths",
        };
        name.to_owned()
    }

    /// The job of that name, or all batches.
    ///
    /// # Errors
    /// When there is none.
    pub fn named(name: &str) -> Anyhow<Vec<Self>> {
        if name == "batch" {
            return Ok(BATCHES.map(Self::Batch).to_vec());
        }
        let all = Self::all().into_iter().chain([Self::Depths]);
        let found = all.into_iter().find(|job| job.name() == name);
        let found = found.ok_or_else(|| format!("no row is named {name:?}"))?;
        Ok(vec![found])
    }

    /// Rounds that are worth their time: peak memory does not vary, and a long context takes minutes to fill.
    pub const fn rounds_max(self) -> usize {
        match self {
            Self::Memory | Self::Context | Self::ContextF16 | Self::Depths => 1,
            _ => usize::MAX,
        }
    }
}

/// How keys and values are kept: as the product does unless it is told otherwise, but for [`Job::Context`].
pub const fn cache_of(job: Job, device: DeviceChoice) -> KvKind {
    match (job, device) {
        (Job::Context, DeviceChoice::Cpu) => KvKind::Q8,
        _ => KvKind::F16,
    }
}

/// Name of the figure of copies between host and device for each token.
pub const CROSSINGS: &str = "crossings";

/// Name of the figure of decoding behind `tokens` of context.
pub fn context_key(tokens: usize) -> String {
    format!("decode after {tokens}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_is_found_by_its_name() {
        for job in Job::all().into_iter().chain([Job::Depths]) {
            assert_eq!(Job::named(&job.name()).unwrap(), [job]);
        }
        assert_eq!(Job::named("batch").unwrap().len(), BATCHES.len());
        assert!(Job::named("batch-3").is_err());
    }
}
