//! Files at the edge: bounded reads, secrets of mode 0600 only, and writes that are whole or absent.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

/// Why a file was refused or could not be used. Every message names the file.
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
    /// Rule O-10: others may read a secret.
    #[error("{path} holds a secret and has mode {mode:04o}; run: chmod 600 {path}", path = path.display())]
    OpenToOthers {
        /// The secret file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A folder, a device, or more bytes than the kind of file may have.
    #[error("{path} is not a regular file of at most {limit} bytes", path = path.display())]
    NotSuchAFile {
        /// The file.
        path: PathBuf,
        /// The most bytes that it may have.
        limit: u64,
    },
}

impl FileError {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// Whether there simply is no such file.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Reads a file of at most `limit` bytes that holds no secret.
///
/// # Errors
/// [`FileError`] when it is missing, longer, or not a regular file.
pub fn read_public(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let file = open(path, limit)?;
    let mut bytes = Vec::new();
    file.take(limit)
        .read_to_end(&mut bytes)
        .map_err(|e| FileError::io("read", path, e))?;
    Ok(bytes)
}

/// Reads a secret of at most `limit` bytes. The mode looked at is the opened file's, not its name's.
///
/// # Errors
/// [`FileError::OpenToOthers`] when group or others have any right (rule O-10), else as [`read_public`].
pub fn read_secret(path: &Path, limit: u64) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let mut file = open(path, limit)?;
    let about = file
        .metadata()
        .map_err(|e| FileError::io("read", path, e))?;
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

/// Writes a file that everybody may read, whole or not at all, and on disk when this returns.
///
/// # Errors
/// [`FileError::Io`] when the system refuses.
pub fn write_public(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    write_whole(path, bytes, 0o644)
}

/// Writes a secret file of mode 0600, whole or not at all, and on disk when this returns.
///
/// # Errors
/// [`FileError::Io`] when the system refuses.
pub fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    write_whole(path, bytes, 0o600)
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

fn open(path: &Path, limit: u64) -> Result<File, FileError> {
    let file = File::open(path).map_err(|e| FileError::io("read", path, e))?;
    let about = file
        .metadata()
        .map_err(|e| FileError::io("read", path, e))?;
    if !about.is_file() || about.len() > limit {
        return Err(FileError::NotSuchAFile {
            path: path.to_owned(),
            limit,
        });
    }
    Ok(file)
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
    fn a_secret_that_others_may_read_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        fs::write(&path, b"secret").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(*read_secret(&path, 64).unwrap(), b"secret");
        for mode in [0o640, 0o604, 0o660, 0o601] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let text = read_secret(&path, 64).unwrap_err().to_string();
            assert!(
                text.contains("key.pem") && text.contains(&format!("{mode:04o}")),
                "{text}"
            );
        }
    }

    #[test]
    fn a_file_above_its_limit_and_a_folder_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fleet.json");
        fs::write(&path, [0; 65]).unwrap();
        assert!(matches!(
            read_public(&path, 64),
            Err(FileError::NotSuchAFile { .. })
        ));
        assert_eq!(read_public(&path, 65).unwrap().len(), 65);
        assert!(matches!(
            read_public(folder.path(), 64),
            Err(FileError::NotSuchAFile { .. })
        ));
    }

    #[test]
    fn a_write_replaces_the_file_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("floors.json");
        write_public(&path, b"old and longer").unwrap();
        write_public(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
