//! `guest.toml`: the one file that goes into a measured image. It names what the machine has from outside (a network, disks, a
//! clock) and holds the whole of `server.toml` one level down. Nothing that is not in it is read from the machine's disks.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use casemate_attestation::{Platform, UnixTime};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::load::{ConfigPath, Role};
use super::server::ServerConfig;

/// Where the file and what it names lie in the image.
pub const FOLDER: &str = "/etc/casemate";
/// Where the disks that it names appear.
pub const DISKS: &str = "/run/casemate/disk";
/// The only place where the server writes. It is memory: what is there is gone when the machine stops.
pub const WRITABLE: &str = "/run/casemate";
/// Disks that one image opens at most.
const DISKS_MAX: usize = 8;
/// Longest serial of a virtio disk, in bytes (Virtual I/O Device 1.2, 5.2.6: VIRTIO_BLK_T_GET_ID).
const SERIAL_BYTES_MAX: usize = 20;
/// Longest name of a network interface (`IFNAMSIZ` without its end).
const INTERFACE_BYTES_MAX: usize = 15;

/// The image's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestConfig {
    /// How the machine gets its address.
    pub network: NetworkSection,
    /// The disks that are opened, by the serial that the host gave them. Others are left alone.
    pub disk: BTreeMap<DiskName, DiskSerial>,
    /// What is believed of the host's clock.
    pub clock: ClockSection,
    /// Everything that `server.toml` says.
    pub server: ServerConfig,
}

/// `[network]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSection {
    /// Where the address comes from.
    pub mode: NetworkMode,
    /// The interface; the one virtio network device is `eth0`.
    #[serde(default = "first_interface")]
    pub interface: String,
    /// Address and length of the network's prefix, with mode `static`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<InterfaceAddress>,
    /// The way to other networks, with mode `static`; none is taken where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Ipv4Addr>,
}

fn first_interface() -> String {
    String::from("eth0")
}

/// Where an address comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkMode {
    /// The file says it.
    Static,
    /// The network says it. Names, times and everything else that it says is ignored.
    Dhcp,
}

/// An address with its prefix, as `10.0.2.15/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The machine's own.
    pub address: Ipv4Addr,
    /// Bits of the network, 1 to 32.
    pub prefix: u8,
}

impl FromStr for InterfaceAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const SHAPE: &str = "is an IPv4 address with a prefix, as \"10.0.2.15/24\"";
        let (address, prefix) = text.split_once('/').ok_or(SHAPE)?;
        let address: Ipv4Addr = address.parse().map_err(|_| SHAPE)?;
        let prefix: u8 = prefix.parse().map_err(|_| SHAPE)?;
        if !(1..=32).contains(&prefix) || !is_of_a_host(address) {
            return Err("is no address of one machine, as \"10.0.2.15/24\"");
        }
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for InterfaceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// Whether one machine may have this address.
pub(crate) fn is_of_a_host(address: Ipv4Addr) -> bool {
    let special = address.is_unspecified() || address.is_broadcast() || address.is_loopback();
    !special && !address.is_multicast() && address.octets()[0] < 240
}

/// A disk's name inside the image: `/run/casemate/disk/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DiskName(String);

impl DiskName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where the disk appears.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(DISKS).join(&self.0)
    }
}

impl FromStr for DiskName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        match (1..=32).contains(&text.len()) && text.bytes().all(fits) {
            true => Ok(Self(text.to_owned())),
            false => Err("a disk's name is 1 to 32 of a-z, 0-9 and -"),
        }
    }
}

impl fmt::Display for DiskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The serial that the host gives a disk. It finds the disk and proves nothing: the package's own seal does that.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DiskSerial(String);

impl DiskSerial {
    /// The serial.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DiskSerial {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        match (1..=SERIAL_BYTES_MAX).contains(&text.len()) && text.bytes().all(fits) {
            true => Ok(Self(text.to_owned())),
            false => Err("a disk's serial is 1 to 20 letters, digits, and - _ ."),
        }
    }
}

impl fmt::Display for DiskSerial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `[clock]`: the host sets the clock, and so it is believed between two dates only, and only beside the broker's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClockSection {
    /// The day on which the image was built, or a later one: no right clock shows an earlier day.
    pub not_before: Date,
    /// The day from which the image serves no more.
    pub not_after: Date,
    /// Seconds by which the clock may differ from the broker's, which signs its time into the server's certificate.
    #[serde(default = "five_minutes")]
    pub broker_skew_seconds: u32,
}

const fn five_minutes() -> u32 {
    300
}

/// A day of the Gregorian calendar, as `2026-11-27`; as a time its beginning, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date {
    year: u16,
    month: u8,
    day: u8,
}

impl Date {
    /// Its first second.
    #[must_use]
    pub fn begins(self) -> UnixTime {
        // Days since 1970-01-01 with years that begin in March, so that a leap day is a year's last.
        let (year, month) = (u64::from(self.year), u64::from(self.month));
        let year = if month <= 2 {
            year.saturating_sub(1)
        } else {
            year
        };
        let of_year = (153 * ((month + 9) % 12) + 2) / 5 + u64::from(self.day) - 1;
        let days = year * 365 + year / 4 - year / 100 + year / 400 + of_year;
        UnixTime::from_secs(days.saturating_sub(719_468).saturating_mul(86_400))
    }
}

impl FromStr for Date {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const SHAPE: &str = "is a day from 2000-01-01 to 2199-12-31, as \"2026-11-27\"";
        let fields: Vec<&str> = text.split('-').collect();
        let [year, month, day] = fields.as_slice() else {
            return Err(SHAPE);
        };
        let number = |field: &str, digits: usize| {
            let fits = field.len() == digits && field.bytes().all(|byte| byte.is_ascii_digit());
            fits.then(|| field.parse::<u16>().ok())
                .flatten()
                .ok_or(SHAPE)
        };
        let (year, month, day) = (number(year, 4)?, number(month, 2)?, number(day, 2)?);
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let days = match month {
            1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
            4 | 6 | 9 | 11 => 30,
            2 if leap => 29,
            2 => 28,
            _ => return Err(SHAPE),
        };
        if !(2000..2200).contains(&year) || !(1..=days).contains(&day) {
            return Err(SHAPE);
        }
        let small = |number: u16| u8::try_from(number).map_err(|_| SHAPE);
        let (month, day) = (small(month)?, small(day)?);
        Ok(Self { year, month, day })
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

macro_rules! as_text {
    ($($name:ident),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    )*};
}
as_text!(InterfaceAddress, DiskName, DiskSerial, Date);

type Complaint = (&'static str, String);

impl Role for GuestConfig {
    fn paths(&mut self) -> Vec<&mut ConfigPath> {
        self.server.paths()
    }

    fn check(&self) -> Result<(), Complaint> {
        self.server.check()?;
        self.network.check()?;
        self.clock.check()?;
        self.check_machine()?;
        self.check_disks()?;
        self.check_places()
    }
}

impl NetworkSection {
    fn check(&self) -> Result<(), Complaint> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric();
        if !(1..=INTERFACE_BYTES_MAX).contains(&self.interface.len())
            || !self.interface.bytes().all(fits)
        {
            return Err((
                "network.interface",
                "is 1 to 15 letters and digits, as \"eth0\"".into(),
            ));
        }
        match (self.mode, self.address, self.gateway) {
            (NetworkMode::Static, None, _) => {
                let rule = "is needed with mode \"static\": address = \"10.0.2.15/24\"";
                Err(("network.address", rule.into()))
            }
            (NetworkMode::Dhcp, Some(_), _) => {
                let rule = "is for mode \"static\"; remove it, or the mode \"dhcp\"";
                Err(("network.address", rule.into()))
            }
            (NetworkMode::Dhcp, _, Some(_)) => {
                let rule = "is for mode \"static\"; remove it, or the mode \"dhcp\"";
                Err(("network.gateway", rule.into()))
            }
            (NetworkMode::Static, Some(_), Some(gateway)) if !is_of_a_host(gateway) => {
                Err(("network.gateway", "is no address of one machine".into()))
            }
            _ => Ok(()),
        }
    }
}

impl ClockSection {
    fn check(&self) -> Result<(), Complaint> {
        if self.not_after <= self.not_before {
            let rule = format!("must be later than clock.not_before, {}", self.not_before);
            return Err(("clock.not_after", rule));
        }
        if !(1..=86_400).contains(&self.broker_skew_seconds) {
            return Err(("clock.broker_skew_seconds", "must be 1 to 86400".into()));
        }
        Ok(())
    }
}

impl GuestConfig {
    /// A guest is a machine: it is proven by one, and finds its broker without asking for names.
    fn check_machine(&self) -> Result<(), Complaint> {
        let server = &self.server;
        let software = server.attestation.tpm.as_ref();
        if server.attestation.platform == Platform::TestChip {
            let rule = "\"test-chip\" is no machine; an image is for \"snp\", \"tdx\" or \"tpm\"";
            return Err(("server.attestation.platform", rule.into()));
        }
        if software.is_some_and(|tpm| tpm.software.is_some()) {
            let rule = "is for trials outside of an image; remove it";
            return Err(("server.attestation.tpm.software", rule.into()));
        }
        if server.attestation.devices.is_some() {
            let rule =
                "is not for an image: its program loads no library of a GPU's maker; remove it";
            return Err(("server.attestation.devices", rule.into()));
        }
        if server.broker.address.parse::<SocketAddr>().is_err() {
            let rule = "must be an address with a port, as \"10.0.2.2:7440\": an image asks nobody for names";
            return Err(("server.broker.address", rule.into()));
        }
        if server.server.listen.port() == 0 || !server.server.listen.is_ipv4() {
            let rule = "must be an IPv4 address with a port, as \"0.0.0.0:7443\"";
            return Err(("server.server.listen", rule.into()));
        }
        Ok(())
    }

    /// Packages come from disks that are named, and no disk is named for nothing.
    fn check_disks(&self) -> Result<(), Complaint> {
        if self.disk.is_empty() || self.disk.len() > DISKS_MAX {
            let rule = format!("must name 1 to {DISKS_MAX} disks, as model = \"casemate-model\"");
            return Err(("disk", rule));
        }
        let serials: BTreeSet<_> = self.disk.values().collect();
        if serials.len() != self.disk.len() {
            return Err(("disk", "two names have the same serial".into()));
        }
        let models = self.server.models.iter();
        let used = models.flat_map(|model| std::iter::once(&model.package).chain(&model.draft));
        let used: BTreeSet<PathBuf> = used.map(|path| Path::new(FOLDER).join(path)).collect();
        let named: BTreeSet<PathBuf> = self.disk.keys().map(DiskName::path).collect();
        if let Some(path) = used.difference(&named).next() {
            let rule = format!(
                "{} is no disk of [disk]; write {DISKS}/NAME for a NAME that stands there",
                path.display()
            );
            return Err(("server.model.package", rule));
        }
        match named.difference(&used).next() {
            Some(path) => Err((
                "disk",
                format!("no model is at {}; remove it", path.display()),
            )),
            None => Ok(()),
        }
    }

    /// What is read lies in the image, and what is written lies in memory.
    fn check_places(&self) -> Result<(), Complaint> {
        let server = &self.server;
        let inside = |path: &ConfigPath, folder: &Path| {
            let path = Path::new(FOLDER).join(path);
            let plain = path.components().all(|part| part.as_os_str() != "..");
            plain && path != folder && path.starts_with(folder)
        };
        let trust = Path::new(FOLDER).join("trust");
        let mut read = vec![
            ("server.broker.authority", &server.broker.authority),
            ("server.trust.release_key", &server.trust.release_key),
            (
                "server.trust.client_authority",
                &server.trust.client_authority,
            ),
        ];
        let collateral = server.attestation.collateral.iter();
        read.extend(collateral.map(|path| ("server.attestation.collateral", path)));
        if let Some(clients) = &server.clients {
            read.push(("server.clients.release_key", &clients.release_key));
            read.push(("server.clients.reference", &clients.reference));
            read.push(("server.clients.fleet", &clients.fleet));
        }
        if let Some((field, path)) = read.into_iter().find(|(_, path)| !inside(path, &trust)) {
            let rule = format!("{} is not in the image; write trust/NAME", path.display());
            return Err((field, rule));
        }
        let written = [
            ("server.state.folder", &server.state.folder),
            ("server.audit.file", &server.audit.file),
        ];
        let writable = Path::new(WRITABLE);
        match written
            .into_iter()
            .find(|(_, path)| !inside(path, writable))
        {
            Some((field, path)) => {
                let rule = format!(
                    "{} cannot be written; write {WRITABLE}/NAME",
                    path.display()
                );
                Err((field, rule))
            }
            None => Ok(()),
        }
    }
}
