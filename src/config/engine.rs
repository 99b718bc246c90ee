//! `[engine]` of `server.toml`: how models run.

use casemate_models::device::DeviceError;
use casemate_models::engine::DeviceChoice;
use serde::{Deserialize, Serialize};

/// How models run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EngineSection {
    /// Threads of each model; 0 takes as many as the machine runs at once.
    pub threads: u32,
    /// Where models are computed: `cpu`, or `cuda` or `cuda:N` in a binary that was built with CUDA.
    #[serde(with = "written")]
    pub device: DeviceChoice,
    /// MiB that models, keys and values may take together; 0 takes what the system says is available. On a GPU it is never more
    /// than what that has left.
    pub memory_mib: u32,
    /// How keys and values are kept.
    pub cache: CacheKind,
    /// Prompt tokens that a step takes beside the answers under way: more reads prompts faster, less keeps answers even.
    pub prompt_tokens_per_step: u32,
    /// Whether tokens are guessed from the text so far, where that pays. It changes no answer.
    pub guess: bool,
    /// Seconds without a request after which the beginnings of earlier prompts are wiped.
    pub idle_seconds: u32,
}

/// How keys and values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheKind {
    /// 16-bit floats.
    F16,
    /// 8-bit numbers with scales: a little more than half the memory, and faster behind long contexts.
    Q8,
}

impl Default for EngineSection {
    fn default() -> Self {
        Self {
            threads: 0,
            device: DeviceChoice::Cpu,
            memory_mib: 0,
            cache: CacheKind::F16,
            prompt_tokens_per_step: 256,
            guess: true,
            idle_seconds: 300,
        }
    }
}

impl EngineSection {
    /// The first field that is out of its range, and why.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        let rules = [
            ("engine.threads", self.threads, 0, 1024),
            (
                "engine.prompt_tokens_per_step",
                self.prompt_tokens_per_step,
                1,
                65_536,
            ),
            ("engine.idle_seconds", self.idle_seconds, 1, 86_400),
        ];
        let broken = rules
            .into_iter()
            .find(|(_, value, least, most)| !(*least..=*most).contains(value));
        if let Some((field, value, least, most)) = broken {
            return Err((field, format!("is {value}; it must be {least} to {most}")));
        }
        match (self.device, self.cache) {
            (DeviceChoice::Cuda(_), _) if !casemate_models::device::HAS_CUDA => {
                Err(("engine.device", DeviceError::WithoutCuda.to_string()))
            }
            (DeviceChoice::Cuda(_), CacheKind::Q8) => {
                Err(("engine.cache", DeviceError::CacheKind.to_string()))
            }
            _ => Ok(()),
        }
    }
}

/// A device as the file names it.
mod written {
    use casemate_models::engine::DeviceChoice;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(
        device: &DeviceChoice,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(device)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<DeviceChoice, D::Error> {
        let name = String::deserialize(deserializer)?;
        name.parse().map_err(D::Error::custom)
    }
}
