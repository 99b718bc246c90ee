//! Writes evidence as a folder that [`folder::read`](super::folder::read) reads, so that a user with hardware can hand on what his
//! machine said, and `verify` judges the folder as it judged the machine.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use casemate_attestation::azure::AzureMachine;
use casemate_attestation::eventlog::LogKind;
use casemate_attestation::nvidia::{DeviceEvidence, DeviceKind, GpuReport, OcspAnswers, askable};
use casemate_attestation::tpm::{Bank, KeyEvidence, QuoteSignature, session_nonce};
use casemate_attestation::{HardwareEvidence, Sha256Digest, TpmBoot, UnixTime};
use serde_json::{Map, Value, json};

use super::beside::Beside;
use super::folder::{ANSWERS, AS_CERTIFICATE, DEVICES, INDEX, INTERMEDIATES, SESSION};
use super::{Asked, Recorded, Subject, time};
use crate::files::{self, FileError};

/// The fields of an index and the files that it names.
#[derive(Default)]
struct Pages {
    fields: Map<String, Value>,
    files: Vec<(String, Vec<u8>)>,
}

impl Pages {
    fn note(&mut self, field: &str, value: Value) {
        self.fields.insert(field.to_owned(), value);
    }

    /// A file under a field; what is empty is left out.
    fn file(&mut self, field: &str, name: &str, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.note(field, json!(name));
            self.files.push((name.to_owned(), bytes.to_vec()));
        }
    }

    /// Fields of a part under one field, its files beside the others.
    fn part(&mut self, field: &str, part: Self) {
        self.note(field, Value::Object(part.fields));
        self.files.extend(part.files);
    }

    fn write(mut self, path: &Path, at: UnixTime) -> Result<(), FileError> {
        empty_folder(path)?;
        self.note("verify_at", json!(time::format(at)));
        self.note("verify_at_unix", json!(at.secs()));
        let names: Vec<&String> = self.files.iter().map(|(name, _)| name).collect();
        let names = json!(names);
        self.note("files", names);
        for (name, bytes) in &self.files {
            files::write_public(&path.join(name), bytes)?;
        }
        let index = format!("{:#}\n", Value::Object(self.fields));
        files::write_public(&path.join(INDEX), index.as_bytes())
    }
}

fn empty_folder(path: &Path) -> Result<(), FileError> {
    fs::create_dir_all(path).map_err(|source| FileError::io("make", path, source))?;
    let mut entries = fs::read_dir(path).map_err(|source| FileError::io("read", path, source))?;
    if entries.next().is_some() {
        let taken = std::io::ErrorKind::DirectoryNotEmpty;
        return Err(FileError::io("write into", path, taken.into()));
    }
    Ok(())
}

/// Writes what was recorded into a new folder, with what it was asked for and the time to judge it at.
///
/// # Errors
/// When the folder exists and is not empty, or a file cannot be written.
pub fn write(path: &Path, recorded: &Recorded, at: UnixTime) -> Result<(), FileError> {
    let mut pages = match &recorded.subject {
        Subject::Hardware { evidence, .. } => hardware(evidence),
        Subject::Azure(machine) => azure(machine),
        Subject::Device {
            evidence,
            nonce,
            answers,
        } => device(evidence, *nonce, answers),
        Subject::EventLog {
            log,
            kind,
            registers,
        } => event_log(log, *kind, registers),
    };
    match (&recorded.asked, &recorded.subject) {
        (Asked::Unknown, _) => {}
        // A folder of an Azure VM has the nonce of its virtual TPM's quote.
        (Asked::ReportData(bytes), Subject::Azure(_)) => {
            pages.note("asked_with", json!(hex::encode(session_nonce(bytes))));
        }
        (Asked::ReportData(bytes), _) => pages.note("asked_with", json!(hex::encode(**bytes))),
        (Asked::Nonce(nonce), _) => pages.note("asked_with", json!(hex::encode(nonce))),
    }
    // The folder itself comes first: nothing is written into one that is not empty.
    empty_folder(path)?;
    let devices = match &recorded.beside {
        Some(beside) => beside_pages(beside, &mut pages),
        None => Vec::new(),
    };
    pages.write(path, at)?;
    for (name, device) in devices {
        device.write(&path.join(name), at)?;
    }
    Ok(())
}

/// One folder for each device, named in the machine's index with the session that they answered.
fn beside_pages(beside: &Beside, pages: &mut Pages) -> Vec<(String, Pages)> {
    let (set, session) = (&beside.devices, &beside.session);
    let (nonce, answers) = (session.binding(), set.ocsp_answers());
    let nonce = *nonce.device_nonce().as_bytes();
    let devices = set.devices.iter().enumerate();
    let devices: Vec<(String, Pages)> = devices
        .map(|(number, evidence)| {
            let name = format!("device-{number}");
            (name, device(evidence, Some(nonce), &answers))
        })
        .collect();
    let names: Vec<&String> = devices.iter().map(|(name, _)| name).collect();
    pages.note(DEVICES, json!({"mode": set.mode, "folders": names}));
    pages.note(SESSION, json!(session));
    devices
}

fn hardware(evidence: &HardwareEvidence) -> Pages {
    let mut pages = Pages::default();
    let platform = match evidence {
        HardwareEvidence::Snp(evidence) => {
            pages.file("report", "report.bin", &evidence.report);
            pages.file("vek", "vek.der", &evidence.vek);
            pages.file("intermediate", "intermediate.der", &evidence.intermediate);
            pages.file("crl", "crl.der", &evidence.crl);
            "amd-sev-snp"
        }
        HardwareEvidence::Tdx(evidence) => {
            let collateral = evidence.collateral.to_json().unwrap_or_default();
            pages.file("quote", "quote.bin", &evidence.quote);
            pages.file("collateral", "collateral.json", &collateral);
            pages.file("event_log", "event_log.bin", &evidence.event_log);
            "intel-tdx"
        }
        HardwareEvidence::Tpm(boot) => {
            tpm(boot, &mut pages);
            "tpm2"
        }
    };
    pages.note("platform", json!(platform));
    pages
}

fn tpm(boot: &TpmBoot, pages: &mut Pages) {
    let quote = &boot.quote;
    quoted(&quote.message, &quote.signature, &quote.registers, pages);
    pages.file("event_log", "event_log.bin", &boot.event_log);
    match &quote.key {
        KeyEvidence::PublicArea(area) => pages.file("key", "ak_public.tpmt", area),
        KeyEvidence::Spki(der) => pages.file("key", "ak_public.der", der),
        KeyEvidence::Certificate {
            leaf,
            intermediates,
        } => {
            pages.file("key", AS_CERTIFICATE, leaf);
            let mut names = Vec::new();
            for (number, der) in intermediates.iter().enumerate() {
                let name = format!("ak_intermediate-{number}.der");
                pages.files.push((name.clone(), der.clone()));
                names.push(name);
            }
            pages.note(INTERMEDIATES, json!(names));
        }
    }
}

fn quoted(
    message: &[u8],
    signature: &QuoteSignature,
    registers: &BTreeMap<u8, Vec<u8>>,
    pages: &mut Pages,
) {
    let (format, signature) = match signature {
        QuoteSignature::Tpmt(bytes) => ("TPMT_SIGNATURE", bytes),
        QuoteSignature::RsassaSha256(bytes) => ("RSASSA with SHA-256", bytes),
    };
    pages.file("message", "quote.msg", message);
    pages.file("signature", "quote.sig", signature);
    pages.note("signature_format", json!(format));
    let values = by_number(registers).to_string();
    pages.file("pcrs", "pcrs.json", values.as_bytes());
}

fn by_number(registers: &BTreeMap<u8, Vec<u8>>) -> Value {
    let values = registers.iter();
    let values: BTreeMap<_, _> = values
        .map(|(number, value)| (number.to_string(), hex::encode(value)))
        .collect();
    json!(values)
}

/// The hardware report under its platform's name, the quote under `tpm`, each with the fields that it has by itself.
fn azure(machine: &AzureMachine) -> Pages {
    let mut pages = Pages::default();
    let (platform, part) = match &machine.hardware {
        HardwareEvidence::Tdx(_) => ("azure-vtpm-tdx", "tdx"),
        HardwareEvidence::Snp(_) | HardwareEvidence::Tpm(_) => ("azure-vtpm-snp", "snp"),
    };
    pages.note("platform", json!(platform));
    pages.part(part, hardware(&machine.hardware));
    pages.file("hcl_report", "hcl_report.bin", &machine.hcl);
    if let Some(quote) = &machine.quote {
        let mut part = Pages::default();
        quoted(
            &quote.message,
            &quote.signature,
            &quote.registers,
            &mut part,
        );
        pages.part("tpm", part);
    }
    pages
}

/// A device, with what issuers say about the certificates of its own chain.
fn device(evidence: &DeviceEvidence, nonce: Option<[u8; 32]>, answers: &OcspAnswers) -> Pages {
    let mut pages = Pages::default();
    let kind = GpuReport::parse(&evidence.report).map(|report| report.opaque().kind());
    let platform = match kind {
        Ok(DeviceKind::Switch) => "nvidia-switch",
        Ok(DeviceKind::Gpu) | Err(_) => "nvidia-gpu",
    };
    pages.note("platform", json!(platform));
    pages.file("report", "report.bin", &evidence.report);
    pages.file("certificate_chain", "chain.pem", &evidence.chain);
    if let Some(nonce) = nonce {
        pages.note("expected_nonce", json!(hex::encode(nonce)));
    }
    let mut named = Map::new();
    for (certificate, _) in askable(&evidence.chain).unwrap_or_default() {
        let about = Sha256Digest::of(&certificate);
        if let Some(answer) = answers.about(&about) {
            let name = format!("answer-{}.der", named.len());
            pages.files.push((name.clone(), answer.to_vec()));
            named.insert(about.to_string(), json!(name));
        }
    }
    if !named.is_empty() {
        pages.note(ANSWERS, Value::Object(named));
    }
    pages
}

fn event_log(
    log: &[u8],
    kind: LogKind,
    registers: &BTreeMap<Bank, BTreeMap<u8, Vec<u8>>>,
) -> Pages {
    let mut pages = Pages::default();
    pages.note("platform", json!("event-log"));
    pages.file("event_log", "event_log.bin", log);
    let word = match kind {
        LogKind::Ccel => "ccel",
        LogKind::Tcg2 => "tcg2",
    };
    pages.note("kind", json!(word));
    let banks = registers.iter();
    let banks: BTreeMap<String, Value> = banks
        .map(|(bank, values)| (bank.to_string(), by_number(values)))
        .collect();
    if !banks.is_empty() {
        pages.note("pcr", json!(banks));
    }
    pages
}
