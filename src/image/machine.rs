//! What a machine is given, whoever starts it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// The way in which an image is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boot {
    /// Kernel, initrd and command line, measured into a TPM.
    Direct,
    /// The unified kernel image from a disk, measured into a TPM.
    Unified,
    /// As SEV-SNP starts it, but without SEV-SNP: the same firmware, with the page of hashes put where QEMU would put it. For trials; nothing is measured.
    SnpTrial,
    /// SEV-SNP.
    Snp,
    /// TDX.
    Tdx,
}

impl Boot {
    /// Whether the guest gets a TPM from the host.
    #[must_use]
    pub const fn has_tpm(self) -> bool {
        matches!(self, Self::Direct | Self::Unified)
    }

    /// Whether processors encrypt the guest's memory.
    #[must_use]
    pub const fn is_confidential(self) -> bool {
        matches!(self, Self::Snp | Self::Tdx)
    }
}

/// A port of the host that leads into the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// Where the host listens.
    pub host: SocketAddr,
    /// The guest's port.
    pub guest: u16,
}

/// Not a forward.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a forward is HOST_PORT:GUEST_PORT, on 127.0.0.1, or ADDRESS:HOST_PORT:GUEST_PORT")]
pub struct ForwardError;

impl FromStr for Forward {
    type Err = ForwardError;

    fn from_str(text: &str) -> Result<Self, ForwardError> {
        let (host, guest) = text.rsplit_once(':').ok_or(ForwardError)?;
        let guest = guest
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or(ForwardError)?;
        let loopback = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let host = match host.parse::<u16>() {
            Ok(port) => loopback(port),
            Err(_) => host.parse().map_err(|_| ForwardError)?,
        };
        (host.port() != 0)
            .then_some(Self { host, guest })
            .ok_or(ForwardError)
    }
}

/// What a machine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// How it is started.
    pub boot: Boot,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Virtual processors.
    pub vcpus: u32,
    /// Their model as QEMU names it.
    pub cpu: String,
    /// What runs them: `tcg` or `kvm`.
    pub accelerator: String,
    /// The file with the sealed model, and the serial number by which the guest knows its disk.
    pub disk: Option<(PathBuf, String)>,
    /// Ports that lead into the guest.
    pub forwards: Vec<Forward>,
}

/// Files that a start needs beside the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// Firmware that the host only reads.
    pub firmware: PathBuf,
    /// The machine's own copy of firmware's variables, with a TPM.
    pub variables: PathBuf,
    /// Kernel and initrd.
    pub kernel: PathBuf,
    /// See `kernel`.
    pub initrd: PathBuf,
    /// The kernel's command line.
    pub command_line: String,
    /// A folder with `EFI/BOOT/BOOTX64.EFI`, for a unified image.
    pub boot_folder: PathBuf,
    /// The page of hashes and its address, for a trial of SEV-SNP's firmware.
    pub hash_page: Option<(PathBuf, u32)>,
    /// Control socket of the software TPM.
    pub tpm: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forward_is_on_loopback_unless_an_address_is_named() {
        let forward = |text: &str| {
            text.parse::<Forward>()
                .map(|it| (it.host.to_string(), it.guest))
        };
        assert_eq!(forward("9443:8443"), Ok(("127.0.0.1:9443".into(), 8443)));
        assert_eq!(
            forward("192.0.2.7:443:8443"),
            Ok(("192.0.2.7:443".into(), 8443))
        );
        assert_eq!(forward("[::1]:443:8443"), Ok(("[::1]:443".into(), 8443)));
        for wrong in [
            "",
            "8443",
            "0:8443",
            "8443:0",
            "x:1",
            "1:2:3",
            "host:1:2",
            "99999:1",
            "1:2,guestfwd=x",
        ] {
            assert_eq!(forward(wrong), Err(ForwardError), "{wrong}");
        }
    }
}
