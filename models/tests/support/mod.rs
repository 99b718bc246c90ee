//! Where the shared test data lies. A test that needs it is skipped, and says so, where it is missing.

#![allow(dead_code, reason = "each test file uses its part of this")]

use std::path::PathBuf;

/// `relative` inside the shared folder, or `None` (with a line) where there is no such folder.
///
/// # Panics
/// With `CI=true` in the environment, where a missing folder is a failure.
pub fn shared(relative: &str) -> Option<PathBuf> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared");
    let path = PathBuf::from(root).join(relative);
    if path.exists() {
        return Some(path);
    }
    assert_ne!(
        std::env::var("CI").as_deref(),
        Ok("true"),
        "{} is missing",
        path.display()
    );
    println!("SKIP {relative} is missing");
    None
}

/// A JSON document of the shared folder.
pub fn json(path: &std::path::Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}
