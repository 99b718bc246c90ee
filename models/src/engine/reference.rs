//! The [`Engine`] that runs a decoder on candle's tensors, for every device.

use std::collections::HashMap;

use super::{Engine, SequenceId, StepError, Work};
use crate::decoder::{Cache, Decoder, Rows, WantedLogits};

/// A model and the keys and values of the sequences that run. Dropping a cache frees it, and the process's allocator
/// zeroes what is freed.
pub struct ReferenceEngine {
    model: Decoder,
    caches: HashMap<SequenceId, Cache>,
}

impl ReferenceEngine {
    /// An engine without sequences.
    pub fn new(model: Decoder) -> Self {
        Self {
            model,
            caches: HashMap::new(),
        }
    }
}

impl Engine for ReferenceEngine {
    fn context_length(&self) -> usize {
        self.model.config().context
    }

    fn open(&mut self, sequence: SequenceId, capacity: usize) -> Result<(), StepError> {
        let cache = self
            .model
            .cache(capacity)
            .map_err(|error| StepError(error.to_string()))?;
        self.caches.insert(sequence, cache);
        Ok(())
    }

    fn close(&mut self, sequence: SequenceId) {
        self.caches.remove(&sequence);
    }

    fn step(&mut self, batch: &[Work<'_>]) -> Result<Vec<Vec<f32>>, StepError> {
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
                logits: if work.wants_logits {
                    WantedLogits::Last
                } else {
                    WantedLogits::None
                },
            })
        });
        let mut rows = rows.collect::<Result<Vec<_>, StepError>>()?;
        self.model
            .forward(&mut rows)
            .map_err(|error| StepError(error.to_string()))
    }
}
