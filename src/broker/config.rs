//! `broker.toml`: one strict file. Paths in it are relative to the folder that it lies in.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use casemate_attestation::Platform;
use serde::Deserialize;

/// Why a configuration is refused. Messages of the parser carry line, column and a caret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not readable.
    #[error("cannot read {path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Not such a file; unknown fields are refused.
    #[error("{path} is not a broker's configuration:\n{reason}", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and what.
        reason: String,
    },
    /// The chip that is not one must be allowed by name.
    #[error(
        "platform \"test-chip\" proves nothing about a machine; it needs allow_test_chip = true"
    )]
    TestChipNotAllowed,
    /// This program was built for production.
    #[error("this program was built without the test chip; use platform = \"snp\"")]
    TestChipAbsent,
    /// A bound of zero serves nobody.
    #[error("limits.{0} must be between 1 and {1}")]
    Limit(&'static str, u32),
}

/// What the broker does and where it keeps things.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrokerConfig {
    /// Address and port to listen on.
    pub listen: SocketAddr,
    /// The organisation's folder.
    pub organisation: PathBuf,
    /// Folder of the store: highest numbers and epochs.
    pub state: PathBuf,
    /// File that witnesses the store's last state; best on another disk, because it shows that the store was rolled back.
    pub witness: PathBuf,
    /// File of the audit log.
    pub audit: PathBuf,
    /// Whose evidence counts: `snp`, or `test-chip` if it is allowed.
    pub platform: Platform,
    /// Says that a chip which proves nothing may get keys.
    #[serde(default)]
    pub allow_test_chip: bool,
    /// Bounds.
    #[serde(default)]
    pub limits: Limits,
}

/// Bounds of the broker.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections at once; more wait in the system's queue.
    pub connections: u32,
    /// Seconds for a TLS handshake, and for one request.
    pub request_seconds: u32,
    /// Seconds in which a connection must have attested.
    pub unattested_seconds: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            request_seconds: 20,
            unattested_seconds: 120,
        }
    }
}

impl BrokerConfig {
    /// Reads and checks a configuration file.
    ///
    /// # Errors
    /// Names the field that is wrong.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Io {
            path: path.to_owned(),
            source,
        })?;
        let mut config: Self = toml::from_str(&text).map_err(|error| ConfigError::Malformed {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for field in [
            &mut config.organisation,
            &mut config.state,
            &mut config.witness,
            &mut config.audit,
        ] {
            *field = folder.join(&*field);
        }
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let Limits {
            connections,
            request_seconds,
            unattested_seconds,
        } = self.limits;
        for (name, value, most) in [
            ("connections", connections, 65_536),
            ("request_seconds", request_seconds, 3_600),
            ("unattested_seconds", unattested_seconds, 3_600),
        ] {
            if value == 0 || value > most {
                return Err(ConfigError::Limit(name, most));
            }
        }
        if self.platform == Platform::TestChip {
            if cfg!(not(feature = "test-chip")) {
                return Err(ConfigError::TestChipAbsent);
            }
            if !self.allow_test_chip {
                return Err(ConfigError::TestChipNotAllowed);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "listen = \"127.0.0.1:0\"\norganisation = \"org\"\nstate = \"state\"\n\
        witness = \"witness\"\naudit = \"audit.log\"\nplatform = \"snp\"\n";

    fn read(text: &str) -> Result<BrokerConfig, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broker.toml");
        std::fs::write(&path, text).unwrap();
        BrokerConfig::read(&path)
    }

    #[test]
    fn unknown_fields_and_bad_bounds_are_refused_by_name() {
        assert!(read(GOOD).unwrap().organisation.ends_with("org"));
        let error = read(&format!("{GOOD}lissten = 1\n"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("lissten"), "{error}");
        let error = read(&format!("{GOOD}[limits]\nconnections = 0\n"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("limits.connections"), "{error}");
    }

    #[test]
    fn s12_the_test_chip_must_be_allowed_by_name() {
        let text = GOOD.replace("\"snp\"", "\"test-chip\"");
        assert!(read(&text).is_err());
        #[cfg(feature = "test-chip")]
        assert!(read(&format!("{text}allow_test_chip = true\n")).is_ok());
    }
}
