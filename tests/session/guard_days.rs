//! Counters of a day through the server: what leaves has noise, once for each day, and few principals are nobody.

use std::fs;
use std::sync::Arc;

use casemate::policy::GuardPolicy;
use casemate::sentry::Floor;
use serde_json::{Value, json};

use crate::guard::{acting, guarded};
use crate::harness::{Server, Setup};
use crate::organisation::now;
use crate::raw::Raw;

const DAY: u64 = 86_400;

fn counting() -> GuardPolicy {
    GuardPolicy {
        counters: true,
        ..acting()
    }
}

/// The end of today, as the guard's thread finds it.
async fn midnight(server: &Server) {
    let tomorrow = (now().secs() / DAY + 1) * DAY;
    server.service.sentry().close_day(tomorrow, DAY).await;
}

async fn told(server: &Server) -> Value {
    let mut olga = Raw::attested(server, "olga").await;
    olga.get("/guard/days").await.ok()
}

#[tokio::test]
async fn g15_a_day_is_told_once_with_noise_and_few_principals_are_not_told_at_all() {
    let ledger = Arc::new(tempfile::tempdir().unwrap());
    let setup = |generation| Setup {
        guard: Some(counting()),
        ledger: Arc::clone(&ledger),
        floor: Floor {
            generation,
            ..Floor::default()
        },
        ..Setup::default()
    };
    let server = Server::start(setup(0)).await;
    let mut ada = Raw::attested(&server, "ada").await;
    for _ in 0..7 {
        ada.chat("one two three").await.ok();
    }
    assert_eq!(told(&server).await["days"], json!([]), "today is not over");
    midnight(&server).await;
    midnight(&server).await;
    let days = told(&server).await;
    assert_eq!(
        (&days["epsilon"], &days["delta"]),
        (&json!(1.0), &json!(1e-9))
    );
    let today = now().secs() / DAY * DAY;
    let expected = json!([{"begins": today, "whole": false, "principals": null, "answers": null,
        "kilotokens": null, "refused": null}]);
    assert_eq!(days["days"], expected);
    let file = fs::read_to_string(ledger.path().join("days.jsonl")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&file).unwrap(), expected[0]);
    let records = server.audit().into_iter();
    let of_days: Vec<Value> = records.filter(|one| one["kind"] == "guard_day").collect();
    assert_eq!((of_days.len(), &of_days[0]["begins"]), (1, &json!(today)));

    // A process after it tells the same, and nothing of that day again.
    let generation = server.service.sentry().floor().generation;
    drop(ada);
    server.stop().await;
    let again = Server::start(setup(generation)).await;
    Raw::attested(&again, "ada")
        .await
        .chat("one two")
        .await
        .ok();
    midnight(&again).await;
    assert_eq!(told(&again).await["days"], expected);
    assert!(!again.audit_text().contains("guard_day"));
}

#[tokio::test]
async fn where_policy_does_not_say_so_no_day_is_counted_and_nobody_else_sees_any() {
    let server = guarded(acting()).await;
    Raw::attested(&server, "ada").await.chat("one").await.ok();
    midnight(&server).await;
    assert_eq!(told(&server).await["days"], json!([]));
    let mut mallory = Raw::attested(&server, "mallory").await;
    mallory.get("/guard/days").await.error(403, "policy_denied");
    let mut olga = Raw::attested(&server, "olga").await;
    olga.post("/guard/days", &json!({}))
        .await
        .error(405, "method_not_allowed");
}
