//! The folder that fetched documents lie in: read with a bound, written whole or not at all.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Longest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Where files are written before they get their names. `collateral pack` does not look into folders.
const PART: &str = ".part";

/// What became of a document that is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It was not there before.
    New,
    /// It is there already, byte for byte.
    Unchanged,
    /// It took the place of another.
    Replaced,
}

impl std::fmt::Display for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::New => "new",
            Self::Unchanged => "unchanged",
            Self::Replaced => "replaced",
        })
    }
}

/// A file that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {path}: {source}", path = path.display())]
pub struct ShelfError {
    verb: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// A folder of documents.
#[derive(Debug, Clone)]
pub struct Shelf {
    folder: PathBuf,
}

impl Shelf {
    /// A folder that may not be there yet.
    #[must_use]
    pub const fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Where a file lies.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A file, if it is there.
    ///
    /// # Errors
    /// [`ShelfError`] where it cannot be read or is too long.
    pub fn held(&self, name: &str) -> Result<Option<Vec<u8>>, ShelfError> {
        let path = self.path(name);
        let wrong = |source| wrong("read", &path, source);
        let about = match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            about => about.map_err(wrong)?,
        };
        if !about.is_file() || about.len() > FILE_BYTES_MAX {
            return Err(wrong(io::ErrorKind::FileTooLarge.into()));
        }
        fs::read(&path).map(Some).map_err(wrong)
    }

    /// Names of the files in the folder itself, in order.
    ///
    /// # Errors
    /// [`ShelfError`].
    pub fn names(&self) -> Result<Vec<String>, ShelfError> {
        let wrong = |source| wrong("read", &self.folder, source);
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(wrong)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            names.extend(entry.map_err(wrong)?.file_name().into_string().ok());
        }
        names.sort();
        Ok(names)
    }

    /// Puts a judged document in its place, whole: a reader sees the old one or the new one.
    ///
    /// # Errors
    /// [`ShelfError`].
    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<Kept, ShelfError> {
        let before = self.held(name)?;
        if before.as_deref() == Some(bytes) {
            return Ok(Kept::Unchanged);
        }
        let (path, part) = (self.path(name), self.path(PART));
        let write = || {
            fs::create_dir_all(&part)?;
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            let unfinished = part.join("document");
            let mut file = fs::File::create(&unfinished)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&unfinished, &path)?;
            fs::remove_dir(&part)
        };
        write().map_err(|source| wrong("write", &path, source))?;
        Ok(match before {
            Some(_) => Kept::Replaced,
            None => Kept::New,
        })
    }
}

fn wrong(verb: &'static str, path: &Path, source: io::Error) -> ShelfError {
    let path = path.to_owned();
    ShelfError { verb, path, source }
}
