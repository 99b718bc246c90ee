//! Servers that judge their clients' machines: two organisation folders, one for servers, one for laptops, and the real
//! programs between them (A4).

use std::fs;
use std::process::Output;

use super::enrolment::SoftwareTpm;
use super::place::{Place, casemate, chat, http, port, text};

const CONNECT: &str = "connect-research.toml";

/// A section `[clients]` whose documents are signed by the key of `folder`.
fn clients(folder: &str, evidence: &str) -> String {
    format!(
        "\n[clients]\nevidence = \"{evidence}\"\nplatform = \"test-chip\"\nrelease_key = \"{folder}/release/public.key\"\n\
         reference = \"{folder}/reference.json\"\nfleet = \"{folder}/fleet.json\"\n\
         test_chip_root = \"{folder}/test-chip/root.der\"\n"
    )
}

fn own(folder: &str) -> String {
    format!(
        "\n[attestation]\nplatform = \"test-chip\"\ntest_chip_seed = \"{folder}/test-chip/seed\"\n"
    )
}

fn append(place: &Place, file: &str, more: &str) -> String {
    let path = place.path(file);
    let old = fs::read_to_string(&path).unwrap();
    fs::write(&path, old.clone() + more).unwrap();
    old
}

fn verify(place: &Place) -> Output {
    let mut verify = casemate();
    verify
        .args(["verify", "--config", CONNECT])
        .current_dir(place.path(""));
    verify.output().unwrap()
}

#[test]
fn a04_a_server_that_requires_it_serves_the_machines_of_its_clients_list_alone() {
    let place = Place::new();
    place.command(&["org", "init", "laptops", "--name", "laptops", "--test-chip"]);
    let enrol = [
        "org",
        "enrol",
        "laptops",
        "--test-chip",
        "--label",
        "ada",
        "--name",
        "localhost",
    ];
    place.command(&enrol);
    let _broker = place.start("broker", "broker.toml");

    // One key for both lists would let a laptop stand in for a server.
    let server = append(&place, "server.toml", &clients("org", "required"));
    let (code, said) = place.refused("serve", "server.toml");
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("clients.release_key"), "{said}");
    fs::write(
        place.path("server.toml"),
        server + &clients("laptops", "required"),
    )
    .unwrap();
    let _server = place.start("serve", "server.toml");

    let refused = |word: &str| {
        let output = verify(&place);
        let said = text(&output);
        assert!(!output.status.success() && said.contains(word), "{said}");
    };
    refused("client_evidence_required");
    // The servers' own chip is no laptop.
    let plain = append(&place, CONNECT, &own("org"));
    refused("client_evidence_rejected");
    fs::write(place.path(CONNECT), plain + &own("laptops")).unwrap();
    let output = verify(&place);
    assert!(output.status.success(), "{}", text(&output));

    let _connect = place.start("connect", CONNECT);
    let base = format!("http://127.0.0.1:{}", port(&place.path(CONNECT), "address"));
    let ask = || {
        let answer = http(&base, "POST", "chat/completions", &chat("Who are you?", 4));
        answer.unwrap().status
    };
    assert_eq!(ask(), 200);
    let audit = fs::read_to_string(place.path("server-audit.jsonl")).unwrap();
    let sessions = audit
        .lines()
        .filter(|line| line.contains("\"kind\":\"session\""));
    let vouched = sessions.filter(|line| {
        line.contains("\"client_platform\":\"test-chip\"") && line.contains("\"client_chip\":\"")
    });
    assert!(vouched.count() >= 2, "{audit}");

    // Documents that are not in force let nobody in; who is in stays until the session's end.
    fs::write(place.path("laptops/fleet.json"), b"{}").unwrap();
    refused("client_evidence_rejected");
    assert_eq!(ask(), 200);
}

#[test]
fn a04_a_laptop_shows_its_tpm_and_another_laptops_is_refused() {
    let place = Place::new();
    let (Some(laptop), Some(stranger)) = (
        SoftwareTpm::start(place.path("tpm")),
        SoftwareTpm::start(place.path("other-tpm")),
    ) else {
        return;
    };
    place.command(&["org", "init", "laptops", "--name", "laptops"]);
    let step = "org enrol laptops --this-machine --accept-present-boot --hosted software --label ada --name laptop";
    let (root, issuer) = (laptop.root(), laptop.authority("issuercert.pem"));
    let rest = [
        "--software",
        &laptop.address,
        "--roots",
        &root,
        "--authorities",
        &issuer,
    ];
    let words: Vec<&str> = step.split(' ').chain(rest).collect();
    place.command(&words);

    let section = clients("laptops", "required").replace("test-chip\"\nrelease", "tpm\"\nrelease");
    let roots = section.find("test_chip_root").unwrap();
    append(&place, "server.toml", &section[..roots]);
    let _broker = place.start("broker", "broker.toml");
    let _server = place.start("serve", "server.toml");
    let own = |tpm: &SoftwareTpm| {
        format!(
            "\n[attestation]\nplatform = \"tpm\"\nregisters = [0, 1, 2, 3, 4, 5, 6, 7]\nsoftware = \"{}\"\n",
            tpm.address
        )
    };
    let plain = append(&place, CONNECT, &own(&stranger));
    let refused = verify(&place);
    let said = text(&refused);
    assert!(!refused.status.success(), "{said}");
    assert!(said.contains("client_evidence_rejected"), "{said}");
    fs::write(place.path(CONNECT), plain + &own(&laptop)).unwrap();
    let output = verify(&place);
    assert!(output.status.success(), "{}", text(&output));
    let audit = fs::read_to_string(place.path("server-audit.jsonl")).unwrap();
    assert!(audit.contains("\"client_platform\":\"tpm\""), "{audit}");
}
