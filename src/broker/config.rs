//! `broker.toml`: one strict file. Paths in it are relative to the folder that it lies in.

use std::net::SocketAddr;

use casemate_attestation::Platform;
use serde::{Deserialize, Serialize};

use crate::config::{ConfigPath, Role};

/// What the broker does and where it keeps things.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrokerConfig {
    /// Address and port to listen on.
    pub listen: SocketAddr,
    /// The organisation's folder.
    pub organisation: ConfigPath,
    /// Folder of the store: highest numbers and epochs.
    pub state: ConfigPath,
    /// File that witnesses the store's last state; best on another disk, because it shows that the store was rolled back.
    pub witness: ConfigPath,
    /// File of the audit log.
    pub audit: ConfigPath,
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
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
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

impl Role for BrokerConfig {
    fn paths(&mut self) -> Vec<&mut ConfigPath> {
        vec![
            &mut self.organisation,
            &mut self.state,
            &mut self.witness,
            &mut self.audit,
        ]
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        let Limits {
            connections,
            request_seconds,
            unattested_seconds,
        } = self.limits;
        for (field, value, most) in [
            ("limits.connections", connections, 65_536),
            ("limits.request_seconds", request_seconds, 3_600),
            ("limits.unattested_seconds", unattested_seconds, 3_600),
        ] {
            if value == 0 || value > most {
                return Err((field, format!("is {value}; it must be 1 to {most}")));
            }
        }
        match self.platform {
            Platform::TestChip if cfg!(not(feature = "test-chip")) => Err((
                "platform",
                "this program was built without the test chip; use \"snp\", \"tdx\" or \"tpm\""
                    .into(),
            )),
            Platform::TestChip if !self.allow_test_chip => Err((
                "platform",
                "\"test-chip\" proves nothing about a machine; it needs allow_test_chip = true"
                    .into(),
            )),
            Platform::Snp | Platform::Tdx | Platform::Tpm | Platform::TestChip => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConfigError, Loaded};

    const GOOD: &str = "listen = \"127.0.0.1:0\"\norganisation = \"org\"\nstate = \"state\"\n\
        witness = \"witness\"\naudit = \"audit.log\"\nplatform = \"snp\"\n";

    fn read(text: &str) -> Result<Loaded<BrokerConfig>, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broker.toml");
        std::fs::write(&path, text).unwrap();
        Loaded::read(&path)
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
        for field in ["connections", "request_seconds", "unattested_seconds"] {
            let text = format!("{GOOD}[limits]\n{field} = 70000\n");
            let error = read(&text).unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
    }

    #[test]
    fn s12_the_test_chip_must_be_allowed_by_name() {
        let text = GOOD.replace("\"snp\"", "\"test-chip\"");
        assert!(read(&text).is_err());
        #[cfg(feature = "test-chip")]
        assert!(read(&format!("{text}allow_test_chip = true\n")).is_ok());
    }
}
