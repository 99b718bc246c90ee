//! Answers that lose a piece on the way: the reader sees that something is missing (S1).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use futures_util::future::join_all;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::client::{Wishes, chat_request};
use crate::harness::{PROMPT_MARKER, Server};
use crate::organisation::principal;
use crate::raw::{Raw, answer_text, chat};
use crate::script::ANSWER_MARKER;

/// What the network does to the records that a server sends.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
enum Mischief {
    None,
    Drop,
    Swap,
    Repeat,
    Flip,
    Cut,
}

/// A network between client and server that can be told to misbehave, once.
struct Network {
    address: SocketAddr,
    mischief: Arc<AtomicU8>,
}

impl Network {
    async fn to(server: SocketAddr) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let mischief = Arc::new(AtomicU8::new(Mischief::None as u8));
        let told = Arc::clone(&mischief);
        tokio::spawn(async move {
            while let Ok((client, _)) = socket.accept().await {
                let server = TcpStream::connect(server).await.unwrap();
                tokio::spawn(carry(client, server, Arc::clone(&told)));
            }
        });
        Self { address, mischief }
    }
}

async fn carry(client: TcpStream, server: TcpStream, told: Arc<AtomicU8>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
    while let Some(mut record) = record(&mut from_server).await {
        let mischief = told.swap(Mischief::None as u8, Ordering::SeqCst);
        let mut sent = Vec::new();
        match mischief {
            m if m == Mischief::Drop as u8 => {}
            m if m == Mischief::Swap as u8 => {
                let Some(next) = self::record(&mut from_server).await else {
                    return;
                };
                sent.extend(next);
                sent.extend(record);
            }
            m if m == Mischief::Repeat as u8 => {
                sent.extend_from_slice(&record);
                sent.extend(record);
            }
            m if m == Mischief::Flip as u8 => {
                record[5] ^= 1;
                sent.extend(record);
            }
            m if m == Mischief::Cut as u8 => return,
            _ => sent.extend(record),
        }
        if to_client.write_all(&sent).await.is_err() {
            return;
        }
    }
}

/// One TLS record.
async fn record(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<Vec<u8>> {
    let mut record = vec![0; 5];
    stream.read_exact(&mut record).await.ok()?;
    let length = u16::from_be_bytes([record[3], record[4]]);
    record.resize(5 + usize::from(length), 0);
    stream.read_exact(&mut record[5..]).await.ok()?;
    Some(record)
}

#[tokio::test]
async fn s01_records_dropped_swapped_repeated_altered_or_cut_never_look_like_an_end() {
    let server = Server::ordinary().await;
    for mischief in [
        Mischief::Drop,
        Mischief::Swap,
        Mischief::Repeat,
        Mischief::Flip,
        Mischief::Cut,
    ] {
        let network = Network::to(server.address).await;
        let mut proxied = Wishes::of(network.address).client().proxied().await;
        let http = &mut proxied.http;
        let body = chat("slow", true).to_string();
        http.send("POST", "/v1/chat/completions", body.as_bytes())
            .await
            .unwrap();
        assert_eq!(http.head().await.unwrap().status, 200);
        http.chunk().await.unwrap().unwrap();
        network.mischief.store(mischief as u8, Ordering::SeqCst);
        // Whatever came before is whole; then the program's connection breaks off.
        println!("{mischief:?}");
        http.until_cut().await;
    }
}

#[tokio::test]
async fn s01_an_answer_that_the_model_does_not_finish_is_cut_for_every_reader() {
    let server = Server::ordinary().await;
    for prompt in ["fail", "vanish"] {
        let mut raw = Raw::attested(&server, "ada").await;
        raw.stream(prompt).await;
        raw.cut_with("internal_error").await;

        // Not asked for as a stream it is no answer at all.
        let mut raw = Raw::attested(&server, "ada").await;
        let whole = raw.chat(prompt).await;
        whole.error(500, "internal_error");
        assert!(!whole.text().contains(ANSWER_MARKER));

        // A program behind `connect` sees it too.
        let mut proxied = Wishes::of(server.address).client().proxied().await;
        let body = chat(prompt, true).to_string();
        proxied
            .http
            .send("POST", "/v1/chat/completions", body.as_bytes())
            .await
            .unwrap();
        let answer = proxied.http.answer().await;
        assert!(
            !answer.complete && !answer.text().contains("[DONE]"),
            "{}",
            answer.text()
        );

        let client = Wishes::of(server.address).client();
        let connection = client.attest().await.unwrap();
        let answer = connection
            .send_request(chat_request(prompt, true))
            .await
            .unwrap();
        answer.into_body().collect().await.unwrap_err();
    }
}

#[tokio::test]
async fn s01_a_whole_stream_ends_with_done_and_holds_every_piece_in_order() {
    let server = Server::ordinary().await;
    let prompt = "one two three four five six seven";
    let expected = format!("{ANSWER_MARKER}{prompt} {PROMPT_MARKER}");
    let mut proxied = Wishes::of(server.address).client().proxied().await;
    let body = chat(prompt, true);
    let answer = proxied.http.post("/v1/chat/completions", &body).await;
    assert!(answer.complete);
    let text = answer.text();
    let events: Vec<&str> = text
        .split("\n\n")
        .filter_map(|event| event.strip_prefix("data: "))
        .collect();
    let (done, chunks) = events.split_last().unwrap();
    assert_eq!(*done, "[DONE]");
    let piece = |chunk: &&str| {
        let chunk: serde_json::Value = serde_json::from_str(chunk).unwrap();
        chunk["choices"][0]["delta"]["content"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    assert_eq!(chunks.iter().map(piece).collect::<String>(), expected);
}

#[tokio::test]
async fn s01_answers_of_one_connection_are_not_mixed_up() {
    let server = Server::ordinary().await;
    // At once over HTTP/2.
    let client = Wishes::of(server.address).client();
    let connection = client.attest().await.unwrap();
    assert!(connection.facts().http2);
    let ask = async |number: usize| {
        let request = chat_request(&format!("number-{number}"), number.is_multiple_of(2));
        let answer = connection.fetch(request, 65536).await.unwrap();
        let text = String::from_utf8(answer.into_body().to_vec()).unwrap();
        assert!(
            text.contains(&format!("number-{number} ")),
            "{number}: {text}"
        );
        assert_eq!(text.matches("number-").count(), 1, "{number}: {text}");
    };
    join_all((0..24).map(ask)).await;

    // One after the other over HTTP/1.1, all asked before the first is read.
    let mut raw = Raw::attested(&server, "ada").await;
    for number in 0..4 {
        let body = chat(&format!("number-{number}"), false).to_string();
        raw.send("POST", "/v1/chat/completions", body.as_bytes())
            .await
            .unwrap();
    }
    for number in 0..4 {
        let answer = raw.answer().await.ok();
        assert!(
            answer_text(&answer).contains(&format!("number-{number} ")),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn s01_a_server_that_goes_away_in_mid_answer_is_seen_by_the_program() {
    let server = Server::ordinary().await;
    let mut proxied = Wishes::of(server.address).client().proxied().await;
    let http = &mut proxied.http;
    let body = chat("slow", true).to_string();
    http.send("POST", "/v1/chat/completions", body.as_bytes())
        .await
        .unwrap();
    assert_eq!(http.head().await.unwrap().status, 200);
    http.chunk().await.unwrap().unwrap();
    let list = casemate_attestation::Revocations {
        certificates: Vec::new(),
        principals: vec![principal("ada")],
    };
    assert_eq!(server.revoke(&list), 1);
    http.until_cut().await;
}
