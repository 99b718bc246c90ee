//! What a look without lists shows, and what verdicts say of themselves: the words and values that people and programs go by.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

mod common;
mod support;

use casemate_attestation::azure::{AzureMachine, AzureQuote};
use casemate_attestation::collateral::Wanted;
use casemate_attestation::look::{self, Look};
use casemate_attestation::tdx::PckCa;
use casemate_attestation::test_chip::{ReportTemplate, TCB, TestChip};
use casemate_attestation::tpm::{
    AkTrust, Bank, EnrolledKey, HostedIn, KeyEvidence, QuoteSignature, TpmAnchors, TpmRejection,
    verify_tpm_quote,
};
use casemate_attestation::{
    Basis, Check, CheckResult, HardwareEvidence, Rejection, SnpEvidence, SnpRejection, TdxEvidence,
    TdxRejection, TpmBoot,
};

use common::{NOW, REPORT_DATA, channel, chip, context, roots, tdx};

const NOBODY: &str = "compared with nothing: nobody said what evidence was asked for with";

/// Which of Intel's collateral a platform of several packages needs, and one of a single package.
#[test]
fn the_collateral_that_a_quote_needs_is_of_its_own_authority() {
    for (name, expected, word) in [
        ("Intel SGX PCK Platform CA", PckCa::Platform, "platform"),
        ("Intel SGX PCK Processor CA", PckCa::Processor, "processor"),
    ] {
        let mut platform = tdx::Platform::new();
        platform.authority.name = name;
        let depth = tdx::Rank::Authority(0);
        platform.authority_der =
            tdx::certificate(&platform.root, &platform.authority, depth, Vec::new());
        let evidence = HardwareEvidence::Tdx(Box::new(TdxEvidence {
            quote: platform.signed_quote(),
            collateral: platform.collateral(),
            event_log: Vec::new(),
        }));
        let Wanted::Platform { ca, .. } = Wanted::by(&evidence).unwrap() else {
            panic!("Intel's");
        };
        assert_eq!(ca, expected);
        // Intel's service is asked by the same word that bundles have.
        assert_eq!(ca.as_str(), word);
        assert_eq!(serde_json::to_value(ca).unwrap(), word);
    }
}

/// What the chip's key did not sign: certificates, lists of revoked ones, vendors' documents, the organisation's lists.
#[test]
fn every_line_says_whether_the_hardwares_own_key_stands_behind_it() {
    let rest = |checks: &[Check], derived: &[&str]| {
        for check in checks {
            let expected = if derived.contains(&check.id) {
                Basis::Derived
            } else {
                Basis::HardwareProven
            };
            assert_eq!(check.basis, expected, "{}", check.id);
        }
        for id in derived {
            assert!(checks.iter().any(|check| check.id == *id), "{id}");
        }
    };
    let chip = chip();
    let verdict = common::judge(&chip, &chip.evidence_for(&chip.template())).unwrap();
    rest(verdict.checks(), &["S5", "S6", "S10", "S19"]);
    let verdict = tdx::Platform::new().judge().unwrap();
    let derived = ["T2", "T3", "T6", "T7", "T11", "T12", "T18", "T19"];
    rest(verdict.checks(), &derived);
    for (basis, word) in [
        (Basis::Asserted, "asserted"),
        (Basis::Derived, "derived"),
        (Basis::HardwareProven, "hardware-proven"),
    ] {
        assert_eq!(basis.as_str(), word);
        assert_eq!(serde_json::to_value(basis).unwrap(), word);
    }
}

/// The lines of a rule.
fn lines<'a>(look: &'a Look, id: &str) -> Vec<&'a Check> {
    look.checks.iter().filter(|check| check.id == id).collect()
}

/// Every rule of `own` is information that claims no list, and everything else that passed still does.
fn shows(look: &Look, rules: &[&str], own: &[&str]) {
    for rule in rules {
        let found = lines(look, rule);
        assert!(!found.is_empty(), "{rule}");
        for check in found {
            let compared = check.text.starts_with("compared with nothing: ");
            if own.contains(rule) {
                assert_eq!(check.result, CheckResult::Info, "{rule}: {}", check.text);
                assert!(!check.text.contains("fleet list"), "{}", check.text);
                assert!(!check.text.contains("reference values"), "{}", check.text);
            } else {
                assert!(!compared, "{rule}: {}", check.text);
            }
        }
        let passed = |check: &&Check| check.result == CheckResult::Pass;
        let passes = look.checks.iter().filter(|check| check.id == *rule);
        assert_eq!(
            passes.filter(passed).count() > 0,
            !own.contains(rule),
            "{rule}"
        );
    }
}

#[test]
fn a_look_at_a_report_claims_no_list_and_leaves_the_rest_as_it_is() {
    let chip = chip();
    let evidence = chip.evidence_for(&chip.template());
    let rules = ["S1", "S3", "S5", "S9", "S12", "S13", "S16", "S17", "S19"];
    let asked = look::snp(&evidence, Some(&REPORT_DATA), &roots(&chip), NOW).unwrap();
    shows(&asked, &rules, &["S17", "S19"]);
    let unasked = look::snp(&evidence, None, &roots(&chip), NOW).unwrap();
    shows(&unasked, &rules, &["S16", "S17", "S19"]);
    assert_eq!(lines(&unasked, "S16")[0].text, NOBODY);
    assert_eq!(unasked.checks.len(), asked.checks.len());
    // What was found is said, without the claim behind it.
    let [chip_line] = lines(&asked, "S19")[..] else {
        panic!("one line");
    };
    let id = chip.chip_id().to_string();
    assert!(chip_line.text.contains(&id[..16]), "{}", chip_line.text);
    assert_eq!(asked.measurement, TestChip::default_measurement());
    assert_eq!(asked.chip_id, Some(chip.chip_id()));
    let other = look::snp(&evidence, Some(&[1; 64]), &roots(&chip), NOW).unwrap_err();
    assert_eq!(other, SnpRejection::BindingMismatch.into());
}

#[test]
fn a_look_at_a_masked_chip_is_refused_by_the_rule_for_it() {
    let chip = chip();
    let masked = ReportTemplate {
        chip_id: casemate_attestation::ChipId::from_bytes([0; 64]),
        ..chip.template()
    };
    let evidence = chip.evidence_for(&masked);
    let refused = look::snp(&evidence, None, &roots(&chip), NOW).unwrap_err();
    assert_eq!(refused.rule(), "S9");
}

#[test]
fn a_look_at_a_trust_domain_claims_no_list_and_leaves_the_rest_as_it_is() {
    let platform = tdx::Platform::new();
    let evidence = TdxEvidence {
        quote: platform.signed_quote(),
        collateral: platform.collateral(),
        event_log: Vec::new(),
    };
    let rules: Vec<String> = (1..=19).map(|number| format!("T{number}")).collect();
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    let root = platform.trusted();
    let asked = look::tdx(&evidence, Some(&tdx::REPORT_DATA), &root, tdx::NOW).unwrap();
    shows(&asked, &rules, &["T12", "T16", "T18"]);
    let unasked = look::tdx(&evidence, None, &root, tdx::NOW).unwrap();
    shows(&unasked, &rules, &["T12", "T16", "T17", "T18"]);
    assert_eq!(lines(&unasked, "T17")[0].text, NOBODY);
    let other = look::tdx(&evidence, Some(&[1; 64]), &root, tdx::NOW).unwrap_err();
    assert_eq!(other, TdxRejection::BindingMismatch.into());
}

fn boot(case: &support::Case) -> TpmBoot {
    TpmBoot {
        quote: case.evidence(),
        event_log: Vec::new(),
    }
}

#[test]
fn a_look_at_a_tpms_quote_expects_what_came_along() {
    let case = support::case();
    let rules = ["P1", "P2", "P3", "P4", "P5"];
    let asked = look::tpm(&boot(&case), Some(support::NONCE), support::NOW).unwrap();
    shows(&asked, &rules, &["P4", "P5"]);
    let unasked = look::tpm(&boot(&case), None, support::NOW).unwrap();
    shows(&unasked, &rules, &["P3", "P4", "P5"]);

    // Also of a bank that nobody should rely on.
    let sha1 = support::case_of(support::ak(), Bank::Sha1, support::values(Bank::Sha1));
    shows(
        &look::tpm(&boot(&sha1), None, support::NOW).unwrap(),
        &rules,
        &["P3", "P4", "P5"],
    );

    let mut short = support::case();
    short.registers.get_mut(&3).unwrap().pop();
    let refused = look::tpm(&boot(&short), None, support::NOW).unwrap_err();
    let length = TpmRejection::PcrLength {
        register: 3,
        found: 31,
        bank: Bank::Sha256,
    };
    assert_eq!(refused, length.into());
    short.registers.remove(&3);
    let refused = look::tpm(&boot(&short), None, support::NOW).unwrap_err();
    assert_eq!(refused, TpmRejection::PcrMissing(3).into());
}

#[test]
fn what_was_recorded_says_the_same_as_what_a_session_was_told() {
    let chip = chip();
    let verifier = common::verifier(&chip);
    let report_data = *channel().binding(&context()).as_bytes();
    let template = ReportTemplate {
        report_data,
        ..chip.template()
    };
    let hardware = HardwareEvidence::Snp(chip.evidence_for(&template));
    let binding = channel().binding(&context());
    let verified = verifier
        .verify(&common::envelope(&chip, &channel()), &binding, NOW)
        .unwrap();
    assert_eq!(verified.tcb(), Some(TCB));
    let recorded = verifier
        .verify_recorded(&hardware, &report_data, NOW)
        .unwrap();
    assert!(recorded.checks().len() > 10);
    assert_eq!(recorded.checks(), verified.checks());
    assert_eq!(recorded.chip_id(), verified.chip_id());
    assert_eq!(recorded.platform(), verified.platform());
}

#[test]
fn expectations_count_from_their_first_second() {
    let from = NOW.minus(86_400);
    let chip = TestChip::from_seed(&common::SEED, from);
    let verifier = common::verifier(&chip);
    let evidence = common::envelope(&chip, &channel());
    let binding = channel().binding(&context());
    verifier.verify(&evidence, &binding, from).unwrap();
    let refused = verifier.verify(&evidence, &binding, from.minus(1));
    assert!(matches!(
        refused.unwrap_err(),
        Rejection::ExpectationsNotInForce { .. }
    ));
}

#[test]
fn a_tpms_verdict_has_the_registers_quoted_and_says_who_vouches() {
    let case = support::case();
    let verdict = case.judge().unwrap();
    assert_eq!(verdict.registers(), &support::values(Bank::Sha256));
    assert_eq!(verdict.trust(), AkTrust::Enrolled);
    for (trust, words) in [
        (AkTrust::Certified, "certified under a pinned root"),
        (AkTrust::NamedByHardware, "named by the hardware report"),
        (AkTrust::Enrolled, "enrolled by the organisation"),
    ] {
        assert_eq!(trust.as_str(), words);
    }
}

#[test]
fn a_keys_attributes_are_read_when_it_is_enrolled_or_when_it_quotes_and_else_somebodys_word() {
    const WORD: &str = "that it is a restricted signing key is the word of whoever enrolled it";
    let key = support::p256();
    let area = key.area().bytes(key);
    let spki = support::certificates::spki(key);
    let by_area = key.enrolled(HostedIn::Machine);
    let by_key = EnrolledKey::from_spki(&spki, HostedIn::Machine).unwrap();
    let mut case = support::case_of(key, Bank::Sha256, support::values(Bank::Sha256));
    for (enrolled, evidence, seen) in [
        (&by_area, KeyEvidence::PublicArea(area.clone()), true),
        (&by_area, KeyEvidence::Spki(spki.clone()), true),
        (&by_key, KeyEvidence::PublicArea(area), true),
        (&by_key, KeyEvidence::Spki(spki), false),
    ] {
        case.evidence = Some(evidence);
        let anchors = TpmAnchors::new(Vec::new(), vec![enrolled.clone()]);
        let quote = case.evidence();
        let policy = support::policy();
        let verdict =
            verify_tpm_quote(&quote, support::NONCE, &policy, &anchors, support::NOW).unwrap();
        let told = verdict.checks().iter().any(|check| check.text == WORD);
        assert_eq!(told, !seen);
    }
}

#[test]
fn a_recorded_azure_machine_has_evidence_where_its_tpm_quoted() {
    let quote = AzureQuote {
        message: vec![1],
        signature: QuoteSignature::Tpmt(vec![2]),
        registers: support::values(Bank::Sha256),
    };
    let mut machine = AzureMachine {
        hardware: HardwareEvidence::Snp(SnpEvidence::default()),
        hcl: vec![3],
        quote: Some(quote),
    };
    let evidence = machine.evidence().unwrap();
    assert_eq!((evidence.hcl, evidence.message), (vec![3], vec![1]));
    assert_eq!(evidence.registers, support::values(Bank::Sha256));
    machine.quote = None;
    assert!(machine.evidence().is_none());
}
