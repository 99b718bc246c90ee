//! Replay: registers from digests, and their comparison with quoted ones (rules L1, L2).

use std::collections::{BTreeMap, BTreeSet};

use subtle::ConstantTimeEq as _;

use super::ccel;
use super::quoted::{QuotedRegisters, RegisterSource};
use super::rejection::LogRejection;
use super::tcg2::{self, Event};
use super::types::NO_ACTION;
use crate::tpm::{Bank, PCR_COUNT};

const STARTUP_LOCALITY: &[u8; 16] = b"StartupLocality\0";
/// Localities at which TPM2_Startup, or a measurement before it, can happen (PC Client PFP 1.05, 10.4.5.3).
const LOCALITIES: [u8; 3] = [0, 3, 4];

/// Whose registers a log is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogKind {
    /// A TPM's: register numbers are PCRs.
    Tcg2,
    /// A trust domain's: register numbers 1 to 4 are RTMR 0 to 3.
    Ccel,
}

/// A register, by its own number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Register {
    /// Of a TPM, 0 to 23.
    Pcr(u8),
    /// Of a trust domain, 0 to 3.
    Rtmr(u8),
}

impl Register {
    /// The number alone.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Pcr(number) | Self::Rtmr(number) => number,
        }
    }
}

impl std::fmt::Display for Register {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pcr(number) => write!(f, "PCR {number}"),
            Self::Rtmr(number) => write!(f, "RTMR {number}"),
        }
    }
}

/// A log and the registers that it gives. Nothing of it is proven before [`Replay::confirm`].
#[derive(Debug, Clone)]
pub struct Replay {
    kind: LogKind,
    banks: Vec<Bank>,
    events: Vec<Event>,
    bytes_used: usize,
    registers: BTreeMap<Bank, BTreeMap<Register, Vec<u8>>>,
}

/// Reads a log and computes every register that it extends, in every bank that it has (rule L1).
///
/// # Errors
/// The variants of [`LogRejection`] that belong to L1.
pub fn replay(log: &[u8], kind: LogKind) -> Result<Replay, LogRejection> {
    let tcg2::Log {
        banks,
        events,
        bytes_used,
    } = tcg2::read(log)?;
    let mut registers: BTreeMap<Bank, BTreeMap<Register, Vec<u8>>> = BTreeMap::new();
    let mut locality = None;
    let mut extended = BTreeSet::new();
    for (number, event) in events.iter().enumerate() {
        if event.event_type == NO_ACTION {
            if kind == LogKind::Tcg2 && event.data.starts_with(STARTUP_LOCALITY) {
                let late = locality.is_some() || extended.contains(&Register::Pcr(0));
                locality = Some(startup_locality(number, event, late)?);
            }
            continue;
        }
        let register = register(kind, event.index).ok_or(LogRejection::NoRegister {
            event: number,
            index: event.index,
        })?;
        extended.insert(register);
        for (bank, digest) in &event.digests {
            let of_bank = registers.entry(*bank).or_default();
            let value = of_bank
                .entry(register)
                .or_insert_with(|| start(*bank, register, locality));
            value.extend_from_slice(digest);
            *value = bank.digest(value);
        }
    }
    Ok(Replay {
        kind,
        banks,
        events,
        bytes_used,
        registers,
    })
}

fn register(kind: LogKind, index: u32) -> Option<Register> {
    match kind {
        LogKind::Ccel => ccel::register(index),
        LogKind::Tcg2 => u8::try_from(index)
            .ok()
            .filter(|number| *number < PCR_COUNT)
            .map(Register::Pcr),
    }
}

/// A register before its first event: zeros, and in PCR 0 the locality of startup.
fn start(bank: Bank, register: Register, locality: Option<u8>) -> Vec<u8> {
    let mut value = vec![0; bank.digest_bytes()];
    if let (Register::Pcr(0), Some(locality), Some(last)) = (register, locality, value.last_mut()) {
        *last = locality;
    }
    value
}

/// The locality of a StartupLocality event, which comes once and before anything is measured into PCR 0.
fn startup_locality(number: usize, event: &Event, late: bool) -> Result<u8, LogRejection> {
    let refused = |what| LogRejection::StartupLocality {
        event: number,
        what,
    };
    if event.index != 0 {
        return Err(refused("is for another register than 0"));
    }
    if late {
        return Err(refused(
            "comes twice, or after a measurement into register 0",
        ));
    }
    match event.data.strip_prefix(STARTUP_LOCALITY) {
        Some([locality]) if LOCALITIES.contains(locality) => Ok(*locality),
        Some([_]) => Err(refused("names a locality other than 0, 3 and 4")),
        _ => Err(refused("has no locality, or bytes after it")),
    }
}

impl Replay {
    /// Whose registers it is about.
    #[must_use]
    pub const fn kind(&self) -> LogKind {
        self.kind
    }

    /// Banks with digests, in the order of the header.
    #[must_use]
    pub fn banks(&self) -> &[Bank] {
        &self.banks
    }

    /// The events, without the header. Types and data are the word of whoever wrote the log.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Bytes before the buffer's padding.
    #[must_use]
    pub const fn bytes_used(&self) -> usize {
        self.bytes_used
    }

    /// The registers that the log extends, in one bank.
    #[must_use]
    pub fn registers(&self, bank: Bank) -> Option<&BTreeMap<Register, Vec<u8>>> {
        self.registers.get(&bank)
    }

    /// Compares with quoted registers (rule L2). Every register that was quoted and that the log extends must agree;
    /// events of registers that were not quoted stay unproven and give no claim.
    ///
    /// # Errors
    /// [`LogRejection::KindMismatch`], [`LogRejection::BankMissing`], [`LogRejection::RegisterMismatch`] and
    /// [`LogRejection::NothingConfirmed`].
    pub fn confirm(&self, quoted: &QuotedRegisters) -> Result<ConfirmedLog<'_>, LogRejection> {
        match (quoted.source, self.kind) {
            (RegisterSource::Tpm(_), LogKind::Ccel) | (RegisterSource::Tdx, LogKind::Tcg2) => {
                return Err(LogRejection::KindMismatch);
            }
            _ => {}
        }
        let bank = quoted.bank;
        if !self.banks.contains(&bank) {
            return Err(LogRejection::BankMissing(bank));
        }
        let replayed = self.registers.get(&bank).into_iter().flatten();
        let mut confirmed = BTreeSet::new();
        for (register, value) in replayed {
            let Some(expected) = quoted.values.get(&register.number()) else {
                continue;
            };
            if !bool::from(value.ct_eq(expected)) {
                return Err(LogRejection::RegisterMismatch(*register));
            }
            confirmed.insert(*register);
        }
        if confirmed.is_empty() {
            return Err(LogRejection::NothingConfirmed);
        }
        Ok(ConfirmedLog {
            replay: self,
            bank,
            source: quoted.source,
            confirmed,
        })
    }
}

/// A log whose replay gives the quoted registers. [`Replay::confirm`] is its only constructor.
///
/// ```compile_fail
/// fn claims(replay: &casemate_attestation::eventlog::Replay) {
///     replay.claims();
/// }
/// ```
///
/// ```
/// use casemate_attestation::eventlog::{Claims, LogRejection, QuotedRegisters, Replay};
/// fn claims(replay: &Replay, quoted: &QuotedRegisters) -> Result<Claims, LogRejection> {
///     replay.confirm(quoted)?.claims()
/// }
/// ```
#[derive(Debug, Clone)]
pub struct ConfirmedLog<'a> {
    replay: &'a Replay,
    bank: Bank,
    source: RegisterSource,
    confirmed: BTreeSet<Register>,
}

impl<'a> ConfirmedLog<'a> {
    /// The bank compared.
    #[must_use]
    pub const fn bank(&self) -> Bank {
        self.bank
    }

    /// Who vouches for the registers.
    #[must_use]
    pub const fn source(&self) -> RegisterSource {
        self.source
    }

    /// The registers whose replay gave the quoted value.
    #[must_use]
    pub const fn registers(&self) -> &BTreeSet<Register> {
        &self.confirmed
    }

    /// Events that were extended into a confirmed register, with their number and digest.
    pub(super) fn events(&self) -> impl Iterator<Item = Confirmed<'a>> {
        let (replay, bank) = (self.replay, self.bank);
        let confirmed = self.confirmed.clone();
        replay
            .events
            .iter()
            .enumerate()
            .filter(|(_, event)| event.event_type != NO_ACTION)
            .filter_map(move |(number, event)| {
                let register = register(replay.kind, event.index)?;
                let digest = event.digest(bank)?;
                confirmed.contains(&register).then_some(Confirmed {
                    number,
                    register,
                    event,
                    digest,
                })
            })
    }
}

/// An event whose digest is proven.
#[derive(Clone, Copy)]
pub(super) struct Confirmed<'a> {
    pub(super) number: usize,
    pub(super) register: Register,
    pub(super) event: &'a Event,
    pub(super) digest: &'a [u8],
}
