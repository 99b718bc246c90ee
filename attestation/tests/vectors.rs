//! Every vector of the shared evidence gets the expected verdict, for the expected reason.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use casemate_attestation::snp::{CrlPolicy, PinnedRoot, SnpReport, SnpVerdict, verify_snp_report};
use casemate_attestation::{
    ChipId, Measurement, Product, SnpEvidence, SnpPolicy, SnpRejection, TcbVersion, UnixTime,
};
use serde_json::Value;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use common::shared;

const CSP: &str = "CN=cc-us-east-2.amazonaws.com";

/// A vector's folder with what its `expected.json` says.
struct Vector {
    name: String,
    expected: Value,
    evidence: SnpEvidence,
    now: UnixTime,
}

impl Vector {
    fn all(folder: &Path) -> Vec<Self> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        names.sort();
        names
            .into_iter()
            .filter(|path| path.join("expected.json").is_file())
            .map(|path| Self::read(&path))
            .collect()
    }

    fn read(path: &Path) -> Self {
        let expected: Value =
            serde_json::from_slice(&fs::read(path.join("expected.json")).unwrap()).unwrap();
        let file = |key: &str| match expected.get(key).and_then(Value::as_str) {
            Some(name) => fs::read(path.join(name)).unwrap(),
            None => Vec::new(),
        };
        let evidence = SnpEvidence {
            report: file("report"),
            vek: file("vek"),
            intermediate: file("intermediate"),
            crl: file("crl"),
        };
        let now = expected
            .get("verify_at")
            .and_then(Value::as_str)
            .map_or(0, seconds);
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        Self {
            name,
            expected,
            evidence,
            now: UnixTime::from_secs(now),
        }
    }

    fn report_data(&self) -> [u8; 64] {
        let bytes = self.evidence.report.get(0x50..0x90).unwrap_or(&[0; 64]);
        bytes.try_into().unwrap()
    }

    /// The policy that a verdict without conditions is about: this machine is enrolled, nothing else is forgiven but
    /// what no machine of those days could have: a revocation list, an alias check, an unbroken Milan.
    fn policy(&self) -> SnpPolicy {
        let report = &self.evidence.report;
        let measurement = report
            .get(0x90..0xc0)
            .unwrap_or(&[0; 48])
            .try_into()
            .unwrap();
        let chip: [u8; 64] = report
            .get(0x1a0..0x1e0)
            .unwrap_or(&[1; 64])
            .try_into()
            .unwrap();
        let chip = if chip == [0; 64] { [1; 64] } else { chip };
        let products = [Product::Milan, Product::Genoa, Product::Turin];
        let floors = BTreeMap::from(products.map(|product| (product, TcbVersion::default())));
        SnpPolicy::new(
            vec![Measurement::from_bytes(measurement)],
            vec![ChipId::from_bytes(chip)],
            floors,
        )
        .unwrap()
        .with_crl(CrlPolicy::MissingIsShown)
        .allowing_despite_broken_root(Product::Milan)
        .tolerating_missing_alias_check()
    }

    fn judge(&self, policy: &SnpPolicy, roots: &[PinnedRoot]) -> Result<SnpVerdict, SnpRejection> {
        verify_snp_report(&self.evidence, &self.report_data(), policy, roots, self.now)
    }
}

/// `2026-03-07T02:05:07Z` in seconds.
fn seconds(text: &str) -> u64 {
    let number = |range: std::ops::Range<usize>| text.get(range).unwrap().parse::<u64>().unwrap();
    let (year, month, day) = (number(0..4), number(5..7), number(8..10));
    let (year, month) = if month < 3 {
        (year - 1, month + 9)
    } else {
        (year, month - 3)
    };
    let days =
        365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    days * 86_400 + number(11..13) * 3600 + number(14..16) * 60 + number(17..19)
}

fn line(name: &str, result: &Result<SnpVerdict, SnpRejection>) -> String {
    match result {
        Ok(verdict) => format!(
            "{name:42} accept  {} {}",
            verdict.product(),
            verdict.reported_tcb()
        ),
        Err(rejection) => format!("{name:42} {:6}  {rejection}", rejection.rule()),
    }
}

#[test]
fn genuine_vectors_get_the_expected_verdict_under_amds_roots() {
    let Some(folder) = shared("snp") else { return };
    let mut seen = 0;
    for vector in Vector::all(&folder) {
        let (name, roots) = (vector.name.as_str(), PinnedRoot::amd());
        let result = vector.judge(&vector.policy(), &roots);
        println!("{}", line(name, &result));
        let rule = result.as_ref().err().map(SnpRejection::rule);
        seen += 1;
        match name {
            "milan-v2-debug" => assert_eq!(result.unwrap_err(), SnpRejection::DebugPermitted),
            "milan-v2-vlek-aws-vmpl1" => provider_key(&vector, &roots),
            "milan-v5-gcp-vmpl1" => {
                assert_eq!(
                    result.unwrap_err(),
                    SnpRejection::Vmpl {
                        found: 1,
                        expected: 0
                    }
                );
                assert!(
                    vector
                        .judge(&vector.policy().with_vmpl(1).unwrap(), &roots)
                        .is_ok()
                );
            }
            "milan-v4-gcp-no-vek" => assert_eq!(
                SnpReport::parse(&vector.evidence.report).unwrap().version(),
                4
            ),
            "neg-truncated" => assert_eq!(result.unwrap_err(), SnpRejection::ReportLength(1183)),
            "neg-version-3-claimed" => {
                assert_eq!(result.unwrap_err(), SnpRejection::VersionWithoutCpuid(3))
            }
            "neg-reserved-0x4c" => {
                assert_eq!(result.unwrap_err(), SnpRejection::ReservedNotZero(0x4c))
            }
            "neg-tcb-reserved-byte" => {
                assert_eq!(result.unwrap_err(), SnpRejection::ReservedNotZero(0x38))
            }
            "neg-signature-padding" => {
                assert_eq!(result.unwrap_err(), SnpRejection::ReservedNotZero(0x2dc))
            }
            "neg-signature-reserved" => {
                assert_eq!(result.unwrap_err(), SnpRejection::ReservedNotZero(0x49f))
            }
            // The foreign certificate is not of the key that signed; `snp::chain` shows that it would not chain either.
            "neg-debug-bit-cleared"
            | "neg-measurement-flip"
            | "neg-signature-flip"
            | "neg-vmpl-rewritten"
            | "neg-vek-of-other-chip"
            | "neg-vek-not-from-amd" => {
                assert_eq!(result.unwrap_err(), SnpRejection::ReportSignature, "{name}")
            }
            "neg-turin-under-milan-root" => assert_eq!(rule, Some("S5"), "{name}"),
            "neg-vlek-expired" | "neg-vlek-under-ask" => {
                let policy = vector.policy().allowing_vlek_of(CSP).with_vmpl(1).unwrap();
                let rejection = vector.judge(&policy, &roots).unwrap_err();
                assert_eq!(
                    rejection.rule(),
                    if name == "neg-vlek-expired" {
                        "S6"
                    } else {
                        "S5"
                    },
                    "{name}"
                );
            }
            other if other.starts_with("neg-") => panic!("no expectation for {other}"),
            _ => fields_agree(
                &vector,
                &result.unwrap_or_else(|rejection| panic!("{name}: {rejection}")),
            ),
        }
    }
    assert!(seen >= 31, "only {seen} vectors");
}

/// Rule S4: a provider's key counts where policy names the provider, and only there.
fn provider_key(vector: &Vector, roots: &[PinnedRoot]) {
    let refused = |policy: SnpPolicy| vector.judge(&policy, roots).unwrap_err();
    let csp_id = CSP.to_owned();
    assert_eq!(
        refused(vector.policy()),
        SnpRejection::VlekNotAllowed {
            csp_id: csp_id.clone()
        }
    );
    assert_eq!(
        refused(vector.policy().allowing_vlek_of("CN=other")),
        SnpRejection::VlekNotAllowed { csp_id }
    );
    assert_eq!(
        refused(vector.policy().allowing_vlek_of(CSP)),
        SnpRejection::Vmpl {
            found: 1,
            expected: 0
        }
    );
    let allowed = vector.policy().allowing_vlek_of(CSP).with_vmpl(1).unwrap();
    fields_agree(vector, &vector.judge(&allowed, roots).unwrap());
}

fn fields_agree(vector: &Vector, verdict: &SnpVerdict) {
    let (report, expected) = (verdict.report(), &vector.expected);
    let text = |key: &str| {
        expected
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let number = |key: &str| expected.get(key).and_then(Value::as_u64).unwrap();
    assert_eq!(report.as_bytes()[..], vector.evidence.report[..]);
    assert_eq!(u64::from(report.version()), number("report_version"));
    assert_eq!(u64::from(report.vmpl()), number("vmpl"));
    assert_eq!(u64::from(report.guest_svn()), number("guest_svn"));
    assert_eq!(format!("{:#x}", report.policy()), text("policy"));
    assert_eq!(
        format!("{:#x}", report.platform_info()),
        text("platform_info")
    );
    assert_eq!(report.measurement().to_string(), text("measurement"));
    assert_eq!(report.chip_id().to_string(), text("chip_id"));
    assert_eq!(hex::encode(report.report_data()), text("report_data"));
    assert_eq!(hex::encode(report.host_data()), text("host_data"));
    assert_eq!(verdict.product().as_str(), text("product"));
    for (key, tcb) in [
        ("current_tcb", report.current_tcb()),
        ("reported_tcb", report.reported_tcb()),
        ("committed_tcb", report.committed_tcb()),
        ("launch_tcb", report.launch_tcb()),
    ] {
        let part = |name: &str| u8::try_from(expected[key][name].as_u64().unwrap_or(0)).unwrap();
        let (boot_loader, tee, snp) = (part("bl"), part("tee"), part("snp"));
        let wanted = TcbVersion {
            boot_loader,
            tee,
            snp,
            microcode: part("ucode"),
            fmc: part("fmc"),
        };
        assert_eq!(tcb, wanted, "{} {key}", vector.name);
    }
}

#[test]
fn synthetic_vectors_get_the_expected_verdict_under_their_root_and_none_under_amds() {
    let Some(folder) = shared("snp-synthetic") else {
        return;
    };
    let root = fs::read(folder.join("pki/ark.der")).unwrap();
    let roots = [PinnedRoot::private(Product::Milan, &root)];
    let mut seen = 0;
    for vector in Vector::all(&folder) {
        let name = vector.name.as_str();
        let result = vector.judge(&vector.policy(), &roots);
        println!("{}", line(name, &result));
        let under_amd = vector.judge(&vector.policy(), &PinnedRoot::amd());
        assert!(
            under_amd.is_err(),
            "{name} is accepted under the roots of AMD"
        );
        seen += 1;
        let expected = vector
            .expected
            .get("verdict_with_synthetic_root")
            .and_then(Value::as_str)
            .unwrap();
        let Some((rule, policy)) = synthetic(name, &vector) else {
            assert_eq!(expected, "accept", "{name}");
            assert!(result.is_ok(), "{name}: {result:?}");
            continue;
        };
        assert_ne!(expected, "accept", "{name}");
        assert_eq!(
            vector.judge(&policy, &roots).unwrap_err().rule(),
            rule,
            "{name}"
        );
    }
    assert!(seen >= 23, "only {seen} vectors");
}

/// The rule that refuses a synthetic vector, and under which policy it is looked at.
fn synthetic(name: &str, vector: &Vector) -> Option<(&'static str, SnpPolicy)> {
    let policy = vector.policy();
    let rule = match name {
        "version-1" => "S1",
        "sig-algo-0" => "S3",
        "signing-key-vlek" => "S4",
        "vek-expired" => "S6",
        "cpuid-genoa" => "S7",
        "reported-tcb-above-vek" => "S8",
        "chip-id-mismatch" | "chip-id-masked" => "S9",
        "crl-ask-revoked" | "crl-stale" => "S10",
        "committed-below-reported" => "S11",
        "debug-allowed" | "migrate-ma-allowed" | "policy-bit17-clear" => "S12",
        "host-requested" | "vmpl1" => "S13",
        "smt-off-policy" => "S14",
        "no-alias-check" => {
            assert!(vector.judge(&policy, &synthetic_root()).is_ok());
            return Some(("S14", policy.requiring_platform_info(1 << 5)));
        }
        "mask-chip-key" => "S15",
        "baseline" | "crl-empty" | "v2" | "v5" => return None,
        other => panic!("no expectation for {other}"),
    };
    Some((rule, policy))
}

fn synthetic_root() -> [PinnedRoot; 1] {
    let folder = shared("snp-synthetic").unwrap();
    [PinnedRoot::private(
        Product::Milan,
        &fs::read(folder.join("pki/ark.der")).unwrap(),
    )]
}

#[test]
fn certificates_of_the_synthetic_set_that_no_vector_uses_are_refused_too() {
    let Some(folder) = shared("snp-synthetic") else {
        return;
    };
    let vector = Vector::read(&folder.join("baseline"));
    let with = |change: &dyn Fn(&mut SnpEvidence)| {
        let mut evidence = vector.evidence.clone();
        change(&mut evidence);
        let data = vector.report_data();
        verify_snp_report(
            &evidence,
            &data,
            &vector.policy(),
            &synthetic_root(),
            vector.now,
        )
        .unwrap_err()
        .rule()
    };
    let pki = |name: &str| fs::read(folder.join("pki").join(name)).unwrap();
    assert_eq!(
        with(&|evidence| evidence.crl = pki("crl-wrong-signer.der")),
        "S10"
    );
    assert_eq!(
        with(&|evidence| evidence.vek = pki("vcek-no-hwid.der")),
        "S9"
    );
    assert_eq!(
        with(&|evidence| evidence.vek = pki("vcek-issued-by-ark.der")),
        "S5"
    );
    assert_eq!(
        with(&|evidence| evidence.intermediate = pki("ark.der")),
        "S5"
    );
    assert_eq!(
        with(&|evidence| evidence.intermediate = pki("vcek.der")),
        "S5"
    );
}

#[test]
fn genuine_revocation_lists_are_read_and_dated() {
    let Some(folder) = shared("snp") else { return };
    for (name, crl, due) in [
        ("genoa-v5-oak", "genoa_crl_2024-10-23.der", 1_762_131_600),
        (
            "milan-v5-gcp-vmpl0",
            "milan_crl_2025-05-06.der",
            1_778_544_000,
        ),
    ] {
        let mut vector = Vector::read(&folder.join(name));
        vector.evidence.crl = fs::read(folder.join("roots").join(crl)).unwrap();
        let (policy, roots) = (
            vector.policy().with_crl(CrlPolicy::Required),
            PinnedRoot::amd(),
        );
        assert!(vector.judge(&policy, &roots).is_ok(), "{name}");
        let due = UnixTime::from_secs(due);
        vector.now = due.minus(1);
        assert!(vector.judge(&policy, &roots).is_ok(), "{name}");
        vector.now = due;
        assert_eq!(
            vector.judge(&policy, &roots).unwrap_err(),
            SnpRejection::CrlStale { due, now: due }
        );
        vector.evidence.crl = Vec::new();
        assert_eq!(
            vector.judge(&policy, &roots).unwrap_err(),
            SnpRejection::CrlMissing
        );
    }
}

#[test]
fn certificates_with_serial_number_zero_are_read() {
    let Some(folder) = shared("snp") else { return };
    let vek = fs::read(folder.join("genoa-v3-aci/vek.der")).unwrap();
    let (_, certificate) = X509Certificate::from_der(&vek).unwrap();
    assert_eq!(certificate.raw_serial(), [0]);
    assert!(Vector::read(&folder.join("genoa-v3-aci")).evidence.vek == vek);
}
