//! docs/GETTING-STARTED.md as a newcomer follows it: its shell blocks, in order, in one shell.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

/// Waits until somebody listens on a port; what a person sees on the screen.
const WAIT: &str = "listens() { for _ in $(seq 600); do (exec 3<>/dev/tcp/127.0.0.1/$1) 2>/dev/null && return; sleep 0.1; done; \
    echo \"nobody listens on $1\" >&2; return 1; }\ntrap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\n";

fn free_ports() -> [u16; 3] {
    let held = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}

/// The page's shell blocks, with this test's binary and ports.
fn script(root: &Path) -> String {
    let page = fs::read_to_string(root.join("docs/GETTING-STARTED.md")).unwrap();
    let ports = free_ports();
    let bin = Path::new(env!("CARGO_BIN_EXE_casemate")).parent().unwrap();
    let mut script = format!(
        "set -euo pipefail\nexport PATH='{}':\"$PATH\"\n{WAIT}",
        bin.display()
    );
    let blocks = page.split("```sh\n").skip(1);
    for line in blocks.flat_map(|block| block.split("```").next().unwrap().lines()) {
        if line.starts_with("cargo build") {
            continue;
        }
        let line = line
            .replace("../models/", &format!("{}/models/", root.display()))
            .replace("7440", &ports[0].to_string())
            .replace("7443", &ports[1].to_string())
            .replace("11434", &ports[2].to_string());
        script += &format!("{line}\n");
        if line.ends_with('&') {
            let part = ["broker", "serve", "connect"]
                .iter()
                .position(|part| line.contains(&format!("casemate {part} ")));
            script += &format!("listens {}\n", ports[part.unwrap()]);
        }
    }
    // Within seconds the revoked member is out.
    script += &format!(
        "sleep 3; curl -s http://127.0.0.1:{}/v1/models; echo; echo THE END\n",
        ports[2]
    );
    script
}

#[test]
fn the_page_works_as_written() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new("bash")
        .args(["-c", &script(root)])
        .current_dir(folder.path())
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    let all = format!("{out}{}", String::from_utf8_lossy(&output.stderr));
    assert!(out.ends_with("THE END\n"), "{all}");
    for word in [
        "PASS policy-sources",
        "server ready on",
        "PASS session.confirm",
        "\"id\":\"default\"",
        "data: [DONE]",
        "NOT CONFIDENTIAL",
        "\"kind\":\"decision\"",
    ] {
        assert!(all.contains(word), "{word:?} is not in:\n{all}");
    }
    let after = out.lines().rev().nth(1).unwrap();
    assert!(after.contains("\"error\""), "revoked, yet: {after}");
}

#[test]
fn every_role_prints_what_is_in_force() {
    let place = super::place::Place::new();
    let print = |role: &str, file: &str| {
        let output = super::place::casemate()
            .args(["config", "check", file, "--role", role, "--print-config"])
            .current_dir(place.path(""))
            .output()
            .unwrap();
        let said = super::place::text(&output);
        assert!(output.status.success(), "{said}");
        said
    };
    // Bounds that the files do not name are in force all the same.
    assert!(print("broker", "broker.toml").contains("unattested_seconds = 120"));
    assert!(print("server", "server.toml").contains("cache_tokens = 32768"));
    assert!(print("connect", "connect-research.toml").contains("attest_s = 30"));
}
