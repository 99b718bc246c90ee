//! What one piece of evidence needs is taken out of a bundle, or refused by name.

use std::fs;

use super::*;
use casemate_attestation::snp::{SnpReport, verify_snp_report};
use casemate_attestation::tdx::{TdxQuote, TdxRoot, verify_tdx_quote};
use casemate_attestation::test_chip::{ReportTemplate, TCB};
use casemate_attestation::{SnpEvidence, TcbVersion};

use common::{policy, shared};

/// 2025-07-04, when all of the shared evidence below counts.
const REAL: UnixTime = UnixTime::from_secs(1_751_624_191);

#[test]
fn c30_a_report_gets_its_certificate_its_authority_and_its_list() {
    let (world, chip) = (world(), chip());
    let report = chip.sign_report(&chip.template());
    let taken = world
        .collateral
        .snp(&SnpReport::parse(&report).unwrap(), &world.roots.amd, NOW)
        .unwrap();
    let evidence = SnpEvidence {
        report,
        vek: taken.what.vek,
        intermediate: taken.what.intermediate,
        crl: taken.what.crl,
    };
    let roots = &world.roots.amd;
    verify_snp_report(&evidence, &common::REPORT_DATA, &policy(&chip), roots, NOW).unwrap();
    assert!(taken.until > NOW);
    assert!(
        world
            .collateral
            .snp(
                &SnpReport::parse(&evidence.report).unwrap(),
                roots,
                taken.until
            )
            .is_ok()
    );
    let later = world.collateral.snp(
        &SnpReport::parse(&evidence.report).unwrap(),
        roots,
        taken.until.plus(1),
    );
    assert!(
        matches!(later.unwrap_err(), MissingCollateral::NotRight { reason, .. } if reason.is_out_of_date())
    );
}

#[test]
fn c30_no_certificate_is_taken_for_another() {
    let (world, chip) = (world(), chip());
    let judge = |world: &World, change: &dyn Fn(&mut ReportTemplate)| {
        let mut template = chip.template();
        change(&mut template);
        let report = SnpReport::parse(&chip.sign_report(&template)).unwrap();
        world
            .collateral
            .snp(&report, &world.roots.amd, NOW)
            .unwrap_err()
    };
    let newer = TcbVersion {
        snp: TCB.snp + 1,
        ..TCB
    };
    let other = judge(&world, &|it| {
        (it.reported_tcb, it.committed_tcb, it.current_tcb) = (newer, newer, newer)
    });
    assert_eq!(
        other,
        MissingCollateral::OtherTcb {
            chip: chip.chip_id(),
            reported: newer
        }
    );
    let id = casemate_attestation::ChipId::from_bytes([9; 64]);
    assert_eq!(
        judge(&world, &|it| it.chip_id = id),
        MissingCollateral::Chip(id)
    );
    assert_eq!(
        judge(&world, &|it| it.flags = 7 << 2),
        MissingCollateral::SigningKey
    );
    assert_eq!(
        judge(&world, &|it| it.flags = 1 << 2),
        MissingCollateral::Provider(TCB)
    );
    let mut no_authority = self::world();
    no_authority.collateral.amd[0].ask = None;
    assert_eq!(
        judge(&no_authority, &|_| {}),
        MissingCollateral::Authority("ASK", Product::Genoa)
    );
    let mut no_root = self::world();
    no_root.roots.amd.clear();
    assert_eq!(
        judge(&no_root, &|_| {}),
        MissingCollateral::Product(Product::Genoa)
    );
    // The same chip id and firmware, and another key.
    let mut report = chip.sign_report(&chip.template());
    report[0x2a0] ^= 1;
    let report = SnpReport::parse(&report).unwrap();
    let found = world.collateral.snp(&report, &world.roots.amd, NOW);
    assert_eq!(found.unwrap_err(), MissingCollateral::OtherKey);
}

#[test]
fn c31_a_quote_gets_documents_and_lists_by_its_own_certificate() {
    let world = world();
    let bytes = world.tdx.signed_quote();
    let quote = TdxQuote::parse(&bytes).unwrap();
    let root = &world.roots.intel;
    let taken = world.collateral.tdx(&quote, root, NOW).unwrap();
    let policy = common::tdx::policy();
    verify_tdx_quote(
        &bytes,
        &taken.what,
        &common::tdx::REPORT_DATA,
        &policy,
        root,
        NOW,
    )
    .unwrap();
    let verdict = world.tdx.judge().unwrap();
    assert_eq!(taken.until, verdict.collateral().until);
    let without = |change: fn(&mut Collateral)| {
        let mut collateral = world.collateral.clone();
        change(&mut collateral);
        collateral.tdx(&quote, root, NOW).unwrap_err()
    };
    assert!(matches!(
        without(|it| it.intel.tcb.clear()),
        MissingCollateral::Fmspc(_)
    ));
    assert_eq!(
        without(|it| it.intel.qe_identity = None),
        MissingCollateral::QeIdentity
    );
    assert!(matches!(
        without(|it| it.intel.pck_lists.clear()),
        MissingCollateral::PckList(_)
    ));
    assert_eq!(
        without(|it| it.intel.root_crl = None),
        MissingCollateral::RootList
    );
    let late = world
        .collateral
        .tdx(&quote, root, taken.until.plus(1))
        .unwrap_err();
    assert!(matches!(late, MissingCollateral::NotRight { reason, .. } if reason.is_out_of_date()));
    let id = common::tdx::platform_id();
    assert_eq!(world.collateral.pck_chains(&id).unwrap().len(), 1);
    let other = casemate_attestation::ChipId::from_bytes([1; 64]);
    assert_eq!(
        world.collateral.pck_chains(&other).unwrap_err(),
        MissingCollateral::Platform(other)
    );
}

#[test]
fn c33_devices_get_answers_and_are_accepted_with_them() {
    let mut world = world();
    let chain = world.device.chain.clone().unwrap();
    let taken = world.collateral.gpu_answers(&[&chain], NOW).unwrap();
    assert_eq!(taken.until, ocsp::DUE.minus(1));
    world.device.answers = taken.what;
    world.device.parts.revocation = Revocation::Required;
    assert!(world.device.judge().unwrap().revocation_judged());
    let other = spdm::case();
    let stranger = spdm::pem(&other.ders());
    let missing = world
        .collateral
        .gpu_answers(&[&chain, &stranger], NOW)
        .unwrap_err();
    assert_eq!(
        missing,
        MissingCollateral::Answer {
            device: 1,
            place: 1
        }
    );
    let late = world
        .collateral
        .gpu_answers(&[&chain], ocsp::DUE)
        .unwrap_err();
    assert!(late.to_string().contains("stale"), "{late}");
    assert!(matches!(
        world.collateral.gpu_answers(&[b"x"], NOW).unwrap_err(),
        MissingCollateral::Evidence(_)
    ));
}

#[test]
fn c33_a_server_sends_the_answers_that_are_held_and_verifiers_judge_them() {
    let mut world = world();
    let chain = world.device.chain.clone().unwrap();
    let stranger = spdm::pem(&spdm::case().ders());
    let held = |chains: &[&[u8]]| world.collateral.gpu_answers_held(chains);
    let all = held(&[&chain]).unwrap();
    assert_eq!(
        all,
        world.collateral.gpu_answers(&[&chain], NOW).unwrap().what
    );
    // Of a device that nobody asked about there is nothing to send, and of the other one there still is.
    let none = casemate_attestation::nvidia::OcspAnswers::none();
    assert_eq!(held(&[&stranger]).unwrap(), none);
    assert_eq!(held(&[&stranger, &chain]).unwrap(), all);
    assert!(held(&[b"x"]).is_err());
    // Out of date: sent all the same, and judged where it arrives.
    world.device.answers = all;
    world.device.parts.revocation = Revocation::Required;
    assert!(world.device.judge().is_ok());
    world.device.now = ocsp::DUE;
    assert_eq!(world.device.judge().unwrap_err().rule(), "N6");
}

#[test]
fn genuine_collateral_is_packed_judged_and_found_for_genuine_evidence() {
    let (Some(snp), Some(tdx)) = (shared("snp"), shared("tdx")) else {
        return;
    };
    let read = |path: &std::path::Path| fs::read(path).unwrap();
    let mut packer = Packer::new();
    let mut add = |path: std::path::PathBuf| packer.add(&read(&path)).unwrap();
    for name in [
        "milan_ark",
        "milan_ask",
        "milan_asvk",
        "milan_crl_2025-05-06",
        "genoa_ask",
        "genoa_crl_2024-10-23",
    ] {
        add(snp.join("roots").join(format!("{name}.der")));
    }
    let reports = [
        "milan-v2-baremetal",
        "milan-v2-azure-reported-below-current",
        "milan-v2-other-host",
        "milan-v3-oak-kernel",
    ];
    for name in reports {
        add(snp.join(name).join("vek.der"));
    }
    add(tdx.join("v4-phala/collateral-2025-06-19.json"));
    let collateral = packer.finish().unwrap();
    let roots = CollateralRoots::production();
    let until = collateral.must_be_right(&roots, REAL).unwrap();
    assert!(until > REAL && until < REAL.plus(86_400 * 30));
    for name in reports {
        let report = SnpReport::parse(&read(&snp.join(name).join("report.bin"))).unwrap();
        let taken = collateral.snp(&report, &roots.amd, REAL).unwrap();
        assert_eq!(
            taken.what.vek,
            read(&snp.join(name).join("vek.der")),
            "{name}"
        );
    }
    let masked = SnpReport::parse(&read(&snp.join("milan-v2-vlek-aws-vmpl1/report.bin"))).unwrap();
    let missing = collateral.snp(&masked, &roots.amd, REAL).unwrap_err();
    assert!(
        matches!(missing, MissingCollateral::Provider(_)),
        "{missing}"
    );
    let quote = TdxQuote::parse(&read(&tdx.join("v4-phala/quote.bin"))).unwrap();
    let taken = collateral.tdx(&quote, &TdxRoot::intel(), REAL).unwrap();
    let own = read(&tdx.join("v4-phala/collateral-2025-06-19.json"));
    let own = casemate_attestation::TdxCollateral::from_json(&own).unwrap();
    assert_eq!(taken.what, own);
    // A platform of another FMSPC is refused by name.
    let other = TdxQuote::parse(&read(&tdx.join("v4-sierra-forest/quote.bin"))).unwrap();
    let missing = collateral.tdx(&other, &TdxRoot::intel(), REAL).unwrap_err();
    assert_eq!(missing, MissingCollateral::Fmspc("20a06f000000".to_owned()));
}
