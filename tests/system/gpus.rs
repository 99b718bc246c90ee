//! GPUs in the whole system: enrolled by their evidence, demanded by broker and clients, and missed at once when one is swapped.

use std::fs;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use crate::place::{Part, Place, casemate, chat, eventually, http, text};

/// The folder with GPUs 1 and 2 in the machine and in the fleet list, and everybody told of their root.
fn place_with_gpus() -> Place {
    let place = Place::new();
    let gpus = ["--test-chip", "--test-gpu", "1", "--test-gpu", "2"];
    let told = place.command(&[&["org", "devices", "org"][..], &gpus].concat());
    assert_eq!(told.matches("GPU\t").count(), 2, "{told}");
    in_machine(&place, "1 2");
    place.edit(
        "server.toml",
        "[state]",
        "[attestation.devices]\nsource = \"test-gpus\"\ntest_gpus = \"gpus\"\nwatch_seconds = 1\n\n[state]",
    );
    place.edit(
        "connect-research.toml",
        "test_chip_root",
        "test_gpu_root = \"org/test-chip/gpu-root.der\"\ntest_chip_root",
    );
    place
}

fn in_machine(place: &Place, numbers: &str) {
    fs::write(place.path("gpus"), numbers).unwrap();
}

fn verify(place: &Place, config: &str, more: &[&str]) -> Output {
    let mut command = casemate();
    command.args(["verify", "--config", config]).args(more);
    command.current_dir(place.path("")).output().unwrap()
}

fn answered(connect: &Part) -> u16 {
    let asked = http(
        &connect.ready,
        "POST",
        "chat/completions",
        &chat("hello", 2),
    );
    asked.map_or(0, |answer| answer.status)
}

#[test]
fn g04_g07_a_server_with_gpus_serves_its_listed_ones_until_one_is_swapped() {
    let place = place_with_gpus();
    let (_broker, mut server, connect) = place.start_all();
    assert_eq!(answered(&connect), 200);
    let shown = verify(&place, "connect-research.toml", &["--save", "saved"]);
    let lines = text(&shown);
    assert!(shown.status.success(), "{lines}");
    assert_eq!(lines.matches("PASS evidence.P-39").count(), 2, "{lines}");
    assert!(lines.contains("PASS evidence.P-38"), "{lines}");
    for folder in ["device-0", "device-1"] {
        let index = place.path("saved").join(folder).join("expected.json");
        let index = fs::read_to_string(index).unwrap();
        assert!(index.contains("\"platform\": \"nvidia-gpu\""), "{index}");
    }
    // A client that was told of no private root of GPUs has NVIDIA's alone.
    let stranger = verify(&place, "connect-finance.toml", &[]);
    assert_eq!(stranger.status.code(), Some(10), "{}", text(&stranger));
    assert!(
        text(&stranger).contains("FAIL evidence"),
        "{}",
        text(&stranger)
    );
    assert!(text(&stranger).contains("(N3)"), "{}", text(&stranger));

    // One is swapped: nobody asks, and within the second the server knows, ends every connection and itself.
    in_machine(&place, "1 3");
    eventually(Duration::from_secs(20), "the server ends", || {
        !server.runs()
    });
    assert_eq!(server.code(), Some(10));
    let log = server.log();
    assert!(log.contains("answers no more"), "{log}");
    assert!(log.contains("casemate org devices"), "{log}");
    let audit = fs::read_to_string(place.path("server-audit.jsonl")).unwrap();
    assert!(audit.contains("devices_changed"), "{audit}");
    assert_ne!(answered(&connect), 200);
}

#[test]
fn g04_g05_a_server_whose_gpus_are_not_the_listed_ones_gets_no_keys() {
    let place = place_with_gpus();
    let _broker = place.start("broker", "broker.toml");
    let refused = |numbers: &str, code: i32, word: &str| {
        in_machine(&place, numbers);
        let (found, told) = place.refused("serve", "server.toml");
        assert_eq!(found, code, "{numbers}: {told}");
        assert!(told.contains(word), "{numbers}: {told}");
    };
    refused("1 3", 10, "rule P-39");
    refused("1", 10, "rule N10");
    refused("1 2 3", 10, "rule N10");
    // The same report twice has no place in an envelope.
    refused("1 1", 1, "none twice");
    refused("", 20, "names none");
    refused("one", 20, "numbers");
    // Once the list says so, it serves with them.
    in_machine(&place, "1 3");
    place.command(&[
        "org",
        "devices",
        "org",
        "--test-chip",
        "--test-gpu",
        "1",
        "--test-gpu",
        "3",
    ]);
    let mut server = place.start("serve", "server.toml");
    server.stop();
    // And without any, once it has none.
    place.command(&["org", "devices", "org", "--test-chip", "--none"]);
    refused("1 3", 10, "rule P-37");
}

/// A folder of the shared evidence. `None`, said aloud, where it is missing; a failure in continuous integration.
fn shared(name: &str) -> Option<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("../shared/evidence").join(name);
    if path.is_dir() {
        return Some(path.to_str().unwrap().to_owned());
    }
    let ci = std::env::var_os("CI").is_some();
    assert!(!ci, "shared evidence {name} is missing");
    println!("SKIP shared evidence {name} is missing");
    None
}

/// A folder with an organisation, in which commands run.
struct Officer(tempfile::TempDir);

impl Officer {
    fn new() -> Self {
        let officer = Self(tempfile::tempdir().unwrap());
        officer.done("org init org --name acme", &[]);
        officer
    }

    fn run(&self, line: &str, more: &[&str]) -> Output {
        let mut command = casemate();
        command.args(line.split(' ')).args(more);
        command.current_dir(self.0.path()).output().unwrap()
    }

    fn done(&self, line: &str, more: &[&str]) -> String {
        let output = self.run(line, more);
        assert!(
            output.status.success(),
            "{line} {more:?}: {}",
            text(&output)
        );
        text(&output)
    }

    fn refused(&self, line: &str, more: &[&str], code: i32, word: &str) {
        let output = self.run(line, more);
        let told = text(&output);
        assert_eq!(output.status.code(), Some(code), "{line} {more:?}: {told}");
        assert!(told.contains(word), "{line} {more:?}: {told}");
    }
}

/// Folders of the shared evidence of devices; `None`, said aloud, where they are missing.
fn recorded_devices() -> Option<[String; 4]> {
    let names = [
        "hopper-550",
        "blackwell-gb100",
        "switch-ls10",
        "neg-gpu-signature",
    ];
    let found: Option<Vec<String>> = names
        .iter()
        .map(|it| shared(&format!("nvidia/{it}")))
        .collect();
    found?.try_into().ok()
}

#[test]
fn b13_gpus_enter_the_fleet_list_by_their_evidence_and_in_one_machine_alone() {
    let Some([hopper, blackwell, switch, damaged]) = recorded_devices() else {
        return;
    };
    let officer = Officer::new();
    let (chip, other) = ("ab".repeat(64), "cd".repeat(64));
    let enrol = "org enrol org --label rack --name gpu.example --chip-id";
    let refused = |more: &[&str], code, word| {
        officer.refused(enrol, &[&[&*chip][..], more].concat(), code, word);
    };
    refused(&["--gpu", &damaged], 10, "(E9, N4)");
    refused(&["--gpu", &hopper, "--gpu", &hopper], 10, "given twice");
    refused(&["--test-gpu", "1"], 2, "test-chip");
    if !Path::new("/dev/nvidiactl").exists() {
        refused(
            &["--gpus-of-this-machine"],
            20,
            "NVIDIA's management library",
        );
    }
    let told = officer.done(enrol, &[&chip, "--gpu", &hopper, "--gpu", &switch]);
    assert!(
        told.contains("GPU\t") && told.contains("switch\t"),
        "{told}"
    );
    assert!(
        told.contains("rim-import"),
        "what is missing is said: {told}"
    );
    let listed = "in the fleet list already";
    officer.refused(enrol, &[&other, "--gpu", &switch], 2, listed);
    officer.done(enrol, &[&other, "--gpu", &blackwell]);

    let devices = "org devices org --chip-id";
    officer.refused(devices, &["ef", "--none"], 2, "ef");
    officer.refused(devices, &[&"ef".repeat(64), "--none"], 2, "is not enrolled");
    officer.refused(devices, &[&chip, "--gpu", &blackwell], 2, listed);
    officer.refused(devices, &[&chip], 2, "required");
    officer.done(devices, &[&other, "--none"]);
    officer.done(devices, &[&chip, "--gpu", &switch, "--gpu", &blackwell]);
}

#[test]
fn b13_saved_evidence_names_what_can_be_enrolled_or_why_nothing_can() {
    let Some([hopper, blackwell, ..]) = recorded_devices() else {
        return;
    };
    let (azure, domain) = (
        shared("azure-vtpm/tdx-second-generation").unwrap(),
        shared("tdx/v4-gcp-2026").unwrap(),
    );
    let officer = Officer::new();
    let enrol = "org enrol org --label domain --name td.example --evidence";
    officer.refused(enrol, &[&domain, "--gpu", &domain], 30, "no GPU's");
    officer.done(enrol, &[&domain, "--gpu", &blackwell]);
    officer.refused(enrol, &[&azure], 10, "what could be enrolled is tdx chip");
    officer.refused(enrol, &[&azure], 10, "opens a session");
    officer.refused(enrol, &[&hopper], 10, "--gpu FOLDER");
}
