//! The few operations on files that kernel interfaces need, each bounded; a fake kernel implements the same trait.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

/// What a kernel's file systems (configfs, sysfs, securityfs) are asked for.
pub trait Files {
    /// Makes a folder, which must not be there yet.
    ///
    /// # Errors
    /// What the kernel says.
    fn make_folder(&self, path: &Path) -> io::Result<()>;

    /// Removes an empty folder.
    ///
    /// # Errors
    /// What the kernel says.
    fn remove_folder(&self, path: &Path) -> io::Result<()>;

    /// Writes an attribute with one call, as configfs wants it.
    ///
    /// # Errors
    /// What the kernel says; a write that took only a part.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;

    /// Reads a file to its end; at most `most` bytes.
    ///
    /// # Errors
    /// What the kernel says; `FileTooLarge` when there are more.
    fn read(&self, path: &Path, most: usize) -> io::Result<Vec<u8>>;

    /// Whether something of that name is there.
    fn is_there(&self, path: &Path) -> bool;
}

/// The machine's own.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemFiles;

impl Files for SystemFiles {
    fn make_folder(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).open(path)?;
        let written = file.write(bytes)?;
        if written == bytes.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::WriteZero.into())
        }
    }

    fn read(&self, path: &Path, most: usize) -> io::Result<Vec<u8>> {
        let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
        let mut out = Vec::new();
        File::open(path)?.take(limit).read_to_end(&mut out)?;
        if out.len() > most {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(out)
    }

    fn is_there(&self, path: &Path) -> bool {
        path.exists()
    }
}
