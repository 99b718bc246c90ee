//! The nonce that devices answer, and the digest of what they answered (rule N11).
//!
//! A session's binding carries the digest of the device evidence, and the device evidence carries the nonce: a nonce made from
//! the binding would be a circle. It is made from what both ends know before either exists.

use std::fmt;

use subtle::ConstantTimeEq as _;

use super::appraise::DeviceEvidence;
use super::policy::DriverMode;
use crate::binding::BindingInputs;
use crate::digest::Sha256Digest;
use crate::framing;

const NONCE_LABEL: &str = "casemate/gpu/v1";
const DEVICES_LABEL: &str = "casemate/devices/v1";
const EVIDENCE_LABEL: &str = "casemate/gpu-evidence/v1";

/// The nonce of a measurement request.
#[derive(Clone, Copy)]
pub struct GpuNonce {
    bytes: [u8; 32],
    of_session: bool,
}

impl GpuNonce {
    /// A nonce that no session stands behind: evidence that was recorded, vectors, a look at a machine of one's own. Verdicts
    /// say that nothing ties such evidence to a connection.
    #[must_use]
    pub const fn recorded(bytes: [u8; 32]) -> Self {
        Self {
            bytes,
            of_session: false,
        }
    }

    /// The bytes to ask a device with.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// Whether it was derived from a session by [`gpu_nonce`].
    #[must_use]
    pub const fn is_of_session(&self) -> bool {
        self.of_session
    }

    /// Constant time.
    pub(super) fn matches(&self, bytes: &[u8; 32]) -> bool {
        self.bytes.ct_eq(bytes).into()
    }
}

impl fmt::Debug for GpuNonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GpuNonce({})", hex::encode(self.bytes))
    }
}

/// What a session's context carries as `device_evidence` where an envelope has devices: SHA-256 of the label
/// `casemate/devices/v1` and the framed mode of the driver and [`device_evidence_digest`]. So the guest's word about the mode is
/// signed with everything else that the guest says.
#[must_use]
pub fn devices_digest(mode: DriverMode, devices: &[DeviceEvidence]) -> Sha256Digest {
    let digest = device_evidence_digest(devices);
    Sha256Digest::of(&framing::labelled(
        DEVICES_LABEL,
        &[mode.as_str().as_bytes(), digest.as_bytes()],
    ))
}

/// The nonce for a session's devices: SHA-256 of the label `casemate/gpu/v1` and the framed direction, exporter, server leaf,
/// client leaf and challenge nonce. The context is left out, because it carries the digest of the answer.
#[must_use]
pub fn gpu_nonce(inputs: &BindingInputs<'_>) -> GpuNonce {
    let message = framing::labelled(
        NONCE_LABEL,
        &[
            inputs.direction.as_str().as_bytes(),
            inputs.exporter,
            inputs.server_leaf.as_bytes(),
            inputs.client_leaf.as_bytes(),
            inputs.nonce.as_bytes(),
        ],
    );
    GpuNonce {
        bytes: *Sha256Digest::of(&message).as_bytes(),
        of_session: true,
    }
}

/// What a session's context carries as `device_evidence`: SHA-256 of the label `casemate/gpu-evidence/v1` and the framed report
/// and chain of each device, in order, as received. Without a device it is the digest of what is absent (rule P-5).
#[must_use]
pub fn device_evidence_digest(devices: &[DeviceEvidence]) -> Sha256Digest {
    if devices.is_empty() {
        return Sha256Digest::absent();
    }
    let items: Vec<&[u8]> = devices
        .iter()
        .flat_map(|device| [device.report.as_slice(), device.chain.as_slice()])
        .collect();
    Sha256Digest::of(&framing::labelled(EVIDENCE_LABEL, &items))
}
