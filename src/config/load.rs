//! Reads a configuration file. Complaints name the file, and show line and caret where there is a place to show.

use std::fs::File;
use std::io::Read;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use casemate_attestation::Sha256Digest;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const FILE_BYTES_MAX: u64 = 256 * 1024;

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {file}: {error}", file = .file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The system's answer.
        error: std::io::Error,
    },
    /// Longer than any configuration.
    #[error("{file} has more than {FILE_BYTES_MAX} bytes", file = .0.display())]
    TooLong(PathBuf),
    /// Not TOML, an unknown field, a missing one, or a value of the wrong kind.
    #[error("{file}: {error}", file = .file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// The parser's complaint with line and caret.
        error: Box<toml::de::Error>,
    },
    /// A value that cannot be in force.
    #[error("{file}: {field}: {rule}", file = .file.display())]
    Value {
        /// The file.
        file: PathBuf,
        /// The field, as `section.field`.
        field: &'static str,
        /// What is wrong and what to do.
        rule: String,
    },
    /// The configuration in force cannot be written down.
    #[error("{file}: the configuration in force cannot be written: {reason}", file = .file.display())]
    Unwritable {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
}

/// A path as the file has it, and where it leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigPath {
    written: String,
    resolved: PathBuf,
}

impl ConfigPath {
    fn resolve(&mut self, folder: &Path) {
        self.resolved = folder.join(&self.written);
    }
}

impl Deref for ConfigPath {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.resolved
    }
}

impl AsRef<Path> for ConfigPath {
    fn as_ref(&self) -> &Path {
        &self.resolved
    }
}

impl Serialize for ConfigPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.written)
    }
}

impl<'de> Deserialize<'de> for ConfigPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = String::deserialize(deserializer)?;
        if written.is_empty() || written.contains('\0') {
            return Err(serde::de::Error::custom("a path is not empty"));
        }
        Ok(Self {
            resolved: PathBuf::from(&written),
            written,
        })
    }
}

/// A file format of one part of the product.
pub trait Role: DeserializeOwned + Serialize {
    /// Every path in it, to be resolved against the file's folder.
    fn paths(&mut self) -> Vec<&mut ConfigPath>;

    /// What types cannot say.
    ///
    /// # Errors
    /// The field, and what is wrong with it.
    fn check(&self) -> Result<(), (&'static str, String)>;
}

/// A configuration in force.
#[derive(Debug, Clone)]
pub struct Loaded<T> {
    config: T,
    text: String,
    digest: Sha256Digest,
}

impl<T> Loaded<T> {
    /// Every value in force, defaults included, as TOML. Paths stand as the file has them.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The configuration alone.
    #[must_use]
    pub fn into_inner(self) -> T {
        self.config
    }

    /// A part of it alone. Text and digest stay those of the whole, so that a binding names everything that was decided by it.
    #[must_use]
    pub fn part<U>(self, of: impl FnOnce(T) -> U) -> Loaded<U> {
        Loaded {
            config: of(self.config),
            text: self.text,
            digest: self.digest,
        }
    }

    /// SHA-256 of [`Loaded::text`]: what the binding carries. Comments and the order of lines do not change it.
    #[must_use]
    pub const fn digest(&self) -> Sha256Digest {
        self.digest
    }
}

impl<T> Deref for Loaded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.config
    }
}

impl<T: Role> Loaded<T> {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn read(file: &Path) -> Result<Self, ConfigError> {
        Self::parse(&read_text(file)?, file)
    }

    /// Checks what stands in a file of this name, which is not opened.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(ConfigError::TooLong(file.to_owned()));
        }
        let mut config: T = toml::from_str(text).map_err(|error| ConfigError::Malformed {
            file: file.to_owned(),
            error: Box::new(error),
        })?;
        config.check().map_err(|(field, rule)| ConfigError::Value {
            file: file.to_owned(),
            field,
            rule,
        })?;
        let text = toml::to_string(&config).map_err(|error| ConfigError::Unwritable {
            file: file.to_owned(),
            reason: error.to_string(),
        })?;
        let folder = file.parent().unwrap_or(Path::new(""));
        for path in config.paths() {
            path.resolve(folder);
        }
        let digest = Sha256Digest::of(text.as_bytes());
        Ok(Self {
            config,
            text,
            digest,
        })
    }
}

fn read_text(file: &Path) -> Result<String, ConfigError> {
    let read = |error| ConfigError::Read {
        file: file.to_owned(),
        error,
    };
    let mut text = String::new();
    let opened = File::open(file).map_err(read)?;
    opened
        .take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(read)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(ConfigError::TooLong(file.to_owned()));
    }
    Ok(text)
}
