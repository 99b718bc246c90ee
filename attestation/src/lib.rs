//! Prove, and check, what a machine runs.
//!
//! Pure: no network, no clock, no files. Time is an argument. A session meets these modules in this order: the
//! [`binding`] says what must be signed, a [`provider`] signs it, an [`envelope`] carries it, [`trust`] and
//! [`expectations`] say what counts, and [`verify`] judges. [`signed`] and [`bundles`] are where expectations come from.
//! What evidence does not prove is written in `LIMITS.md`.

// What must be signed.
pub mod batch;
pub mod binding;

// Who signs it, and how it travels.
pub mod envelope;
pub mod provider;
#[cfg(feature = "test-chip")]
pub mod test_chip;

// What counts.
pub mod bundles;
pub mod expectations;
pub mod signed;
pub mod trust;

// The judgement.
pub mod azure;
pub mod eventlog;
pub mod nvidia;
pub mod rejection;
pub mod snp;
pub mod tdx;
pub mod tpm;
pub mod verify;

// What all of them are written in.
mod der;
pub mod digest;
mod ecdsa;
mod framing;
mod lines;
mod reader;
pub mod strict_json;

pub use batch::{Batch, BatchError, BatchPath};
pub use binding::{
    Binding, BindingInputs, Context, Direction, EXPORTER_LABEL, confirmation_message,
};
pub use bundles::{
    FleetChip, FleetList, PolicyPayload, ReferenceMeasurement, ReferenceValues, Revocations,
};
pub use digest::{ChipId, HexError, Measurement, Nonce, Sha256Digest, UnixTime};
pub use envelope::{ENVELOPE_BYTES_MAX, Envelope, EnvelopeError, EnvelopeParts};
pub use expectations::Expectations;
pub use provider::{EvidenceProvider, HardwareEvidence, Platform, ProviderError};
pub use rejection::Rejection;
pub use signed::{
    Issue, Kind, Payload, ReleasePublicKey, ReleaseSecretKey, SignedDocument, SignedError, Verified,
};
pub use snp::{Product, SnpPolicy, TcbVersion};
pub use tdx::{TdxCollateral, TdxPolicy, TdxRejection, TdxRoot, TdxVerdict, verify_tdx_quote};
pub use trust::TrustAnchors;
pub use verify::{Check, CheckResult, VerifiedEvidence, Verifier};
