//! Prove, and check, what a machine runs.
//!
//! Pure: no network, no clock, no files. Time is an argument. A session meets these modules in this order: the
//! [`binding`] says what must be signed, a [`provider`] signs it, an [`envelope`] carries it, [`trust`] and
//! [`expectations`] say what counts, and [`verify`] judges. [`signed`] and [`bundles`] are where expectations come from,
//! [`collateral`] is what vendors say about the machines meanwhile.
//! What evidence does not prove is written in `LIMITS.md`.

// What must be signed.
pub mod batch;
pub mod binding;

// Who signs it, and how it travels.
pub mod devices;
pub mod envelope;
pub mod hardware;
pub mod provider;
#[cfg(feature = "test-chip")]
pub mod test_chip;

// What counts.
pub mod bundles;
pub mod collateral;
pub mod expectations;
mod images;
pub mod reference;
pub mod signed;
pub mod trust;

// The judgement.
pub mod azure;
pub mod eventlog;
pub mod look;
pub mod nvidia;
pub mod rejection;
pub mod snp;
pub mod tdx;
pub mod tpm;
pub mod verdict;
pub mod verify;

// What all of them are written in.
mod der;
pub mod digest;
mod ecdsa;
mod framing;
pub mod reader;
pub mod strict_json;

pub use batch::{Batch, BatchError, BatchPath};
pub use binding::{
    Binding, BindingInputs, Context, Direction, EXPORTER_LABEL, confirmation_message,
};
pub use bundles::{FleetChip, FleetDevice, FleetList, FleetTpm, PolicyPayload, Revocations};
pub use devices::{DeviceExpectationsError, DeviceSet};
pub use digest::{ChipId, HexError, Measurement, Nonce, Sha256Digest, UnixTime};
pub use envelope::{ENVELOPE_BYTES_MAX, Envelope, EnvelopeError, EnvelopeParts};
pub use expectations::{Expectations, ExpectationsError, tpm_policies};
pub use hardware::{HardwareEvidence, TpmBoot};
pub use images::Image;
pub use provider::{DeviceProvider, EvidenceProvider, Platform, ProviderError};
pub use reference::{
    NvidiaReference, ReferenceValues, SnpMeasurement, SnpReference, TdxMachine, TdxReference,
    TpmMachine, TpmReference,
};
pub use rejection::Rejection;
pub use signed::{
    Issue, Kind, Payload, ReleasePublicKey, ReleaseSecretKey, SignedDocument, SignedError, Verified,
};
pub use snp::{Product, SnpEvidence, SnpPolicy, SnpRejection, TcbVersion};
pub use tdx::{
    TdxCollateral, TdxEvidence, TdxPolicy, TdxRejection, TdxRoot, TdxVerdict, verify_tdx_quote,
};
pub use trust::TrustAnchors;
pub use verdict::{Basis, Check, CheckResult};
pub use verify::{RecordedEvidence, Verdict, VerifiedEvidence, Verifier};
