//! Services that are busy, broken, endless or somebody else: each is told by its name, within its bound.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use casemate::vendors::{Ask, BODY_BYTES_MAX, Client, HttpError, Network, ServiceUrl};
use rustls::ServerConfig;
use rustls_pki_types::PrivatePkcs8KeyDer;

use crate::server::{Reply, Server, ok, reply};

fn network() -> Network {
    Network {
        attempts: 2,
        attempt_s: 1,
        total_s: 20,
        wait_s_max: 2,
        ..Network::default()
    }
}

fn url(text: &str) -> ServiceUrl {
    ServiceUrl::try_from(text.to_owned()).unwrap()
}

fn ask_by(network: &Network, service: &ServiceUrl) -> Result<Vec<u8>, HttpError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let ask = Ask {
        service,
        rest: "/x".to_owned(),
        question: None,
    };
    let answer = runtime.block_on(async { Client::new(network, service.tls)?.ask(&ask).await });
    answer.map(|answer| answer.body)
}

/// What is answered to these replies, and how often was asked.
fn asked(replies: &[Reply]) -> (Result<Vec<u8>, HttpError>, usize) {
    let server = Server::start();
    server.put("GET /x", replies);
    let answer = ask_by(&network(), &url(&format!("http://{}", server.address)));
    (answer, server.asked().len())
}

#[test]
fn a_busy_service_is_asked_again_when_it_says() {
    let busy = |seconds: &str| reply(429, &[("Retry-After", seconds)], b"");
    let begun = Instant::now();
    let (answer, times) = asked(&[busy("1"), ok(b"document")]);
    assert_eq!((answer.unwrap(), times), (b"document".to_vec(), 2));
    assert!(begun.elapsed() >= Duration::from_secs(1));
    // Longer than is waited: told at once.
    let (answer, times) = asked(&[busy("3600"), ok(b"document")]);
    assert!(matches!(
        answer,
        Err(HttpError::Busy {
            status: 429,
            wait_s: 3600,
            ..
        })
    ));
    assert_eq!(times, 1);
    let (answer, times) = asked(&[reply(503, &[], b"")]);
    assert!(matches!(answer, Err(HttpError::Busy { status: 503, .. })));
    assert_eq!(times, 2);
}

#[test]
fn other_answers_are_no_documents() {
    let (answer, times) = asked(&[reply(404, &[], b"document")]);
    assert!(matches!(answer, Err(HttpError::Unknown(_))));
    assert_eq!(times, 1);
    let elsewhere = reply(302, &[("Location", "http://203.0.113.1/x")], b"");
    let (answer, times) = asked(&[elsewhere]);
    assert!(matches!(answer, Err(HttpError::Elsewhere(_))));
    assert_eq!(times, 1);
    let (answer, times) = asked(&[reply(500, &[], b"")]);
    assert!(matches!(answer, Err(HttpError::Status { status: 500, .. })));
    assert_eq!(times, 2);
    let (answer, times) = asked(&[reply(206, &[], b"document")]);
    assert!(matches!(answer, Err(HttpError::Status { status: 206, .. })));
    assert_eq!(times, 1);
    let (answer, _) = asked(&[Reply::Bytes(b"SSH-2.0-server\r\n".to_vec())]);
    assert!(matches!(answer, Err(HttpError::Unreachable { .. })));
}

#[test]
fn cut_long_and_endless_answers_have_an_end() {
    let cut = Reply::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort".to_vec());
    let (answer, times) = asked(std::slice::from_ref(&cut));
    assert!(matches!(answer, Err(HttpError::Cut(_))), "{answer:?}");
    assert_eq!(times, 2);
    assert_eq!(asked(&[cut, ok(b"whole")]).0.unwrap(), b"whole");
    assert_eq!(
        asked(&[ok(&vec![0; BODY_BYTES_MAX])]).0.unwrap().len(),
        BODY_BYTES_MAX
    );
    let (answer, times) = asked(&[ok(&vec![0; BODY_BYTES_MAX + 1])]);
    assert!(matches!(answer, Err(HttpError::TooLong(_))), "{answer:?}");
    assert_eq!(times, 1);
    let begun = Instant::now();
    let (answer, times) = asked(&[Reply::Endless]);
    assert!(matches!(answer, Err(HttpError::Late(_))), "{answer:?}");
    assert_eq!(times, 1);
    assert!(begun.elapsed() < Duration::from_secs(10));
    // A head without an end.
    let head = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(70_000));
    let (answer, _) = asked(&[Reply::Bytes(head.into_bytes())]);
    assert!(
        matches!(answer, Err(HttpError::Unreachable { .. })),
        "{answer:?}"
    );
}

#[test]
fn nobody_there_is_told() {
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let answer = ask_by(&network(), &url(&format!("http://{free}")));
    assert!(matches!(answer, Err(HttpError::Unreachable { .. })));
}

#[test]
fn authorities_are_a_file_with_certificates() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("missing.pem", None),
        ("empty.pem", Some("")),
        ("rubbish.pem", Some("rubbish")),
    ] {
        let file = folder.path().join(name);
        if let Some(text) = text {
            fs::write(&file, text).unwrap();
        }
        let answer = ask_by(&trusting(&file), &url("https://127.0.0.1:1"));
        let Err(HttpError::Authorities { file: named, .. }) = answer else {
            panic!("{answer:?}")
        };
        assert!(named.ends_with(name));
    }
}

/// A network whose authorities are in this file.
fn trusting(file: &std::path::Path) -> Network {
    let text = format!(
        "authorities = {:?}\nattempts = 1\nattempt_s = 5\n",
        file.display().to_string()
    );
    toml::from_str(&text).unwrap()
}

/// A TLS service with a certificate of its own: its address, and the certificate as PEM.
fn tls_service() -> (String, String) {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
    let config = ServerConfig::builder_with_provider(casemate::tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key.into())
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut session = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut tls = rustls::Stream::new(&mut session, &mut stream);
            let mut head = [0; 1024];
            if tls.read(&mut head).is_ok() {
                let _gone = tls.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecure");
            }
        }
    });
    (format!("https://localhost:{port}"), cert.pem())
}

#[test]
fn tls_is_trusted_by_the_file_and_by_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (service, pem) = tls_service();
    let (own, foreign) = (
        folder.path().join("own.pem"),
        folder.path().join("foreign.pem"),
    );
    fs::write(&own, pem).unwrap();
    fs::write(&foreign, tls_service().1).unwrap();
    assert_eq!(ask_by(&trusting(&own), &url(&service)).unwrap(), b"secure");
    let answer = ask_by(&trusting(&foreign), &url(&service));
    assert!(
        matches!(answer, Err(HttpError::Unreachable { .. })),
        "{answer:?}"
    );
    // The right authority, and another name.
    let other = service.replace("localhost", "127.0.0.1");
    let answer = ask_by(&trusting(&own), &url(&other));
    assert!(
        matches!(answer, Err(HttpError::Unreachable { .. })),
        "{answer:?}"
    );
}

#[test]
fn a_proxy_is_asked_for_a_way() {
    let server = Server::start();
    server.put("GET /x", &[ok(b"behind")]);
    let service = url(&format!("http://{}", server.address));
    for (answer, expected) in [
        ("HTTP/1.1 200 Connected", true),
        ("HTTP/1.1 403 Forbidden", false),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = url(&format!("http://{}", listener.local_addr().unwrap()));
        let (to, answer) = (server.address.clone(), format!("{answer}\r\n\r\n"));
        let worker = std::thread::spawn(move || {
            let (mut near, _) = listener.accept().unwrap();
            let mut head = [0; 512];
            let length = near.read(&mut head).unwrap();
            let line = String::from_utf8_lossy(&head[..length]).into_owned();
            assert!(
                line.starts_with(&format!("CONNECT {to} HTTP/1.1\r\n")),
                "{line}"
            );
            near.write_all(answer.as_bytes()).unwrap();
            let mut far = std::net::TcpStream::connect(&to).unwrap();
            let mut asked = [0; 1024];
            let length = near.read(&mut asked).unwrap_or(0);
            far.write_all(&asked[..length]).unwrap();
            if length > 0 {
                let mut all = Vec::new();
                far.read_to_end(&mut all).unwrap();
                near.write_all(&all).unwrap();
            }
        });
        let network = Network {
            proxy: Some(proxy),
            attempts: 1,
            ..network()
        };
        let found = ask_by(&network, &service);
        assert_eq!(
            found.as_deref().ok(),
            expected.then_some(&b"behind"[..]),
            "{found:?}"
        );
        worker.join().unwrap();
    }
}

fn casemate(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_casemate"))
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn the_command_says_what_it_asks_and_how_it_failed() {
    let folder = tempfile::tempdir().unwrap();
    let (into, config) = (folder.path().join("into"), folder.path().join("fetch.toml"));
    let (into, file) = (into.display().to_string(), config.display().to_string());
    let fetch = |more: &[&str]| {
        let all = ["collateral", "fetch", "--into", &into, "--config", &file];
        casemate(&[&all[..], more].concat())
    };
    assert_eq!(casemate(&["collateral", "fetch", "--into", &into]).0, 2);
    assert_eq!(
        casemate(&["collateral", "fetch", "nowhere", "--into", &into]).0,
        3
    );
    for (text, word) in [
        ("[services]\namd = \"http://kds.example\"\n", "services.amd"),
        ("[services]\namd = \"kds.example\"\n", "not an address"),
        ("[network]\nattempts = 11\n", "network.attempts"),
        (
            "[network]\nproxy = \"https://p.example\"\n",
            "network.proxy",
        ),
        ("[owned]\nmanifests = [\"NV_../x\"]\n", "owned.manifests"),
        ("[owned]\nunknown = 1\n", "unknown"),
    ] {
        fs::write(&config, text).unwrap();
        let (code, _, said) = fetch(&[]);
        assert_eq!(code, 3, "{said}");
        assert!(said.contains(word), "{said}");
    }
    let platform = "[[owned.platforms]]\nfmspc = \"90c06f000000\"\nca = \"platform\"\n";
    fs::write(&config, platform).unwrap();
    let (code, planned, said) = fetch(&["--dry-run"]);
    assert_eq!(code, 0, "{said}");
    let expected = [
        "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der",
        "https://api.trustedservices.intel.com/tdx/certification/v4/qe/identity",
        "https://api.trustedservices.intel.com/sgx/certification/v4/pckcrl?ca=platform&encoding=der",
        "https://api.trustedservices.intel.com/tdx/certification/v4/tcb?fmspc=90c06f000000",
    ];
    let lines: String = expected
        .iter()
        .map(|url| format!("INFO collateral-ask GET {url}\n"))
        .collect();
    assert_eq!(planned, lines);
    // A service that has nothing.
    let server = Server::start();
    let at = format!("\"http://{}\"", server.address);
    fs::write(
        &config,
        format!("[services]\nintel = {at}\nintel_root_list = {at}\n{platform}"),
    )
    .unwrap();
    let (code, told, _) = fetch(&[]);
    assert_eq!(code, 1);
    assert!(
        told.starts_with("FAIL collateral-fetch intel revocation list of the root: "),
        "{told}"
    );
    let (code, told, _) = fetch(&["--json"]);
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!((code, &told["right"]), (1, &serde_json::json!(false)));
    assert!(!folder.path().join("into").exists());
}
