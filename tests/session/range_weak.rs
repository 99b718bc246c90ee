//! The attack range against a server that has every weakness: each attack must find its own. Without this nobody could tell a
//! server that withstands from an attack that does nothing.

use casemate::range::{Attack, Corpora, Endpoint, Limits, Range, Row, Settings, Target, Verdict};
use serde_json::Value;

use crate::weak::{Telling, WIDTH, start};

/// A range of `identities` identities before the endpoints `urls`.
pub async fn range_of(urls: &[String], corpora: Corpora, settings: Settings) -> Range {
    let endpoints = urls.iter().map(|url| Endpoint::new(url, false).unwrap());
    let target = Target::new(endpoints.collect(), None).await.unwrap();
    Range {
        target,
        corpora,
        settings,
    }
}

pub async fn attack(range: &Range, attack: Attack) -> Vec<Row> {
    let hear = |row: &Row| println!("{} {}", row.verdict.word(), row.line());
    range.run(&[attack], hear).await.unwrap()
}

pub fn row<'a>(rows: &'a [Row], name: &str) -> &'a Row {
    let found = rows.iter().find(|row| row.row == name);
    found.unwrap_or_else(|| panic!("no row {name} in {rows:?}"))
}

async fn weak(telling: Telling, what: Attack, settings: Settings) -> Vec<Row> {
    let url = start(telling).await;
    let urls = vec![url; 4];
    attack(&range_of(&urls, Corpora::built_in(), settings).await, what).await
}

fn small() -> Settings {
    Settings {
        width_max: 24,
        samples: 24,
        ..Settings::default()
    }
}

fn fails(rows: &[Row], names: &[&str]) {
    for name in names {
        assert_eq!(row(rows, name).verdict, Verdict::Fail, "{name}");
    }
}

#[tokio::test]
async fn the_range_finds_the_last_layer_of_a_server_that_tells_everything() {
    let rows = weak(Telling::Everything, Attack::LastLayer, small()).await;
    let found = row(&rows, "everything");
    assert_eq!(found.verdict, Verdict::Fail);
    assert_eq!(found.figures["hidden_size"], WIDTH);
    assert!(found.figures["gap"].as_f64().unwrap() > 1e3, "{found:?}");
}

#[tokio::test]
async fn the_range_finds_the_last_layer_by_a_bias_on_what_is_told() {
    let rows = weak(Telling::Biased, Attack::LastLayer, small()).await;
    assert_eq!(row(&rows, "everything").verdict, Verdict::Pass);
    let found = row(&rows, "bias");
    assert_eq!(found.verdict, Verdict::Fail);
    assert_eq!(found.figures["hidden_size"], WIDTH, "{found:?}");
    // Of the likeliest alone nothing can be found, whatever the server.
    let likeliest = row(&rows, "likeliest");
    assert_eq!(
        likeliest.figures["hidden_size"],
        Value::Null,
        "{likeliest:?}"
    );
    // Who knows the width is told that a found one is right, or not.
    let knowing = |width| Settings {
        width: Some(width),
        ..small()
    };
    let rows = weak(Telling::Biased, Attack::LastLayer, knowing(WIDTH)).await;
    assert_eq!(row(&rows, "bias").figures["hidden_size"], WIDTH);
    let rows = weak(Telling::Biased, Attack::LastLayer, knowing(WIDTH + 1)).await;
    assert_eq!(row(&rows, "bias").figures["hidden_size"], Value::Null);
}

#[tokio::test]
async fn the_range_finds_every_oracle() {
    let rows = weak(Telling::Biased, Attack::Oracles, small()).await;
    fails(
        &rows,
        &["echo", "mask", "hot", "fields", "seed", "bias-search"],
    );
    assert_eq!(row(&rows, "bias-search").figures["logits"], 6);
    assert!(row(&rows, "seed").figures["p"].as_f64().unwrap() < 1e-6);
    assert_eq!(
        row(&rows, "shapes").verdict,
        Verdict::Skip,
        "needs a folder"
    );
}

#[tokio::test]
async fn the_range_recovers_a_system_prompt_in_every_disguise() {
    let rows = weak(Telling::Biased, Attack::Prompt, small()).await;
    fails(&rows, &["plain", "disguised", "scrambled", "fragments"]);
    for name in ["plain", "disguised"] {
        let share = row(&rows, name).figures["share_recovered"]
            .as_f64()
            .unwrap();
        assert!(share > 0.99, "{name}: {share}");
    }
    let techniques = row(&rows, "disguised").figures["techniques"].clone();
    for technique in [
        "base64", "hex", "rot13", "shift", "reversed", "codes", "percent", "binary",
    ] {
        let list = techniques.as_array().unwrap();
        assert!(
            list.iter().any(|it| it == technique),
            "{technique}: {techniques}"
        );
    }
    assert_eq!(row(&rows, "honest").verdict, Verdict::Pass);
}

#[tokio::test]
async fn the_range_sees_control_tokens_repetitions_and_a_shared_cache() {
    let rows = weak(Telling::Biased, Attack::ControlTokens, small()).await;
    fails(&rows, &["text"]);
    let tokens = row(&rows, "text").figures["tokens"]
        .as_array()
        .unwrap()
        .len();
    assert_eq!(tokens, 5, "those that the weak server knows");
    let rows = weak(Telling::Biased, Attack::Repetition, small()).await;
    fails(&rows, &["word"]);
    assert!(row(&rows, "word").figures["bytes_after"].as_u64().unwrap() > 30);
    let rows = weak(Telling::Biased, Attack::CacheTiming, small()).await;
    fails(&rows, &["foreign"]);
    assert!(row(&rows, "foreign").figures["p"].as_f64().unwrap() < 1e-6);
}

#[tokio::test]
async fn the_range_says_so_where_nothing_is_done_about_a_crawler() {
    let rows = weak(Telling::Biased, Attack::Crawler, small()).await;
    fails(
        &rows,
        &["one-scaffold", "rewordings", "diluted", "identities"],
    );
    assert_eq!(row(&rows, "honest").verdict, Verdict::Pass);
    assert_eq!(row(&rows, "one-scaffold").figures["answered"], 96);
}

#[tokio::test]
async fn an_attack_ends_at_its_bounds_and_says_so() {
    let few = |requests, time| Settings {
        limits: Limits {
            requests,
            time,
            ..Limits::default()
        },
        ..small()
    };
    let minute = std::time::Duration::from_secs(60);
    let rows = weak(Telling::Biased, Attack::Oracles, few(3, minute)).await;
    let last = rows.last().unwrap();
    assert_eq!((last.row.as_str(), last.verdict), ("rest", Verdict::Skip));
    assert!(last.obtained.contains("--requests"), "{last:?}");
    assert!(rows.iter().map(|row| row.requests).sum::<u32>() <= 3);
    let rows = weak(
        Telling::Biased,
        Attack::Oracles,
        few(99, std::time::Duration::ZERO),
    )
    .await;
    assert!(rows[0].obtained.contains("--seconds"), "{rows:?}");
}

#[tokio::test]
async fn no_row_holds_text_of_an_answer_and_a_file_has_it_where_asked() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("answers.jsonl");
    let settings = Settings {
        answers: Some(file.clone()),
        ..small()
    };
    let rows = weak(Telling::Biased, Attack::Prompt, settings).await;
    let table = serde_json::to_string(&rows).unwrap();
    assert!(
        !table.contains("NH-22") && !table.contains("Ostara"),
        "{table}"
    );
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("NH-22"), "the answers are there");
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}
