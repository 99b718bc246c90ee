//! TPM 2.0: quotes, who vouches for the key that signed one, and where that TPM lives.
//!
//! Rules P1 to P6 are those of `docs/formats/tpm.md`; [`verify_tpm_quote`] walks them in that order. A quote says which
//! values a TPM's registers had. It says nothing about a processor: what it is worth depends on [`TpmLocation`].

mod algorithm;
mod appraise;
mod attest;
mod certificate;
mod key;
mod policy;
mod rejection;
mod session;
mod signature;

pub use algorithm::Bank;
pub(crate) use appraise::{Quote, TrustedKey, Vouched, appraise};
pub use appraise::{TpmEvidence, TpmVerdict, verify_tpm_quote};
pub use attest::{Attest, ClockState, MESSAGE_BYTES_MAX, PcrSelection};
pub use certificate::{CertificatePlace, verify_ak_certificate, verify_ek_certificate};
pub use key::{AttestationKey, Curve, KeyEvidence, PublicKey};
pub use policy::{
    AkTrust, Continuity, EnrolledKey, HostedIn, PinnedTpmRoot, TpmAnchors, TpmLocation, TpmPolicy,
    TpmPolicyError,
};
pub use rejection::TpmRejection;
pub use session::{registers_digest, session_nonce, tpm_id};
pub use signature::QuoteSignature;

/// Registers of a PC Client TPM: 0 to 23.
pub const PCR_COUNT: u8 = 24;
