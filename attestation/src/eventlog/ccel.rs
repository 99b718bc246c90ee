//! What is different in a trust domain's log: register numbers, and the ACPI table that points to it.
//!
//! The log is in the format of `tcg2` (UEFI confidential computing measurement protocol). The ACPI table comes from
//! firmware and is not signed: it says where a log lies, and nothing about what it is worth.

use super::replay::Register;
use crate::reader::Reader;

/// Length of the CCEL table in bytes (ACPI 6.5, 5.2.34).
pub const TABLE_BYTES: usize = 56;
const TYPE_TDX: u8 = 2;

/// Where firmware put a trust domain's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CcelTable {
    /// Least length of the area, in bytes.
    pub area_bytes: u64,
    /// Physical address of the area.
    pub address: u64,
}

/// Why a CCEL table was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CcelError {
    /// Not 56 bytes that begin as they should.
    #[error("not a CCEL table of {TABLE_BYTES} bytes")]
    NotATable,
    /// All bytes must add up to zero.
    #[error("checksum of the CCEL table is wrong")]
    Checksum,
    /// Another confidential computing type.
    #[error("CCEL table is of confidential computing type {0}, not 2 (TDX)")]
    NotTdx(u8),
}

impl CcelTable {
    /// Reads the table.
    ///
    /// # Errors
    /// [`CcelError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, CcelError> {
        if bytes.len() != TABLE_BYTES {
            return Err(CcelError::NotATable);
        }
        let mut reader = Reader::new(bytes);
        let fields = (|| {
            let (signature, length) = (reader.array::<4>()?, reader.le32()?);
            // Revision, checksum and who made the table.
            reader.take(28)?;
            let kind = reader.byte()?;
            // Subtype and two reserved bytes.
            reader.take(3)?;
            Some((signature, length, kind, reader.le64()?, reader.le64()?))
        })();
        let (signature, length, kind, area_bytes, address) = fields.ok_or(CcelError::NotATable)?;
        if signature != *b"CCEL" || usize::try_from(length) != Ok(TABLE_BYTES) {
            return Err(CcelError::NotATable);
        }
        if bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)) != 0 {
            return Err(CcelError::Checksum);
        }
        if kind != TYPE_TDX {
            return Err(CcelError::NotTdx(kind));
        }
        Ok(Self {
            area_bytes,
            address,
        })
    }
}

/// The register of an index in a log: 1 to 4 are RTMR 0 to 3. Index 0 is MRTD, which nothing extends after launch.
pub(super) fn register(index: u32) -> Option<Register> {
    let number = index.checked_sub(1)?;
    u8::try_from(number)
        .ok()
        .filter(|number| *number < 4)
        .map(Register::Rtmr)
}
