//! Runtime data: the paravisor's JSON with the virtual TPM's keys (rules Z3, Z4). Read only after it was bound.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::hcl::HCL_BYTES_MAX;
use super::rejection::AzureRejection;
use crate::strict_json;
use crate::tpm::PublicKey;

const AK: &str = "HCLAkPub";
const USER_DATA_BYTES_MAX: usize = 64;

/// What the paravisor says. Only the keys are its own knowledge; the configuration is what the host configured.
#[derive(Debug, Clone)]
pub struct RuntimeData {
    attestation_key: PublicKey,
    vm_configuration: Map<String, Value>,
    user_data: Vec<u8>,
}

/// As it is written. Microsoft adds fields from time to time; the hash covers them all, so unknown ones are not refused.
#[derive(Deserialize)]
struct Written {
    keys: Vec<Jwk>,
    #[serde(rename = "vm-configuration", default)]
    vm_configuration: Map<String, Value>,
    #[serde(rename = "user-data", default)]
    user_data: String,
}

#[derive(Deserialize)]
struct Jwk {
    kid: String,
    kty: String,
    #[serde(default)]
    key_ops: Vec<String>,
    #[serde(default)]
    n: String,
    #[serde(default)]
    e: String,
}

impl RuntimeData {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, AzureRejection> {
        let written: Written =
            strict_json::from_slice(bytes, HCL_BYTES_MAX).map_err(AzureRejection::RuntimeData)?;
        let user_data = hex::decode(&written.user_data)
            .ok()
            .filter(|data| data.len() <= USER_DATA_BYTES_MAX)
            .ok_or(AzureRejection::UserData)?;
        Ok(Self {
            attestation_key: attestation_key(&written.keys)?,
            vm_configuration: written.vm_configuration,
            user_data,
        })
    }

    /// The virtual TPM's attestation key.
    #[must_use]
    pub const fn attestation_key(&self) -> &PublicKey {
        &self.attestation_key
    }

    /// How the host configured the machine. The paravisor repeats it: asserted, not measured.
    #[must_use]
    pub const fn vm_configuration(&self) -> &Map<String, Value> {
        &self.vm_configuration
    }

    /// What the guest asked the paravisor to bind, up to 64 bytes.
    #[must_use]
    pub fn user_data(&self) -> &[u8] {
        &self.user_data
    }
}

/// Rule Z4: the one key of that name, for signing and nothing else.
fn attestation_key(keys: &[Jwk]) -> Result<PublicKey, AzureRejection> {
    let malformed = AzureRejection::KeyMalformed;
    let mut named = keys.iter().filter(|key| key.kid == AK);
    let key = named.next().ok_or(AzureRejection::KeyMissing)?;
    if named.next().is_some() {
        return Err(AzureRejection::KeyTwice);
    }
    if key.kty != "RSA" {
        return Err(malformed("is not an RSA key"));
    }
    if key.key_ops != ["sign"] {
        return Err(malformed("is not for signing alone"));
    }
    let number = |text: &str| URL_SAFE_NO_PAD.decode(text);
    let (Ok(n), Ok(e)) = (number(&key.n), number(&key.e)) else {
        return Err(malformed("is not in canonical base64"));
    };
    PublicKey::rsa(&n, &e).map_err(|_| malformed("is no RSA key of 2048 to 4096 bits"))
}
