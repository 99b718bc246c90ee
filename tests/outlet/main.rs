//! The guard on the way out, on real texts and a real small model: what the leak scan tells and does not tell, and how marks
//! are found again (GUARD section 8, G8, G10 and G13, at a size that every run can afford).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::tests_outside_test_module,
    reason = "a test that cannot go on fails"
)]

mod leak;
mod likelihood;
mod mark;

use std::path::PathBuf;

use serde_json::Value;

/// A file of the shared folder; a missing one is a failure where everything must run.
fn shared(relative: &str) -> Option<PathBuf> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared");
    let path = PathBuf::from(root).join(relative);
    if path.exists() {
        return Some(path);
    }
    assert_ne!(
        std::env::var("CI").as_deref(),
        Ok("true"),
        "{relative} is missing"
    );
    println!("SKIP {relative} is missing");
    None
}

/// The rows of a file of traffic.
fn rows(relative: &str) -> Option<Vec<Value>> {
    let text = std::fs::read_to_string(shared(relative)?).unwrap();
    let parsed = text.lines().map(|line| serde_json::from_str(line).unwrap());
    Some(parsed.collect())
}

/// The texts of a file of traffic.
fn texts(relative: &str) -> Option<Vec<String>> {
    let parsed = rows(relative)?
        .into_iter()
        .map(|row| match row["turns"].as_array() {
            Some(turns) => {
                let turns = turns.iter().map(|turn| turn.as_str().unwrap());
                turns.collect::<Vec<_>>().join("\n")
            }
            None => row["text"].as_str().unwrap().to_owned(),
        });
    Some(parsed.collect())
}
