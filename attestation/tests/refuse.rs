//! Every refusal of the verifier is provoked once, by one change to evidence that is otherwise accepted.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

#[path = "refuse/certificates.rs"]
mod certificates;
mod common;
#[path = "refuse/documents.rs"]
mod documents;
#[path = "refuse/policy.rs"]
mod policy_rules;
#[path = "refuse/turin.rs"]
mod turin;

use casemate_attestation::snp::{CertificateRole as Role, TcbField};
use casemate_attestation::snp::{PinnedRoot, SnpVerdict, VMPL_HOST, verify_snp_report};
use casemate_attestation::test_chip::{
    Authority, CrlTemplate, IntermediateTemplate, TCB, TestChip, VALID_FROM, VALID_UNTIL,
    VekTemplate,
};
use casemate_attestation::{
    ChipId, Direction, Measurement, Platform, Product, Rejection, SnpEvidence, SnpPolicy,
    SnpRejection, TcbVersion, Verifier,
};

use common::*;

type Judged = Result<SnpVerdict, SnpRejection>;

/// Judges the template's evidence under the policy after `change`.
fn under(change: impl FnOnce(SnpPolicy) -> SnpPolicy) -> Judged {
    let chip = chip();
    let evidence = chip.evidence_for(&chip.template());
    verify_snp_report(
        &evidence,
        &REPORT_DATA,
        &change(policy(&chip)),
        &roots(&chip),
        NOW,
    )
}

/// Judges the template's evidence after `change`.
fn evidence(change: impl FnOnce(&TestChip, &mut SnpEvidence)) -> SnpRejection {
    let chip = chip();
    let mut evidence = chip.evidence_for(&chip.template());
    change(&chip, &mut evidence);
    judge(&chip, &evidence).unwrap_err()
}

/// Judges the template's evidence with another endorsement certificate.
fn vek(change: impl FnOnce(&mut VekTemplate)) -> SnpRejection {
    evidence(|chip, evidence| {
        let mut template = chip.vek_template();
        change(&mut template);
        evidence.vek = chip.issue_vek(&template);
    })
}

fn intermediate(template: &IntermediateTemplate) -> SnpRejection {
    evidence(|chip, evidence| evidence.intermediate = chip.issue_intermediate(template))
}

fn crl(change: impl FnOnce(&mut CrlTemplate)) -> SnpRejection {
    evidence(|chip, evidence| {
        let mut template = CrlTemplate::issued_at(NOW);
        change(&mut template);
        evidence.crl = chip.issue_crl(&template);
    })
}

/// Changes signed bytes of a report and signs them again.
fn resigned(offset: usize, byte: u8) -> SnpRejection {
    evidence(|chip, evidence| {
        evidence.report[offset] = byte;
        chip.sign_bytes(&mut evidence.report);
    })
}

fn refusal_or_none(
    change: impl FnOnce(&mut casemate_attestation::test_chip::ReportTemplate),
) -> Option<SnpRejection> {
    let chip = chip();
    let mut template = chip.template();
    change(&mut template);
    judge(&chip, &chip.evidence_for(&template)).err()
}

#[test]
fn the_evidence_that_these_tests_change_is_accepted() {
    let verdict = under(|policy| policy).unwrap();
    assert_eq!(verdict.checks().len(), 19);
    for (number, check) in verdict.checks().iter().enumerate() {
        assert_eq!(check.id, format!("S{}", number + 1));
    }
}

#[test]
fn p31_p20_o3_the_envelope_must_fit() {
    let (chip, channel) = (chip(), channel());
    let (verifier, binding) = (verifier(&chip), channel.binding(&context()));
    let good = envelope(&chip, &channel);
    assert!(verifier.verify(&good, &binding, NOW).is_ok());
    let (found, expected) = (Platform::Snp, Platform::TestChip);
    let other = build(Platform::Snp, Direction::Server, report_of(&good));
    let refused = verifier.verify(&other, &binding, NOW).unwrap_err();
    assert_eq!(refused, Rejection::PlatformNotAccepted { found, expected });
    let (found, expected) = (Direction::Client, Direction::Server);
    let other = build(Platform::TestChip, Direction::Client, report_of(&good));
    assert_eq!(
        verifier.verify(&other, &binding, NOW).unwrap_err(),
        Rejection::WrongDirection { found, expected }
    );
    let (from, until) = verifier.expectations().validity();
    assert!(verifier.verify(&good, &binding, until.minus(1)).is_ok());
    for now in [from.minus(1), until] {
        let refused = verifier.verify(&good, &binding, now).unwrap_err();
        assert_eq!(
            refused,
            Rejection::ExpectationsNotInForce { from, until, now }
        );
    }
}

#[test]
fn s1_length_version_and_processor() {
    let long = evidence(|_, evidence| evidence.report.push(0));
    assert_eq!(long, SnpRejection::ReportLength(1185));
    for version in [0, 1, 6, 99] {
        assert_eq!(
            refusal(|report| report.version = version),
            SnpRejection::ReportVersion(version)
        );
    }
    assert_eq!(
        refusal(|report| report.cpuid = [0; 3]),
        SnpRejection::VersionWithoutCpuid(3)
    );
    let unknown = refusal(|report| report.cpuid = [0x19, 0x40, 0]);
    assert_eq!(
        unknown,
        SnpRejection::ProcessorUnknown {
            family: 0x19,
            model: 0x40
        }
    );
}

#[test]
fn s2_reserved_bytes_signed_or_not() {
    for offset in [0x18b, 0x19f, 0x1eb, 0x1ef, 0x1f8, 0x207, 0x208, 0x29f] {
        assert_eq!(resigned(offset, 1), SnpRejection::ReservedNotZero(offset));
    }
    // Version 2 has no processor identity.
    let refused = evidence(|chip, evidence| {
        let mut report = chip.template();
        (report.version, report.cpuid) = (2, [0; 3]);
        *evidence = chip.evidence_for(&report);
        evidence.report[0x188] = 0x19;
        chip.sign_bytes(&mut evidence.report);
    });
    assert_eq!(refused, SnpRejection::ReservedNotZero(0x188));
    assert_eq!(resigned(0x48, 0x20), SnpRejection::ReservedNotZero(0x48));
    assert_eq!(resigned(0x3a, 1), SnpRejection::ReservedNotZero(0x38));
    assert_eq!(resigned(0x182, 1), SnpRejection::ReservedNotZero(0x180));
    for offset in [0x2d0, 0x2e7, 0x318, 0x32f, 0x330, 0x49f] {
        let refused = evidence(|_, evidence| evidence.report[offset] = 1);
        assert_eq!(refused, SnpRejection::ReservedNotZero(offset));
    }
}

#[test]
fn s3_algorithm_and_signature() {
    assert_eq!(
        refusal(|report| report.signature_algorithm = 0),
        SnpRejection::SignatureAlgorithm(0)
    );
    for offset in [0x50, 0x90, 0x2a0, 0x2e8] {
        let refused = evidence(|_, evidence| evidence.report[offset] ^= 1);
        assert_eq!(refused, SnpRejection::ReportSignature);
    }
    let refused = evidence(|_, evidence| evidence.vek.truncate(40));
    assert_eq!(
        refused,
        SnpRejection::CertificateMalformed {
            role: Role::Vek,
            what: "not a certificate in DER"
        }
    );
    let refused = evidence(|_, evidence| evidence.vek.push(0));
    assert_eq!(
        refused,
        SnpRejection::CertificateMalformed {
            role: Role::Vek,
            what: "bytes after its end"
        }
    );
    let refused = evidence(|_, evidence| evidence.vek = vec![0x30; 9000]);
    assert_eq!(
        refused,
        SnpRejection::CertificateMalformed {
            role: Role::Vek,
            what: "longer than 8192 bytes"
        }
    );
    let refused = evidence(|chip, evidence| evidence.vek = chip.collateral().intermediate.clone());
    assert_eq!(
        refused,
        SnpRejection::CertificateMalformed {
            role: Role::Vek,
            what: "has no P-384 key"
        }
    );
}

#[test]
fn s4_signing_key() {
    let refused = refusal(|report| report.flags = 1 << 2);
    assert_eq!(
        refused,
        SnpRejection::SigningKey {
            reported: "VLEK",
            certificate: "VCEK"
        }
    );
    let refused = refusal(|report| report.flags = 7 << 2);
    assert_eq!(
        refused,
        SnpRejection::SigningKey {
            reported: "none",
            certificate: "VCEK"
        }
    );
    let refused = vek(|template| template.common_name = "SEV-VLEK".to_owned());
    assert_eq!(
        refused,
        SnpRejection::SigningKey {
            reported: "VCEK",
            certificate: "VLEK"
        }
    );
    let csp_id = "CN=cloud".to_owned();
    let judged = provider(|_| (), |policy| policy);
    assert_eq!(judged.unwrap_err(), SnpRejection::VlekNotAllowed { csp_id });
    let allowed = provider(|_| (), |policy| policy.allowing_vlek_of("CN=cloud")).unwrap();
    assert!(
        allowed
            .checks()
            .iter()
            .any(|check| check.id == "S19" && check.text.contains("CN=cloud"))
    );
}

/// Evidence of a cloud provider's key, with the ASVK's name on the intermediate.
fn provider(
    change: impl FnOnce(&mut ChipId),
    allow: impl FnOnce(SnpPolicy) -> SnpPolicy,
) -> Judged {
    let chip = chip();
    let mut report = chip.template();
    (report.flags, report.chip_id) = (1 << 2, ChipId::from_bytes([0; 64]));
    change(&mut report.chip_id);
    let mut evidence = chip.evidence_for(&report);
    let issuer = "SEV-VLEK-Genoa".to_owned();
    evidence.vek = chip.issue_vek(&VekTemplate {
        common_name: "SEV-VLEK".to_owned(),
        issuer: issuer.clone(),
        hardware_id: None,
        csp_id: Some("CN=cloud".to_owned()),
        ..chip.vek_template()
    });
    evidence.intermediate = chip.issue_intermediate(&IntermediateTemplate {
        common_name: issuer,
        ..IntermediateTemplate::default()
    });
    verify_snp_report(
        &evidence,
        &REPORT_DATA,
        &allow(policy(&chip)),
        &roots(&chip),
        NOW,
    )
}

#[test]
fn s5_chain() {
    let chip = chip();
    let evidence_good = chip.evidence_for(&chip.template());
    let with_roots = |roots: &[PinnedRoot]| {
        verify_snp_report(&evidence_good, &REPORT_DATA, &policy(&chip), roots, NOW).unwrap_err()
    };
    assert_eq!(
        with_roots(&[]),
        SnpRejection::NoRootForProduct(Product::Genoa)
    );
    let milan = PinnedRoot::private(Product::Milan, chip.root_der());
    assert_eq!(
        with_roots(&[milan]),
        SnpRejection::NoRootForProduct(Product::Genoa)
    );
    let malformed = SnpRejection::CertificateMalformed {
        role: Role::Root,
        what: "not a certificate in DER",
    };
    assert_eq!(
        with_roots(&[PinnedRoot::private(Product::Genoa, b"0")]),
        malformed
    );

    let named = |issuer: &str| IntermediateTemplate {
        issuer: issuer.to_owned(),
        ..IntermediateTemplate::default()
    };
    assert_eq!(
        intermediate(&named("ARK-Milan")),
        SnpRejection::ChainName {
            role: Role::Intermediate
        }
    );
    assert_eq!(
        vek(|t| t.issuer = "SEV-Milan".to_owned()),
        SnpRejection::ChainName { role: Role::Vek }
    );
    let template = IntermediateTemplate {
        common_name: "SEV-Turin".to_owned(),
        ..IntermediateTemplate::default()
    };
    let (found, expected) = ("SEV-Turin".to_owned(), "SEV-Genoa".to_owned());
    assert_eq!(
        intermediate(&template),
        SnpRejection::CertificateName {
            role: Role::Intermediate,
            found,
            expected
        }
    );

    let template = IntermediateTemplate {
        authority: false,
        ..IntermediateTemplate::default()
    };
    assert_eq!(
        intermediate(&template),
        SnpRejection::NotAuthority {
            role: Role::Intermediate
        }
    );
    assert_eq!(vek(|t| t.authority = true), SnpRejection::LeafIsAuthority);
    let template = IntermediateTemplate {
        signer: Authority::Intermediate,
        ..IntermediateTemplate::default()
    };
    assert_eq!(
        intermediate(&template),
        SnpRejection::ChainSignature {
            role: Role::Intermediate
        }
    );
    assert_eq!(
        vek(|t| t.signer = Authority::Root),
        SnpRejection::ChainSignature { role: Role::Vek }
    );
}

#[test]
fn s6_validity_to_the_second() {
    let role = Role::Vek;
    let (from, until) = (NOW.plus(1), NOW.minus(1));
    assert_eq!(
        vek(|t| t.not_before = from),
        SnpRejection::CertificateNotYetValid {
            role,
            from,
            now: NOW
        }
    );
    assert_eq!(
        vek(|t| t.not_after = until),
        SnpRejection::CertificateExpired {
            role,
            until,
            now: NOW
        }
    );
    let template = IntermediateTemplate {
        not_after: until,
        ..IntermediateTemplate::default()
    };
    let role = Role::Intermediate;
    assert_eq!(
        intermediate(&template),
        SnpRejection::CertificateExpired {
            role,
            until,
            now: NOW
        }
    );
    let chip = chip();
    // A root that ended while what it vouches for goes on.
    let now = VALID_UNTIL.plus(1);
    let not_after = now;
    let mut evidence = chip.evidence_for(&chip.template());
    evidence.vek = chip.issue_vek(&VekTemplate {
        not_after,
        ..chip.vek_template()
    });
    evidence.intermediate = chip.issue_intermediate(&IntermediateTemplate {
        not_after,
        ..IntermediateTemplate::default()
    });
    let judged = verify_snp_report(&evidence, &REPORT_DATA, &policy(&chip), &roots(&chip), now);
    let (role, until) = (Role::Root, VALID_UNTIL);
    assert_eq!(
        judged.unwrap_err(),
        SnpRejection::CertificateExpired { role, until, now }
    );

    let mut evidence = chip.evidence_for(&chip.template());
    let (not_before, not_after) = (NOW, NOW);
    evidence.vek = chip.issue_vek(&VekTemplate {
        not_before,
        not_after,
        ..chip.vek_template()
    });
    assert!(
        judge(&chip, &evidence).is_ok(),
        "valid in its first and last second"
    );
    for (now, rule) in [(VALID_FROM.minus(1), "S6"), (VALID_UNTIL.plus(1), "S6")] {
        let evidence = chip.evidence_for(&chip.template());
        let judged = verify_snp_report(&evidence, &REPORT_DATA, &policy(&chip), &roots(&chip), now);
        assert_eq!(judged.unwrap_err().rule(), rule);
    }
}

#[test]
fn s7_product() {
    let (reported, certificate) = ("Milan".to_owned(), Product::Genoa);
    let refused = refusal(|report| report.cpuid = [0x19, 0x01, 0x01]);
    assert_eq!(
        refused,
        SnpRejection::ProductMismatch {
            reported,
            certificate
        }
    );
    let chip = chip();
    let refused = milan(&chip, |policy| policy);
    assert_eq!(
        refused.unwrap_err(),
        SnpRejection::FamilyRootBroken(Product::Milan)
    );
    let overridden = milan(&chip, |policy| {
        policy.allowing_despite_broken_root(Product::Milan)
    })
    .unwrap_err();
    assert_eq!(overridden, SnpRejection::NoFloorForProduct(Product::Milan));
}

/// The chip as a Milan part: certificate, intermediate and root say so.
fn milan(chip: &TestChip, change: impl FnOnce(SnpPolicy) -> SnpPolicy) -> Judged {
    let mut report = chip.template();
    report.cpuid = [0x19, 0x01, 0x01];
    let mut evidence = chip.evidence_for(&report);
    let name = "SEV-Milan".to_owned();
    let product_name = "Milan-B0".to_owned();
    evidence.vek = chip.issue_vek(&VekTemplate {
        issuer: name.clone(),
        product_name,
        ..chip.vek_template()
    });
    evidence.intermediate = chip.issue_intermediate(&IntermediateTemplate {
        common_name: name,
        ..IntermediateTemplate::default()
    });
    let roots = [PinnedRoot::private(Product::Milan, chip.root_der())];
    verify_snp_report(&evidence, &REPORT_DATA, &change(policy(chip)), &roots, NOW)
}

#[test]
fn s8_firmware_of_the_certificate() {
    const ARCS: [u32; 4] = [1, 2, 3, 8];
    for (index, component) in ["boot loader", "tee", "snp", "microcode"]
        .into_iter()
        .enumerate()
    {
        let refused = vek(|template| template.components.retain(|(arc, _)| *arc != ARCS[index]));
        assert_eq!(refused, SnpRejection::TcbExtensionMissing(component));
        let refused = vek(|template| template.components[index].1 += 1);
        assert!(
            matches!(refused, SnpRejection::TcbMismatch { component: found, .. } if found == component)
        );
    }
    let refused = vek(|template| template.components.push((9, 1)));
    let what = "has a version for a component that its product lacks";
    assert_eq!(
        refused,
        SnpRejection::CertificateMalformed {
            role: Role::Vek,
            what
        }
    );
}

#[test]
fn s9_hardware_id() {
    assert_eq!(
        vek(|template| template.hardware_id = None),
        SnpRejection::HardwareIdMissing
    );
    assert_eq!(
        refusal(|report| report.chip_id = ChipId::from_bytes([0; 64])),
        SnpRejection::ChipIdMasked
    );
    assert_eq!(
        refusal(|report| report.chip_id = ChipId::from_bytes([3; 64])),
        SnpRejection::ChipIdMismatch
    );
    // Ids that look like DER: a reader that guesses by the first byte would take them apart.
    for first in [0x02, 0x04] {
        let refused = vek(|template| {
            template
                .hardware_id
                .as_mut()
                .unwrap()
                .splice(0..2, [first, 62])
                .for_each(drop)
        });
        assert_eq!(refused, SnpRejection::ChipIdMismatch);
    }
    let judged = provider(
        |chip| *chip = ChipId::from_bytes([1; 64]),
        |policy| policy.allowing_vlek_of("CN=cloud"),
    );
    assert_eq!(judged.unwrap_err(), SnpRejection::VlekNamesChip);
}

#[test]
fn anchors_and_expectations_of_different_platforms_make_no_verifier() {
    let chip = chip();
    let anchors = casemate_attestation::TrustAnchors::production(Platform::Snp).unwrap();
    let refused = Verifier::new(anchors, expectations(Platform::TestChip, &chip)).unwrap_err();
    let (found, expected) = (Platform::TestChip, Platform::Snp);
    assert_eq!(refused, Rejection::PlatformNotAccepted { found, expected });
}

/// The list of refusals and this file grow together.
#[test]
fn every_rejection_is_provoked_here() {
    let (enumeration, here) = (
        include_str!("../src/snp/rejection.rs"),
        concat!(include_str!("refuse.rs"), include_str!("refuse/policy.rs")),
    );
    let body = enumeration.split("pub enum SnpRejection {").nth(1).unwrap();
    let body = body.split("\n}\n").next().unwrap();
    let variants = body.lines().filter_map(|line| {
        let name = line.strip_prefix("    ")?.split([' ', '(', ',']).next()?;
        name.starts_with(|first: char| first.is_ascii_uppercase())
            .then_some(name)
    });
    let missing: Vec<&str> = variants
        .filter(|name| !here.contains(&format!("SnpRejection::{name}")))
        .collect();
    assert!(missing.is_empty(), "not provoked: {missing:?}");
}
