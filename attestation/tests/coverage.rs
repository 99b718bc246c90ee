//! The lists of coverage in docs/formats: every rule has an accepting and a refusing case, and every case that a list names exists.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const LISTS: [(&str, &str); 2] = [
    ("tpm.md", include_str!("../../docs/formats/tpm.md")),
    ("nvidia.md", include_str!("../../docs/formats/nvidia.md")),
];

/// Names of all functions in the Rust files of a folder.
fn functions(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                functions(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let names = text.split("fn ").skip(1).filter_map(|rest| {
                let end = rest.find(|next: char| !next.is_alphanumeric() && next != '_')?;
                Some(rest[..end].to_owned())
            });
            found.extend(names);
        }
    }
}

/// Rows of the list under "## Coverage", cell by cell.
fn rows(page: &str) -> Vec<Vec<&str>> {
    let (_, list) = page.split_once("\n## Coverage\n").unwrap();
    let rows = list.lines().filter(|line| line.starts_with("| "));
    rows.skip(1)
        .map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect()
}

/// What stands between backticks.
fn names(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn every_rule_has_an_accepting_and_a_refusing_case() {
    for (page, text) in LISTS {
        let listed: Vec<_> = rows(text).into_iter().map(|row| row.join("|")).collect();
        for row in rows(text) {
            assert_eq!(row.len(), 4, "{page}: {row:?}");
            assert!(
                row[..3].iter().all(|cell| !cell.is_empty()),
                "{page}: {row:?}"
            );
        }
        let rules = text.lines().filter_map(|line| line.strip_prefix("- **"));
        for rule in rules.filter_map(|rest| rest.split_once("** ").map(|(rule, _)| rule)) {
            let of_a_list = rule.len() < 4 && rule.starts_with(['P', 'L', 'Z', 'N']);
            let row = format!("{rule}|");
            assert!(
                !of_a_list || listed.iter().any(|listed| listed.starts_with(&row)),
                "{page}: {rule} has no row"
            );
        }
    }
}

#[test]
fn every_case_that_a_list_names_exists() {
    let Some(evidence) = common::shared("") else {
        return;
    };
    let mut cases = BTreeSet::new();
    functions(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join(".."),
        &mut cases,
    );
    for platform in fs::read_dir(evidence).unwrap() {
        let path = platform.unwrap().path();
        for folder in path
            .is_dir()
            .then(|| fs::read_dir(&path).unwrap())
            .into_iter()
            .flatten()
        {
            cases.insert(folder.unwrap().file_name().into_string().unwrap());
        }
    }
    let mut looked_for = 0;
    for (page, text) in LISTS {
        for name in rows(text).into_iter().flatten().flat_map(names) {
            let exists = match name.strip_suffix('*') {
                Some(start) => cases.iter().any(|case| case.starts_with(start)),
                None => cases.contains(name),
            };
            assert!(exists, "{page}: {name}");
            looked_for += 1;
        }
    }
    assert!(looked_for > 80, "{looked_for}");
}
