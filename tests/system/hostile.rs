//! Bad input through the front door: each gets an error that names what is wrong and the exit code of its kind, and the
//! server goes on serving others.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use super::place::{Place, casemate, chat, eventually, http, port, text};

/// Starts the server with `file` changed by `change`; it must refuse with this code and this word.
fn refuses(place: &Place, file: &str, change: impl Fn(&[u8]) -> Vec<u8>, code: i32, word: &str) {
    let path = place.path(file);
    let good = fs::read(&path).unwrap();
    fs::write(&path, change(&good)).unwrap();
    let (found, said) = place.refused("serve", "server.toml");
    fs::write(&path, good).unwrap();
    assert_eq!(found, code, "{file}: {said}");
    assert!(said.contains(word), "{file}: {word:?} is not in {said}");
    assert!(
        said.contains("error: ") && !said.contains("panicked"),
        "{said}"
    );
}

#[test]
fn packages_documents_and_files_that_are_not_right_stop_the_server_before_it_serves() {
    let place = Place::new();
    let package = "casemate-default.casemate";
    // Nobody to ask.
    let (code, said) = place.refused("serve", "server.toml");
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("cannot reach the broker"), "{said}");
    let _broker = place.start("broker", "broker.toml");
    refuses(
        &place,
        package,
        |good| good[..good.len() - 9].to_vec(),
        30,
        "truncated",
    );
    refuses(
        &place,
        package,
        |_| b"GGUF is no package".to_vec(),
        30,
        "not a Casemate package",
    );
    let flipped = |at: fn(usize) -> usize| {
        move |good: &[u8]| {
            let mut bad = good.to_vec();
            bad[at(good.len())] ^= 1;
            bad
        }
    };
    refuses(
        &place,
        package,
        flipped(|len| len - 1),
        10,
        "wrong key or altered file",
    );
    // A clear header that was altered is another model, which no policy names.
    refuses(
        &place,
        package,
        flipped(|_| 20),
        10,
        "package_not_in_policy",
    );
    refuses(
        &place,
        "org/broker/ca.pem",
        |_| b"no PEM".to_vec(),
        3,
        "org/broker/ca.pem",
    );
    refuses(
        &place,
        "org/release/public.key",
        |_| b"no key".to_vec(),
        3,
        "public.key",
    );
    refuses(
        &place,
        "server.toml",
        |good| [good, b"\n[surplus]\n"].concat(),
        3,
        "surplus",
    );

    let held = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let taken = held.local_addr().unwrap().port().to_string();
    let own = port(&place.path("server.toml"), "listen").to_string();
    place.edit("server.toml", &own, &taken);
    let (code, said) = place.refused("serve", "server.toml");
    assert_eq!(code, 3, "{said}");
    assert!(
        said.contains("cannot listen on") && said.contains(&taken),
        "{said}"
    );
    place.edit("server.toml", &taken, &own);

    // An architecture that this version cannot run, sealed as it should be.
    let mut gguf = fs::read(place.path("casemate-default.gguf")).unwrap();
    let at = gguf
        .windows(5)
        .position(|window| window == b"llama")
        .unwrap();
    gguf[at..at + 5].copy_from_slice(b"lemma");
    fs::write(place.path("other.gguf"), gguf).unwrap();
    let seal = |gguf: &str, name: &str, epoch: &str, out: &str| {
        let output = casemate()
            .args(["model", "seal", gguf, "--org", "org", "--name", name])
            .args(["--version", "2", "--epoch", epoch, "--out", out])
            .current_dir(place.path(""))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output));
        place.name_in_policy(out);
    };
    seal("other.gguf", "other", "1", "other.casemate");
    place.edit("server.toml", package, "other.casemate");
    let (code, said) = place.refused("serve", "server.toml");
    assert_eq!(code, 20, "{said}");
    assert!(
        said.contains("architecture \"lemma\" is not supported"),
        "{said}"
    );
    place.edit("server.toml", "other.casemate", package);

    // An older package of the same model: the broker's floor has risen.
    seal("casemate-default.gguf", "default", "2", "newer.casemate");
    let (code, said) = place.refused("serve", "server.toml");
    assert_eq!(code, 10, "{said}");
    assert!(said.contains("epoch_below_floor"), "{said}");
    place.edit("server.toml", package, "newer.casemate");
    let _server = place.start("serve", "server.toml");
}

#[test]
fn s14_hostile_requests_are_bounded_and_others_are_served() {
    let place = Place::new();
    let (_broker, mut server, connect) = place.start_all();
    let base = &connect.ready;
    let post = |body: &[u8]| http(base, "POST", "chat/completions", body).unwrap();
    assert_eq!(post(b"{").code(), "malformed_json");
    assert_eq!(post(&b"[".repeat(100_000)).code(), "json_too_deep");
    assert_eq!(
        post(b"{\"model\":\"default\",\"model\":\"default\"}").code(),
        "malformed_json"
    );
    let long = post(&chat(&"word ".repeat(20_000), 8));
    assert_eq!(long.code(), "context_length_exceeded");
    let message = long.json()["error"]["message"].to_string();
    assert!(
        message.contains("512 tokens") && message.contains("the prompt has"),
        "{message}"
    );
    // 100 MiB, announced and sent: refused without being read.
    let authority = base.trim_start_matches("http://").trim_end_matches("/v1");
    let mut big = TcpStream::connect(authority).unwrap();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {authority}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        100 << 20
    );
    big.write_all(head.as_bytes()).unwrap();
    let mut answer = [0; 64];
    big.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let read = std::io::Read::read(&mut big, &mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    // Strangers at the server's own door: no TLS, half a hello, nothing at all.
    let door = ("127.0.0.1", port(&place.path("server.toml"), "listen"));
    let mut strangers: Vec<TcpStream> = (0..200)
        .map(|_| TcpStream::connect(door).unwrap())
        .collect();
    for (index, stranger) in strangers.iter_mut().enumerate() {
        let words: &[u8] = match index % 3 {
            0 => b"GET / HTTP/1.1\r\n\r\n",
            1 => &[22, 3, 1, 2, 0, 1],
            _ => b"",
        };
        stranger.write_all(words).unwrap();
    }
    let served = post(&chat("What is a dog?", 24));
    assert_eq!(served.status, 200, "{}", served.body);
    assert!(server.runs());
}

#[test]
fn s08_a_revoked_member_is_out_within_seconds_and_others_stay() {
    let place = Place::new();
    let (_broker, _server, connect) = place.start_all();
    let other = place.start("connect", "connect-finance.toml");
    assert_eq!(
        http(&connect.ready, "GET", "models", b"").unwrap().status,
        200
    );
    let revoked = casemate()
        .args([
            "org",
            "revoke",
            "org",
            "--principal",
            "spiffe://demo/team/research/ada",
        ])
        .current_dir(place.path(""))
        .output()
        .unwrap();
    assert!(revoked.status.success(), "{}", text(&revoked));
    eventually(Duration::from_secs(5), "the session ends", || {
        http(&connect.ready, "GET", "models", b"").is_ok_and(|answer| answer.status != 200)
    });
    assert_eq!(
        http(&other.ready, "GET", "models", b"").unwrap().status,
        200
    );
    let audit = || fs::read_to_string(place.path("server-audit.jsonl")).unwrap();
    eventually(Duration::from_secs(5), "it is recorded", || {
        audit().contains("\"reason\":\"revoked\"")
    });
    assert!(audit().contains("revocations_in_force"));
    let verify = casemate()
        .args(["verify", "--config", "connect-research.toml"])
        .current_dir(place.path(""))
        .output()
        .unwrap();
    assert_ne!(verify.status.code(), Some(0), "{}", text(&verify));
}

#[test]
fn k12_the_server_serves_on_while_its_broker_restarts_and_obeys_it_afterwards() {
    let place = Place::new();
    let (broker, _server, connect) = place.start_all();
    drop(broker);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(
        http(&connect.ready, "GET", "models", b"").unwrap().status,
        200
    );
    let _broker = place.start("broker", "broker.toml");
    // A new policy without the grant: the session is stale, connect attests again, and the answer is no.
    place.edit(
        "org/policy/policy.cedar",
        "principal in Team::\"research\"",
        "principal in Team::\"finance\"",
    );
    let signed = casemate()
        .args(["policy", "sign", "org", "--days", "30"])
        .current_dir(place.path(""))
        .output()
        .unwrap();
    assert!(signed.status.success(), "{}", text(&signed));
    eventually(
        Duration::from_secs(30),
        "the new policy is in force",
        || {
            let answer = http(
                &connect.ready,
                "POST",
                "chat/completions",
                &chat("hello", 4),
            );
            answer.is_ok_and(|answer| answer.status == 403 && answer.code() == "policy_denied")
        },
    );
}

#[test]
fn b13_a_server_whose_chip_is_struck_off_the_fleet_list_stops_within_seconds() {
    let place = Place::new();
    let (_broker, mut server, connect) = place.start_all();
    let organisation = casemate::org::Organisation::open(&place.path("org")).unwrap();
    let none = casemate_attestation::FleetList { chips: Vec::new() };
    let now = casemate_attestation::UnixTime::from(std::time::SystemTime::now());
    casemate::org::documents::sign_next(&organisation, &none, 30, now).unwrap();
    eventually(Duration::from_secs(20), "the server stops", || {
        !server.runs()
    });
    assert!(
        server.log().contains("evidence_rejected"),
        "{}",
        server.log()
    );
    let answer = http(&connect.ready, "GET", "models", b"").unwrap();
    assert_ne!(answer.status, 200);
    let audit = fs::read_to_string(place.path("server-audit.jsonl")).unwrap();
    assert!(
        audit.contains("broker_refused")
            && audit.contains("dismissed_by_broker")
            && audit.contains("\"stopped\""),
        "{audit}"
    );
}
