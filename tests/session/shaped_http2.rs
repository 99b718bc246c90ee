//! Answers of one size over HTTP/2, whose own frames share the connection with them (G11, S4).

use std::collections::BTreeMap;

use casemate_client::session::full_body;
use futures_util::future::join_all;
use http::Request;
use serde_json::{Value, json};

use crate::client::{Wishes, chat_request};
use crate::shaped::{RECORD, different_answers, play, serving, shape};
use crate::tap::{Tap, from_server};

#[tokio::test]
async fn g11_the_same_holds_over_http2_and_for_requests_that_connect_fills_up() {
    let (server, _) = serving(different_answers(), shape("fixed", &[20])).await;
    let tap = Tap::on_the_way_to(server.address).await;
    let mut traces = BTreeMap::new();
    for number in [0, 1, 4, 6, 99] {
        let client = Wishes::of(tap.address).client();
        let connection = client.attest().await.unwrap();
        assert!(connection.facts().http2);
        tap.take();
        // The last is refused before it is read.
        let prompt = format!("play {}", number % 9);
        let mut request = chat_request(&prompt, true);
        if number == 99 {
            let plain = "text/plain".parse().unwrap();
            request.headers_mut().insert("content-type", plain);
        }
        let answer = connection.fetch(request, 1 << 20).await.unwrap();
        assert_eq!(answer.status(), if number == 99 { 415 } else { 200 });
        let seen = tap.take();
        // A refusal of a request that was not read as one leaves as a document: at once, and as long.
        let trace = from_server(&seen);
        assert!(trace.iter().all(|bytes| *bytes == RECORD), "{trace:?}");
        if number != 99 {
            traces
                .entry(trace.len())
                .or_insert_with(Vec::new)
                .push(number);
        }
    }
    assert_eq!(traces.len(), 1, "{traces:?}");
}

/// Length of a request's body below, bytes.
const BODY: usize = 60_000;
/// So many of them on one connection are more than a third of a server's first window twice.
const REQUESTS: usize = 14;

/// `body` with spaces behind it, as clients fill them up.
fn filled(body: &Value) -> Request<casemate_client::session::RequestBody> {
    let body = body.to_string();
    let body = format!("{body:BODY$}");
    assert_eq!(body.len(), BODY);
    Request::post("/v1/chat/completions")
        .header("content-type", "application/json")
        .body(full_body(body))
        .unwrap()
}

/// A server that read a third of what it lets a client send says so in a frame of its own, which is one record more before
/// an answer. Which answer that is must follow from the lengths of requests, and from nothing that was asked or answered.
#[tokio::test]
async fn g11_the_place_of_a_window_update_tells_the_length_of_requests_alone() {
    let (server, _) = serving(different_answers(), shape("fixed", &[10])).await;
    let mut refused = play(0, true);
    refused["seed"] = json!(1);
    let only = |body: Value| vec![body];
    let alternating = vec![play(4, true), refused.clone(), play(6, true)];
    let connections = [
        only(play(0, true)),
        only(play(1, true)),
        only(play(3, true)),
        only(refused),
        alternating,
    ];
    let ask = async |bodies: Vec<Value>| {
        let tap = Tap::on_the_way_to(server.address).await;
        let client = Wishes::of(tap.address).client();
        let connection = client.attest().await.unwrap();
        assert!(connection.facts().http2);
        let mut sizes = Vec::new();
        for body in bodies.iter().cycle().take(REQUESTS) {
            tap.take();
            let answer = connection.fetch(filled(body), 1 << 20).await.unwrap();
            let wanted = if body["seed"].is_null() { 200 } else { 403 };
            assert_eq!(answer.status(), wanted);
            sizes.push(from_server(&tap.take()));
        }
        sizes
    };
    let seen = join_all(connections.map(ask)).await;
    for sizes in &seen {
        assert_eq!(*sizes, seen[0]);
        assert!(sizes.iter().flatten().all(|bytes| *bytes == RECORD));
    }
    // The frame is there to be seen: each time that a third of a window was read.
    let lengths: Vec<usize> = seen[0].iter().map(Vec::len).collect();
    let usual = *lengths.iter().min().unwrap();
    let longer: Vec<usize> = (0..REQUESTS)
        .filter(|number| lengths[*number] > usual)
        .collect();
    assert_eq!(longer, [5, 11], "{lengths:?}");
    assert!(lengths.iter().all(|length| *length <= usual + 1));
}
