//! Every TDX vector of the shared evidence gets the expected verdict, for the expected reason, under Intel's root.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use casemate_attestation::CheckResult;
use casemate_attestation::tdx::{
    Expected, TcbStatus, TdxCertificate, TdxCollateral, TdxCrl, TdxDocument, TdxMeasurement,
    TdxPolicy, TdxQuote, TdxRejection, TdxRoot, TdxTcb, TdxVerdict, verify_tdx_quote,
};
use casemate_attestation::{ChipId, Measurement, UnixTime};
use serde_json::Value;

use common::shared;

type Judged = Result<TdxVerdict, TdxRejection>;

/// One quote with one set of collateral at one time.
struct Case {
    name: String,
    quote: Vec<u8>,
    collateral: TdxCollateral,
    now: UnixTime,
    /// The quote's fields, and what verification must yield.
    fields: Value,
    expected: Value,
    advisories: Vec<String>,
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Folders with an `expected.json`, sorted.
fn folders(parent: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(parent)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("expected.json").is_file())
        .collect();
    found.sort();
    found
}

impl Case {
    fn read(folder: &Path, quote: &str, collateral: &str, now: u64) -> Self {
        let bytes = fs::read(folder.join(collateral)).unwrap();
        let info = text(&serde_json::from_slice(&bytes).unwrap(), "tcb_info").to_owned();
        let ids = info.match_indices("INTEL-SA-");
        let advisories: BTreeSet<_> = ids.map(|(at, _)| info[at..at + 14].to_owned()).collect();
        Self {
            name: folder.file_name().unwrap().to_string_lossy().into_owned(),
            quote: fs::read(folder.join(quote)).unwrap(),
            collateral: TdxCollateral::from_json(&bytes).unwrap(),
            now: UnixTime::from_secs(now),
            fields: Value::Null,
            expected: Value::Null,
            advisories: advisories.into_iter().collect(),
        }
    }

    /// The cases of a genuine quote. `fields` is what its `expected.json` says about the quote.
    fn of_quote(folder: &Path, fields: &Value) -> Vec<Self> {
        let cases = fields.get("cases").and_then(Value::as_array).unwrap();
        let read = |case: &Value| {
            let now = case.get("verify_at_unix").and_then(Value::as_u64).unwrap();
            let mut read = Self::read(folder, text(fields, "quote"), text(case, "collateral"), now);
            read.fields = fields.clone();
            read.expected = case.clone();
            read
        };
        cases.iter().map(read).collect()
    }

    fn report_data(&self) -> [u8; 64] {
        TdxQuote::parse(&self.quote).map_or([0; 64], |quote| quote.report_data())
    }

    /// The strictest policy for this very TD on these platforms. What the host may name is what it named.
    fn policy_for(&self, quote: &TdxQuote, platforms: Vec<ChipId>) -> TdxPolicy {
        let exactly = |found: Measurement| Expected::OneOf(vec![found]);
        let measurement = TdxMeasurement {
            mrtd: quote.mrtd(),
            rtmrs: quote.rtmrs().map(exactly),
        };
        TdxPolicy::new(vec![measurement], platforms, 15)
            .unwrap()
            .with_mr_config_id(exactly(quote.mr_config_id()))
            .with_mr_seam(exactly(quote.mr_seam()))
    }

    /// The platform of a quote whose every other rule holds, as a refusal names it.
    fn platform(&self, quote: &TdxQuote) -> Option<ChipId> {
        let unknown = self.lenient(self.policy_for(quote, vec![ChipId::from_bytes([0xff; 64])]));
        match self.judge(&unknown) {
            Err(TdxRejection::PlatformUnknown(id)) => Some(id),
            _ => None,
        }
    }

    fn strict(&self) -> TdxPolicy {
        let quote = TdxQuote::parse(&self.quote).unwrap();
        let platform = self.platform(&quote);
        let platform = platform.unwrap_or(ChipId::from_bytes([0xff; 64]));
        self.policy_for(&quote, vec![platform])
    }

    /// Accepts firmware that is out of date, and every advisory that this collateral knows.
    fn lenient(&self, policy: TdxPolicy) -> TdxPolicy {
        let ids: Vec<_> = self.advisories.iter().map(String::as_str).collect();
        policy.accepting(TcbStatus::OutOfDate, &ids).unwrap()
    }

    fn judge(&self, policy: &TdxPolicy) -> Judged {
        verify_tdx_quote(
            &self.quote,
            &self.collateral,
            &self.report_data(),
            policy,
            &TdxRoot::intel(),
            self.now,
        )
    }
}

fn line(case: &Case, judged: &Judged) -> String {
    match judged {
        Ok(verdict) => format!("{:32} accept  {}", case.name, verdict.status()),
        Err(rejection) => format!("{:32} {:6}  {rejection}", case.name, rejection.rule()),
    }
}

/// The folders of genuine quotes that were there when this was written. A new one is judged by its `expected.json`.
const GENUINE: usize = 19;

#[test]
fn genuine_quotes_get_the_expected_verdict_under_both_policies() {
    let Some(folder) = shared("tdx") else { return };
    let mut seen = 0;
    for folder in folders(&folder) {
        seen += 1;
        for case in Case::of_quote(&folder, &json(&folder.join("expected.json"))) {
            genuine(&case);
        }
    }
    assert!(seen >= GENUINE, "only {seen} quotes");
}

#[test]
fn genuine_quotes_of_azure_get_the_expected_verdict() {
    let Some(folder) = shared("azure-vtpm") else {
        return;
    };
    let mut seen = 0;
    for folder in folders(&folder) {
        let expected = json(&folder.join("expected.json"));
        let Some(fields) = expected.get("tdx") else {
            continue;
        };
        seen += 1;
        for case in Case::of_quote(&folder, fields) {
            genuine(&case);
        }
    }
    assert!(seen >= 3, "only {seen} quotes");
}

/// What must come out of a genuine quote, by what its `expected.json` says.
fn genuine(case: &Case) {
    let (strict, outcome) = (case.strict(), &case.expected["expected"]);
    let lenient = case.lenient(case.strict());
    let judged = case.judge(&strict);
    println!("{}", line(case, &judged));
    fields_agree(case);
    match (text(outcome, "result"), text(outcome, "tcb_status")) {
        ("verified", "UpToDate") => accepted(case, &judged.unwrap(), TcbStatus::UpToDate),
        ("verified", "OutOfDate") => {
            let Err(TdxRejection::StatusNotAccepted { status, .. }) = judged else {
                panic!("{}: {judged:?}", case.name);
            };
            assert_eq!(status, TcbStatus::OutOfDate);
            accepted(case, &case.judge(&lenient).unwrap(), TcbStatus::OutOfDate);
            advisories_are_judged(case);
        }
        ("error", _) => {
            // Whatever the firmware is: the reason lies elsewhere.
            let rejection = case.judge(&lenient).unwrap_err();
            println!("{:32} {:6}  {rejection}", "", rejection.rule());
            let error = text(outcome, "error");
            assert_eq!(rejection, refusal_of(case, error), "{}: {error}", case.name);
        }
        other => panic!("{}: no expectation for {other:?}", case.name),
    }
}

/// Our refusal for the reasons that `expected.json` gives for genuine quotes.
fn refusal_of(case: &Case, error: &str) -> TdxRejection {
    match error {
        "No matching TCB level found" => TdxRejection::NoTcbLevel(TdxTcb::Launch),
        "SEPT_VE_DISABLE is not enabled" => TdxRejection::SeptVeDisableOff,
        "Debug mode is enabled" => TdxRejection::DebugPermitted,
        "Invalid MR service TD" => {
            let quote = TdxQuote::parse(&case.quote).unwrap();
            let digest = quote.mr_service_td().unwrap();
            // Where policy names this service TD, nothing but the fleet list is left to refuse.
            let named = |platform| {
                let policy = case.policy_for(&quote, vec![platform]);
                case.judge(&case.lenient(policy.accepting_service_td(digest).unwrap()))
            };
            let Err(TdxRejection::PlatformUnknown(id)) = named(ChipId::from_bytes([0xff; 64]))
            else {
                panic!("{}", case.name);
            };
            assert!(named(id).is_ok());
            TdxRejection::ServiceTd(digest)
        }
        other => panic!("{}: no expectation for {other}", case.name),
    }
}

fn accepted(case: &Case, verdict: &TdxVerdict, status: TcbStatus) {
    let outcome = &case.expected["expected"];
    assert_eq!(verdict.status(), status, "{}", case.name);
    let wanted: BTreeSet<_> = outcome["advisories"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        verdict
            .advisories()
            .iter()
            .cloned()
            .collect::<BTreeSet<_>>(),
        wanted
    );
    assert_eq!(
        Some(u64::from(verdict.collateral().evaluation)),
        case.expected["tcb_evaluation_data_number"]
            .as_u64()
            .or(Some(u64::from(verdict.collateral().evaluation))),
        "{}",
        case.name
    );
    assert_eq!(
        hex::encode(verdict.platform().fmspc()),
        text(&case.fields, "fmspc")
    );
    let rules: Vec<_> = verdict.checks().iter().map(|check| check.id).collect();
    for rule in (1..=19).map(|number| format!("T{number}")) {
        assert!(
            rules.contains(&rule.as_str()),
            "{}: no line for {rule}",
            case.name
        );
    }
    let info = |id| {
        let mut lines = verdict.checks().iter();
        lines.any(|check| check.id == id && check.result == CheckResult::Info)
    };
    assert_eq!(
        info("T11"),
        status != TcbStatus::UpToDate || !wanted.is_empty()
    );
    // One second outside of what every piece says, nothing is accepted any more.
    let mut late = Case {
        now: verdict.collateral().until.plus(1),
        ..clone(case)
    };
    assert!(late.judge(&case.lenient(case.strict())).is_err());
    late.now = verdict.collateral().issued.minus(1);
    let rule = late.judge(&case.lenient(case.strict())).unwrap_err().rule();
    assert!(matches!(rule, "T3" | "T6"), "{}: {rule}", case.name);
    floors(case, verdict);
}

fn clone(case: &Case) -> Case {
    Case {
        name: case.name.clone(),
        quote: case.quote.clone(),
        collateral: case.collateral.clone(),
        fields: case.fields.clone(),
        expected: case.expected.clone(),
        advisories: case.advisories.clone(),
        now: case.now,
    }
}

/// Rules T10 and T12 at the floor and one above it.
fn floors(case: &Case, verdict: &TdxVerdict) {
    let quote = verdict.quote();
    let (evaluation, svn) = (verdict.collateral().evaluation, quote.tee_tcb_svn());
    let measurement = TdxMeasurement {
        mrtd: quote.mrtd(),
        rtmrs: [const { Expected::NotJudged }; 4],
    };
    let policy = |floor: u32, svn: [u8; 16]| {
        let platforms = vec![verdict.platform_id()];
        let policy = TdxPolicy::new(vec![measurement.clone()], platforms, floor).unwrap();
        case.lenient(policy.with_tee_tcb_svn_floor(svn))
            .with_mr_config_id(Expected::NotJudged)
    };
    assert!(
        case.judge(&policy(evaluation, svn)).is_ok(),
        "{}",
        case.name
    );
    let rejection = case.judge(&policy(evaluation + 1, svn)).unwrap_err();
    assert!(
        matches!(rejection, TdxRejection::CollateralBelowFloor { found, floor, .. }
            if found == evaluation && floor == evaluation + 1),
        "{}: {rejection}",
        case.name
    );
    for index in [0, 1, 2, 15] {
        let mut above = svn;
        above[index] += 1;
        let rejection = case.judge(&policy(evaluation, above)).unwrap_err();
        assert!(
            matches!(
                rejection,
                TdxRejection::TeeTcbSvnBelowFloor {
                    tcb: TdxTcb::Launch,
                    ..
                }
            ),
            "{}: {rejection}",
            case.name
        );
    }
}

/// Rule T11: a status is accepted with the advisories that policy names, and with no other.
fn advisories_are_judged(case: &Case) {
    let wanted = case.expected["expected"]["advisories"].as_array().unwrap();
    let ids: Vec<_> = wanted.iter().map(|id| id.as_str().unwrap()).collect();
    let accepting = |ids: &[&str]| {
        let policy = case.strict().accepting(TcbStatus::OutOfDate, ids).unwrap();
        case.judge(&policy)
    };
    assert!(accepting(&ids).is_ok(), "{}", case.name);
    for (index, missing) in ids.iter().enumerate() {
        let mut fewer = ids.clone();
        fewer.remove(index);
        assert_eq!(
            accepting(&fewer).unwrap_err(),
            TdxRejection::AdvisoryNotAccepted {
                status: TcbStatus::OutOfDate,
                advisory: (*missing).to_owned(),
            }
        );
    }
}

fn fields_agree(case: &Case) {
    let (quote, fields) = (TdxQuote::parse(&case.quote).unwrap(), &case.fields);
    let hexed = |bytes: &[u8]| hex::encode(bytes);
    let number = |key: &str| fields.get(key).and_then(Value::as_u64);
    assert_eq!(Some(u64::from(quote.version())), number("quote_version"));
    assert_eq!(
        Some(quote.trailing_zeros() as u64),
        number("trailing_bytes")
    );
    for (key, found) in [
        ("tee_tcb_svn", hexed(&quote.tee_tcb_svn())),
        ("mr_seam", quote.mr_seam().to_string()),
        ("mr_signer_seam", quote.mr_signer_seam().to_string()),
        (
            "seam_attributes",
            hexed(&quote.seam_attributes().to_le_bytes()),
        ),
        ("td_attributes", hexed(&quote.td_attributes().to_le_bytes())),
        ("xfam", hexed(&quote.xfam().to_le_bytes())),
        ("mr_td", quote.mrtd().to_string()),
        ("mr_config_id", quote.mr_config_id().to_string()),
        ("mr_owner", quote.mr_owner().to_string()),
        ("mr_owner_config", quote.mr_owner_config().to_string()),
        ("report_data", hexed(&quote.report_data())),
    ] {
        assert_eq!(found, text(fields, key), "{} {key}", case.name);
    }
    let rtmrs = fields["rtmr"].as_array().unwrap();
    for (found, wanted) in quote.rtmrs().iter().zip(rtmrs) {
        assert_eq!(Some(found.to_string().as_str()), wanted.as_str());
    }
    let optional = |key: &str| fields.get(key).and_then(Value::as_str).map(str::to_owned);
    assert_eq!(
        quote.current_tee_tcb_svn().map(|svn| hexed(&svn)),
        optional("tee_tcb_svn2")
    );
    let service = quote.mr_service_td().map(|digest| digest.to_string());
    assert_eq!(service, optional("mr_service_td"));
}

/// The negative folders that were there when this was written. A new one has no expectation below and fails the test.
const NEGATIVE: usize = 31;

#[test]
fn negative_vectors_are_refused_for_the_reason_named_and_their_counterpart_is_not() {
    let Some(parent) = shared("tdx-negative") else {
        return;
    };
    let genuine = parent.parent().unwrap().join("tdx/v4-phala");
    let cases = Case::of_quote(&genuine, &json(&genuine.join("expected.json")));
    let counterpart = &cases[0];
    let policy = counterpart.strict();
    assert!(counterpart.judge(&policy).is_ok());
    let mut seen = 0;
    for folder in folders(&parent) {
        seen += 1;
        let expected = json(&folder.join("expected.json"));
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let now = expected["verify_at_unix"].as_u64().unwrap();
        let (quote, collateral) = (text(&expected, "quote"), text(&expected, "collateral"));
        let case = Case::read(&folder, quote, collateral, now);
        let judged = case.judge(&policy);
        println!("{}", line(&case, &judged));
        if name == "trailing-zeros" {
            // Our choice: zeros behind a quote are a driver's buffer.
            let verdict = judged.unwrap();
            assert_eq!(verdict.quote().trailing_zeros(), 512);
            assert_eq!(verdict.quote().bytes(), counterpart.quote);
            continue;
        }
        assert_eq!(text(&expected, "verdict"), "reject", "{name}");
        let rejection = judged.unwrap_err();
        assert_eq!(rejection, negative(&name), "{name}");
        let rules = rules_for(text(&expected, "must_fail_at"));
        assert!(rules.contains(&rejection.rule()), "{name}: {rejection}");
    }
    assert!(seen >= NEGATIVE, "only {seen} vectors");
}

/// The rules that stand for the words of `must_fail_at`.
fn rules_for(words: &str) -> &'static [&'static str] {
    match words {
        "parse" | "header" | "header or parse" => &["T1"],
        "PCK chain" | "PCK chain root" => &["T2"],
        "CRL required" | "CRL signature" | "CRL freshness" | "revocation status unknown" => &["T3"],
        "QE report signature" | "QE report binding" => &["T4"],
        "quote signature" => &["T5"],
        "TCB info signature"
        | "TCB info id"
        | "TCB signing chain"
        | "QE identity signature"
        | "QE identity id" => &["T6"],
        // Lists are collateral, and the first piece that is out of date is named.
        "collateral freshness" => &["T3", "T6"],
        "FMSPC match" => &["T7"],
        other => panic!("no rules for {other}"),
    }
}

fn negative(name: &str) -> TdxRejection {
    use TdxRejection as R;
    match name {
        "attestation-key-flip" => R::QeReportData,
        "body-report-data-flip"
        | "body-rtmr3-flip"
        | "body-td-attributes-debug"
        | "quote-signature-flip" => R::QuoteSignature,
        "certification-type-5-outer" => R::CertificationType {
            place: "outer",
            found: 5,
            expected: 6,
        },
        "empty" => R::QuoteTruncated("header"),
        "empty-crls" => R::CrlMissing(TdxCrl::Root),
        "header-key-type-3" => R::AttestationKeyType(3),
        "header-qe-vendor" => R::QeVendor("929a7233f79c4ca9940a0db3957f0607".to_owned()),
        "header-tee-type-sgx" => R::TeeType(0),
        "header-version-3" => R::QuoteVersion(3),
        "header-version-5" => R::BodyType(0x0106),
        "pck-crl-of-processor-ca" => R::CrlIssuer(TdxCrl::Pck),
        "pck-crl-signature-flip" => R::CrlSignature(TdxCrl::Pck),
        "pck-leaf-signature-flip" => R::ChainSignature {
            certificate: TdxCertificate::Pck,
        },
        "preproduction-root-v4" => R::ChainSignature {
            certificate: TdxCertificate::PckAuthority,
        },
        "qe-identity-edited" => R::DocumentSignature(TdxDocument::QeIdentity),
        "qe-identity-sgx" => R::DocumentId {
            document: TdxDocument::QeIdentity,
            found: "QE".to_owned(),
        },
        "qe-report-flip" => R::QeReportSignature,
        "root-crl-stale" => R::CrlStale {
            list: TdxCrl::Root,
            due: UnixTime::from_secs(1_712_053_371),
            now: UnixTime::from_secs(1_751_624_191),
        },
        "signature-length-too-large" | "truncated-signature-data" => {
            R::QuoteTruncated("signature data")
        }
        "tcb-info-edited" => R::DocumentSignature(TdxDocument::TcbInfo),
        "tcb-info-forged-issuer" => R::ChainSignature {
            certificate: TdxCertificate::TcbInfoSigner,
        },
        "tcb-info-issuer-is-pck" => R::ChainMalformed {
            leaf: TdxCertificate::TcbInfoSigner,
            what: "has too many certificates",
        },
        "tcb-info-other-fmspc" => R::Fmspc {
            tcb_info: "90C06F000000".to_owned(),
            certificate: "b0c06f000000".to_owned(),
        },
        "tcb-info-sgx" => R::DocumentId {
            document: TdxDocument::TcbInfo,
            found: "SGX".to_owned(),
        },
        "time-after-next-update" => R::CrlStale {
            list: TdxCrl::Pck,
            due: UnixTime::from_secs(1_752_919_235),
            now: UnixTime::from_secs(1_752_920_164),
        },
        "time-epoch" => R::CrlNotYetValid {
            list: TdxCrl::Root,
            from: UnixTime::from_secs(1_742_469_717),
            now: UnixTime::from_secs(0),
        },
        other => panic!("no expectation for {other}"),
    }
}

#[test]
fn b16_tdreport_offered_as_a_quote_is_refused() {
    let Some(folder) = shared("azure-vtpm") else {
        return;
    };
    for name in ["tdx-first-generation", "tdx-second-generation"] {
        let blob = fs::read(folder.join(name).join("hcl_report.bin")).unwrap();
        for length in [1024, 1184] {
            let refused = TdxQuote::parse(&blob[32..32 + length]).unwrap_err();
            assert_eq!(refused, TdxRejection::QuoteVersion(0x81));
        }
        // The blob around it is no quote either.
        assert!(TdxQuote::parse(&blob).is_err());
    }
}
