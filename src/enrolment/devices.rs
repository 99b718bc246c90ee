//! A machine's GPUs and switches on their way into the fleet list (rule E9): by what they sign, never by a typed number.
//!
//! Where a machine's own evidence comes along, it is over the digest of these devices' evidence: the machine says which are its own.

use casemate_attestation::nvidia::{
    DeviceEvidence, DeviceKind, GpuNonce, OcspAnswers, PinnedGpuRoot, device_evidence_digest,
    look_at_device,
};
use casemate_attestation::{DeviceProvider, FleetDevice, ProviderError, Sha256Digest, UnixTime};
use ring::digest;

use super::{EnrolmentError, PROCESSOR_DATA};

/// Before what devices answer for enrolment: no session's nonce is made of these bytes.
const NONCE_LABEL: &[u8] = b"casemate/enrolment-gpu/v1";
/// Before what a machine's evidence is over when it names devices.
const MACHINE_LABEL: &[u8] = b"casemate/enrolment-devices/v1";

/// What a machine asks its devices with: in an answer to a challenge, or in a request that nobody challenged.
#[must_use]
pub fn device_nonce(challenge: Option<&Sha256Digest>) -> GpuNonce {
    let challenge = challenge.map_or(&[][..], |it| it.as_bytes());
    let bytes = *Sha256Digest::of(&[NONCE_LABEL, challenge].concat()).as_bytes();
    GpuNonce::recorded(bytes)
}

/// What a processor's evidence for enrolment is over, in the place of a session's binding.
#[must_use]
pub fn processor_data(devices: &[DeviceEvidence]) -> [u8; 64] {
    if devices.is_empty() {
        return PROCESSOR_DATA;
    }
    naming(devices, &[])
}

/// SHA-512 that names devices in a machine's own evidence.
pub(super) fn naming(devices: &[DeviceEvidence], before: &[u8]) -> [u8; 64] {
    let mut context = digest::Context::new(&digest::SHA512);
    context.update(MACHINE_LABEL);
    context.update(device_evidence_digest(devices).as_bytes());
    context.update(before);
    let mut out = [0; 64];
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// Asks this machine's devices for enrolment.
///
/// # Errors
/// [`ProviderError`].
pub fn ask(
    provider: &dyn DeviceProvider,
    challenge: Option<&Sha256Digest>,
) -> Result<Vec<DeviceEvidence>, ProviderError> {
    Ok(provider.devices(&device_nonce(challenge))?.devices)
}

/// A device that signed what it was asked for, under one of the roots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// What it is.
    pub kind: DeviceKind,
    /// The key by which the fleet list calls it.
    pub key: Sha256Digest,
}

impl Found {
    /// Its entry in the fleet list, as the device of this number in a machine.
    #[must_use]
    pub fn entry(&self, number: usize, machine: &str) -> FleetDevice {
        FleetDevice {
            kind: self.kind,
            device_key: self.key,
            label: format!("{} {number} of {machine}", self.kind),
        }
    }
}

/// Judges one device; `nonce` is what it was asked for with, where that is known. Whether it measures what it should is for each
/// session's verifier to say.
///
/// # Errors
/// [`EnrolmentError::Gpu`].
pub fn judge(
    evidence: &DeviceEvidence,
    nonce: Option<[u8; 32]>,
    answers: &OcspAnswers,
    roots: &[PinnedGpuRoot],
    now: UnixTime,
) -> Result<Found, EnrolmentError> {
    let look = look_at_device(evidence, nonce, roots, answers, now);
    let look = look.map_err(|rejection| EnrolmentError::Gpu(Box::new(rejection)))?;
    Ok(Found {
        kind: look.kind,
        key: look.device_key,
    })
}

/// Judges all devices of a request or an answer, which were asked with [`device_nonce`].
///
/// # Errors
/// [`EnrolmentError::Gpu`], [`EnrolmentError::GpuTwice`].
pub fn judge_all(
    devices: &[DeviceEvidence],
    challenge: Option<&Sha256Digest>,
    roots: &[PinnedGpuRoot],
    now: UnixTime,
) -> Result<Vec<Found>, EnrolmentError> {
    let nonce = *device_nonce(challenge).as_bytes();
    let answers = OcspAnswers::none();
    let found = devices.iter();
    let found = found.map(|it| judge(it, Some(nonce), &answers, roots, now));
    let found = found.collect::<Result<Vec<_>, _>>()?;
    none_twice(&found)?;
    Ok(found)
}

/// One device is one entry.
///
/// # Errors
/// [`EnrolmentError::GpuTwice`].
pub fn none_twice(found: &[Found]) -> Result<(), EnrolmentError> {
    for (place, device) in found.iter().enumerate() {
        if found
            .iter()
            .take(place)
            .any(|other| other.key == device.key)
        {
            return Err(EnrolmentError::GpuTwice(device.key.to_string()));
        }
    }
    Ok(())
}

#[cfg(test)]
#[cfg(feature = "test-chip")]
mod tests {
    use super::*;
    use casemate_attestation::test_chip::TestGpu;

    const SEED: [u8; 32] = [23; 32];
    const NOW: UnixTime = UnixTime::from_secs(1_790_000_000);

    #[test]
    fn b13_devices_are_enrolled_by_what_they_sign_for_this_enrolment() {
        let root = [PinnedGpuRoot::private(&TestGpu::root_der(&SEED))];
        let (one, two) = (TestGpu::of_seed(&SEED, 1), TestGpu::of_seed(&SEED, 2));
        let challenge = Sha256Digest::of(b"challenge");
        let asked = device_nonce(Some(&challenge));
        let devices = [one.evidence(&asked), two.evidence(&asked)];
        let found = judge_all(&devices, Some(&challenge), &root, NOW).unwrap();
        assert_eq!(found[1].key, two.device_key());
        assert_eq!(found[0].entry(0, "rack 7").label, "GPU 0 of rack 7");

        let rule = |devices: &[DeviceEvidence], challenge, roots: &[PinnedGpuRoot]| match judge_all(
            devices, challenge, roots, NOW,
        )
        .unwrap_err()
        {
            EnrolmentError::Gpu(rejection) => rejection.rule(),
            other => panic!("{other}"),
        };
        let nvidia = [PinnedGpuRoot::nvidia()];
        assert_eq!(rule(&devices, Some(&challenge), &nvidia), "N3");
        assert_eq!(rule(&devices, None, &root), "N2", "another enrolment's");
        let other = Sha256Digest::of(b"other");
        assert_eq!(rule(&devices, Some(&other), &root), "N2");
        let twice = [devices[0].clone(), devices[0].clone()];
        let twice = judge_all(&twice, Some(&challenge), &root, NOW).unwrap_err();
        assert!(matches!(twice, EnrolmentError::GpuTwice(_)), "{twice}");
    }

    #[test]
    fn a_machines_evidence_for_enrolment_names_its_devices() {
        let evidence = |number| TestGpu::of_seed(&SEED, number).evidence(&device_nonce(None));
        let (one, two) = (evidence(1), evidence(2));
        assert_eq!(processor_data(&[]), PROCESSOR_DATA);
        let named = processor_data(&[one.clone()]);
        assert_ne!(named, PROCESSOR_DATA);
        assert_ne!(named, processor_data(&[one, two]));
    }
}
