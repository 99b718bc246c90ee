//! `/dev/sev-guest`, for kernels before configfs-tsm. One request is used: the report without the host's certificates, because the
//! library reads that table by numbers of the host (docs/decisions/0014).

use sev::error::{FirmwareError, UserApiError, VmmError};
use sev::firmware::guest::Firmware;

use crate::DeviceError;

/// Where the kernel has it.
pub const PATH: &str = "/dev/sev-guest";

const DEVICE: &str = "the SEV-SNP guest device";
const REPORT_BYTES: usize = 1184;
/// What the kernel leaves in the firmware's field when the firmware was not reached (linux/psp-sev.h, SEV_RET_NO_FW_CALL).
const NOTHING_SAID: [u32; 3] = [0, 0xff, u32::MAX];

/// What is asked of the device. The real one is [`SevDevice`].
pub trait SevGuest {
    /// A report over `data` from privilege level `level`, as the firmware answered.
    ///
    /// # Errors
    /// [`DeviceError`]; busy when the firmware works for another or the host limits requests.
    fn request(&mut self, data: &[u8; 64], level: u8) -> Result<Vec<u8>, DeviceError>;
}

/// A report of exactly its length that is over our data.
///
/// # Errors
/// Those of the device; [`DeviceError::Malformed`] and [`DeviceError::NotOurs`].
pub fn report(
    device: &mut dyn SevGuest,
    data: &[u8; 64],
    level: u8,
) -> Result<Vec<u8>, DeviceError> {
    let report = device.request(data, level)?;
    if report.len() != REPORT_BYTES {
        return Err(DeviceError::Malformed {
            device: DEVICE,
            what: "the attestation report has not 1184 bytes",
        });
    }
    if report.get(0x50..0x90) != Some(data) {
        return Err(DeviceError::NotOurs {
            device: DEVICE,
            what: "the report is over other data",
        });
    }
    Ok(report)
}

/// The kernel's device.
#[derive(Debug)]
pub struct SevDevice(Firmware);

impl SevDevice {
    /// Opens [`PATH`].
    ///
    /// # Errors
    /// [`DeviceError::Unavailable`] when there is none or it may not be used.
    pub fn open() -> Result<Self, DeviceError> {
        Firmware::open()
            .map(Self)
            .map_err(|error| DeviceError::of_system(DEVICE, &error))
    }
}

impl SevGuest for SevDevice {
    fn request(&mut self, data: &[u8; 64], level: u8) -> Result<Vec<u8>, DeviceError> {
        self.0
            .get_report(None, Some(*data), Some(u32::from(level)))
            .map_err(|error| of_library(&error, std::io::Error::last_os_error()))
    }
}

/// What the library's error means. `system` is the system call's error, which the library drops where neither firmware nor host
/// said anything: a device that is locked by another shows there alone.
#[must_use]
pub fn of_library(error: &UserApiError, system: std::io::Error) -> DeviceError {
    match error {
        // GHCB specification: SW_EXITINFO2 of 0x0000000200000000, "the guest should retry the request".
        UserApiError::VmmError(VmmError::RateLimitRetryRequest) => {
            DeviceError::Busy { device: DEVICE }
        }
        UserApiError::IOError(error)
        | UserApiError::FirmwareError(FirmwareError::IoError(error)) => {
            DeviceError::of_system(DEVICE, error)
        }
        UserApiError::FirmwareError(FirmwareError::UnknownSevError(code))
            if NOTHING_SAID.contains(code) =>
        {
            DeviceError::of_system(DEVICE, &system)
        }
        other => DeviceError::Failed {
            device: DEVICE,
            why: other.to_string(),
        },
    }
}
