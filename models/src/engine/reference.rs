//! The [`Engine`] that runs a decoder on candle's tensors, for every device.

use std::collections::HashMap;

use super::{Engine, EngineLimits, Opening, PAGE, SequenceId, StepError, Work};
use crate::decoder::{Cache, Decoder, Rows, WantedLogits};

/// A model and the keys and values of the sequences that run. Dropping a cache frees it, and the process's allocator
/// zeroes what is freed. Beginnings are not kept for other sequences.
pub struct ReferenceEngine {
    model: Decoder,
    caches: HashMap<SequenceId, Cache>,
    pages: usize,
}

impl ReferenceEngine {
    /// An engine without sequences.
    pub fn new(model: Decoder, limits: &EngineLimits) -> Self {
        Self {
            model,
            caches: HashMap::new(),
            pages: limits.pages(),
        }
    }
}

impl Engine for ReferenceEngine {
    fn context_length(&self) -> usize {
        self.model.config().context
    }

    fn vocabulary(&self) -> usize {
        self.model.config().vocabulary
    }

    fn pages_free(&self) -> usize {
        let used = self.caches.values().map(|cache| cache.len().div_ceil(PAGE));
        self.pages.saturating_sub(used.sum())
    }

    fn open(&mut self, sequence: SequenceId, opening: Opening<'_>) -> Result<usize, StepError> {
        let cache = self
            .model
            .cache(opening.capacity)
            .map_err(|error| failed(&error))?;
        self.caches.insert(sequence, cache);
        Ok(0)
    }

    fn truncate(&mut self, sequence: SequenceId, len: usize) {
        if let Some(cache) = self.caches.get_mut(&sequence) {
            cache.truncate(len);
        }
    }

    fn close(&mut self, sequence: SequenceId) {
        self.caches.remove(&sequence);
    }

    fn forget(&mut self) {}

    fn step(&mut self, batch: &[Work<'_>], logits: &mut Vec<f32>) -> Result<(), StepError> {
        // Borrowed and not taken out: after a panic every sequence still has its cache.
        let mut caches: HashMap<SequenceId, &mut Cache> = self
            .caches
            .iter_mut()
            .map(|(id, cache)| (*id, cache))
            .collect();
        let rows = batch.iter().map(|work| {
            let cache = caches.remove(&work.sequence);
            Ok(Rows {
                tokens: work.tokens,
                cache: cache.ok_or(StepError("a sequence is not open".to_owned()))?,
                logits: match work.logits {
                    0 => WantedLogits::None,
                    1 => WantedLogits::Last,
                    _ => WantedLogits::All,
                },
            })
        });
        let mut rows = rows.collect::<Result<Vec<_>, StepError>>()?;
        let computed = self
            .model
            .forward(&mut rows)
            .map_err(|error| failed(&error))?;
        logits.clear();
        let mut computed = computed.into_iter();
        for work in batch {
            // All were computed where several are wanted.
            let all = if work.logits > 1 {
                work.tokens.len()
            } else {
                work.logits
            };
            let own = computed.by_ref().take(all);
            own.skip(all - work.logits.min(all))
                .for_each(|row| logits.extend(row));
        }
        Ok(())
    }
}

/// What failed, without the trace that the library may add.
fn failed(error: &candle_core::Error) -> StepError {
    let said = error.to_string();
    StepError(said.lines().next().unwrap_or_default().to_owned())
}
