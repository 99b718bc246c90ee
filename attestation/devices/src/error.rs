//! What goes wrong between us and a device, told apart by what to do about it.

use std::io;

use casemate_attestation::ProviderError;

/// Why a device gave no answer that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The machine has no such device, or this process may not use it. Asking again changes nothing.
    #[error("{device} is not available: {why}")]
    Unavailable {
        /// Which device.
        device: &'static str,
        /// What the system said.
        why: String,
    },
    /// The device works for somebody else, or its firmware limits how often it may be asked. The only error after which it
    /// is asked again.
    #[error("{device} is busy")]
    Busy {
        /// Which device.
        device: &'static str,
    },
    /// The device, its firmware or the host answered with an error.
    #[error("{device} failed: {why}")]
    Failed {
        /// Which device.
        device: &'static str,
        /// What it said.
        why: String,
    },
    /// The answer is not what the interface promises. Nothing of it is used.
    #[error("{device} gave a malformed answer: {what}")]
    Malformed {
        /// Which device.
        device: &'static str,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The answer may belong to another request than ours. Nothing of it is used.
    #[error("{device} answered another request than ours: {what}")]
    NotOurs {
        /// Which device.
        device: &'static str,
        /// How it shows.
        what: &'static str,
    },
    /// It stayed busy until the deadline.
    #[error("{device} stayed busy for {waited_ms} ms, over {asked} requests")]
    StayedBusy {
        /// Which device.
        device: &'static str,
        /// How long was waited, in milliseconds.
        waited_ms: u64,
        /// How many requests were made.
        asked: u32,
    },
}

impl DeviceError {
    /// What a system call's error means. Busy is `EBUSY` and `EAGAIN` (a lock that is held, a limit of requests) alone: after
    /// `EIO`, `ETIMEDOUT` and all others the state of the device is not known, and asking again could only hide that.
    #[must_use]
    pub fn of_system(device: &'static str, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ResourceBusy | io::ErrorKind::WouldBlock => Self::Busy { device },
            io::ErrorKind::NotFound
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::Unsupported
            | io::ErrorKind::ReadOnlyFilesystem => Self::Unavailable {
                device,
                why: error.to_string(),
            },
            _ => match error.raw_os_error() {
                // ENXIO and ENODEV: the driver is there and the device is not.
                Some(6 | 19) => Self::Unavailable {
                    device,
                    why: error.to_string(),
                },
                _ => Self::Failed {
                    device,
                    why: error.to_string(),
                },
            },
        }
    }

    /// Whether asking again may help.
    #[must_use]
    pub const fn is_busy(&self) -> bool {
        matches!(self, Self::Busy { .. })
    }
}

impl From<DeviceError> for ProviderError {
    fn from(error: DeviceError) -> Self {
        match &error {
            DeviceError::Unavailable { .. } => Self::Unavailable(error.to_string()),
            DeviceError::Busy { .. } | DeviceError::StayedBusy { .. } => Self::Busy,
            DeviceError::Failed { .. }
            | DeviceError::Malformed { .. }
            | DeviceError::NotOurs { .. } => Self::Device(error.to_string()),
        }
    }
}
