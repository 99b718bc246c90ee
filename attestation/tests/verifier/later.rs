//! Evidence that was verified before still counts, or does not, by documents of a later day (rule P-52).

use super::*;
use casemate_attestation::test_chip::TestChip;

/// What a verifier with other documents says of evidence that was verified before.
fn later(
    platform: Platform,
    expectations: Expectations,
    evidence: &VerifiedEvidence,
    now: UnixTime,
) -> Result<(), Rejection> {
    let anchors = TrustAnchors::production(platform).unwrap();
    let verifier = Verifier::new(anchors, expectations).unwrap();
    verifier.still_counts(evidence, now)
}

#[test]
fn p52_a_tpm_counts_while_key_and_registers_are_listed() {
    let evidence = judge_tpm(|_| (), &[&BOOTED], enrolled()).unwrap();
    let judged = |machines: &[&[(u8, u8)]], chip: FleetChip, now| {
        let expectations = tpm_expectations(tpm_reference(machines), vec![chip]).unwrap();
        later(Platform::Tpm, expectations, &evidence, now)
    };
    assert_eq!(judged(&[&BOOTED], enrolled(), NOW), Ok(()));
    let mut other = BOOTED;
    other[0].1 = 0x99;
    assert_eq!(judged(&[&other, &BOOTED], enrolled(), NOW), Ok(()));
    assert_eq!(
        judged(&[&other], enrolled(), NOW),
        Err(TpmRejection::PcrUnexpected(0).into())
    );
    let stranger = tpm_machine(support::other_ak(), HostedIn::Machine);
    assert_eq!(
        judged(&[&BOOTED], stranger, NOW),
        Err(TpmRejection::KeyNotEnrolled.into())
    );
    let mut renamed = enrolled();
    renamed.chip_id = tpm_id(b"another endorsement key");
    assert_eq!(
        judged(&[&BOOTED], renamed, NOW),
        Err(TpmRejection::KeyNotEnrolled.into())
    );
    let until = evidence.until();
    assert_eq!(judged(&[&BOOTED], enrolled(), until.minus(1)), Ok(()));
    assert_eq!(
        judged(&[&BOOTED], enrolled(), until),
        Err(Rejection::EvidenceOutOfDate { until, now: until })
    );
}

#[test]
fn p52_a_trust_domain_counts_while_platform_and_measurement_are_listed() {
    let evidence = judge_tdx(|_| (), |_| (), tdx_reference()).unwrap();
    let listed = || vec![machine(Platform::Tdx, tdx::platform_id())];
    let judged = |section, chips| {
        let expectations = tdx_expectations(section, chips).unwrap();
        later(Platform::Tdx, expectations, &evidence, NOW)
    };
    assert_eq!(judged(tdx_reference(), listed()), Ok(()));
    let other = vec![machine(Platform::Tdx, ChipId::from_bytes([5; 64]))];
    let unknown = TdxRejection::PlatformUnknown(tdx::platform_id());
    assert_eq!(judged(tdx_reference(), other), Err(unknown.into()));
    let mut section = tdx_reference();
    section.machines[0].rtmrs[2] = tdx::exactly(0x77);
    assert_eq!(judged(section, listed()).unwrap_err().rule(), "T16");
    let mut section = tdx_reference();
    section.machines[0].mrtd = tdx::measured(0x77);
    let unknown = TdxRejection::MrtdUnknown(tdx::measured(0x22));
    assert_eq!(judged(section, listed()), Err(unknown.into()));
}

#[test]
fn p52_a_report_counts_while_chip_and_measurement_are_listed() {
    let chip = common::chip();
    let envelope = common::envelope(&chip, &channel());
    let evidence = common::verifier(&chip).verify(&envelope, &binding(), NOW);
    let evidence = evidence.unwrap();
    assert_eq!(common::verifier(&chip).still_counts(&evidence, NOW), Ok(()));
    let stranger = common::chip().chip(1, NOW);
    let unknown = SnpRejection::ChipUnknown(chip.chip_id());
    assert_eq!(
        common::verifier(&stranger).still_counts(&evidence, NOW),
        Err(unknown.into())
    );
    let other = tdx_expectations(
        tdx_reference(),
        vec![machine(Platform::Tdx, tdx::platform_id())],
    );
    let (found, expected) = (Platform::TestChip, Platform::Tdx);
    assert_eq!(
        later(Platform::Tdx, other.unwrap(), &evidence, NOW),
        Err(Rejection::PlatformNotAccepted { found, expected })
    );
    let mut section = common::snp_reference();
    section.measurements[0].measurement = tdx::measured(9);
    let values = ReferenceValues {
        test_chip: Some(section),
        ..ReferenceValues::default()
    };
    let fleet = verified(&common::fleet(Platform::TestChip, &chip));
    let expectations = Expectations::new(Platform::TestChip, &verified(&values), &fleet).unwrap();
    let anchors = TrustAnchors::test_chip(chip.root_der());
    let verifier = Verifier::new(anchors, expectations).unwrap();
    let unknown = SnpRejection::MeasurementUnknown(evidence.measurement());
    assert_eq!(verifier.still_counts(&evidence, NOW), Err(unknown.into()));
}

/// Reference values in which what the chip runs is accepted until then.
fn ending(chip: &TestChip, until: Option<UnixTime>) -> Verifier {
    let mut section = common::snp_reference();
    section.measurements[0].until = until;
    let values = ReferenceValues {
        test_chip: Some(section),
        ..ReferenceValues::default()
    };
    let fleet = verified(&common::fleet(Platform::TestChip, chip));
    let expectations = Expectations::new(Platform::TestChip, &verified(&values), &fleet).unwrap();
    Verifier::new(TrustAnchors::test_chip(chip.root_der()), expectations).unwrap()
}

#[test]
fn o5_an_image_is_accepted_until_its_end_and_evidence_of_it_as_well() {
    let chip = common::chip();
    let envelope = common::envelope(&chip, &channel());
    let end = NOW.plus(60);
    let judged = |until, now| ending(&chip, until).verify(&envelope, &binding(), now);
    let ended = |until, now| Err(Rejection::MeasurementEnded { until, now });
    assert!(judged(None, NOW).unwrap().until() > end);
    let evidence = judged(Some(end), end.minus(1)).unwrap();
    assert_eq!(evidence.until(), end, "no session outlives it");
    assert_eq!(judged(Some(end), end).map(drop), ended(end, end));
    assert_eq!(
        ended(end, end).map_err(|it: Rejection| it.rule()),
        Err::<(), _>("O-5")
    );
    // Closed earlier than it was when the evidence was judged, and opened for longer.
    let counts = |until, now| ending(&chip, until).still_counts(&evidence, now);
    assert_eq!(counts(Some(end), end.minus(1)), Ok(()));
    assert_eq!(counts(Some(NOW), NOW), ended(NOW, NOW));
    assert_eq!(counts(Some(NOW), NOW.minus(1)), Ok(()));
}

#[test]
fn o5_of_two_images_the_older_ends_and_the_newer_stays() {
    let evidence = judge_tdx(|_| (), |_| (), tdx_reference()).unwrap();
    let chips = || vec![machine(Platform::Tdx, tdx::platform_id())];
    let judged = |section| {
        let expectations = tdx_expectations(section, chips()).unwrap();
        later(Platform::Tdx, expectations, &evidence, NOW)
    };
    let ended = Err(Rejection::MeasurementEnded {
        until: NOW,
        now: NOW,
    });
    let mut section = tdx_reference();
    section.machines[0].until = Some(NOW);
    assert_eq!(judged(section.clone()), ended);
    // Another one with the same firmware, whose registers are others, does not keep it open.
    let mut newer = section.machines[0].clone();
    newer.rtmrs[2] = tdx::exactly(0x77);
    newer.until = None;
    section.machines.push(newer);
    assert_eq!(judged(section.clone()), ended);
    // The same one listed twice is open as long as either says.
    let mut again = section.machines[0].clone();
    again.until = Some(NOW.plus(1));
    section.machines.push(again);
    assert_eq!(judged(section), Ok(()));

    let evidence = judge_tpm(|_| (), &[&BOOTED], enrolled()).unwrap();
    let mut section = tpm_reference(&[&BOOTED]);
    section.machines[0].until = Some(NOW);
    let judged = |section| {
        let expectations = tpm_expectations(section, vec![enrolled()]).unwrap();
        later(Platform::Tpm, expectations, &evidence, NOW)
    };
    assert_eq!(judged(section.clone()), ended);
    // Other values in the same bank are another image.
    let mut other = BOOTED;
    other[0].1 = 0x99;
    section.machines.extend(tpm_reference(&[&other]).machines);
    assert_eq!(judged(section), ended);
}

#[test]
fn o5_images_are_the_entries_of_their_platform() {
    let mut section = tpm_reference(&[&BOOTED]);
    let (mut renamed, mut other) = (section.machines[0].clone(), BOOTED);
    (renamed.label, renamed.until) = ("newer words".to_owned(), Some(NOW));
    other[0].1 = 0x99;
    section.machines.push(renamed);
    section.machines.extend(tpm_reference(&[&other]).machines);
    let values = ReferenceValues {
        tpm: Some(section),
        ..common::reference(Platform::TestChip)
    };
    let images = values.images(Platform::Tpm);
    let told = images.iter().map(|it| (it.label.as_str(), it.until));
    let entries = [("test", None), ("newer words", Some(NOW)), ("test", None)];
    assert!(told.eq(entries));
    assert_eq!(
        images[0].id, images[1].id,
        "by what it accepts, not by words"
    );
    assert_ne!(images[0].id, images[2].id);
    assert_eq!(values.images(Platform::TestChip).len(), 1);
    assert!(values.images(Platform::Tdx).is_empty());
}
