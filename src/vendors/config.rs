//! What `casemate collateral fetch` reads: which services, how patiently, and for which machines. Every field has a default.

use std::path::Path;

use casemate_attestation::tdx::PckCa;
use casemate_attestation::{ChipId, Product, TcbVersion};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::url::ServiceUrl;
use crate::config::{ConfigPath, Role};

/// Where Debian and its like keep the authorities of the public web.
pub const AUTHORITIES_DEFAULT: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Most machines, chains and manifests of one kind.
const OWNED_MAX: usize = 2048;

/// The whole file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FetchConfig {
    /// Where vendors, or mirrors of theirs, answer.
    pub services: Services,
    /// The way there.
    pub network: Network,
    /// What is asked about.
    pub owned: OwnedSection,
}

/// Addresses. A mirror is another address: what it says is judged all the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Services {
    /// AMD's Key Distribution Service.
    pub amd: ServiceUrl,
    /// Intel's Provisioning Certification Service, or a PCCS.
    pub intel: ServiceUrl,
    /// The list of Intel's root, DER or hexadecimal. A PCCS has it at `/sgx/certification/v4/rootcacrl`.
    pub intel_root_list: ServiceUrl,
    /// NVIDIA's service of manifests.
    pub nvidia_manifests: ServiceUrl,
    /// NVIDIA's responder.
    pub nvidia_answers: ServiceUrl,
}

impl Default for Services {
    fn default() -> Self {
        let at = |host: &str, path: &str| ServiceUrl::of_vendor(host, path);
        Self {
            amd: at("kdsintf.amd.com", ""),
            intel: at("api.trustedservices.intel.com", ""),
            intel_root_list: at(
                "certificates.trustedservices.intel.com",
                "/IntelSGXRootCA.der",
            ),
            nvidia_manifests: at("rim.attestation.nvidia.com", ""),
            nvidia_answers: at("ocsp.ndis.nvidia.com", ""),
        }
    }
}

/// Bounds and trust of connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Network {
    /// PEM of the authorities that services' TLS certificates chain to; by default [`AUTHORITIES_DEFAULT`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorities: Option<ConfigPath>,
    /// A proxy that understands CONNECT, `http://host:port`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ServiceUrl>,
    /// Whether services may be reached without TLS that are not on this machine.
    pub plain_http: bool,
    /// How often one thing is asked for, at most.
    pub attempts: u32,
    /// Seconds for one attempt, from connecting to the last byte.
    pub attempt_s: u64,
    /// Seconds for everything together.
    pub total_s: u64,
    /// Longest wait between attempts, seconds. A service that asks for more is given up on.
    pub wait_s_max: u64,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            authorities: None,
            proxy: None,
            plain_http: false,
            attempts: 5,
            attempt_s: 30,
            total_s: 900,
            wait_s_max: 60,
        }
    }
}

/// What an organisation owns, besides what its evidence says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OwnedSection {
    /// Folders of saved evidence.
    pub evidence: Vec<ConfigPath>,
    /// Names of NVIDIA's manifests.
    pub manifests: Vec<String>,
    /// Chains of NVIDIA's devices, PEM.
    pub chains: Vec<ConfigPath>,
    /// AMD's chips.
    pub chips: Vec<OwnedChip>,
    /// Families of Intel's platforms.
    pub platforms: Vec<OwnedPlatform>,
}

/// A chip and its firmware.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnedChip {
    /// `milan`, `genoa` or `turin`.
    pub product: Product,
    /// CHIP_ID of its reports, hexadecimal; a Turin's has eight bytes and zeros.
    pub chip: ChipId,
    /// REPORTED_TCB of its reports.
    pub tcb: TcbVersion,
}

/// A family of platforms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnedPlatform {
    /// Twelve hexadecimal digits.
    #[serde(deserialize_with = "fmspc", serialize_with = "fmspc_text")]
    pub fmspc: [u8; 6],
    /// Who certifies it: `processor` or `platform`.
    pub ca: PckCa,
}

fn fmspc<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 6], D::Error> {
    let text = String::deserialize(deserializer)?;
    casemate_attestation::digest::hex_array("FMSPC", &text).map_err(serde::de::Error::custom)
}

fn fmspc_text<S: Serializer>(fmspc: &[u8; 6], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&hex::encode(fmspc))
}

impl Network {
    /// The file of authorities.
    #[must_use]
    pub fn authorities(&self) -> &Path {
        let default = Path::new(AUTHORITIES_DEFAULT);
        self.authorities.as_deref().map_or(default, |path| path)
    }
}

impl Role for FetchConfig {
    fn paths(&mut self) -> Vec<&mut ConfigPath> {
        let owned = self.owned.evidence.iter_mut();
        owned
            .chain(&mut self.owned.chains)
            .chain(&mut self.network.authorities)
            .collect()
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        let network = &self.network;
        let within = |field, value: u64, most: u64| match (1..=most).contains(&value) {
            true => Ok(()),
            false => Err((field, format!("{value} is not between 1 and {most}"))),
        };
        within("network.attempts", u64::from(network.attempts), 10)?;
        within("network.attempt_s", network.attempt_s, 300)?;
        within("network.total_s", network.total_s, 24 * 60 * 60)?;
        within("network.wait_s_max", network.wait_s_max, 600)?;
        if network
            .proxy
            .as_ref()
            .is_some_and(|proxy| proxy.tls || proxy.target("") != "/")
        {
            let rule = "a proxy is http://host:port without a path".to_owned();
            return Err(("network.proxy", rule));
        }
        self.services.must_be_tls(network.plain_http)?;
        self.owned.check()
    }
}

impl Services {
    fn must_be_tls(&self, plain_http: bool) -> Result<(), (&'static str, String)> {
        let fields = [
            ("services.amd", &self.amd),
            ("services.intel", &self.intel),
            ("services.intel_root_list", &self.intel_root_list),
            ("services.nvidia_manifests", &self.nvidia_manifests),
            ("services.nvidia_answers", &self.nvidia_answers),
        ];
        let plain = |(_, url): &(_, &ServiceUrl)| !url.tls && !url.is_loopback();
        match fields.into_iter().find(plain) {
            Some((field, _)) if !plain_http => {
                let rule = "http:// leads only to this machine; say https://, or network.plain_http = true".to_owned();
                Err((field, rule))
            }
            _ => Ok(()),
        }
    }
}

impl OwnedSection {
    fn check(&self) -> Result<(), (&'static str, String)> {
        let lengths = [
            ("owned.evidence", self.evidence.len()),
            ("owned.chips", self.chips.len()),
            ("owned.platforms", self.platforms.len()),
            ("owned.chains", self.chains.len()),
            ("owned.manifests", self.manifests.len()),
        ];
        if let Some((field, found)) = lengths.into_iter().find(|(_, found)| *found > OWNED_MAX) {
            return Err((field, format!("{found} are more than {OWNED_MAX}")));
        }
        if let Some(name) = self.manifests.iter().find(|name| !is_manifest(name)) {
            let rule = format!("{name:?} is no name such as NV_GPU_DRIVER_GH100_580.65.06");
            return Err(("owned.manifests", rule));
        }
        let masked = self.chips.iter().any(|it| it.chip.is_masked());
        let short = |it: &OwnedChip| it.chip.as_bytes().iter().skip(8).all(|byte| *byte == 0);
        let turin = |it: &OwnedChip| it.product == Product::Turin;
        if masked || self.chips.iter().any(|it| turin(it) != short(it)) {
            let rule =
                "a chip's id has 64 bytes; a Turin's eight and zeros, and no other's".to_owned();
            return Err(("owned.chips", rule));
        }
        if self.chips.iter().any(|it| !turin(it) && it.tcb.fmc != 0) {
            return Err(("owned.chips", "only Turin has an fmc".to_owned()));
        }
        Ok(())
    }
}

/// Names become part of addresses and of files' names.
fn is_manifest(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    name.starts_with("NV_") && name.len() <= 128 && name.bytes().all(plain)
}
