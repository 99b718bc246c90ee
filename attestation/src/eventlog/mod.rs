//! Measured boot logs: what was extended into registers, replayed and compared with what was quoted.
//!
//! A log is a plain file that whoever runs the machine may have written. It gains weight in three steps, each of which has
//! its own type: [`replay`] reads it and computes registers, [`Replay::confirm`] compares them with quoted ones, and
//! [`ConfirmedLog::claims`] says what the events mean, by data that hashes to a confirmed digest and never by an event's
//! type alone. Rules L1 to L4 are those of `docs/formats/tpm.md`.

pub mod ccel;
mod claims;
mod quoted;
mod rejection;
mod replay;
mod tcg2;
mod types;
mod variable;

pub use crate::verdict::Basis;
pub use claims::{Claim, ClaimValue, Claims, Loader};
pub use quoted::{QuotedRegisters, RegisterSource};
pub use rejection::LogRejection;
pub use replay::{ConfirmedLog, LogKind, Register, Replay, replay};
pub use tcg2::{EVENTS_MAX, Event, LOG_BYTES_MAX};
