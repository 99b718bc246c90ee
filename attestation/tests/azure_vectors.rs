//! Every Azure vector of the shared evidence: the chain from the hardware report to the virtual TPM's quote.
//!
//! The TDX quotes themselves are verified in `tdx_vectors`. Here a quote of the tests' own platform with the same report data
//! stands for them, since one of them is refused there whatever the policy (SEPT_VE_DISABLE).

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

mod common;
mod support;

use std::collections::BTreeMap;

use casemate_attestation::azure::{
    AzureEvidence, AzureMachine, AzureQuote, AzureRejection, AzureVerdict, HclReport,
    HclReportType, VerifiedHardware, verify_azure,
};
use casemate_attestation::look;
use casemate_attestation::snp::{CrlPolicy, PinnedRoot, SnpVerdict, verify_snp_report};
use casemate_attestation::tpm::{
    AkTrust, Bank, HostedIn, KeyEvidence, PinnedTpmRoot, QuoteSignature, TpmAnchors, TpmEvidence,
    TpmLocation, TpmPolicy, TpmRejection, verify_ak_certificate, verify_tpm_quote,
};
use casemate_attestation::{
    CheckResult, ChipId, HardwareEvidence, Measurement, Product, Rejection, Sha256Digest,
    SnpEvidence, SnpPolicy, TcbVersion, TdxVerdict,
};
use serde_json::{Value, json};

use common::shared;
use common::tdx::verdict_over;
use support::vectors::{Folder, numbers, text};

#[test]
fn every_folder_gets_the_expected_verdict() {
    let Some(platform) = shared("azure-vtpm") else {
        return;
    };
    let mut seen = 0;
    for folder in Folder::all(&platform) {
        match folder.verdict() {
            "reject" => refused(&folder),
            "hardware part: accept" => {
                bound(&folder);
            }
            // Whether SEPT_VE_DISABLE is required is a question to the TDX quote's verifier.
            "accept" | "signatures good; reject where SEPT_VE_DISABLE is required" => {
                accepted(&folder);
            }
            other => panic!("no expectation for {}: {other}", folder.name),
        }
        seen += 1;
    }
    assert!(seen >= 13, "only {seen} vectors");
}

/// What was verified before the paravisor's part.
enum Hardware {
    Snp(Box<SnpVerdict>),
    Tdx(Box<TdxVerdict>),
}

impl Hardware {
    fn of(folder: &Folder) -> Self {
        if let Some(quote) = folder.expected["tdx"].get("quote").and_then(Value::as_str) {
            let quote = folder.file(quote);
            let report_data = quote[48 + 520..48 + 584].try_into().unwrap();
            return Self::Tdx(Box::new(verdict_over(&report_data)));
        }
        Self::Snp(Box::new(snp(folder)))
    }

    fn verified(&self) -> VerifiedHardware<'_> {
        match self {
            Self::Snp(verdict) => VerifiedHardware::Snp(verdict),
            Self::Tdx(verdict) => VerifiedHardware::Tdx(verdict),
        }
    }
}

/// The SNP report of a folder under AMD's root, with this machine enrolled and this paravisor known.
fn snp(folder: &Folder) -> SnpVerdict {
    let genuine = hardware_source(folder);
    let expected = &genuine.expected["snp"];
    let report = folder.file("report.bin");
    let field = |range: std::ops::Range<usize>| report[range].to_vec();
    let products = [Product::Milan, Product::Genoa, Product::Turin];
    let policy = SnpPolicy::new(
        vec![Measurement::from_bytes(
            field(0x90..0xc0).try_into().unwrap(),
        )],
        vec![ChipId::from_bytes(field(0x1a0..0x1e0).try_into().unwrap())],
        BTreeMap::from(products.map(|product| (product, TcbVersion::default()))),
    )
    .unwrap()
    .with_crl(CrlPolicy::MissingIsShown)
    .allowing_despite_broken_root(Product::Milan)
    .tolerating_missing_alias_check();
    let report_data = field(0x50..0x90).try_into().unwrap();
    let evidence = SnpEvidence {
        vek: folder.file("vek.der"),
        intermediate: genuine.file(text(expected, "intermediate")),
        crl: Vec::new(),
        report,
    };
    verify_snp_report(
        &evidence,
        &report_data,
        &policy,
        &PinnedRoot::amd(),
        genuine.now(),
    )
    .unwrap()
}

/// The SNP report of a folder with its certificates.
fn hardware_evidence(folder: &Folder) -> HardwareEvidence {
    HardwareEvidence::Snp(SnpEvidence {
        report: folder.file("report.bin"),
        vek: folder.file("vek.der"),
        intermediate: folder.file(text(&folder.expected["snp"], "intermediate")),
        crl: Vec::new(),
    })
}

/// A recorded machine of a folder with an SNP report and a quote.
fn machine(folder: &Folder) -> AzureMachine {
    let evidence = evidence(folder);
    AzureMachine {
        hardware: hardware_evidence(folder),
        hcl: evidence.hcl,
        quote: Some(AzureQuote {
            message: evidence.message,
            signature: evidence.signature,
            registers: evidence.registers,
        }),
    }
}

#[test]
fn z3_z4_a_look_says_first_whether_the_parts_belong_together() {
    let Some(platform) = shared("azure-vtpm") else {
        return;
    };
    let genuine = ["snp-genoa-v3", "snp-milan-v3-a"].map(|name| {
        let mut folders = Folder::all(&platform).into_iter();
        folders.find(|folder| folder.name == name).unwrap()
    });
    for folder in &genuine {
        let look = look::azure(&machine(folder), None, folder.now()).unwrap();
        for rule in ["S3", "Z1", "Z2", "Z3", "Z4", "P2"] {
            assert!(look.checks.iter().any(|check| check.id == rule), "{rule}");
        }
    }
    let mut folders = Folder::all(&platform).into_iter();
    let unquoted = folders.find(|folder| folder.name == "snp-genoa-v3-no-quote");
    let unquoted = unquoted.unwrap();
    let recorded = AzureMachine {
        hardware: hardware_evidence(&unquoted),
        hcl: unquoted.file("hcl_report.bin"),
        quote: None,
    };
    let look = look::azure(&recorded, None, unquoted.now()).unwrap();
    let told = |id: &str, result| {
        let mut checks = look.checks.iter();
        checks.any(|check| check.id == id && check.result == result)
    };
    for rule in ["Z1", "Z2", "Z3"] {
        assert!(told(rule, CheckResult::Pass), "{rule}");
    }
    assert!(told("Z4", CheckResult::Info));
    // Nobody's certificates were kept; what does not belong together is refused for that.
    let [one, other] = &genuine;
    let without = |mut machine: AzureMachine| {
        if let HardwareEvidence::Snp(evidence) = &mut machine.hardware {
            evidence.vek.clear();
        }
        look::azure(&machine, None, one.now()).unwrap_err()
    };
    let alone = without(machine(one));
    assert!(matches!(alone, Rejection::Snp(_)), "{alone}");
    let mut mixed = machine(one);
    mixed.hcl = machine(other).hcl;
    assert_eq!(
        without(mixed),
        Rejection::from(AzureRejection::RuntimeDataUnbound)
    );
    let mut quoted_elsewhere = machine(one);
    quoted_elsewhere.quote = machine(other).quote;
    let refused = without(quoted_elsewhere);
    assert_eq!(refused, Rejection::from(AzureRejection::QuoteOfOtherKey));
}

/// The genuine vector whose hardware report a negative carries.
fn hardware_source(folder: &Folder) -> Folder {
    let platform = folder.path.parent().unwrap();
    let report = folder.file("report.bin");
    Folder::all(platform)
        .into_iter()
        .filter(|other| other.verdict() != "reject" && other.has("report.bin"))
        .find(|other| other.file("report.bin") == report)
        .unwrap()
}

fn evidence(folder: &Folder) -> AzureEvidence {
    AzureEvidence {
        hcl: folder.file("hcl_report.bin"),
        message: folder.file("quote.msg"),
        signature: QuoteSignature::RsassaSha256(folder.file("quote.sig")),
        registers: folder.registers("pcrs.json"),
    }
}

/// All 24 registers, of which the first and the one of secure boot are fixed to `values`.
fn policy(values: &BTreeMap<u8, Vec<u8>>) -> TpmPolicy {
    let expected = [0, 7].map(|number| (number, vec![values[&number].clone()]));
    TpmPolicy::new(Bank::Sha256, (0..24).collect(), BTreeMap::from(expected)).unwrap()
}

/// The hardware part: the blob's fields, and that verified hardware binds its runtime data.
fn bound(folder: &Folder) -> Hardware {
    let (name, expected) = (folder.name.as_str(), &folder.expected);
    let blob = folder.file(text(expected, "hcl_report"));
    let hcl = HclReport::parse(&blob).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(
        u64::from(hcl.version()),
        expected["hcl_version"].as_u64().unwrap()
    );
    let kind = match text(expected, "hcl_report_type") {
        "SNP report" => HclReportType::Snp,
        "TD report" => HclReportType::TdReport,
        other => panic!("{name}: no expectation for {other}"),
    };
    assert_eq!(hcl.report_type(), kind);
    assert_eq!(text(expected, "runtime_data_hash_type"), "SHA-256");
    let digest = Sha256Digest::of(hcl.runtime_bytes()).to_string();
    assert_eq!(digest, text(expected, "runtime_data_sha256"));
    let hardware = Hardware::of(folder);
    if let Hardware::Snp(verdict) = &hardware {
        assert_eq!(hcl.snp_report(), Some(verdict.report().as_bytes()));
        assert_eq!(verdict.report().report_data(), hcl.report_data());
    }
    assert_eq!(expected["report_data_binds_runtime_data"], json!(true));
    let runtime = hcl
        .bind(&hardware.verified())
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    let configuration = Value::Object(runtime.data().vm_configuration().clone());
    assert_eq!(configuration, expected["vm_configuration"]);
    assert_eq!(
        hex::encode(runtime.data().user_data()),
        text(expected, "user_data")
    );
    println!("{name:32} bound   {kind}");
    hardware
}

fn accepted(folder: &Folder) {
    let (name, hardware, tpm) = (folder.name.as_str(), bound(folder), &folder.expected["tpm"]);
    let evidence = evidence(folder);
    let nonce = hex::decode(text(tpm, "extra_data")).unwrap();
    let policy = policy(&evidence.registers);
    let judge = |nonce: &[u8]| verify_azure(&evidence, &hardware.verified(), nonce, &policy);
    let verdict = judge(&nonce).unwrap_or_else(|error| panic!("{name}: {error}"));
    println!("{name:32} accept");
    fields_agree(tpm, &verdict);
    let ids: Vec<&str> = verdict.checks().iter().map(|check| check.id).collect();
    assert_eq!(ids[..4], ["Z1", "Z2", "Z3", "Z4"]);
    assert_eq!(
        judge(b"another").unwrap_err(),
        AzureRejection::Quote(TpmRejection::NonceMismatch)
    );
    assert_eq!(
        judge(b"").unwrap_err(),
        AzureRejection::Quote(TpmRejection::NonceEmpty)
    );
    if folder.expected.get("ak_chain").is_some() {
        certified(folder, &verdict, &nonce, &policy);
    }
}

fn fields_agree(tpm: &Value, verdict: &AzureVerdict) {
    let (quote, attest) = (verdict.quote(), verdict.quote().attest());
    assert_eq!(quote.trust(), AkTrust::NamedByHardware);
    assert_eq!(quote.location(), TpmLocation::Paravisor);
    assert_eq!(quote.bank().as_str(), text(tpm, "pcr_bank"));
    assert!(
        attest.selections()[0]
            .registers
            .iter()
            .eq(&numbers(&tpm["pcr_selection"]))
    );
    assert_eq!(hex::encode(attest.pcr_digest()), text(tpm, "pcr_digest"));
    assert_eq!(hex::encode(attest.extra_data()), text(tpm, "extra_data"));
    let clock = quote.clock();
    assert_eq!(
        u64::from(clock.reset_count),
        tpm["reset_count"].as_u64().unwrap()
    );
    assert_eq!(
        u64::from(clock.restart_count),
        tpm["restart_count"].as_u64().unwrap()
    );
    assert_eq!(u64::from(clock.safe), tpm["clock_safe"].as_u64().unwrap());
    assert_eq!(
        format!("{:#018x}", clock.firmware_version),
        text(tpm, "firmware_version")
    );
    assert_eq!(tpm["pcr_digest_matches"], json!(true));
    assert_eq!(
        text(tpm, "signature_valid_under"),
        "HCLAkPub of the runtime data"
    );
}

/// The certificate is for the same key, and yet says something else: by it alone the TPM is the cloud's (rule Z4).
fn certified(folder: &Folder, verdict: &AzureVerdict, nonce: &[u8], policy: &TpmPolicy) {
    let chain: Vec<Vec<u8>> = folder.expected["ak_chain"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| folder.file(name.as_str().unwrap()))
        .collect();
    let [leaf, intermediates @ .., root] = chain.as_slice() else {
        panic!("a chain")
    };
    let root = PinnedTpmRoot::new(root, HostedIn::CloudHypervisor);
    let anchors = TpmAnchors::new(vec![root], Vec::new());
    let now = folder.now();
    assert_eq!(folder.expected["ak_chain_valid"], json!(true));
    let (key, _) = verify_ak_certificate(leaf, intermediates, &anchors, now).unwrap();
    assert_eq!(
        folder.expected["ak_certificate_key_equals_HCLAkPub"],
        json!(true)
    );
    assert_eq!(&key, verdict.runtime().attestation_key());
    let azure = evidence(folder);
    let evidence = TpmEvidence {
        message: azure.message,
        signature: azure.signature,
        registers: azure.registers,
        key: KeyEvidence::Certificate {
            leaf: leaf.clone(),
            intermediates: intermediates.to_vec(),
        },
    };
    let verdict = verify_tpm_quote(&evidence, nonce, policy, &anchors, now).unwrap();
    assert_eq!(verdict.trust(), AkTrust::Certified);
    assert!(verdict.location().host_could_lie());
}

fn refused(folder: &Folder) {
    let (name, genuine) = (folder.name.as_str(), folder.genuine());
    let hardware = Hardware::of(folder);
    let good = evidence(&genuine);
    let judge = |folder: &Folder, hardware: &Hardware| {
        let evidence = evidence(folder);
        let nonce = casemate_attestation::tpm::Attest::parse(&evidence.message).unwrap();
        let nonce = nonce.extra_data().to_vec();
        verify_azure(
            &evidence,
            &hardware.verified(),
            &nonce,
            &policy(&good.registers),
        )
    };
    let counterpart = judge(&genuine, &Hardware::of(&genuine));
    assert!(counterpart.is_ok(), "{name}: the genuine one is refused");
    let rejection = judge(folder, &hardware).unwrap_err();
    println!("{name:32} {:6}  {rejection}", rejection.rule());
    match name {
        "neg-hcl-magic" => assert_eq!(rejection, AzureRejection::Magic),
        "neg-runtime-data-length" => {
            assert!(matches!(
                rejection,
                AzureRejection::RuntimeDataLength { .. }
            ));
        }
        "neg-runtime-data-key-swapped" => assert_eq!(rejection, AzureRejection::RuntimeDataUnbound),
        "neg-quote-of-other-vm" => assert_eq!(rejection, AzureRejection::QuoteOfOtherKey),
        "neg-pcr-value-changed" => {
            assert_eq!(rejection, AzureRejection::Quote(TpmRejection::PcrDigest));
        }
        other => panic!("no expectation for {other}"),
    }
}

/// Attack B16: a TDREPORT carries a MAC that only its own machine can check. Without the quote it says nothing.
#[test]
fn b16_a_tdreport_without_its_quote_is_refused() {
    let Some(platform) = shared("azure-vtpm") else {
        return;
    };
    let (first, second) = ("tdx-first-generation", "tdx-second-generation");
    let (first, second) = (
        Folder::read(&platform.join(first)),
        Folder::read(&platform.join(second)),
    );
    let blob = first.file("hcl_report.bin");
    let hcl = HclReport::parse(&blob).unwrap();
    assert!(hcl.bind(&Hardware::of(&first).verified()).is_ok());
    // It is no SNP report that could be verified, and beside another machine's verified quote it does not count.
    assert_eq!(hcl.snp_report(), None);
    assert_eq!(
        hcl.bind(&Hardware::of(&second).verified()).unwrap_err(),
        AzureRejection::TdReportData
    );
    let report = &blob[32..32 + 1184];
    assert_eq!(
        casemate_attestation::snp::SnpReport::parse(report)
            .unwrap_err()
            .rule(),
        "S1"
    );
    // A TDREPORT edited to the runtime data of another key, with everything else in order, beside the genuine quote.
    let mut edited = blob.clone();
    edited[32 + 128] ^= 1;
    let edited = HclReport::parse(&edited)
        .unwrap()
        .bind(&Hardware::of(&first).verified());
    assert_eq!(edited.unwrap_err(), AzureRejection::TdReportData);
}
