//! What the tests of devices share: files, keys, and the shared evidence.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::path::{Path, PathBuf};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use casemate_attestation::tpm::{Curve, PublicKey};
use casemate_devices::tpm::KeyKind;

/// A PEM file's DER.
pub fn pem(path: &Path) -> Vec<u8> {
    let text = std::fs::read_to_string(path).unwrap();
    let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    STANDARD.decode(body).unwrap()
}

/// The key at the end of a default endorsement key's public area.
pub fn endorsement(kind: KeyKind, area: &[u8]) -> PublicKey {
    match kind {
        KeyKind::Rsa2048 => PublicKey::Rsa {
            n: area[area.len() - 256..].to_vec(),
            e: vec![1, 0, 1],
        },
        KeyKind::P256 => {
            let (x, y) = area[area.len() - 68..].split_at(34);
            PublicKey::Ec {
                curve: Curve::P256,
                point: [&[4], &x[2..], &y[2..]].concat(),
            }
        }
    }
}

/// A folder of the shared evidence. `None`, said aloud, where it is not; that is a failure where CI runs.
pub fn shared(folder: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared/evidence")
        .join(folder);
    if path.is_dir() {
        return Some(path);
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "shared evidence {folder} is missing"
    );
    println!("SKIP shared evidence {folder} is missing");
    None
}
