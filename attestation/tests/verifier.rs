//! The one verifier over every platform: signed documents become expectations, an envelope becomes a verdict, and evidence
//! counts no longer than the first document behind it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

mod common;
#[path = "verifier/later.rs"]
mod later;
mod support;

use casemate_attestation::eventlog::{LogKind, replay};
use casemate_attestation::tpm::{
    Bank, HostedIn, TpmRejection, registers_digest, session_nonce, tpm_id,
};
use casemate_attestation::{
    Basis, Binding, CheckResult, ChipId, Direction, Envelope, EnvelopeParts, Expectations,
    ExpectationsError, FleetChip, FleetList, FleetTpm, HardwareEvidence, Platform, ReferenceValues,
    Rejection, SnpRejection, TdxEvidence, TdxMachine, TdxReference, TdxRejection, TpmBoot,
    TpmMachine, TpmReference, TrustAnchors, UnixTime, Verdict, VerifiedEvidence, Verifier,
};

use common::{NOW, channel, context, tdx, verified};

fn envelope(platform: Platform, hardware: HardwareEvidence) -> Envelope {
    Envelope::build(EnvelopeParts {
        platform,
        direction: Direction::Server,
        hardware,
        context: context(),
        batch: None,
        devices: None,
    })
    .unwrap()
}

fn binding() -> Binding {
    channel().binding(&context())
}

fn machine(platform: Platform, chip_id: ChipId) -> FleetChip {
    FleetChip {
        platform,
        chip_id,
        names: vec!["localhost".to_owned()],
        label: "rack 1".to_owned(),
        tpm: None,
        devices: Vec::new(),
    }
}

fn expectations(
    platform: Platform,
    values: &ReferenceValues,
    chips: Vec<FleetChip>,
) -> Result<Expectations, ExpectationsError> {
    Expectations::new(platform, &verified(values), &verified(&FleetList { chips }))
}

// TDX

fn tdx_reference() -> TdxReference {
    let reference = tdx::reference();
    let section = serde_json::json!({
        "machines": [], "collateral_floor": tdx::EVALUATION, "mr_seam": [tdx::measured(0x11)],
    });
    TdxReference {
        machines: vec![TdxMachine {
            mrtd: reference.mrtd,
            rtmrs: reference.rtmrs,
            label: "test".to_owned(),
            until: None,
        }],
        ..serde_json::from_value(section).unwrap()
    }
}

fn tdx_expectations(
    section: TdxReference,
    chips: Vec<FleetChip>,
) -> Result<Expectations, ExpectationsError> {
    let values = ReferenceValues {
        tdx: Some(section),
        ..ReferenceValues::default()
    };
    expectations(Platform::Tdx, &values, chips)
}

/// A platform whose quote is over the binding, with the evidence after `change`.
fn judge_tdx(
    change: impl FnOnce(&mut tdx::Platform),
    evidence: impl FnOnce(&mut TdxEvidence),
    section: TdxReference,
) -> Result<VerifiedEvidence, Rejection> {
    let mut platform = tdx::Platform::new();
    platform
        .quote
        .body(tdx::REPORT_DATA_AT, binding().as_bytes());
    change(&mut platform);
    let chips = vec![machine(Platform::Tdx, tdx::platform_id())];
    let expectations = tdx_expectations(section, chips).unwrap();
    let anchors = TrustAnchors::private_tdx(platform.trusted());
    let verifier = Verifier::new(anchors, expectations).unwrap();
    let mut hardware = TdxEvidence {
        quote: platform.signed_quote(),
        collateral: platform.collateral(),
        event_log: Vec::new(),
    };
    evidence(&mut hardware);
    let hardware = HardwareEvidence::Tdx(Box::new(hardware));
    // Through the wire, as it comes.
    let bytes = envelope(Platform::Tdx, hardware).as_bytes().to_vec();
    verifier.verify(&Envelope::parse(&bytes).unwrap(), &binding(), NOW)
}

#[test]
fn a_trust_domain_is_verified_through_documents_and_envelope() {
    let evidence = judge_tdx(|_| (), |_| (), tdx_reference()).unwrap();
    assert_eq!(evidence.platform(), Platform::Tdx);
    assert!(evidence.confidential());
    assert_eq!(evidence.measurement(), tdx::measured(0x22));
    assert_eq!(evidence.chip_id(), tdx::platform_id());
    assert!(matches!(evidence.verdict(), Verdict::Tdx(_)));
    let rules: Vec<&str> = evidence.checks().iter().map(|check| check.id).collect();
    for rule in 1..=19 {
        assert!(rules.contains(&format!("T{rule}").as_str()), "T{rule}");
    }
    assert_eq!(rules.last(), Some(&"L1"), "the log's absence is said");
}

#[test]
fn a_trust_domain_of_another_session_machine_or_measurement_is_refused() {
    let refused = |change: fn(&mut tdx::Platform)| {
        judge_tdx(change, |_| (), tdx_reference())
            .unwrap_err()
            .rule()
    };
    let replayed =
        |platform: &mut tdx::Platform| platform.quote.body(tdx::REPORT_DATA_AT, &[7; 64]);
    assert_eq!(refused(replayed), "T17");
    let measured = |platform: &mut tdx::Platform| platform.quote.body(tdx::MRTD, &[7; 48]);
    assert_eq!(refused(measured), "T16");
    let mut stranger = tdx_reference();
    stranger.collateral_floor += 1;
    let old = judge_tdx(|_| (), |_| (), stranger).unwrap_err();
    assert_eq!(old.rule(), "T12");
    let chips = vec![machine(Platform::Tdx, ChipId::from_bytes([3; 64]))];
    let platform = tdx::Platform::new();
    let verifier = Verifier::new(
        TrustAnchors::private_tdx(platform.trusted()),
        tdx_expectations(tdx_reference(), chips).unwrap(),
    )
    .unwrap();
    let hardware = HardwareEvidence::Tdx(Box::new(TdxEvidence {
        quote: platform.signed_quote(),
        collateral: platform.collateral(),
        event_log: Vec::new(),
    }));
    let refused = verifier.verify_recorded(&hardware, &tdx::REPORT_DATA, NOW);
    assert_eq!(refused.unwrap_err().rule(), "T18");
}

#[test]
fn production_roots_refuse_a_private_platform() {
    let platform = tdx::Platform::new();
    let chips = vec![machine(Platform::Tdx, tdx::platform_id())];
    let verifier = Verifier::new(
        TrustAnchors::production(Platform::Tdx).unwrap(),
        tdx_expectations(tdx_reference(), chips).unwrap(),
    )
    .unwrap();
    let hardware = HardwareEvidence::Tdx(Box::new(TdxEvidence {
        quote: platform.signed_quote(),
        collateral: platform.collateral(),
        event_log: Vec::new(),
    }));
    let refused = verifier.verify_recorded(&hardware, &tdx::REPORT_DATA, NOW);
    assert_eq!(refused.unwrap_err().rule(), "T2");
}

#[test]
fn a_trust_domains_log_must_replay() {
    let log = support::log::domain();
    let registers = replay(&log, LogKind::Ccel).unwrap();
    let registers = registers.registers(Bank::Sha384).unwrap().clone();
    let mut section = tdx_reference();
    let measured = |platform: &mut tdx::Platform| {
        for (register, value) in &registers {
            let at = tdx::RTMR0 + 48 * usize::from(register.number());
            platform.quote.body(at, value);
        }
    };
    for rtmr in &mut section.machines[0].rtmrs {
        *rtmr = tdx::exactly(0);
    }
    for (register, value) in &registers {
        let value = value.as_slice().try_into().unwrap();
        section.machines[0].rtmrs[usize::from(register.number())] =
            casemate_attestation::tdx::Expected::OneOf(vec![
                casemate_attestation::Measurement::from_bytes(value),
            ]);
    }
    let zeros = |platform: &mut tdx::Platform| {
        platform.quote.body(tdx::RTMR0, &[0; 192]);
        measured(platform);
    };
    let verified = judge_tdx(zeros, |sent| sent.event_log = log.clone(), section.clone()).unwrap();
    let of = |rule| {
        verified
            .checks()
            .iter()
            .filter(move |check| check.id == rule)
    };
    assert_eq!(of("L2").count(), 1);
    assert_eq!(of("L3").count(), 1);
    let mut other = log.clone();
    other.extend(log.iter().skip(log.len() / 2));
    let refused = judge_tdx(zeros, |sent| sent.event_log = other, section).unwrap_err();
    assert!(matches!(refused, Rejection::EventLog(_)), "{refused}");
}

#[test]
fn evidence_counts_no_longer_than_its_documents() {
    let until = judge_tdx(|_| (), |_| (), tdx_reference()).unwrap().until();
    // Signed documents of these tests live a day; Intel's three weeks.
    assert_eq!(until, NOW.plus(86_400));
    let platform = tdx::Platform::new();
    let verdict = platform.judge().unwrap();
    assert_eq!(verdict.collateral().until.plus(1), tdx::DUE);
    let chip = common::chip();
    let verdict = common::judge(&chip, &chip.evidence_for(&chip.template())).unwrap();
    let at = |now: UnixTime| {
        casemate_attestation::snp::verify_snp_report(
            &chip.evidence_for(&chip.template()),
            &common::REPORT_DATA,
            &common::policy(&chip),
            &common::roots(&chip),
            now,
        )
    };
    assert!(at(verdict.until().minus(1)).is_ok());
    assert_eq!(at(verdict.until()).unwrap_err().rule(), "S10");
}

// TPM

fn tpm_reference(machines: &[&[(u8, u8)]]) -> TpmReference {
    let machine = |registers: &&[(u8, u8)]| TpmMachine {
        registers: registers
            .iter()
            .map(|(number, byte)| (*number, vec![*byte; 32]))
            .collect(),
        label: "test".to_owned(),
        until: None,
    };
    TpmReference {
        bank: Bank::Sha256,
        machines: machines.iter().map(machine).collect(),
    }
}

/// Registers 0 to 7 as the test TPM has them.
const BOOTED: [(u8, u8); 8] = [
    (0, 0x10),
    (1, 0x11),
    (2, 0x12),
    (3, 0x13),
    (4, 0x14),
    (5, 0x15),
    (6, 0x16),
    (7, 0x17),
];

fn tpm_machine(key: &support::TestKey, hosted: HostedIn) -> FleetChip {
    FleetChip {
        tpm: Some(FleetTpm {
            attestation_key: key.area().bytes(key),
            hosted,
        }),
        ..machine(Platform::Tpm, tpm_id(b"endorsement key"))
    }
}

fn tpm_expectations(
    section: TpmReference,
    chips: Vec<FleetChip>,
) -> Result<Expectations, ExpectationsError> {
    let values = ReferenceValues {
        tpm: Some(section),
        ..ReferenceValues::default()
    };
    expectations(Platform::Tpm, &values, chips)
}

fn judge_tpm(
    change: impl FnOnce(&mut support::Case),
    machines: &[&[(u8, u8)]],
    chip: FleetChip,
) -> Result<VerifiedEvidence, Rejection> {
    let expectations = tpm_expectations(tpm_reference(machines), vec![chip]).unwrap();
    let anchors = TrustAnchors::production(Platform::Tpm).unwrap();
    let verifier = Verifier::new(anchors, expectations).unwrap();
    let mut case = support::case();
    case.message.extra_data = session_nonce(binding().as_bytes()).to_vec();
    change(&mut case);
    let boot = TpmBoot {
        quote: case.evidence(),
        event_log: Vec::new(),
    };
    let sent = envelope(Platform::Tpm, HardwareEvidence::Tpm(Box::new(boot)));
    verifier.verify(&Envelope::parse(sent.as_bytes()).unwrap(), &binding(), NOW)
}

fn enrolled() -> FleetChip {
    tpm_machine(support::ak(), HostedIn::Machine)
}

#[test]
fn a_tpm_is_verified_and_never_called_confidential() {
    let evidence = judge_tpm(|_| (), &[&BOOTED], enrolled()).unwrap();
    assert_eq!(evidence.platform(), Platform::Tpm);
    assert!(!evidence.confidential());
    assert_eq!(evidence.chip_id(), enrolled().chip_id);
    let registers = support::values(Bank::Sha256);
    assert_eq!(
        evidence.measurement(),
        registers_digest(Bank::Sha256, &registers)
    );
    assert_eq!(evidence.until(), NOW.plus(86_400));
    let basis = |rule| {
        let mut checks = evidence.checks().iter();
        checks.find(|check| check.id == rule).unwrap().basis
    };
    assert_eq!(basis("P4"), Basis::HardwareProven);
    assert_eq!(basis("P5"), Basis::Derived);
}

#[test]
fn what_a_hypervisor_or_a_program_quotes_is_only_asserted() {
    for (hosted, words) in [
        (HostedIn::CloudHypervisor, "in the cloud's hypervisor"),
        (HostedIn::Software, "a program"),
    ] {
        let chip = tpm_machine(support::ak(), hosted);
        let evidence = judge_tpm(|_| (), &[&BOOTED], chip).unwrap();
        let quoted = |check: &&casemate_attestation::Check| check.id.starts_with('P');
        let of_quote: Vec<_> = evidence.checks().iter().filter(quoted).collect();
        assert!(of_quote.len() >= 6);
        assert!(of_quote.iter().all(|check| check.basis == Basis::Asserted));
        assert!(of_quote.iter().any(|check| check.text.contains(words)));
    }
}

#[test]
fn one_machine_must_match_as_a_whole() {
    let mut other = BOOTED;
    other[4].1 = 0x44;
    assert!(judge_tpm(|_| (), &[&other, &BOOTED], enrolled()).is_ok());
    assert!(judge_tpm(|_| (), &[&BOOTED, &other], enrolled()).is_ok());
    let mut third = BOOTED;
    third[7].1 = 0x77;
    // Register 4 of one and register 7 of the other would do if lists were joined.
    let mixed = judge_tpm(|_| (), &[&other, &third], enrolled()).unwrap_err();
    assert_eq!(mixed, TpmRejection::PcrUnexpected(7).into());
}

#[test]
fn a_tpm_of_another_session_or_another_key_is_refused() {
    let old = judge_tpm(
        |case| case.message.extra_data = session_nonce(&[0; 64]).to_vec(),
        &[&BOOTED],
        enrolled(),
    );
    assert_eq!(old.unwrap_err(), TpmRejection::NonceMismatch.into());
    let raw = judge_tpm(
        |case| case.message.extra_data = binding().as_bytes()[..32].to_vec(),
        &[&BOOTED],
        enrolled(),
    );
    assert_eq!(raw.unwrap_err(), TpmRejection::NonceMismatch.into());
    let stranger = judge_tpm(
        |case| case.key = support::other_ak(),
        &[&BOOTED],
        enrolled(),
    );
    assert_eq!(stranger.unwrap_err(), TpmRejection::KeyNotEnrolled.into());
}

#[test]
fn b03_empty_means_none_on_every_platform() {
    let none = tpm_expectations(tpm_reference(&[]), vec![enrolled()]);
    assert_eq!(none.unwrap_err(), ExpectationsError::NoMachines);
    let none = tpm_expectations(tpm_reference(&[&BOOTED]), Vec::new());
    assert_eq!(none.unwrap_err(), ExpectationsError::NoMachines);
    let uneven = tpm_expectations(tpm_reference(&[&BOOTED, &BOOTED[1..]]), vec![enrolled()]);
    assert_eq!(uneven.unwrap_err(), ExpectationsError::OtherRegisters);
    let empty = tpm_expectations(tpm_reference(&[&[]]), vec![enrolled()]);
    assert!(matches!(empty, Err(ExpectationsError::Tpm(_))));
    let sha1 = TpmReference {
        bank: Bank::Sha1,
        ..tpm_reference(&[&BOOTED])
    };
    let sha1 = tpm_expectations(sha1, vec![enrolled()]);
    assert!(matches!(sha1, Err(ExpectationsError::Tpm(_))));
    let section = || tdx_reference();
    let none = tdx_expectations(section(), Vec::new());
    assert!(matches!(none, Err(ExpectationsError::Tdx(_))));
    let mut bare = section();
    bare.machines.clear();
    let chips = || vec![machine(Platform::Tdx, tdx::platform_id())];
    assert!(matches!(
        tdx_expectations(bare, chips()),
        Err(ExpectationsError::Tdx(_))
    ));
    let mut floorless = section();
    floorless.collateral_floor = 0;
    assert!(tdx_expectations(floorless, chips()).is_err());
}

#[test]
fn a_fleet_entry_has_what_its_platform_needs_and_no_more() {
    let wrong = |chip: FleetChip| match tpm_expectations(tpm_reference(&[&BOOTED]), vec![chip]) {
        Err(ExpectationsError::Machine { label, what }) => {
            assert_eq!(label, "rack 1");
            what
        }
        other => panic!("{other:?}"),
    };
    let mut keyless = enrolled();
    keyless.tpm = None;
    assert!(wrong(keyless).contains("no attestation key"));
    let mut damaged = enrolled();
    damaged.tpm.as_mut().unwrap().attestation_key.pop();
    assert!(wrong(damaged).contains("not a restricted signing key"));
    let mut masked = enrolled();
    masked.chip_id = ChipId::from_bytes([0; 64]);
    assert!(wrong(masked).contains("zeros"));
    let stray = FleetChip {
        tpm: enrolled().tpm,
        ..machine(Platform::Tdx, tdx::platform_id())
    };
    assert!(matches!(
        tdx_expectations(tdx_reference(), vec![stray]),
        Err(ExpectationsError::Machine { .. })
    ));
}

#[test]
fn evidence_of_another_kind_is_refused_by_name() {
    let anchors = TrustAnchors::production(Platform::Tpm).unwrap();
    let expectations = tpm_expectations(tpm_reference(&[&BOOTED]), vec![enrolled()]).unwrap();
    let verifier = Verifier::new(anchors, expectations).unwrap();
    let chip = common::chip();
    let snp = HardwareEvidence::Snp(chip.evidence_for(&chip.template()));
    let refused = verifier.verify_recorded(&snp, &[0; 64], NOW).unwrap_err();
    let (platform, kind) = (Platform::Tpm, "snp");
    assert_eq!(refused, Rejection::OtherKind { platform, kind });
    assert_eq!(refused.rule(), "P-32");
}

#[test]
fn ids_and_digests_of_a_tpm_are_what_they_are_documented_to_be() {
    // Values of tpm.md, computed by another program: python3 hashlib.
    assert!(session_nonce(&[0; 64]) != session_nonce(&[1; 64]));
    let one = [(4, vec![1; 32])].into();
    let other = [(5, vec![1; 32])].into();
    assert_ne!(
        registers_digest(Bank::Sha256, &one),
        registers_digest(Bank::Sha256, &other)
    );
    assert_ne!(
        registers_digest(Bank::Sha256, &one),
        registers_digest(Bank::Sha384, &one)
    );
    assert_eq!(hex::encode(session_nonce(&[0; 64])), NONCE_OF_ZEROS);
    assert_eq!(
        registers_digest(Bank::Sha256, &one).to_string(),
        DIGEST_OF_ONE
    );
    assert_eq!(tpm_id(b"key").to_string(), ID_OF_KEY);
}

const NONCE_OF_ZEROS: &str = "eed04dd9129c4533b42ad44538422e0cf3c1879bbcbdadeb0a2dee633d9aaf44";
const DIGEST_OF_ONE: &str = "21b407c3afa426d82962f31cf7f1c038b40307b57af051c6878d0afb8d3ff2c7ba9ed268acb1e6e39452a561b328159e";
const ID_OF_KEY: &str = "22ee05df5dc56b9f9aec8d574629ae3c0228a1bdad0d25e8240dde0db58071ee129d3db3772208ef43d8a0585ce06282308bf4329d54498dff2a6364d71145ae";

#[test]
fn overrides_show_on_the_verdict() {
    let chip = common::chip();
    let evidence = common::judge(&chip, &chip.evidence_for(&chip.template())).unwrap();
    let info = |check: &&casemate_attestation::Check| check.result == CheckResult::Info;
    assert_eq!(evidence.checks().iter().filter(info).count(), 0);
    let mut section = tdx_reference();
    section.mr_seam = casemate_attestation::tdx::Expected::NotJudged;
    section.machines[0].rtmrs[3] = casemate_attestation::tdx::Expected::NotJudged;
    let loose = judge_tdx(|_| (), |_| (), section).unwrap();
    let strict = judge_tdx(|_| (), |_| (), tdx_reference()).unwrap();
    let count = |evidence: &VerifiedEvidence| evidence.checks().iter().filter(info).count();
    assert!(count(&loose) > count(&strict));
    let refused: TdxRejection = tdx::Platform::new()
        .judge_at(&tdx::policy(), tdx::DUE)
        .unwrap_err();
    assert_eq!(refused.rule(), "T3");
}
