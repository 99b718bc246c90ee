//! What was given is counted by principal, team and everybody, and nothing that a caller or a host can do takes it back.

use std::fs;
use std::sync::Arc;

use casemate::guard::{Allowance, Holder, Step};
use casemate::policy::{GuardPolicy, LeakBudgets, TeamAllowance};
use casemate::sentry::{Floor, Given};
use serde_json::json;

use crate::guard::{CHAT, ONE_ALARM, acting, crawl, new_key, refused};
use crate::harness::{Server, Setup};
use crate::organisation::{model, principal};
use crate::raw::{Raw, chat};

fn allowance(bits: u64) -> Allowance {
    Allowance {
        bits: Some(bits),
        ..Allowance::default()
    }
}

fn budget(each: u64, shared: u64) -> GuardPolicy {
    let team = TeamAllowance {
        shared: allowance(shared),
        each: allowance(each),
    };
    GuardPolicy {
        budgets: LeakBudgets {
            teams: [("writers".parse().unwrap(), team)].into(),
            ..LeakBudgets::default()
        },
        ..acting()
    }
}

/// Asks until nothing more is given; how many answers there were.
async fn exhaust(raw: &mut Raw) -> usize {
    for answers in 0..100 {
        let answer = raw.chat("one two three").await;
        if answer.status == 429 {
            refused(answer, 429, "guard_budget_spent");
            return answers;
        }
        answer.ok();
    }
    panic!("the budget has no end");
}

async fn spent(raw: &mut Raw) {
    refused(raw.chat("one two three").await, 429, "guard_budget_spent");
}

#[tokio::test]
async fn s07_reconnecting_a_new_key_a_second_connection_and_a_restart_reset_no_budget() {
    let setup = |ledger: &Arc<tempfile::TempDir>, generation| Setup {
        guard: Some(budget(12, 1000)),
        ledger: Arc::clone(ledger),
        floor: Floor {
            generation,
            ..Floor::default()
        },
        ..Setup::default()
    };
    let ledger = Arc::new(tempfile::tempdir().unwrap());
    let server = Server::start(setup(&ledger, 0)).await;
    let mut second = Raw::attested(&server, "ada").await;
    let mut first = Raw::attested(&server, "ada").await;
    assert_eq!(
        exhaust(&mut first).await,
        3,
        "four tokens an answer, a bit each"
    );
    spent(&mut second).await;
    drop(first);
    spent(&mut Raw::attested(&server, "ada").await).await;
    let leaf = new_key("ada");
    let mut renewed = Raw::connect(&server, &leaf).await;
    renewed.attest(&leaf).await;
    spent(&mut renewed).await;
    Raw::attested(&server, "bob")
        .await
        .chat("one two three")
        .await
        .ok();

    let generation = server.service.sentry().floor().generation;
    drop((second, renewed));
    server.stop().await;
    let again = Server::start(setup(&ledger, generation)).await;
    spent(&mut Raw::attested(&again, "ada").await).await;
    let used = again
        .service
        .sentry()
        .used(&Holder::team("writers"), model());
    assert_eq!(used.tokens, 17, "bob's five are in it");
}

#[tokio::test]
async fn s07_other_names_of_the_team_have_what_the_team_has_left() {
    let server = crate::guard::guarded(budget(1000, 12)).await;
    assert_eq!(exhaust(&mut Raw::attested(&server, "ada").await).await, 3);
    for fresh in ["bob", "cleo", "dan"] {
        spent(&mut Raw::attested(&server, fresh).await).await;
    }
}

#[tokio::test]
async fn an_answer_ends_where_the_budget_does() {
    let server = crate::guard::guarded(budget(5, 1000)).await;
    let mut ada = Raw::attested(&server, "ada").await;
    let answer = ada
        .chat("one two three four five six seven eight")
        .await
        .ok();
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["usage"]["completion_tokens"], 5);
    spent(&mut ada).await;
}

#[tokio::test]
async fn a_probability_costs_seven_bits_and_where_those_are_spent_text_is_still_given() {
    let told = Allowance {
        told_bits: Some(60),
        ..Allowance::default()
    };
    let guard = GuardPolicy {
        budgets: LeakBudgets {
            organisation: told,
            ..LeakBudgets::default()
        },
        ..acting()
    };
    let server = crate::guard::guarded(guard).await;
    let mut ada = Raw::attested(&server, "ada").await;
    let mut body = chat("one two three", false);
    body["logprobs"] = json!(true);
    body["top_logprobs"] = json!(3);
    // Three numbers for each of four tokens are more than sixty bits: the answer ends at the third.
    let answer = ada.post(CHAT, &body).await.ok();
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    let all = server
        .service
        .sentry()
        .used(&Holder::organisation(), model());
    assert_eq!((all.contexts, all.told_millibits), (3, 3 * 3 * 7238));
    let mut bob = Raw::attested(&server, "bob").await;
    refused(bob.post(CHAT, &body).await, 429, "guard_budget_spent");
    bob.chat("one two three").await.ok();
}

#[tokio::test]
async fn s24_a_ledger_that_was_rolled_back_gives_nothing_back_and_everybody_stands_higher() {
    let ledger = Arc::new(tempfile::tempdir().unwrap());
    let setup = |floor| Setup {
        guard: Some(budget(100_000, 700)),
        ledger: Arc::clone(&ledger),
        floor,
        ..Setup::default()
    };
    let file = ledger.path().join("guard.redb");
    let server = Server::start(setup(Floor::default())).await;
    let mut mallory = Raw::attested(&server, "mallory").await;
    crawl(&mut mallory, 0, ONE_ALARM).await;
    server.recorded("guard_step", "undeclared-workload").await;
    drop(mallory);
    server.stop().await;
    let old = fs::read(&file).unwrap();

    let server = Server::start(setup(Floor::default())).await;
    let before = server.standing("mallory");
    assert_eq!(
        before,
        Step::OptionsWithheld,
        "a restart takes no step back, and none is added"
    );
    let mut bob = Raw::attested(&server, "bob").await;
    for _ in 0..200 {
        if bob.chat("one two three").await.status == 429 {
            break;
        }
    }
    spent(&mut bob).await;
    // What the broker holds is what was written: at most a second old.
    server.service.sentry().flush().await.unwrap();
    let floor = server.service.sentry().floor();
    drop(bob);
    server.stop().await;

    fs::write(&file, old).unwrap();
    let server = Server::start(setup(floor)).await;
    assert_eq!(server.standing("mallory"), Step::ReasoningWithheld);
    assert_eq!(
        server.standing("bob"),
        Step::OptionsWithheld,
        "of whom nothing is known"
    );
    spent(&mut Raw::attested(&server, "cleo").await).await;
    let used = server
        .service
        .sentry()
        .used(&Holder::team("writers"), model());
    assert!(used.millibits >= 700_000, "{used:?}");
    let name = principal("dan").parse().unwrap();
    let explained = server.service.sentry().explain(name).await.unwrap();
    assert_eq!(explained.step, Step::OptionsWithheld);
}

#[tokio::test]
async fn s24_a_ledger_that_is_gone_is_no_first_start() {
    let known = Given {
        millibits: 20_000,
        ..Given::default()
    };
    let given = vec![((Holder::team("writers"), model()), known)];
    let server = Server::start(Setup {
        guard: Some(budget(15, 1000)),
        floor: Floor {
            generation: 7,
            given,
        },
        ..Setup::default()
    })
    .await;
    let mut ada = Raw::attested(&server, "ada").await;
    refused(ada.chat("one two three").await, 429, "guard_budget_spent");
    let mut seeded = chat("one two", false);
    seeded["logit_bias"] = json!({"7": 1});
    refused(ada.post(CHAT, &seeded).await, 403, "guard_withheld");
}
