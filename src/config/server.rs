//! `server.toml`: what `casemate serve` is told.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use casemate_attestation::Platform;
use serde::{Deserialize, Serialize};

use super::devices::DevicesSection;
use super::engine::EngineSection;
use super::load::{ConfigPath, Role};
use crate::audit::Durability;
use crate::policy::ModelName;

/// The server's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// Where it listens, and as whom.
    pub server: ServerSection,
    /// Who releases its keys.
    pub broker: BrokerSection,
    /// Whom it believes.
    pub trust: TrustSection,
    /// How it proves what it runs.
    pub attestation: AttestationSection,
    /// Which machines of clients it judges; without it evidence of a client is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clients: Option<ClientsSection>,
    /// What it keeps.
    pub state: StateSection,
    /// The extraction guard.
    #[serde(default)]
    pub guard: GuardSection,
    /// Where it records decisions.
    pub audit: AuditSection,
    /// Every bound.
    #[serde(default)]
    pub limits: LimitsSection,
    /// How models run.
    #[serde(default)]
    pub engine: EngineSection,
    /// The models, in the order in which the binding lists them.
    #[serde(rename = "model")]
    pub models: Vec<ModelSection>,
}

/// `[server]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerSection {
    /// Address and port; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Names for the certificate. The fleet list must allow them on this chip.
    pub names: Vec<String>,
}

/// `[broker]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrokerSection {
    /// Host and port.
    pub address: String,
    /// The name in the broker's certificate.
    pub name: String,
    /// PEM of the authority that signed the broker's certificate.
    pub authority: ConfigPath,
}

/// `[trust]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustSection {
    /// The organisation's release key, public half, hexadecimal.
    pub release_key: ConfigPath,
    /// PEM of the CA that signs people and programs.
    pub client_authority: ConfigPath,
}

/// `[attestation]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttestationSection {
    /// What makes the evidence.
    pub platform: Platform,
    /// Seed of the test chip, mode 0600. With `platform = "test-chip"` only, and never in a production build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_chip_seed: Option<ConfigPath>,
    /// What the vendor signs about this machine: the file of `casemate collateral pack`, or a folder with `vek.der`, `intermediate.der` and `crl.der` for `"snp"` (certificates
    /// that are not there are taken from the host), `tdx.json` for `"tdx"`. Read again for every report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collateral: Option<ConfigPath>,
    /// With `platform = "tpm"`: what the TPM shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm: Option<TpmSection>,
    /// GPUs and switches that prove themselves beside the machine, where the fleet list gives it any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<DevicesSection>,
    /// Seconds after which every session must be attested again; a team's own limit may be shorter.
    #[serde(default = "an_hour")]
    pub session_seconds: u32,
}

/// `[attestation.tpm]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TpmSection {
    /// Registers of the SHA-256 bank, 0 to 23: exactly those of the reference values.
    pub registers: BTreeSet<u8>,
    /// Address of a software TPM on this machine, for trials; never in a production build. Without it `/dev/tpmrm0` is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub software: Option<SocketAddr>,
}

impl TpmSection {
    fn check(&self) -> Result<(), Complaint> {
        if self.registers.is_empty() || self.registers.iter().any(|register| *register > 23) {
            return Err((
                "attestation.tpm.registers",
                "must name registers from 0 to 23, those of the reference values".into(),
            ));
        }
        match self.software {
            Some(_) if cfg!(not(feature = "test-chip")) => Err((
                "attestation.tpm.software",
                "this program was built for production and asks the machine's own TPM; remove it"
                    .into(),
            )),
            Some(address) if !address.ip().is_loopback() => Err((
                "attestation.tpm.software",
                "must be an address of this machine, as 127.0.0.1:2321".into(),
            )),
            _ => Ok(()),
        }
    }
}

/// `[clients]`: evidence of the clients' own machines. Their lists have a release key of their own, so that a list of laptops
/// never stands in for the list of servers: make them in a folder of their own (`casemate org init`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientsSection {
    /// `"optional"`: judged where it comes, for policy to ask for; `"required"`: no session without.
    pub evidence: ClientDemand,
    /// The only platform whose evidence is accepted.
    pub platform: Platform,
    /// The key that signs the two lists, public half, hexadecimal. Not `trust.release_key`.
    pub release_key: ConfigPath,
    /// Signed reference values.
    pub reference: ConfigPath,
    /// Signed fleet list.
    pub fleet: ConfigPath,
    /// Root certificate of the clients' test chip. With `platform = "test-chip"` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_chip_root: Option<ConfigPath>,
}

/// What a client without evidence gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientDemand {
    /// A session, in which policy sees that there was none.
    Optional,
    /// Nothing.
    Required,
}

/// `[state]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateSection {
    /// Folder for numbers that never go back.
    pub folder: ConfigPath,
}

/// `[guard]`: how the extraction guard begins. What it may do is policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GuardSection {
    /// Principals whose sketches are kept at once, 24 KiB each; who was not seen for longest goes.
    pub principals: u32,
    /// Questions that anybody asks, a line each, at most 8 MiB: they tell nothing of who sends them. Without it nothing is taken away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub background: Option<ConfigPath>,
    /// How anybody begins to ask, a line each, at most 8 MiB: it makes no family of templates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions: Option<ConfigPath>,
}

impl Default for GuardSection {
    fn default() -> Self {
        Self {
            principals: 10_000,
            background: None,
            instructions: None,
        }
    }
}

/// `[audit]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditSection {
    /// The log, mode 0600.
    pub file: ConfigPath,
    /// When a record counts as written.
    #[serde(default)]
    pub durability: Durability,
}

/// `[[model]]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSection {
    /// For logs and errors on this machine. Callers use the names that policy gives.
    pub name: ModelName,
    /// The sealed package.
    pub package: ConfigPath,
    /// The sealed package of a smaller model with the same vocabulary, which guesses what this one will say; it changes no
    /// answer. Policy must name it, as it must name every model; it is served to nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draft: Option<ConfigPath>,
}

/// `[limits]`: every bound of the server, each at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsSection {
    /// Connections at once.
    pub connections: u32,
    /// Connections of one principal at once.
    pub connections_per_principal: u32,
    /// For a TLS handshake.
    pub handshake_seconds: u32,
    /// Connections that wait for evidence at once.
    pub evidence_waiting: u32,
    /// Bytes of request headers.
    pub header_bytes: u32,
    /// Bytes of a request body.
    pub body_bytes: u32,
    /// For a request body to arrive.
    pub body_seconds: u32,
    /// HTTP/2 streams of one connection.
    pub streams: u32,
    /// Tokens of a prompt; a model's own context may be shorter.
    pub prompt_tokens: u32,
    /// Requests that wait for the engine.
    pub queue: u32,
    /// Sequences that the engine works on at once.
    pub sequences: u32,
    /// Tokens of all running sequences together, for each model: the memory of keys and values.
    pub cache_tokens: u32,
    /// For a whole answer.
    pub answer_seconds: u32,
    /// For the reader of a stream that stands still.
    pub reader_seconds: u32,
    /// For answers under way when the server is told to stop.
    pub drain_seconds: u32,
}

impl Default for LimitsSection {
    fn default() -> Self {
        Self {
            connections: 1024,
            connections_per_principal: 64,
            handshake_seconds: 10,
            evidence_waiting: 4096,
            header_bytes: 16 * 1024,
            body_bytes: 4 * 1024 * 1024,
            body_seconds: 30,
            streams: 64,
            prompt_tokens: 131_072,
            queue: 256,
            sequences: 8,
            cache_tokens: 32_768,
            answer_seconds: 600,
            reader_seconds: 60,
            drain_seconds: 10,
        }
    }
}

impl LimitsSection {
    /// Fields with their values and the most that each may be.
    const fn bounds(&self) -> [(&'static str, u32, u32); 15] {
        [
            ("limits.connections", self.connections, 65_536),
            (
                "limits.connections_per_principal",
                self.connections_per_principal,
                65_536,
            ),
            ("limits.handshake_seconds", self.handshake_seconds, 300),
            ("limits.evidence_waiting", self.evidence_waiting, 65_536),
            ("limits.header_bytes", self.header_bytes, 1024 * 1024),
            ("limits.body_bytes", self.body_bytes, 1024 * 1024 * 1024),
            ("limits.body_seconds", self.body_seconds, 3600),
            ("limits.streams", self.streams, 65_536),
            ("limits.prompt_tokens", self.prompt_tokens, u32::MAX),
            ("limits.queue", self.queue, 1_000_000),
            ("limits.sequences", self.sequences, 4096),
            ("limits.cache_tokens", self.cache_tokens, 1 << 28),
            ("limits.answer_seconds", self.answer_seconds, 86_400),
            ("limits.reader_seconds", self.reader_seconds, 3600),
            ("limits.drain_seconds", self.drain_seconds, 3600),
        ]
    }
}

const fn an_hour() -> u32 {
    3600
}

/// A gigabyte and a half of sketches.
const PRINCIPALS_MAX: u32 = 65_536;

type Complaint = (&'static str, String);

impl AttestationSection {
    /// Each section stands beside the platform that reads it, and there alone.
    fn check_sections(&self) -> Result<(), Complaint> {
        let vendor = matches!(self.platform, Platform::Snp | Platform::Tdx);
        match (&self.collateral, vendor) {
            (None, true) => {
                return Err((
                    "attestation.collateral",
                    "is needed: the folder with the vendor's certificates and lists".into(),
                ));
            }
            (Some(_), false) => {
                return Err((
                    "attestation.collateral",
                    "is for platforms \"snp\" and \"tdx\" only; remove it".into(),
                ));
            }
            _ => {}
        }
        match (&self.tpm, self.platform) {
            (Some(section), Platform::Tpm) => section.check(),
            (None, Platform::Tpm) => Err((
                "attestation.tpm",
                "is needed with platform \"tpm\": registers = [0, 1, 2, 3, 4, 5, 6, 7]".into(),
            )),
            (Some(_), _) => Err((
                "attestation.tpm",
                "is for platform \"tpm\" only; remove it".into(),
            )),
            (None, _) => Ok(()),
        }
    }
}

impl Role for ServerConfig {
    fn paths(&mut self) -> Vec<&mut ConfigPath> {
        let mut paths = vec![
            &mut self.broker.authority,
            &mut self.trust.release_key,
            &mut self.trust.client_authority,
            &mut self.state.folder,
            &mut self.audit.file,
        ];
        paths.extend(self.attestation.test_chip_seed.as_mut());
        paths.extend(self.attestation.collateral.as_mut());
        let devices = self.attestation.devices.as_mut();
        paths.extend(devices.into_iter().flat_map(DevicesSection::paths));
        paths.extend(self.guard.background.as_mut());
        paths.extend(self.guard.instructions.as_mut());
        paths.extend(self.models.iter_mut().map(|model| &mut model.package));
        paths
    }

    fn check(&self) -> Result<(), Complaint> {
        self.attestation.check()?;
        if self.server.names.is_empty() {
            return Err((
                "server.names",
                "is empty; a certificate needs at least one name".into(),
            ));
        }
        if self.models.is_empty() {
            return Err((
                "model",
                "no [[model]] is there; empty means none, and none is no server".into(),
            ));
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = self.models.iter().find(|model| !seen.insert(&model.name)) {
            return Err(("model", format!("two models are named {}", twice.name)));
        }
        self.engine.check()?;
        if !(1..=PRINCIPALS_MAX).contains(&self.guard.principals) {
            let rule = format!(
                "is {}; it must be 1 to {PRINCIPALS_MAX}",
                self.guard.principals
            );
            return Err(("guard.principals", rule));
        }
        for (field, value, most) in self.limits.bounds() {
            if value == 0 || value > most {
                return Err((field, format!("is {value}; it must be 1 to {most}")));
            }
        }
        Ok(())
    }
}

impl AttestationSection {
    fn check(&self) -> Result<(), Complaint> {
        self.check_sections()?;
        if let Some(devices) = &self.devices {
            devices.check(self.platform)?;
        }
        let field = "attestation.test_chip_seed";
        match (self.platform, &self.test_chip_seed) {
            (Platform::TestChip, _) if cfg!(not(feature = "test-chip")) => Err((
                "attestation.platform",
                "this program was built for production and has no test chip".into(),
            )),
            (Platform::TestChip, None) => {
                Err((field, "is needed with platform \"test-chip\"".into()))
            }
            (Platform::Snp | Platform::Tdx | Platform::Tpm, Some(_)) => Err((
                field,
                "is for platform \"test-chip\" only; remove it".into(),
            )),
            _ if !(1..=86_400).contains(&self.session_seconds) => {
                Err(("attestation.session_seconds", "must be 1 to 86400".into()))
            }
            _ => Ok(()),
        }
    }
}
