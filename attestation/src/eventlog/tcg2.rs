//! The crypto-agile log format (TCG PC Client Platform Firmware Profile 1.05, section 10; rule L1).
//!
//! The first event is of the SHA-1 form and names the algorithms; each later one carries a digest for each of them.

use super::rejection::LogRejection;
use super::types::NO_ACTION;
use crate::reader::Reader;
use crate::tpm::Bank;

/// Longest log that is read, in bytes, padding included. Genuine ones have up to 50 KiB in buffers of up to 256 KiB.
pub const LOG_BYTES_MAX: usize = 1024 * 1024;
/// Most events that are read. Genuine logs have less than 200; IMA's list is no part of them.
pub const EVENTS_MAX: usize = 4096;

const ALGORITHMS_MAX: u32 = 16;
const DIGEST_BYTES_MAX: u16 = 64;
const SPEC_ID: &[u8; 16] = b"Spec ID Event03\0";

/// An event, as the log has it. Of all this only the digest is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The register's number in the log: a PCR, or 1 to 4 for RTMR 0 to 3.
    pub index: u32,
    /// The type, which is not measured.
    pub event_type: u32,
    /// Digests of the banks that are known here.
    pub digests: Vec<(Bank, Vec<u8>)>,
    /// Data, which is measured only where it hashes to the digest.
    pub data: Vec<u8>,
}

impl Event {
    /// The digest of one bank.
    #[must_use]
    pub fn digest(&self, bank: Bank) -> Option<&[u8]> {
        let found = self.digests.iter().find(|(known, _)| *known == bank);
        found.map(|(_, digest)| digest.as_slice())
    }
}

/// A log that was read whole. Nothing of it is proven.
pub(super) struct Log {
    /// Banks in the order of the header, without those not known here.
    pub(super) banks: Vec<Bank>,
    pub(super) events: Vec<Event>,
    /// Bytes before the padding.
    pub(super) bytes_used: usize,
}

/// Reads a log. After the last event only padding may stand: all zeros or all ones to the end of the buffer.
pub(super) fn read(bytes: &[u8]) -> Result<Log, LogRejection> {
    if bytes.len() > LOG_BYTES_MAX {
        return Err(LogRejection::LogLength(bytes.len()));
    }
    let mut reader = Reader::new(bytes);
    let algorithms = header(&mut reader)?;
    let banks: Vec<Bank> = algorithms
        .iter()
        .filter_map(|(id, _)| Bank::from_id(*id))
        .collect();
    if banks.is_empty() {
        return Err(LogRejection::HeaderMalformed(
            "names no algorithm that is known",
        ));
    }
    let mut events = Vec::new();
    while !is_padding(reader.left()) {
        if events.len() == EVENTS_MAX {
            return Err(LogRejection::TooManyEvents);
        }
        let event = read_event(&mut reader, &algorithms, events.len())?;
        events.push(event);
    }
    Ok(Log {
        banks,
        events,
        bytes_used: bytes.len() - reader.left().len(),
    })
}

/// Nothing, or nothing but one of the two bytes that buffers are filled with.
fn is_padding(left: &[u8]) -> bool {
    [0, 0xff]
        .into_iter()
        .any(|fill| left.iter().all(|byte| *byte == fill))
}

/// TCG_PCClientPCREvent with TCG_EfiSpecIdEvent: algorithms and their digest lengths.
fn header(reader: &mut Reader<'_>) -> Result<Vec<(u16, u16)>, LogRejection> {
    let malformed = LogRejection::HeaderMalformed;
    let short = || malformed("ends too early");
    let (index, event_type) = (reader.le32(), reader.le32());
    let digest: [u8; 20] = reader.array().ok_or_else(short)?;
    let length = reader.le32().ok_or_else(short)?;
    let data = usize::try_from(length)
        .ok()
        .and_then(|length| reader.take(length));
    let data = data.ok_or_else(short)?;
    // A trust domain's firmware writes its first register's number, 1.
    let first = matches!((index, event_type), (Some(0 | 1), Some(NO_ACTION)));
    if !first || !data.starts_with(SPEC_ID) {
        return Err(LogRejection::Sha1Log);
    }
    if digest != [0; 20] {
        return Err(malformed("has a digest, although it is not extended"));
    }
    let mut data = Reader::new(data);
    // Signature, platform class, versions and the size of an integer.
    data.take(SPEC_ID.len() + 8).ok_or_else(short)?;
    let count = data.le32().ok_or_else(short)?;
    if count == 0 || count > ALGORITHMS_MAX {
        return Err(malformed("names no algorithm, or more than 16"));
    }
    let mut algorithms: Vec<(u16, u16)> = Vec::new();
    for _ in 0..count {
        let (id, length) = data.le16().zip(data.le16()).ok_or_else(short)?;
        let known = Bank::from_id(id).is_none_or(|b| b.digest_bytes() == usize::from(length));
        if !known || length == 0 || length > DIGEST_BYTES_MAX {
            return Err(malformed("gives an algorithm a wrong digest length"));
        }
        if algorithms.iter().any(|(known, _)| *known == id) {
            return Err(malformed("names an algorithm twice"));
        }
        algorithms.push((id, length));
    }
    let vendor = data.byte().ok_or_else(short)?;
    data.take(usize::from(vendor)).ok_or_else(short)?;
    if data.is_empty() {
        Ok(algorithms)
    } else {
        Err(malformed("has bytes after its end"))
    }
}

/// TCG_PCR_EVENT2.
fn read_event(
    reader: &mut Reader<'_>,
    algorithms: &[(u16, u16)],
    event: usize,
) -> Result<Event, LogRejection> {
    let malformed = |what| LogRejection::EventMalformed { event, what };
    let short = || malformed("ends too early");
    let (index, event_type) = reader.le32().zip(reader.le32()).ok_or_else(short)?;
    let count = reader.le32().ok_or_else(short)?;
    if usize::try_from(count) != Ok(algorithms.len()) {
        return Err(malformed(
            "has another number of digests than the header has algorithms",
        ));
    }
    let mut found: Vec<(u16, &[u8])> = Vec::with_capacity(algorithms.len());
    for _ in 0..count {
        let id = reader.le16().ok_or_else(short)?;
        let known = algorithms.iter().find(|(known, _)| *known == id);
        let (_, length) =
            known.ok_or(malformed("has a digest of an algorithm not in the header"))?;
        found.push((id, reader.take(usize::from(*length)).ok_or_else(short)?));
    }
    for (algorithm, _) in algorithms {
        let algorithm = *algorithm;
        if !found.iter().any(|(id, _)| *id == algorithm) {
            return Err(LogRejection::DigestMissing { event, algorithm });
        }
    }
    let length = reader.le32().ok_or_else(short)?;
    let data = usize::try_from(length)
        .ok()
        .and_then(|length| reader.take(length));
    let data = data.ok_or(malformed("has data longer than what is left of the log"))?;
    let digests = found
        .into_iter()
        .filter_map(|(id, digest)| Bank::from_id(id).map(|bank| (bank, digest.to_vec())))
        .collect();
    Ok(Event {
        index,
        event_type,
        digests,
        data: data.to_vec(),
    })
}
