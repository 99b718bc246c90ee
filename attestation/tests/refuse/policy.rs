//! Rules S10 to S19: revocation, and what policy asks of a report that is genuine.

use super::*;

#[test]
fn s10_revocation() {
    assert_eq!(
        evidence(|_, evidence| evidence.crl.clear()),
        SnpRejection::CrlMissing
    );
    let refused = evidence(|_, evidence| evidence.crl.truncate(20));
    assert_eq!(refused, SnpRejection::CrlMalformed("not a list in DER"));
    assert_eq!(
        crl(|list| list.issuer = "ARK-Milan".to_owned()),
        SnpRejection::CrlIssuer
    );
    assert_eq!(
        crl(|list| list.signer = Authority::Intermediate),
        SnpRejection::CrlSignature
    );
    let from = NOW.plus(1);
    assert_eq!(
        crl(|list| list.this_update = from),
        SnpRejection::CrlNotYetValid { from, now: NOW }
    );
    assert_eq!(
        crl(|list| list.next_update = NOW),
        SnpRejection::CrlStale { due: NOW, now: NOW }
    );
    let revoked = |serial| crl(|list| list.revoked = vec![7, serial]);
    assert_eq!(
        revoked(0x1_0001),
        SnpRejection::CertificateRevoked {
            role: Role::Intermediate
        }
    );
    assert_eq!(
        revoked(0x1_0000),
        SnpRejection::CertificateRevoked { role: Role::Root }
    );
    let chip = chip();
    let mut evidence = chip.evidence_for(&chip.template());
    evidence.crl = chip.issue_crl(&CrlTemplate {
        this_update: NOW,
        next_update: NOW.plus(1),
        revoked: vec![7],
        ..CrlTemplate::issued_at(NOW)
    });
    assert!(judge(&chip, &evidence).is_ok(), "a list that names others");
}

#[test]
fn s11_firmware_at_the_floor_and_one_below() {
    let lower = TcbVersion {
        snp: TCB.snp - 1,
        ..TCB
    };
    let (component, found, floor) = ("snp", TCB.snp - 1, TCB.snp);
    let below = |field| SnpRejection::TcbBelowFloor {
        field,
        component,
        found,
        floor,
    };
    let refused = refusal(|report| report.committed_tcb = lower);
    assert_eq!(refused, below(TcbField::Committed));
    assert_eq!(
        refusal(|report| report.launch_tcb = lower),
        below(TcbField::Launch)
    );
    let chip = chip();
    let mut evidence = chip.evidence_for(&{
        let mut report = chip.template();
        report.reported_tcb = lower;
        report
    });
    let components = vec![
        (1, lower.boot_loader),
        (2, lower.tee),
        (3, lower.snp),
        (8, lower.microcode),
    ];
    evidence.vek = chip.issue_vek(&VekTemplate {
        components,
        ..chip.vek_template()
    });
    assert_eq!(
        judge(&chip, &evidence).unwrap_err(),
        below(TcbField::Reported)
    );
    let refused = refusal(|report| report.current_tcb = lower);
    let (lower_field, upper_field) = (TcbField::Committed, TcbField::Current);
    let order = SnpRejection::TcbOrder {
        lower: lower_field,
        lower_tcb: TCB,
        upper: upper_field,
        upper_tcb: lower,
    };
    assert_eq!(refused, order);
    let commit_after_launch = refusal_or_none(|report| {
        let higher = TcbVersion {
            snp: TCB.snp + 1,
            ..TCB
        };
        (report.committed_tcb, report.current_tcb) = (higher, higher);
    });
    assert_eq!(
        commit_after_launch, None,
        "launch may be older than committed"
    );
}

#[test]
fn s12_guest_policy_bit_by_bit() {
    assert_eq!(
        refusal(|report| report.policy &= !(1 << 17)),
        SnpRejection::PolicyReservedBit
    );
    assert_eq!(
        refusal(|report| report.policy |= 1 << 18),
        SnpRejection::MigrationPermitted
    );
    assert_eq!(
        refusal(|report| report.policy |= 1 << 19),
        SnpRejection::DebugPermitted
    );
    for bit in 20..26 {
        assert_eq!(
            refusal_or_none(|report| report.policy |= 1 << bit),
            None,
            "bit {bit} only asks for more"
        );
    }
    for bit in [26, 31, 32, 63] {
        assert_eq!(
            refusal(|report| report.policy |= 1 << bit),
            SnpRejection::PolicyUnknownBits(1 << bit)
        );
    }
    let (found, floor) = ("0.0".to_owned(), "0.1".to_owned());
    let refused = under(|policy| policy.with_guest_abi(0, 1)).unwrap_err();
    assert_eq!(refused, SnpRejection::GuestAbi { found, floor });
}

#[test]
fn s13_privilege_level() {
    assert_eq!(
        refusal(|report| report.vmpl = VMPL_HOST),
        SnpRejection::RequestedByHost
    );
    for found in [1, 2, 3, 4, 255] {
        assert_eq!(
            refusal(|report| report.vmpl = found),
            SnpRejection::Vmpl { found, expected: 0 }
        );
    }
    let chip = chip();
    let judged = |vmpl| {
        let mut report = chip.template();
        report.vmpl = vmpl;
        let (evidence, policy) = (chip.evidence_for(&report), policy(&chip));
        let policy = policy.with_vmpl(3).unwrap();
        verify_snp_report(&evidence, &REPORT_DATA, &policy, &roots(&chip), NOW).map(drop)
    };
    assert_eq!(judged(3), Ok(()), "the last level that there is");
    let (found, expected) = (0, 3);
    assert_eq!(judged(0), Err(SnpRejection::Vmpl { found, expected }));
}

#[test]
fn s14_platform() {
    assert_eq!(
        refusal(|report| report.policy &= !(1 << 16)),
        SnpRejection::SmtAgainstPolicy
    );
    let one_thread = refusal_or_none(|report| {
        report.policy &= !(1 << 16);
        report.platform_info &= !1;
    });
    assert_eq!(one_thread, None, "a guest without SMT where none is");
    assert_eq!(
        refusal(|report| report.platform_info &= !(1 << 5)),
        SnpRejection::AliasCheckIncomplete
    );
    let refused = under(|policy| policy.requiring_platform_info(1 << 4)).unwrap_err();
    assert_eq!(refused, SnpRejection::PlatformInfo(1 << 4));
    assert_eq!(
        refusal_or_none(|report| report.platform_info |= 1 << 40),
        None,
        "unknown bits are no reason to refuse"
    );
}

#[test]
fn b14_what_policy_tolerates_of_the_platform_is_shown() {
    let chip = chip();
    let mut report = chip.template();
    report.platform_info = report.platform_info & !(1 << 5) | 1 << 40;
    let tolerant = policy(&chip).tolerating_missing_alias_check();
    let evidence = chip.evidence_for(&report);
    let verdict = verify_snp_report(&evidence, &REPORT_DATA, &tolerant, &roots(&chip), NOW);
    let verdict = verdict.unwrap();
    for text in ["aliased memory", "0x10000000000"] {
        let shown = |check: &casemate_attestation::Check| {
            check.id == "S14" && check.result.as_str() == "INFO" && check.text.contains(text)
        };
        assert!(verdict.checks().iter().any(shown), "{text}");
    }
}

#[test]
fn s15_to_s19_key_binding_measurement_mitigation_chip() {
    assert_eq!(
        refusal(|report| report.flags = 0b10),
        SnpRejection::ChipKeyMasked
    );
    assert_eq!(
        refusal(|report| report.report_data[63] = 1),
        SnpRejection::BindingMismatch
    );
    let other = Measurement::from_bytes([9; 48]);
    assert_eq!(
        refusal(|report| report.measurement = other),
        SnpRejection::MeasurementUnknown(other)
    );
    let refused = under(|policy| policy.requiring_mitigations(0b1000)).unwrap_err();
    assert_eq!(refused, SnpRejection::MitigationMissing(0b1000));
    let chip = chip();
    let stranger = chip.chip(1, NOW);
    let unknown = judge(&chip, &stranger.evidence_for(&stranger.template())).unwrap_err();
    assert_eq!(unknown, SnpRejection::ChipUnknown(stranger.chip_id()));
}

#[test]
fn s18_mitigations_count_when_in_force_at_launch_and_now() {
    let chip = chip();
    let judged = |launch, current| {
        let mut report = chip.template();
        (report.version, report.mitigations) = (5, (launch, current));
        let policy = policy(&chip).requiring_mitigations(0b11);
        verify_snp_report(
            &chip.evidence_for(&report),
            &REPORT_DATA,
            &policy,
            &roots(&chip),
            NOW,
        )
        .map(|_| ())
    };
    assert_eq!(judged(0b11, 0b111), Ok(()));
    assert_eq!(
        judged(0b01, 0b11),
        Err(SnpRejection::MitigationMissing(0b10))
    );
    assert_eq!(
        judged(0b11, 0b10),
        Err(SnpRejection::MitigationMissing(0b01))
    );
}

#[test]
fn versions_two_to_five_are_accepted() {
    for version in 2..=5 {
        assert_eq!(
            refusal_or_none(|report| report.version = version),
            None,
            "version {version}"
        );
    }
}
