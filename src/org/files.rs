//! Where everything lies in an organisation's folder (organisation.md), and errors that name the file.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::OrgError;
use crate::secrets::{self, FileError};

/// Name and date of the organisation.
pub const ABOUT: &str = "org.toml";
/// Folder of the authority that signs people and programs.
pub const CLIENT_CA: &str = "client-ca";
/// Folder of the authority that signs attested servers.
pub const ENCLAVE_CA: &str = "enclave-ca";
/// Certificate inside an authority's or a member's folder.
pub const CERTIFICATE: &str = "cert.pem";
/// Private key beside it.
pub const KEY: &str = "key.pem";
/// The broker's authority, pinned by servers.
pub const BROKER_CA: &str = "broker/ca.pem";
/// The broker's TLS certificate.
pub const BROKER_CERTIFICATE: &str = "broker/cert.pem";
/// The broker's TLS key.
pub const BROKER_KEY: &str = "broker/key.pem";
/// Release key, public half, hexadecimal.
pub const RELEASE_PUBLIC: &str = "release/public.key";
/// Release key, secret half, PKCS#8.
pub const RELEASE_SECRET: &str = "release/secret.key";
/// Key-encryption key of the file backend.
pub const KEK: &str = "kek.key";
/// Signed fleet list.
pub const FLEET: &str = "fleet.json";
/// Signed reference values.
pub const REFERENCE: &str = "reference.json";
/// Signed policy bundle.
pub const POLICY: &str = "policy.json";
/// Signed revocation list.
pub const REVOKED: &str = "revoked.json";
/// Signed collateral of vendors.
pub const COLLATERAL: &str = "collateral.json";
/// Signed lists of what GPUs measure.
pub const GPU_REFERENCE: &str = "gpu-reference.json";
/// Challenges of TPMs that wait for their answers; secret.
pub const ENROLMENTS: &str = "enrolments";
/// Identities that were issued.
pub const TEAMS: &str = "teams";
/// The test chip's seed.
pub const TEST_CHIP_SEED: &str = "test-chip/seed";

/// The test chip's root certificate, DER: what clients and brokers that accept it pin.
pub const TEST_CHIP_ROOT: &str = "test-chip/root.der";

/// The root certificate of the test chip's GPUs, DER.
pub const TEST_GPU_ROOT: &str = "test-chip/gpu-root.der";

/// Nothing of ours in this folder is longer, packages aside.
const FILE_LENGTH_MAX: u64 = 8 * 1024 * 1024;

/// The folder `teams/<team>/<member>`.
pub fn member_folder(organisation: &Path, team: &str, member: &str) -> PathBuf {
    organisation.join(TEAMS).join(team).join(member)
}

/// Reads a public file whole.
pub(super) fn read(organisation: &Path, name: &str) -> Result<Vec<u8>, OrgError> {
    let path = organisation.join(name);
    let about = fs::metadata(&path).map_err(|e| damaged(organisation, name, e))?;
    if !about.is_file() || about.len() > FILE_LENGTH_MAX {
        return Err(damaged(
            organisation,
            name,
            "not a file of a sensible length",
        ));
    }
    fs::read(&path).map_err(|e| damaged(organisation, name, e))
}

/// Reads a public text file.
pub(super) fn read_text(organisation: &Path, name: &str) -> Result<String, OrgError> {
    String::from_utf8(read(organisation, name)?)
        .map_err(|_| damaged(organisation, name, "not text"))
}

/// Reads a secret file (rule O-10).
pub(super) fn read_secret(organisation: &Path, name: &str) -> Result<Zeroizing<Vec<u8>>, OrgError> {
    let path = organisation.join(name);
    secrets::read_secret_file(&path).map_err(|error| match error {
        // The mode's error tells what to do; the others mean that the folder is not whole.
        FileError::OpenToOthers { .. } => OrgError::File(error),
        other => damaged(organisation, name, other),
    })
}

/// Reads a secret text file.
pub(super) fn read_secret_text(
    organisation: &Path,
    name: &str,
) -> Result<Zeroizing<String>, OrgError> {
    let bytes = read_secret(organisation, name)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| damaged(organisation, name, "not text"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

pub(super) fn damaged(organisation: &Path, name: &str, reason: impl fmt::Display) -> OrgError {
    OrgError::Damaged {
        path: organisation.join(name),
        reason: reason.to_string(),
    }
}
