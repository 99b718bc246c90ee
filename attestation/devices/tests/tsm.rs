//! configfs-tsm behind a fake kernel: recorded answers, and everything that goes wrong between a request and its report.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

#[path = "support/kernel.rs"]
mod kernel;
mod support;
#[path = "support/waits.rs"]
mod waits;

use casemate_attestation::snp::SnpReport;
use casemate_devices::tsm::{CertificateKind, CertificateTable, TableError, Tsm, TsmProvider};
use casemate_devices::{DeviceError, Retry};
use proptest::prelude::*;

use kernel::{EAGAIN, EBUSY, EIO, ENXIO, ETIMEDOUT, Kernel};
use waits::Waits;

const DATA: [u8; 64] = [0x5c; 64];

/// A report of the right length over the data asked for.
fn report(data: &[u8]) -> Vec<u8> {
    let mut out = vec![0xee; 1184];
    out[0x50..0x90].copy_from_slice(data);
    out
}

fn quote(data: &[u8], version: u8) -> Vec<u8> {
    let mut out = vec![0x11; 4000];
    out[..2].copy_from_slice(&[version, 0]);
    let begin = if version == 4 { 568 } else { 574 };
    out[begin..begin + 64].copy_from_slice(data);
    out
}

fn sev() -> Kernel {
    Kernel::new("sev_guest", Box::new(report))
}

fn ask(kernel: &Kernel) -> Result<casemate_devices::tsm::TsmReport, DeviceError> {
    let answer = Tsm::new(kernel).report(&DATA, Some(0));
    assert_eq!(kernel.left(), 0, "the entry is removed whatever happens");
    answer
}

/// A table as hosts write it.
fn table(certificates: &[(u128, &[u8])]) -> Vec<u8> {
    let mut offset = (certificates.len() + 1) * 24;
    let (mut list, mut blob) = (Vec::new(), Vec::new());
    for (guid, certificate) in certificates {
        list.extend(guid.to_be_bytes());
        list.extend((offset as u32).to_le_bytes());
        list.extend((certificate.len() as u32).to_le_bytes());
        blob.extend_from_slice(certificate);
        offset += certificate.len();
    }
    list.extend([0; 24]);
    [list, blob].concat()
}

const VCEK: u128 = 0x63da_758d_e664_4564_adc5_f4b9_3be8_accd;
const VLEK: u128 = 0xa807_4bc2_a25a_483e_aae6_39c0_45a0_b8a1;
const ASK: u128 = 0x4ab7_b379_bbac_4fe4_a02f_05ae_f327_c782;

#[test]
fn both_drivers_answer_with_our_data_and_level() {
    let mut kernel = sev();
    kernel.table = Some(table(&[(VCEK, b"vcek"), (ASK, b"ask")]));
    let answer = ask(&kernel).unwrap();
    assert_eq!(answer.provider, TsmProvider::SevGuest);
    assert_eq!(answer.report, report(&DATA));
    let certificates = answer.certificate_table().unwrap();
    assert_eq!(certificates.get(CertificateKind::Ask), Some(&b"ask"[..]));
    let (kind, key) = certificates.endorsement().unwrap();
    assert_eq!((kind, key), (CertificateKind::Vcek, &b"vcek"[..]));
    assert_eq!(kernel.last_level.borrow().as_deref(), Some(&b"0"[..]));

    for version in [4, 5] {
        let kernel = Kernel::new("tdx_guest", Box::new(move |data| quote(data, version)));
        let answer = ask(&kernel).unwrap();
        assert_eq!(answer.provider, TsmProvider::TdxGuest);
        assert_eq!(answer.report, quote(&DATA, version));
        assert_eq!(*kernel.last_level.borrow(), None, "TDX has no levels");
    }
}

#[test]
fn recorded_evidence_comes_through_byte_by_byte() {
    let (Some(snp), Some(tdx)) = (support::shared("snp"), support::shared("tdx")) else {
        return;
    };
    let mut seen = 0;
    for folder in ["genoa-v5-oak", "turin-v5-aci", "milan-v2-baremetal"] {
        let expected: serde_json::Value =
            serde_json::from_slice(&std::fs::read(snp.join(folder).join("expected.json")).unwrap())
                .unwrap();
        let name = expected["report"].as_str().unwrap();
        let recorded = std::fs::read(snp.join(folder).join(name)).unwrap();
        let data: [u8; 64] = recorded[0x50..0x90].try_into().unwrap();
        let mut kernel = sev();
        let played = recorded.clone();
        kernel.answer = Box::new(move |_| played.clone());
        let answer = Tsm::new(&kernel).report(&data, Some(0)).unwrap();
        assert_eq!(answer.report, recorded);
        SnpReport::parse(&answer.report).unwrap();
        // The same bytes are no answer to anybody else's request.
        assert!(matches!(ask(&kernel), Err(DeviceError::NotOurs { .. })));
        seen += 1;
    }
    for entry in std::fs::read_dir(&tdx).unwrap() {
        let folder = entry.unwrap().path();
        let Some(recorded) = ["quote.bin", "quote.dat"]
            .iter()
            .find_map(|name| std::fs::read(folder.join(name)).ok())
        else {
            continue;
        };
        let data: [u8; 64] = casemate_devices::tdx::report_data(&recorded)
            .unwrap()
            .try_into()
            .unwrap();
        let expected = std::fs::read_to_string(folder.join("expected.json")).unwrap();
        assert!(
            expected.contains(&hex::encode(data)),
            "{}",
            folder.display()
        );
        let mut kernel = Kernel::new("tdx_guest", Box::new(report));
        let played = recorded.clone();
        kernel.answer = Box::new(move |_| played.clone());
        let answer = Tsm::new(&kernel).report(&data, None).unwrap();
        assert_eq!(answer.report, recorded);
        seen += 1;
    }
    assert!(seen > 10, "{seen} recorded answers were played");
}

#[test]
fn busy_is_asked_again_and_nothing_else_is() {
    for number in [EBUSY, EAGAIN] {
        for at in ["mkdir", "inblob", "privlevel", "outblob"] {
            let kernel = sev();
            *kernel.faults.borrow_mut() = vec![(at, number), (at, number)];
            let waits = Waits::default();
            let answer = Retry::default().run(&waits, || ask(&kernel));
            assert_eq!(answer.unwrap().report, report(&DATA), "{at}");
            assert_eq!(waits.count(), 2);
        }
    }
    for number in [EIO, ETIMEDOUT, ENXIO] {
        for at in ["mkdir", "inblob", "privlevel", "outblob", "generation"] {
            let kernel = sev();
            *kernel.faults.borrow_mut() = vec![(at, number)];
            let waits = Waits::default();
            let error = Retry::default().run(&waits, || ask(&kernel)).unwrap_err();
            let expected = match number {
                ENXIO => matches!(error, DeviceError::Unavailable { .. }),
                _ => matches!(error, DeviceError::Failed { .. }),
            };
            assert!(expected, "{at}: {error}");
            assert_eq!(waits.count(), 0);
        }
    }
}

#[test]
fn a_report_counts_only_if_nobody_else_wrote_or_removed() {
    for at in ["generation", "outblob"] {
        let kernel = sev();
        kernel.intruder.set(Some(at));
        assert!(
            matches!(ask(&kernel), Err(DeviceError::NotOurs { .. })),
            "{at}"
        );
    }
    for at in ["provider", "generation", "outblob"] {
        let kernel = sev();
        kernel.remover.set(Some(at));
        let error = ask(&kernel).unwrap_err();
        assert!(
            matches!(error, DeviceError::NotOurs { .. }),
            "{at}: {error}"
        );
    }
    // Somebody else's report, although the counters are in order; one byte is enough.
    for byte in [0, 31, 63] {
        let mut kernel = sev();
        kernel.answer = Box::new(move |data| {
            let mut other = data.to_vec();
            other[byte] ^= 1;
            report(&other)
        });
        assert!(matches!(ask(&kernel), Err(DeviceError::NotOurs { .. })));
    }
}

#[test]
fn answers_of_another_shape_are_refused() {
    for length in [0, 1, 1183, 1185, 70_000] {
        let mut kernel = sev();
        kernel.answer = Box::new(move |data| {
            let mut out = report(data);
            out.resize(length, 0);
            out
        });
        let error = ask(&kernel).unwrap_err();
        assert!(matches!(error, DeviceError::Malformed { .. }), "{length}");
    }
    for cut in [0, 2, 48, 631] {
        let kernel = Kernel::new(
            "tdx_guest",
            Box::new(move |data| quote(data, 4)[..cut].to_vec()),
        );
        let error = ask(&kernel).unwrap_err();
        assert!(matches!(error, DeviceError::Malformed { .. }), "{cut}");
    }
    let kernel = Kernel::new("tdx_guest", Box::new(|data| quote(data, 6)));
    assert!(matches!(ask(&kernel), Err(DeviceError::Malformed { .. })));
    let kernel = Kernel::new("arm_cca_guest", Box::new(report));
    assert!(matches!(ask(&kernel), Err(DeviceError::Unavailable { .. })));
    for text in ["", "-1", "+2", "0x2", "18446744073709551616", "two"] {
        let kernel = sev();
        kernel.generation.set(Some(text));
        let error = ask(&kernel).unwrap_err();
        assert!(matches!(error, DeviceError::Malformed { .. }), "{text:?}");
    }
    let kernel = sev();
    kernel.generation.set(Some("18446744073709551615"));
    assert!(matches!(ask(&kernel), Err(DeviceError::Malformed { .. })));
}

#[test]
fn a_certificate_table_is_read_strictly() {
    let good = table(&[(VCEK, b"vcek"), (ASK, b"ask"), (1, b"other")]);
    let read = CertificateTable::parse(&good).unwrap();
    assert_eq!(read.entries().len(), 3);
    assert_eq!(CertificateTable::parse(&[]).unwrap().entries(), []);
    assert_eq!(CertificateTable::parse(&[0; 24]).unwrap().entries(), []);

    // The same GUID in the other order of its bytes is the same kind.
    let mut other_order = good.clone();
    other_order[..8].copy_from_slice(&[0x8d, 0x75, 0xda, 0x63, 0x64, 0xe6, 0x64, 0x45]);
    let read = CertificateTable::parse(&other_order).unwrap();
    assert_eq!(read.get(CertificateKind::Vcek), Some(&b"vcek"[..]));

    let changed = |at: usize, value: u32| {
        let mut table = good.clone();
        table[at..at + 4].copy_from_slice(&value.to_le_bytes());
        CertificateTable::parse(&table).unwrap_err()
    };
    assert_eq!(changed(16, 95), TableError::Outside, "into the list");
    assert_eq!(changed(16, u32::MAX), TableError::Outside);
    assert_eq!(changed(20, u32::MAX), TableError::Outside);
    assert_eq!(changed(20, 0), TableError::Outside);
    assert_eq!(changed(20, 5), TableError::Overlap);
    assert_eq!(changed(40, 96), TableError::Overlap);
    assert_eq!(changed(64, 104), TableError::Outside, "one byte beyond");
    assert_eq!(changed(88, 1), TableError::EndMalformed);
    let twice = table(&[(VCEK, b"one"), (VCEK, b"two")]);
    assert_eq!(CertificateTable::parse(&twice), Err(TableError::Twice));
    let both = CertificateTable::parse(&table(&[(VCEK, b"one"), (VLEK, b"two")])).unwrap();
    assert_eq!(both.endorsement(), None, "somebody must say which");
    for end in 1..96 {
        let cut = CertificateTable::parse(&good[..end]);
        assert_eq!(cut, Err(TableError::Unterminated), "{end} bytes");
    }
    let many: Vec<(u128, &[u8])> = (1..=17).map(|guid| (guid, &b"x"[..])).collect();
    assert_eq!(
        CertificateTable::parse(&table(&many)),
        Err(TableError::TooMany)
    );
    assert!(CertificateTable::parse(&table(&many[..16])).is_ok());
}

proptest! {
    #[test]
    fn any_bytes_are_a_table_or_refused(
        entries in prop::collection::vec((1_u8..4, 0_u32..300, 0_u32..300), 0..6),
        tail in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut bytes = Vec::new();
        for (guid, offset, length) in entries {
            bytes.extend([guid; 16]);
            bytes.extend(offset.to_le_bytes());
            bytes.extend(length.to_le_bytes());
        }
        bytes.extend([0; 24]);
        bytes.extend(tail);
        if let Ok(table) = CertificateTable::parse(&bytes) {
            let total: usize = table.entries().iter().map(|(_, it)| it.len()).sum();
            prop_assert!(total <= bytes.len());
        }
    }

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..900)) {
        let _ = CertificateTable::parse(&bytes);
        let _ = casemate_devices::tdx::report_data(&bytes);
        let _ = casemate_devices::tdx::quote_service::answer(&bytes);
    }
}
