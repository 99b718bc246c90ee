//! The attack range's eavesdropper between this product's client and its server: what he has of an open team, and what of one
//! whose answers are shaped (S4).

use std::sync::Arc;
use std::time::Duration;

use casemate::range::{Attack, Corpora, Endpoint, Range, Row, Settings, Target, Verdict, Wire};
use serde_json::Value;

use crate::client::Wishes;
use crate::player::{Ends, Played, steady};
use crate::range_weak::{attack, row};
use crate::shaped::{serving, shape};

/// Answers of each kind.
const ANSWERS: usize = 20;

/// Answers to the topic are longer, of longer words, and come slower than others.
fn answers() -> Vec<(Vec<Played>, Ends)> {
    let of = |number: usize| {
        let (words, word, gap) = match number < ANSWERS {
            true => (26 + number % 7, "considerable ", 9),
            false => (8 + number % 11, "some ", 6),
        };
        (
            steady(&vec![word; words], Duration::from_millis(gap)),
            Ends::Well,
        )
    };
    (0..2 * ANSWERS).map(of).collect()
}

async fn eavesdropped(guard: Value) -> Vec<Row> {
    let (server, _) = serving(answers(), guard).await;
    let wire = Arc::new(Wire::to(server.address.to_string()).await.unwrap());
    let (url, _folder) = Wishes::of(wire.address()).client().endpoint().await;
    let endpoint = Endpoint::new(&url, false).unwrap().watched(wire);
    let play = |numbers: std::ops::Range<usize>| numbers.map(|number| format!("play {number}"));
    let corpora = Corpora {
        topic: play(0..ANSWERS).collect(),
        honest: play(ANSWERS..2 * ANSWERS).collect(),
        ..Corpora::built_in()
    };
    let range = Range {
        target: Target::new(vec![endpoint], None).await.unwrap(),
        corpora,
        settings: Settings {
            samples: ANSWERS,
            ..Settings::default()
        },
    };
    attack(&range, Attack::Eavesdropper).await
}

fn number(row: &Row, name: &str) -> f64 {
    row.figures[name].as_f64().unwrap()
}

/// Better than chance by more than three of its errors.
fn tells_topics(topic: &Row) {
    let better = number(topic, "auc") - 0.5;
    assert!(better > 3.0 * number(topic, "standard_error"), "{topic:?}");
}

#[tokio::test]
async fn s04_the_range_tells_topics_of_open_answers_and_only_lengths_of_shaped_ones() {
    let (open, bucketed, fixed) = tokio::join!(
        eavesdropped(shape("open", &[])),
        eavesdropped(shape("bucketed", &[12, 24])),
        eavesdropped(shape("fixed", &[24])),
    );
    tells_topics(row(&open, "topic"));
    assert_eq!(row(&open, "traces").verdict, Verdict::Fail);
    for shaped in [&bucketed, &fixed] {
        assert_eq!(row(shaped, "topic").requests, 2 * ANSWERS as u32);
        assert_eq!(row(shaped, "traces").verdict, Verdict::Pass);
        assert!(number(row(shaped, "traces"), "bits") <= 1.0);
    }
    assert_eq!(row(&fixed, "traces").figures["distinct"], 1);
    let topic = row(&fixed, "topic");
    let off = (number(topic, "auc") - 0.5).abs();
    assert!(off < 4.0 * number(topic, "standard_error"), "{topic:?}");
}

#[tokio::test]
async fn the_eavesdropper_finds_topics_of_a_plain_server_by_standing_before_it() {
    let (server, _) = serving(answers(), shape("open", &[])).await;
    // Behind `connect` the way to it is plain; nobody watches the way beyond.
    let (url, _folder) = Wishes::of(server.address).client().endpoint().await;
    let corpora = Corpora {
        topic: (0..ANSWERS)
            .map(|number| format!("play {number}"))
            .collect(),
        honest: (ANSWERS..2 * ANSWERS)
            .map(|number| format!("play {number}"))
            .collect(),
        ..Corpora::built_in()
    };
    let range = crate::range_weak::range_of(&[url], corpora, Settings::default()).await;
    let rows = attack(&range, Attack::Eavesdropper).await;
    tells_topics(row(&rows, "topic"));
    assert_eq!(row(&rows, "traces").verdict, Verdict::Fail);
    // Too few answers teach nothing, and the row says so.
    let few = Settings {
        samples: 4,
        ..Settings::default()
    };
    let range = Range {
        settings: few,
        ..range
    };
    let rows = attack(&range, Attack::Eavesdropper).await;
    assert_eq!(row(&rows, "topic").verdict, Verdict::Skip);
}
