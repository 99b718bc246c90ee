//! `[attestation.devices]`: the GPUs and switches that prove themselves beside the machine.

use casemate_attestation::Platform;
use serde::{Deserialize, Serialize};

use super::load::ConfigPath;

/// Which devices are asked, and how long for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DevicesSection {
    /// Who answers: all of them, for the fleet list says which they are.
    pub source: DeviceSource,
    /// With `source = "nvidia"`: the file of `casemate collateral pack`, for what issuers say about the devices' certificates. Read
    /// again for every answer. Without it `attestation.collateral`, where that is such a file; else nothing is sent about revocation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<ConfigPath>,
    /// With `source = "test-gpus"`: a file with the numbers of the test GPUs in the machine, read again for every answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_gpus: Option<ConfigPath>,
    /// Requests that wait for the devices at once.
    #[serde(default = "default_waiting")]
    pub waiting: u32,
    /// Seconds from a request to its answer.
    #[serde(default = "default_answer_seconds")]
    pub answer_seconds: u32,
    /// Seconds between two looks at whether the devices are still there and the same.
    #[serde(default = "default_watch_seconds")]
    pub watch_seconds: u32,
}

/// Who answers for the machine's devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceSource {
    /// NVIDIA's driver, through its management library.
    Nvidia,
    /// GPUs that are none, of the test chip's seed; never in a production build.
    TestGpus,
}

const fn default_waiting() -> u32 {
    256
}

const fn default_answer_seconds() -> u32 {
    20
}

const fn default_watch_seconds() -> u32 {
    60
}

impl DevicesSection {
    /// Paths to be resolved.
    pub(super) fn paths(&mut self) -> impl Iterator<Item = &mut ConfigPath> {
        self.answers.iter_mut().chain(self.test_gpus.as_mut())
    }

    /// Bounds, and that each source stands beside what it needs.
    pub(super) fn check(&self, platform: Platform) -> Result<(), (&'static str, String)> {
        let bounds = [
            ("attestation.devices.waiting", self.waiting, 65_536),
            // A broker's challenge is good for 60 s.
            (
                "attestation.devices.answer_seconds",
                self.answer_seconds,
                50,
            ),
            (
                "attestation.devices.watch_seconds",
                self.watch_seconds,
                3600,
            ),
        ];
        for (field, value, most) in bounds {
            if value == 0 || value > most {
                return Err((field, format!("is {value}; it must be 1 to {most}")));
            }
        }
        let source = "attestation.devices.source";
        match self.source {
            DeviceSource::TestGpus if cfg!(not(feature = "test-chip")) => Err((
                source,
                "this program was built for production and has no test GPUs".into(),
            )),
            DeviceSource::TestGpus if platform != Platform::TestChip => Err((
                source,
                "\"test-gpus\" are for platform \"test-chip\" only: no real machine has them"
                    .into(),
            )),
            DeviceSource::TestGpus if self.test_gpus.is_none() => Err((
                "attestation.devices.test_gpus",
                "is needed with source \"test-gpus\"".into(),
            )),
            DeviceSource::TestGpus if self.answers.is_some() => Err((
                "attestation.devices.answers",
                "is for source \"nvidia\" only; remove it".into(),
            )),
            DeviceSource::Nvidia if self.test_gpus.is_some() => Err((
                "attestation.devices.test_gpus",
                "is for source \"test-gpus\" only; remove it".into(),
            )),
            DeviceSource::Nvidia | DeviceSource::TestGpus => Ok(()),
        }
    }
}
