//! Boot logs as the kernel keeps them: the TPM's and, in a trust domain, the one that ACPI's CCEL table points to. Bounded, unread.

use std::path::Path;

use casemate_attestation::eventlog::{LOG_BYTES_MAX, LogKind};

use crate::DeviceError;
use crate::files::Files;

/// The measured boot log of the first TPM (securityfs).
pub const TPM_LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";
/// The log of a trust domain: the kernel hands out the area that the CCEL table points to.
pub const CCEL_LOG: &str = "/sys/firmware/acpi/tables/data/CCEL";

/// Reads the log of this kind. It is as long as the verifier reads, or refused: a log that is cut proves nothing.
///
/// # Errors
/// [`DeviceError`]: there is none, it may not be read, or it is longer than 1 MiB.
pub fn read(files: &dyn Files, kind: LogKind) -> Result<Vec<u8>, DeviceError> {
    let (device, path) = match kind {
        LogKind::Tcg2 => ("the TPM's event log", TPM_LOG),
        LogKind::Ccel => ("the trust domain's event log", CCEL_LOG),
    };
    let log = files
        .read(Path::new(path), LOG_BYTES_MAX)
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::FileTooLarge => DeviceError::Malformed {
                device,
                what: "it is longer than 1 MiB",
            },
            _ => DeviceError::of_system(device, &error),
        })?;
    if log.is_empty() {
        return Err(DeviceError::Malformed {
            device,
            what: "it is empty",
        });
    }
    Ok(log)
}
