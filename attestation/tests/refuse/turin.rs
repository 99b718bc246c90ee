//! The test chip as a Turin part, whose firmware versions and chip ids have a layout of their own (rules S2, S7 to S9).

use super::*;

const FIRMWARE: TcbVersion = TcbVersion { fmc: 5, ..TCB };
const HARDWARE_ID: [u8; 8] = [9, 8, 7, 6, 5, 4, 3, 2];

fn chip_id(rest: u8) -> ChipId {
    let mut id = [rest; 64];
    id[..8].copy_from_slice(&HARDWARE_ID);
    ChipId::from_bytes(id)
}

/// A report, its certificate, and the lowest firmware that is accepted.
struct Turin {
    chip: TestChip,
    report: casemate_attestation::test_chip::ReportTemplate,
    vek: VekTemplate,
    floor: TcbVersion,
}

impl Turin {
    fn new() -> Self {
        let chip = chip();
        let mut report = chip.template();
        report.cpuid = [0x1a, 0x02, 0x01];
        (report.reported_tcb, report.committed_tcb) = (FIRMWARE, FIRMWARE);
        (report.launch_tcb, report.current_tcb) = (FIRMWARE, FIRMWARE);
        report.chip_id = chip_id(0);
        let mut vek = chip.vek_template();
        vek.issuer = "SEV-Turin".to_owned();
        vek.product_name = "Turin".to_owned();
        vek.structure = 1;
        vek.components.push((9, FIRMWARE.fmc));
        vek.hardware_id = Some(HARDWARE_ID.to_vec());
        Self {
            chip,
            report,
            vek,
            floor: FIRMWARE,
        }
    }

    fn evidence(&self) -> SnpEvidence {
        let mut evidence = self.chip.evidence_for(&self.report);
        evidence.vek = self.chip.issue_vek(&self.vek);
        evidence.intermediate = self.chip.issue_intermediate(&IntermediateTemplate {
            common_name: "SEV-Turin".to_owned(),
            ..IntermediateTemplate::default()
        });
        evidence
    }

    fn judge(&self, evidence: &SnpEvidence) -> Judged {
        let policy = SnpPolicy::new(
            vec![TestChip::default_measurement()],
            vec![self.report.chip_id],
            [(Product::Turin, self.floor)].into(),
        );
        let roots = [PinnedRoot::private(Product::Turin, self.chip.root_der())];
        verify_snp_report(evidence, &REPORT_DATA, &policy.unwrap(), &roots, NOW)
    }

    fn refused(change: impl FnOnce(&mut Self)) -> SnpRejection {
        let mut turin = Self::new();
        change(&mut turin);
        turin.judge(&turin.evidence()).unwrap_err()
    }
}

#[test]
fn the_turin_part_that_these_tests_change_is_accepted() {
    let turin = Turin::new();
    assert!(turin.judge(&turin.evidence()).is_ok());
}

#[test]
fn b05_a_report_of_version_2_is_not_a_turins() {
    // Without a processor identity the report's firmware versions have the older layout.
    let refused = Turin::refused(|turin| {
        (turin.report.version, turin.report.cpuid) = (2, [0; 3]);
    });
    let (reported, certificate) = ("version 2".to_owned(), Product::Turin);
    let mismatch = SnpRejection::ProductMismatch {
        reported,
        certificate,
    };
    assert_eq!(refused, mismatch);
}

#[test]
fn s2_reserved_bytes_of_firmware_versions() {
    for offset in [0x38, 0x180, 0x1e0, 0x1f0] {
        for byte in 4..7 {
            let turin = Turin::new();
            let mut evidence = turin.evidence();
            evidence.report[offset + byte] = 1;
            turin.chip.sign_bytes(&mut evidence.report);
            let refused = turin.judge(&evidence).unwrap_err();
            assert_eq!(refused, SnpRejection::ReservedNotZero(offset));
        }
    }
}

#[test]
fn b09_the_certificate_confirms_the_management_controllers_firmware() {
    let refused = Turin::refused(|turin| turin.vek.components[4].1 += 1);
    assert!(matches!(
        refused,
        SnpRejection::TcbMismatch {
            component: "fmc",
            ..
        }
    ));
    let refused = Turin::refused(|turin| turin.vek.components.truncate(4));
    assert_eq!(refused, SnpRejection::TcbExtensionMissing("fmc"));
    let refused = Turin::refused(|turin| turin.vek.structure = 0);
    let what = "has an unknown structure version";
    let role = Role::Vek;
    assert_eq!(refused, SnpRejection::CertificateMalformed { role, what });
}

#[test]
fn b10_each_component_has_a_floor() {
    let one_more = |change: fn(&mut TcbVersion)| Turin::refused(|turin| change(&mut turin.floor));
    type Raise = fn(&mut TcbVersion);
    let components: [(&str, Raise); 5] = [
        ("fmc", |floor| floor.fmc += 1),
        ("boot loader", |floor| floor.boot_loader += 1),
        ("tee", |floor| floor.tee += 1),
        ("snp", |floor| floor.snp += 1),
        ("microcode", |floor| floor.microcode += 1),
    ];
    for (name, raise) in components {
        assert!(
            matches!(
                one_more(raise),
                SnpRejection::TcbBelowFloor {
                    field: TcbField::Reported,
                    component,
                    ..
                } if component == name
            ),
            "{name}"
        );
    }
}

#[test]
fn b11_a_chip_id_is_eight_bytes_and_zeros() {
    let refused = Turin::refused(|turin| turin.report.chip_id = chip_id(1));
    assert_eq!(refused, SnpRejection::ChipIdMismatch);
    let refused =
        Turin::refused(|turin| turin.vek.hardware_id = Some(chip_id(0).as_bytes().to_vec()));
    assert_eq!(refused, SnpRejection::ChipIdMismatch);
}
