//! NVIDIA GPUs and switches: SPDM measurement reports, whose device signed them, and whether what they measured is listed.
//!
//! Rules N1 to N12 are those of `docs/formats/nvidia.md`; [`verify_device`] and [`verify_devices`] walk them. A good report is
//! not a confidential GPU: whether confidential computing is on is in no report, and no report names the machine that it came from.
//! Manifests (signed XML) are not read here; they are converted to plain lists ([`GpuReference`]) when a release is made. Whether a
//! certificate was revoked is what answers say that travel with the evidence ([`OcspAnswers`]).

mod answers;
mod appraise;
mod chain;
mod firmware;
pub(crate) mod held;
mod look;
mod manifest;
mod measurements;
mod nonce;
mod ocsp;
mod ocsp_read;
mod opaque;
mod policy;
mod rejection;
mod report;
mod roots;
mod set;

pub use answers::OcspAnswers;
pub use appraise::{DeviceEvidence, GpuVerdict, verify_device};
pub use chain::{CHAIN_BYTES_MAX, CertificatePlace};
pub use firmware::FirmwareId;
pub use held::{WithIssuer, askable};
pub use look::{DeviceLook, look_at_device};
pub use manifest::{ManifestSigner, PinnedManifestRoot};
pub use measurements::{GpuReference, GpuReferenceError, ReferenceKind};
pub use nonce::{GpuNonce, device_evidence_digest, devices_digest, gpu_nonce};
pub use ocsp::{Good, OCSP_BYTES_MAX, OcspRejection, OcspResponse, judge_ocsp, ocsp_request};
pub use opaque::{DeviceKind, FeatureFlag, Opaque, Pdi};
pub use policy::{
    AbsentFlag, DriverMode, DriverState, GpuPolicy, GpuPolicyError, GpuPolicyParts, Revocation,
};
pub use rejection::NvidiaRejection;
pub use report::{GpuReport, MeasurementRequest, REPORT_BYTES_MAX};
pub use roots::PinnedGpuRoot;
pub use set::{DEVICES_MAX, GpuSetVerdict, verify_devices};
