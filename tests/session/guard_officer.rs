//! What officers of the guard see and decide, and that nobody else does.

use casemate::guard::Step;
use casemate::policy::{GuardMode, GuardPolicy};
use serde_json::{Value, json};

use crate::guard::{ONE_ALARM, acting, crawl, guarded};
use crate::harness::Server;
use crate::organisation::principal;
use crate::raw::Raw;

fn about(member: &str) -> Value {
    json!({"principal": principal(member)})
}

fn to(member: &str, step: &str) -> Value {
    json!({"principal": principal(member), "to": step})
}

async fn crawled() -> Server {
    let server = guarded(acting()).await;
    crawl(&mut Raw::attested(&server, "mallory").await, 0, ONE_ALARM).await;
    server.recorded("guard_step", "undeclared-workload").await;
    server
}

#[tokio::test]
async fn an_officer_sees_who_stands_where_and_why() {
    let server = crawled().await;
    let mut olga = Raw::attested(&server, "olga").await;
    let status = olga.get("/guard/status").await.ok();
    assert_eq!(status["mode"], "on");
    let standing = &status["status"]["standing"];
    assert_eq!(standing.as_array().unwrap().len(), 1);
    assert_eq!(standing[0]["principal"], principal("mallory"));
    assert_eq!(standing[0]["step"], "options_withheld");
    let given = &status["status"]["given"][0];
    assert!(
        given["tokens"].as_u64().unwrap() > 18 && given["told_bits"] == 0,
        "{given}"
    );
    let explained = olga.post("/guard/explain", &about("mallory")).await.ok();
    assert_eq!(explained["reason"], "undeclared-workload");
    assert_eq!(explained["prompts_band"], 16);
    assert_eq!(explained["reference"], standing[0]["reference"]);
    let stranger = olga.post("/guard/explain", &about("ada")).await.ok();
    assert_eq!(
        (&stranger["step"], &stranger["given"]),
        (&json!("open"), &json!([]))
    );
}

#[tokio::test]
async fn an_officer_releases_and_the_record_names_him() {
    let server = crawled().await;
    let mut olga = Raw::attested(&server, "olga").await;
    let released = olga
        .post("/guard/release", &to("mallory", "open"))
        .await
        .ok();
    assert_eq!(
        (&released["from"], &released["to"]),
        (&json!("options_withheld"), &json!("open"))
    );
    let records = server.audit();
    let decided = records
        .iter()
        .find(|record| record["kind"] == "guard_decided")
        .unwrap();
    assert_eq!(decided["officer"], principal("olga"));
    assert_eq!(decided["principal"], principal("mallory"));
    assert_eq!(server.standing("mallory"), Step::Open);
    let again = olga.post("/guard/release", &to("mallory", "open")).await;
    assert_eq!(again.error(400, "invalid_value")["param"], "to");
    olga.post("/guard/release", &to("mallory", "closed"))
        .await
        .ok();
    assert_eq!(server.standing("mallory"), Step::Closed);
}

#[tokio::test]
async fn what_cannot_be_recorded_is_not_decided() {
    let server = crawled().await;
    let mut olga = Raw::attested(&server, "olga").await;
    olga.get("/guard/status").await.ok();
    server.break_audit();
    let answer = olga.post("/guard/release", &to("mallory", "open")).await;
    assert_eq!(answer.status, 500, "{}", answer.text());
    assert_eq!(server.standing("mallory"), Step::OptionsWithheld);
}

#[tokio::test]
async fn nobody_else_sees_or_decides_anything() {
    let server = crawled().await;
    let mut mallory = Raw::attested(&server, "mallory").await;
    mallory
        .get("/guard/status")
        .await
        .error(403, "policy_denied");
    let asked = mallory.post("/guard/explain", &about("olga")).await;
    asked.error(403, "policy_denied");
    let released = mallory.post("/guard/release", &to("mallory", "open")).await;
    released.error(403, "policy_denied");
    assert_eq!(server.standing("mallory"), Step::OptionsWithheld);
    let unnamed = guarded(GuardPolicy {
        mode: GuardMode::On,
        ..GuardPolicy::default()
    })
    .await;
    let mut olga = Raw::attested(&unnamed, "olga").await;
    let error = olga.get("/guard/status").await.error(403, "policy_denied");
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("not among the guard's officers")
    );
}

#[tokio::test]
async fn questions_that_are_none_are_named() {
    let server = crawled().await;
    let mut olga = Raw::attested(&server, "olga").await;
    for body in [
        json!({}),
        json!({"principal": "x"}),
        json!({"principal": principal("ada"), "more": 1}),
    ] {
        let error = olga
            .post("/guard/explain", &body)
            .await
            .error(400, "invalid_value");
        assert_eq!(error["param"], "body");
    }
    let elsewhere = json!({"principal": "spiffe://elsewhere/x", "to": "open"});
    let error = olga
        .post("/guard/release", &elsewhere)
        .await
        .error(400, "invalid_value");
    assert_eq!(error["param"], "principal");
    let own = olga.post("/guard/release", &to("olga", "open")).await;
    assert_eq!(own.error(403, "policy_denied")["param"], "principal");
    olga.post("/guard/status", &json!({}))
        .await
        .error(405, "method_not_allowed");
    olga.get("/guard/release")
        .await
        .error(405, "method_not_allowed");
}
