//! The extraction guard through the server: who is asked about, what is withheld, and what is never done: answer falsely.

use std::collections::BTreeMap;

use casemate::guard::{Measures, Step, Template};
use casemate::policy::{Climb, GuardMode, GuardPolicy, Owner, Workload};
use casemate_attestation::UnixTime;
use serde_json::{Value, json};

use crate::harness::{Server, Setup};
use crate::organisation::{Leaf, ORGANISATION, now, principal};
use crate::raw::{Answer, Raw, answer_text, chat};

pub const CHAT: &str = "/v1/chat/completions";

/// A guard that acts at once: steps follow their alarm without delay.
pub fn acting() -> GuardPolicy {
    GuardPolicy {
        mode: GuardMode::On,
        officers: vec![principal("olga").parse().unwrap()],
        pace: Climb {
            delay_prompts_max: 0,
            ..Climb::default()
        },
        withhold: Measures {
            wait_milliseconds: 0,
            ..Measures::default()
        },
        ..GuardPolicy::default()
    }
}

pub async fn guarded(guard: GuardPolicy) -> Server {
    Server::start(Setup {
        guard: Some(guard),
        ..Setup::default()
    })
    .await
}

/// Prompts of a scaffold after which there was one alarm, and not yet a second one.
pub const ONE_ALARM: usize = 18;

/// One scaffold around words that never come again.
pub fn scaffold(n: usize) -> String {
    format!("explain in many small steps and plain words why a{n} b{n} c{n} d{n}")
}

/// A question that shares nothing with any other.
fn plain(n: usize) -> String {
    format!("x{n}p x{n}q x{n}r x{n}s x{n}t x{n}u?")
}

pub async fn crawl(raw: &mut Raw, from: usize, count: usize) {
    for n in from..from + count {
        raw.chat(&scaffold(n)).await.ok();
    }
}

fn asking(name: &str, value: Value) -> Value {
    let mut body = chat("one two", false);
    body[name] = value;
    body
}

/// The refusal, which must be final and say nothing about its reason.
pub fn refused(answer: Answer, status: u16, code: &str) -> Value {
    assert_eq!(answer.header("x-should-retry"), Some("false"));
    assert_eq!(answer.header("retry-after"), None);
    let error = answer.error(status, code);
    let message = error["message"].as_str().unwrap();
    for word in [
        "template", "workload", "crawl", "extract", "step", "shared", "suspic",
    ] {
        assert!(!message.contains(word), "{message}");
    }
    error
}

#[tokio::test]
async fn s06_a_crawler_loses_its_options_within_64_prompts_and_its_neighbour_none() {
    let server = guarded(acting()).await;
    let mut mallory = Raw::attested(&server, "mallory").await;
    let mut ada = Raw::attested(&server, "ada").await;
    mallory
        .post(CHAT, &asking("logprobs", json!(true)))
        .await
        .ok();
    for n in 0..64 {
        mallory.chat(&scaffold(n)).await.ok();
        ada.chat(&plain(n)).await.ok();
    }
    let record = server.recorded("guard_step", "undeclared-workload").await;
    assert_eq!(record["principal"], principal("mallory"));
    assert_eq!(
        (&record["from"], &record["to"]),
        (&json!("open"), &json!("options_withheld"))
    );
    assert_eq!(record["shadow"], false);
    let answer = mallory.post(CHAT, &asking("logprobs", json!(true))).await;
    let error = refused(answer, 403, "guard_withheld");
    assert_eq!(error["param"], "logprobs");
    let message = error["message"].as_str().unwrap();
    let told = |record: &Value| {
        let reference = record["reference"].as_str().unwrap_or("?");
        record["kind"] == "guard_step" && message.contains(reference)
    };
    assert!(server.audit().iter().any(told), "{error}");
    let bias = mallory
        .post(CHAT, &asking("logit_bias", json!({"7": 1})))
        .await;
    assert_eq!(refused(bias, 403, "guard_withheld")["param"], "logit_bias");
    ada.post(CHAT, &asking("logprobs", json!(true))).await.ok();
    let steps = server
        .audit()
        .into_iter()
        .filter(|record| record["kind"] == "guard_step");
    assert!(
        steps
            .into_iter()
            .all(|step| step["principal"] == principal("mallory"))
    );
    server.refused("guard_withheld").await;
}

#[tokio::test]
async fn what_is_answered_on_a_step_is_what_the_model_said() {
    let guard = GuardPolicy {
        withhold: Measures {
            output_tokens_max: 3,
            wait_milliseconds: 0,
            ..Measures::default()
        },
        ..acting()
    };
    let server = guarded(guard).await;
    let mut mallory = Raw::attested(&server, "mallory").await;
    let before = mallory.chat("one two").await.ok();
    crawl(&mut mallory, 0, 30).await;
    server.recorded("guard_step", "undeclared-workload").await;
    let after = mallory.chat("one two").await.ok();
    assert_eq!(answer_text(&after), answer_text(&before), "no false answer");
    assert_eq!(server.model.tokens_max(), 3, "and shorter");
}

#[tokio::test]
async fn s06_in_shadow_everything_is_recorded_and_nothing_is_withheld() {
    let guard = GuardPolicy {
        mode: GuardMode::Shadow,
        ..acting()
    };
    let server = guarded(guard).await;
    let mut mallory = Raw::attested(&server, "mallory").await;
    crawl(&mut mallory, 0, 64).await;
    let record = server.recorded("guard_step", "undeclared-workload").await;
    assert_eq!(record["shadow"], true);
    mallory
        .post(CHAT, &asking("logprobs", json!(true)))
        .await
        .ok();
}

#[tokio::test]
async fn where_policy_has_it_off_nothing_is_watched() {
    let guard = GuardPolicy {
        mode: GuardMode::Off,
        ..acting()
    };
    let server = guarded(guard).await;
    let mut mallory = Raw::attested(&server, "mallory").await;
    crawl(&mut mallory, 0, 64).await;
    let status = server.service.sentry().status(0).await.unwrap();
    assert_eq!((status.principals, status.given.len()), (0, 0));
    assert!(!server.audit_text().contains("guard_step"));
}

#[tokio::test]
async fn a_conversation_is_judged_by_what_the_user_asks_last() {
    let server = guarded(acting()).await;
    let mut ada = Raw::attested(&server, "ada").await;
    for n in 0..64 {
        let mut body = chat(&plain(n), false);
        body["messages"] = json!([
            {"role": "system", "content": scaffold(n)},
            {"role": "user", "content": scaffold(n + 1000)},
            {"role": "assistant", "content": scaffold(n + 2000)},
            {"role": "user", "content": plain(n)},
        ]);
        ada.post(CHAT, &body).await.ok();
    }
    server.service.sentry().flush().await.unwrap();
    assert!(!server.audit_text().contains("guard_step"));
}

#[tokio::test]
async fn s20_one_scaffolded_prompt_from_each_of_25_identities_is_a_family_that_day() {
    let server = guarded(acting()).await;
    for n in 0..25 {
        let mut raw = Raw::attested(&server, &format!("hydra{n}")).await;
        raw.chat(&plain(n)).await.ok();
        raw.chat(&scaffold(n)).await.ok();
    }
    let status = server.service.sentry().status(0).await.unwrap();
    assert_eq!(status.families, 1);
    assert!(status.principals >= 25);
    let record = server.recorded("guard_step", "shared-template").await;
    assert!(record["principal"].as_str().unwrap().contains("hydra"));
    assert_eq!(record["families_band"], 1);
}

const TEMPLATE: &str = "explain in many small steps and plain words why {{what}}";

fn declared(owner: Owner, prompts: u64, expires: UnixTime) -> GuardPolicy {
    let workload = Workload {
        owner,
        template: Template::of_text(TEMPLATE).unwrap(),
        prompts,
        window_seconds: 31 * 86_400,
        expires,
    };
    GuardPolicy {
        workloads: BTreeMap::from([("explanations".parse().unwrap(), workload)]),
        ..acting()
    }
}

fn of_ada() -> Owner {
    Owner::Principal(principal("ada").parse().unwrap())
}

async fn steps_of(server: &Server) -> usize {
    server.service.sentry().flush().await.unwrap();
    let records = server.audit().into_iter();
    records
        .filter(|record| record["kind"] == "guard_step")
        .count()
}

#[tokio::test]
async fn s23_a_declared_workload_has_an_owner_a_rate_and_an_expiry() {
    let tomorrow = now().plus(86_400);
    let server = guarded(declared(of_ada(), 70, tomorrow)).await;
    let mut ada = Raw::attested(&server, "ada").await;
    crawl(&mut ada, 0, 70).await;
    assert_eq!(steps_of(&server).await, 0, "within its rate");
    assert!(
        server.audit_text().contains("declare_workload"),
        "its use is on record"
    );
    crawl(&mut ada, 70, 64).await;
    let record = server.recorded("guard_step", "undeclared-workload").await;
    assert_eq!(record["principal"], principal("ada"), "beyond its rate");

    let mut bob = Raw::attested(&server, "bob").await;
    crawl(&mut bob, 1000, 64).await;
    let steps = steps_of(&server).await;
    let of_bob =
        |record: &Value| record["kind"] == "guard_step" && record["principal"] == principal("bob");
    assert!(
        steps > 0 && server.audit().iter().any(of_bob),
        "of another owner"
    );

    let expired = guarded(declared(of_ada(), 1000, now().minus(1))).await;
    let mut ada = Raw::attested(&expired, "ada").await;
    crawl(&mut ada, 0, 64).await;
    expired.recorded("guard_step", "undeclared-workload").await;
}

#[tokio::test]
async fn s23_what_is_declared_counts_against_the_teams_budget_all_the_same() {
    let team = Owner::Team("writers".parse().unwrap());
    let server = guarded(declared(team, 1000, now().plus(86_400))).await;
    let mut ada = Raw::attested(&server, "ada").await;
    crawl(&mut ada, 0, 10).await;
    let holder = casemate::guard::Holder::team("writers");
    let used = server
        .service
        .sentry()
        .used(&holder, crate::organisation::model());
    assert!(
        used.tokens >= 10 && used.millibits >= 1000 * used.tokens,
        "{used:?}"
    );
}

#[tokio::test]
async fn slower_and_smaller_windows_are_what_the_third_step_leaves() {
    let guard = GuardPolicy {
        withhold: Measures {
            wait_milliseconds: 300,
            window_tokens_max: 100,
            ..Measures::default()
        },
        ..acting()
    };
    let server = guarded(guard).await;
    server.place("ada", Step::Slowed).await;
    let mut ada = Raw::attested(&server, "ada").await;
    let begun = std::time::Instant::now();
    ada.chat("one two").await.ok();
    assert!(begun.elapsed().as_millis() >= 300);
    let long = ada.chat(&"many words ".repeat(20)).await;
    assert_eq!(refused(long, 403, "guard_window")["param"], "messages");
    let begun = std::time::Instant::now();
    Raw::attested(&server, "bob")
        .await
        .chat("one two")
        .await
        .ok();
    assert!(begun.elapsed().as_millis() < 300, "nobody else waits");
}

#[tokio::test]
async fn who_is_closed_gets_nothing_and_who_is_stepped_up_shows_his_machine_first() {
    let server = crate::mutual::asking_for_evidence(acting()).await;
    server.place("ada", Step::Closed).await;
    let mut ada = Raw::attested(&server, "ada").await;
    refused(ada.chat("one two").await, 403, "guard_closed");
    server.saw_nothing();
    server.place("ada", Step::SteppedUp).await;
    refused(ada.chat("one two").await, 403, "guard_step_up");
    let mut shown = crate::mutual::with_evidence(&server, "ada").await;
    shown.chat("one two").await.ok();
    // Evidence from before the step is not fresh.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    server.place("ada", Step::Closed).await;
    server.place("ada", Step::SteppedUp).await;
    refused(shown.chat("one two").await, 403, "guard_step_up");
}

/// Words that are in prompts or answers and nowhere else.
const SECRETS: [&str; 4] = [
    "quetzalcoatl",
    "MARKER-SLOT-77aa",
    "explain in many small steps",
    crate::script::ANSWER_MARKER,
];

#[tokio::test]
async fn g15_words_of_prompts_are_in_no_log_record_ledger_or_report() {
    let setup = Setup {
        guard: Some(GuardPolicy {
            counters: true,
            ..acting()
        }),
        ..Setup::default()
    };
    let ledger = std::sync::Arc::clone(&setup.ledger);
    let server = Server::start(setup).await;
    let mut mallory = Raw::attested(&server, "mallory").await;
    for n in 0..64 {
        let prompt = format!("{} quetzalcoatl{n} MARKER-SLOT-77aa", scaffold(n));
        mallory.chat(&prompt).await.ok();
    }
    server.recorded("guard_step", "undeclared-workload").await;
    let mut olga = Raw::attested(&server, "olga").await;
    let status = olga.get("/guard/status").await.ok().to_string();
    let about = json!({"principal": principal("mallory")});
    let explained = olga.post("/guard/explain", &about).await.ok().to_string();
    let error = mallory.post(CHAT, &asking("seed", json!(1))).await.text();
    let tomorrow = (crate::organisation::now().secs() / 86_400 + 1) * 86_400;
    server.service.sentry().close_day(tomorrow, 86_400).await;
    let days = olga.get("/guard/days").await.ok().to_string();
    let file = std::fs::read_to_string(ledger.path().join("days.jsonl")).unwrap();
    let floor = format!("{:?}", server.service.sentry().floor());
    server.service.sentry().flush().await.unwrap();
    let stored = std::fs::read(ledger.path().join("guard.redb")).unwrap();
    let places = [
        ("log", crate::harness::logs().text()),
        ("audit", server.audit_text()),
        ("status", status),
        ("explanation", explained),
        ("error", error),
        ("ledger", String::from_utf8_lossy(&stored).into_owned()),
        ("days", days),
        ("file of days", file),
        ("word to the broker", floor),
    ];
    for (place, text) in places {
        for secret in SECRETS {
            assert!(!text.contains(secret), "{secret} in the {place}");
        }
    }
}

/// A new key for the same principal.
pub fn new_key(member: &str) -> Leaf {
    ORGANISATION.client(member)
}
