//! Too much, too slow, too deep, and panics: bounded, and the others are served meanwhile (S14, S15).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use casemate::{api, listener};
use casemate_attestation::{EvidenceProvider, HardwareEvidence, Platform, ProviderError};
use futures_util::future::join_all;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::client::{Wishes, chat_request};
use crate::harness::{Server, Setup, soon};
use crate::organisation::{ORGANISATION, principal};
use crate::raw::{Raw, answer_text, chat, fresh_nonce};

/// While something else happens, this client is served without delay.
async fn served_meanwhile(raw: &mut Raw) {
    let asked = Instant::now();
    raw.chat("hello").await.ok();
    assert!(
        asked.elapsed() < Duration::from_secs(1),
        "{:?}",
        asked.elapsed()
    );
}

#[tokio::test]
async fn s14_a_flood_of_challenges_is_bounded_and_sessions_are_served_meanwhile() {
    let latency = Duration::from_millis(200);
    let server = Server::start(Setup {
        provider: Arc::new(ORGANISATION.node_a.clone().with_latency(latency)),
        evidence_waiting_max: 4,
        ..Setup::default()
    })
    .await;
    let mut other = Raw::attested(&server, "ada").await;
    let mallory = ORGANISATION.client("mallory");
    let mut flood = join_all((0..24).map(|_| Raw::connect(&server, &mallory))).await;
    let challenges = join_all(flood.iter_mut().map(|raw| raw.challenge(fresh_nonce())));
    let (answers, ()) = tokio::join!(challenges, served_meanwhile(&mut other));
    let busy: Vec<_> = answers
        .iter()
        .filter(|answer| answer.status != 200)
        .collect();
    // One in work, and as many again as may wait, at most twice over.
    assert!((12..24).contains(&busy.len()), "{}", busy.len());
    for answer in busy {
        answer.error(503, "evidence_busy");
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    server.refused("evidence_busy").await;
}

#[tokio::test]
async fn s14_one_report_serves_many_sessions_at_once() {
    let latency = Duration::from_millis(300);
    let provider = Arc::new(ORGANISATION.node_a.clone().with_latency(latency));
    let server = Server::start(Setup {
        provider,
        ..Setup::default()
    })
    .await;
    let client = Wishes::of(server.address).client();
    let asked = Instant::now();
    let sessions = join_all((0..12).map(|_| client.attest())).await;
    for session in sessions {
        session.unwrap();
    }
    // Twelve reports one after the other would take 3.6 s.
    assert!(
        asked.elapsed() < Duration::from_millis(2000),
        "{:?}",
        asked.elapsed()
    );
}

#[tokio::test]
async fn s14_one_connection_has_one_challenge_under_way() {
    let latency = Duration::from_millis(200);
    let provider = Arc::new(ORGANISATION.node_a.clone().with_latency(latency));
    let server = Server::start(Setup {
        provider,
        ..Setup::default()
    })
    .await;
    let client = Wishes::of(server.address).client();
    let connection = client.attest().await.unwrap();
    let again = || client.connector.attest_again(&connection);
    let (one, two) = tokio::join!(again(), again());
    let refused: Vec<String> = [one, two]
        .into_iter()
        .filter_map(|r| r.err().map(|error| error.to_string()))
        .collect();
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert!(
        refused[0].contains("429 challenge_under_way"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn s14_a_connection_has_a_bounded_number_of_challenges() {
    let server = Server::ordinary().await;
    let mut raw = Raw::connect(&server, &ORGANISATION.client("mallory")).await;
    for _ in 0..casemate::session::CHALLENGES_MAX {
        raw.challenge(fresh_nonce()).await.ok();
    }
    raw.challenge(fresh_nonce())
        .await
        .error(429, "challenges_spent");
    server.refused("challenges_spent").await;
}

#[tokio::test]
async fn s14_a_slow_body_is_given_up() {
    let server = Server::start(Setup {
        api: api::Limits {
            body_s_max: 1,
            ..api::Limits::default()
        },
        ..Setup::default()
    })
    .await;
    let (mut slow, mut other) = (
        Raw::attested(&server, "mallory").await,
        Raw::attested(&server, "ada").await,
    );
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n\
        content-type: application/json\r\ncontent-length: 100\r\n\r\n{\"model\":";
    slow.write(head.as_bytes()).await.unwrap();
    served_meanwhile(&mut other).await;
    slow.answer().await.error(408, "body_too_slow");
    server.refused("body_too_slow").await;
}

#[tokio::test]
async fn s14_slow_handshakes_and_idle_strangers_give_their_places_back() {
    let server = Server::start(Setup {
        listener: listener::Limits {
            connections_max: 3,
            handshake_s_max: 1,
            idle_s_max: 1,
            ..listener::Limits::default()
        },
        ..Setup::default()
    })
    .await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let mut halting = TcpStream::connect(server.address).await.unwrap();
    halting.write_all(&[22, 3, 1, 1, 0, 1]).await.unwrap();
    let mut idle = Raw::connect(&server, &ORGANISATION.client("mallory")).await;
    // No place is left; the next one waits for its turn instead of being dropped.
    let ada = ORGANISATION.client("ada");
    let asked = Instant::now();
    let mut waiting = Raw::connect(&server, &ada).await;
    assert!(
        asked.elapsed() > Duration::from_millis(300),
        "{:?}",
        asked.elapsed()
    );
    waiting.attest(&ada).await;
    for stranger in [&mut silent, &mut halting] {
        let mut rest = Vec::new();
        let ended = timeout(Duration::from_secs(5), stranger.read_to_end(&mut rest)).await;
        drop(ended.expect("the stranger stays"));
    }
    idle.ended().await;
    server
        .recorded_times(2, "refused", "handshake_too_slow")
        .await;
    // An attested connection may idle longer than a stranger's.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    waiting.chat("hello").await.ok();
}

#[tokio::test]
async fn s14_a_body_that_is_too_large_is_refused_before_it_is_read() {
    let server = Server::ordinary().await;
    let mut raw = Raw::attested(&server, "ada").await;
    let head = |path: &str, kind: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{kind}\r\n\r\n"
        )
    };
    // Announced: nothing of it is sent, and the answer is there.
    for path in [
        "/v1/chat/completions",
        "/v1/completions",
        "/attest/challenge",
        "/attest/confirm",
    ] {
        let mut raw = Raw::attested(&server, "ada").await;
        let announced = head(path, "content-length: 104857600");
        raw.write(announced.as_bytes()).await.unwrap();
        raw.answer().await.error(413, "body_too_large");
    }
    // Not announced: as soon as it is.
    raw.write(head("/v1/chat/completions", "transfer-encoding: chunked").as_bytes())
        .await
        .unwrap();
    let chunk = [
        b"100000\r\n".to_vec(),
        vec![b' '; 0x10_0000],
        b"\r\n".to_vec(),
    ]
    .concat();
    for _ in 0..5 {
        if raw.write(&chunk).await.is_err() {
            break;
        }
    }
    raw.answer().await.error(413, "body_too_large");
    server.refused("body_too_large").await;
    server.saw_nothing();
}

#[tokio::test]
async fn s14_json_that_nests_too_deep_is_refused_without_recursion() {
    let server = Server::ordinary().await;
    let mut raw = Raw::attested(&server, "ada").await;
    for depth in [65, 1_000_000] {
        let body = format!("{{\"messages\":{}", "[".repeat(depth));
        let refused = raw
            .post_bytes("/v1/chat/completions", body.as_bytes())
            .await;
        refused.error(400, "json_too_deep");
    }
    let deep = "{\"a\":".repeat(100);
    raw.post_bytes("/attest/challenge", deep.as_bytes())
        .await
        .error(400, "malformed");
    raw.chat("hello").await.ok();
    server.refused("json_too_deep").await;
}

#[tokio::test]
async fn s14_one_principal_cannot_hold_every_connection() {
    let server = Server::start(Setup {
        per_principal_max: 3,
        ..Setup::default()
    })
    .await;
    let mut held = Vec::new();
    for _ in 0..3 {
        // With a fresh certificate each: connections are counted by principal.
        let mut raw = Raw::connect(&server, &ORGANISATION.client("mallory")).await;
        raw.get("/health").await.ok();
        held.push(raw);
    }
    Raw::connect(&server, &ORGANISATION.client("mallory"))
        .await
        .ended()
        .await;
    let record = server.refused("too_many_connections").await;
    assert_eq!(record["principal"], json!(principal("mallory")));
    Raw::attested(&server, "ada").await.chat("hello").await.ok();
    held.pop();
    soon("the place is free", || {
        server.service.open_connections() == 2
    })
    .await;
    Raw::attested(&server, "mallory")
        .await
        .chat("hello")
        .await
        .ok();
}

#[tokio::test]
async fn s14_a_full_queue_says_so_and_a_reader_who_leaves_frees_his_place() {
    let server = Server::start(Setup {
        places: 1,
        ..Setup::default()
    })
    .await;
    let mut other = Raw::attested(&server, "ada").await;
    // Whether the model writes on and on, or is silent so that nothing is sent that could fail.
    for (times, prompt) in (1..).zip(["slow", "silent"]) {
        let mut first = Raw::attested(&server, "mallory").await;
        first.stream(prompt).await;
        let busy = other.chat("hello").await;
        busy.error(503, "server_busy");
        assert_eq!(busy.header("retry-after"), Some("1"));
        drop(first);
        let gone = server.recorded_times(times, "answer", "reader_gone");
        gone.await;
    }
    server.refused("server_busy").await;
    other.chat("hello").await.ok();
}

#[tokio::test]
async fn s14_a_reader_who_stands_still_is_given_up() {
    let server = Server::start(Setup {
        places: 1,
        api: api::Limits {
            reader_s_max: 1,
            ..api::Limits::default()
        },
        ..Setup::default()
    })
    .await;
    let (mut still, mut other) = (
        Raw::attested(&server, "mallory").await,
        Raw::attested(&server, "ada").await,
    );
    still.stream("gush").await;
    server.recorded("answer", "reader_too_slow").await;
    other.chat("hello").await.ok();
    // When he reads at last, he sees that there is no end.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    still.until_cut().await;
}

#[tokio::test]
async fn s15_a_panic_ends_its_own_request_and_nothing_else() {
    let server = Server::ordinary().await;
    let mut raw = Raw::attested(&server, "ada").await;
    for prompt in ["panic-encode", "panic-start", "refuse"] {
        raw.chat(prompt).await.error(500, "internal_error");
        // The same connection, and another one.
        raw.chat("hello").await.ok();
        Raw::attested(&server, "bob").await.chat("hello").await.ok();
    }
    assert_eq!(server.refused("internal_error").await["step"], "engine");

    // Beside each other on one HTTP/2 connection.
    let client = Wishes::of(server.address).client();
    let connection = client.attest().await.unwrap();
    let ask = async |prompt| {
        connection
            .fetch(chat_request(prompt, false), 65536)
            .await
            .unwrap()
    };
    let (good, bad, worse) = tokio::join!(ask("hello"), ask("panic-encode"), ask("panic-start"));
    assert_eq!(good.status(), 200);
    assert_eq!((bad.status().as_u16(), worse.status().as_u16()), (500, 500));
    let good: serde_json::Value = serde_json::from_slice(good.body()).unwrap();
    assert!(answer_text(&good).contains("hello"));
}

/// A security processor's driver that panics the first time.
struct Faulty(AtomicBool);

impl EvidenceProvider for Faulty {
    fn platform(&self) -> Platform {
        Platform::TestChip
    }

    fn evidence(&self, report_data: &[u8; 64]) -> Result<HardwareEvidence, ProviderError> {
        assert!(self.0.swap(true, Ordering::SeqCst), "the first time");
        ORGANISATION.node_a.evidence(report_data)
    }
}

#[tokio::test]
async fn s15_a_panic_of_the_evidence_provider_ends_one_challenge() {
    let provider = Arc::new(Faulty(AtomicBool::new(false)));
    let server = Server::start(Setup {
        provider,
        ..Setup::default()
    })
    .await;
    let ada = ORGANISATION.client("ada");
    let mut raw = Raw::connect(&server, &ada).await;
    raw.challenge(fresh_nonce())
        .await
        .error(503, "evidence_unavailable");
    raw.post("/v1/chat/completions", &chat("hello", false))
        .await
        .error(403, "attestation_required");
    raw.attest(&ada).await;
    raw.chat("hello").await.ok();
    server.refused("evidence_unavailable").await;
}
