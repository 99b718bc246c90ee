//! Every refusal of the TDX verifier is provoked, by one change to evidence that is otherwise accepted.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

#[path = "tdx_refuse/body.rs"]
mod body;
#[path = "tdx_refuse/certificates.rs"]
mod certificates;
mod common;
#[path = "tdx_refuse/der.rs"]
mod der;
#[path = "tdx_refuse/documents.rs"]
mod documents;
#[path = "tdx_refuse/known.rs"]
mod known;
#[path = "tdx_refuse/levels.rs"]
mod levels;
#[path = "tdx_refuse/quote.rs"]
mod quote;

use casemate_attestation::CheckResult;
use casemate_attestation::tdx::{KnownSignatures, TdxPolicy, TdxRejection, TdxRoot, TdxVerdict};

use common::tdx::*;

type Judged = Result<TdxVerdict, TdxRejection>;

/// Judges the platform's evidence after `change`: by itself, and by somebody who accepted it before the change and remembers
/// its signatures. Both say the same.
fn after(change: impl FnOnce(&mut Platform)) -> Judged {
    let mut platform = Platform::new();
    let known = KnownSignatures::new();
    platform.judge_knowing(&known, &policy(), NOW).unwrap();
    assert!(!known.is_empty());
    change(&mut platform);
    let judged = platform.judge();
    let again = platform.judge_knowing(&known, &policy(), NOW);
    let checks = |judged: &Judged| {
        judged
            .as_ref()
            .map(|verdict| verdict.checks().to_vec())
            .map_err(TdxRejection::to_string)
    };
    assert_eq!(checks(&again), checks(&judged));
    judged
}

/// The refusal of the platform's evidence after `change`.
fn refusal(change: impl FnOnce(&mut Platform)) -> TdxRejection {
    after(change).unwrap_err()
}

/// Judges the platform's evidence under the policy after `change`.
fn under(change: impl FnOnce(TdxPolicy) -> TdxPolicy) -> Judged {
    Platform::new().judge_under(&change(policy()))
}

/// The lines of a verdict that a person should read, by rule.
fn remarks(verdict: &TdxVerdict) -> Vec<&'static str> {
    let told = verdict.checks().iter();
    let told = told.filter(|check| check.result == CheckResult::Info);
    told.map(|check| check.id).collect()
}

#[test]
fn the_evidence_that_these_tests_change_is_accepted() {
    let verdict = Platform::new().judge().unwrap();
    let passed: Vec<_> = verdict
        .checks()
        .iter()
        .filter(|check| check.result == CheckResult::Pass)
        .map(|check| check.id.to_owned())
        .collect();
    let rules: Vec<_> = (1..=19).map(|number| format!("T{number}")).collect();
    assert_eq!(passed, rules);
    // The platform says that it can grow and that its keys are kept.
    assert_eq!(remarks(&verdict), ["T18", "T18"]);
    assert_eq!(verdict.platform_id(), platform_id());
    assert_eq!(verdict.measurement(), measured(0x22));
    assert_eq!(verdict.rtmrs(), [0x30, 0x31, 0x32, 0x33].map(measured));
    assert_eq!(verdict.status().to_string(), "UpToDate");
    assert_eq!(verdict.advisories(), [""; 0]);
    let window = verdict.collateral();
    assert_eq!((window.issued, window.until), (ISSUED, DUE.minus(1)));
    assert_eq!(window.evaluation, EVALUATION);
    assert_eq!(verdict.platform().ppid(), &PPID);
    assert_eq!(verdict.platform().instance(), Some(&INSTANCE));
    assert_eq!(verdict.platform().sgx_components(), &[5; 16]);
    assert_eq!(verdict.platform().pce_svn(), 13);
}

#[test]
fn intels_root_refuses_the_platform_that_is_not_one() {
    let platform = Platform::new();
    let (quote, collateral) = (platform.signed_quote(), platform.collateral());
    let refused = casemate_attestation::tdx::verify_tdx_quote(
        &quote,
        &collateral,
        &REPORT_DATA,
        &policy(),
        &TdxRoot::intel(),
        NOW,
    )
    .unwrap_err();
    assert_eq!(refused.rule(), "T2");
}

#[test]
fn every_refusal_has_a_rule_and_a_message_in_lower_case_words() {
    let refusals = [
        refusal(|platform| platform.quote.version = 3),
        refusal(|platform| platform.quote.body(TD_ATTRIBUTES, &[1])),
        refusal(|platform| platform.tcb_info["fmspc"] = "000000000000".into()),
    ];
    for refusal in refusals {
        let message = refusal.to_string();
        assert!(refusal.rule().starts_with('T'));
        assert!(
            !message.ends_with('.') && !message.contains('\n'),
            "{message}"
        );
    }
}

/// What is provoked here, as text.
const PROVOKED: [&str; 7] = [
    include_str!("tdx_refuse.rs"),
    include_str!("tdx_refuse/body.rs"),
    include_str!("tdx_refuse/certificates.rs"),
    include_str!("tdx_refuse/der.rs"),
    include_str!("tdx_refuse/documents.rs"),
    include_str!("tdx_refuse/levels.rs"),
    include_str!("tdx_refuse/quote.rs"),
];

#[test]
fn every_variant_is_provoked_by_name() {
    let source = include_str!("../src/tdx/rejection.rs");
    let (_, variants) = source.split_once("pub enum TdxRejection {").unwrap();
    let (variants, _) = variants.split_once("\n}").unwrap();
    let names: Vec<&str> = variants
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| line.starts_with(|first: char| first.is_ascii_uppercase()))
        .map(|line| line.split(['(', ' ', ',']).next().unwrap())
        .collect();
    assert!(names.len() > 60, "{names:?}");
    for name in names {
        let used = format!("R::{name}");
        let followed = |text: &str| {
            let uses = text.match_indices(&used);
            uses.into_iter().any(|(at, _)| {
                let next = text[at + used.len()..].chars().next();
                next.is_none_or(|next| !next.is_alphanumeric())
            })
        };
        assert!(
            PROVOKED.iter().any(|text| followed(text)),
            "{name} is not provoked"
        );
    }
}

#[test]
fn every_rule_is_written_down_with_its_cases_and_tested() {
    let page = include_str!("../../docs/formats/evidence-tdx.md");
    for number in 1..=19 {
        let rule = format!("\n- **T{number}** ");
        let row = format!("\n| T{number} | ");
        let asserted = format!("\"T{number}\"");
        assert!(page.contains(&rule), "{rule}");
        assert!(page.contains(&row), "{row}");
        assert!(
            PROVOKED.iter().any(|text| text.contains(&asserted)),
            "{asserted}"
        );
    }
}
