//! Every TPM quote of the shared evidence gets the expected verdict, for the expected reason, with the expected fields.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

mod common;
mod support;

use std::collections::{BTreeMap, BTreeSet};

use casemate_attestation::UnixTime;
use casemate_attestation::eventlog::{LogKind, Register, replay};
use casemate_attestation::tpm::{
    AkTrust, AttestationKey, Bank, EnrolledKey, HostedIn, KeyEvidence, PinnedTpmRoot, PublicKey,
    QuoteSignature, TpmAnchors, TpmEvidence, TpmLocation, TpmPolicy, TpmRejection, TpmVerdict,
    verify_ak_certificate, verify_tpm_quote,
};
use serde_json::{Value, json};

use common::shared;
use support::vectors::{Folder, numbers, seconds, text};

type Judged = Result<TpmVerdict, TpmRejection>;

#[test]
fn every_folder_gets_the_expected_verdict() {
    let Some(platform) = shared("tpm") else {
        return;
    };
    let mut seen = 0;
    for folder in Folder::all(&platform) {
        let name = folder.name.as_str();
        match folder.verdict() {
            "reject" => refused(&folder),
            "accept" if folder.expected.get("chain").is_some() => certificates(&folder),
            "accept" | "accept once the key is trusted by other means" => {
                for quote in quotes(&folder) {
                    accepted(&folder, &quote);
                }
            }
            other => panic!("no expectation for {name}: {other}"),
        }
        seen += 1;
    }
    assert!(seen >= 8, "only {seen} vectors");
}

/// The quotes of a folder, in the form of a list.
fn quotes(folder: &Folder) -> Vec<Value> {
    match folder.expected.get("quotes") {
        Some(quotes) => quotes.as_array().unwrap().clone(),
        None => vec![folder.expected.clone()],
    }
}

fn bank(quote: &Value, registers: &BTreeMap<u8, Vec<u8>>) -> Bank {
    let named = quote.get("bank").and_then(Value::as_str);
    let all = [Bank::Sha1, Bank::Sha256, Bank::Sha384, Bank::Sha512];
    let length = registers.values().next().unwrap().len();
    let fits = |bank: &&Bank| match named {
        Some(name) => bank.as_str() == name,
        None => bank.digest_bytes() == length,
    };
    *all.iter().find(fits).unwrap()
}

/// Exactly these registers, all with exactly these values.
fn policy(bank: Bank, covered: &[u8], registers: &BTreeMap<u8, Vec<u8>>) -> TpmPolicy {
    let covered: BTreeSet<u8> = covered.iter().copied().collect();
    let expected = registers
        .iter()
        .map(|(number, value)| (*number, vec![value.clone()]));
    if bank == Bank::Sha1 {
        assert!(TpmPolicy::new(bank, covered.clone(), expected.clone().collect()).is_err());
        return TpmPolicy::of_collidable_sha1_bank(covered, expected.collect()).unwrap();
    }
    TpmPolicy::new(bank, covered, expected.collect()).unwrap()
}

fn evidence(folder: &Folder, quote: &Value, key: KeyEvidence) -> TpmEvidence {
    let signature = folder.file(text(quote, "signature"));
    let format = quote.get("signature_format").and_then(Value::as_str);
    TpmEvidence {
        message: folder.file(text(quote, "message")),
        signature: match format {
            Some("TPMT_SIGNATURE") => QuoteSignature::Tpmt(signature),
            _ => QuoteSignature::RsassaSha256(signature),
        },
        registers: folder.registers(text(quote, "pcrs")),
        key,
    }
}

/// Every way in which a folder's key can be trusted: certificate, public area, bare key.
fn keys(folder: &Folder) -> Vec<(KeyEvidence, TpmAnchors, AkTrust, TpmLocation)> {
    let mut out = Vec::new();
    let enrolled = |key: EnrolledKey| TpmAnchors::new(Vec::new(), vec![key]);
    if folder.has("ak_certificate.der") {
        let root = PinnedTpmRoot::new(&folder.file("ak_root.der"), HostedIn::CloudHypervisor);
        let certificate = KeyEvidence::Certificate {
            leaf: folder.file("ak_certificate.der"),
            intermediates: intermediates(folder),
        };
        let anchors = TpmAnchors::new(vec![root], Vec::new());
        let place = TpmLocation::CloudHypervisor;
        out.push((certificate, anchors, AkTrust::Certified, place));
    }
    if folder.has("ak_public.tpmt") {
        let area = folder.file("ak_public.tpmt");
        let key = EnrolledKey::new(&AttestationKey::parse(&area).unwrap(), HostedIn::Machine);
        let evidence = KeyEvidence::PublicArea(area);
        out.push((
            evidence,
            enrolled(key),
            AkTrust::Enrolled,
            TpmLocation::Machine,
        ));
    }
    if let Some(spki) = spki(folder) {
        let key = EnrolledKey::from_spki(&spki, HostedIn::Machine).unwrap();
        let evidence = KeyEvidence::Spki(spki);
        out.push((
            evidence,
            enrolled(key),
            AkTrust::Enrolled,
            TpmLocation::Machine,
        ));
    }
    assert!(!out.is_empty(), "{} names no key", folder.name);
    out
}

fn spki(folder: &Folder) -> Option<Vec<u8>> {
    if folder.has("ak_public.pem") {
        Some(folder.pem("ak_public.pem"))
    } else {
        folder
            .has("ak_public.der")
            .then(|| folder.file("ak_public.der"))
    }
}

fn intermediates(folder: &Folder) -> Vec<Vec<u8>> {
    let names = [
        "ak_intermediate.der",
        "ak_intermediate_1.der",
        "ak_intermediate_2.der",
    ];
    let there = names.into_iter().filter(|name| folder.has(name));
    there.map(|name| folder.file(name)).collect()
}

fn accepted(folder: &Folder, quote: &Value) {
    let (name, now) = (folder.name.as_str(), folder.now());
    let nonce = hex::decode(text(quote, "extra_data")).unwrap();
    let registers = folder.registers(text(quote, "pcrs"));
    let (bank, covered) = (bank(quote, &registers), numbers(&quote["pcr_selection"]));
    let policy = policy(bank, &covered, &registers);
    for (key, anchors, trust, location) in keys(folder) {
        let evidence = evidence(folder, quote, key);
        let judge = |evidence: &TpmEvidence, nonce: &[u8], policy: &TpmPolicy, anchors| -> Judged {
            verify_tpm_quote(evidence, nonce, policy, anchors, now)
        };
        let verdict = judge(&evidence, &nonce, &policy, &anchors);
        let verdict = verdict.unwrap_or_else(|rejection| panic!("{name}: {rejection}"));
        println!(
            "{name:24} accept  {bank}, {}, {}",
            trust.as_str(),
            location.place()
        );
        assert_eq!((verdict.trust(), verdict.location()), (trust, location));
        fields_agree(quote, &verdict, &covered);
        if let Some(log) = folder.expected.get("event_log").and_then(Value::as_str) {
            replays(&folder.file(log), quote, &verdict);
        }
        // What makes this one good: its nonce, its key, its register values.
        let other = [&nonce[1..], &[nonce[0] ^ 1]].concat();
        assert_eq!(
            judge(&evidence, &other, &policy, &anchors)
                .unwrap_err()
                .rule(),
            "P3"
        );
        assert_eq!(
            judge(&evidence, b"", &policy, &anchors).unwrap_err(),
            TpmRejection::NonceEmpty
        );
        let nobody = TpmAnchors::default();
        assert_eq!(
            judge(&evidence, &nonce, &policy, &nobody)
                .unwrap_err()
                .rule(),
            "P5"
        );
        let mut changed = evidence.clone();
        changed.registers.values_mut().next().unwrap()[0] ^= 1;
        assert_eq!(
            judge(&changed, &nonce, &policy, &anchors).unwrap_err(),
            TpmRejection::PcrDigest
        );
    }
}

fn fields_agree(quote: &Value, verdict: &TpmVerdict, covered: &[u8]) {
    let attest = verdict.attest();
    assert_eq!(hex::encode(attest.extra_data()), text(quote, "extra_data"));
    assert_eq!(hex::encode(attest.pcr_digest()), text(quote, "pcr_digest"));
    let [selection] = attest.selections() else {
        panic!("one selection")
    };
    assert!(selection.registers.iter().eq(covered));
    assert!(verdict.checks()[1].text.contains("RSASSA with sha256"));
    assert_eq!(text(quote, "scheme"), "RSASSA, SHA-256");
    assert_eq!(quote["signature_valid"], json!(true));
    if let Some(firmware) = quote.get("firmware_version").and_then(Value::as_str) {
        assert_eq!(format!("{:#x}", verdict.clock().firmware_version), firmware);
    }
}

/// The event log replays to the registers that the folder names, and the rest of them it does not touch.
fn replays(log: &[u8], quote: &Value, verdict: &TpmVerdict) {
    let replay = replay(log, LogKind::Tcg2).unwrap();
    let confirmed = replay.confirm(&verdict.quoted()).unwrap();
    let found: Vec<u8> = confirmed
        .registers()
        .iter()
        .map(|register| match register {
            Register::Pcr(number) | Register::Rtmr(number) => *number,
        })
        .collect();
    for number in numbers(&quote["replayed_pcrs"]) {
        assert!(
            found.contains(&number),
            "register {number} is not confirmed"
        );
    }
    confirmed.claims().unwrap();
}

fn certificates(folder: &Folder) {
    let root = PinnedTpmRoot::new(&folder.file("ak_root.der"), HostedIn::CloudHypervisor);
    let anchors = TpmAnchors::new(vec![root], Vec::new());
    let leaf = folder.file("ak_certificate.der");
    let judge =
        |leaf: &[u8], now| verify_ak_certificate(leaf, &intermediates(folder), &anchors, now);
    assert_eq!(folder.expected["chain_valid"], json!(true));
    let (key, hosted) = judge(&leaf, folder.now()).unwrap();
    assert!(matches!(key, PublicKey::Rsa { .. }));
    assert_eq!(hosted, HostedIn::CloudHypervisor);
    // As an NV index hands it out: padded with zeros to 4096 bytes. Anything else behind it is no padding.
    let mut padded = leaf.clone();
    padded.resize(4096, 0);
    assert_eq!(judge(&padded, folder.now()).unwrap().0, key);
    *padded.last_mut().unwrap() = 1;
    assert_eq!(judge(&padded, folder.now()).unwrap_err().rule(), "P5");
    assert_eq!(
        judge(&leaf, UnixTime::from_secs(1)).unwrap_err().rule(),
        "P5"
    );
}

#[test]
fn certificates_are_valid_in_the_time_that_the_folder_names() {
    let Some(platform) = shared("tpm") else {
        return;
    };
    let folder = Folder::read(&platform.join("gce-cos-85-nonce"));
    let root = PinnedTpmRoot::new(&folder.file("ak_root.der"), HostedIn::CloudHypervisor);
    let anchors = TpmAnchors::new(vec![root], Vec::new());
    let judge = |now| {
        let leaf = folder.file("ak_certificate.der");
        verify_ak_certificate(
            &leaf,
            &intermediates(&folder),
            &anchors,
            UnixTime::from_secs(now),
        )
    };
    let from = seconds(text(&folder.expected, "ak_certificate_not_before"));
    let until = seconds(text(&folder.expected, "ak_certificate_not_after"));
    assert_eq!(folder.expected["ak_chain_valid"], json!(true));
    for now in [from, until] {
        assert!(judge(now).is_ok(), "{now}");
    }
    assert!(matches!(
        judge(from - 1),
        Err(TpmRejection::CertificateNotYetValid { .. })
    ));
    assert!(matches!(
        judge(until + 1),
        Err(TpmRejection::CertificateExpired { .. })
    ));
}

/// A negative is refused for its reason, and the vector that it derives from is accepted under the same policy.
fn refused(folder: &Folder) {
    let (name, genuine) = (folder.name.as_str(), folder.genuine());
    let quote = quotes(&genuine)
        .into_iter()
        .find(|quote| quote["bank"] == json!("sha256"))
        .unwrap();
    let registers = genuine.registers(text(&quote, "pcrs"));
    let policy = policy(Bank::Sha256, &numbers(&quote["pcr_selection"]), &registers);
    let nonce = hex::decode(text(&quote, "extra_data")).unwrap();
    let judge = |folder: &Folder, quote: &Value| {
        let spki = spki(folder).unwrap();
        let key = EnrolledKey::from_spki(&spki, HostedIn::CloudHypervisor).unwrap();
        let evidence = evidence(folder, quote, KeyEvidence::Spki(spki));
        let anchors = TpmAnchors::new(Vec::new(), vec![key]);
        verify_tpm_quote(&evidence, &nonce, &policy, &anchors, genuine.now())
    };
    assert!(
        judge(&genuine, &quote).is_ok(),
        "{name}: the genuine one is refused"
    );
    let files = if folder.has("quote.msg") {
        json!({"message": "quote.msg", "signature": "quote.sig", "pcrs": "pcrs.json"})
    } else {
        json!({"message": "quote-sha256.msg", "signature": "quote-sha256.sig", "pcrs": "pcrs-sha256.json"})
    };
    let mut files = files;
    files["signature_format"] = json!("TPMT_SIGNATURE");
    let rejection = judge(folder, &files).unwrap_err();
    println!("{name:24} {:6}  {rejection}", rejection.rule());
    match name {
        "neg-digest-flip" => assert_eq!(rejection, TpmRejection::QuoteSignature),
        "neg-magic" => assert!(matches!(rejection, TpmRejection::Magic(_))),
        "neg-pcr-missing" => assert!(matches!(rejection, TpmRejection::PcrMissing(_))),
        "neg-sha1-bank-as-sha256" => assert!(matches!(
            rejection,
            TpmRejection::PcrBank {
                found: 4,
                expected: Bank::Sha256
            }
        )),
        "neg-truncated" => assert_eq!(
            rejection,
            TpmRejection::MessageMalformed("ends inside its register digest")
        ),
        other => panic!("no expectation for {other}"),
    }
}
