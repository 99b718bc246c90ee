//! The wording of a shared template: two officers together open the scaffold, and never a slot; one alone opens nothing.

use casemate::policy::GuardPolicy;
use serde_json::{Value, json};

use crate::guard::{acting, guarded, scaffold};
use crate::harness::{PROMPT_MARKER, Server};
use crate::organisation::principal;
use crate::raw::{Answer, Raw};

const DISCLOSE: &str = "/guard/disclose";

fn disclosing() -> GuardPolicy {
    GuardPolicy {
        officers: ["olga", "otto"]
            .map(|name| principal(name).parse().unwrap())
            .into(),
        disclosure: true,
        ..acting()
    }
}

/// Prompts of one scaffold, of 25 identities in turn.
async fn crawled(guard: GuardPolicy, prompts: usize) -> Server {
    let server = guarded(guard).await;
    let mut raws = Vec::new();
    for n in 0..25 {
        raws.push(Raw::attested(&server, &format!("hydra{n}")).await);
    }
    for n in 0..prompts {
        raws[n % 25].chat(&scaffold(n)).await;
        // On a busy machine the guard's thread comes behind, and would learn which words to keep after the last prompt.
        if n % 10 == 9 {
            server.service.sentry().flush().await.unwrap();
        }
    }
    server.service.sentry().flush().await.unwrap();
    server
}

async fn shared(officer: &mut Raw) -> Value {
    let status = officer.get("/guard/status").await.ok();
    status["status"]["shared"][0].clone()
}

fn refused(answer: Answer, why: &str) {
    let error = answer.error(403, "policy_denied");
    assert_eq!(error["param"], "family");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(why), "{message}");
}

#[tokio::test]
async fn two_officers_open_the_scaffold_and_no_slot_and_both_are_on_record() {
    let server = crawled(disclosing(), 60).await;
    let mut olga = Raw::attested(&server, "olga").await;
    let mut otto = Raw::attested(&server, "otto").await;
    let family = shared(&mut olga).await;
    assert!(family["shingles"].as_u64().unwrap() >= 5, "{family}");
    let about = json!({"family": family["reference"]});

    let asked = olga.post(DISCLOSE, &about).await.ok();
    assert!(
        asked["waiting"].is_string() && asked["shingles"].is_null(),
        "{asked}"
    );
    for _ in 0..2 {
        refused(olga.post(DISCLOSE, &about).await, "another officer");
    }
    let mut hydra = Raw::attested(&server, "hydra1").await;
    let stranger = hydra.post(DISCLOSE, &about).await;
    stranger.error(403, "policy_denied");

    let opened = otto.post(DISCLOSE, &about).await.ok();
    assert_eq!(opened["second"], principal("olga"));
    let words = opened["shingles"].as_array().unwrap();
    assert!(words.len() >= 5, "{opened}");
    // What all prompts of these tests end with is wording of all of them, too.
    let template = scaffold(0);
    let (scaffold, _) = template.split_once(" a0").unwrap();
    let marker = PROMPT_MARKER.to_lowercase().replace('-', " ");
    for words in words {
        let words = words.as_str().unwrap();
        assert!(
            scaffold.contains(words) || marker.contains(words),
            "{words}"
        );
    }
    let of = |kind: &str| {
        let records = server.audit().into_iter();
        records
            .filter(|one| one["kind"] == kind)
            .collect::<Vec<_>>()
    };
    let (asked, disclosed) = (of("guard_disclosure_asked"), of("guard_disclosed"));
    assert_eq!((asked.len(), disclosed.len()), (1, 1));
    assert_eq!(asked[0]["officer"], principal("olga"));
    assert_eq!(disclosed[0]["officer"], principal("otto"));
    assert_eq!(disclosed[0]["second"], principal("olga"));
    assert_eq!(disclosed[0]["family"], about["family"]);
    assert!(
        !server.audit_text().contains("plain words"),
        "records hold no wording"
    );
    // It is opened once: whoever wants it again needs a second person again.
    assert!(otto.post(DISCLOSE, &about).await.ok()["waiting"].is_string());
}

#[tokio::test]
async fn what_has_not_tripped_is_too_rare_or_is_not_granted_is_refused_by_name() {
    // Twenty-one prompts are a family, and none of its wording was counted twenty times yet.
    let server = crawled(disclosing(), 21).await;
    let mut olga = Raw::attested(&server, "olga").await;
    let family = shared(&mut olga).await;
    assert_eq!(family["shingles"], 0);
    let about = json!({"family": family["reference"]});
    refused(olga.post(DISCLOSE, &about).await, "20 distinct prompts");
    let unknown = json!({"family": "0000000000000000"});
    refused(olga.post(DISCLOSE, &unknown).await, "has tripped");
    let malformed = olga.post(DISCLOSE, &json!({"principal": "x"})).await;
    assert_eq!(malformed.error(400, "invalid_value")["param"], "body");
    olga.get(DISCLOSE).await.error(405, "method_not_allowed");

    let closed = GuardPolicy {
        disclosure: false,
        ..disclosing()
    };
    let server = crawled(closed, 60).await;
    let mut olga = Raw::attested(&server, "olga").await;
    let family = shared(&mut olga).await;
    assert_eq!(family["shingles"], 0, "nothing is kept");
    let about = json!({"family": family["reference"]});
    refused(olga.post(DISCLOSE, &about).await, "does not grant");
}

#[tokio::test]
async fn what_cannot_be_recorded_is_not_opened() {
    let server = crawled(disclosing(), 60).await;
    let mut olga = Raw::attested(&server, "olga").await;
    let mut otto = Raw::attested(&server, "otto").await;
    let about = json!({"family": shared(&mut olga).await["reference"]});
    assert!(olga.post(DISCLOSE, &about).await.ok()["waiting"].is_string());
    otto.get("/guard/status").await.ok();
    server.break_audit();
    let answer = otto.post(DISCLOSE, &about).await;
    assert_eq!(answer.status, 500, "{}", answer.text());
    assert!(!answer.text().contains("plain words"));
}
