//! What asks this machine's GPUs and switches, by configuration, and who certified them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use casemate_attestation::nvidia::{DeviceEvidence, OcspAnswers, PinnedGpuRoot};
use casemate_attestation::{DeviceProvider, ReleasePublicKey};
use casemate_devices::DeviceError;
use casemate_devices::nvidia::{Answers, Library, NvidiaProvider};

use super::ServeError;
use super::collateral::SignedCollateral;
use crate::config::{AttestationSection, DeviceSource, DevicesSection};
use crate::devices::{DeviceAsker, DeviceLimits};

/// Devices that can be asked, and the roots that their certificates end in.
type Source = (Arc<dyn DeviceProvider>, Vec<PinnedGpuRoot>);

/// The devices that the configuration names, or `None` where it names none. NVIDIA's library is loaded here, so that a server
/// without it does not start.
///
/// # Errors
/// [`ServeError::Device`] without the library or its driver, [`ServeError::File`] for the test chip's seed.
pub(super) fn asker(
    section: &AttestationSection,
    key: ReleasePublicKey,
) -> Result<Option<DeviceAsker>, ServeError> {
    let Some(devices) = &section.devices else {
        return Ok(None);
    };
    let (provider, roots) = match devices.source {
        DeviceSource::Nvidia => nvidia(section, devices, key)?,
        DeviceSource::TestGpus => test_gpus(section, devices)?,
    };
    let limits = DeviceLimits {
        waiting_max: devices.waiting as usize,
        patience: Duration::from_secs(devices.answer_seconds.into()),
    };
    Ok(Some(DeviceAsker::start(provider, roots, limits)?))
}

fn nvidia(
    section: &AttestationSection,
    devices: &DevicesSection,
    key: ReleasePublicKey,
) -> Result<Source, ServeError> {
    let file = devices.answers.as_deref();
    let bundle = file.or(section.collateral.as_deref().filter(|path| !path.is_dir()));
    let provider = NvidiaProvider::new(library()?, answers(bundle, key));
    Ok((Arc::new(provider), vec![PinnedGpuRoot::nvidia()]))
}

/// What the organisation's bundle holds about the devices' certificates; nothing without a bundle.
fn answers(bundle: Option<&Path>, key: ReleasePublicKey) -> Answers {
    match bundle.map(|path| SignedCollateral::new(path, key)) {
        None => Box::new(|_: &[DeviceEvidence]| Ok(OcspAnswers::none())),
        Some(bundle) => Box::new(move |devices: &[DeviceEvidence]| bundle.gpu_answers(devices)),
    }
}

/// NVIDIA's management library.
///
/// # Errors
/// [`DeviceError::Unavailable`] without library, driver or GPU, and in a program that was built without it.
#[cfg(feature = "nvml")]
fn library() -> Result<Box<dyn Library + Send>, DeviceError> {
    Ok(Box::new(casemate_devices::nvidia::Nvml::load()?))
}

/// A program that loads no libraries.
///
/// # Errors
/// Always.
#[cfg(not(feature = "nvml"))]
fn library() -> Result<Box<dyn Library + Send>, DeviceError> {
    Err(DeviceError::Unavailable {
        device: "NVIDIA's management library",
        why: "this program was built without it (feature nvml)".into(),
    })
}

/// This machine's devices, for their enrolment.
///
/// # Errors
/// As [`library`].
pub(crate) fn of_this_machine() -> Result<Box<dyn DeviceProvider>, DeviceError> {
    let silence = Box::new(|_: &[DeviceEvidence]| Ok(OcspAnswers::none()));
    Ok(Box::new(NvidiaProvider::new(library()?, silence)))
}

#[cfg(not(feature = "test-chip"))]
fn test_gpus(section: &AttestationSection, _: &DevicesSection) -> Result<Source, ServeError> {
    Err(ServeError::NoProvider(section.platform))
}

#[cfg(feature = "test-chip")]
fn test_gpus(section: &AttestationSection, devices: &DevicesSection) -> Result<Source, ServeError> {
    use casemate_attestation::test_chip::TestGpu;
    let (Some(seed), Some(numbers)) = (&section.test_chip_seed, &devices.test_gpus) else {
        return Err(ServeError::NoProvider(section.platform));
    };
    let seed = super::provider::test_seed(seed)?;
    let root = PinnedGpuRoot::private(&TestGpu::root_der(&seed));
    let provider = TestGpus {
        seed,
        numbers: numbers.to_path_buf(),
    };
    Ok((Arc::new(provider), vec![root]))
}

/// The test GPUs that a file names at the moment: whoever edits it swaps them.
#[cfg(feature = "test-chip")]
struct TestGpus {
    seed: zeroize::Zeroizing<[u8; 32]>,
    numbers: std::path::PathBuf,
}

#[cfg(feature = "test-chip")]
impl DeviceProvider for TestGpus {
    fn devices(
        &self,
        nonce: &casemate_attestation::nvidia::GpuNonce,
    ) -> Result<casemate_attestation::DeviceSet, casemate_attestation::ProviderError> {
        use casemate_attestation::nvidia::DriverMode;
        use casemate_attestation::test_chip::TestGpu;
        use casemate_attestation::{DeviceSet, ProviderError};
        let unusable = |why: String| ProviderError::Unavailable(format!("the test GPUs: {why}"));
        let bytes = casemate_client::files::read_public(&self.numbers, 1024)
            .map_err(|error| unusable(error.to_string()))?;
        let text = String::from_utf8_lossy(&bytes);
        let numbers = text.split_whitespace().map(str::parse::<u32>);
        let numbers: Vec<u32> = numbers
            .collect::<Result<_, _>>()
            .map_err(|_| unusable("their file holds something other than numbers".into()))?;
        if numbers.is_empty() {
            return Err(unusable("their file names none".into()));
        }
        let answer = |number| TestGpu::of_seed(&self.seed, number).evidence(nonce);
        let devices = numbers.into_iter().map(answer).collect();
        Ok(DeviceSet::new(
            DriverMode::On,
            devices,
            &OcspAnswers::none(),
        ))
    }
}
