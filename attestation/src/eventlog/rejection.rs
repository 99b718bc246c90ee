//! Why a log was refused: one variant per rule, in the order in which the rules are checked.

use super::replay::Register;
use super::tcg2::{EVENTS_MAX, LOG_BYTES_MAX};
use crate::tpm::Bank;

/// A log was refused. Events are counted from 0, without the header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LogRejection {
    /// Rule L1.
    #[error("event log has {0} bytes, more than {LOG_BYTES_MAX}")]
    LogLength(usize),
    /// Rule L1: its digests prove nothing today.
    #[error(
        "event log has no crypto-agile header: it is of the SHA-1 form, whose digests can be made to collide"
    )]
    Sha1Log,
    /// Rule L1.
    #[error("header of the event log {0}")]
    HeaderMalformed(&'static str),
    /// Rule L1.
    #[error("event log has more than {EVENTS_MAX} events")]
    TooManyEvents,
    /// Rule L1.
    #[error("event {event} {what}")]
    EventMalformed {
        /// Which one.
        event: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// Rule L1: one digest for each algorithm of the header, no more and no less.
    #[error("event {event} has no digest of algorithm {algorithm:#06x}, which the header names")]
    DigestMissing {
        /// Which one.
        event: usize,
        /// The algorithm.
        algorithm: u16,
    },
    /// Rule L1.
    #[error("event {event} is for register {index}, which cannot be extended")]
    NoRegister {
        /// Which one.
        event: usize,
        /// The index found.
        index: u32,
    },
    /// Rule L1.
    #[error("event {event} is a startup locality that {what}")]
    StartupLocality {
        /// Which one.
        event: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// Rule L2: a TPM's log beside a trust domain's registers, or the reverse.
    #[error(
        "event log and registers are of different kinds: one is a TPM's, the other a trust domain's"
    )]
    KindMismatch,
    /// Rule L2.
    #[error("event log has no digests of bank {0}, which was quoted")]
    BankMissing(Bank),
    /// Rule L2.
    #[error("replay of the event log does not give the quoted value of {0}")]
    RegisterMismatch(Register),
    /// Rule L2: empty means none.
    #[error("no register that the event log extends was quoted")]
    NothingConfirmed,
    /// Rule L3.
    #[error("data of event {event} (type {event_type:#x}) does not hash to its digest")]
    DataNotDigest {
        /// Which one.
        event: usize,
        /// Its type, which says that it should.
        event_type: u32,
    },
    /// Rule L3: types are not measured, so a separator is one by its digest.
    #[error("event {0} is called a separator, and its digest is none of a separator's")]
    SeparatorDigest(usize),
    /// Rule L3: the same, the other way round.
    #[error("event {event} has the digest of a separator, and is called type {event_type:#x}")]
    SeparatorType {
        /// Which one.
        event: usize,
        /// What it is called.
        event_type: u32,
    },
    /// Rule L3: the firmware measures it once.
    #[error("event {0} measures the state of secure boot a second time")]
    SecureBootTwice(usize),
}

impl LogRejection {
    /// The rule that refused, such as `L2`.
    #[must_use]
    pub const fn rule(&self) -> &'static str {
        use LogRejection as R;
        match self {
            R::LogLength(_)
            | R::Sha1Log
            | R::HeaderMalformed(_)
            | R::TooManyEvents
            | R::EventMalformed { .. }
            | R::DigestMissing { .. }
            | R::NoRegister { .. }
            | R::StartupLocality { .. } => "L1",
            R::KindMismatch | R::BankMissing(_) | R::RegisterMismatch(_) | R::NothingConfirmed => {
                "L2"
            }
            R::DataNotDigest { .. }
            | R::SeparatorDigest(_)
            | R::SeparatorType { .. }
            | R::SecureBootTwice(_) => "L3",
        }
    }
}
