//! NVIDIA's library against a fake: every GPU answers our nonce or there is no evidence, and the driver's word is a mode only where
//! it is clear.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

mod support;
#[path = "support/waits.rs"]
mod waits;

use std::cell::{Cell, RefCell};
#[cfg(feature = "nvml")]
use std::path::Path;

use casemate_attestation::nvidia::{DeviceEvidence, DriverMode, GpuNonce, GpuReport, OcspAnswers};
use casemate_attestation::{DeviceProvider, DeviceSet, ProviderError, Sha256Digest};
use casemate_devices::nvidia::{self, DriverWord, Library, NvidiaProvider};
use casemate_devices::{DeviceError, Retry};

use waits::Waits;

const BUSY: DeviceError = DeviceError::Busy { device: "a fake" };

/// Recorded devices, by index, and what goes wrong with each question.
struct Recorded {
    devices: Vec<(Vec<u8>, Vec<u8>)>,
    count: u32,
    errors: RefCell<Vec<DeviceError>>,
    asked: Cell<u32>,
    /// The driver's words, the next one last; then it is on.
    words: RefCell<Vec<DriverWord>>,
}

const ON: DriverWord = DriverWord {
    on: true,
    in_production: true,
    devtools: false,
};

impl Recorded {
    fn new(devices: Vec<(Vec<u8>, Vec<u8>)>) -> Self {
        Self {
            count: devices.len() as u32,
            devices,
            errors: RefCell::default(),
            asked: Cell::new(0),
            words: RefCell::default(),
        }
    }
}

impl Library for Recorded {
    fn count(&self) -> Result<u32, DeviceError> {
        Ok(self.count)
    }

    fn word(&self) -> Result<DriverWord, DeviceError> {
        Ok(self.words.borrow_mut().pop().unwrap_or(ON))
    }

    fn report(&self, index: u32, _: &[u8; 32]) -> Result<Vec<u8>, DeviceError> {
        self.asked.set(self.asked.get() + 1);
        match self.errors.borrow_mut().pop() {
            Some(error) => Err(error),
            None => Ok(self.devices[index as usize].0.clone()),
        }
    }

    fn chain(&self, index: u32) -> Result<Vec<u8>, DeviceError> {
        Ok(self.devices[index as usize].1.clone())
    }
}

fn gpu(nonce: [u8; 32]) -> (Vec<u8>, Vec<u8>) {
    let report = [&[0x11, 0xe0, 1, 0xff], &nonce[..], &[0; 100]].concat();
    (report, b"-----BEGIN CERTIFICATE-----".to_vec())
}

#[test]
fn every_gpu_answers_our_nonce_or_there_is_no_evidence() {
    let nonce = GpuNonce::recorded([3; 32]);
    let library = Recorded::new(vec![gpu([3; 32]), gpu([3; 32])]);
    let evidence = nvidia::evidence(&library, &nonce).unwrap();
    assert_eq!(evidence.len(), 2);
    assert_eq!(evidence[1].report, gpu([3; 32]).0);

    let replayed = Recorded::new(vec![gpu([3; 32]), gpu([4; 32])]);
    let error = nvidia::evidence(&replayed, &nonce).unwrap_err();
    assert!(matches!(error, DeviceError::NotOurs { .. }));
    let long = (vec![0; 8193], gpu([3; 32]).1);
    for wrong in [(Vec::new(), Vec::new()), long, (gpu([3; 32]).0, Vec::new())] {
        let error = nvidia::evidence(&Recorded::new(vec![wrong]), &nonce).unwrap_err();
        assert!(matches!(error, DeviceError::Malformed { .. }), "{error}");
    }
    let mut many = Recorded::new(vec![gpu([3; 32])]);
    many.count = 65;
    assert!(nvidia::evidence(&many, &nonce).is_err());

    let busy = Recorded::new(vec![gpu([3; 32])]);
    busy.errors.borrow_mut().push(BUSY);
    let waits = Waits::default();
    let again = Retry::default().run(&waits, || nvidia::evidence(&busy, &nonce));
    assert_eq!(
        (again.unwrap().len(), waits.count(), busy.asked.get()),
        (1, 1, 2)
    );
    let lost = Recorded::new(vec![gpu([3; 32])]);
    lost.errors.borrow_mut().push(DeviceError::Failed {
        device: "a fake",
        why: "GPU is lost".into(),
    });
    assert!(
        Retry::default()
            .run(&waits, || nvidia::evidence(&lost, &nonce))
            .is_err()
    );
    assert_eq!(lost.asked.get(), 1);
}

/// What a server gets of these GPUs, with one answer about revocation.
fn provided(library: Recorded) -> Result<DeviceSet, ProviderError> {
    let about = Sha256Digest::of(b"a certificate");
    let answers = move |devices: &[DeviceEvidence]| {
        assert!(!devices.is_empty());
        Ok(OcspAnswers::new([(about, vec![7])]))
    };
    let provider = NvidiaProvider::new(Box::new(library), Box::new(answers));
    provider.devices(&GpuNonce::recorded([3; 32]))
}

#[test]
fn a_servers_gpus_are_one_set_in_the_drivers_mode_and_no_gpu_is_an_error() {
    let first = gpu([3; 32]);
    let mut second = first.clone();
    second.0[36] = 1;
    let all = || Recorded::new(vec![second.clone(), first.clone()]);
    let set = provided(all()).unwrap();
    assert_eq!(set.mode, DriverMode::On);
    let reports: Vec<_> = set.devices.iter().map(|it| &it.report).collect();
    assert_eq!(reports, [&first.0, &second.0], "in the order of the bytes");
    assert_eq!(set.ocsp_answers().iter().count(), 1);

    let busy = all();
    busy.errors.borrow_mut().push(BUSY);
    assert_eq!(provided(busy).unwrap(), set, "asked again");
    let lost = all();
    lost.errors.borrow_mut().push(DeviceError::Failed {
        device: "a fake",
        why: "GPU is lost".into(),
    });
    let error = provided(lost).unwrap_err();
    assert!(error.to_string().contains("GPU is lost"), "{error}");
    let none = provided(Recorded::new(Vec::new())).unwrap_err();
    assert!(matches!(none, ProviderError::Unavailable(_)), "{none}");
}

#[test]
fn g03_a_mode_that_changes_while_gpus_answer_is_an_error() {
    let devtools = DriverWord {
        devtools: true,
        ..ON
    };
    let changing = Recorded::new(vec![gpu([3; 32])]);
    changing.words.borrow_mut().extend([devtools, ON]);
    let error = provided(changing).unwrap_err();
    assert!(error.to_string().contains("mode changed"), "{error}");
    // What it says all along is told as it is: verifiers refuse it.
    let all_along = Recorded::new(vec![gpu([3; 32])]);
    all_along.words.borrow_mut().extend([devtools, devtools]);
    assert_eq!(provided(all_along).unwrap().mode, DriverMode::DevTools);
    let not_ready = Recorded::new(vec![gpu([3; 32])]);
    let off = DriverWord {
        in_production: false,
        ..ON
    };
    not_ready.words.borrow_mut().push(off);
    let error = provided(not_ready).unwrap_err();
    assert!(matches!(error, ProviderError::Unavailable(_)), "{error}");
}

#[test]
fn recorded_gpus_come_through_byte_by_byte() {
    let Some(shared) = support::shared("nvidia") else {
        return;
    };
    for folder in ["hopper-550", "blackwell-gb100"] {
        let read = |name: &str| std::fs::read(shared.join(folder).join(name)).unwrap();
        let (report, chain) = (read("report.bin"), read("chain.pem"));
        let nonce = GpuNonce::recorded(report[4..36].try_into().unwrap());
        let library = Recorded::new(vec![(report.clone(), chain.clone())]);
        let evidence = nvidia::evidence(&library, &nonce).unwrap();
        assert_eq!((&evidence[0].report, &evidence[0].chain), (&report, &chain));
        GpuReport::parse(&evidence[0].report).unwrap();
    }
}

#[test]
fn g03_the_drivers_word_is_a_mode_only_where_it_is_clear() {
    let mode = |on, in_production, devtools| {
        let word = DriverWord {
            on,
            in_production,
            devtools,
        };
        word.state().map(|state| state.mode)
    };
    assert_eq!(mode(true, true, false), Ok(DriverMode::On));
    assert_eq!(mode(false, false, false), Ok(DriverMode::Off));
    for (on, in_production) in [(true, true), (true, false), (false, false)] {
        assert_eq!(mode(on, in_production, true), Ok(DriverMode::DevTools));
    }
    let unclear = mode(true, false, false);
    assert!(matches!(unclear, Err(DeviceError::Unavailable { .. })));
}

#[cfg(feature = "nvml")]
#[test]
fn a_machine_without_nvidias_library_says_so() {
    if Path::new("/dev/nvidiactl").exists() {
        println!("SKIP this machine has an NVIDIA driver");
        return;
    }
    let error = nvidia::Nvml::load().unwrap_err();
    assert!(matches!(error, DeviceError::Unavailable { .. }), "{error}");
}
