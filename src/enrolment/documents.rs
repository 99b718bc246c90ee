//! The three files of an enrolment, strict JSON each (tpm.md, E7). All are public; nothing in them counts unchecked.

use casemate_attestation::nvidia::DeviceEvidence;
use casemate_attestation::strict_json::{self, JsonError, base64_bytes};
use casemate_attestation::tpm::TpmEvidence;
use casemate_attestation::{HardwareEvidence, Sha256Digest};
use casemate_devices::tpm::KeyKind;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::EnrolmentError;

/// Longest file of an enrolment, in bytes: evidence with a vendor's documents is the longest part of any.
pub(super) const BYTES_MAX: usize = 1024 * 1024;

const REQUEST: &str = "casemate/enrolment-request/v1";
const CHALLENGE: &str = "casemate/enrolment-challenge/v1";
const ANSWER: &str = "casemate/enrolment-answer/v1";

/// Bytes as canonical base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(#[serde(with = "base64_bytes")] pub Vec<u8>);

/// Which endorsement key a TPM opens credentials with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// RSA with 2048 bits.
    Rsa2048,
    /// NIST P-256.
    P256,
}

impl From<Kind> for KeyKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Rsa2048 => Self::Rsa2048,
            Kind::P256 => Self::P256,
        }
    }
}

/// What a machine says of itself when it asks to be enrolled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    format: String,
    /// By what the machine proves itself.
    pub machine: Subject,
    /// Rule E9: GPUs and switches of a processor's machine, which its evidence names. Missing is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DeviceEvidence>,
}

/// What vouches for a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// A TPM: its keys, for a credential.
    Tpm(TpmRequest),
    /// A processor: its evidence, which names it.
    Processor(HardwareEvidence),
}

/// Rule E1: what a TPM shows of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TpmRequest {
    /// Which of its endorsement keys.
    pub kind: Kind,
    /// Whether it is a program, as the one who asked it was told.
    pub software: bool,
    /// The maker's certificate of the endorsement key, then the authorities above it, nearest first. Empty where the maker left none.
    pub certificates: Vec<Bytes>,
    /// TPMT_PUBLIC of the endorsement key.
    pub endorsement: Bytes,
    /// TPMT_PUBLIC of the attestation key.
    pub attestation: Bytes,
}

/// What the organisation sends back: a credential that opens in one TPM alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Challenge {
    format: String,
    /// SHA-256 of the request.
    pub request: Sha256Digest,
    /// The endorsement key that opens it.
    pub kind: Kind,
    /// TPM2B_ID_OBJECT.
    pub object: Bytes,
    /// TPM2B_ENCRYPTED_SECRET.
    pub seed: Bytes,
}

/// The machine's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    format: String,
    /// SHA-256 of the challenge.
    pub challenge: Sha256Digest,
    /// HMAC-SHA256 by the opened secret (rule E7).
    pub proof: Bytes,
    /// A quote by the attestation key over the challenge, with the registers as they are.
    pub quote: TpmEvidence,
    /// Rule E9: the machine's GPUs and switches, which the quote names. Missing is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DeviceEvidence>,
}

impl Request {
    /// A request of this machine.
    pub fn new(machine: Subject, devices: Vec<DeviceEvidence>) -> Self {
        Self {
            format: REQUEST.into(),
            machine,
            devices,
        }
    }
}

impl Challenge {
    pub(super) fn new(request: Sha256Digest, kind: Kind, object: Vec<u8>, seed: Vec<u8>) -> Self {
        Self {
            format: CHALLENGE.into(),
            request,
            kind,
            object: Bytes(object),
            seed: Bytes(seed),
        }
    }
}

impl Answer {
    pub(super) fn new(
        challenge: Sha256Digest,
        proof: Vec<u8>,
        quote: TpmEvidence,
        devices: Vec<DeviceEvidence>,
    ) -> Self {
        Self {
            format: ANSWER.into(),
            challenge,
            proof: Bytes(proof),
            quote,
            devices,
        }
    }
}

/// One of the three files.
pub trait Document: Serialize + DeserializeOwned {
    /// What people call it.
    const NAME: &'static str;
    /// What its field `format` must say.
    const FORMAT: &'static str;

    /// What it says.
    fn format(&self) -> &str;

    /// Reads the file.
    ///
    /// # Errors
    /// [`EnrolmentError::Malformed`], [`EnrolmentError::Format`].
    fn parse(bytes: &[u8]) -> Result<Self, EnrolmentError> {
        let document: Self = strict_json::from_slice(bytes.trim_ascii(), BYTES_MAX)
            .map_err(|error| malformed::<Self>(error))?;
        if document.format() == Self::FORMAT {
            Ok(document)
        } else {
            Err(EnrolmentError::Format {
                document: Self::NAME,
                expected: Self::FORMAT,
            })
        }
    }

    /// Writes the file, without a line end.
    ///
    /// # Errors
    /// [`EnrolmentError::Malformed`] when it cannot be written.
    fn to_bytes(&self) -> Result<Vec<u8>, EnrolmentError> {
        strict_json::to_vec(self).map_err(malformed::<Self>)
    }
}

fn malformed<T: Document>(error: JsonError) -> EnrolmentError {
    EnrolmentError::Malformed {
        document: T::NAME,
        error,
    }
}

macro_rules! document {
    ($type:ty, $name:literal, $format:ident) => {
        impl Document for $type {
            const NAME: &'static str = $name;
            const FORMAT: &'static str = $format;

            fn format(&self) -> &str {
                &self.format
            }
        }
    };
}

document!(Request, "enrolment request", REQUEST);
document!(Challenge, "enrolment challenge", CHALLENGE);
document!(Answer, "enrolment answer", ANSWER);
