//! What must hold for the tree itself: small files that say their job, arrows that point one way, no shortcuts left behind.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines beyond which a file hides a second idea.
const LINES_MAX: usize = 600;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file that git tracks or would track, relative to the root. Outside a checkout the tests that need it say so.
fn tracked(suffix: &str) -> Vec<String> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git lists the files of the checkout");
    assert!(
        listed.status.success(),
        "git ls-files failed: run the tests in a checkout"
    );
    String::from_utf8(listed.stdout)
        .expect("paths are UTF-8")
        .lines()
        .filter(|path| path.ends_with(suffix) && root().join(path).is_file())
        .map(str::to_owned)
        .collect()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_default()
}

fn assert_none(what: &str, offenders: Vec<String>) {
    assert!(offenders.is_empty(), "{what}:\n{}", offenders.join("\n"));
}

#[test]
fn every_rust_file_opens_with_its_job() {
    let silent = tracked(".rs")
        .into_iter()
        .filter(|path| {
            let text = read(path);
            let first = text.lines().find(|line| !line.starts_with("#!["));
            !first.is_some_and(|line| line.starts_with("//!"))
        })
        .collect();
    assert_none("files without a `//!` line at the top", silent);
}

#[test]
fn no_file_hides_a_second_idea() {
    let long = tracked(".rs")
        .into_iter()
        .map(|path| (read(&path).lines().count(), path))
        .filter(|(lines, _)| *lines > LINES_MAX)
        .map(|(lines, path)| format!("{lines} {path}"))
        .collect();
    assert_none("files over 600 lines", long);
}

#[test]
fn no_unfinished_marks_and_no_ignored_tests() {
    let marks = [
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("FIX", "ME"),
        concat!("#[ig", "nore"),
    ];
    let found = tracked(".rs")
        .into_iter()
        .flat_map(|path| {
            let text = read(&path);
            let hits: Vec<String> = marks
                .iter()
                .filter(|mark| text.contains(**mark))
                .map(|mark| format!("{path}: {mark}"))
                .collect();
            hits
        })
        .collect();
    assert_none("unfinished marks", found);
}

#[test]
fn no_path_of_a_developers_machine() {
    let places = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
    ];
    let found = tracked("")
        .into_iter()
        .filter(|path| !path.ends_with(".gguf") && !path.ends_with(".der"))
        .filter(|path| places.iter().any(|place| read(path).contains(place)))
        .collect();
    assert_none("files that name a path of one machine", found);
}

#[test]
fn parts_depend_one_way() {
    let may_use = [
        ("attestation", vec![]),
        ("attestation/devices", vec!["casemate-attestation"]),
        ("models", vec!["casemate-kernels"]),
        ("models/kernels", vec![]),
        ("client", vec!["casemate-attestation"]),
        ("attestation/measure", vec![]),
        ("attestation/image", vec!["casemate-measure"]),
        ("src/guest", vec!["casemate-attestation", "casemate-models"]),
    ];
    for (part, allowed) in may_use {
        let manifest = read(&format!("{part}/Cargo.toml"));
        let ours = manifest
            .lines()
            .filter(|line| line.starts_with("casemate-"))
            .map(|line| {
                line.split(['.', ' ', '='])
                    .next()
                    .unwrap_or_default()
                    .to_owned()
            })
            // A crate may name itself: its tests ask for its own features.
            .filter(|name| *name != format!("casemate-{}", part.rsplit('/').next().unwrap_or(part)))
            .filter(|name| !allowed.contains(&name.as_str()))
            .collect();
        assert_none(&format!("`{part}` must not depend on"), ours);
    }
}

/// The pure verifier compiles where `aws-lc-rs` cannot be built (scripts/check-wasm): one file chooses the library.
#[test]
fn one_file_of_the_verifier_chooses_its_cryptography() {
    let others = tracked(".rs")
        .into_iter()
        .filter(|path| path.starts_with("attestation/src/") && path != "attestation/src/ecdsa.rs")
        .filter(|path| read(path).contains("aws_lc_rs"))
        .collect();
    assert_none(
        "files that name `aws_lc_rs` instead of `crate::ecdsa`",
        others,
    );
}

/// Names of the packages that `package` compiles, as cargo resolves them.
fn compiled_by(package: &str) -> String {
    let tree = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--locked",
            "--offline",
            "--prefix",
            "none",
            "--edges",
            "normal,build",
        ])
        .args(["--all-features", "-p", package])
        .current_dir(root())
        .output()
        .expect("cargo tree runs");
    assert!(
        tree.status.success(),
        "{}",
        String::from_utf8_lossy(&tree.stderr)
    );
    String::from_utf8_lossy(&tree.stdout).into_owned()
}

#[test]
fn the_light_client_never_compiles_the_engine() {
    let tree = compiled_by("casemate-client");
    assert!(
        tree.contains("casemate-attestation"),
        "the tree was read: {tree}"
    );
    for heavy in [
        "candle",
        "tokenizers",
        "cedar-policy",
        "redb",
        "casemate-devices",
    ] {
        assert!(!tree.contains(heavy), "casemate-client compiles {heavy}");
    }
}

#[test]
fn attestation_and_models_reach_no_network() {
    for package in ["casemate-attestation", "casemate-models"] {
        let tree = compiled_by(package);
        assert!(tree.contains(package), "the tree was read: {tree}");
        for network in ["tokio v", "hyper v", "rustls v", "mio v", "reqwest"] {
            assert!(!tree.contains(network), "{package} compiles {network}");
        }
    }
}

/// Bytes, roots, policy and time are arguments of the verifier. `scripts/check-wasm` shows the same of what is linked.
#[test]
fn the_verifier_asks_the_operating_system_for_nothing() {
    let reaches = [
        "std::fs",
        "std::net",
        "std::env",
        "std::process",
        "std::thread",
        "std::os",
        "std::io",
        "SystemTime",
        "Instant",
        "SystemRandom",
        "getrandom",
        "println!",
    ];
    // Turns a time that the caller read into ours; and a test chip that was told to be slow.
    let allowed = [
        "impl From<std::time::SystemTime> for UnixTime {",
        "fn from(time: std::time::SystemTime) -> Self {",
        "std::thread::sleep(self.latency);",
    ];
    let mut met = 0;
    let mut found = Vec::new();
    for (path, text) in product_sources() {
        if !path.starts_with("attestation/src/") && !path.starts_with("attestation/measure/src/") {
            continue;
        }
        for line in text.lines().map(str::trim) {
            if line.starts_with("//") || !reaches.iter().any(|word| line.contains(word)) {
                continue;
            }
            if allowed.contains(&line) {
                met += 1;
            } else {
                found.push(format!("{path}: {line}"));
            }
        }
    }
    assert_none("ways to the operating system", found);
    assert_eq!(met, allowed.len(), "an exception that is no longer needed");
}

#[test]
fn every_member_forbids_unsafe() {
    for part in [
        "",
        "attestation/",
        "attestation/devices/",
        "models/",
        "client/",
        "attestation/measure/",
        "attestation/image/",
        "src/guest/",
    ] {
        let manifest = read(&format!("{part}Cargo.toml"));
        assert!(
            manifest.contains("[lints]\nworkspace = true"),
            "{part}Cargo.toml opts out of the lints"
        );
    }
    let product = read("Cargo.toml");
    assert!(product.contains("unsafe_code = \"forbid\""));
}

/// The rows of the catalogue of attacks that have been built; each is a test whose name begins with its number.
const ATTACKS_REPLAYED: &[&str] = &[
    "a01", "a02", "a03", "a04", "a05", "a06", "a07", "a08", "a09", "a10", "a11", "a12", "a13",
    "a14", "b01", "b02", "b03", "b04", "b05", "b06", "b07", "b08", "b09", "b10", "b11", "b12",
    "b13", "b14", "b15", "b16", "b18", "b19", "b20", "b21", "b22", "b23", "b24", "b25", "g01",
    "g02", "g03", "g04", "g05", "g06", "g07", "k01", "k02", "k03", "k04", "k05", "k06", "k07",
    "k08", "k09", "k10", "k11", "k12", "s01", "s03", "s05", "s06", "s07", "s08", "s10", "s12",
    "s14", "s15", "s16", "s17", "s18", "s19", "s20", "s21", "s22", "s23", "s24", "s25", "s26",
];

#[test]
fn every_attack_row_has_a_test_of_its_name() {
    let code: String = tracked(".rs").iter().map(|path| read(path)).collect();
    let missing = ATTACKS_REPLAYED
        .iter()
        .filter(|row| !code.contains(&format!("fn {row}_")))
        .map(|row| (*row).to_owned())
        .collect();
    assert_none("attacks without a test", missing);
}

/// Source of the product without its tests.
fn product_sources() -> Vec<(String, String)> {
    let ours = [
        "attestation/src/",
        "attestation/devices/src/",
        "client/src/",
        "attestation/measure/src/",
        "attestation/image/src/",
        "models/src/",
        "src/",
    ];
    tracked(".rs")
        .into_iter()
        .filter(|path| ours.iter().any(|part| path.starts_with(part)))
        .map(|path| {
            let text = read(&path);
            let product = text.split("#[cfg(test)]").next().unwrap_or_default();
            (path, product.to_owned())
        })
        .collect()
}

#[test]
fn b02_one_function_says_yes_and_nothing_can_stand_in_for_it() {
    let sources = product_sources();
    let makers = |what: &str| {
        let opens = format!("{what} {{");
        let made = |line: &&str| {
            let line = line.trim_start();
            line.contains(&opens)
                && !line.contains("->")
                && !["//", "pub struct", "struct", "impl", "pub fn", "fn"]
                    .iter()
                    .any(|other| line.starts_with(other))
        };
        let count = |(path, text): &(String, String)| {
            let found = text.lines().filter(made).count();
            (found > 0).then(|| format!("{found} in {path}"))
        };
        sources.iter().filter_map(count).collect::<Vec<_>>()
    };
    assert_eq!(
        makers("VerifiedEvidence"),
        ["1 in attestation/src/verify.rs"]
    );
    assert_eq!(
        makers("SnpVerdict"),
        ["1 in attestation/src/snp/appraise.rs"]
    );
    for (what, file) in [
        ("TdxVerdict", "tdx/appraise.rs"),
        ("TpmVerdict", "tpm/appraise.rs"),
        ("ConfirmedLog", "eventlog/replay.rs"),
        ("Claims", "eventlog/claims.rs"),
        ("BoundRuntime", "azure/hcl.rs"),
        ("AzureVerdict", "azure/appraise.rs"),
        ("GpuVerdict", "nvidia/appraise.rs"),
        ("GpuSetVerdict", "nvidia/set.rs"),
    ] {
        assert_eq!(makers(what), [format!("1 in attestation/src/{file}")]);
    }
    // Nor does any come out of an `impl` of its own, where it is called `Self`.
    let proofs = [
        "VerifiedEvidence",
        "SnpVerdict",
        "TdxVerdict",
        "TpmVerdict",
        "ConfirmedLog",
        "Claims",
    ];
    let makes_itself = proofs
        .into_iter()
        .chain([
            "BoundRuntime",
            "AzureVerdict",
            "GpuVerdict",
            "GpuSetVerdict",
        ])
        .flat_map(|what| {
            let own = sources.iter().filter(move |(_, text)| {
                let mut lines = text.lines();
                while lines.any(|l| l.starts_with("impl") && l.ends_with(&format!(" {what} {{"))) {
                    let mut body = lines.by_ref().take_while(|line| *line != "}");
                    if body.any(|line| line.contains("Self {")) {
                        return true;
                    }
                }
                false
            });
            own.map(move |(path, _)| format!("{what} in {path}"))
        })
        .collect();
    assert_none("constructors of what only a check may return", makes_itself);
    // What judges is the same in every build: a feature or a test flag could weaken it.
    let judging = ["appraise", "chain", "crl", "policy", "report"]
        .map(|name| format!("attestation/src/snp/{name}.rs"))
        .into_iter()
        .chain(
            [
                "appraise",
                "body",
                "certificate",
                "collateral",
                "crl",
                "levels",
                "pck",
                "pem",
                "policy",
                "quote",
                "second",
                "tcb",
            ]
            .map(|name| format!("attestation/src/tdx/{name}.rs")),
        )
        .chain(["verify", "images"].map(|name| format!("attestation/src/{name}.rs")));
    let tpm = [
        "appraise",
        "attest",
        "certificate",
        "key",
        "policy",
        "signature",
    ];
    let log = ["ccel", "claims", "quoted", "replay", "tcg2", "types"];
    let judging = judging
        .chain(tpm.map(|name| format!("attestation/src/tpm/{name}.rs")))
        .chain(log.map(|name| format!("attestation/src/eventlog/{name}.rs")))
        .chain(["appraise", "hcl", "runtime"].map(|it| format!("attestation/src/azure/{it}.rs")));
    let gpu = ["appraise", "chain", "firmware", "measurements", "nonce"];
    let gpu = gpu.into_iter().chain(["opaque", "policy", "report", "set"]);
    let gpu = gpu.chain(["answers", "held", "ocsp", "ocsp_read"]);
    let judging = judging.chain(gpu.map(|name| format!("attestation/src/nvidia/{name}.rs")));
    let held = [
        "snp/held",
        "tdx/held",
        "collateral/check",
        "collateral/lookup",
    ];
    let judging = judging.chain(held.map(|name| format!("attestation/src/{name}.rs")));
    let depends = judging
        .filter(|file| {
            let found = sources.iter().find(|(path, _)| path == file);
            found.is_none_or(|(_, text)| text.contains("cfg(") || text.contains("cfg!"))
        })
        .collect();
    assert_none(
        "conditional code in the verifier, or a file that moved",
        depends,
    );
    let words = [
        "skip_verif",
        "no_verify",
        "insecure",
        "dangerous_",
        "allow_unverified",
    ];
    let found = sources
        .iter()
        .flat_map(|(path, text)| {
            let has = |word: &&&str| text.to_ascii_lowercase().contains(**word);
            let hits = words.iter().filter(has);
            hits.map(|word| format!("{path}: {word}"))
                .collect::<Vec<_>>()
        })
        .collect();
    assert_none("ways around the verifier", found);
}

/// Files of the formal model, where each message and event says `CODE <file> fn <name>` or `CODE <file> const <NAME>`.
fn model_files() -> Vec<String> {
    let all = tracked(".pvl").into_iter().chain(tracked(".pv"));
    all.filter(|path| path.starts_with("docs/formal/"))
        .collect()
}

#[test]
fn the_formal_model_names_code_that_exists() {
    let mut named = 0;
    let mut lost = Vec::new();
    for model in model_files() {
        let text = read(&model);
        for line in text.lines().filter(|line| line.contains("CODE ")) {
            named += 1;
            let words: Vec<_> = line.split_whitespace().collect();
            let ["(*", "CODE", file, kind, name, "*)"] = words.as_slice() else {
                lost.push(format!("{model}: {line} is no reference"));
                continue;
            };
            let code = read(file);
            let item = format!("{kind} {name}");
            let is_there = |(at, _): (usize, &str)| {
                let next = code[at + item.len()..].chars().next();
                next.is_some_and(|next| !next.is_alphanumeric() && next != '_')
            };
            if !code.match_indices(&item).any(is_there) {
                lost.push(format!("{model}: {file} has no {item}"));
            }
        }
    }
    assert!(named >= 50, "only {named} references were read");
    assert_none("references of the formal model", lost);
}

/// The prover cannot be had everywhere (docs/formal/README.md), so that the record says which model its answers are about.
#[test]
fn the_record_of_the_formal_model_is_of_this_model() {
    let answer = Command::new("bash")
        .args(["scripts/check-formal", "--digest"])
        .current_dir(root())
        .output()
        .expect("scripts/check-formal runs");
    assert!(answer.status.success(), "{answer:?}");
    let digest = String::from_utf8_lossy(&answer.stdout);
    let (record, runs) = (read("docs/formal/results.txt"), read("docs/formal/runs"));
    assert!(
        record.contains(&format!("model {}", digest.trim())),
        "docs/formal changed since it was proven: run scripts/check-formal --record where ProVerif is"
    );
    let asked = runs.lines().filter(|line| !line.starts_with('#'));
    let asked = asked.flat_map(str::split_whitespace);
    let asked = asked.filter(|word| word.contains('=')).count();
    let passed = record.lines().filter(|line| line.starts_with("PASS "));
    assert_eq!(passed.count(), asked);
    assert!(!record.contains("FAIL"), "an answer was not as expected");
}

#[test]
fn the_map_in_the_readme_exists() {
    for path in [
        "attestation",
        "models",
        "client",
        "src",
        "tests",
        "scripts",
        "docs",
        "docs/ARCHITECTURE.md",
        "docs/SECURITY-MODEL.md",
        "docs/formats",
        "docs/decisions",
        "attestation/LIMITS.md",
        "CHANGELOG.md",
        "SECURITY.md",
        "LICENSE-APACHE",
        "LICENSE-MIT",
        ".ci/run",
    ] {
        assert!(Path::new(&root()).join(path).exists(), "{path} is missing");
    }
}

/// `cargo run` without a program's name fails where several members have one each and no package, or more than one, says which.
#[test]
fn the_readmes_first_command_runs_the_product() {
    assert!(read("README.md").contains("\n    cargo run --release -- demo "));
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--offline", "--no-deps"])
        .args(["--format-version", "1"])
        .current_dir(root())
        .output()
        .expect("cargo metadata runs");
    let metadata: serde_json::Value =
        serde_json::from_slice(&metadata.stdout).expect("cargo metadata writes JSON");
    let members = metadata["workspace_default_members"].as_array().unwrap();
    let packages = metadata["packages"].as_array().unwrap().iter();
    let named: Vec<&str> = packages
        .filter(|package| members.contains(&package["id"]))
        .filter_map(|package| package["default_run"].as_str())
        .collect();
    assert_eq!(named, ["casemate"]);
}
