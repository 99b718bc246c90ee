//! Process hardening and secret files: no core dumps, locked memory where the system permits it, files of mode 0600 only.
//!
//! The allocator that zeroes what it frees is installed in `main.rs`.

use std::io;
use std::path::Path;

use casemate_client::files;
use rustix::mm::MlockAllFlags;
use rustix::process::{DumpableBehavior, Pid, Resource, Rlimit, Signal};
use zeroize::Zeroizing;

pub use casemate_client::files::{
    FileError, write_public as write_public_file, write_secret as write_secret_file,
};

/// No secret file that we read is longer.
const SECRET_LENGTH_MAX: u64 = 64 * 1024;

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

/// No program that this process starts gets more rights than it has.
///
/// # Errors
/// When the kernel does not know that, which none does that runs this program.
pub fn no_new_privileges() -> io::Result<()> {
    Ok(rustix::thread::set_no_new_privs(true)?)
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
    files::read_secret(path, SECRET_LENGTH_MAX)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

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
        assert!(matches!(error, FileError::NotSuchAFile { .. }), "{error}");
    }
}
