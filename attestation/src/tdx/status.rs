//! What Intel says about firmware in a word, and how the words of several parts join (rule T11).

use serde::{Deserialize, Serialize};

/// What Intel says about a level of firmware. The names are Intel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub enum TcbStatus {
    /// Nothing to do.
    UpToDate,
    /// Software in the TD must defend itself against a known weakness.
    SWHardeningNeeded,
    /// The platform must be configured otherwise.
    ConfigurationNeeded,
    /// Both.
    ConfigurationAndSWHardeningNeeded,
    /// Firmware has known weaknesses.
    OutOfDate,
    /// The same, and the platform must be configured otherwise.
    OutOfDateConfigurationNeeded,
    /// The TD was launched on firmware that is out of date; what runs now is not. Of quotes of TDX 1.5 only.
    TDRelaunchAdvised,
    /// The same, and the platform must be configured otherwise.
    TDRelaunchAdvisedConfigurationNeeded,
    /// Keys of such platforms are known to others.
    Revoked,
}

impl std::fmt::Display for TcbStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}

impl TcbStatus {
    /// The platform's status with that of its module or quoting enclave (Intel QVL, `convergeTcbStatuses`).
    pub(crate) const fn with_part(self, part: Self) -> Self {
        match (part, self) {
            (Self::Revoked, _) => Self::Revoked,
            (Self::OutOfDate, Self::UpToDate | Self::SWHardeningNeeded) => Self::OutOfDate,
            (
                Self::OutOfDate,
                Self::ConfigurationNeeded | Self::ConfigurationAndSWHardeningNeeded,
            ) => Self::OutOfDateConfigurationNeeded,
            _ => self,
        }
    }

    /// The status at launch with that of what runs now (Intel QVL, `checkForRelaunch`).
    pub(crate) const fn with_current(self, current: Self) -> Self {
        match (self, current) {
            (Self::OutOfDate, Self::UpToDate | Self::SWHardeningNeeded) => Self::TDRelaunchAdvised,
            (
                Self::OutOfDate,
                Self::ConfigurationNeeded | Self::ConfigurationAndSWHardeningNeeded,
            )
            | (
                Self::OutOfDateConfigurationNeeded,
                Self::UpToDate
                | Self::SWHardeningNeeded
                | Self::ConfigurationNeeded
                | Self::ConfigurationAndSWHardeningNeeded,
            ) => Self::TDRelaunchAdvisedConfigurationNeeded,
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_converge_as_intels_library_does_it() {
        use TcbStatus::*;
        for (platform, part, both) in [
            (UpToDate, UpToDate, UpToDate),
            (UpToDate, OutOfDate, OutOfDate),
            (SWHardeningNeeded, OutOfDate, OutOfDate),
            (ConfigurationNeeded, OutOfDate, OutOfDateConfigurationNeeded),
            (
                ConfigurationAndSWHardeningNeeded,
                OutOfDate,
                OutOfDateConfigurationNeeded,
            ),
            (OutOfDate, UpToDate, OutOfDate),
            (UpToDate, Revoked, Revoked),
            (Revoked, UpToDate, Revoked),
        ] {
            assert_eq!(platform.with_part(part), both);
        }
        for (launch, current, both) in [
            (UpToDate, OutOfDate, UpToDate),
            (OutOfDate, OutOfDate, OutOfDate),
            (OutOfDate, UpToDate, TDRelaunchAdvised),
            (OutOfDate, SWHardeningNeeded, TDRelaunchAdvised),
            (
                OutOfDate,
                ConfigurationNeeded,
                TDRelaunchAdvisedConfigurationNeeded,
            ),
            (
                OutOfDateConfigurationNeeded,
                UpToDate,
                TDRelaunchAdvisedConfigurationNeeded,
            ),
            (
                OutOfDateConfigurationNeeded,
                OutOfDate,
                OutOfDateConfigurationNeeded,
            ),
        ] {
            assert_eq!(launch.with_current(current), both);
        }
    }
}
