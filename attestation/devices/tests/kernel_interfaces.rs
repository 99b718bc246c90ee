//! Retry, `/dev/sev-guest`, the quote service, boot logs and detection, each against a fake.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

mod support;
#[path = "support/waits.rs"]
mod waits;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{self, Cursor, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use casemate_attestation::eventlog::{LOG_BYTES_MAX, LogKind, replay};
use casemate_attestation::{Platform, ProviderError};
use casemate_devices::files::{Files, SystemFiles};
use casemate_devices::sev_guest::{self, SevGuest};
use casemate_devices::tdx::quote_service;
use casemate_devices::{DeviceError, Machine, Retry, eventlog};
use sev::error::{FirmwareError, UserApiError, VmmError};

use waits::Waits;

const DATA: [u8; 64] = [0x5c; 64];
const BUSY: DeviceError = DeviceError::Busy { device: "a fake" };

// Retry.

#[test]
fn waits_double_to_a_bound_and_end_at_the_deadline() {
    let retry = Retry {
        first: Duration::from_millis(20),
        longest: Duration::from_millis(100),
        deadline: Duration::from_millis(1000),
    };
    let waits = Waits::default();
    waits.chance.set(u16::MAX);
    let error = retry.run(&waits, || Err::<(), _>(BUSY)).unwrap_err();
    let millis: Vec<u128> = waits
        .waits
        .borrow()
        .iter()
        .map(Duration::as_millis)
        .collect();
    assert_eq!(millis, [20, 40, 80, 100, 100, 100, 100, 100, 100, 100, 100]);
    let expected = DeviceError::StayedBusy {
        device: "a fake",
        waited_ms: 940,
        asked: 12,
    };
    assert_eq!(error, expected);
    assert_eq!(ProviderError::from(error), ProviderError::Busy);

    // Half of it at least, whatever chance says.
    let waits = Waits::default();
    retry.run(&waits, || Err::<(), _>(BUSY)).unwrap_err();
    let first = waits.waits.borrow()[..4].to_vec();
    assert_eq!(first, [10, 20, 40, 50].map(Duration::from_millis));

    // A device that takes its time to say that it is busy uses the deadline up.
    let waits = Waits::default();
    let slow = || {
        waits.pass(Duration::from_millis(600));
        Err::<(), _>(BUSY)
    };
    retry.run(&waits, slow).unwrap_err();
    assert_eq!(waits.count(), 1);
}

#[test]
fn only_busy_is_asked_again_and_every_answer_is_fresh() {
    let failed = DeviceError::Failed {
        device: "a fake",
        why: "EIO".into(),
    };
    let others = [
        failed.clone(),
        DeviceError::Malformed {
            device: "a fake",
            what: "it is short",
        },
        DeviceError::NotOurs {
            device: "a fake",
            what: "of another",
        },
        DeviceError::Unavailable {
            device: "a fake",
            why: "absent".into(),
        },
    ];
    for other in others {
        let (waits, asked) = (Waits::default(), Cell::new(0));
        let error = Retry::default().run(&waits, || {
            asked.set(asked.get() + 1);
            Err::<(), _>(other.clone())
        });
        assert_eq!((error.unwrap_err(), asked.get()), (other, 1));
        assert_eq!(waits.count(), 0);
    }
    let (waits, asked) = (Waits::default(), Cell::new(0));
    let third = || {
        asked.set(asked.get() + 1);
        if asked.get() < 3 {
            Err(BUSY)
        } else {
            Ok(asked.get())
        }
    };
    assert_eq!(Retry::default().run(&waits, third), Ok(3));
    assert!(
        matches!(ProviderError::from(failed), ProviderError::Device(text) if text.contains("EIO"))
    );
}

// /dev/sev-guest.

struct FakeSev {
    answers: Vec<Result<Vec<u8>, DeviceError>>,
    levels: Vec<u8>,
}

impl SevGuest for FakeSev {
    fn request(&mut self, _: &[u8; 64], level: u8) -> Result<Vec<u8>, DeviceError> {
        self.levels.push(level);
        self.answers.remove(0)
    }
}

fn snp_report() -> Vec<u8> {
    let mut report = vec![0xee; 1184];
    report[0x50..0x90].copy_from_slice(&DATA);
    report
}

#[test]
fn a_throttled_guest_waits_and_gets_its_own_report() {
    let mut device = FakeSev {
        answers: vec![Err(BUSY), Err(BUSY), Ok(snp_report())],
        levels: Vec::new(),
    };
    let waits = Waits::default();
    let report = Retry::default().run(&waits, || sev_guest::report(&mut device, &DATA, 1));
    assert_eq!(report.unwrap(), snp_report());
    assert_eq!((waits.count(), device.levels), (2, vec![1, 1, 1]));

    let mut short = snp_report();
    short.pop();
    let mut of_another = snp_report();
    of_another[0x8f] ^= 1;
    let mut device = FakeSev {
        answers: vec![Ok(short), Ok(of_another)],
        levels: Vec::new(),
    };
    let mut ask = || sev_guest::report(&mut device, &DATA, 0).unwrap_err();
    assert!(matches!(ask(), DeviceError::Malformed { .. }));
    assert!(matches!(ask(), DeviceError::NotOurs { .. }));
}

#[test]
fn errors_of_firmware_host_and_kernel_mean_what_they_say() {
    let system = io::Error::from_raw_os_error;
    let map = |error: UserApiError, number| sev_guest::of_library(&error, system(number));
    let throttled = UserApiError::VmmError(VmmError::RateLimitRetryRequest);
    assert!(map(throttled, 5).is_busy());
    // Neither firmware nor host said anything: the system call's own error counts.
    for code in [0, 0xff, u32::MAX] {
        let nothing = || UserApiError::FirmwareError(FirmwareError::UnknownSevError(code));
        assert!(map(nothing(), 16).is_busy());
        assert!(map(nothing(), 11).is_busy());
        assert!(matches!(map(nothing(), 5), DeviceError::Failed { .. }));
    }
    let firmware = UserApiError::FirmwareError(FirmwareError::from(0x16_u32));
    assert!(
        matches!(map(firmware, 16), DeviceError::Failed { .. }),
        "the firmware spoke"
    );
    let pages = UserApiError::VmmError(VmmError::InvalidCertificatePageLength);
    assert!(matches!(map(pages, 16), DeviceError::Failed { .. }));
    let missing = UserApiError::IOError(io::ErrorKind::NotFound.into());
    assert!(matches!(map(missing, 5), DeviceError::Unavailable { .. }));
}

// The quote generation service.

struct Service {
    answer: Cursor<Vec<u8>>,
    asked: Vec<u8>,
}

impl Service {
    fn new(answer: Vec<u8>) -> Self {
        Self {
            answer: Cursor::new(answer),
            asked: Vec::new(),
        }
    }
}

impl Read for Service {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        // In small parts, as a socket may.
        let end = out.len().min(7);
        self.answer.read(&mut out[..end])
    }
}

impl Write for Service {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let part = &bytes[..bytes.len().min(100)];
        self.asked.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn td_report() -> [u8; 1024] {
    let mut report = [0x22; 1024];
    report[128..192].copy_from_slice(&DATA);
    report
}

fn quote() -> Vec<u8> {
    let mut quote = vec![0x11; 4500];
    quote[..2].copy_from_slice(&[4, 0]);
    quote[568..632].copy_from_slice(&DATA);
    quote
}

/// An answer of the service: header, lengths, key id, quote.
fn message(kind: u32, code: u32, id: &[u8], quote: &[u8]) -> Vec<u8> {
    let size = (24 + id.len() + quote.len()) as u32;
    let mut out = vec![1, 0, 1, 0];
    for word in [kind, size, code, id.len() as u32, quote.len() as u32] {
        out.extend(word.to_le_bytes());
    }
    out.extend_from_slice(id);
    out.extend_from_slice(quote);
    out
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u32).to_be_bytes(), message].concat()
}

#[test]
fn the_quote_service_answers_over_our_report() {
    for id in [&b""[..], &[9; 32]] {
        let mut service = Service::new(framed(&message(1, 0, id, &quote())));
        let got = quote_service::quote(&mut service, &td_report());
        assert_eq!(got.unwrap(), quote());
        let mut asked = vec![0, 0, 4, 24, 1, 0, 0, 0];
        for word in [0_u32, 1048, 0, 1024, 0] {
            asked.extend(word.to_le_bytes());
        }
        asked.extend(td_report());
        assert_eq!(service.asked, asked);
    }
}

#[test]
fn the_quote_service_is_read_strictly() {
    let ask = |answer: Vec<u8>| {
        let mut service = Service::new(answer);
        quote_service::quote(&mut service, &td_report()).unwrap_err()
    };
    let good = framed(&message(1, 0, b"", &quote()));
    for end in [0, 3, 4, 19, 20, 27, 28, good.len() - 1] {
        let error = ask(good[..end].to_vec());
        assert!(
            matches!(error, DeviceError::Malformed { .. }),
            "{end}: {error}"
        );
    }
    let malformed = [
        framed(&message(5, 0, b"", &quote())),
        framed(&message(1, 0, b"", b"")),
        framed(&[message(1, 0, b"", &quote()), vec![0]].concat()),
        [0, 1, 0, 1].to_vec(),
        [0xff; 4].to_vec(),
        framed(&message(1, 0, b"", &[4, 0, 0])),
    ];
    for answer in malformed {
        assert!(matches!(ask(answer), DeviceError::Malformed { .. }));
    }
    let mut lengths = message(1, 0, b"", &quote());
    lengths[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(
        ask(framed(&lengths)),
        DeviceError::Malformed { .. }
    ));
    let refused = ask(framed(&message(1, 0x12003, b"", b"")));
    assert!(matches!(refused, DeviceError::Failed { why, .. } if why.contains("0x12003")));
    let mut of_another = quote();
    of_another[600] ^= 1;
    let error = ask(framed(&message(1, 0, b"", &of_another)));
    assert!(matches!(error, DeviceError::NotOurs { .. }));
}

// Boot logs and detection.

/// Files by path; an error instead where there is a number.
#[derive(Default)]
struct Tree(BTreeMap<PathBuf, Result<Vec<u8>, i32>>);

impl Files for Tree {
    fn make_folder(&self, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn remove_folder(&self, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn write(&self, _: &Path, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn read(&self, path: &Path, most: usize) -> io::Result<Vec<u8>> {
        match self.0.get(path) {
            None => Err(io::ErrorKind::NotFound.into()),
            Some(Err(number)) => Err(io::Error::from_raw_os_error(*number)),
            Some(Ok(bytes)) if bytes.len() > most => Err(io::ErrorKind::FileTooLarge.into()),
            Some(Ok(bytes)) => Ok(bytes.clone()),
        }
    }

    fn is_there(&self, path: &Path) -> bool {
        self.0.contains_key(path)
    }
}

fn tree(files: &[(&str, Result<Vec<u8>, i32>)]) -> Tree {
    let entry = |(path, content): &(&str, Result<Vec<u8>, i32>)| (path.into(), content.clone());
    Tree(files.iter().map(entry).collect())
}

#[test]
fn logs_are_bounded_and_their_errors_named() {
    let kinds = [
        (LogKind::Tcg2, eventlog::TPM_LOG),
        (LogKind::Ccel, eventlog::CCEL_LOG),
    ];
    for (kind, path) in kinds {
        let read = |content| eventlog::read(&tree(&[(path, content)]), kind);
        assert_eq!(
            read(Ok(vec![7; LOG_BYTES_MAX])).unwrap().len(),
            LOG_BYTES_MAX
        );
        let long = read(Ok(vec![7; LOG_BYTES_MAX + 1]));
        assert!(matches!(long, Err(DeviceError::Malformed { .. })));
        assert!(matches!(
            read(Ok(vec![])),
            Err(DeviceError::Malformed { .. })
        ));
        assert!(matches!(read(Err(5)), Err(DeviceError::Failed { .. })));
        assert!(matches!(read(Err(16)), Err(DeviceError::Busy { .. })));
        assert!(matches!(
            read(Err(13)),
            Err(DeviceError::Unavailable { .. })
        ));
        let absent = eventlog::read(&Tree::default(), kind);
        assert!(matches!(absent, Err(DeviceError::Unavailable { .. })));
    }
    let Some(shared) = support::shared("eventlog") else {
        return;
    };
    let recorded = std::fs::read_dir(shared.join("tpm-rhel8")).unwrap();
    let log = recorded
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "bin"))
        .map(|path| std::fs::read(path).unwrap())
        .unwrap();
    let read = eventlog::read(&tree(&[(eventlog::TPM_LOG, Ok(log))]), LogKind::Tcg2).unwrap();
    assert!(!replay(&read, LogKind::Tcg2).unwrap().events().is_empty());
}

#[test]
fn a_machine_is_what_its_devices_say_and_never_a_test_chip() {
    let here = |path: &'static str| (path, Ok(Vec::new()));
    let tsm = || here("/sys/kernel/config/tsm/report");
    let sev = || here("/dev/sev-guest");
    let tdx = || here("/dev/tdx_guest");
    let tpm = || here("/dev/tpmrm0");
    let best = |files: &[(&str, Result<Vec<u8>, i32>)]| Machine::detect(&tree(files)).best();
    assert_eq!(best(&[]), None);
    assert_eq!(best(&[tsm()]), None, "a kernel that has it and no driver");
    assert_eq!(best(&[tdx()]), None, "no quote without configfs-tsm");
    assert_eq!(best(&[tpm()]), Some(Platform::Tpm));
    assert_eq!(best(&[sev(), tpm()]), Some(Platform::Snp));
    assert_eq!(best(&[tsm(), sev(), tpm()]), Some(Platform::Snp));
    assert_eq!(best(&[tsm(), tdx(), tpm()]), Some(Platform::Tdx));
    let machine = Machine::detect(&tree(&[tpm(), here(eventlog::TPM_LOG)]));
    let text = machine.to_string();
    assert!(text.contains(" found  TPM 2.0 (/dev/tpmrm0)"), "{text}");
    assert!(text.contains("absent  NVIDIA driver"), "{text}");
}

#[test]
fn the_systems_files_are_bounded() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("attribute");
    assert!(
        SystemFiles.write(&path, b"x").is_err(),
        "attributes are never made"
    );
    std::fs::write(&path, [7; 10]).unwrap();
    assert_eq!(SystemFiles.read(&path, 10).unwrap().len(), 10);
    let long = SystemFiles.read(&path, 9).unwrap_err();
    assert_eq!(long.kind(), io::ErrorKind::FileTooLarge);
    let folder = place.path().join("entry");
    SystemFiles.make_folder(&folder).unwrap();
    let twice = SystemFiles.make_folder(&folder).unwrap_err();
    assert_eq!(twice.kind(), io::ErrorKind::AlreadyExists);
    assert!(SystemFiles.is_there(&folder));
    SystemFiles.remove_folder(&folder).unwrap();
    assert!(!SystemFiles.is_there(&folder));
}
