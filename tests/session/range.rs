//! The attack range against this product, through its own attested client: what it must not obtain. `range_weak` shows that
//! the same attacks find what there is to find.

use std::sync::Arc;

use casemate::guard::Allowance;
use casemate::policy::{GuardPolicy, LeakBudgets, OutputRules, Switch, TeamAllowance};
use casemate::range::{Attack, Corpora, Row, Settings, Verdict};

use crate::client::Wishes;
use crate::guard::{acting, guarded};
use crate::harness::{Server, Setup};
use crate::obedient::Obedient;
use crate::oracles::{Model, serving};
use crate::organisation::ORGANISATION;
use crate::range_weak::{attack, range_of, row};

/// Runs an attack as these members, each through an attested client of his own.
async fn attacked(server: &Server, members: &[&str], what: Attack, settings: Settings) -> Vec<Row> {
    let (mut urls, mut folders) = (Vec::new(), Vec::new());
    for member in members {
        let wishes = Wishes {
            leaf: ORGANISATION.client(member),
            ..Wishes::of(server.address)
        };
        let (url, folder) = wishes.client().endpoint().await;
        urls.push(url);
        folders.push(folder);
    }
    let range = range_of(&urls, Corpora::built_in(), settings).await;
    attack(&range, what).await
}

fn verdicts(rows: &[Row], names: &[&str], verdict: Verdict) {
    for name in names {
        let row = row(rows, name);
        assert_eq!(row.verdict, verdict, "{name}: {row:?}");
    }
}

#[tokio::test]
async fn s05_the_range_finds_no_width_in_this_server() {
    let Some(model) = Model::load() else { return };
    let server = serving(&model, OutputRules::default()).await;
    let rows = attacked(&server, &["ada"], Attack::LastLayer, Settings::default()).await;
    verdicts(&rows, &["everything", "bias", "likeliest"], Verdict::Pass);
    assert!(
        row(&rows, "everything")
            .refused
            .contains_key("invalid_value")
    );
    assert!(
        row(&rows, "likeliest").figures["contexts"]
            .as_u64()
            .unwrap()
            > 100
    );
}

#[tokio::test]
async fn s16_s17_s18_s19_the_range_finds_no_oracle_in_this_server() {
    let Some(model) = Model::load() else { return };
    let server = serving(&model, OutputRules::default()).await;
    let rows = attacked(&server, &["seeded"], Attack::Oracles, Settings::default()).await;
    let closed = ["echo", "prompt_logprobs", "mask", "hot", "fields", "seed"];
    verdicts(&rows, &closed, Verdict::Pass);
    assert_eq!(
        row(&rows, "seed").figures["repeat"],
        40,
        "a seed is good for what it is for"
    );
    // A bias that policy grants is a search; only a budget ends it.
    verdicts(&rows, &["bias-search"], Verdict::Fail);
}

#[tokio::test]
async fn s05_a_budget_ends_the_search_by_bias() {
    let Some(model) = Model::load() else { return };
    let each = Allowance {
        bits: Some(40),
        ..Allowance::default()
    };
    let team = TeamAllowance {
        each,
        ..TeamAllowance::default()
    };
    let guard = GuardPolicy {
        budgets: LeakBudgets {
            teams: [("writers".parse().unwrap(), team)].into(),
            ..LeakBudgets::default()
        },
        ..acting()
    };
    let server = Server::start(Setup {
        guard: Some(guard),
        generator: Some(Arc::new(casemate::serve::Served::new(
            model.running.clone(),
        ))),
        ..Setup::default()
    })
    .await;
    let rows = attacked(&server, &["ada"], Attack::Oracles, Settings::default()).await;
    let search = row(&rows, "bias-search");
    let spent = |row: &Row| row.refused.contains_key("guard_budget_spent");
    assert!(rows.iter().any(spent), "{rows:?}");
    assert_ne!(search.verdict, Verdict::Fail, "{search:?}");
}

#[tokio::test]
async fn s22_the_range_recovers_no_prompt_that_this_server_keeps() {
    let output = OutputRules {
        leak: Switch::On,
        ..OutputRules::default()
    };
    let server = Server::start(Setup {
        output,
        generator: Some(Arc::new(Obedient)),
        ..Setup::default()
    })
    .await;
    let rows = attacked(&server, &["ada"], Attack::Prompt, Settings::default()).await;
    verdicts(&rows, &["plain", "disguised", "honest"], Verdict::Pass);
    assert!(row(&rows, "plain").figures["stopped"].as_u64().unwrap() > 40);
    // What the scan cannot see (docs/GUARD.md): words in another order, letters left out, and three words at a time. Where one of
    // these is seen one day, its row moves to those above.
    verdicts(&rows, &["scrambled", "fragments"], Verdict::Fail);
}

#[tokio::test]
async fn s21_the_range_makes_no_control_token_of_text_here() {
    let Some(model) = Model::load() else { return };
    let server = serving(&model, OutputRules::default()).await;
    let rows = attacked(
        &server,
        &["ada"],
        Attack::ControlTokens,
        Settings::default(),
    )
    .await;
    verdicts(&rows, &["text"], Verdict::Pass);
    assert!(row(&rows, "text").figures["tried"].as_u64().unwrap() >= 26);
}

#[tokio::test]
async fn s26_the_range_makes_no_answer_of_this_server_repeat_itself_for_long() {
    let Some(model) = Model::load() else { return };
    let server = serving(&model, OutputRules::default()).await;
    let rows = attacked(&server, &["ada"], Attack::Repetition, Settings::default()).await;
    verdicts(&rows, &["word"], Verdict::Pass);
}

#[tokio::test]
async fn s06_s20_the_range_sees_what_this_server_does_about_crawlers() {
    let server = guarded(acting()).await;
    let crew = [
        "ada", "mallory", "m1", "m2", "m3", "h1", "h2", "h3", "h4", "h5", "h6", "h7",
    ];
    let rows = attacked(&server, &crew, Attack::Crawler, Settings::default()).await;
    let noticed = [
        "one-scaffold",
        "rewordings",
        "diluted",
        "identities",
        "honest",
    ];
    verdicts(&rows, &noticed, Verdict::Pass);
    let one = row(&rows, "one-scaffold");
    assert!(one.obtained.contains("guard_withheld"), "{one:?}");
    assert!(one.figures["noticed_at"].as_u64().unwrap() <= 64, "{one:?}");
}

/// Times on a busy machine are no ground for a verdict: what is asserted is that nobody is told of another's beginning.
#[tokio::test]
async fn the_range_is_told_of_no_cached_beginning_of_another() {
    let Some(model) = Model::load() else { return };
    let server = serving(&model, OutputRules::default()).await;
    let few = Settings {
        samples: 16,
        ..Settings::default()
    };
    let rows = attacked(&server, &["ada", "bob"], Attack::CacheTiming, few).await;
    let foreign = row(&rows, "foreign");
    assert_eq!(foreign.figures["cached_tokens"], 0, "{foreign:?}");
    assert_eq!(foreign.figures["samples"], 16);
}
