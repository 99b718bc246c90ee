//! Which attestation devices this machine has. Looks at names alone: that a device is there does not say that it answers.

use std::fmt;
use std::path::Path;

use casemate_attestation::Platform;

use crate::files::Files;
use crate::{eventlog, sev_guest, tpm, tsm};

/// The driver of the TDX guest.
const TDX_GUEST: &str = "/dev/tdx_guest";
/// The control node of NVIDIA's driver.
const NVIDIA_CONTROL: &str = "/dev/nvidiactl";

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a device that is there or not"
)]
pub struct Machine {
    /// The kernel's common interface to security processors.
    pub configfs_tsm: bool,
    /// `/dev/sev-guest`: an AMD SEV-SNP guest.
    pub sev_guest: bool,
    /// `/dev/tdx_guest`: an Intel TDX guest.
    pub tdx_guest: bool,
    /// `/dev/tpmrm0`.
    pub tpm: bool,
    /// The TPM's boot log, where it may be looked for.
    pub tpm_log: bool,
    /// The trust domain's boot log.
    pub ccel_log: bool,
    /// NVIDIA's driver.
    pub nvidia: bool,
}

impl Machine {
    /// Looks.
    pub fn detect(files: &impl Files) -> Self {
        let is_there = |path: &str| files.is_there(Path::new(path));
        Self {
            configfs_tsm: is_there(tsm::REPORTS),
            sev_guest: is_there(sev_guest::PATH),
            tdx_guest: is_there(TDX_GUEST),
            tpm: is_there(tpm::PATH),
            tpm_log: is_there(eventlog::TPM_LOG),
            ccel_log: is_there(eventlog::CCEL_LOG),
            nvidia: is_there(NVIDIA_CONTROL),
        }
    }

    /// The platform that proves this machine best: a processor's own evidence before a TPM's. `None` when there is nothing, and
    /// never a test chip.
    #[must_use]
    pub const fn best(&self) -> Option<Platform> {
        match self {
            Self {
                sev_guest: true, ..
            } => Some(Platform::Snp),
            Self {
                configfs_tsm: true,
                tdx_guest: true,
                ..
            } => Some(Platform::Tdx),
            Self { tpm: true, .. } => Some(Platform::Tpm),
            _ => None,
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = [
            (self.configfs_tsm, "configfs-tsm", tsm::REPORTS),
            (self.sev_guest, "AMD SEV-SNP guest", sev_guest::PATH),
            (self.tdx_guest, "Intel TDX guest", TDX_GUEST),
            (self.tpm, "TPM 2.0", tpm::PATH),
            (self.tpm_log, "TPM's boot log", eventlog::TPM_LOG),
            (self.ccel_log, "trust domain's boot log", eventlog::CCEL_LOG),
            (self.nvidia, "NVIDIA driver", NVIDIA_CONTROL),
        ];
        for (found, what, path) in lines {
            let word = if found { "found" } else { "absent" };
            writeln!(f, "{word:>6}  {what} ({path})")?;
        }
        Ok(())
    }
}
