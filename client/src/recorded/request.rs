//! One piece of evidence as one document, for programs that drive the verifier: JSON in, exit code out (docs/formats/judge.md).

use casemate_attestation::strict_json::{self, hex_bytes};
use casemate_attestation::{ENVELOPE_BYTES_MAX, HardwareEvidence, Platform, UnixTime};
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
    platform: Platform,
    at: UnixTime,
    hardware: HardwareEvidence,
    #[serde(default)]
    report_data: Option<ReportData>,
    #[serde(default)]
    policy: Option<Policy>,
}

#[derive(Deserialize)]
#[serde(transparent)]
struct ReportData(#[serde(with = "hex_bytes")] [u8; 64]);

impl Request {
    /// Reads one request, strictly. White space around it is let pass.
    ///
    /// # Errors
    /// [`RecordedError::Request`] and [`RecordedError::Format`].
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
        let subject = Subject::Hardware {
            platform: wire.platform,
            evidence: wire.hardware,
        };
        let recorded = Recorded {
            subject,
            asked,
            at: Some(wire.at),
        };
        Ok(Self {
            recorded,
            policy: wire.policy,
            at: wire.at,
        })
    }
}
