//! Debian's packages as archives of files: read, never installed, and no script of theirs is run.
//!
//! deb(5): an `ar` archive of `debian-binary`, `control.tar` and `data.tar`, each tar compressed on its own.

use std::collections::BTreeMap;
use std::io::Read;

use crate::ImageError;
use crate::compressed::Compression;
use crate::pins::Pinned;

/// Most bytes of a package when unpacked; the largest, a kernel of general purpose, has a third of this.
const UNPACKED_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;
/// Most bytes of a file that is kept.
const FILE_BYTES_MAX: u64 = 128 * 1024 * 1024;
const CONTROL_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of an `ar` member's header, and what it ends with.
const MEMBER: usize = 60;
const MEMBER_END: &[u8] = b"`\n";

/// A package, with those of its files that were asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// The pinned file's name.
    pub file: String,
    /// SHA-256 of the pinned file.
    pub sha256: String,
    /// `Package:` of its control file.
    pub name: String,
    /// `Version:`.
    pub version: String,
    /// `Architecture:`.
    pub architecture: String,
    /// Regular files by their path without `/` or `./` at the beginning.
    pub files: BTreeMap<String, Vec<u8>>,
}

impl Package {
    /// Reads a pinned package and keeps the files whose paths are `wanted`.
    ///
    /// # Errors
    /// [`ImageError::Package`] says what is wrong, [`ImageError::TooLong`] that it has no end.
    pub fn read(input: Pinned<'_>, wanted: impl Fn(&str) -> bool) -> Result<Self, ImageError> {
        let members = members(input.bytes())?;
        let (compression, control) = member(&members, "control.tar")?;
        let control = compression
            .unpack(control, CONTROL_BYTES_MAX)
            .ok_or_else(|| damaged("its control.tar is damaged"))?;
        let control = files(&mut control.as_slice(), |path| path == "control")?;
        let control = control.get("control").map(Vec::as_slice);
        let control = control.and_then(|bytes| str::from_utf8(bytes).ok());
        let control = control.ok_or_else(|| damaged("it has no control file"))?;
        let field = |name: &str| {
            let value = control.lines().find_map(|line| line.strip_prefix(name));
            let value = value.map(|value| value.trim().to_owned());
            value.ok_or_else(|| damaged(&format!("its control file has no line {name}")))
        };
        let (compression, data) = member(&members, "data.tar")?;
        let reader = compression.reader(data).map_err(|error| damaged(&error))?;
        Ok(Self {
            file: input.name().into(),
            sha256: crate::sha256(input.bytes()),
            name: field("Package:")?,
            version: field("Version:")?,
            architecture: field("Architecture:")?,
            files: files(&mut reader.take(UNPACKED_BYTES_MAX), wanted)?,
        })
    }

    /// The version of the software alone: without epoch, Debian's revision and `+ds`.
    #[must_use]
    pub fn upstream_version(&self) -> &str {
        let version = self
            .version
            .split_once(':')
            .map_or(self.version.as_str(), |it| it.1);
        let version = version.rsplit_once('-').map_or(version, |it| it.0);
        version.split('+').next().unwrap_or(version)
    }
}

fn damaged(what: &str) -> ImageError {
    ImageError::Package(what.into())
}

/// Members of an `ar` archive by name.
fn members(bytes: &[u8]) -> Result<Vec<(&str, &[u8])>, ImageError> {
    let mut rest = bytes
        .strip_prefix(b"!<arch>\n")
        .ok_or_else(|| damaged("it does not begin as an ar archive"))?;
    let mut members = Vec::new();
    while !rest.is_empty() {
        let cut = || damaged("a member of its archive is cut off");
        let (header, after) = rest.split_at_checked(MEMBER).ok_or_else(cut)?;
        let text = str::from_utf8(header)
            .ok()
            .filter(|_| header.ends_with(MEMBER_END));
        let text = text.ok_or_else(|| damaged("a member of its archive has no header"))?;
        let name = text
            .get(..16)
            .ok_or_else(cut)?
            .trim_end()
            .trim_end_matches('/');
        let size = text
            .get(48..58)
            .and_then(|size| size.trim_end().parse().ok());
        let (data, after) = size
            .and_then(|size| after.split_at_checked(size))
            .ok_or_else(cut)?;
        members.push((name, data));
        // Members begin at even places.
        rest = match data.len().is_multiple_of(2) {
            true => after,
            false => after.get(1..).unwrap_or_default(),
        };
    }
    Ok(members)
}

fn member<'a>(
    members: &[(&str, &'a [u8])],
    wanted: &str,
) -> Result<(Compression, &'a [u8]), ImageError> {
    let found = members.iter().find_map(|(name, data)| {
        let suffix = name.strip_prefix(wanted)?;
        Some((Compression::of_suffix(suffix)?, *data))
    });
    let what = || damaged(&format!("it has no {wanted}, .xz or .zst"));
    found.ok_or_else(what)
}

/// Regular files of a tar archive whose paths are wanted.
fn files(
    reader: &mut dyn Read,
    wanted: impl Fn(&str) -> bool,
) -> Result<BTreeMap<String, Vec<u8>>, ImageError> {
    let wrong = |error: std::io::Error| damaged(&format!("its archive is damaged: {error}"));
    let mut kept = BTreeMap::new();
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries().map_err(wrong)? {
        let entry = entry.map_err(wrong)?;
        let path = entry.path_bytes();
        let path = str::from_utf8(&path).map_err(|_| damaged("a path in it is not text"))?;
        let path = path.strip_prefix("./").unwrap_or(path).to_owned();
        if !entry.header().entry_type().is_file() || !wanted(&path) {
            continue;
        }
        let mut bytes = Vec::new();
        let read = entry.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes);
        if read.map_err(wrong)? as u64 > FILE_BYTES_MAX {
            return Err(ImageError::TooLong("a file of a package", FILE_BYTES_MAX));
        }
        if kept.insert(path, bytes).is_some() {
            return Err(damaged("a path is in it twice"));
        }
    }
    Ok(kept)
}
