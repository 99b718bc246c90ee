//! Why a quote was refused: one variant per rule, in the order in which the rules are checked.

use super::algorithm::Bank;
use super::attest::MESSAGE_BYTES_MAX;
use super::certificate::{CertificatePlace, INTERMEDIATES_MAX};
use crate::digest::UnixTime;

/// A quote was refused. Every message names the check that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TpmRejection {
    /// Rule P1.
    #[error("quoted message has {0} bytes, more than {MESSAGE_BYTES_MAX}")]
    MessageLength(usize),
    /// Rule P1: not made by a TPM.
    #[error("quoted message begins with {0:#010x}, not with TPM_GENERATED")]
    Magic(u32),
    /// Rule P1: a certification, a creation ticket, anything but a quote.
    #[error("message is an attestation of type {0:#06x}, not a quote (0x8018)")]
    NotAQuote(u16),
    /// Rule P1.
    #[error("quoted message {0}")]
    MessageMalformed(&'static str),
    /// Rule P1.
    #[error("quoted message is followed by {0} bytes that do not belong to it")]
    MessageTrailing(usize),
    /// Rule P2.
    #[error("signature {0}")]
    SignatureMalformed(&'static str),
    /// Rule P2.
    #[error("signature scheme {0:#06x} is neither RSASSA nor ECDSA")]
    SignatureScheme(u16),
    /// Rule P2.
    #[error("signature uses hash {0:#06x}, not SHA-256, SHA-384 or SHA-512")]
    SignatureHash(u16),
    /// Rule P2.
    #[error("attestation key {0}")]
    KeyMalformed(&'static str),
    /// Rule P2.
    #[error("attestation key {what} (attributes {bits:#010x}): it is no restricted signing key")]
    KeyAttributes {
        /// What is wrong.
        what: &'static str,
        /// TPMA_OBJECT.
        bits: u32,
    },
    /// Rule P2.
    #[error("signature {0}")]
    SignatureKey(&'static str),
    /// Rule P2.
    #[error("signature is not the attestation key's over the message received")]
    QuoteSignature,
    /// Rule P3: nothing was asked for, so nothing is fresh.
    #[error("the nonce to compare with is empty: a quote without a nonce proves no moment")]
    NonceEmpty,
    /// Rule P3: replay, relay, or another connection.
    #[error("extra data of the quote is not the nonce")]
    NonceMismatch,
    /// Rule P4.
    #[error("quote covers {found} selections of registers, not one")]
    SelectionCount {
        /// How many.
        found: usize,
    },
    /// Rule P4.
    #[error("quote covers bank {found:#06x}, expected {expected}")]
    PcrBank {
        /// TCG number found.
        found: u16,
        /// What policy asks for.
        expected: Bank,
    },
    /// Rule P4.
    #[error("quote covers registers {found:?}, expected {expected:?}")]
    PcrSelection {
        /// What the quote covers.
        found: Vec<u8>,
        /// What policy asks for.
        expected: Vec<u8>,
    },
    /// Rule P4.
    #[error("value of register {0}, which the quote covers, is missing")]
    PcrMissing(u8),
    /// Rule P4.
    #[error("a value is given for register {0}, which the quote does not cover")]
    PcrNotCovered(u8),
    /// Rule P4.
    #[error("value of register {register} has {found} bytes, those of {bank} have {}", bank.digest_bytes())]
    PcrLength {
        /// Which one.
        register: u8,
        /// Bytes found.
        found: usize,
        /// The bank.
        bank: Bank,
    },
    /// Rule P4.
    #[error("register values given are not those that were quoted")]
    PcrDigest,
    /// Rule P4: the machine booted something else.
    #[error("value of register {0} is not among those expected")]
    PcrUnexpected(u8),
    /// Rule P5.
    #[error("{place} {what}")]
    CertificateMalformed {
        /// Which one.
        place: CertificatePlace,
        /// What is wrong.
        what: &'static str,
    },
    /// Rule P5.
    #[error("chain has {0} intermediate certificates, more than {INTERMEDIATES_MAX}")]
    ChainLength(usize),
    /// Rule P5: an authority may not sign quotes.
    #[error("attestation key certificate is itself an authority")]
    LeafIsAuthority,
    /// Rule P5.
    #[error("attestation key certificate is not for {0}")]
    LeafUsage(&'static str),
    /// Rule P5: no root is taken from evidence.
    #[error("attestation key certificate chains to no pinned root")]
    NoPinnedRoot,
    /// Rule P5.
    #[error("{place} was not issued by the one above it: issuer name differs")]
    ChainName {
        /// The one whose issuer differs.
        place: CertificatePlace,
    },
    /// Rule P5.
    #[error("{place} is not allowed to sign certificates")]
    NotAuthority {
        /// Which one.
        place: CertificatePlace,
    },
    /// Rule P5.
    #[error("{place} stands over more authorities than it may")]
    PathLength {
        /// Which one.
        place: CertificatePlace,
    },
    /// Rule P5.
    #[error("signature of the {place} is not that of the certificate above it")]
    ChainSignature {
        /// Whose signature failed.
        place: CertificatePlace,
    },
    /// Rule P5.
    #[error("{place} is valid from {from}, now is {now}")]
    CertificateNotYetValid {
        /// Which one.
        place: CertificatePlace,
        /// When it begins.
        from: UnixTime,
        /// The time given.
        now: UnixTime,
    },
    /// Rule P5.
    #[error("{place} expired at {until}, now is {now}")]
    CertificateExpired {
        /// Which one.
        place: CertificatePlace,
        /// Its last second.
        until: UnixTime,
        /// The time given.
        now: UnixTime,
    },
    /// Rule P5: nobody vouches for the key.
    #[error("attestation key is not enrolled; enrol the machine's TPM first")]
    KeyNotEnrolled,
    /// Rule P6.
    #[error(
        "machine was restarted since: resets {reset}, restarts {restart}, expected {expected_reset} and {expected_restart}"
    )]
    Restarted {
        /// TPM resets now.
        reset: u32,
        /// TPM restarts now.
        restart: u32,
        /// Resets in the state compared with.
        expected_reset: u32,
        /// Restarts in the state compared with.
        expected_restart: u32,
    },
    /// Rule P6.
    #[error("clock of the TPM went back: {found} ms, it was {before} ms")]
    ClockWentBack {
        /// Now.
        found: u64,
        /// In the state compared with.
        before: u64,
    },
    /// Rule P6.
    #[error("firmware of the TPM is {found:#018x}, it was {before:#018x}")]
    FirmwareChanged {
        /// Now.
        found: u64,
        /// In the state compared with.
        before: u64,
    },
}

impl TpmRejection {
    /// The rule that refused, such as `P3`.
    #[must_use]
    pub const fn rule(&self) -> &'static str {
        use TpmRejection as R;
        match self {
            R::MessageLength(_)
            | R::Magic(_)
            | R::NotAQuote(_)
            | R::MessageMalformed(_)
            | R::MessageTrailing(_) => "P1",
            R::SignatureMalformed(_)
            | R::SignatureScheme(_)
            | R::SignatureHash(_)
            | R::KeyMalformed(_)
            | R::KeyAttributes { .. }
            | R::SignatureKey(_)
            | R::QuoteSignature => "P2",
            R::NonceEmpty | R::NonceMismatch => "P3",
            R::SelectionCount { .. }
            | R::PcrBank { .. }
            | R::PcrSelection { .. }
            | R::PcrMissing(_)
            | R::PcrNotCovered(_)
            | R::PcrLength { .. }
            | R::PcrDigest
            | R::PcrUnexpected(_) => "P4",
            R::CertificateMalformed { .. }
            | R::ChainLength(_)
            | R::LeafIsAuthority
            | R::LeafUsage(_)
            | R::NoPinnedRoot
            | R::ChainName { .. }
            | R::NotAuthority { .. }
            | R::PathLength { .. }
            | R::ChainSignature { .. }
            | R::CertificateNotYetValid { .. }
            | R::CertificateExpired { .. }
            | R::KeyNotEnrolled => "P5",
            R::Restarted { .. } | R::ClockWentBack { .. } | R::FirmwareChanged { .. } => "P6",
        }
    }
}
