//! Process hardening and secret files: no core dumps, locked memory where the system permits it, files of mode 0600 only.
//!
//! The allocator that zeroes what it frees is installed in `main.rs`.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ring::rand::{SecureRandom, SystemRandom};
use rustix::mm::MlockAllFlags;
use rustix::process::{DumpableBehavior, Pid, Resource, Rlimit, Signal};
use zeroize::Zeroizing;

/// No secret file that we read is longer.
const SECRET_LENGTH_MAX: u64 = 64 * 1024;

/// Why a file could not be read or written. The message names the file and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The operating system refused.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Rule O-10: others may read it.
    #[error("{path} holds a secret and has mode {mode:04o}; run: chmod 600 {path}", path = path.display())]
    OpenToOthers {
        /// The secret file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not something that holds a secret of ours.
    #[error("{path} is not a regular file of at most {SECRET_LENGTH_MAX} bytes", path = path.display())]
    NotASecretFile {
        /// The file.
        path: PathBuf,
    },
}

impl FileError {
    fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

/// Turns core dumps and debugger access by other processes off, for this process and its children.
///
/// # Errors
/// When the system refuses to lower the limit, which it never does for its own process in practice.
pub fn forbid_core_dumps() -> io::Result<()> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    rustix::process::setrlimit(Resource::Core, none)?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// Asks the kernel to terminate this process when its parent ends, so that nothing is left behind by a killed parent.
///
/// # Errors
/// When process `parent` has ended already, or the system refuses.
pub fn end_with_parent(parent: i32) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
    if rustix::process::getppid() != Pid::from_raw(parent) {
        return Err(io::Error::other("the parent process has ended"));
    }
    Ok(())
}

/// What became of the attempt to keep memory out of swap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryLock {
    /// Every page that the process touches stays in memory.
    Locked,
    /// The system permits at most `limit_bytes` of locked memory; nothing was locked.
    NotPermitted {
        /// `RLIMIT_MEMLOCK`, hard limit.
        limit_bytes: u64,
    },
    /// The limit would do, but the call failed; nothing was locked.
    Failed,
}

impl MemoryLock {
    /// A check line in the style of the verifier's: id, verdict and text.
    pub fn check_line(self) -> String {
        match self {
            Self::Locked => "PASS memory.locked pages in use cannot reach swap".into(),
            Self::NotPermitted { limit_bytes } => format!(
                "INFO memory.locked not permitted here (limit {limit_bytes} bytes); \
                 secrets may reach swap, run with LimitMEMLOCK=infinity or without swap"
            ),
            Self::Failed => {
                "INFO memory.locked the system refused mlockall; secrets may reach swap".into()
            }
        }
    }
}

/// Locks present and future pages, but only under an unlimited `RLIMIT_MEMLOCK`: with a smaller one `MCL_FUTURE`
/// would make allocations fail later, in the middle of somebody's answer.
pub fn lock_memory() -> MemoryLock {
    let limit = rustix::process::getrlimit(Resource::Memlock);
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    let raised =
        limit.current.is_none() || rustix::process::setrlimit(Resource::Memlock, unlimited).is_ok();
    if !raised {
        return MemoryLock::NotPermitted {
            limit_bytes: limit.maximum.unwrap_or(0),
        };
    }
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    match rustix::mm::mlockall(flags) {
        Ok(()) => MemoryLock::Locked,
        Err(_) => MemoryLock::Failed,
    }
}

/// Reads a secret file (rule O-10: mode 0600 or stricter). The mode is that of the opened file, not of its name.
///
/// # Errors
/// When the file cannot be read, others may read it, or it is no small regular file.
pub fn read_secret_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let mut file = File::open(path).map_err(|e| FileError::io("read", path, e))?;
    let about = file
        .metadata()
        .map_err(|e| FileError::io("read", path, e))?;
    if !about.is_file() || about.len() > SECRET_LENGTH_MAX {
        return Err(FileError::NotASecretFile {
            path: path.to_owned(),
        });
    }
    let mode = about.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(FileError::OpenToOthers {
            path: path.to_owned(),
            mode,
        });
    }
    // The room is taken at once: a growing vector would leave copies behind.
    let mut bytes = Zeroizing::new(vec![0; usize::try_from(about.len()).unwrap_or(0)]);
    file.read_exact(&mut bytes)
        .map_err(|e| FileError::io("read", path, e))?;
    Ok(bytes)
}

/// Writes a secret file of mode 0600, whole or not at all, and on disk when this returns.
///
/// # Errors
/// When the system refuses.
pub fn write_secret_file(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    write_whole(path, bytes, 0o600)
}

/// Writes a file that everybody may read, whole or not at all, and on disk when this returns.
///
/// # Errors
/// When the system refuses.
pub fn write_public_file(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    write_whole(path, bytes, 0o644)
}

fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let folder = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let scratch = folder.join(scratch_name().map_err(|e| FileError::io("write", path, e))?);
    let written = write_and_sync(&scratch, bytes, mode)
        .and_then(|()| fs::rename(&scratch, path))
        .and_then(|()| File::open(folder)?.sync_all());
    written.map_err(|e| {
        // The scratch file may hold a secret; if it cannot be removed either, the first error says enough.
        let _ = fs::remove_file(&scratch);
        FileError::io("write", path, e)
    })
}

fn write_and_sync(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    // A stricter umask is kept for secrets; for public files it is the administrator's decision too.
    file.write_all(bytes)?;
    file.sync_all()
}

fn scratch_name() -> io::Result<String> {
    let mut random = [0_u8; 8];
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| io::Error::other("no randomness"))?;
    Ok(format!(".casemate-{}.tmp", hex::encode(random)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_files_have_mode_0600_and_others_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kek.key");
        write_secret_file(&path, b"secret").unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(*read_secret_file(&path).unwrap(), b"secret");

        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let text = read_secret_file(&path).unwrap_err().to_string();
        assert!(text.contains("kek.key") && text.contains("0640"), "{text}");
        assert!(text.contains("chmod 600"), "{text}");
    }

    #[test]
    fn a_write_replaces_the_file_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write_secret_file(&path, b"old and longer").unwrap();
        write_secret_file(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_is_not_a_secret_file() {
        let folder = tempfile::tempdir().unwrap();
        let error = read_secret_file(folder.path()).unwrap_err();
        assert!(matches!(error, FileError::NotASecretFile { .. }), "{error}");
    }
}
