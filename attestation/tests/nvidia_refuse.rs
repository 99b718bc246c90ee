//! Every refusal of the NVIDIA rules is provoked once, by one change to evidence that is otherwise accepted.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

#[path = "nvidia_refuse/chain.rs"]
mod chain;
#[path = "nvidia_refuse/lists.rs"]
mod lists;
#[path = "nvidia_refuse/look.rs"]
mod look;
#[path = "nvidia_refuse/manifest.rs"]
mod manifest;
#[path = "nvidia_refuse/set.rs"]
mod set;
#[path = "support/spdm.rs"]
mod spdm;

use casemate_attestation::nvidia::{
    AbsentFlag, DriverMode, DriverState, FeatureFlag, GpuNonce, GpuReport, NvidiaRejection,
    REPORT_BYTES_MAX, Revocation, device_evidence_digest, gpu_nonce,
};
use casemate_attestation::{BindingInputs, CheckResult, Context, Direction, Nonce, Sha256Digest};

use spdm::*;

/// Judges the case after `change`.
fn refusal(change: impl FnOnce(&mut Case)) -> NvidiaRejection {
    let mut case = case();
    change(&mut case);
    case.judge().unwrap_err()
}

/// Changes the report, which is then signed as it is.
fn report(change: impl FnOnce(&mut Report)) -> NvidiaRejection {
    refusal(|case| change(&mut case.report))
}

fn field(id: u16, value: &[u8]) -> NvidiaRejection {
    report(|report| report.set(id, value))
}

/// That it is refused for this reason and rule.
fn same(found: NvidiaRejection, expected: NvidiaRejection, rule: &str) {
    assert_eq!(found.rule(), rule, "{found}");
    assert_eq!(found, expected);
}

#[test]
fn the_device_that_these_tests_change_is_accepted() {
    let case = case();
    let verdict = case.judge().unwrap();
    let ids: Vec<_> = verdict.checks().iter().map(|line| line.id).collect();
    let all = [
        "N1", "N2", "N3", "N4", "N5", "N6", "N7", "N8", "N8", "N9", "N9", "N11", "N12", "N12",
    ];
    assert_eq!(ids, all);
    assert!(!verdict.root_is_nvidias());
    let root = &verdict.checks()[2];
    assert_eq!(root.result, CheckResult::Info);
    assert!(root.text.contains("no device vouches"));
    assert!(format!("{verdict:?}").contains(DRIVER));
}

#[test]
fn n01_a_report_has_one_shape() {
    let long = report(|report| report.behind = vec![0; REPORT_BYTES_MAX]);
    assert!(matches!(long, NvidiaRejection::ReportLength(_)));
    assert_eq!(long.rule(), "N1");
    for (header, expected) in [
        ([0x12, 0x60, 0, 0], NvidiaRejection::SpdmVersion(0x12)),
        ([0x11, 0x7f, 0, 0], NvidiaRejection::NotMeasurements(0x7f)),
        ([0x11, 0x60, 1, 0], NvidiaRejection::ResponseReserved),
        ([0x11, 0x60, 0, 0x10], NvidiaRejection::ResponseReserved),
    ] {
        same(report(|report| report.response = header), expected, "N1");
    }
    let huge = report(|report| report.record = Some(0x00ff_ffff));
    let declared = 0x00ff_ffff;
    assert!(
        matches!(huge, NvidiaRejection::RecordLength { declared: found, .. } if found == declared)
    );
}

#[test]
fn n01_bytes_behind_the_signature_are_counted_and_not_read() {
    let mut case = case();
    let length = case.evidence().report.len();
    case.report.behind = vec![0x5a; REPORT_BYTES_MAX - length];
    let verdict = case.judge().unwrap();
    assert_eq!(verdict.report().unread(), REPORT_BYTES_MAX - length);
    let line = &verdict.checks()[1];
    assert_eq!((line.id, line.result), ("N1", CheckResult::Info));
    assert!(line.text.contains("nobody signed them"));
    case.report.behind.push(0);
    same(
        case.judge().unwrap_err(),
        NvidiaRejection::ReportLength(REPORT_BYTES_MAX + 1),
        "N1",
    );
}

#[test]
fn n01_a_report_cut_anywhere_is_refused() {
    let whole = case().evidence().report;
    let mut places = std::collections::BTreeSet::new();
    for length in 0..whole.len() {
        match GpuReport::parse(&whole[..length]).unwrap_err() {
            NvidiaRejection::ReportEnds(place) => {
                places.insert(place);
            }
            NvidiaRejection::RecordLength { .. } => {}
            other => panic!("cut at {length}: {other}"),
        }
    }
    let expected = [
        "length of the opaque data",
        "opaque data",
        "request",
        "responder's nonce",
        "response header",
        "signature",
    ];
    assert!(places.iter().eq(expected.iter()));
}

#[test]
fn n01_blocks_are_digests_that_are_there_once() {
    same(
        report(|report| report.blocks[5] = block(5, value(5))),
        NvidiaRejection::BlockTwice(5),
        "N1",
    );
    for declared in [63, 65] {
        let found = 64;
        same(
            report(|report| report.count = Some(declared)),
            NvidiaRejection::BlockCount { declared, found },
            "N1",
        );
    }
    let changes: [(usize, u8, &str); 9] = [
        (0, 0, "has an index that is none"),
        (0, 0xff, "has an index that is none"),
        (1, 0, "is not of the DMTF's form"),
        (2, 50, "ends early"),
        (2, 2, "has no value of 48 bytes"),
        (4, 4, "is no digest of a known type"),
        (4, 0x81, "is no digest of a known type"),
        (5, 47, "has no value of 48 bytes"),
        (3, 0xff, "ends early"),
    ];
    for (offset, byte, what) in changes {
        let found = report(|report| report.blocks[63][offset] = byte);
        let expected = NvidiaRejection::BlockMalformed { number: 64, what };
        same(found, expected, "N1");
    }
    let longer = report(|report| {
        report.blocks[63][2] = 52;
        report.blocks[63].push(0);
    });
    let what = "is longer than its value";
    same(
        longer,
        NvidiaRejection::BlockMalformed { number: 64, what },
        "N1",
    );
    // Types 0 to 3 are digests; the highest index is 254.
    let mut case = case();
    for kind in 0..4 {
        case.report.blocks[usize::from(kind)][4] = kind;
    }
    case.report.blocks[63][0] = 0xfe;
    assert!(case.judge().is_ok());
}

#[test]
fn n01_opaque_data_are_fields_that_are_there_once() {
    let block = |bytes: &[u8]| {
        let opaque = Some(bytes.to_vec());
        report(|report| report.opaque = opaque)
    };
    same(
        block(b"NVDAOD\x01\0\0\0\0\0"),
        NvidiaRejection::OpaqueBlock,
        "N1",
    );
    for cut in [&[3_u8][..], &[3, 0], &[3, 0, 1], &[3, 0, 1, 0]] {
        same(block(cut), NvidiaRejection::OpaqueEnds, "N1");
    }
    let twice = report(|report| report.fields.push((11, vec![0xaa])));
    same(twice, NvidiaRejection::OpaqueTwice(11), "N1");
    let many = |count: u16| (100..100 + count).map(|id| (id, Vec::new()));
    let found = report(|report| report.fields.extend(many(57)));
    same(found, NvidiaRejection::OpaqueFields, "N1");
    let mut case = case();
    case.report.fields.extend(many(56));
    assert!(case.judge().is_ok(), "unknown fields are not an error");
    same(field(34, &[2, 0]), NvidiaRejection::OpaqueVersion(2), "N1");
    case.report.set(34, &[0, 0]);
    assert!(case.judge().is_ok());
}

#[test]
fn n01_fields_that_decide_are_well_formed() {
    let long = [b'1'; 33];
    let cases: [(u16, &[u8], &str); 16] = [
        (3, b"", "is no version"),
        (3, &long, "is no version"),
        (3, b"580 1", "is no version"),
        (3, b"580\0x", "is no version"),
        (3, b"580\xff", "is no version"),
        (6, &[0; 7], "has not eight bytes"),
        (6, &[0, 0, 0, 0, 0, 1, 0, 0], "has more than five numbers"),
        (11, &[0x56], "is neither 0xaa nor 0x55"),
        (11, &[0x55, 0x55], "has not one byte"),
        (20, &[0xf1; 47], "has not 48 bytes"),
        (21, &[0], "is neither 0xaa nor 0x55"),
        (22, &[0; 12], "is no list of identifiers of eight bytes"),
        (22, &[], "is no list of identifiers of eight bytes"),
        (34, &[1], "has not two bytes"),
        (36, &[3, 0], "is neither 0, 1 nor 2"),
        (26, &[0; 63], "names fewer than eight GPUs"),
    ];
    for (id, value, what) in cases {
        same(
            field(id, value),
            NvidiaRejection::OpaqueField { field: id, what },
            "N1",
        );
    }
    let what = "is no list of identifiers of eight bytes";
    let too_many = NvidiaRejection::OpaqueField { field: 22, what };
    same(field(22, &[0; 65 * 8]), too_many, "N1");
    let mut most = case();
    most.report.set(22, &[0; 64 * 8]);
    assert!(most.judge().is_ok(), "as many as a GPU may name");
    let two = report(|report| {
        *report = Report::switch([1; 8], &[[2; 8]; 8]);
        report.set(22, &[1; 16]);
    });
    let what = "holds more than the switch's own identifier";
    same(two, NvidiaRejection::OpaqueField { field: 22, what }, "N1");
}

#[test]
fn n02_what_was_asked_is_answered() {
    let names = ["version", "code", "attributes", "operation"];
    let asked = [0x11, 0xe0, 1, 0xff];
    for (place, (name, expected)) in names.into_iter().zip(asked).enumerate() {
        let (found, wrong) = (report(|report| report.request[place] ^= 2), expected ^ 2);
        let expected = NvidiaRejection::RequestField {
            field: name,
            found: wrong,
            expected,
        };
        same(found, expected, "N2");
    }
    let slot = NvidiaRejection::RequestField {
        field: "slot",
        found: 1,
        expected: 0,
    };
    same(report(|report| report.slot = 1), slot, "N2");
    same(
        report(|report| report.response[3] = 1),
        NvidiaRejection::ResponseSlot(1),
        "N2",
    );
    for bit in [0, 255] {
        let found = report(|report| report.nonce[bit / 8] ^= 1 << (bit % 8));
        same(found, NvidiaRejection::RequestNonce, "N2");
    }
}

#[test]
fn n04_the_leaf_of_this_chain_signed() {
    let stranger = refusal(|case| case.signer = Some(Key::new()));
    same(stranger, NvidiaRejection::ReportSignature, "N4");
    // The device's own key, which is in the chain and not the leaf's.
    let mut case = case();
    let evidence = case.evidence();
    std::mem::swap(&mut case.device.key, &mut case.device.device);
    case.chain = Some(evidence.chain);
    same(
        case.judge().unwrap_err(),
        NvidiaRejection::ReportSignature,
        "N4",
    );
}

#[test]
fn n04_the_last_signed_byte_counts_and_both_ends_of_the_signature() {
    let mut case = case();
    // A field that nobody reads, at the end.
    case.report.set(99, &[1]);
    let good = case.evidence();
    assert!(case.judge_all(std::slice::from_ref(&good)).is_ok());
    for from_end in [97, 96, 49, 48, 1] {
        let mut edited = good.clone();
        let at = edited.report.len() - from_end;
        edited.report[at] ^= 1;
        let refused = case.judge_all(&[edited]).unwrap_err();
        let NvidiaRejection::Device { rejection, .. } = refused else {
            panic!("{refused}");
        };
        same(*rejection, NvidiaRejection::ReportSignature, "N4");
    }
}

#[test]
fn n06_nobody_asked_is_a_refusal_unless_policy_says_otherwise() {
    let found = refusal(|case| case.parts.revocation = Revocation::Required);
    same(found, NvidiaRejection::RevocationNotJudged, "N6");
}

#[test]
fn g06_unknown_revocation_is_refused_by_policy_and_shown_where_it_is_accepted() {
    let found = refusal(|case| case.parts.revocation = Revocation::Required);
    assert!(found.to_string().contains("revocation"));
    let verdict = case().judge().unwrap();
    assert!(!verdict.revocation_judged());
    let line = verdict
        .checks()
        .iter()
        .find(|line| line.id == "N6")
        .unwrap();
    assert_eq!(line.result, CheckResult::Info);
    assert!(line.text.starts_with("revocation not judged"));
}

#[test]
fn n09_modes_are_what_policy_and_guest_say() {
    for (mode, expected) in [
        (DriverMode::DevTools, NvidiaRejection::DevTools),
        (DriverMode::Off, NvidiaRejection::ConfidentialOff),
    ] {
        let found = refusal(|case| case.driver = DriverState { mode });
        same(found, expected, "N9");
    }
    let feature = NvidiaRejection::Feature {
        found: FeatureFlag::MultiGpu,
        expected: FeatureFlag::SingleGpu,
    };
    same(field(36, &[1, 0]), feature, "N9");
    let state = NvidiaRejection::ProtectedPcie {
        expected: FeatureFlag::SingleGpu,
    };
    same(field(21, &[0xaa]), state, "N9");
    let protected = |change: fn(&mut Report)| {
        refusal(|case| {
            (case.parts.mode, case.parts.switches) = (FeatureFlag::ProtectedPcie, 1);
            case.parts.absent_flag = AbsentFlag::AcceptedFromOldDrivers;
            case.report = Report::protected_gpu(&[[1; 8]]);
            change(&mut case.report);
        })
    };
    let expected = FeatureFlag::ProtectedPcie;
    let state = NvidiaRejection::ProtectedPcie { expected };
    same(
        protected(|report| report.set(21, &[0x55])),
        state.clone(),
        "N9",
    );
    same(protected(|report| report.drop(21)), state, "N9");
    let missing = NvidiaRejection::FeatureMissing;
    same(protected(|report| report.drop(36)), missing.clone(), "N9");
    same(report(|report| report.drop(36)), missing, "N9");
    let mut case = case();
    case.report.drop(36);
    case.report.drop(21);
    case.parts.absent_flag = AbsentFlag::AcceptedFromOldDrivers;
    let verdict = case.judge().unwrap();
    let line = verdict
        .checks()
        .iter()
        .find(|line| line.id == "N9")
        .unwrap();
    assert_eq!(line.result, CheckResult::Info);
    assert!(line.text.contains("old driver"));
}

/// A session's inputs.
fn inputs(context: &Context) -> BindingInputs<'_> {
    BindingInputs {
        direction: Direction::Server,
        exporter: &[1; 32],
        server_leaf: Sha256Digest::of(b"server"),
        client_leaf: Sha256Digest::of(b"client"),
        nonce: Nonce::from_bytes([2; 32]),
        context,
    }
}

#[test]
fn n11_the_nonce_is_of_the_session_and_not_of_what_it_asks_for() {
    let context = Context::absent();
    let nonce = gpu_nonce(&inputs(&context));
    // A second implementation: Python's hashlib over the label and the framed items.
    assert_eq!(
        hex::encode(nonce.as_bytes()),
        "a0271853fcedf20c3eff6f8d9fcded1788a68a08e00beb6cdae265d093b25540"
    );
    let mut case = case();
    case.nonce = nonce;
    case.report.nonce = *nonce.as_bytes();
    let verdict = case.judge().unwrap();
    let line = verdict
        .checks()
        .iter()
        .find(|line| line.id == "N11")
        .unwrap();
    assert_eq!(line.result, CheckResult::Pass);

    // The evidence goes into the context, and the nonce stays what it is.
    let answered = Context {
        device_evidence: device_evidence_digest(&[case.evidence()]),
        ..Context::absent()
    };
    assert_eq!(gpu_nonce(&inputs(&answered)).as_bytes(), nonce.as_bytes());
    assert!(inputs(&answered).binding() != inputs(&context).binding());
    // Everything else changes it.
    let good = inputs(&context);
    let others = [
        BindingInputs {
            direction: Direction::Client,
            ..good
        },
        BindingInputs {
            exporter: &[3; 32],
            ..good
        },
        BindingInputs {
            server_leaf: Sha256Digest::of(b"x"),
            ..good
        },
        BindingInputs {
            client_leaf: Sha256Digest::of(b"x"),
            ..good
        },
        BindingInputs {
            nonce: Nonce::from_bytes([3; 32]),
            ..good
        },
    ];
    for other in &others {
        let other = gpu_nonce(other);
        assert_ne!(other.as_bytes(), nonce.as_bytes());
        case.nonce = other;
        same(
            case.judge().unwrap_err(),
            NvidiaRejection::RequestNonce,
            "N2",
        );
    }
    assert!(nonce.is_of_session() && !GpuNonce::recorded([0; 32]).is_of_session());
    assert!(format!("{nonce:?}").starts_with("GpuNonce("));
}

#[test]
fn n11_the_digest_is_of_every_byte_of_every_device_in_order() {
    assert_eq!(device_evidence_digest(&[]), Sha256Digest::absent());
    let (mut a, b) = (case().evidence(), case().evidence());
    let both = device_evidence_digest(&[a.clone(), b.clone()]);
    assert_ne!(both, device_evidence_digest(&[b.clone(), a.clone()]));
    assert_ne!(both, device_evidence_digest(&[a.clone()]));
    // Where one ends and the next begins is part of it.
    let moved = a.report.pop().unwrap();
    a.chain.insert(0, moved);
    assert_ne!(both, device_evidence_digest(&[a, b]));
}
