//! `connect.toml`: one file, every field known, and an error that shows the line. Paths are relative to the file.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use casemate_attestation::{Platform, Sha256Digest};
use rustls_pki_types::ServerName;
use serde::{Deserialize, Serialize};

use crate::files::{self, FileError};

const CONFIG_BYTES_MAX: u64 = 64 * 1024;

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not TOML, an unknown field, or a value out of range; the message has the line and a caret.
    #[error("{path}: {error}", path = path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// With line, column and caret.
        error: toml::de::Error,
    },
    /// The file is not text.
    #[error("{path} is not UTF-8 text", path = .0.display())]
    NotText(PathBuf),
}

/// Everything that `connect` and `verify` are told.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the server is.
    pub server: ServerUrl,
    /// The name in its certificate and on its chip's fleet entry, if it is not the URL's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<Name>,
    /// Whether requests and the records that carry them are filled up, so that their sizes tell little of what is asked.
    #[serde(default = "yes")]
    pub pad_requests: bool,
    /// Who this client is.
    pub identity: IdentitySection,
    /// What it believes in.
    pub trust: TrustSection,
    /// Evidence of this machine, for servers whose policy asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation: Option<OwnSection>,
    /// What else it insists on.
    #[serde(default)]
    pub expect: ExpectSection,
    /// Where programs on this machine reach it.
    #[serde(default)]
    pub listen: ListenSection,
    /// The bounds.
    #[serde(default)]
    pub limits: Limits,
}

const fn yes() -> bool {
    true
}

/// The client's certificate and key, both PEM.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentitySection {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// The key, mode 0600.
    pub key: PathBuf,
}

/// Roots and signed documents.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustSection {
    /// PEM of the CA that signs attested servers.
    pub enclave_ca: PathBuf,
    /// The organisation's release key, public half, hexadecimal.
    pub release_key: PathBuf,
    /// Signed reference values.
    pub reference: PathBuf,
    /// Signed fleet list.
    pub fleet: PathBuf,
    /// The only platform whose evidence is accepted. Policy chooses it, evidence never does (rule P-31).
    pub platform: Platform,
    /// Root certificate of the test chip, PEM or DER. Needs `platform = "test-chip"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_chip_root: Option<PathBuf>,
    /// Root certificate of the test chip's GPUs, PEM or DER. Beside `test_chip_root` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_gpu_root: Option<PathBuf>,
}

/// `[attestation]`: what vouches for this client's own machine. Needs the program `casemate`: `casemate-connect` asks no devices.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnSection {
    /// `"tpm"`, or `"test-chip"` for trials.
    pub platform: Platform,
    /// With `"tpm"`: registers of the SHA-256 bank, exactly those of the server's reference values for clients.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub registers: BTreeSet<u8>,
    /// With `"tpm"`: address of a software TPM on this machine, for trials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub software: Option<SocketAddr>,
    /// With `"test-chip"`: its seed, mode 0600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_chip_seed: Option<PathBuf>,
}

/// Pins beyond the signed documents (attack A3).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpectSection {
    /// SHA-256 of the policy bundle that must be in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_bundle: Option<Sha256Digest>,
    /// Exactly these models must be served, in any order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models: Option<ModelPins>,
}

/// The local endpoint.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenSection {
    /// Loopback address and port; port 0 takes a free one.
    pub address: ListenAddress,
}

/// Every bound of the client in one place.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// For TCP and TLS, seconds.
    pub connect_s: Seconds,
    /// For each step of an attestation, seconds. A busy fleet may queue for its security processor.
    pub attest_s: Seconds,
    /// The longest life of a session that this client uses, whatever the server offers, seconds.
    pub session_life_s_max: Seconds,
    /// For a local caller's request head, seconds.
    pub request_head_s: Seconds,
    /// The longest request body, bytes.
    pub body_bytes_max: u64,
    /// Local connections at a time; further ones wait.
    pub connections_max: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect_s: Seconds(10),
            attest_s: Seconds(30),
            session_life_s_max: Seconds(3600),
            request_head_s: Seconds(10),
            body_bytes_max: 8 * 1024 * 1024,
            connections_max: 256,
        }
    }
}

impl Config {
    /// Reads a file; relative paths in it become paths below the file's folder.
    ///
    /// # Errors
    /// [`ConfigError`] with line, column and caret.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let bytes = files::read_public(path, CONFIG_BYTES_MAX)?;
        let text =
            std::str::from_utf8(&bytes).map_err(|_| ConfigError::NotText(path.to_owned()))?;
        let mut config: Self = toml::from_str(text).map_err(|error| ConfigError::Toml {
            path: path.to_owned(),
            error,
        })?;
        config.resolve(path.parent().unwrap_or(Path::new("")));
        Ok(config)
    }

    /// The name that the server must prove.
    #[must_use]
    pub fn name(&self) -> &Name {
        self.server_name.as_ref().unwrap_or(&self.server.host)
    }

    /// What is in force as TOML, after a comment with the SHA-256 of it.
    ///
    /// # Errors
    /// When the values cannot be written as TOML: a path that is not UTF-8.
    pub fn print(&self) -> Result<String, toml::ser::Error> {
        let text = toml::to_string_pretty(self)?;
        Ok(format!(
            "# sha256 {}\n{text}",
            Sha256Digest::of(text.as_bytes())
        ))
    }

    fn resolve(&mut self, folder: &Path) {
        let trust = &mut self.trust;
        let paths = [
            &mut self.identity.certificate,
            &mut self.identity.key,
            &mut trust.enclave_ca,
            &mut trust.release_key,
            &mut trust.reference,
            &mut trust.fleet,
        ];
        let own = self.attestation.as_mut();
        let seed = own.and_then(|own| own.test_chip_seed.as_mut());
        let roots = trust.test_chip_root.as_mut().into_iter();
        let optional = roots.chain(trust.test_gpu_root.as_mut()).chain(seed);
        for path in paths.into_iter().chain(optional) {
            *path = folder.join(&*path);
        }
    }
}

/// `https://host[:port]`, and nothing behind it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServerUrl {
    host: Name,
    port: u16,
}

impl ServerUrl {
    /// Host and port, as a socket wants them.
    #[must_use]
    pub fn address(&self) -> String {
        match self.host.0.contains(':') {
            true => format!("[{}]:{}", self.host.0, self.port),
            false => format!("{}:{}", self.host.0, self.port),
        }
    }

    /// What requests name as their host: `name`, and the port when it is not 443.
    #[must_use]
    pub fn authority(&self, name: &Name) -> String {
        let host = if name.0.contains(':') {
            format!("[{}]", name.0)
        } else {
            name.0.clone()
        };
        if self.port == 443 {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }

    /// The host alone.
    #[must_use]
    pub fn host(&self) -> &Name {
        &self.host
    }
}

impl TryFrom<String> for ServerUrl {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("server must be https://host[:port] and nothing more, not {text:?}");
        let rest = text.strip_prefix("https://").ok_or_else(wrong)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let authority: http::uri::Authority = rest.parse().map_err(|_| wrong())?;
        if rest.contains(['@', '/', '?', '#']) || authority.host().is_empty() {
            return Err(wrong());
        }
        let port = match (authority.port_u16(), authority.port()) {
            (Some(port), _) => port,
            (None, None) if !rest.ends_with(':') => 443,
            (None, _) => return Err(wrong()),
        };
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']');
        Ok(Self {
            host: Name::try_from(host.to_owned())?,
            port,
        })
    }
}

impl From<ServerUrl> for String {
    fn from(url: ServerUrl) -> Self {
        url.to_string()
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}", self.address())
    }
}

/// A DNS name or an IP address that a certificate can carry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as TLS wants it.
    pub(crate) fn to_server_name(&self) -> Result<ServerName<'static>, String> {
        ServerName::try_from(self.0.clone())
            .map_err(|_| format!("{:?} is neither a DNS name nor an IP address", self.0))
    }
}

impl TryFrom<String> for Name {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let name = Self(text.to_ascii_lowercase());
        name.to_server_name().map(|_| name)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

/// A socket address on loopback. Prompts would leave the machine in the clear on any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ListenAddress(SocketAddr);

impl ListenAddress {
    /// The address to bind.
    #[must_use]
    pub const fn socket(self) -> SocketAddr {
        self.0
    }
}

impl Default for ListenAddress {
    fn default() -> Self {
        Self(SocketAddr::from((Ipv4Addr::LOCALHOST, 11434)))
    }
}

impl std::str::FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address: SocketAddr = text.parse().map_err(|_| {
            format!("{text:?} is not an address and a port, such as 127.0.0.1:11434")
        })?;
        if !address.ip().is_loopback() {
            return Err(format!(
                "{address} is not on loopback; prompts would cross the network in the clear"
            ));
        }
        Ok(Self(address))
    }
}

impl TryFrom<String> for ListenAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<ListenAddress> for String {
    fn from(address: ListenAddress) -> Self {
        address.0.to_string()
    }
}

/// Digests of models, at least one: empty would mean that no server is right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Sha256Digest>")]
pub struct ModelPins(Vec<Sha256Digest>);

impl ModelPins {
    /// The digests.
    #[must_use]
    pub fn digests(&self) -> &[Sha256Digest] {
        &self.0
    }
}

impl TryFrom<Vec<Sha256Digest>> for ModelPins {
    type Error = &'static str;

    fn try_from(digests: Vec<Sha256Digest>) -> Result<Self, Self::Error> {
        if digests.is_empty() {
            return Err("models is empty, which no server satisfies; remove it or name models");
        }
        Ok(Self(digests))
    }
}

/// A duration of 1 second to 1 day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Seconds(u64);

impl Seconds {
    /// As the library's type.
    #[must_use]
    pub const fn duration(self) -> Duration {
        Duration::from_secs(self.0)
    }
}

impl TryFrom<u64> for Seconds {
    type Error = String;

    fn try_from(seconds: u64) -> Result<Self, String> {
        match seconds {
            1..=86_400 => Ok(Self(seconds)),
            _ => Err(format!("{seconds} s is not between 1 s and 86400 s")),
        }
    }
}

impl From<Seconds> for u64 {
    fn from(seconds: Seconds) -> Self {
        seconds.0
    }
}
