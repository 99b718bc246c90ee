//! The configuration's bounds, as each part of the server wants them.

use casemate_models::engine::EngineLimits;

use crate::config::LimitsSection;
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

    pub(super) fn engine(&self) -> EngineLimits {
        EngineLimits {
            sequences_max: self.sequences as usize,
            queue_max: self.queue as usize,
            // One team alone never fills the queue.
            tenant_max: self.places().div_ceil(2),
            cache_tokens_max: self.cache_tokens as usize,
            ..EngineLimits::default()
        }
    }
}
