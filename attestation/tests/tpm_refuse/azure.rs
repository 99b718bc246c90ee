//! Rules Z1 to Z4, over a paravisor of the test chip's.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use casemate_attestation::Sha256Digest;
use casemate_attestation::azure::{
    AzureEvidence, AzureRejection, AzureVerdict, HCL_BYTES_MAX, HclReport, HclReportType,
    VerifiedHardware, verify_azure,
};
use casemate_attestation::snp::{SnpVerdict, verify_snp_report};
use casemate_attestation::test_chip::ReportTemplate;
use casemate_attestation::tpm::{Bank, QuoteSignature, TpmLocation, TpmRejection};

use super::common::{self, tdx::verdict_over};
use super::support::*;

/// What of a paravisor's report a test changes.
#[derive(Clone)]
struct Blob {
    magic: [u8; 4],
    header: [u32; 7],
    hardware: Vec<u8>,
    claims: [u32; 5],
    runtime: Vec<u8>,
    rest: Vec<u8>,
}

impl Blob {
    fn new(hardware: &[u8], runtime: &[u8], report_type: u32) -> Self {
        let length = u32::try_from(runtime.len()).unwrap();
        Self {
            magic: *b"HCLA",
            header: [2, 1236 + length, 2, 0, 0, 0, 0],
            hardware: hardware.to_vec(),
            claims: [20 + length, 1, report_type, 1, length],
            runtime: runtime.to_vec(),
            rest: vec![0; 64],
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = self.magic.to_vec();
        out.extend(self.header.iter().flat_map(|number| number.to_le_bytes()));
        out.extend(&self.hardware);
        out.extend(self.claims.iter().flat_map(|number| number.to_le_bytes()));
        out.extend(&self.runtime);
        out.extend(&self.rest);
        out
    }
}

fn jwk(kid: &str, key: &TestKey) -> String {
    let n = URL_SAFE_NO_PAD.encode(key.modulus());
    format!(r#"{{"kid":"{kid}","key_ops":["sign"],"kty":"RSA","e":"AQAB","n":"{n}"}}"#)
}

fn runtime(keys: &[String]) -> String {
    let keys = keys.join(",");
    format!(r#"{{"keys":[{keys}],"vm-configuration":{{"secure-boot":true}},"user-data":"00"}}"#)
}

fn good_runtime() -> String {
    runtime(&[jwk("HCLAkPub", ak())])
}

/// A verified SNP report that binds `report_data`.
fn hardware(report_data: [u8; 64], vmpl: u32) -> SnpVerdict {
    let chip = common::chip();
    let template = ReportTemplate {
        report_data,
        vmpl,
        ..chip.template()
    };
    let policy = common::policy(&chip).with_vmpl(vmpl).unwrap();
    let evidence = chip.evidence_for(&template);
    verify_snp_report(&evidence, &report_data, &policy, &common::roots(&chip), NOW).unwrap()
}

fn bound(runtime: &[u8]) -> [u8; 64] {
    let mut data = [0; 64];
    data[..32].copy_from_slice(Sha256Digest::of(runtime).as_bytes());
    data
}

type Judged = Result<AzureVerdict, AzureRejection>;

/// Judges a blob with the good quote beside it.
fn judge(blob: &[u8], hardware: &VerifiedHardware<'_>) -> Judged {
    judge_case(blob, hardware, &case())
}

fn judge_case(blob: &[u8], hardware: &VerifiedHardware<'_>, case: &Case) -> Judged {
    let quote = case.evidence();
    let signature = ak().rsassa(Bank::Sha256, &quote.message);
    let evidence = AzureEvidence {
        hcl: blob.to_vec(),
        message: quote.message,
        signature: case
            .signature
            .clone()
            .unwrap_or(QuoteSignature::RsassaSha256(signature)),
        registers: quote.registers,
    };
    verify_azure(&evidence, hardware, NONCE, &policy())
}

/// Runtime data that verified hardware binds: what they are refused for.
fn with_runtime(runtime: &str) -> Judged {
    let verdict = hardware(bound(runtime.as_bytes()), 0);
    let blob = Blob::new(verdict.report().as_bytes(), runtime.as_bytes(), 2);
    judge(&blob.bytes(), &VerifiedHardware::Snp(&verdict))
}

fn with_blob(change: impl FnOnce(&mut Blob)) -> AzureRejection {
    let runtime = good_runtime();
    let verdict = hardware(bound(runtime.as_bytes()), 0);
    let mut blob = Blob::new(verdict.report().as_bytes(), runtime.as_bytes(), 2);
    change(&mut blob);
    judge(&blob.bytes(), &VerifiedHardware::Snp(&verdict)).unwrap_err()
}

#[test]
fn z_the_evidence_that_these_tests_change_is_accepted() {
    let verdict = with_runtime(&good_runtime()).unwrap();
    assert_eq!(verdict.quote().location(), TpmLocation::Paravisor);
    assert_eq!(verdict.runtime().user_data(), [0]);
    let ids: Vec<&str> = verdict.checks().iter().map(|check| check.id).collect();
    assert_eq!(ids[..5], ["Z1", "Z2", "Z3", "Z4", "P1"]);
    let says = |text: &str| {
        verdict
            .checks()
            .iter()
            .any(|check| check.text.contains(text))
    };
    assert!(says("in the paravisor") && says("as much as the hardware report"));
    // The same by a signature that names its scheme, and under a TDX quote's report data.
    let runtime = good_runtime();
    let data = bound(runtime.as_bytes());
    let blob = Blob::new(&td_report(&data), runtime.as_bytes(), 4).bytes();
    let mut tpmt = case();
    tpmt.signature = Some(QuoteSignature::Tpmt(ak().sign(&tpmt.message.bytes())));
    assert!(judge_case(&blob, &VerifiedHardware::Tdx(&verdict_over(&data)), &tpmt).is_ok());
}

/// A TDREPORT in the place of an SNP report.
fn td_report(report_data: &[u8; 64]) -> Vec<u8> {
    let mut report = vec![0; 1184];
    report[0] = 0x81;
    report[128..192].copy_from_slice(report_data);
    report
}

#[test]
fn z1_lengths_magic_and_types() {
    assert_eq!(
        with_blob(|blob| blob.magic[3] = b'B'),
        AzureRejection::Magic
    );
    let rest = |more: usize| {
        let runtime = good_runtime();
        let verdict = hardware(bound(runtime.as_bytes()), 0);
        let mut blob = Blob::new(verdict.report().as_bytes(), runtime.as_bytes(), 2);
        blob.rest = vec![0; HCL_BYTES_MAX + more + blob.rest.len() - blob.bytes().len()];
        judge(&blob.bytes(), &VerifiedHardware::Snp(&verdict))
    };
    assert!(rest(0).is_ok());
    assert!(matches!(
        rest(1).unwrap_err(),
        AzureRejection::BlobLength(_)
    ));
    for version in [0, 3, u32::MAX] {
        let refused = with_blob(|blob| blob.header[0] = version);
        let what = "has a version other than 1 and 2";
        assert_eq!(refused, AzureRejection::Malformed(what));
    }
    for field in 2..7 {
        let what = "has a header of another purpose or status";
        assert_eq!(
            with_blob(|blob| blob.header[field] += 1),
            AzureRejection::Malformed(what)
        );
    }
    let contradict = AzureRejection::Malformed("has lengths that contradict each other");
    assert_eq!(with_blob(|blob| blob.header[1] += 1), contradict);
    assert_eq!(with_blob(|blob| blob.claims[0] -= 1), contradict);
    let version = AzureRejection::Malformed("has runtime data of another version than 1");
    assert_eq!(with_blob(|blob| blob.claims[1] = 2), version);
    for kind in [0, 1, 3, 5] {
        let what = "holds neither an SNP report nor a TDREPORT";
        assert_eq!(
            with_blob(|blob| blob.claims[2] = kind),
            AzureRejection::Malformed(what)
        );
    }
    for hash in [0, 2, 3] {
        let what = "binds its runtime data by another hash than SHA-256";
        assert_eq!(
            with_blob(|blob| blob.claims[3] = hash),
            AzureRejection::Malformed(what)
        );
    }
    for length in [u32::MAX, 0x7fff_ffff] {
        let refused = with_blob(|blob| blob.claims[4] = length);
        assert!(
            matches!(refused, AzureRejection::RuntimeDataLength { length: l, .. } if l == length)
        );
    }
    // Shorter runtime data with lengths that agree leave something behind them.
    let cut = with_blob(|blob| {
        blob.claims[4] -= 1;
        blob.claims[0] -= 1;
        blob.header[1] -= 1;
    });
    assert_eq!(cut, AzureRejection::Padding);
    assert_eq!(
        with_blob(|blob| blob.rest = vec![0, 1]),
        AzureRejection::Padding
    );
    let whole = Blob::new(&[0; 1184], b"{}", 2);
    let used = whole.bytes().len() - whole.rest.len();
    for length in 0..used {
        assert_eq!(
            HclReport::parse(&whole.bytes()[..length])
                .unwrap_err()
                .rule(),
            "Z1"
        );
    }
    assert!(HclReport::parse(&whole.bytes()[..used]).is_ok());
}

#[test]
fn z2_the_hardware_report_is_the_one_that_was_verified() {
    let (found, expected) = (HclReportType::TdReport, HclReportType::Snp);
    let refused = with_blob(|blob| blob.claims[2] = 4);
    assert_eq!(refused, AzureRejection::HardwareKind { found, expected });
    for offset in [0, 0x50, 0x90, 0x2a0, 1183] {
        let refused = with_blob(|blob| blob.hardware[offset] ^= 1);
        assert_eq!(refused, AzureRejection::HardwareReportDiffers, "{offset}");
    }
    // A guest below the paravisor asks for a report of its own, over runtime data of its own.
    let runtime = good_runtime();
    let verdict = hardware(bound(runtime.as_bytes()), 1);
    let blob = Blob::new(verdict.report().as_bytes(), runtime.as_bytes(), 2);
    let refused = judge(&blob.bytes(), &VerifiedHardware::Snp(&verdict)).unwrap_err();
    assert_eq!(refused, AzureRejection::NotParavisorLevel(1));
}

#[test]
fn z2_a_tdreport_counts_only_beside_its_quote() {
    let runtime = good_runtime();
    let data = bound(runtime.as_bytes());
    let judge_report = |report: &[u8], report_data: [u8; 64]| {
        let blob = Blob::new(report, runtime.as_bytes(), 4).bytes();
        judge(&blob, &VerifiedHardware::Tdx(&verdict_over(&report_data))).map(drop)
    };
    let good = td_report(&data);
    assert_eq!(judge_report(&good, data), Ok(()));
    let mut other = data;
    other[0] ^= 1;
    assert_eq!(
        judge_report(&good, other).unwrap_err(),
        AzureRejection::TdReportData
    );
    // Report and quote of another key agree, and bind other runtime data.
    let unbound = judge_report(&td_report(&other), other).unwrap_err();
    assert_eq!(unbound, AzureRejection::RuntimeDataUnbound);
    for (offset, what) in [
        (0, "another type than 0x81"),
        (3, "another type than 0x81"),
        (1024, "bytes after its end"),
        (1183, "bytes after its end"),
    ] {
        let mut report = good.clone();
        report[offset] ^= 2;
        let refused = judge_report(&report, data).unwrap_err();
        assert_eq!(refused, AzureRejection::TdReportMalformed(what));
    }
}

#[test]
fn z3_report_data_bind_the_runtime_data() {
    let runtime = good_runtime();
    let with_data = |data: [u8; 64]| {
        let verdict = hardware(data, 0);
        let blob = Blob::new(verdict.report().as_bytes(), runtime.as_bytes(), 2);
        judge(&blob.bytes(), &VerifiedHardware::Snp(&verdict)).map(drop)
    };
    let good = bound(runtime.as_bytes());
    assert_eq!(with_data(good), Ok(()));
    for offset in [0, 31] {
        let mut data = good;
        data[offset] ^= 1;
        assert_eq!(
            with_data(data).unwrap_err(),
            AzureRejection::RuntimeDataUnbound
        );
    }
    for offset in [32, 63] {
        let mut data = good;
        data[offset] = 1;
        assert_eq!(with_data(data).unwrap_err(), AzureRejection::ReportDataHalf);
    }
    assert_eq!(
        with_data([0; 64]).unwrap_err(),
        AzureRejection::RuntimeDataUnbound
    );
    let edited = with_blob(|blob| blob.runtime[30] ^= 1);
    assert_eq!(edited, AzureRejection::RuntimeDataUnbound);
}

#[test]
fn z3_bound_runtime_data_are_read_strictly() {
    let refused = |runtime: &str| with_runtime(runtime).unwrap_err();
    for text in ["", "[]", "{}", "{\"keys\":1}", "{\"keys\":[]} "] {
        assert!(
            matches!(refused(text), AzureRejection::RuntimeData(_)),
            "{text}"
        );
    }
    let key = jwk("HCLAkPub", ak());
    // The same key twice in one object (attack B25): two readers could see two attestation keys.
    let twice = format!(r#"{{"keys":[],"keys":[{key}]}}"#);
    assert!(matches!(refused(&twice), AzureRejection::RuntimeData(_)));
    for data in ["zz", "0", &"00".repeat(65)] {
        let text = format!(r#"{{"keys":[{key}],"user-data":"{data}"}}"#);
        assert_eq!(refused(&text), AzureRejection::UserData);
    }
    let most = format!(
        r#"{{"keys":[{key}],"user-data":"{}","new":{{}}}}"#,
        "00".repeat(64)
    );
    assert!(with_runtime(&most).is_ok());
}

#[test]
fn z4_the_quote_is_by_the_one_key_of_this_blob() {
    let refused = |keys: &[String]| with_runtime(&runtime(keys)).unwrap_err();
    let (good, other) = (jwk("HCLAkPub", ak()), jwk("HCLAkPub", other_ak()));
    assert_eq!(refused(&[]), AzureRejection::KeyMissing);
    assert_eq!(
        refused(&[jwk("HCLEkPub", ak())]),
        AzureRejection::KeyMissing
    );
    assert_eq!(
        refused(&[good.clone(), other.clone()]),
        AzureRejection::KeyTwice
    );
    assert_eq!(refused(&[other]), AzureRejection::QuoteOfOtherKey);
    for (from, to, what) in [
        (r#""RSA""#, r#""EC""#, "is not an RSA key"),
        (
            r#"["sign"]"#,
            r#"["sign","encrypt"]"#,
            "is not for signing alone",
        ),
        (r#"["sign"]"#, "[]", "is not for signing alone"),
        (r#""AQAB""#, r#""AQAB=""#, "is not in canonical base64"),
        (
            r#""AQAB""#,
            r#""AQAC""#,
            "is no RSA key of 2048 to 4096 bits",
        ),
        (
            r#""AQAB","n":""#,
            r#""AQAB","n":"AAAA"#,
            "is no RSA key of 2048 to 4096 bits",
        ),
    ] {
        let changed = good.replace(from, to);
        assert_ne!(changed, good);
        assert_eq!(
            refused(&[changed]),
            AzureRejection::KeyMalformed(what),
            "{to}"
        );
    }
    // An endorsement key beside it is no obstacle.
    let keys = runtime(&[good, jwk("HCLEkPub", other_ak())]);
    assert!(with_runtime(&keys).is_ok());
    let kind = with_kind_of_other();
    assert_eq!(kind, AzureRejection::QuoteOfOtherKey);
}

/// An elliptic signature beside an RSA key.
fn with_kind_of_other() -> AzureRejection {
    let runtime = good_runtime();
    let verdict = hardware(bound(runtime.as_bytes()), 0);
    let blob = Blob::new(verdict.report().as_bytes(), runtime.as_bytes(), 2).bytes();
    let mut case = case();
    case.signature = Some(QuoteSignature::Tpmt(p256().sign(&case.message.bytes())));
    judge_case(&blob, &VerifiedHardware::Snp(&verdict), &case).unwrap_err()
}

#[test]
fn the_quotes_own_rules_keep_their_numbers() {
    let runtime = good_runtime();
    let verdict = hardware(bound(runtime.as_bytes()), 0);
    let blob = Blob::new(verdict.report().as_bytes(), runtime.as_bytes(), 2).bytes();
    let refused = |change: &dyn Fn(&mut Case)| {
        let mut case = case();
        change(&mut case);
        judge_case(&blob, &VerifiedHardware::Snp(&verdict), &case).unwrap_err()
    };
    let magic = refused(&|case| case.message.magic = 0);
    assert_eq!(
        (magic.rule(), magic),
        ("P1", AzureRejection::Quote(TpmRejection::Magic(0)))
    );
    assert_eq!(
        refused(&|case| case.message.extra_data = vec![1]).rule(),
        "P3"
    );
    assert_eq!(
        refused(&|case| drop(case.registers.remove(&1))).rule(),
        "P4"
    );
}
