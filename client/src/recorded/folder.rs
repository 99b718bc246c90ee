//! A folder of raw files beside an `expected.json` that names them: the shape in which evidence is collected and handed on.
//!
//! Names may lead out of the folder to files that several recordings share, such as certificates. Fields that are not known
//! here are let pass: what a collector noted about a recording is his own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use casemate_attestation::azure::{AzureMachine, AzureQuote};
use casemate_attestation::digest::hex_array;
use casemate_attestation::eventlog::LogKind;
use casemate_attestation::nvidia::{DEVICES_MAX, DeviceEvidence, OcspAnswers};
use casemate_attestation::strict_json::JsonError;
use casemate_attestation::tpm::{Bank, KeyEvidence, QuoteSignature, TpmEvidence};
use casemate_attestation::{
    DeviceSet, ENVELOPE_BYTES_MAX, HardwareEvidence, Platform, Rejection, Sha256Digest,
    SnpEvidence, TdxCollateral, TdxEvidence, TpmBoot, UnixTime,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use serde_json::{Map, Value, json};

use super::beside::{Beside, Session};
use super::{Asked, Recorded, RecordedError, Subject, time};
use crate::files::{self, FileError};

/// The file that names the others.
pub(super) const INDEX: &str = "expected.json";
/// The field that names the folders of a machine's devices.
pub(super) const DEVICES: &str = "devices";
/// The field with what the devices' session is computed from.
pub(super) const SESSION: &str = "session";
/// The field that names answers about revocation, by the certificate that each is about.
pub(super) const ANSWERS: &str = "answers";
/// A TPM's key as its certificate, where the field `key` says so; collectors keep such files beside other keys.
pub(super) const AS_CERTIFICATE: &str = "ak_certificate.der";
/// The field that names the authorities above it.
pub(super) const INTERMEDIATES: &str = "intermediates";

/// A folder that is being read.
struct Folder {
    path: PathBuf,
    fields: Map<String, Value>,
}

/// Reads a folder. `at` chooses among several sets of collateral; without it the first one is taken.
///
/// # Errors
/// [`RecordedError`] names the file or the field.
pub fn read(path: &Path, at: Option<UnixTime>) -> Result<Recorded, RecordedError> {
    let folder = Folder::open(path)?;
    match folder.text("platform") {
        Some("amd-sev-snp") => folder.with_devices(folder.snp()?),
        Some("intel-tdx") => folder.with_devices(folder.tdx(at)?),
        Some("tpm2") if folder.fields.contains_key("chain") => {
            Err(RecordedError::Unsupported("certificates alone".to_owned()))
        }
        Some("tpm2") => folder.with_devices(folder.tpm()?),
        Some("event-log") => folder.event_log(),
        Some("azure-vtpm" | "azure-vtpm-snp" | "azure-vtpm-tdx") => folder.azure(at),
        Some("nvidia-gpu" | "nvidia-switch") => folder.device(),
        Some(other) => Err(RecordedError::Unsupported(other.to_owned())),
        None => Err(folder.wrong("platform", "is not there")),
    }
}

impl Folder {
    fn open(path: &Path) -> Result<Self, RecordedError> {
        let index = path.join(INDEX);
        let bytes = files::read_public(&index, ENVELOPE_BYTES_MAX as u64)?;
        let malformed = |_| RecordedError::Document {
            path: index.clone(),
            error: JsonError::NotOneObject,
        };
        let fields = serde_json::from_slice(&bytes).map_err(malformed)?;
        let path = path.to_owned();
        Ok(Self { path, fields })
    }

    fn wrong(&self, field: &'static str, what: &'static str) -> RecordedError {
        let path = self.path.join(INDEX);
        RecordedError::Field { path, field, what }
    }

    fn text(&self, field: &str) -> Option<&str> {
        self.fields.get(field).and_then(Value::as_str)
    }

    fn file(&self, name: &str) -> Result<Vec<u8>, FileError> {
        files::read_public(&self.path.join(name), ENVELOPE_BYTES_MAX as u64)
    }

    /// The file that a field names; empty where there is no such field.
    fn named(&self, field: &str) -> Result<Vec<u8>, FileError> {
        self.text(field)
            .map_or_else(|| Ok(Vec::new()), |name| self.file(name))
    }

    /// The firmware's log. Logs that others rewrote as JSON are not what was measured over, and are left out.
    fn log(&self) -> Result<Vec<u8>, FileError> {
        match self.text("event_log") {
            Some(name) if name.ends_with(".json") => Ok(Vec::new()),
            _ => self.named("event_log"),
        }
    }

    fn at(&self) -> Result<Option<UnixTime>, RecordedError> {
        let Some(text) = self.text("verify_at") else {
            return Ok(None);
        };
        time::parse(text)
            .map(Some)
            .map_err(|_| self.wrong("verify_at", "is no time"))
    }

    fn hardware(
        &self,
        platform: Platform,
        evidence: HardwareEvidence,
        at: Option<UnixTime>,
    ) -> Recorded {
        Recorded {
            subject: Subject::Hardware { platform, evidence },
            asked: self.asked(),
            at,
            beside: None,
        }
    }

    /// Devices beside the machine, in folders of their own, and the session that all of them answered.
    fn with_devices(&self, recorded: Recorded) -> Result<Recorded, RecordedError> {
        let Some(named) = self.fields.get(DEVICES) else {
            return Ok(recorded);
        };
        let mode = named.get("mode").cloned().unwrap_or_default();
        let mode = serde_json::from_value(mode)
            .map_err(|_| self.wrong(DEVICES, "has no mode on, dev-tools or off"))?;
        let folders = named.get("folders").and_then(Value::as_array);
        let folders = folders.filter(|it| it.len() <= DEVICES_MAX);
        let folders =
            folders.ok_or_else(|| self.wrong(DEVICES, "names no folders, or more than 64"))?;
        let (mut devices, mut answers) = (Vec::new(), Vec::new());
        for folder in folders {
            let name = folder.as_str();
            let name = name.ok_or_else(|| self.wrong(DEVICES, "names a folder by no text"))?;
            // A device's folder and no other: one that names folders itself could name itself.
            let folder = Self::open(&self.path.join(name))?;
            let Subject::Device {
                evidence,
                answers: of_device,
                ..
            } = folder.device()?.subject
            else {
                return Err(self.wrong(DEVICES, "names a folder that is no device's"));
            };
            devices.push(evidence);
            answers.extend(of_device.iter().map(|(about, it)| (*about, it.to_vec())));
        }
        let session = self.fields.get(SESSION).cloned().unwrap_or_default();
        let session: Session = serde_json::from_value(session)
            .map_err(|_| self.wrong(SESSION, "is not what a binding is computed from"))?;
        let report_data = Asked::ReportData(Box::new(session.report_data()));
        if recorded.asked != Asked::Unknown && recorded.asked != report_data {
            return Err(self.wrong("asked_with", "does not follow from the session"));
        }
        let devices = DeviceSet::new(mode, devices, &OcspAnswers::new(answers));
        Ok(Recorded {
            asked: report_data,
            beside: Some(Box::new(Beside { devices, session })),
            ..recorded
        })
    }

    /// What [`save`](super::save) noted. Collectors note what evidence carries, which is something else.
    fn asked(&self) -> Asked {
        let text = self.text("asked_with").unwrap_or_default();
        let bytes: Option<[u8; 64]> = hex_array("asked_with", text).ok();
        bytes.map_or(Asked::Unknown, |bytes| Asked::ReportData(Box::new(bytes)))
    }

    fn snp(&self) -> Result<Recorded, RecordedError> {
        let evidence = SnpEvidence {
            report: self.named("report")?,
            vek: self.named("vek")?,
            intermediate: self.named("intermediate")?,
            crl: self.named("crl")?,
        };
        let evidence = HardwareEvidence::Snp(evidence);
        Ok(self.hardware(Platform::Snp, evidence, self.at()?))
    }

    fn tdx(&self, at: Option<UnixTime>) -> Result<Recorded, RecordedError> {
        let cases = self.fields.get("cases").and_then(Value::as_array);
        let (collateral, at) = match cases.and_then(|cases| fitting(cases, at)) {
            Some((name, time)) => (name, Some(time)),
            None => {
                let name = self.text("collateral");
                let name = name.ok_or_else(|| self.wrong("collateral", "is not there"))?;
                (name.to_owned(), self.at()?)
            }
        };
        let collateral =
            TdxCollateral::from_json(&self.file(&collateral)?).map_err(Rejection::from)?;
        let evidence = HardwareEvidence::Tdx(Box::new(TdxEvidence {
            quote: self.named("quote")?,
            collateral,
            event_log: self.log()?,
        }));
        Ok(self.hardware(Platform::Tdx, evidence, at))
    }

    fn tpm(&self) -> Result<Recorded, RecordedError> {
        let quote = self.quote();
        let name = |field: &str, otherwise: &str| {
            let named = quote.get(field).and_then(Value::as_str);
            let by_habit = [otherwise.to_owned(), otherwise.replace('.', "-sha256.")];
            let there = by_habit.iter().find(|name| self.path.join(name).is_file());
            named
                .map(str::to_owned)
                .or_else(|| there.cloned())
                .unwrap_or_else(|| otherwise.to_owned())
        };
        let signature = self.file(&name("signature", "quote.sig"))?;
        let format = quote.get("signature_format").and_then(Value::as_str);
        let bare = format.is_some_and(|format| format != "TPMT_SIGNATURE");
        let evidence = TpmEvidence {
            message: self.file(&name("message", "quote.msg"))?,
            signature: if bare {
                QuoteSignature::RsassaSha256(signature)
            } else {
                QuoteSignature::Tpmt(signature)
            },
            registers: self.registers(&name("pcrs", "pcrs.json"))?,
            key: self.tpm_key()?,
        };
        let boot = TpmBoot {
            quote: evidence,
            event_log: self.log()?,
        };
        let evidence = HardwareEvidence::Tpm(Box::new(boot));
        Ok(self.hardware(Platform::Tpm, evidence, self.at()?))
    }

    /// The fields of the quote: of the SHA-256 bank, where a folder has one for each bank.
    fn quote(&self) -> Map<String, Value> {
        let quotes = self.fields.get("quotes").and_then(Value::as_array);
        let of_sha256 = |quote: &&Value| quote.get("bank").is_some_and(|bank| bank == "sha256");
        quotes
            .and_then(|quotes| quotes.iter().find(of_sha256).or_else(|| quotes.first()))
            .and_then(Value::as_object)
            .unwrap_or(&self.fields)
            .clone()
    }

    fn tpm_key(&self) -> Result<KeyEvidence, RecordedError> {
        if self.text("key") == Some(AS_CERTIFICATE) {
            let names = self.fields.get(INTERMEDIATES).and_then(Value::as_array);
            let names = names.into_iter().flatten().filter_map(Value::as_str);
            return Ok(KeyEvidence::Certificate {
                leaf: self.file(AS_CERTIFICATE)?,
                intermediates: names
                    .map(|name| self.file(name))
                    .collect::<Result<_, _>>()?,
            });
        }
        if self.path.join("ak_public.tpmt").is_file() {
            return Ok(KeyEvidence::PublicArea(self.file("ak_public.tpmt")?));
        }
        if self.path.join("ak_public.der").is_file() {
            return Ok(KeyEvidence::Spki(self.file("ak_public.der")?));
        }
        let pem = self.file("ak_public.pem")?;
        let key = SubjectPublicKeyInfoDer::from_pem_slice(&pem)
            .map(|key| key.to_vec())
            .or_else(|_| CertificateDer::from_pem_slice(&pem).map(|key| key.to_vec()))
            .map_err(|_| self.wrong("ak_public.pem", "is no key in PEM"))?;
        Ok(KeyEvidence::Spki(key))
    }

    fn registers(&self, name: &str) -> Result<BTreeMap<u8, Vec<u8>>, RecordedError> {
        let values: Value = serde_json::from_slice(&self.file(name)?).unwrap_or_default();
        registers(&values).ok_or_else(|| self.wrong("pcrs", "has no values by number"))
    }

    /// A virtual TPM's quote beside the hardware report of its paravisor, whose fields are those of the report's own platform.
    fn azure(&self, at: Option<UnixTime>) -> Result<Recorded, RecordedError> {
        let named = |field: &str| self.fields.get(field).and_then(Value::as_object).cloned();
        let own = |fields| Self {
            path: self.path.clone(),
            fields,
        };
        let hardware = match named("tdx") {
            Some(fields) => own(fields).tdx(at)?,
            None => own(named("snp").unwrap_or_else(report_by_habit)).snp()?,
        };
        let Subject::Hardware { evidence, .. } = hardware.subject else {
            return Err(self.wrong("platform", "has no hardware report"));
        };
        let hcl = self.text("hcl_report").unwrap_or("hcl_report.bin");
        let machine = AzureMachine {
            hardware: evidence,
            hcl: self.file(hcl)?,
            quote: self.azure_quote(named("tpm"))?,
        };
        Ok(Recorded {
            subject: Subject::Azure(Box::new(machine)),
            asked: self
                .nonce("asked_with")?
                .map_or(Asked::Unknown, Asked::Nonce),
            at: self.at()?.or(hardware.at),
            beside: None,
        })
    }

    /// No quote is one only where the folder has neither a word about it nor its message.
    fn azure_quote(
        &self,
        named: Option<Map<String, Value>>,
    ) -> Result<Option<AzureQuote>, RecordedError> {
        if named.is_none() && !self.path.join("quote.msg").is_file() {
            return Ok(None);
        }
        let named = named.unwrap_or_default();
        let name = |field, otherwise| {
            named
                .get(field)
                .and_then(Value::as_str)
                .unwrap_or(otherwise)
        };
        let signature = self.file(name("signature", "quote.sig"))?;
        let tpmt = name("signature_format", "") == "TPMT_SIGNATURE";
        Ok(Some(AzureQuote {
            message: self.file(name("message", "quote.msg"))?,
            signature: if tpmt {
                QuoteSignature::Tpmt(signature)
            } else {
                QuoteSignature::RsassaSha256(signature)
            },
            registers: self.registers(name("pcrs", "pcrs.json"))?,
        }))
    }

    /// One GPU's or switch's report. Manifests beside it are for `casemate nvidia rim-import` to judge.
    fn device(&self) -> Result<Recorded, RecordedError> {
        let field = "expected_nonce";
        let nonce = match self.nonce(field)? {
            Some(nonce) => Some(nonce),
            None => self.nonce("asked_with")?,
        };
        let nonce = nonce
            .map(<[u8; 32]>::try_from)
            .transpose()
            .map_err(|_| self.wrong(field, "is not 32 bytes"))?;
        let evidence = DeviceEvidence {
            report: self.file(self.text("report").unwrap_or("report.bin"))?,
            chain: self.file(self.text("certificate_chain").unwrap_or("chain.pem"))?,
        };
        Ok(Recorded {
            subject: Subject::Device {
                evidence,
                nonce,
                answers: self.answers()?,
            },
            asked: Asked::Unknown,
            at: self.at()?,
            beside: None,
        })
    }

    /// What issuers said about a device's certificates.
    fn answers(&self) -> Result<OcspAnswers, RecordedError> {
        let named = self.fields.get(ANSWERS).and_then(Value::as_object);
        let answer = |(about, name): (&String, &Value)| {
            let about = about.parse::<Sha256Digest>().ok();
            let (Some(about), Some(name)) = (about, name.as_str()) else {
                return Err(self.wrong(ANSWERS, "has no files by the SHA-256 of certificates"));
            };
            Ok((about, self.file(name)?))
        };
        let answers = named.into_iter().flatten().map(answer);
        Ok(OcspAnswers::new(answers.collect::<Result<Vec<_>, _>>()?))
    }

    /// A nonce in hexadecimal, where the folder says one.
    fn nonce(&self, field: &'static str) -> Result<Option<Vec<u8>>, RecordedError> {
        let nonce = self.text(field).map(hex::decode).transpose();
        nonce.map_err(|_| self.wrong(field, "is not hexadecimal"))
    }

    fn event_log(&self) -> Result<Recorded, RecordedError> {
        let log = self.named("event_log")?;
        let kind = match self.text("kind") {
            Some("ccel") => LogKind::Ccel,
            _ => LogKind::Tcg2,
        };
        let mut by_bank = BTreeMap::new();
        if let Some(values) = self.fields.get("rtmr") {
            let values = registers(values).ok_or_else(|| self.wrong("rtmr", "has no values"))?;
            by_bank.insert(Bank::Sha384, values);
        }
        let banks = self.fields.get("pcr").and_then(Value::as_object);
        for (bank, values) in banks.into_iter().flatten() {
            let bank = serde_json::from_value(Value::String(bank.clone()))
                .map_err(|_| self.wrong("pcr", "names an unknown bank"))?;
            let values = registers(values).ok_or_else(|| self.wrong("pcr", "has no values"))?;
            by_bank.insert(bank, values);
        }
        Ok(Recorded {
            subject: Subject::EventLog {
                log,
                kind,
                registers: by_bank,
            },
            asked: Asked::Unknown,
            at: self.at()?,
            beside: None,
        })
    }
}

/// The names that the files of an SNP report have where nobody says them.
fn report_by_habit() -> Map<String, Value> {
    let names = [("report", "report.bin"), ("vek", "vek.der")];
    names
        .map(|(field, name)| (field.to_owned(), json!(name)))
        .into_iter()
        .collect()
}

/// The set of collateral that is in force at a time, or the first, with the time to judge at.
fn fitting(cases: &[Value], at: Option<UnixTime>) -> Option<(String, UnixTime)> {
    let time = |case: &Value, field: &str| {
        let text = case.get(field).and_then(Value::as_str)?;
        time::parse(text).ok()
    };
    let holds = |case: &&Value| {
        let (from, until) = (time(case, "valid_from"), time(case, "valid_to"));
        at.is_some_and(|at| from.is_some_and(|from| from <= at) && until.is_some_and(|to| at < to))
    };
    let case = cases.iter().find(holds).or_else(|| cases.first())?;
    let name = case.get("collateral").and_then(Value::as_str)?;
    Some((name.to_owned(), time(case, "verify_at")?))
}

/// Hexadecimal values by register number.
fn registers(values: &Value) -> Option<BTreeMap<u8, Vec<u8>>> {
    let entry = |(number, value): (&String, &Value)| {
        let value = hex::decode(value.as_str()?).ok()?;
        Some((number.parse().ok()?, value))
    };
    values.as_object()?.iter().map(entry).collect()
}
