//! Intel's quote generation service (QGS): a TDREPORT goes in, a quote comes out (DCAP, `qgs_msg_lib.h`, version 1.0).
//!
//! It listens on the host, port 4050 of the virtual socket. Messages have a length of four bytes, big-endian, before them; their
//! fields are little-endian. The host answers: every length is checked, and the quote must be over the report's own data.

use std::io::{Read, Write};

use crate::DeviceError;
use casemate_attestation::reader::Reader;

/// The service's port.
pub const PORT: u32 = 4050;
/// Length of a TDREPORT (TDX module, TDREPORT_STRUCT).
pub const TD_REPORT_BYTES: usize = 1024;
/// Longest answer that is read: the driver's own buffer for quotes has 16 KiB.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024;

const DEVICE: &str = "the quote generation service";
const GET_QUOTE_REQUEST: u32 = 0;
const GET_QUOTE_RESPONSE: u32 = 1;
const HEADER_BYTES: usize = 16;
const MAJOR: u16 = 1;
const MINOR: u16 = 0;
/// REPORTDATA inside the TDREPORT's REPORTMACSTRUCT.
const REPORT_DATA: std::ops::Range<usize> = 128..192;

/// Connects to the service on the host.
///
/// # Errors
/// [`DeviceError`] when there is no virtual socket, or nobody listens.
#[cfg(feature = "vsock")]
pub fn connect(wait: std::time::Duration) -> Result<vsock::VsockStream, DeviceError> {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::ConnectionReset => {
            DeviceError::Unavailable {
                device: DEVICE,
                why: error.to_string(),
            }
        }
        _ => DeviceError::of_system(DEVICE, &error),
    };
    let stream =
        vsock::VsockStream::connect_with_cid_port(vsock::VMADDR_CID_HOST, PORT).map_err(failed)?;
    stream.set_read_timeout(Some(wait)).map_err(failed)?;
    stream.set_write_timeout(Some(wait)).map_err(failed)?;
    Ok(stream)
}

/// One quote for this TDREPORT over a fresh connection.
///
/// # Errors
/// [`DeviceError`].
pub fn quote<S: Read + Write>(
    service: &mut S,
    report: &[u8; TD_REPORT_BYTES],
) -> Result<Vec<u8>, DeviceError> {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => malformed("it ends too early"),
        // A time-out on a socket reads like a lock that is held: the service may have begun, so it is not asked again.
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => DeviceError::Failed {
            device: DEVICE,
            why: "no answer in time".into(),
        },
        _ => DeviceError::of_system(DEVICE, &error),
    };
    service.write_all(&request(report)).map_err(failed)?;
    service.flush().map_err(failed)?;
    let mut length = [0_u8; 4];
    service.read_exact(&mut length).map_err(failed)?;
    let length = usize::try_from(u32::from_be_bytes(length))
        .ok()
        .filter(|length| (HEADER_BYTES..=ANSWER_BYTES_MAX).contains(length))
        .ok_or_else(|| malformed("its length is beyond its bounds"))?;
    let mut message = vec![0_u8; length];
    service.read_exact(&mut message).map_err(failed)?;
    let quote = answer(&message)?;
    match crate::tdx::report_data(quote) {
        None => Err(malformed("the quote ends before its report data")),
        signed if signed == report.get(REPORT_DATA) => Ok(quote.to_vec()),
        Some(_) => Err(DeviceError::NotOurs {
            device: DEVICE,
            what: "the quote is over other data",
        }),
    }
}

/// The request's bytes, with their length before them.
#[must_use]
pub fn request(report: &[u8; TD_REPORT_BYTES]) -> Vec<u8> {
    const MESSAGE_BYTES: u32 = 16 + 8 + 1024;
    let mut out = MESSAGE_BYTES.to_be_bytes().to_vec();
    out.extend(MAJOR.to_le_bytes());
    out.extend(MINOR.to_le_bytes());
    out.extend(GET_QUOTE_REQUEST.to_le_bytes());
    out.extend(MESSAGE_BYTES.to_le_bytes());
    // No error in a request; the report's length; no list of attestation keys to choose from.
    out.extend(0_u32.to_le_bytes());
    out.extend(1024_u32.to_le_bytes());
    out.extend(0_u32.to_le_bytes());
    out.extend_from_slice(report);
    out
}

/// The quote inside an answer (without the length before it).
///
/// # Errors
/// [`DeviceError::Failed`] with the service's code (it has none for "come back later"), [`DeviceError::Malformed`].
pub fn answer(message: &[u8]) -> Result<&[u8], DeviceError> {
    let mut reader = Reader::new(message);
    let short = || malformed("it ends inside its header");
    let major = reader.le16().ok_or_else(short)?;
    reader.le16().ok_or_else(short)?;
    let kind = reader.le32().ok_or_else(short)?;
    let size = reader.le32().ok_or_else(short)?;
    let code = reader.le32().ok_or_else(short)?;
    if major != MAJOR || kind != GET_QUOTE_RESPONSE {
        return Err(malformed("it is no answer of version 1 to a quote request"));
    }
    if usize::try_from(size) != Ok(message.len()) {
        return Err(malformed("it says another length than it has"));
    }
    if code != 0 {
        return Err(DeviceError::Failed {
            device: DEVICE,
            why: format!("error {code:#x}"),
        });
    }
    let id = reader.le32().ok_or_else(short)?;
    let length = reader.le32().ok_or_else(short)?;
    let bytes = |length: u32| usize::try_from(length).unwrap_or(usize::MAX);
    reader
        .take(bytes(id))
        .ok_or_else(|| malformed("it ends inside its key id"))?;
    let quote = reader
        .take(bytes(length))
        .ok_or_else(|| malformed("it ends inside its quote"))?;
    if quote.is_empty() || !reader.is_empty() {
        return Err(malformed("it has no quote, or bytes after it"));
    }
    Ok(quote)
}

const fn malformed(what: &'static str) -> DeviceError {
    DeviceError::Malformed {
        device: DEVICE,
        what,
    }
}
