//! Whether the devices that answer now are those that answered first (attack G7).
//!
//! The first answer goes to the broker, which compares it with the fleet list; from then on another device key, another key of its
//! firmware or another mode of the driver means that what holds weights and prompts is not what was attested.

use std::collections::BTreeMap;

use casemate_attestation::nvidia::{
    DeviceKind, DriverMode, GpuNonce, PinnedGpuRoot, look_at_device,
};
use casemate_attestation::{DeviceSet, Sha256Digest, UnixTime};

use super::DeviceAskError;

/// How the devices differ from those that answered first.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DevicesChanged {
    /// Somebody put it in.
    #[error("{kind} {key} was not in this machine when the server started")]
    Appeared {
        /// What it is.
        kind: DeviceKind,
        /// Its device key, as the fleet list has it.
        key: Sha256Digest,
    },
    /// Somebody took it out.
    #[error("{kind} {key} was in this machine when the server started, and answers no more")]
    Gone {
        /// What it was.
        kind: DeviceKind,
        /// Its device key, as the fleet list has it.
        key: Sha256Digest,
    },
    /// It was reset into other firmware.
    #[error(
        "{kind} {key} signs with another key than when the server started: other firmware was loaded"
    )]
    Firmware {
        /// What it is.
        kind: DeviceKind,
        /// Its device key, as the fleet list has it.
        key: Sha256Digest,
    },
    /// Confidential computing was switched.
    #[error("the driver's mode was {first} when the server started, and is {now}", first = .first.as_str(), now = .now.as_str())]
    Mode {
        /// At first.
        first: DriverMode,
        /// Now.
        now: DriverMode,
    },
}

/// A set of devices by their keys.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    mode: DriverMode,
    /// By the key that a device keeps: what it is, and the key of its firmware.
    devices: BTreeMap<Sha256Digest, (DeviceKind, Sha256Digest)>,
}

/// Remembers the first answer, and that another one came.
#[derive(Debug)]
pub(super) struct Steady {
    roots: Vec<PinnedGpuRoot>,
    first: Option<Seen>,
    changed: Option<DevicesChanged>,
}

impl Steady {
    pub(super) const fn new(roots: Vec<PinnedGpuRoot>) -> Self {
        Self {
            roots,
            first: None,
            changed: None,
        }
    }

    /// Whether no other devices answered so far.
    pub(super) fn unchanged(&self) -> Result<(), DeviceAskError> {
        self.changed.clone().map_or(Ok(()), |it| Err(it.into()))
    }

    /// Each device signed `nonce` under one of the roots, and they are those of the first answer. Lists are the verifiers' affair.
    pub(super) fn check(
        &mut self,
        set: &DeviceSet,
        nonce: &GpuNonce,
        now: UnixTime,
    ) -> Result<(), DeviceAskError> {
        self.unchanged()?;
        let seen = self.seen(set, nonce, now)?;
        let Some(first) = &self.first else {
            self.first = Some(seen);
            return Ok(());
        };
        match first.difference(&seen) {
            None => Ok(()),
            Some(changed) => {
                self.changed = Some(changed.clone());
                Err(changed.into())
            }
        }
    }

    fn seen(
        &self,
        set: &DeviceSet,
        nonce: &GpuNonce,
        now: UnixTime,
    ) -> Result<Seen, DeviceAskError> {
        let answers = set.ocsp_answers();
        let mut devices = BTreeMap::new();
        for (number, device) in set.devices.iter().enumerate() {
            let look = look_at_device(device, Some(*nonce.as_bytes()), &self.roots, &answers, now);
            let look = look.map_err(|rejection| DeviceAskError::NotGenuine {
                number,
                rejection: Box::new(rejection),
            })?;
            devices.insert(look.device_key, (look.kind, look.leaf_key));
        }
        let mode = set.mode;
        Ok(Seen { mode, devices })
    }
}

impl Seen {
    fn difference(&self, now: &Self) -> Option<DevicesChanged> {
        for (key, (kind, leaf)) in &self.devices {
            let (kind, key) = (*kind, *key);
            match now.devices.get(&key) {
                None => return Some(DevicesChanged::Gone { kind, key }),
                Some((_, other)) if other != leaf => {
                    return Some(DevicesChanged::Firmware { kind, key });
                }
                Some(_) => {}
            }
        }
        let strangers = now.devices.iter();
        let mut strangers = strangers.filter(|(key, _)| !self.devices.contains_key(key));
        if let Some((key, (kind, _))) = strangers.next() {
            let (kind, key) = (*kind, *key);
            return Some(DevicesChanged::Appeared { kind, key });
        }
        (self.mode != now.mode).then_some(DevicesChanged::Mode {
            first: self.mode,
            now: now.mode,
        })
    }
}

#[cfg(test)]
#[cfg(feature = "test-chip")]
mod tests {
    use super::*;
    use casemate_attestation::nvidia::OcspAnswers;
    use casemate_attestation::test_chip::TestGpu;

    const SEED: [u8; 32] = [3; 32];
    const NOW: UnixTime = UnixTime::from_secs(1_790_000_000);

    fn steady() -> Steady {
        Steady::new(vec![PinnedGpuRoot::private(&TestGpu::root_der(&SEED))])
    }

    fn nonce() -> GpuNonce {
        GpuNonce::recorded([5; 32])
    }

    fn set(mode: DriverMode, gpus: &[u32]) -> DeviceSet {
        let answer = |number: &u32| TestGpu::of_seed(&SEED, *number).evidence(&nonce());
        let devices = gpus.iter().map(answer).collect();
        DeviceSet::new(mode, devices, &OcspAnswers::none())
    }

    fn key(number: u32) -> Sha256Digest {
        TestGpu::of_seed(&SEED, number).device_key()
    }

    #[test]
    fn g07_a_swapped_added_or_lost_gpu_is_a_change_for_good() {
        let kind = DeviceKind::Gpu;
        let on = DriverMode::On;
        for (after, expected) in [
            (set(on, &[1, 3]), DevicesChanged::Gone { kind, key: key(2) }),
            (set(on, &[1]), DevicesChanged::Gone { kind, key: key(2) }),
            (
                set(on, &[1, 2, 3]),
                DevicesChanged::Appeared { kind, key: key(3) },
            ),
            (
                set(DriverMode::DevTools, &[1, 2]),
                DevicesChanged::Mode {
                    first: on,
                    now: DriverMode::DevTools,
                },
            ),
        ] {
            let mut steady = steady();
            let first = set(on, &[1, 2]);
            steady.check(&first, &nonce(), NOW).unwrap();
            steady.check(&set(on, &[2, 1]), &nonce(), NOW).unwrap();
            let changed = DeviceAskError::Changed(expected);
            assert_eq!(steady.check(&after, &nonce(), NOW), Err(changed.clone()));
            // The right ones back again change nothing: meanwhile anything may have been read.
            assert_eq!(steady.check(&first, &nonce(), NOW), Err(changed.clone()));
            assert_eq!(steady.unchanged(), Err(changed));
        }
    }

    #[test]
    fn g07_other_firmware_of_the_same_device_is_a_change() {
        let seen = |leaf: &[u8]| Seen {
            mode: DriverMode::On,
            devices: [(key(1), (DeviceKind::Gpu, Sha256Digest::of(leaf)))].into(),
        };
        let (kind, key) = (DeviceKind::Gpu, key(1));
        let changed = seen(b"one").difference(&seen(b"two"));
        assert_eq!(changed, Some(DevicesChanged::Firmware { kind, key }));
        assert_eq!(seen(b"one").difference(&seen(b"one")), None);
    }

    #[test]
    fn g01_g02_what_is_not_signed_by_the_device_for_this_nonce_is_not_sent() {
        let rule = |set: &DeviceSet, nonce: &GpuNonce, steady: &mut Steady| match steady
            .check(set, nonce, NOW)
            .unwrap_err()
        {
            DeviceAskError::NotGenuine { rejection, .. } => rejection.rule(),
            other => panic!("{other}"),
        };
        let good = set(DriverMode::On, &[1]);
        let other = GpuNonce::recorded([6; 32]);
        assert_eq!(rule(&good, &other, &mut steady()), "N2");
        let mut unsigned = good.clone();
        *unsigned.devices[0].report.last_mut().unwrap() ^= 1;
        assert_eq!(rule(&unsigned, &nonce(), &mut steady()), "N4");
        let nvidia = PinnedGpuRoot::nvidia();
        assert_eq!(rule(&good, &nonce(), &mut Steady::new(vec![nvidia])), "N3");
    }
}
