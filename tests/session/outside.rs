//! What somebody reads on the way who has no key: nothing of a request, whether it has a body or is all path and headers (S2).

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http::Request;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use casemate_client::session::empty_body;

use crate::client::Wishes;
use crate::harness::{PROMPT_MARKER, Server};
use crate::organisation::NODE_A;
use crate::raw::{Http, Raw, chat};

/// Content types of TLS records (RFC 8446 §5.1, and appendix D.4 for the first).
const CHANGE_CIPHER_SPEC: u8 = 20;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

/// Everything that crossed, of each direction.
#[derive(Default)]
struct Crossed {
    to_server: Mutex<Vec<u8>>,
    to_client: Mutex<Vec<u8>>,
}

impl Crossed {
    /// Passes everything on to `server`, and keeps it.
    async fn on_the_way_to(server: SocketAddr) -> (SocketAddr, Arc<Self>) {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let crossed = Arc::new(Self::default());
        let kept = Arc::clone(&crossed);
        tokio::spawn(async move {
            let (client, _) = socket.accept().await.unwrap();
            let server = TcpStream::connect(server).await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            let up = pass(&mut from_client, &mut to_server, &kept.to_server);
            let down = pass(&mut from_server, &mut to_client, &kept.to_client);
            tokio::join!(up, down);
        });
        (address, crossed)
    }

    /// Nothing but the two hellos is in the clear, and all that these tell is which server is meant.
    fn tells_nothing(&self, secrets: &[&str]) {
        let directions = [&self.to_server, &self.to_client].map(|kept| kept.lock().unwrap());
        for crossed in &directions {
            for secret in secrets {
                let found = crossed
                    .windows(secret.len())
                    .any(|at| at == secret.as_bytes());
                assert!(!found, "{secret} was on the network");
            }
            let records = records(crossed);
            let (hello, rest) = records.split_first().unwrap();
            assert_eq!(hello.0, HANDSHAKE);
            for (kind, content) in rest {
                match *kind {
                    CHANGE_CIPHER_SPEC => assert_eq!(*content, [1]),
                    kind => assert_eq!(kind, APPLICATION_DATA),
                }
            }
            assert!(rest.len() > 5, "{} records", rest.len());
        }
        let hello = records(&directions[0])[0].1;
        let names_it = hello
            .windows(NODE_A.len())
            .any(|at| at == NODE_A.as_bytes());
        assert!(names_it, "the test looks at something else than the hello");
    }
}

async fn pass(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    kept: &Mutex<Vec<u8>>,
) {
    let mut piece = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        kept.lock().unwrap().extend_from_slice(&piece[..length]);
        if to.write_all(&piece[..length]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// Content types and contents of records.
fn records(mut crossed: &[u8]) -> Vec<(u8, &[u8])> {
    let mut records = Vec::new();
    while let [kind, _, _, high, low, rest @ ..] = crossed {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let Some((content, rest)) = rest.split_at_checked(length) else {
            break;
        };
        records.push((*kind, content));
        crossed = rest;
    }
    records
}

/// What a request may carry beside a body, and what it says of who asks.
const SECRETS: [&str; 8] = [
    PROMPT_MARKER,
    "MARKER-PATH",
    "MARKER-QUERY",
    "MARKER-HEADER",
    "MARKER-NAME",
    "/v1/",
    "HTTP/1.1",
    "spiffe://",
];

#[tokio::test]
async fn s02_paths_headers_and_requests_without_a_body_cross_inside_of_tls_alone() {
    let server = Server::ordinary().await;

    let (address, crossed) = Crossed::on_the_way_to(server.address).await;
    let mut raw = Raw::attested_through(address, "ada").await;
    raw.get("/v1/models").await.ok();
    raw.get("/v1/MARKER-PATH?q=MARKER-QUERY").await;
    let head = "HEAD /v1/models?MARKER-QUERY HTTP/1.1\r\nhost: localhost\r\nx-MARKER-NAME: MARKER-HEADER\r\n\r\n";
    raw.write(head.as_bytes()).await.unwrap();
    raw.head().await.unwrap();
    raw.chat("hello").await.ok();
    raw.post("/v1/MARKER-PATH", &json!({})).await;
    crossed.tells_nothing(&SECRETS);

    let (address, crossed) = Crossed::on_the_way_to(server.address).await;
    let client = Wishes::of(address).client();
    let connection = client.attest().await.unwrap();
    assert!(connection.facts().http2);
    for path in ["/v1/models", "/v1/MARKER-PATH?q=MARKER-QUERY"] {
        let request = Request::get(path)
            .header("x-MARKER-NAME", "MARKER-HEADER")
            .body(empty_body())
            .unwrap();
        connection.fetch(request, 1 << 20).await.unwrap();
    }
    crossed.tells_nothing(&SECRETS);

    // As programs see it: the proxy takes plain requests on loopback, and what leaves it is the same.
    let (address, crossed) = Crossed::on_the_way_to(server.address).await;
    let mut proxied = Wishes::of(address).client().proxied().await;
    proxied.http.get("/v1/models?MARKER-QUERY").await;
    proxied
        .http
        .post("/v1/chat/completions", &chat("hello", true))
        .await;
    crossed.tells_nothing(&SECRETS);
}

/// A client that speaks without TLS learns nothing, and what it says reaches nobody.
#[tokio::test]
async fn s02_a_request_in_the_clear_is_no_request() {
    let server = Server::ordinary().await;
    for request in [
        "GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned(),
        format!("GET /{PROMPT_MARKER} HTTP/1.0\r\n\r\n"),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
    ] {
        let mut plain = Http::new(TcpStream::connect(server.address).await.unwrap());
        plain.write(request.as_bytes()).await.unwrap();
        let mut said = Vec::new();
        let _ = plain.stream.read_to_end(&mut said).await;
        // At most an alert of TLS: kind, version, length, level, description.
        assert!(matches!(said[..], [] | [21, 3, _, 0, 2, 2, _]), "{said:?}");
    }
    server.saw_nothing();
    assert!(!server.audit_text().contains(PROMPT_MARKER));
}
