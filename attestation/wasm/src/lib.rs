//! One question in, one answer out: judges evidence by the strictest policy that fits it, the same compiled for a machine and for
//! `wasm32-unknown-unknown`. Bytes come and go one by one, so that no pointer crosses.

use std::cell::RefCell;
use std::collections::BTreeMap;

use casemate_attestation::snp::{CrlPolicy, PinnedRoot, SnpReport, verify_snp_report};
use casemate_attestation::tdx::{
    Expected, TcbStatus, TdxCollateral, TdxMeasurement, TdxPolicy, TdxQuote, TdxRejection, TdxRoot,
    verify_tdx_quote,
};
use casemate_attestation::test_chip::TestChip;
use casemate_attestation::{
    ChipId, Measurement, Product, SnpEvidence, SnpPolicy, TcbVersion, UnixTime,
};
use serde_json::Value;

thread_local! {
    static INPUT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static OUTPUT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Appends a byte to the question.
#[unsafe(no_mangle)]
pub extern "C" fn put(byte: u32) {
    INPUT.with_borrow_mut(|input| input.push(byte.to_le_bytes()[0]));
}

/// Answers the question and forgets it. Returns how many bytes the answer has.
#[unsafe(no_mangle)]
pub extern "C" fn judge() -> u32 {
    let answer = answer(&INPUT.take());
    let length = u32::try_from(answer.len()).unwrap_or(0);
    OUTPUT.set(answer.into_bytes());
    length
}

/// A byte of the answer.
#[unsafe(no_mangle)]
pub extern "C" fn take(index: u32) -> u32 {
    let index = usize::try_from(index).unwrap_or(usize::MAX);
    OUTPUT.with_borrow(|output| output.get(index).copied().map_or(0, u32::from))
}

/// What is said about a question in JSON: `accept` with all checks, or `reject` with the reason.
pub fn answer(question: &[u8]) -> String {
    let judged = serde_json::from_slice(question)
        .map_err(said)
        .and_then(|question: Value| match text(&question, "kind") {
            "snp" => snp(&question),
            "tdx" => tdx(&question),
            "chip" => chip(),
            other => Err(format!("no such kind: {other}")),
        });
    match judged {
        Ok(checks) => format!("accept\n{checks}"),
        Err(reason) => format!("reject {reason}"),
    }
}

fn text<'a>(question: &'a Value, key: &str) -> &'a str {
    question.get(key).and_then(Value::as_str).unwrap_or("")
}

fn bytes(question: &Value, key: &str) -> Vec<u8> {
    hex::decode(text(question, key)).unwrap_or_default()
}

fn now(question: &Value) -> UnixTime {
    UnixTime::from_secs(question.get("now").and_then(Value::as_u64).unwrap_or(0))
}

fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn lines(checks: &[casemate_attestation::verdict::Check]) -> String {
    let lines: Vec<_> = checks
        .iter()
        .map(|check| format!("{} {} {}", check.result.as_str(), check.id, check.text))
        .collect();
    lines.join("\n")
}

fn judge_snp(
    evidence: &SnpEvidence,
    roots: &[PinnedRoot],
    now: UnixTime,
) -> Result<String, String> {
    let report = SnpReport::parse(&evidence.report).map_err(said)?;
    let products = [Product::Milan, Product::Genoa, Product::Turin];
    let floors = BTreeMap::from(products.map(|product| (product, TcbVersion::default())));
    let chips = vec![report.chip_id(), ChipId::from_bytes([1; 64])];
    let policy = SnpPolicy::new(vec![report.measurement()], chips, floors);
    let policy = policy
        .map_err(said)?
        .with_crl(CrlPolicy::MissingIsShown)
        .allowing_despite_broken_root(Product::Milan)
        .tolerating_missing_alias_check();
    let verdict = verify_snp_report(evidence, &report.report_data(), &policy, roots, now);
    verdict.map(|verdict| lines(verdict.checks())).map_err(said)
}

fn snp(question: &Value) -> Result<String, String> {
    let evidence = SnpEvidence {
        report: bytes(question, "report"),
        vek: bytes(question, "vek"),
        intermediate: bytes(question, "intermediate"),
        crl: bytes(question, "crl"),
    };
    judge_snp(&evidence, &PinnedRoot::amd(), now(question))
}

/// A chip is made, signs and is verified.
fn chip() -> Result<String, String> {
    let now = UnixTime::from_secs(1_790_000_000);
    let chip = TestChip::from_seed(&[7; 32], now);
    let roots = [PinnedRoot::private(Product::Genoa, chip.root_der())];
    judge_snp(&chip.evidence_for(&chip.template()), &roots, now)
}

fn tdx(question: &Value) -> Result<String, String> {
    let quote = bytes(question, "quote");
    let collateral = TdxCollateral::from_json(text(question, "collateral").as_bytes());
    let collateral = collateral.map_err(said)?;
    let parsed = TdxQuote::parse(&quote).map_err(said)?;
    let judge = |platform: ChipId| {
        let exactly = |found: Measurement| Expected::OneOf(vec![found]);
        let measurement = TdxMeasurement {
            mrtd: parsed.mrtd(),
            rtmrs: parsed.rtmrs().map(exactly),
        };
        let policy = TdxPolicy::new(vec![measurement], vec![platform], 15)
            .and_then(|policy| {
                policy
                    .with_mr_config_id(exactly(parsed.mr_config_id()))
                    .with_mr_seam(exactly(parsed.mr_seam()))
                    .accepting(TcbStatus::OutOfDate, &[])
            })
            .map_err(said)?;
        let (data, root) = (parsed.report_data(), TdxRoot::intel());
        Ok::<_, String>(verify_tdx_quote(
            &quote,
            &collateral,
            &data,
            &policy,
            &root,
            now(question),
        ))
    };
    // A refusal names the platform; then it is enrolled.
    let verdict = match judge(ChipId::from_bytes([0xff; 64]))? {
        Err(TdxRejection::PlatformUnknown(id)) => judge(id)?,
        other => other,
    };
    verdict.map(|verdict| lines(verdict.checks())).map_err(said)
}
