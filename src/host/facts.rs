//! Facts of a machine, as its kernel and its package manager wrote them below a root folder.

use std::fmt;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Most bytes that are read of one file.
const BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The first two numbers of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32);

impl Version {
    /// Reads the first two numbers in `text`, after an epoch and a colon if there is one.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let text = match text.split_once(':') {
            Some((epoch, rest)) if epoch.parse::<u32>().is_ok() => rest,
            _ => text,
        };
        let start = text.find(|c: char| c.is_ascii_digit())?;
        let mut numbers = text.get(start..)?.split(|c: char| !c.is_ascii_digit());
        Some(Self(
            numbers.next()?.parse().ok()?,
            numbers.next()?.parse().ok()?,
        ))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// A machine below a root folder.
#[derive(Debug, Clone)]
pub struct Facts {
    root: PathBuf,
    qemu: Option<Version>,
}

impl Facts {
    /// The machine whose `/` is `root`. `qemu` is what QEMU says of itself, where it was asked.
    #[must_use]
    pub fn new(root: &Path, qemu: Option<Version>) -> Self {
        Self {
            root: root.to_owned(),
            qemu,
        }
    }

    /// Whether there is anything at an absolute path.
    #[must_use]
    pub fn exists(&self, path: &str) -> bool {
        self.at(path).exists()
    }

    /// A file's bytes, unless it is not there or too long.
    #[must_use]
    pub fn bytes(&self, path: &str) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = File::open(self.at(path)).ok()?;
        let count = file.take(BYTES_MAX + 1).read_to_end(&mut bytes).ok()?;
        (count as u64 <= BYTES_MAX).then_some(bytes)
    }

    /// A file's text without the space around it.
    #[must_use]
    pub fn text(&self, path: &str) -> Option<String> {
        let bytes = self.bytes(path)?;
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// Whether a folder has anything in it.
    #[must_use]
    pub fn has_entries(&self, path: &str) -> bool {
        fs::read_dir(self.at(path)).is_ok_and(|mut entries| entries.next().is_some())
    }

    /// The value of a field of the first processor.
    #[must_use]
    pub fn processor(&self, field: &str) -> Option<String> {
        let text = self.text("/proc/cpuinfo")?;
        let mut lines = text.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = lines.find(|(name, _)| name.trim() == field)?;
        Some(value.trim().to_owned())
    }

    /// Whether the kernel shows this processor flag.
    #[must_use]
    pub fn has_flag(&self, flag: &str) -> bool {
        let flags = self.processor("flags").unwrap_or_default();
        flags.split_whitespace().any(|it| it == flag)
    }

    /// Whether the kernel was started with this word.
    #[must_use]
    pub fn was_started_with(&self, word: &str) -> bool {
        let line = self.text("/proc/cmdline").unwrap_or_default();
        line.split_whitespace().any(|it| it == word)
    }

    /// The kernel's version.
    #[must_use]
    pub fn kernel(&self) -> Option<Version> {
        Version::read(&self.text("/proc/sys/kernel/osrelease")?)
    }

    /// QEMU's version: what it said when it was asked, or what Debian's package manager says of it.
    #[must_use]
    pub fn qemu(&self) -> Option<Version> {
        self.qemu.or_else(|| self.package("qemu-system-x86"))
    }

    /// The version of an installed Debian package.
    fn package(&self, name: &str) -> Option<Version> {
        let status = self.text("/var/lib/dpkg/status")?;
        let paragraphs = status.split("\n\n");
        let mut named =
            paragraphs.filter(|it| it.lines().next() == Some(&format!("Package: {name}")));
        let paragraph = named.find(|it| it.contains("\nStatus: install ok installed"))?;
        let version = paragraph
            .lines()
            .find_map(|line| line.strip_prefix("Version: "));
        Version::read(version?)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_packages_and_programs_write_them() {
        for (text, version) in [
            ("1:10.0.2+ds-2+deb13u1~bpo12+1", Some(Version(10, 0))),
            (
                "QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1)",
                Some(Version(11, 1)),
            ),
            ("6.12.117+deb13-amd64", Some(Version(6, 12))),
            ("6", None),
            ("none", None),
            ("99999999999.1", None),
        ] {
            assert_eq!(Version::read(text), version, "{text}");
        }
        assert!(Version(9, 1) < Version(10, 0) && Version(10, 0) < Version(10, 1));
    }
}
