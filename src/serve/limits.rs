//! The configuration's bounds, as each part of the server wants them.

use std::fs;

use casemate_models::engine::{DeviceChoice, EngineLimits, Executor, KvKind};

use crate::config::{CacheKind, EngineSection, LimitsSection};
use crate::{api, listener};

impl LimitsSection {
    /// Jobs at once, waiting ones included.
    pub(super) const fn places(&self) -> usize {
        (self.queue as usize).saturating_add(self.sequences as usize)
    }

    pub(super) fn listener(&self) -> listener::Limits {
        listener::Limits {
            connections_max: self.connections as usize,
            handshake_s_max: self.handshake_seconds.into(),
            streams_max: self.streams,
            header_bytes_max: self.header_bytes,
            drain_s_max: self.drain_seconds.into(),
            ..listener::Limits::default()
        }
    }

    pub(super) fn api(&self, session_seconds: u32) -> api::Limits {
        api::Limits {
            body_bytes_max: self.body_bytes as usize,
            body_s_max: self.body_seconds.into(),
            prompt_tokens_max: self.prompt_tokens as usize,
            answer_s_max: self.answer_seconds.into(),
            reader_s_max: self.reader_seconds.into(),
            session_s_max: session_seconds.into(),
            ..api::Limits::default()
        }
    }

    /// Memory is asked for anew for each model: the one before has taken some.
    pub(super) fn engine(&self, engine: &EngineSection) -> EngineLimits {
        EngineLimits {
            sequences_max: self.sequences as usize,
            queue_max: self.queue as usize,
            // One team alone never fills the queue.
            tenant_max: self.places().div_ceil(2),
            cache_tokens_max: self.cache_tokens as usize,
            prefill_tokens: engine.prompt_tokens_per_step as usize,
            memory_bytes_max: match (engine.memory_mib, engine.device) {
                (0, DeviceChoice::Cpu) => available_bytes().unwrap_or(u64::MAX),
                // A GPU says itself how much it has left.
                (0, DeviceChoice::Cuda(_)) => u64::MAX,
                (mib, _) => u64::from(mib) << 20,
            },
            device: engine.device,
            cache: match engine.cache {
                CacheKind::F16 => KvKind::F16,
                CacheKind::Q8 => KvKind::Q8,
            },
            executor: Executor::Best,
            speculate: engine.guess,
            idle_s_max: engine.idle_seconds.into(),
            threads: engine.threads as usize,
        }
    }
}

/// Bytes that the system can give without swapping; none where it does not say.
fn available_bytes() -> Option<u64> {
    let about = fs::read_to_string("/proc/meminfo").ok()?;
    let line = about
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_system_says_how_much_memory_there_is() {
        let bytes = super::available_bytes();
        assert!(bytes.is_some_and(|bytes| bytes > 1 << 20), "{bytes:?}");
    }
}
