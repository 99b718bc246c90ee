//! The log as a file: JSON lines of mode 0600, numbered without gap, also across restarts and rotation.
//!
//! A line that was not acknowledged may be missing or cut after a crash; a cut one is taken away at the next start. The host
//! can alter this file: that is noticed by the Merkle log that comes beside it, not here.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use casemate_attestation::UnixTime;
use serde::{Deserialize, Serialize};

use super::event::AuditEvent;

/// No line of ours is longer.
const LINE_BYTES_MAX: u64 = 64 * 1024;

/// When a record counts as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// When it is on disk: it survives a loss of power.
    #[default]
    Disk,
    /// When the system has it: it survives the end of this process.
    System,
}

/// Why nothing could be recorded. The operation is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// The system refused.
    #[error("cannot {action} the audit log {file}: {reason}", file = .file.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The log.
        file: PathBuf,
        /// The system's answer.
        reason: String,
    },
    /// Others may read it.
    #[error("the audit log {file} has mode {mode:04o}; run: chmod 600 {file}", file = .file.display())]
    OpenToOthers {
        /// The log.
        file: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The last whole line is no record of ours: the numbers could not be continued.
    #[error("the audit log {file} does not end with a record; move it away and keep it", file = .file.display())]
    Damaged {
        /// The log.
        file: PathBuf,
    },
    /// Another process writes it.
    #[error("the audit log {file} is in use by another process", file = .file.display())]
    InUse {
        /// The log.
        file: PathBuf,
    },
    /// Records come faster than they can be written.
    #[error("the audit log cannot keep up; nothing is done that it does not record")]
    Busy,
    /// The thread that writes has ended.
    #[error("the audit log is closed")]
    Closed,
}

#[derive(Serialize)]
struct Record<'a> {
    seq: u64,
    time: UnixTime,
    #[serde(flatten)]
    event: &'a AuditEvent,
}

#[derive(Deserialize)]
struct Numbered {
    seq: u64,
}

/// The file, its next number, and where its last whole record ends.
#[derive(Debug)]
pub(super) struct AuditFile {
    path: PathBuf,
    durability: Durability,
    file: File,
    next: u64,
    length: u64,
}

impl AuditFile {
    pub(super) fn open(path: &Path, durability: Durability) -> Result<Self, AuditError> {
        let (file, length, last) = open_for_append(path)?;
        let last = match last {
            Some(last) => last,
            None => last_of_rotated(path)?.unwrap_or(0),
        };
        Ok(Self {
            path: path.to_owned(),
            durability,
            file,
            next: last + 1,
            length,
        })
    }

    /// Writes records at once and returns the number of the first. All are written or none. If somebody waits for one of
    /// them, they are as durable as the log is when this returns.
    pub(super) fn append(
        &mut self,
        records: &[(UnixTime, AuditEvent)],
        awaited: bool,
    ) -> Result<u64, AuditError> {
        self.follow_rotation()?;
        let first = self.next;
        let mut lines = Vec::with_capacity(records.len() * 512);
        for (seq, (time, event)) in (first..).zip(records) {
            serde_json::to_writer(
                &mut lines,
                &Record {
                    seq,
                    time: *time,
                    event,
                },
            )
            .map_err(|error| self.io("write", &error.into()))?;
            lines.push(b'\n');
        }
        let written = self
            .file
            .write_all(&lines)
            .and_then(|()| match self.durability {
                Durability::Disk if awaited => self.file.sync_data(),
                Durability::Disk | Durability::System => Ok(()),
            });
        if let Err(error) = written {
            // What was written of them is taken back; if that fails too, the next append tries again.
            let _ = self.file.set_len(self.length);
            return Err(self.io("write", &error));
        }
        self.length += lines.len() as u64;
        self.next += records.len() as u64;
        Ok(first)
    }

    /// After the file was moved away, a new one is begun. Its numbers go on.
    fn follow_rotation(&mut self) -> Result<(), AuditError> {
        let ours = self
            .file
            .metadata()
            .map_err(|error| self.io("read", &error))?;
        let same = |there: &Metadata| (there.dev(), there.ino()) == (ours.dev(), ours.ino());
        if !fs::metadata(&self.path).is_ok_and(|there| same(&there)) {
            let (file, length, _) = open_for_append(&self.path)?;
            (self.file, self.length) = (file, length);
        } else if ours.len() != self.length {
            // Left over from an append that failed, or cut by the rotation itself (copytruncate).
            let length = self.length.min(ours.len());
            self.file
                .set_len(length)
                .map_err(|error| self.io("repair", &error))?;
            self.length = length;
        }
        Ok(())
    }

    fn io(&self, action: &'static str, error: &io::Error) -> AuditError {
        io_error(action, &self.path, error)
    }
}

fn io_error(action: &'static str, path: &Path, error: &io::Error) -> AuditError {
    AuditError::Io {
        action,
        file: path.to_owned(),
        reason: error.to_string(),
    }
}

/// Opens or begins a log: the file, its length without a cut line, and its last number.
fn open_for_append(path: &Path) -> Result<(File, u64, Option<u64>), AuditError> {
    let io = |action| move |error: io::Error| io_error(action, path, &error);
    let mut options = OpenOptions::new();
    let mut file = options
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(io("open"))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(
        |_| AuditError::InUse {
            file: path.to_owned(),
        },
    )?;
    let about = file.metadata().map_err(io("open"))?;
    let mode = about.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(AuditError::OpenToOthers {
            file: path.to_owned(),
            mode,
        });
    }
    let (length, last) = tail(&mut file, about.len()).map_err(io("read"))?;
    if length < about.len() {
        file.set_len(length).map_err(io("repair"))?;
    }
    if length > 0 && last.is_none() {
        return Err(AuditError::Damaged {
            file: path.to_owned(),
        });
    }
    let folder = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))
        .and_then(|f| f.sync_all())
        .map_err(io("open"))?;
    Ok((file, length, last))
}

/// Where the last whole line ends, and its number.
fn tail(file: &mut File, length: u64) -> io::Result<(u64, Option<u64>)> {
    let from = length.saturating_sub(2 * LINE_BYTES_MAX);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(2 * LINE_BYTES_MAX).read_to_end(&mut bytes)?;
    let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n') else {
        // Either no line is whole yet, or a line is longer than any of ours.
        return Ok(if from == 0 { (0, None) } else { (length, None) });
    };
    let whole = bytes.get(..end).unwrap_or_default();
    let line = whole
        .rsplit(|byte| *byte == b'\n')
        .next()
        .unwrap_or_default();
    let last = serde_json::from_slice::<Numbered>(line)
        .ok()
        .map(|record| record.seq);
    Ok((from + end as u64 + 1, last))
}

/// The highest number among files that begin with the log's name, such as `audit.log.1`. Compressed ones are not read.
fn last_of_rotated(path: &Path) -> Result<Option<u64>, AuditError> {
    let io = |error: io::Error| io_error("read the rotated files of", path, &error);
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        return Ok(None);
    };
    let folder = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let mut highest = None;
    for entry in fs::read_dir(folder.unwrap_or(Path::new("."))).map_err(io)? {
        let entry = entry.map_err(io)?;
        let other = entry.file_name();
        let rotated = other
            .to_str()
            .is_some_and(|other| other != name && other.starts_with(name));
        if rotated && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            let mut file = File::open(entry.path()).map_err(io)?;
            let length = file.metadata().map_err(io)?.len();
            highest = highest.max(tail(&mut file, length).map_err(io)?.1);
        }
    }
    Ok(highest)
}
