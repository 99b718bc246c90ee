//! Intel TDX: a quote over our data, by configfs-tsm; and Intel's quote generation service, for who has a TDREPORT.
//!
//! A TDREPORT itself comes from an ioctl of `/dev/tdx_guest` alone, which no safe code can make (docs/decisions/0014).

pub mod quote_service;

use casemate_attestation::reader::Reader;

const HEADER_BYTES: usize = 48;
/// Report data inside a TD report body of either generation.
const REPORT_DATA: std::ops::Range<usize> = 520..584;

/// The report data of a quote of version 4 or 5 (TDX DCAP Quoting Library API, A.3 and A.4); `None` when it is neither, or ends
/// before. Says nothing about the rest of the quote.
#[must_use]
pub fn report_data(quote: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader::new(quote);
    let mut header = reader.take(HEADER_BYTES).map(Reader::new)?;
    match header.le16()? {
        4 => {}
        // The body's type and size come first.
        5 => {
            reader.take(6)?;
        }
        _ => return None,
    }
    reader.left().get(REPORT_DATA)
}
