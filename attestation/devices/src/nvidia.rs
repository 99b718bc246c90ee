//! NVIDIA's GPUs through `libnvidia-ml.so.1`, loaded at run time by a crate whose interface is safe: reports, chains, and the
//! driver's word about its mode.

use std::sync::{Mutex, PoisonError};

use casemate_attestation::nvidia::{
    CHAIN_BYTES_MAX, DEVICES_MAX, DeviceEvidence, DriverMode, DriverState, GpuNonce, OcspAnswers,
    REPORT_BYTES_MAX,
};
use casemate_attestation::{DeviceProvider, DeviceSet, ProviderError};

use crate::DeviceError;
use crate::retry::{Retry, SystemTime};

const DEVICE: &str = "NVIDIA's management library";
/// Where the nonce of the request stands in a report: version, code, two parameters, nonce (DSP0274, GET_MEASUREMENTS).
const NONCE: std::ops::Range<usize> = 4..36;

/// What the driver says about confidential computing. The guest's own word: it is in no report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DriverWord {
    /// Confidential computing is on.
    pub on: bool,
    /// It is on, in the production environment, and the GPUs accept work.
    pub in_production: bool,
    /// Development tools may look into the GPU.
    pub devtools: bool,
}

impl DriverWord {
    /// The one mode that the verifier asks for.
    ///
    /// # Errors
    /// [`DeviceError::Unavailable`] when confidential computing is on, but not in production or not ready.
    pub fn state(self) -> Result<DriverState, DeviceError> {
        let mode = match (self.devtools, self.on, self.in_production) {
            (true, ..) => DriverMode::DevTools,
            (false, false, _) => DriverMode::Off,
            (false, true, true) => DriverMode::On,
            (false, true, false) => {
                return Err(DeviceError::Unavailable {
                    device: DEVICE,
                    why: "confidential computing is on, but the environment is not production or the GPUs do not accept \
                          work yet (nvidia-smi conf-compute -srs 1)"
                        .into(),
                });
            }
        };
        Ok(DriverState { mode })
    }
}

/// What is asked of the library. The real one is [`Nvml`].
pub trait Library {
    /// How many GPUs there are.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn count(&self) -> Result<u32, DeviceError>;

    /// The driver's mode.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn word(&self) -> Result<DriverWord, DeviceError>;

    /// SPDM report of GPU `index` over `nonce`: request and response.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn report(&self, index: u32, nonce: &[u8; 32]) -> Result<Vec<u8>, DeviceError>;

    /// Attestation certificates of GPU `index`, PEM, leaf first.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn chain(&self, index: u32) -> Result<Vec<u8>, DeviceError>;
}

/// Evidence of every GPU of the machine over one nonce, in the order of the library.
///
/// # Errors
/// Any GPU's error ends it: evidence of some of the GPUs would hide one.
pub fn evidence(
    library: &dyn Library,
    nonce: &GpuNonce,
) -> Result<Vec<DeviceEvidence>, DeviceError> {
    let count = library.count()?;
    if usize::try_from(count).map_or(true, |count| count > DEVICES_MAX) {
        return Err(malformed("it says that there are more than 64 GPUs"));
    }
    (0..count)
        .map(|index| {
            let report = library.report(index, nonce.as_bytes())?;
            if report.is_empty() || report.len() > REPORT_BYTES_MAX {
                return Err(malformed("a report is empty or longer than 8 KiB"));
            }
            if report.get(NONCE) != Some(nonce.as_bytes()) {
                return Err(DeviceError::NotOurs {
                    device: DEVICE,
                    what: "a report is over another nonce",
                });
            }
            let chain = library.chain(index)?;
            if chain.is_empty() || chain.len() > CHAIN_BYTES_MAX {
                return Err(malformed("a chain is empty or longer than 16 KiB"));
            }
            Ok(DeviceEvidence { report, chain })
        })
        .collect()
}

/// What issuers say about the certificates of these devices, wherever it is kept; silence is an empty answer.
pub type Answers = Box<dyn Fn(&[DeviceEvidence]) -> Result<OcspAnswers, DeviceError> + Send + Sync>;

/// The machine's GPUs, one request at a time.
pub struct NvidiaProvider {
    nvml: Mutex<Box<dyn Library + Send>>,
    answers: Answers,
    retry: Retry,
}

impl NvidiaProvider {
    /// With this library and what is known about revocation.
    #[must_use]
    pub fn new(library: Box<dyn Library + Send>, answers: Answers) -> Self {
        Self {
            nvml: Mutex::new(library),
            answers,
            retry: Retry::default(),
        }
    }
}

impl DeviceProvider for NvidiaProvider {
    /// The mode is asked before and after: one that changed meanwhile would be signed beside reports of another.
    fn devices(&self, nonce: &GpuNonce) -> Result<DeviceSet, ProviderError> {
        let library = self.nvml.lock().unwrap_or_else(PoisonError::into_inner);
        let ask = || {
            let before = library.word()?.state()?;
            let devices = evidence(&**library, nonce)?;
            if library.word()?.state()? != before {
                return Err(DeviceError::Failed {
                    device: DEVICE,
                    why: "the driver's mode changed while GPUs answered".into(),
                });
            }
            Ok((before.mode, devices))
        };
        let (mode, devices) = self.retry.run(&SystemTime::new(), ask)?;
        if devices.is_empty() {
            return Err(DeviceError::Unavailable {
                device: DEVICE,
                why: "it knows no GPU".into(),
            }
            .into());
        }
        let answers = (self.answers)(&devices)?;
        Ok(DeviceSet::new(mode, devices, &answers))
    }
}

const fn malformed(what: &'static str) -> DeviceError {
    DeviceError::Malformed {
        device: DEVICE,
        what,
    }
}

#[cfg(feature = "nvml")]
pub use loaded::Nvml;

#[cfg(feature = "nvml")]
mod loaded {
    //! The real library.

    use std::panic::{AssertUnwindSafe, catch_unwind};

    use nvml_wrapper::error::NvmlError;

    use super::{DEVICE, DeviceError, DriverWord, Library, malformed};

    /// The library, loaded and initialised; shut down when dropped.
    #[derive(Debug)]
    pub struct Nvml(nvml_wrapper::Nvml);

    impl Nvml {
        /// Loads `libnvidia-ml.so.1`, by its version: the name without it belongs to development packages.
        ///
        /// # Errors
        /// [`DeviceError::Unavailable`] without library, driver or GPU.
        pub fn load() -> Result<Self, DeviceError> {
            nvml_wrapper::Nvml::builder()
                .lib_path("libnvidia-ml.so.1".as_ref())
                .init()
                .map(Self)
                .map_err(|error| of_library(&error))
        }

        /// The wrapper cuts arrays at lengths that the driver gave; one that is too long panics there.
        fn ask<T>(
            &self,
            ask: impl FnOnce(&nvml_wrapper::Nvml) -> Result<T, NvmlError>,
        ) -> Result<T, DeviceError> {
            catch_unwind(AssertUnwindSafe(|| ask(&self.0)))
                .map_err(|_| malformed("a length is beyond its array"))?
                .map_err(|error| of_library(&error))
        }
    }

    impl Library for Nvml {
        fn count(&self) -> Result<u32, DeviceError> {
            self.ask(nvml_wrapper::Nvml::device_count)
        }

        fn word(&self) -> Result<DriverWord, DeviceError> {
            // The mode is the driver's, whichever GPU is asked.
            self.ask(|nvml| {
                let gpu = nvml.device_by_index(0)?;
                let on = gpu.is_cc_enabled()?;
                Ok(DriverWord {
                    on,
                    in_production: on && gpu.check_confidential_compute_status()?,
                    devtools: gpu.is_cc_dev_mode_enabled()?,
                })
            })
        }

        fn report(&self, index: u32, nonce: &[u8; 32]) -> Result<Vec<u8>, DeviceError> {
            self.ask(|nvml| {
                let report = nvml
                    .device_by_index(index)?
                    .confidential_compute_gpu_attestation_report(*nonce)?;
                Ok(report.attestation_report)
            })
        }

        fn chain(&self, index: u32) -> Result<Vec<u8>, DeviceError> {
            self.ask(|nvml| {
                let chain = nvml
                    .device_by_index(index)?
                    .confidential_compute_gpu_certificate()?;
                Ok(chain.attestation_cert_chain)
            })
        }
    }

    /// What the library's error means. Only "in use" is worth asking again.
    pub(super) fn of_library(error: &NvmlError) -> DeviceError {
        match error {
            NvmlError::InUse => DeviceError::Busy { device: DEVICE },
            NvmlError::LibloadingError(_)
            | NvmlError::LibraryNotFound
            | NvmlError::DriverNotLoaded
            | NvmlError::NoPermission
            | NvmlError::NotSupported
            | NvmlError::FunctionNotFound
            | NvmlError::FailedToLoadSymbol(_)
            | NvmlError::NotFound => DeviceError::Unavailable {
                device: DEVICE,
                why: error.to_string(),
            },
            other => DeviceError::Failed {
                device: DEVICE,
                why: other.to_string(),
            },
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn only_in_use_is_worth_asking_again() {
            assert!(of_library(&NvmlError::InUse).is_busy());
            for other in [
                NvmlError::Unknown,
                NvmlError::GpuLost,
                NvmlError::Timeout,
                NvmlError::LibraryNotFound,
            ] {
                assert!(!of_library(&other).is_busy(), "{other}");
            }
            assert!(matches!(
                of_library(&NvmlError::DriverNotLoaded),
                DeviceError::Unavailable { .. }
            ));
        }
    }
}
