//! Sizes and times of what crosses the network, as somebody sees them who has no key (GUARD sections 4 and 8; S4, S27).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use casemate::api::Limits;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::client::{Wishes, chat_request};
use crate::harness::{Server, Setup, soon};
use crate::player::{Ends, Played, Player, steady, text_of};
use crate::raw::{Answer, Raw, answer_text, error_object};
use crate::tap::{Seen, Tap, from_server, to_server};

/// What every record of a shaped answer has on the network: header, content, type and tag.
pub const RECORD: usize = 5 + 528 + 1 + 16;
/// What policy says in these tests, but for the lengths.
const TICK: Duration = Duration::from_millis(20);
const FIRST: Duration = Duration::from_millis(40);

pub fn shape(profile: &str, cells: &[u32]) -> Value {
    let mut rule = json!({"profile": profile, "tick_milliseconds": 20, "first_milliseconds": 40});
    if profile != "open" {
        rule["cells"] = json!(cells);
    }
    json!({"shapes": {"writers": rule}})
}

/// A server of `answers` whose team is shaped by `guard`.
pub async fn serving(answers: Vec<(Vec<Played>, Ends)>, guard: Value) -> (Server, Arc<Player>) {
    let player = Arc::new(Player {
        answers,
        ..Player::default()
    });
    let server = Server::start(Setup {
        guard: Some(serde_json::from_value(guard).unwrap()),
        generator: Some(player.clone()),
        places: 256,
        ..Setup::default()
    })
    .await;
    (server, player)
}

pub fn play(number: usize, stream: bool) -> Value {
    json!({"model": "story", "stream": stream,
        "messages": [{"role": "user", "content": format!("play {number}")}]})
}

/// Asks, and says what came and what was seen of it.
pub async fn traced(raw: &mut Raw, tap: &Tap, body: &Value) -> (Answer, Vec<Seen>) {
    tap.take();
    let answer = raw.post("/v1/chat/completions", body).await;
    (answer, tap.take())
}

/// The events of a stream, read by lines as clients do.
fn events(stream: &str) -> Vec<Value> {
    let data = stream
        .lines()
        .filter_map(|line| line.strip_prefix("data: "));
    let documents = data.filter(|data| *data != "[DONE]");
    documents
        .map(|data| serde_json::from_str(data).unwrap_or_else(|_| panic!("{data}")))
        .collect()
}

fn text_in(events: &[Value]) -> String {
    let piece = |event: &Value| {
        event["choices"][0]["delta"]["content"]
            .as_str()
            .map(str::to_owned)
    };
    events.iter().filter_map(piece).collect()
}

fn finish_in(events: &[Value]) -> &str {
    let finish = |event: &'_ Value| event["choices"][0]["finish_reason"].is_string();
    let last = events.iter().rev().find(|event| finish(event)).unwrap();
    last["choices"][0]["finish_reason"].as_str().unwrap()
}

/// No two cells leave with one tick, and none before its own: counted from the request, which the tap saw before the server.
fn no_cell_is_early(seen: &[Seen]) {
    let asked = seen.iter().find(|seen| !seen.from_server).unwrap().at;
    let cells = seen.iter().filter(|seen| seen.from_server).skip(1);
    for (number, cell) in cells.enumerate() {
        let earliest = FIRST + TICK * u32::try_from(number).unwrap();
        assert!(
            cell.at - asked >= earliest,
            "cell {number}: {:?}",
            cell.at - asked
        );
    }
}

/// Answers that differ in everything: length, pace, size of their pieces.
pub fn different_answers() -> Vec<(Vec<Played>, Ends)> {
    let long = "word ".repeat(60);
    let long: Vec<&str> = long.split_inclusive(' ').collect();
    let once = |at: u64, text: String| {
        vec![Played {
            at: Duration::from_millis(at),
            text,
            tokens: 1,
        }]
    };
    vec![
        (steady(&["No."], Duration::ZERO), Ends::Well),
        (steady(&long, Duration::from_millis(5)), Ends::Well),
        (steady(&long, Duration::ZERO), Ends::Well),
        (once(300, "late".into()), Ends::Well),
        (once(1, "ü\"\n".repeat(600)), Ends::Well),
        (Vec::new(), Ends::Well),
        (steady(&long, Duration::from_millis(1)), Ends::Never),
    ]
}

#[tokio::test]
async fn g11_fixed_answers_and_refusals_have_one_trace_whatever_the_prompt() {
    let (server, _) = serving(different_answers(), shape("fixed", &[40])).await;
    let tap = Tap::on_the_way_to(server.address).await;
    for stream in [true, false] {
        let mut traces = BTreeMap::new();
        let mut raw = Raw::attested_through(tap.address, "ada").await;
        let mut bodies: Vec<(Value, u16)> =
            (0..7).map(|number| (play(number, stream), 200)).collect();
        let mut refused = play(0, stream);
        refused["seed"] = json!(1);
        bodies.push((refused, 403));
        let mut unknown = play(0, stream);
        unknown["model"] = json!("another");
        bodies.push((unknown, 404));
        let mut unsupported = play(0, stream);
        unsupported["best_of"] = json!(3);
        bodies.push((unsupported, 400));
        for (body, status) in &bodies {
            let (answer, seen) = traced(&mut raw, &tap, body).await;
            assert_eq!(answer.status, *status, "{}", answer.text());
            assert!(answer.complete);
            if stream {
                no_cell_is_early(&seen);
            }
            traces
                .entry(from_server(&seen))
                .or_insert_with(Vec::new)
                .push(body.to_string());
        }
        assert_eq!(traces.len(), 1, "stream {stream}: {traces:#?}");
        let (trace, _) = traces.pop_first().unwrap();
        assert!(trace.iter().all(|bytes| *bytes == RECORD), "{trace:?}");
        if stream {
            // Head and cells, each a record of its own.
            assert_eq!(trace.len(), 41);
        }
    }
}

#[tokio::test]
async fn g11_connect_fills_requests_up_and_takes_the_filler_out_of_answers() {
    let (server, _) = serving(different_answers(), shape("bucketed", &[10, 20, 40])).await;
    let tap = Tap::on_the_way_to(server.address).await;
    let mut proxied = Wishes::of(tap.address).client().proxied().await;
    let http = &mut proxied.http;
    http.get("/v1/models").await.ok();
    let mut sent = BTreeMap::new();
    for prompt in [
        "play 1",
        "play 1 and then tell me something that is much longer than that",
    ] {
        let mut body = play(1, true);
        body["messages"][0]["content"] = json!(prompt);
        tap.take();
        let answer = http.post("/v1/chat/completions", &body).await;
        let seen = tap.take();
        let text = answer.text();
        assert!(
            answer.complete && text.ends_with("data: [DONE]\n\n"),
            "{text}"
        );
        assert!(
            text.split("\n\n")
                .all(|event| event.is_empty() || event.starts_with("data: "))
        );
        assert_eq!(text_in(&events(&text)), "word ".repeat(60));
        assert_eq!(answer.header("x-casemate-cells"), None);
        let before_answer = seen.iter().take_while(|seen| !seen.from_server);
        let request: usize = before_answer.map(|seen| seen.bytes).sum();
        sent.entry(request).or_insert_with(Vec::new).push(prompt);

        body["stream"] = json!(false);
        let answer = http.post("/v1/chat/completions", &body).await;
        assert!(answer.text().ends_with('}'), "{:?}", answer.text());
        assert_eq!(answer_text(&answer.ok()), "word ".repeat(60));
        // An answer to nothing in particular is not touched.
        http.get("/v1/models").await.ok();
    }
    assert_eq!(sent.len(), 1, "{sent:?}");
}

#[tokio::test]
async fn g11_bucketed_answers_have_one_trace_for_each_length() {
    let lengths = [10, 20, 40, 80];
    let answers = (0..24)
        .map(|number| {
            let words = vec!["word "; 3 * number + 1];
            (steady(&words, Duration::from_millis(7)), Ends::Well)
        })
        .collect();
    let (server, _) = serving(answers, shape("bucketed", &lengths)).await;
    let tap = Tap::on_the_way_to(server.address).await;
    let mut raw = Raw::attested_through(tap.address, "ada").await;
    let mut traces = BTreeMap::new();
    for number in 0..24 {
        let (answer, seen) = traced(&mut raw, &tap, &play(number, true)).await;
        no_cell_is_early(&seen);
        assert!(answer.text().contains("data: [DONE]\n\n"));
        *traces.entry(from_server(&seen)).or_insert(0) += 1;
    }
    let found: Vec<usize> = traces.keys().map(Vec::len).collect();
    println!("records: {found:?}, of {lengths:?} cells and a head");
    for trace in traces.keys() {
        assert!(trace.iter().all(|bytes| *bytes == RECORD), "{trace:?}");
        let cells = u32::try_from(trace.len() - 1).unwrap();
        assert!(lengths.contains(&cells), "{cells}");
    }
    assert!(found.len() > 1, "answers of very different lengths");
}

#[tokio::test]
async fn s27_speculation_and_batch_load_do_not_show() {
    // The same words: one at a time, in bursts as an accepted draft gives them, in fits and starts, and all at the end.
    let words: Vec<String> = (0..48).map(|number| format!("w{number} ")).collect();
    let at = |times: &dyn Fn(usize) -> u64| -> Vec<Played> {
        let words = words.iter().enumerate();
        let played = words.map(|(number, word)| Played {
            at: Duration::from_millis(times(number)),
            text: word.clone(),
            tokens: 1,
        });
        played.collect()
    };
    let burst = |size: usize| -> Vec<Played> {
        let chunks = words.chunks(size).enumerate();
        let played = chunks.map(|(number, chunk)| Played {
            at: Duration::from_millis(8 * (size * number) as u64),
            text: chunk.concat(),
            tokens: chunk.len() as u64,
        });
        played.collect()
    };
    let told: Vec<Vec<Played>> = vec![
        at(&|number| 8 * number as u64),
        burst(4),
        burst(7),
        at(&|number| (number as u64 / 16) * 150),
        at(&|_| 380),
    ];
    let mut answers: Vec<_> = told
        .iter()
        .map(|played| (played.clone(), Ends::Well))
        .collect();
    let load = (0..2000).map(|n| format!("{n} ")).collect::<Vec<_>>();
    let load: Vec<&str> = load.iter().map(String::as_str).collect();
    answers.push((steady(&load, Duration::from_millis(1)), Ends::Well));
    let (server, _) = serving(answers, shape("bucketed", &[60, 120])).await;
    let tap = Tap::on_the_way_to(server.address).await;
    let mut traces = BTreeMap::new();
    for loaded in [false, true] {
        // Others of the team are answered meanwhile, over connections that he does not watch.
        let others: Vec<_> = (0..if loaded { 8 } else { 0 })
            .map(|_| {
                let address = server.address;
                tokio::spawn(async move {
                    let mut raw = Raw::attested_through(address, "bob").await;
                    raw.post("/v1/chat/completions", &play(5, true)).await;
                })
            })
            .collect();
        let mut raw = Raw::attested_through(tap.address, "ada").await;
        for (number, played) in told.iter().enumerate() {
            let (answer, seen) = traced(&mut raw, &tap, &play(number, true)).await;
            no_cell_is_early(&seen);
            assert_eq!(text_in(&events(&answer.text())), text_of(played));
            traces
                .entry(from_server(&seen))
                .or_insert_with(Vec::new)
                .push((loaded, number));
        }
        for other in others {
            other.abort();
        }
    }
    assert_eq!(traces.len(), 1, "{traces:?}");
}

#[tokio::test]
async fn an_answer_that_is_longer_than_policy_has_cells_for_ends_with_length() {
    let endless: Vec<&str> = vec!["and so on, "; 4000];
    let answers = vec![
        (steady(&endless, Duration::from_millis(1)), Ends::Well),
        (
            vec![Played {
                at: Duration::ZERO,
                text: "\u{1}é\"".repeat(9000),
                tokens: 9,
            }],
            Ends::Well,
        ),
        (
            steady(&["slowly "; 3], Duration::from_secs(3600)),
            Ends::Well,
        ),
    ];
    let expected: Vec<String> = answers.iter().map(|(played, _)| text_of(played)).collect();
    let (server, player) = serving(answers, shape("fixed", &[12])).await;
    let tap = Tap::on_the_way_to(server.address).await;
    let mut raw = Raw::attested_through(tap.address, "ada").await;
    for logprobs in [false, true] {
        for (number, expected) in expected.iter().enumerate() {
            let mut body = play(number, true);
            body["logprobs"] = json!(logprobs);
            body["stream_options"] = json!({"include_usage": true});
            let (answer, seen) = traced(&mut raw, &tap, &body).await;
            assert_eq!(from_server(&seen), vec![RECORD; 13]);
            let events = events(&answer.text());
            assert_eq!(finish_in(&events), "length");
            assert!(events.last().unwrap()["usage"].is_object());
            let text = text_in(&events);
            assert!(
                expected.starts_with(&text) && text.len() < expected.len(),
                "{text}"
            );
            assert!(number == 2 || !text.is_empty());

            body = play(number, false);
            body["logprobs"] = json!(logprobs);
            let (answer, _) = traced(&mut raw, &tap, &body).await;
            let document = answer.ok();
            assert_eq!(document["choices"][0]["finish_reason"], "length");
            let text = answer_text(&document);
            assert!(expected.starts_with(text) && text.len() < expected.len());
            if logprobs && number != 2 {
                let told = document["choices"][0]["logprobs"]["content"]
                    .as_array()
                    .unwrap();
                let told: usize = told
                    .iter()
                    .map(|one| one["bytes"].as_array().unwrap().len())
                    .sum();
                assert!(
                    told <= text.len(),
                    "{told} bytes are told of {}",
                    text.len()
                );
            }
        }
    }
    soon("the model was let go", || {
        player.playing.load(Ordering::SeqCst) == 0
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_filled_up_and_then_cut() {
    let answers = vec![
        (steady(&["a ", "b "], Duration::ZERO), Ends::Failing),
        (steady(&["a ", "b "], Duration::ZERO), Ends::Well),
    ];
    let (server, _) = serving(answers, shape("fixed", &[10])).await;
    let tap = Tap::on_the_way_to(server.address).await;
    let mut traces = Vec::new();
    for number in [1, 0] {
        let mut raw = Raw::attested_through(tap.address, "ada").await;
        tap.take();
        raw.send(
            "POST",
            "/v1/chat/completions",
            play(number, true).to_string().as_bytes(),
        )
        .await
        .unwrap();
        assert_eq!(raw.head().await.unwrap().status, 200);
        if number == 0 {
            let text = raw.until_cut().await;
            let events = events(&text);
            error_object(events.last().unwrap().clone(), "internal_error");
            assert_eq!(text_in(&events), "a b ");
        } else {
            while raw.chunk().await.unwrap().is_some() {}
        }
        let mut trace = from_server(&tap.take());
        // What closes the connection is no record of the answer.
        trace.retain(|bytes| *bytes == RECORD);
        traces.push(trace);
        // Not asked for as a stream it is an error, as long as an answer.
        let mut raw = Raw::attested_through(tap.address, "ada").await;
        let (answer, seen) = traced(&mut raw, &tap, &play(number, false)).await;
        assert_eq!(answer.status, if number == 0 { 500 } else { 200 });
        traces.push(from_server(&seen));
    }
    assert_eq!(traces[0], traces[2]);
    assert_eq!(traces[1], traces[3]);
}

#[tokio::test]
async fn a_reader_that_leaves_or_stands_still_ends_a_shaped_answer() {
    let words = vec!["word "; 100_000];
    let answers = vec![(steady(&words, Duration::from_micros(100)), Ends::Well)];
    let player = Arc::new(Player {
        answers,
        ..Player::default()
    });
    let server = Server::start(Setup {
        guard: Some(serde_json::from_value(shape("bucketed", &[3000])).unwrap()),
        generator: Some(player.clone()),
        api: Limits {
            reader_s_max: 1,
            ..Limits::default()
        },
        ..Setup::default()
    })
    .await;
    for stream in [true, false] {
        let mut raw = Raw::attested(&server, "ada").await;
        let body = play(0, stream).to_string();
        raw.send("POST", "/v1/chat/completions", body.as_bytes())
            .await
            .unwrap();
        soon("it began", || player.playing.load(Ordering::SeqCst) == 1).await;
        drop(raw);
        soon("it ended", || player.playing.load(Ordering::SeqCst) == 0).await;
    }
}

#[tokio::test]
async fn an_open_team_gets_what_it_always_got() {
    let answers = || {
        vec![(
            steady(&["one ", "two "], Duration::from_millis(30)),
            Ends::Well,
        )]
    };
    let mut texts = Vec::new();
    for guard in [json!({}), shape("open", &[])] {
        let (server, _) = serving(answers(), guard).await;
        let tap = Tap::on_the_way_to(server.address).await;
        let mut raw = Raw::attested_through(tap.address, "ada").await;
        let (answer, seen) = traced(&mut raw, &tap, &play(0, true)).await;
        assert_eq!(answer.header("x-casemate-cells"), None);
        let text = answer.text();
        assert!(
            text.split("\n\n")
                .all(|event| event.is_empty() || event.starts_with("data: "))
        );
        // Each event is a chunk, whose record is as long as it: nothing is filled up.
        let sizes = from_server(&seen);
        for event in text.split_inclusive("\n\n") {
            let chunk = format!("{:X}\r\n{event}\r\n", event.len()).len() + 22;
            let with_end = chunk + "0\r\n\r\n".len();
            let found = sizes
                .iter()
                .any(|bytes| *bytes == chunk || *bytes == with_end);
            // Events that come at once may share a record; those of the words come alone.
            assert!(
                found || !event.contains("one ") && !event.contains("two "),
                "{sizes:?}"
            );
        }
        // All but the answer's id and time is the same.
        let same = |mut event: Value| {
            event["id"] = json!("");
            event["created"] = json!(0);
            event
        };
        texts.push(events(&text).into_iter().map(same).collect::<Vec<_>>());
        let (whole, _) = traced(&mut raw, &tap, &play(0, false)).await;
        assert!(whole.header("content-length").is_some());
        assert!(whole.text().ends_with('}'));
    }
    assert_eq!(texts[0], texts[1]);
}

#[tokio::test]
async fn g11_many_at_once_keep_their_pace_and_their_text() {
    let answers: Vec<_> = (0..16)
        .map(|number| {
            let words: Vec<String> = (0..30).map(|n| format!("{number}-{n} ")).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            (steady(&words, Duration::from_millis(3)), Ends::Well)
        })
        .collect();
    let expected: Vec<String> = answers.iter().map(|(played, _)| text_of(played)).collect();
    let (server, _) = serving(answers, shape("fixed", &[20])).await;
    let client = Wishes::of(server.address).client();
    let connection = client.attest().await.unwrap();
    let ask = async |number: usize| {
        let request = chat_request(&format!("play {number}"), true);
        let answer = connection.fetch(request, 1 << 20).await.unwrap();
        let text = String::from_utf8(answer.into_body().to_vec()).unwrap();
        assert_eq!(text.len(), 20 * 512);
        assert_eq!(text_in(&events(&text)), expected[number]);
    };
    join_all((0..16).map(ask)).await;
}

#[test]
fn what_the_tap_counts() {
    let at = std::time::Instant::now();
    let seen = [(true, 550), (false, 7), (true, 3)];
    let seen = seen.map(|(from_server, bytes)| Seen {
        at,
        from_server,
        bytes,
    });
    assert_eq!(from_server(&seen), [550, 3]);
    assert_eq!(to_server(&seen), 7);
}
