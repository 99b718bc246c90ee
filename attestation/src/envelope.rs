//! The evidence envelope (rules P-30 to P-35): one strict document that carries report, collateral and claims.
//!
//! Reading an envelope proves nothing. Only [`Verifier::verify`](crate::Verifier::verify) does.

use serde::{Deserialize, Deserializer, Serialize};

use crate::batch::BatchPath;
use crate::binding::{Binding, Context, Direction};
use crate::devices::DeviceSet;
use crate::digest::Sha256Digest;
use crate::hardware::HardwareEvidence;
use crate::provider::Platform;
use crate::strict_json::{self, JsonError};

/// The most bytes that an envelope may have. Intel's documents take 50 KiB, an event log up to a few hundred.
pub const ENVELOPE_BYTES_MAX: usize = 1024 * 1024;

const FORMAT: &str = "casemate/evidence/v2";

/// Why an envelope was refused before anything in it was judged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// Rules P-1, P-2, P-30.
    #[error("evidence envelope: {0}")]
    Json(#[from] JsonError),
    /// Rule P-30: another format.
    #[error("evidence envelope has a format other than {FORMAT}")]
    Format,
    /// Rule P-32: evidence of another kind than the platform's.
    #[error("evidence envelope of platform {platform} carries evidence of kind {kind}")]
    Kind {
        /// The platform that the envelope names.
        platform: Platform,
        /// The kind of what it carries.
        kind: &'static str,
    },
    /// Rule P-36.
    #[error("evidence envelope: devices {0}")]
    Devices(&'static str),
}

/// What an envelope says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvelopeParts {
    /// The kind of evidence that the sender claims.
    pub platform: Platform,
    /// Whose machine the sender says it describes.
    pub direction: Direction,
    /// Report and collateral.
    pub hardware: HardwareEvidence,
    /// Claims that count only through the binding (rule P-35).
    pub context: Context,
    /// The path, when the report serves a batch.
    pub batch: Option<BatchPath>,
    /// Devices of the machine that prove themselves beside it; `None` for none.
    pub devices: Option<DeviceSet>,
}

/// An envelope that was read, with the bytes received. Well-formed, not verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    bytes: Vec<u8>,
    parts: EnvelopeParts,
}

impl Envelope {
    /// Reads one envelope, strictly.
    ///
    /// # Errors
    /// [`EnvelopeError`] names the rule that was broken.
    pub fn parse(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let wire: Wire = strict_json::from_slice(bytes, ENVELOPE_BYTES_MAX)?;
        if wire.format != FORMAT {
            return Err(EnvelopeError::Format);
        }
        let parts = EnvelopeParts::from(wire);
        parts.must_agree()?;
        let bytes = bytes.to_vec();
        Ok(Self { bytes, parts })
    }

    /// Writes an envelope.
    ///
    /// # Errors
    /// [`EnvelopeError::Kind`], and [`JsonError::TooLong`] when the parts exceed [`ENVELOPE_BYTES_MAX`].
    pub fn build(parts: EnvelopeParts) -> Result<Self, EnvelopeError> {
        parts.must_agree()?;
        let bytes = strict_json::to_vec(&Wire::from(parts.clone()))?;
        if bytes.len() > ENVELOPE_BYTES_MAX {
            return Err(JsonError::TooLong {
                found: bytes.len(),
                limit: ENVELOPE_BYTES_MAX,
            }
            .into());
        }
        Ok(Self { bytes, parts })
    }

    /// The bytes as received or written.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The evidence digest (rule P-34), over the bytes as received.
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        Sha256Digest::of(&self.bytes)
    }

    /// Everything that the envelope says.
    #[must_use]
    pub const fn parts(&self) -> &EnvelopeParts {
        &self.parts
    }

    /// The kind of evidence that the sender claims.
    #[must_use]
    pub const fn platform(&self) -> Platform {
        self.parts.platform
    }

    /// Whose machine the sender says it describes.
    #[must_use]
    pub const fn direction(&self) -> Direction {
        self.parts.direction
    }

    /// Claims to compute the binding with. Believe them only after verification (rule P-35).
    #[must_use]
    pub const fn context(&self) -> &Context {
        &self.parts.context
    }

    /// Report and collateral.
    #[must_use]
    pub const fn hardware(&self) -> &HardwareEvidence {
        &self.parts.hardware
    }

    /// Devices beside the machine's own evidence.
    #[must_use]
    pub const fn devices(&self) -> Option<&DeviceSet> {
        self.parts.devices.as_ref()
    }

    /// What REPORT_DATA must be for `binding`: the binding itself, or the batch that holds it (rules P-23, P-24).
    #[must_use]
    pub fn report_data(&self, binding: &Binding) -> [u8; 64] {
        match &self.parts.batch {
            Some(path) => path.report_data(binding),
            None => *binding.as_bytes(),
        }
    }
}

impl EnvelopeParts {
    /// Rules P-32 and P-36: the platform and the kind of evidence go together, devices are in order.
    fn must_agree(&self) -> Result<(), EnvelopeError> {
        let (platform, kind) = (self.platform, self.hardware.kind());
        if !self.hardware.is_of(platform) {
            return Err(EnvelopeError::Kind { platform, kind });
        }
        let devices = self.devices.as_ref();
        devices.map_or(Ok(()), |it| it.form().map_err(EnvelopeError::Devices))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    format: String,
    platform: Platform,
    direction: Direction,
    hardware: HardwareEvidence,
    context: Context,
    #[serde(deserialize_with = "strict_json::required")]
    batch: Option<BatchPath>,
    // Missing is the one way to say that there are none, so that an envelope has one form.
    #[serde(
        default,
        deserialize_with = "present",
        skip_serializing_if = "Option::is_none"
    )]
    devices: Option<DeviceSet>,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<DeviceSet>, D::Error> {
    DeviceSet::deserialize(deserializer).map(Some)
}

impl From<Wire> for EnvelopeParts {
    fn from(wire: Wire) -> Self {
        Self {
            platform: wire.platform,
            direction: wire.direction,
            hardware: wire.hardware,
            context: wire.context,
            batch: wire.batch,
            devices: wire.devices,
        }
    }
}

impl From<EnvelopeParts> for Wire {
    fn from(parts: EnvelopeParts) -> Self {
        Self {
            format: FORMAT.to_owned(),
            platform: parts.platform,
            direction: parts.direction,
            hardware: parts.hardware,
            context: parts.context,
            batch: parts.batch,
            devices: parts.devices,
        }
    }
}
