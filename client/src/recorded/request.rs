//! One piece of evidence as one document, for programs that drive the verifier: JSON in, exit code out (docs/formats/judge.md).

use std::collections::BTreeMap;

use casemate_attestation::azure::{AzureMachine, AzureQuote};
use casemate_attestation::nvidia::{DeviceEvidence, OcspAnswers};
use casemate_attestation::strict_json::{self, base64_bytes, hex_bytes};
use casemate_attestation::{
    ENVELOPE_BYTES_MAX, HardwareEvidence, Platform, Rejection, Sha256Digest, UnixTime,
};
use serde::Deserialize;

use super::{Asked, Policy, Recorded, RecordedError, Subject};

/// The word that a request begins with (rule J-1).
pub const FORMAT: &str = "casemate/judge/v1";

/// The most bytes that a request may have.
pub const REQUEST_BYTES_MAX: usize = 2 * ENVELOPE_BYTES_MAX;

/// What is to be judged, with what it is compared with, at what time.
#[derive(Debug)]
pub struct Request {
    /// The evidence.
    pub recorded: Recorded,
    /// What it is compared with; nothing, for a look.
    pub policy: Option<Policy>,
    /// The time to judge at.
    pub at: UnixTime,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    format: String,
    at: UnixTime,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default)]
    hardware: Option<HardwareEvidence>,
    #[serde(default)]
    paravisor: Option<Paravisor>,
    #[serde(default)]
    device: Option<Device>,
    #[serde(default)]
    report_data: Option<ReportData>,
    #[serde(default)]
    policy: Option<Policy>,
}

#[derive(Deserialize)]
#[serde(transparent)]
struct ReportData(#[serde(with = "hex_bytes")] [u8; 64]);

/// What stands beside the hardware report of an Azure VM (rule J-8).
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Paravisor {
    #[serde(with = "base64_bytes")]
    hcl: Vec<u8>,
    #[serde(default)]
    quote: Option<AzureQuote>,
    #[serde(default)]
    nonce: Option<AnyHex>,
}

/// An NVIDIA device (rule J-9).
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Device {
    evidence: DeviceEvidence,
    #[serde(default)]
    nonce: Option<GpuNonce>,
    #[serde(default)]
    answers: BTreeMap<Sha256Digest, Bytes>,
}

#[derive(Deserialize)]
#[serde(transparent)]
struct GpuNonce(#[serde(with = "hex_bytes")] [u8; 32]);

#[derive(Deserialize)]
#[serde(transparent)]
struct Bytes(#[serde(with = "base64_bytes")] Vec<u8>);

/// What a quote's extra data may be: up to 64 bytes in lower-case hexadecimal.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct AnyHex(Vec<u8>);

impl TryFrom<String> for AnyHex {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let lower = text.len() <= 128 && !text.bytes().any(|byte| byte.is_ascii_uppercase());
        let bytes = hex::decode(&text).ok().filter(|_| lower);
        bytes
            .map(Self)
            .ok_or("a nonce is at most 64 bytes in lower-case hexadecimal")
    }
}

impl Wire {
    /// Rules J-2, J-8 and J-9: one piece of evidence, and what it was asked for with.
    fn subject(
        platform: Option<Platform>,
        hardware: Option<HardwareEvidence>,
        paravisor: Option<Paravisor>,
        device: Option<Device>,
        asked: Asked,
    ) -> Result<(Subject, Asked), RecordedError> {
        let wrong = RecordedError::Parts;
        match (platform, hardware, paravisor, device) {
            (Some(platform), Some(evidence), None, None) => {
                Ok((Subject::Hardware { platform, evidence }, asked))
            }
            (Some(platform), Some(hardware), Some(paravisor), None) => {
                if !hardware.is_of(platform) {
                    let kind = hardware.kind();
                    return Err(Rejection::OtherKind { platform, kind }.into());
                }
                let asked = match (asked, paravisor.nonce) {
                    (asked, None) => asked,
                    (Asked::Unknown, Some(AnyHex(nonce))) => Asked::Nonce(nonce),
                    (_, Some(_)) => return Err(wrong("has report_data and a nonce")),
                };
                let machine = AzureMachine {
                    hardware,
                    hcl: paravisor.hcl,
                    quote: paravisor.quote,
                };
                Ok((Subject::Azure(Box::new(machine)), asked))
            }
            (None, None, None, Some(device)) if asked == Asked::Unknown => {
                let answers = device.answers.into_iter();
                let subject = Subject::Device {
                    evidence: device.evidence,
                    nonce: device.nonce.map(|GpuNonce(bytes)| bytes),
                    answers: OcspAnswers::new(
                        answers.map(|(about, Bytes(answer))| (about, answer)),
                    ),
                };
                Ok((subject, asked))
            }
            (None, None, None, Some(_)) => Err(wrong("gives a device's nonce as report_data")),
            _ => Err(wrong(
                "is about platform and hardware, with or without paravisor, or about one device",
            )),
        }
    }
}

impl Request {
    /// Reads one request, strictly. White space around it is let pass.
    ///
    /// # Errors
    /// [`RecordedError::Request`], [`RecordedError::Format`] and [`RecordedError::Parts`].
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordedError> {
        let wire: Wire = strict_json::from_slice(bytes.trim_ascii(), REQUEST_BYTES_MAX)
            .map_err(RecordedError::Request)?;
        if wire.format != FORMAT {
            return Err(RecordedError::Format);
        }
        let asked = match wire.report_data {
            Some(ReportData(bytes)) => Asked::ReportData(Box::new(bytes)),
            None => Asked::Unknown,
        };
        let (subject, asked) = Wire::subject(
            wire.platform,
            wire.hardware,
            wire.paravisor,
            wire.device,
            asked,
        )?;
        let recorded = Recorded {
            subject,
            asked,
            at: Some(wire.at),
            beside: None,
        };
        Ok(Self {
            recorded,
            policy: wire.policy,
            at: wire.at,
        })
    }
}
