//! Rows of the list of attacks that can be replayed at this level.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

mod common;

use casemate_attestation::snp::{CrlPolicy, PinnedRoot, PolicyError, verify_snp_report};
use casemate_attestation::test_chip::{ReportTemplate, TestChip};
use casemate_attestation::{
    Batch, Binding, Context, Direction, Envelope, Expectations, ExpectationsError, FleetList,
    Nonce, Platform, Product, ReferenceValues, Rejection, Sha256Digest, SignedDocument,
    SignedError, SnpPolicy, SnpReference, SnpRejection, TcbVersion, TrustAnchors, Verifier,
};

use common::*;

fn refused(envelope: &Envelope, binding: &Binding) -> Rejection {
    verifier(&chip())
        .verify(envelope, binding, NOW)
        .unwrap_err()
}

#[test]
fn a01_relay_of_genuine_evidence_is_refused() {
    let genuine = envelope(&chip(), &channel());
    let relayed = Channel {
        exporter: [9; 32],
        server_leaf: Sha256Digest::of(b"false server"),
        ..channel()
    };
    assert_eq!(
        refused(&genuine, &relayed.binding(genuine.context())),
        SnpRejection::BindingMismatch.into()
    );
}

#[test]
fn a02_relay_with_the_leaf_of_another_server_is_refused() {
    let genuine = envelope(&chip(), &channel());
    let same_leaf = Channel {
        exporter: [9; 32],
        ..channel()
    };
    assert_eq!(
        refused(&genuine, &same_leaf.binding(genuine.context())),
        SnpRejection::BindingMismatch.into()
    );
}

#[test]
fn a04_evidence_of_the_other_direction_is_refused() {
    let as_client = Channel {
        direction: Direction::Client,
        ..channel()
    };
    let reflected = envelope(&chip(), &as_client);
    let (found, expected) = (Direction::Client, Direction::Server);
    let mine = channel().binding(reflected.context());
    assert_eq!(
        refused(&reflected, &mine),
        Rejection::WrongDirection { found, expected }
    );
    // The word alone does not help: the direction is signed.
    let relabelled = build(Platform::TestChip, Direction::Server, report_of(&reflected));
    assert_eq!(
        refused(&relabelled, &mine),
        SnpRejection::BindingMismatch.into()
    );
}

#[test]
fn a05_old_evidence_under_a_new_nonce_is_refused() {
    let old = envelope(&chip(), &channel());
    let now = Channel {
        nonce: Nonce::from_bytes([3; 32]),
        ..channel()
    };
    assert_eq!(
        refused(&old, &now.binding(old.context())),
        SnpRejection::BindingMismatch.into()
    );
}

#[test]
fn a07_claims_beside_the_report_that_were_not_signed_are_refused() {
    let genuine = envelope(&chip(), &channel());
    let changes: [fn(&mut Context); 5] = [
        |context| context.models.push(Sha256Digest::of(b"another model")),
        |context| context.models.clear(),
        |context| context.policy_bundle = Sha256Digest::of(b"another policy"),
        |context| context.configuration = Sha256Digest::of(b"another configuration"),
        |context| context.device_evidence = Sha256Digest::of(b"another device"),
    ];
    for change in changes {
        let mut parts = genuine.parts().clone();
        change(&mut parts.context);
        let edited = Envelope::build(parts).unwrap();
        assert_eq!(
            refused(&edited, &channel().binding(edited.context())),
            SnpRejection::BindingMismatch.into()
        );
    }
}

#[test]
fn a08_report_data_empty_zero_short_or_other_is_refused() {
    let chip = chip();
    let binding = channel().binding(&context());
    let mut halved = *binding.as_bytes();
    halved[32..].fill(0);
    let mut last = *binding.as_bytes();
    last[63] ^= 1;
    for report_data in [[0; 64], [0xff; 64], halved, last] {
        let hardware = chip.evidence_for(&ReportTemplate {
            report_data,
            ..chip.template()
        });
        let other = build(Platform::TestChip, Direction::Server, hardware);
        assert_eq!(
            refused(&other, &binding),
            SnpRejection::BindingMismatch.into()
        );
    }
}

#[test]
fn a08_genuine_report_over_zeros_is_refused() {
    let Some(folder) = shared("snp/milan-v5-gcp-vmpl0") else {
        return;
    };
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let report = read("report.bin");
    let measurement: [u8; 48] = report[0x90..0xc0].try_into().unwrap();
    let chip: [u8; 64] = report[0x1a0..0x1e0].try_into().unwrap();
    let floors = [(Product::Milan, TcbVersion::default())].into();
    let policy = SnpPolicy::new(
        vec![casemate_attestation::Measurement::from_bytes(measurement)],
        vec![casemate_attestation::ChipId::from_bytes(chip)],
        floors,
    )
    .unwrap()
    .with_crl(CrlPolicy::MissingIsShown)
    .allowing_despite_broken_root(Product::Milan);
    let evidence = casemate_attestation::SnpEvidence {
        report,
        vek: read("vek.der"),
        intermediate: read("../roots/milan_ask.der"),
        crl: Vec::new(),
    };
    let now = casemate_attestation::UnixTime::from_secs(1_767_506_667);
    let judge =
        |data: &[u8; 64]| verify_snp_report(&evidence, data, &policy, &PinnedRoot::amd(), now);
    assert!(judge(&[0; 64]).is_ok());
    let binding = channel().binding(&context());
    assert_eq!(
        judge(binding.as_bytes()).unwrap_err(),
        SnpRejection::BindingMismatch
    );
}

#[test]
fn a08_batch_path_of_another_session_is_refused() {
    let chip = chip();
    let mine = channel().binding(&context());
    let theirs = Channel {
        nonce: Nonce::from_bytes([8; 32]),
        ..channel()
    }
    .binding(&context());
    let batch = Batch::new(&[theirs, mine, theirs]).unwrap();
    let hardware = chip.evidence_for(&ReportTemplate {
        report_data: batch.report_data(),
        ..chip.template()
    });
    let judged = |index: usize, binding: &Binding| {
        let mut parts = build(Platform::TestChip, Direction::Server, hardware.clone())
            .parts()
            .clone();
        parts.batch = batch.path(index);
        verifier(&chip)
            .verify(&Envelope::build(parts).unwrap(), binding, NOW)
            .map(|_| ())
    };
    assert_eq!(judged(1, &mine), Ok(()));
    assert_eq!(judged(0, &theirs), Ok(()));
    assert_eq!(judged(0, &mine), Err(SnpRejection::BindingMismatch.into()));
    assert_eq!(
        judged(1, &theirs),
        Err(SnpRejection::BindingMismatch.into())
    );
    assert_eq!(
        judged(7, &mine),
        Err(SnpRejection::BindingMismatch.into()),
        "no path: a single report"
    );
}

#[test]
fn a14_evidence_does_not_choose_its_verifier() {
    let chip = chip();
    let hardware = report_of(&envelope(&chip, &channel()));
    let binding = channel().binding(&context());
    let anchors = TrustAnchors::production(Platform::Snp).unwrap();
    let production = Verifier::new(anchors, expectations(Platform::Snp, &chip)).unwrap();
    let (found, expected) = (Platform::TestChip, Platform::Snp);
    let honest = build(Platform::TestChip, Direction::Server, hardware.clone());
    let rejection = production.verify(&honest, &binding, NOW).unwrap_err();
    assert_eq!(
        rejection,
        Rejection::PlatformNotAccepted { found, expected }
    );
    for word in ["none", "nocc", "sgx", "SNP", ""] {
        let text = String::from_utf8(honest.as_bytes().to_vec()).unwrap();
        let text = text.replace(
            "\"platform\":\"test-chip\"",
            &format!("\"platform\":\"{word}\""),
        );
        assert!(Envelope::parse(text.as_bytes()).is_err(), "{word}");
    }
}

#[test]
fn b04_production_roots_refuse_the_test_chip_under_any_name() {
    let chip = chip();
    let hardware = report_of(&envelope(&chip, &channel()));
    let production = Verifier::new(
        TrustAnchors::production(Platform::Snp).unwrap(),
        expectations(Platform::Snp, &chip),
    )
    .unwrap();
    let disguised = build(Platform::Snp, Direction::Server, hardware);
    let rejection = production
        .verify(&disguised, &channel().binding(&context()), NOW)
        .unwrap_err();
    assert_eq!(rejection.rule(), "S5", "{rejection}");
}

#[test]
fn b04_another_seed_is_another_root() {
    let (chip, other) = (chip(), TestChip::from_seed(&[1; 32], NOW));
    let foreign = envelope(&other, &channel());
    let rejection = refused(&foreign, &channel().binding(&context()));
    assert_eq!(rejection.rule(), "S5", "{rejection}");
    assert!(
        verifier(&chip)
            .verify(
                &envelope(&chip, &channel()),
                &channel().binding(&context()),
                NOW
            )
            .is_ok()
    );
}

#[test]
fn b01_measurement_that_matches_nothing_is_refused() {
    let other = casemate_attestation::Measurement::from_bytes([7; 48]);
    let chip = chip().with_measurement(other);
    let rejection = refused(&envelope(&chip, &channel()), &channel().binding(&context()));
    assert_eq!(rejection, SnpRejection::MeasurementUnknown(other).into());
}

#[test]
fn b03_empty_means_none() {
    let chip = chip();
    let platform = Platform::TestChip;
    let make = |section: SnpReference, fleet: &FleetList| {
        let reference = ReferenceValues {
            test_chip: Some(section),
            ..ReferenceValues::default()
        };
        Expectations::new(platform, &verified(&reference), &verified(fleet)).map(|_| ())
    };
    let refused = |error: PolicyError| Err(ExpectationsError::Snp(error));
    let (reference, fleet) = (snp_reference(), fleet(platform, &chip));
    assert_eq!(make(reference.clone(), &fleet), Ok(()));
    let none = SnpReference {
        measurements: Vec::new(),
        ..reference.clone()
    };
    assert_eq!(make(none, &fleet), refused(PolicyError::NoMeasurements));
    let none = SnpReference {
        tcb_floor: [].into(),
        ..reference.clone()
    };
    assert_eq!(make(none, &fleet), refused(PolicyError::NoFloors));
    assert_eq!(
        make(reference.clone(), &FleetList { chips: Vec::new() }),
        refused(PolicyError::NoChips)
    );
    let level = SnpReference {
        vmpl: 4,
        ..reference.clone()
    };
    assert_eq!(make(level, &fleet), refused(PolicyError::Vmpl(4)));
    let mut masked = fleet.clone();
    masked.chips[0].chip_id = casemate_attestation::ChipId::from_bytes([0; 64]);
    assert_eq!(
        make(reference.clone(), &masked),
        refused(PolicyError::MaskedChip)
    );
    // Values of one platform say nothing about another.
    let values = ReferenceValues {
        test_chip: Some(reference),
        ..ReferenceValues::default()
    };
    for other in [Platform::Snp, Platform::Tdx, Platform::Tpm] {
        let made = Expectations::new(other, &verified(&values), &verified(&fleet));
        assert_eq!(made.err(), Some(ExpectationsError::NoSection(other)));
    }
}

#[test]
fn b05_root_of_another_product_is_refused() {
    let chip = chip();
    let evidence = chip.evidence_for(&chip.template());
    let judge = |roots: &[PinnedRoot]| {
        verify_snp_report(&evidence, &REPORT_DATA, &policy(&chip), roots, NOW).map(|_| ())
    };
    let milan = PinnedRoot::private(Product::Milan, chip.root_der());
    assert_eq!(
        judge(&[milan]),
        Err(SnpRejection::NoRootForProduct(Product::Genoa))
    );
    assert_eq!(judge(&PinnedRoot::amd()).unwrap_err().rule(), "S5");
    assert_eq!(judge(&roots(&chip)), Ok(()));
}

#[test]
fn b06_reference_values_that_are_not_signed_are_refused() {
    let reference = reference(Platform::TestChip);
    let plain = serde_json::to_vec(&reference).unwrap();
    let key = release_key().public().unwrap();
    let open = SignedDocument::open::<ReferenceValues>(&plain, &key, 0, NOW);
    assert!(matches!(open.unwrap_err(), SignedError::Json(_)));
}

#[test]
fn b07_debug_is_refused() {
    assert_eq!(
        refusal(|report| report.policy |= 1 << 19),
        SnpRejection::DebugPermitted
    );
}

#[test]
fn b08_migration_reserved_bits_and_vmpl_are_refused() {
    assert_eq!(
        refusal(|report| report.policy |= 1 << 18),
        SnpRejection::MigrationPermitted
    );
    assert_eq!(
        refusal(|report| report.policy &= !(1 << 17)),
        SnpRejection::PolicyReservedBit
    );
    assert_eq!(
        refusal(|report| report.vmpl = 1),
        SnpRejection::Vmpl {
            found: 1,
            expected: 0
        }
    );
    assert_eq!(
        refusal(|report| report.vmpl = u32::MAX),
        SnpRejection::RequestedByHost
    );
}

#[test]
fn b09_firmware_that_the_certificate_does_not_confirm_is_refused() {
    let higher = TcbVersion {
        snp: 200,
        ..casemate_attestation::test_chip::TCB
    };
    let rejection = refusal(|report| {
        (report.reported_tcb, report.committed_tcb) = (higher, higher);
        (report.launch_tcb, report.current_tcb) = (higher, higher);
    });
    let (component, reported, certificate) = ("snp", 200, casemate_attestation::test_chip::TCB.snp);
    assert_eq!(
        rejection,
        SnpRejection::TcbMismatch {
            component,
            reported,
            certificate
        }
    );
}

#[test]
fn b10_committed_or_launch_firmware_below_the_floor_is_refused() {
    let lower = TcbVersion {
        microcode: 1,
        ..casemate_attestation::test_chip::TCB
    };
    assert!(matches!(
        refusal(|report| report.committed_tcb = lower),
        SnpRejection::TcbBelowFloor { .. }
    ));
    assert!(matches!(
        refusal(|report| report.launch_tcb = lower),
        SnpRejection::TcbBelowFloor { .. }
    ));
}

#[test]
fn b11_other_or_masked_chip_id_and_provider_key_are_refused() {
    let id = casemate_attestation::ChipId::from_bytes;
    assert_eq!(
        refusal(|report| report.chip_id = id([5; 64])),
        SnpRejection::ChipIdMismatch
    );
    assert_eq!(
        refusal(|report| report.chip_id = id([0; 64])),
        SnpRejection::ChipIdMasked
    );
    assert_eq!(refusal(|report| report.flags = 1 << 2).rule(), "S4");
}

#[test]
fn b12_product_with_a_broken_root_is_refused_unless_overridden_and_shown() {
    let Some(folder) = shared("snp/milan-v3-aci") else {
        return;
    };
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let report = read("report.bin");
    let evidence = casemate_attestation::SnpEvidence {
        vek: read("vek.der"),
        intermediate: read("../roots/milan_ask.der"),
        crl: read("../roots/milan_crl_2025-05-06.der"),
        report: report.clone(),
    };
    let measurement =
        casemate_attestation::Measurement::from_bytes(report[0x90..0xc0].try_into().unwrap());
    let chip = casemate_attestation::ChipId::from_bytes(report[0x1a0..0x1e0].try_into().unwrap());
    let data: [u8; 64] = report[0x50..0x90].try_into().unwrap();
    let strict = |chips| {
        SnpPolicy::new(
            vec![measurement],
            chips,
            [(Product::Milan, TcbVersion::default())].into(),
        )
        .unwrap()
    };
    let now = casemate_attestation::UnixTime::from_secs(1_772_845_473);
    let judge =
        |policy: &SnpPolicy| verify_snp_report(&evidence, &data, policy, &PinnedRoot::amd(), now);
    assert_eq!(
        judge(&strict(vec![chip])).unwrap_err(),
        SnpRejection::FamilyRootBroken(Product::Milan)
    );
    let overridden =
        judge(&strict(vec![chip]).allowing_despite_broken_root(Product::Milan)).unwrap();
    assert!(
        overridden
            .checks()
            .iter()
            .any(|check| check.id == "S7" && check.text.contains("can be forged"))
    );
    let stranger = casemate_attestation::ChipId::from_bytes([4; 64]);
    let not_enrolled =
        judge(&strict(vec![stranger]).allowing_despite_broken_root(Product::Milan)).unwrap_err();
    assert_eq!(not_enrolled, SnpRejection::ChipUnknown(chip));
}

#[test]
fn b13_valid_evidence_of_a_chip_that_is_not_enrolled_is_refused() {
    let stranger = chip().chip(1, NOW);
    let rejection = refused(
        &envelope(&stranger, &channel()),
        &channel().binding(&context()),
    );
    assert_eq!(
        rejection,
        SnpRejection::ChipUnknown(stranger.chip_id()).into()
    );
}

#[test]
fn b14_alias_check_that_is_not_complete_is_refused() {
    assert_eq!(
        refusal(|report| report.platform_info &= !(1 << 5)),
        SnpRejection::AliasCheckIncomplete
    );
}

#[test]
fn b18_collateral_expired_or_not_yet_valid_is_refused() {
    let chip = chip();
    let evidence = chip.evidence_for(&chip.template());
    let judge = |now| {
        verify_snp_report(&evidence, &REPORT_DATA, &policy(&chip), &roots(&chip), now).map(|_| ())
    };
    assert_eq!(judge(NOW), Ok(()));
    assert_eq!(judge(NOW.plus(366 * 86_400)).unwrap_err().rule(), "S10");
    assert_eq!(judge(NOW.minus(7200)).unwrap_err().rule(), "S10");
    assert_eq!(
        judge(casemate_attestation::UnixTime::from_secs(0))
            .unwrap_err()
            .rule(),
        "S6"
    );
}

#[test]
fn b19_missing_revocation_list_is_not_a_clean_one() {
    let chip = chip();
    let mut evidence = chip.evidence_for(&chip.template());
    evidence.crl.clear();
    assert_eq!(
        judge(&chip, &evidence).unwrap_err(),
        SnpRejection::CrlMissing
    );
    let shown = policy(&chip).with_crl(CrlPolicy::MissingIsShown);
    let verdict = verify_snp_report(&evidence, &REPORT_DATA, &shown, &roots(&chip), NOW).unwrap();
    assert!(
        verdict
            .checks()
            .iter()
            .any(|check| check.id == "S10" && check.text.contains("unknown"))
    );
}

#[test]
fn test_chip_is_the_same_in_every_process_and_never_confidential() {
    let chip = chip();
    let root = Sha256Digest::of(chip.root_der()).to_string();
    assert_eq!(root, ROOT_OF_SEED);
    assert_eq!(chip.chip_id().to_string(), CHIP_OF_SEED);
    let evidence = verifier(&chip)
        .verify(
            &envelope(&chip, &channel()),
            &channel().binding(&context()),
            NOW,
        )
        .unwrap();
    assert!(!evidence.confidential());
    assert_eq!(evidence.chip_id(), chip.chip_id());
    assert_eq!(evidence.platform(), Platform::TestChip);
}

/// A change of these values breaks every organisation that was set up with the test chip.
const ROOT_OF_SEED: &str = "e7013843e1110232d730dbfc47c7985fabc2d71390bfdda6bec274defef21d50";
const CHIP_OF_SEED: &str = "644a4865bd007c1767d3ae0a3daf5f91a0308e752f76275e74d82d961a559cce1221f2aa0ccca6bda6b90b8ca3430f64a8042f8f5760d44c6bb469f4d1d282c9";
