//! What the officer edits: a folder with `policy.toml` (teams, limits, models) and `policy.cedar` (rules). Complaints name
//! the file, the line and the place in it.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use casemate_attestation::Sha256Digest;
use serde::Deserialize;

use super::bundle::{PolicyError, Rules};
use super::document::{POLICY_FORMAT, PolicyDocument, Team};
use super::guard::GuardPolicy;
use super::name::{ModelName, TeamName};

/// Tables, as a file in the folder.
pub const TABLES_FILE: &str = "policy.toml";
/// Rules, as a file in the folder.
pub const RULES_FILE: &str = "policy.cedar";

const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Why the officer's files cannot become a policy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// A file cannot be read.
    #[error("cannot read {file}: {error}", file = .file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
    /// The tables are not TOML of the right shape.
    #[error("{file}: {error}", file = .file.display())]
    Tables {
        /// The file.
        file: PathBuf,
        /// The parser's complaint with line and caret.
        error: Box<toml::de::Error>,
    },
    /// The policy that the files make is refused.
    #[error("{file}: {error}", file = .file.display())]
    Policy {
        /// The file that the complaint is about.
        file: PathBuf,
        /// The complaint.
        error: PolicyError,
    },
}

/// The officer's folder, read and checked.
#[derive(Debug, Clone)]
pub struct PolicySource {
    document: PolicyDocument,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tables {
    #[serde(default)]
    team: BTreeMap<TeamName, Team>,
    #[serde(default)]
    models: BTreeMap<ModelName, Sha256Digest>,
    #[serde(default = "first")]
    mark_epoch: u32,
    guard: Option<GuardPolicy>,
}

const fn first() -> u32 {
    1
}

impl PolicySource {
    /// Reads and checks a folder.
    ///
    /// # Errors
    /// [`SourceError`] names the file and, where there is one, the place.
    pub fn read(folder: &Path) -> Result<Self, SourceError> {
        let tables_file = folder.join(TABLES_FILE);
        let rules_file = folder.join(RULES_FILE);
        let tables = read(&tables_file)?;
        let tables: Tables = toml::from_str(&tables).map_err(|error| SourceError::Tables {
            file: tables_file.clone(),
            error: Box::new(error),
        })?;
        let cedar = read(&rules_file)?;
        let format = POLICY_FORMAT.to_owned();
        let document = PolicyDocument {
            format,
            cedar,
            teams: tables.team,
            models: tables.models,
            mark_epoch: tables.mark_epoch,
            guard: tables.guard,
        };
        Rules::check(&document).map_err(|error| SourceError::Policy {
            file: if error.concerns_tables() {
                tables_file
            } else {
                rules_file
            },
            error,
        })?;
        Ok(Self { document })
    }

    /// What can be signed.
    #[must_use]
    pub const fn document(&self) -> &PolicyDocument {
        &self.document
    }
}

impl PolicyError {
    fn concerns_tables(&self) -> bool {
        matches!(
            self,
            Self::Limit { .. }
                | Self::Guard { .. }
                | Self::TeamsOverlap { .. }
                | Self::MarkEpoch
                | Self::Format
        )
    }
}

fn read(file: &Path) -> Result<String, SourceError> {
    let open = || -> io::Result<String> {
        let mut text = String::new();
        let mut limited = std::fs::File::open(file)?.take(FILE_BYTES_MAX + 1);
        limited.read_to_string(&mut text)?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(io::Error::other("it has more than 1 MiB"));
        }
        Ok(text)
    };
    open().map_err(|error| SourceError::Read {
        file: file.to_owned(),
        error,
    })
}
