//! Rules N7, N8 and N12: lists, and versions that are still good. And policies that could not be made.

use std::collections::BTreeMap;

use casemate_attestation::nvidia::{
    FeatureFlag, GpuPolicy, GpuPolicyError, GpuPolicyParts, GpuReference, GpuReferenceError,
    NvidiaRejection, ReferenceKind,
};

use super::spdm::*;
use super::{refusal, report, same};

const KIND: ReferenceKind = ReferenceKind::Driver;

#[test]
fn n07_exactly_the_reports_versions_are_listed() {
    let unlisted = |kind, version: &str| NvidiaRejection::VersionNotListed {
        kind,
        version: version.to_owned(),
    };
    for (field, bytes, kind, version) in [
        (3, &b"580.1.3\0"[..], ReferenceKind::Driver, "580.1.3"),
        (3, b"580.1", ReferenceKind::Driver, "580.1"),
        (
            6,
            &[0, 0x74, 0, 0x96, 0x21, 0, 0, 0],
            ReferenceKind::Vbios,
            "96.00.74.00.21",
        ),
    ] {
        let found = report(|report| report.set(field, bytes));
        same(found, unlisted(kind, version), "N7");
    }
    let silent = report(|report| report.drop(6));
    same(silent, NvidiaRejection::VersionMissing, "N7");
    // Lists of another kind do not stand in.
    let other = refusal(|case| {
        case.parts.references[0] = list(ReferenceKind::Driver, "1", &DRIVER_INDICES);
        let vbios = list(ReferenceKind::Vbios, DRIVER, &DRIVER_INDICES);
        case.parts.references.push(vbios);
    });
    same(other, unlisted(ReferenceKind::Driver, DRIVER), "N7");
}

fn mismatch(indices: &[u8]) -> NvidiaRejection {
    NvidiaRejection::MeasurementMismatch {
        kind: KIND,
        version: DRIVER.to_owned(),
        indices: indices.to_vec(),
    }
}

#[test]
fn n08_every_active_index_has_one_of_its_values() {
    // SPDM index 8 and 41 are manifest index 7 and 40.
    let changed = report(|report| {
        report.blocks[7] = block(8, [0; 48]);
        report.blocks[40] = block(41, [0; 48]);
    });
    same(changed, mismatch(&[7, 40]), "N8");
    let mut case = case();
    case.report.blocks[7] = block(8, [0xee; 48]);
    assert!(case.judge().is_ok(), "the other alternative");
    case.report.blocks[1] = block(2, [0; 48]);
    assert!(case.judge().is_ok(), "an index that no list has");
    let gone = report(|report| drop(report.blocks.remove(7)));
    let expected = NvidiaRejection::MeasurementMissing {
        kind: KIND,
        index: 7,
    };
    same(gone, expected, "N8");
}

#[test]
fn n08_the_decoders_index_counts_where_it_is_enabled() {
    let change = |state: &'static [u8]| {
        let mut case = case();
        case.report.blocks[35] = block(36, [0; 48]);
        case.report.set(11, state);
        case
    };
    let disabled = change(&[0x55]).judge().unwrap();
    let lines = disabled.checks().iter();
    assert!(
        lines
            .clone()
            .any(|line| line.text.contains("index 35 does not count"))
    );
    assert!(
        lines
            .clone()
            .any(|line| line.text.starts_with("all 6 active"))
    );
    same(change(&[0xaa]).judge().unwrap_err(), mismatch(&[35]), "N8");
    let mut silent = change(&[0x55]);
    silent.report.drop(11);
    same(silent.judge().unwrap_err(), mismatch(&[35]), "N8");
    let enabled = {
        let mut case = case();
        case.report.set(11, &[0xaa]);
        case.judge().unwrap()
    };
    let mut lines = enabled.checks().iter();
    assert!(lines.any(|line| line.text.starts_with("all 7 active")));
    let only = refusal(|case| case.parts.references[0] = list(KIND, DRIVER, &[35]));
    let expected = NvidiaRejection::NothingCompared {
        kind: KIND,
        version: DRIVER.to_owned(),
    };
    same(only, expected, "N8");
}

#[test]
fn n08_lists_share_no_index_and_match_as_a_whole() {
    let vbios = |indices: &[u8]| list(ReferenceKind::Vbios, VBIOS, indices);
    let shared = refusal(|case| case.parts.references[1] = vbios(&[0, 21]));
    same(shared, NvidiaRejection::ReferencesOverlap(21), "N8");
    // Two boards with one version: either list may match, and no mixture of both.
    let half = |wrong: u8| {
        let values = DRIVER_INDICES.iter().map(|index| {
            let value = if *index == wrong {
                [0; 48]
            } else {
                value(*index)
            };
            (*index, vec![value])
        });
        GpuReference::new(KIND, DRIVER, values.collect()).unwrap()
    };
    let two = |wrong: [u8; 2]| {
        let mut case = case();
        case.parts.references.remove(0);
        case.parts.references.extend(wrong.map(half));
        case
    };
    same(two([7, 21]).judge().unwrap_err(), mismatch(&[7]), "N8");
    assert!(two([7, 200]).judge().is_ok());
}

#[test]
fn n12_versions_that_are_listed_and_no_longer_good_are_refused() {
    let below = |kind, version: &str| NvidiaRejection::BelowFloor {
        kind,
        version: version.to_owned(),
    };
    let newer = || ["999.1".to_owned()].into();
    let driver = refusal(|case| case.parts.driver_versions = newer());
    same(driver, below(ReferenceKind::Driver, DRIVER), "N12");
    let vbios = refusal(|case| case.parts.vbios_versions = newer());
    same(vbios, below(ReferenceKind::Vbios, VBIOS), "N12");
    let prefix = refusal(|case| case.parts.driver_versions = ["580.1".to_owned()].into());
    same(prefix, below(ReferenceKind::Driver, DRIVER), "N12");
}

#[test]
fn lists_say_something_or_are_none() {
    let make = |version: &str, values: BTreeMap<u8, Vec<[u8; 48]>>| {
        GpuReference::new(KIND, version, values).map(|_| ())
    };
    let one = |index, count| BTreeMap::from([(index, vec![[0; 48]; count])]);
    let version = "1.0".to_owned();
    for text in ["", "a b", "1/2", &"1".repeat(33)] {
        assert_eq!(make(text, one(0, 1)), Err(GpuReferenceError::Version(KIND)));
    }
    assert_eq!(make(&"1".repeat(32), one(0, 1)), Ok(()));
    let empty = GpuReferenceError::Empty {
        kind: KIND,
        version: version.clone(),
    };
    assert_eq!(make("1.0", BTreeMap::new()), Err(empty));
    for found in [0, 65] {
        let error = GpuReferenceError::Alternatives {
            kind: KIND,
            version: version.clone(),
            index: 5,
            found,
        };
        assert_eq!(make("1.0", one(5, found)), Err(error));
    }
    assert_eq!(make("1.0", one(5, 64)), Ok(()));
    let error = GpuReferenceError::Index {
        kind: KIND,
        version,
        index: 254,
    };
    assert_eq!(make("1.0", one(254, 1)), Err(error));
    assert_eq!(make("1.0", one(253, 1)), Ok(()));
}

#[test]
fn g04_policies_accept_something_and_nothing_by_omission() {
    let make = |change: &dyn Fn(&mut GpuPolicyParts)| {
        let mut parts = parts();
        change(&mut parts);
        GpuPolicy::new(parts).map(|_| ())
    };
    assert_eq!(make(&|_| {}), Ok(()));
    assert_eq!(make(&|parts| parts.gpus = 0), Err(GpuPolicyError::NoGpu));
    assert_eq!(make(&|parts| parts.gpus = 64), Ok(()));
    assert_eq!(
        make(&|parts| parts.gpus = 65),
        Err(GpuPolicyError::TooMany(65))
    );
    let (mode, switches) = (FeatureFlag::ProtectedPcie, 0);
    let error = GpuPolicyError::Switches { mode, switches };
    assert_eq!(make(&|parts| parts.mode = mode), Err(error));
    let (mode, switches) = (FeatureFlag::SingleGpu, 1);
    let error = GpuPolicyError::Switches { mode, switches };
    assert_eq!(make(&|parts| parts.switches = 1), Err(error));
    let protected = |parts: &mut GpuPolicyParts| {
        (parts.mode, parts.switches) = (FeatureFlag::ProtectedPcie, 4);
    };
    assert_eq!(make(&protected), Ok(()));
    for (place, kind) in [KIND, ReferenceKind::Vbios, ReferenceKind::Switch]
        .into_iter()
        .enumerate()
    {
        let no_list = make(&|parts| {
            protected(parts);
            parts.references.remove(place);
        });
        assert_eq!(no_list, Err(GpuPolicyError::NoReference(kind)));
        let no_version = make(&|parts| {
            protected(parts);
            match kind {
                ReferenceKind::Driver => parts.driver_versions.clear(),
                ReferenceKind::Vbios => parts.vbios_versions.clear(),
                ReferenceKind::Switch => parts.switch_versions.clear(),
            }
        });
        assert_eq!(no_version, Err(GpuPolicyError::NoVersion(kind)));
    }
}
