//! An SPDM 1.1 measurement report as a driver hands it out: the request, the response and its signature (DSP0274 1.1,
//! GET_MEASUREMENTS and MEASUREMENTS; rule N1).
//!
//! Every length is checked against what is left, and the bytes received are kept: the signature is checked over them.

use std::collections::BTreeMap;

use super::opaque::Opaque;
use super::rejection::NvidiaRejection;
use crate::reader::Reader;

/// Longest report that is read, in bytes: the driver's own buffer.
pub const REPORT_BYTES_MAX: usize = 8192;
/// Bytes of a signature: r and s of P-384, big-endian.
pub(super) const SIGNATURE_BYTES: usize = 96;

/// SPDM 1.1.
const VERSION: u8 = 0x11;
/// MEASUREMENTS.
const MEASUREMENTS: u8 = 0x60;
/// A block's specification: DMTF.
const DMTF: u8 = 1;
/// Bytes of a SHA-384 digest.
const DIGEST_BYTES: usize = 48;
/// Highest type of a digest that DSP0274 1.1 knows: 0 ROM, 1 firmware, 2 hardware and 3 firmware configuration. Bit 7 would mean a raw value.
const VALUE_TYPE_MAX: u8 = 3;

/// The request as it stands before the response, 37 bytes. It is part of what is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MeasurementRequest {
    /// SPDM version, 0x11.
    pub version: u8,
    /// Request code, 0xE0.
    pub code: u8,
    /// Attributes, 1: sign.
    pub attributes: u8,
    /// Which measurements, 0xFF: all.
    pub operation: u8,
    /// The requester's nonce.
    pub nonce: [u8; 32],
    /// Slot of the certificate chain.
    pub slot: u8,
}

/// A report that was read. Nothing of it is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuReport {
    request: MeasurementRequest,
    response_slot: u8,
    measurements: BTreeMap<u8, [u8; DIGEST_BYTES]>,
    opaque: Opaque,
    signed: Vec<u8>,
    signature: [u8; SIGNATURE_BYTES],
    unread: usize,
}

impl GpuReport {
    /// Reads a report. Bytes behind the signature are counted and not read: nobody signed them, and captures that drivers
    /// and tools publish have them, being cut from a larger buffer.
    ///
    /// # Errors
    /// The variants of [`NvidiaRejection`] that belong to N1.
    pub fn parse(bytes: &[u8]) -> Result<Self, NvidiaRejection> {
        if bytes.len() > REPORT_BYTES_MAX {
            return Err(NvidiaRejection::ReportLength(bytes.len()));
        }
        let ends = |place| NvidiaRejection::ReportEnds(place);
        let mut reader = Reader::new(bytes);
        let request = request(&mut reader).ok_or(ends("request"))?;
        let header: [u8; 4] = reader.array().ok_or(ends("response header"))?;
        let response_slot = response(header)?;
        let blocks = reader.byte().ok_or(ends("response header"))?;
        let [low, middle, high] = reader.array().ok_or(ends("response header"))?;
        let declared = u32::from_le_bytes([low, middle, high, 0]);
        let left = reader.left().len();
        let record = usize::try_from(declared)
            .ok()
            .and_then(|length| reader.take(length))
            .ok_or(NvidiaRejection::RecordLength { declared, left })?;
        let measurements = measurements(record, blocks)?;
        // The responder's own nonce: signed, and of no use to us.
        reader.take(32).ok_or(ends("responder's nonce"))?;
        let length = reader.le16().ok_or(ends("length of the opaque data"))?;
        let opaque = reader
            .take(usize::from(length))
            .ok_or(ends("opaque data"))?;
        let opaque = Opaque::parse(opaque)?;
        let left = reader.left().len();
        let signed = bytes
            .len()
            .checked_sub(left)
            .and_then(|end| bytes.get(..end))
            .unwrap_or_default();
        let signature = reader.array().ok_or(ends("signature"))?;
        Ok(Self {
            request,
            response_slot,
            measurements,
            opaque,
            signed: signed.to_vec(),
            signature,
            unread: reader.left().len(),
        })
    }

    /// What the report says it answers.
    #[must_use]
    pub const fn request(&self) -> &MeasurementRequest {
        &self.request
    }

    pub(super) const fn response_slot(&self) -> u8 {
        self.response_slot
    }

    /// Measurements by SPDM index, from 1: manifests count from 0.
    #[must_use]
    pub const fn measurements(&self) -> &BTreeMap<u8, [u8; DIGEST_BYTES]> {
        &self.measurements
    }

    /// NVIDIA's own fields.
    #[must_use]
    pub const fn opaque(&self) -> &Opaque {
        &self.opaque
    }

    /// What the signature covers: request and response up to the signature, as received.
    #[must_use]
    pub fn signed(&self) -> &[u8] {
        &self.signed
    }

    /// r and s.
    #[must_use]
    pub const fn signature(&self) -> &[u8; SIGNATURE_BYTES] {
        &self.signature
    }

    /// How many bytes stand behind the signature.
    #[must_use]
    pub const fn unread(&self) -> usize {
        self.unread
    }
}

fn request(reader: &mut Reader<'_>) -> Option<MeasurementRequest> {
    Some(MeasurementRequest {
        version: reader.byte()?,
        code: reader.byte()?,
        attributes: reader.byte()?,
        operation: reader.byte()?,
        nonce: reader.array()?,
        slot: reader.byte()?,
    })
}

/// Checks the response's header and returns its slot.
fn response([version, code, total, slot]: [u8; 4]) -> Result<u8, NvidiaRejection> {
    if version != VERSION {
        return Err(NvidiaRejection::SpdmVersion(version));
    }
    if code != MEASUREMENTS {
        return Err(NvidiaRejection::NotMeasurements(code));
    }
    // The total is only given when no measurement was asked for. Upper bits of the slot are reserved in 1.1.
    if total != 0 || slot & 0xf0 != 0 {
        return Err(NvidiaRejection::ResponseReserved);
    }
    Ok(slot)
}

/// The blocks of a measurement record: all of it, as many as declared, none twice.
fn measurements(
    record: &[u8],
    declared: u8,
) -> Result<BTreeMap<u8, [u8; DIGEST_BYTES]>, NvidiaRejection> {
    let mut reader = Reader::new(record);
    let mut out = BTreeMap::new();
    while !reader.is_empty() {
        let number = out.len().saturating_add(1);
        let (index, value) =
            block(&mut reader).map_err(|what| NvidiaRejection::BlockMalformed { number, what })?;
        if out.insert(index, value).is_some() {
            return Err(NvidiaRejection::BlockTwice(index));
        }
    }
    if out.len() != usize::from(declared) {
        return Err(NvidiaRejection::BlockCount {
            declared,
            found: out.len(),
        });
    }
    Ok(out)
}

fn block(reader: &mut Reader<'_>) -> Result<(u8, [u8; DIGEST_BYTES]), &'static str> {
    const ENDS: &str = "ends early";
    let index = reader.byte().ok_or(ENDS)?;
    let specification = reader.byte().ok_or(ENDS)?;
    let length = reader.le16().ok_or(ENDS)?;
    let mut content = Reader::new(reader.take(usize::from(length)).ok_or(ENDS)?);
    if !(1..=0xfe).contains(&index) {
        return Err("has an index that is none");
    }
    if specification != DMTF {
        return Err("is not of the DMTF's form");
    }
    let kind = content.byte().ok_or(ENDS)?;
    if kind > VALUE_TYPE_MAX {
        return Err("is no digest of a known type");
    }
    if content.le16() != Some(48) {
        return Err("has no value of 48 bytes");
    }
    let value = content.array().ok_or(ENDS)?;
    if !content.is_empty() {
        return Err("is longer than its value");
    }
    Ok((index, value))
}
