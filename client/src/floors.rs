//! The highest number seen of each signed document (rule O-3), kept beside the configuration, so that an old fleet list or
//! an old set of reference values cannot come back after a restart.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use casemate_attestation::{Kind, Sha256Digest, strict_json};
use serde::{Deserialize, Serialize};

use crate::files::{self, FileError};

const FORMAT: &str = "casemate/floors/v1";
const BYTES_MAX: u64 = 4096;

/// Why the floors cannot be read or kept. Nothing is trusted without them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FloorsError {
    /// The file cannot be read or written.
    #[error("floors of document numbers: {0}")]
    File(#[from] FileError),
    /// The file is not what this program wrote.
    #[error("{path} is damaged ({what}); restore it, or compare the documents with their issuer and remove it", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The file was written for another organisation.
    #[error("{path} belongs to another release key; give each organisation its own folder", path = path.display())]
    OtherKey {
        /// The file.
        path: PathBuf,
    },
}

/// The lowest numbers that are acceptable, by kind of document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Floors(BTreeMap<Kind, u64>);

impl Floors {
    /// The lowest number that a document of this kind may have; zero if none was ever seen.
    #[must_use]
    pub fn of(&self, kind: Kind) -> u64 {
        self.0.get(&kind).copied().unwrap_or(0)
    }
}

impl FromIterator<(Kind, u64)> for Floors {
    fn from_iter<I: IntoIterator<Item = (Kind, u64)>>(numbers: I) -> Self {
        Self(numbers.into_iter().collect())
    }
}

/// The file that keeps them for one release key.
#[derive(Clone, Debug)]
pub struct FloorsFile {
    path: PathBuf,
    key: Sha256Digest,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    format: String,
    key: Sha256Digest,
    numbers: Floors,
}

impl FloorsFile {
    /// The file at `path`, for the documents of the release key `key`.
    #[must_use]
    pub fn at(path: PathBuf, key: Sha256Digest) -> Self {
        Self { path, key }
    }

    /// The file `<name>.floors.json` beside the configuration `<name>.toml`.
    #[must_use]
    pub fn beside(config: &Path, key: Sha256Digest) -> Self {
        Self {
            path: config.with_extension("floors.json"),
            key,
        }
    }

    /// What was seen before; zero for a configuration that never attested.
    ///
    /// # Errors
    /// [`FloorsError`]. A damaged file is never taken for a missing one.
    pub fn read(&self) -> Result<Floors, FloorsError> {
        let bytes = match files::read_public(&self.path, BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(error) if error.is_missing() => return Ok(Floors::default()),
            Err(error) => return Err(error.into()),
        };
        let damaged = |what: String| FloorsError::Damaged {
            path: self.path.clone(),
            what,
        };
        let wire: Wire =
            strict_json::from_slice(&bytes, bytes.len()).map_err(|e| damaged(e.to_string()))?;
        if wire.format != FORMAT {
            return Err(damaged(format!("its format is not {FORMAT}")));
        }
        if wire.key != self.key {
            return Err(FloorsError::OtherKey {
                path: self.path.clone(),
            });
        }
        Ok(wire.numbers)
    }

    /// Keeps `seen` where it is higher than what the file has.
    ///
    /// # Errors
    /// [`FloorsError`] when the file cannot be read or written.
    pub fn raise(&self, seen: &Floors) -> Result<(), FloorsError> {
        let kept = self.read()?;
        let mut next = kept.clone();
        for (kind, number) in &seen.0 {
            let floor = next.0.entry(*kind).or_default();
            *floor = (*number).max(*floor);
        }
        if next == kept {
            return Ok(());
        }
        let wire = Wire {
            format: FORMAT.to_owned(),
            key: self.key,
            numbers: next,
        };
        let bytes = strict_json::to_vec(&wire).map_err(|e| FloorsError::Damaged {
            path: self.path.clone(),
            what: e.to_string(),
        })?;
        Ok(files::write_public(&self.path, &bytes)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(fleet: u64, reference: u64) -> Floors {
        [(Kind::Fleet, fleet), (Kind::Reference, reference)]
            .into_iter()
            .collect()
    }

    #[test]
    fn floors_rise_and_never_fall() {
        let folder = tempfile::tempdir().unwrap();
        let key = Sha256Digest::of(b"release");
        let file = FloorsFile::beside(&folder.path().join("connect.toml"), key);
        assert_eq!(file.read().unwrap(), Floors::default());
        file.raise(&numbers(3, 7)).unwrap();
        file.raise(&numbers(4, 2)).unwrap();
        assert_eq!(file.read().unwrap(), numbers(4, 7));
        assert!(folder.path().join("connect.floors.json").exists());
    }

    #[test]
    fn a_damaged_file_and_another_organisations_file_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("connect.toml");
        let file = FloorsFile::beside(&config, Sha256Digest::of(b"release"));
        file.raise(&numbers(1, 1)).unwrap();
        let other = FloorsFile::beside(&config, Sha256Digest::of(b"another"));
        assert!(matches!(other.read(), Err(FloorsError::OtherKey { .. })));
        std::fs::write(folder.path().join("connect.floors.json"), b"").unwrap();
        let text = file.read().unwrap_err().to_string();
        assert!(text.contains("connect.floors.json"), "{text}");
    }
}
