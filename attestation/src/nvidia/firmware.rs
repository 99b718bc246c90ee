//! The firmware id in a leaf: the digest of the firmware that the attestation key was derived for (TCG DICE Attestation
//! Architecture; rule N5).
//!
//! Devices with the same firmware have the same one: it tells firmware apart, not devices.

use x509_parser::asn1_rs::{Oid, oid};

use crate::der::value;
use crate::reader::Reader;

/// CompositeDeviceID, on Hopper and its switches.
pub(super) const COMPOSITE: Oid<'static> = oid!(2.23.133.5.4.1);
/// DiceTcbInfo, on Blackwell.
pub(super) const TCB_INFO: Oid<'static> = oid!(2.23.133.5.4.1.1);

const SEQUENCE: u8 = 0x30;
const OBJECT_IDENTIFIER: u8 = 0x06;
const OCTET_STRING: u8 = 0x04;
/// `fwids` of DiceTcbInfo.
const FWIDS: u8 = 0xa6;
/// SHA-384, 2.16.840.1.101.3.4.2.2.
const SHA384: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02];

/// A SHA-384 digest of firmware.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FirmwareId([u8; 48]);

impl FirmwareId {
    /// Wraps a digest.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 48]) -> Self {
        Self(bytes)
    }

    /// The digest.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 48] {
        &self.0
    }
}

impl std::fmt::Debug for FirmwareId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FirmwareId({self})")
    }
}

impl std::fmt::Display for FirmwareId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// The FWID that ends a CompositeDeviceID: version, device key, FWID.
pub(super) fn of_composite(extension: &[u8]) -> Option<FirmwareId> {
    let mut whole = Reader::new(extension);
    let (_, content) = value(&mut whole, SEQUENCE)?;
    let mut parts = Reader::new(content);
    value(&mut parts, 0x02)?;
    value(&mut parts, SEQUENCE)?;
    let id = fwid(&mut parts)?;
    (whole.is_empty() && parts.is_empty()).then_some(id)
}

/// The first FWID of a DiceTcbInfo. Its other fields have one-byte tags in ascending order, which are passed over.
pub(super) fn of_tcb_info(extension: &[u8]) -> Option<FirmwareId> {
    let mut whole = Reader::new(extension);
    let (_, content) = value(&mut whole, SEQUENCE)?;
    let mut parts = Reader::new(content);
    let (mut found, mut last) = (None, None);
    while let Some(&tag) = parts.left().first() {
        let number = tag & 0x1f;
        if tag & 0xc0 != 0x80 || number == 0x1f || last.is_some_and(|last| number <= last) {
            return None;
        }
        last = Some(number);
        let (_, field) = value(&mut parts, tag)?;
        if tag == FWIDS {
            found = Some(fwid(&mut Reader::new(field))?);
        }
    }
    found.filter(|_| whole.is_empty())
}

fn fwid(reader: &mut Reader<'_>) -> Option<FirmwareId> {
    let (_, content) = value(reader, SEQUENCE)?;
    let mut parts = Reader::new(content);
    let (_, algorithm) = value(&mut parts, OBJECT_IDENTIFIER)?;
    let (_, digest) = value(&mut parts, OCTET_STRING)?;
    let digest = digest.try_into().ok()?;
    (algorithm == SHA384 && parts.is_empty()).then_some(FirmwareId(digest))
}
