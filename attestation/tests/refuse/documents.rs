//! Evidence is judged by what the signed documents say, and by all of it (rules O-3, O-4, P-31).

use super::*;
use casemate_attestation::snp::PolicyError;
use casemate_attestation::{
    Expectations, ExpectationsError, FleetChip, FleetList, Issue, Payload, ReferenceValues,
    SignedDocument, SnpReference, TrustAnchors, UnixTime, Verified,
};

/// Signs and opens a payload that is valid from `issued` until `expires`.
fn dated<T: Payload>(payload: &T, issued: UnixTime, expires: UnixTime) -> Verified<T> {
    let (key, number) = (release_key(), 1);
    let issue = Issue {
        number,
        issued,
        expires,
    };
    let bytes = SignedDocument::sign(payload, issue, &key).unwrap();
    SignedDocument::open(&bytes, &key.public().unwrap(), 0, NOW).unwrap()
}

/// What a verifier says that was made from the reference values after `change`.
fn under_values(
    change: impl FnOnce(&mut SnpReference),
    report: impl FnOnce(&mut casemate_attestation::test_chip::ReportTemplate),
) -> Result<(), Rejection> {
    let (chip, platform) = (chip(), Platform::TestChip);
    let mut values = reference(platform);
    change(values.test_chip.as_mut().unwrap());
    let fleet = verified(&fleet(platform, &chip));
    let expectations = Expectations::new(platform, &verified(&values), &fleet).unwrap();
    let anchors = TrustAnchors::test_chip(chip.root_der());
    let verifier = Verifier::new(anchors, expectations).unwrap();
    let binding = channel().binding(&context());
    let mut template = chip.template();
    template.report_data = *binding.as_bytes();
    report(&mut template);
    let envelope = build(platform, Direction::Server, chip.evidence_for(&template));
    verifier.verify(&envelope, &binding, NOW).map(drop)
}

#[test]
fn o3_expectations_are_in_force_while_both_documents_are() {
    let (chip, platform) = (chip(), Platform::TestChip);
    let (values, chips) = (reference(platform), fleet(platform, &chip));
    let (early, late) = ((NOW.minus(20), NOW.plus(10)), (NOW.minus(10), NOW.plus(20)));
    for (one, other) in [(early, late), (late, early)] {
        let reference = dated(&values, one.0, one.1);
        let fleet = dated(&chips, other.0, other.1);
        let expectations = Expectations::new(platform, &reference, &fleet).unwrap();
        assert_eq!(expectations.validity(), (NOW.minus(10), NOW.plus(10)));
    }
}

#[test]
fn b03_chips_of_another_platform_are_none() {
    let chip = chip();
    let reference = verified(&reference(Platform::TestChip));
    let other = verified(&fleet(Platform::Snp, &chip));
    let judged = Expectations::new(Platform::TestChip, &reference, &other);
    assert_eq!(
        judged.unwrap_err(),
        ExpectationsError::Snp(PolicyError::NoChips)
    );
}

#[test]
fn b08_the_privilege_level_is_the_documents() {
    let level = |values: &mut SnpReference| values.vmpl = 1;
    assert_eq!(under_values(level, |report| report.vmpl = 1), Ok(()));
    let (found, expected) = (0, 1);
    assert_eq!(
        under_values(level, |_| ()),
        Err(SnpRejection::Vmpl { found, expected }.into())
    );
}

#[test]
fn b10_the_floor_is_the_documents() {
    assert_eq!(under_values(|_| (), |_| ()), Ok(()));
    let raised = TcbVersion {
        snp: TCB.snp + 1,
        ..TCB
    };
    let refused = under_values(
        |values| values.tcb_floor = [(Product::Genoa, raised)].into(),
        |_| (),
    );
    assert!(matches!(
        refused,
        Err(Rejection::Snp(SnpRejection::TcbBelowFloor { .. }))
    ));
    let refused = under_values(
        |values| values.tcb_floor = [(Product::Milan, TCB)].into(),
        |_| (),
    );
    assert_eq!(
        refused,
        Err(SnpRejection::NoFloorForProduct(Product::Genoa).into())
    );
}

#[test]
fn b12_a_broken_root_is_overridden_by_the_documents_only() {
    let (chip, platform) = (chip(), Platform::TestChip);
    let judged = |products: &[Product]| {
        let section = SnpReference {
            families_allowed_despite_broken_root: products.to_vec(),
            ..snp_reference()
        };
        let values = ReferenceValues {
            test_chip: Some(section),
            ..ReferenceValues::default()
        };
        let fleet = verified(&fleet(platform, &chip));
        let expectations = Expectations::new(platform, &verified(&values), &fleet).unwrap();
        milan(&chip, |_| expectations.snp_policy().unwrap().clone())
    };
    let broken = SnpRejection::FamilyRootBroken(Product::Milan);
    assert_eq!(judged(&[]).unwrap_err(), broken);
    assert_eq!(judged(&[Product::Genoa]).unwrap_err(), broken);
    let shown = judged(&[Product::Milan]).unwrap();
    let forged = |check: &&casemate_attestation::Check| check.text.contains("can be forged");
    assert_eq!(shown.checks().iter().filter(forged).count(), 1);
}

#[test]
fn b13_a_fleet_lists_chip_is_found_by_platform_and_id() {
    let (chip, platform) = (chip(), Platform::TestChip);
    let second = FleetChip {
        platform,
        chip_id: chip.chip(1, NOW).chip_id(),
        names: vec!["second".to_owned()],
        label: String::new(),
        tpm: None,
        devices: Vec::new(),
    };
    let first = fleet(platform, &chip).chips.remove(0);
    let list = FleetList {
        chips: vec![first.clone(), second.clone()],
    };
    let stranger = chip.chip(2, NOW).chip_id();
    assert_eq!(list.chip(platform, &second.chip_id), Some(&second));
    assert_eq!(list.chip(Platform::Snp, &second.chip_id), None);
    assert_eq!(list.chip(platform, &stranger), None);
    let reference = verified(&reference(platform));
    let expectations = Expectations::new(platform, &reference, &verified(&list)).unwrap();
    assert_eq!(expectations.chip(&first.chip_id), Some(&first));
    assert_eq!(expectations.chip(&second.chip_id), Some(&second));
    assert_eq!(expectations.chip(&stranger), None);
}
