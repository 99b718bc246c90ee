//! What the tests of devices share: files, keys, and the shared evidence.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::path::{Path, PathBuf};

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// A PEM file's DER.
pub fn pem(path: &Path) -> Vec<u8> {
    let text = std::fs::read_to_string(path).unwrap();
    let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    STANDARD.decode(body).unwrap()
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
