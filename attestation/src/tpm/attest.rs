//! The quoted message, TPMS_ATTEST of type quote, read from the bytes received (TPM 2.0 Part 2, 10.12; rule P1).
//!
//! Nothing is written back: the signature is checked over the bytes received.

use std::collections::BTreeSet;

use super::rejection::TpmRejection;
use crate::reader::Reader;

/// Longest message that is read, in bytes. With every field at its most one has less than 600.
pub const MESSAGE_BYTES_MAX: usize = 1024;

/// TPM_GENERATED_VALUE, without which the bytes may have been given to the TPM to sign (Part 2, 6.2).
const GENERATED: u32 = 0xff54_4347;
/// TPM_ST_ATTEST_QUOTE (Part 2, 6.9). The same key signs certifications and creation tickets: those are no quotes.
const QUOTE: u16 = 0x8018;
/// TPM2B_NAME: algorithm and the longest digest.
const NAME_BYTES_MAX: usize = 66;
/// TPM2B_DATA: as long as a TPMT_HA.
const DATA_BYTES_MAX: usize = 66;
/// TPML_PCR_SELECTION holds at most as many as there are hash algorithms.
const SELECTIONS_MAX: u32 = 16;
/// Bytes of a selection's bit field: 3 for the 24 registers of a PC, one more is tolerated when it is zero.
const SELECT_BYTES_MAX: u8 = 4;
const DIGEST_BYTES_MAX: usize = 64;

/// TPMS_CLOCK_INFO and the firmware version: what one quote says about the time line that it belongs to (rule P6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockState {
    /// Milliseconds that the TPM was powered, over all its life.
    pub clock_ms: u64,
    /// TPM resets: boots of the machine.
    pub reset_count: u32,
    /// TPM restarts and resumes since the last reset.
    pub restart_count: u32,
    /// Whether no value of the clock can have been reported before that was higher.
    pub safe: bool,
    /// Vendor's firmware version.
    pub firmware_version: u64,
}

/// Registers of one bank that a quote covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PcrSelection {
    /// TCG number of the bank.
    pub bank: u16,
    /// Registers, ascending.
    pub registers: BTreeSet<u8>,
}

/// A well-formed quoted message. Its signature was not checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attest {
    extra_data: Vec<u8>,
    clock: ClockState,
    selections: Vec<PcrSelection>,
    pcr_digest: Vec<u8>,
}

impl Attest {
    /// Reads a quoted message, strictly: nothing but a quote, nothing left over (rule P1).
    ///
    /// # Errors
    /// The variants of [`TpmRejection`] that belong to P1.
    pub fn parse(bytes: &[u8]) -> Result<Self, TpmRejection> {
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(TpmRejection::MessageLength(bytes.len()));
        }
        let mut reader = Reader::new(bytes);
        let short = TpmRejection::MessageMalformed;
        let magic = reader.be32().ok_or(short("ends inside its magic"))?;
        if magic != GENERATED {
            return Err(TpmRejection::Magic(magic));
        }
        let kind = reader.be16().ok_or(short("ends inside its type"))?;
        if kind != QUOTE {
            return Err(TpmRejection::NotAQuote(kind));
        }
        reader
            .sized(NAME_BYTES_MAX)
            .ok_or(short("has no well-formed signer name"))?;
        let extra_data = reader
            .sized(DATA_BYTES_MAX)
            .ok_or(short("has no well-formed extra data"))?
            .to_vec();
        let clock = clock(&mut reader)?;
        let selections = selections(&mut reader)?;
        let pcr_digest = reader
            .sized(DIGEST_BYTES_MAX)
            .ok_or(short("ends inside its register digest"))?
            .to_vec();
        if !reader.is_empty() {
            return Err(TpmRejection::MessageTrailing(reader.left().len()));
        }
        Ok(Self {
            extra_data,
            clock,
            selections,
            pcr_digest,
        })
    }

    /// What the asker gave the TPM to sign along: the nonce.
    #[must_use]
    pub fn extra_data(&self) -> &[u8] {
        &self.extra_data
    }

    /// Clock, counters and firmware version.
    #[must_use]
    pub const fn clock(&self) -> ClockState {
        self.clock
    }

    /// The registers covered.
    #[must_use]
    pub fn selections(&self) -> &[PcrSelection] {
        &self.selections
    }

    /// The digest over their values, by the hash that the signature uses.
    #[must_use]
    pub fn pcr_digest(&self) -> &[u8] {
        &self.pcr_digest
    }
}

fn clock(reader: &mut Reader<'_>) -> Result<ClockState, TpmRejection> {
    let fields = (|| {
        let (clock_ms, reset_count) = (reader.be64()?, reader.be32()?);
        let (restart_count, safe) = (reader.be32()?, reader.byte()?);
        Some((clock_ms, reset_count, restart_count, safe, reader.be64()?))
    })();
    let (clock_ms, reset_count, restart_count, safe, firmware_version) = fields.ok_or(
        TpmRejection::MessageMalformed("ends inside its clock or firmware version"),
    )?;
    if safe > 1 {
        return Err(TpmRejection::MessageMalformed(
            "has a clock that is neither safe nor not safe",
        ));
    }
    Ok(ClockState {
        clock_ms,
        reset_count,
        restart_count,
        safe: safe == 1,
        firmware_version,
    })
}

/// TPML_PCR_SELECTION (Part 2, 10.9.7).
fn selections(reader: &mut Reader<'_>) -> Result<Vec<PcrSelection>, TpmRejection> {
    let malformed = TpmRejection::MessageMalformed;
    let count = reader
        .be32()
        .filter(|count| *count <= SELECTIONS_MAX)
        .ok_or(malformed("has no well-formed number of selections"))?;
    let mut out = Vec::new();
    for _ in 0..count {
        let bank = reader.be16().ok_or(malformed("ends inside a selection"))?;
        let bits = reader
            .byte()
            .filter(|length| *length <= SELECT_BYTES_MAX)
            .and_then(|length| reader.take(usize::from(length)))
            .ok_or(malformed("ends inside a selection"))?;
        let registers: BTreeSet<u8> = (0_u8..)
            .zip(bits)
            .flat_map(|(byte, bits)| {
                (0..8)
                    .filter(move |bit| bits >> bit & 1 == 1)
                    .map(move |bit| 8 * byte + bit)
            })
            .collect();
        if registers
            .iter()
            .any(|register| *register >= super::PCR_COUNT)
        {
            return Err(malformed("selects a register above 23"));
        }
        out.push(PcrSelection { bank, registers });
    }
    Ok(out)
}
