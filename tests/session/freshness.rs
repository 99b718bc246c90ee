//! Nonces, confirmations and deadlines: everything is good once, here, and for a while (A5, A9).

use std::sync::Mutex;
use std::time::Duration;

use casemate::api;
use http_body_util::BodyExt;
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::client::{Wishes, chat_request};
use crate::false_server::{Lies, bytes};
use crate::harness::{Server, Setup};
use crate::organisation::{NODE_A, ORGANISATION, now};
use crate::raw::{Raw, fresh_nonce};

#[tokio::test]
async fn a05_old_evidence_under_a_new_nonce_is_refused_by_the_client() {
    let first: Mutex<Option<Vec<u8>>> = Mutex::default();
    let replaying = Lies::about(ORGANISATION.server(&[NODE_A]), move |_, _, parts| {
        first
            .lock()
            .unwrap()
            .get_or_insert_with(|| bytes(parts))
            .clone()
    });
    let replaying = replaying.start().await;
    let client = Wishes::of(replaying.address).client();
    let connection = client.attest().await.unwrap();
    // On the same connection, and on another one.
    for refused in [
        client
            .connector
            .attest_again(&connection)
            .await
            .unwrap_err()
            .to_string(),
        client.refused().await,
    ] {
        assert!(refused.contains("(S16)"), "{refused}");
    }
}

#[tokio::test]
async fn a05_a_nonce_serves_one_challenge() {
    let server = Server::ordinary().await;
    let mut raw = Raw::connect(&server, &ORGANISATION.client("ada")).await;
    let nonce = fresh_nonce();
    raw.challenge(nonce).await.ok();
    raw.challenge(nonce).await.error(409, "nonce_reused");
    let record = server.refused("nonce_reused").await;
    assert_eq!(record["step"], "attestation");
    raw.challenge(fresh_nonce()).await.ok();

    let malformed = [
        json!({}),
        json!({"nonce": "00"}),
        json!({"nonce": "A".repeat(64)}),
        json!({"nonce": nonce, "more": 1}),
    ];
    for body in malformed {
        raw.post("/attest/challenge", &body)
            .await
            .error(400, "malformed");
    }
    let twice = format!("{{\"nonce\":\"{nonce}\",\"nonce\":\"{nonce}\"}}");
    raw.post_bytes("/attest/challenge", twice.as_bytes())
        .await
        .error(400, "malformed");
}

#[tokio::test]
async fn a05_a_challenge_is_confirmed_once_and_a_wrong_answer_spends_it() {
    let server = Server::ordinary().await;
    let ada = ORGANISATION.client("ada");
    let mut raw = Raw::connect(&server, &ada).await;
    let exchange = raw.prepare(&ada).await;
    raw.confirm(&exchange).await.ok();
    raw.confirm(&exchange).await.error(409, "no_challenge");
    server.refused("no_challenge").await;

    // A newer challenge replaces an older one that was not confirmed.
    let (old, new) = (raw.prepare(&ada).await, raw.prepare(&ada).await);
    raw.confirm(&old).await.error(403, "binding_mismatch");
    raw.confirm(&new).await.error(409, "no_challenge");
}

#[tokio::test]
async fn a05_a_confirmation_is_for_this_connection_this_evidence_and_by_this_key() {
    let server = Server::ordinary().await;
    let (ada, bob) = (ORGANISATION.client("ada"), ORGANISATION.client("bob"));
    let (mut one, mut two) = (
        Raw::connect(&server, &ada).await,
        Raw::connect(&server, &ada).await,
    );
    let of_one = one.prepare(&ada).await;
    two.confirm(&of_one).await.error(409, "no_challenge");
    two.prepare(&ada).await;
    two.confirm(&of_one).await.error(403, "binding_mismatch");

    let mut other_evidence = two.prepare(&ada).await;
    other_evidence.confirmation["evidence"] = json!(of_one.envelope.digest());
    two.confirm(&other_evidence)
        .await
        .error(403, "evidence_mismatch");

    // Signed by another key than the certificate's: bob's confirmation of exactly this binding.
    let mut of_bob = two.prepare(&ada).await;
    let binding = hex::decode(of_bob.confirmation["binding"].as_str().unwrap()).unwrap();
    let digest = of_bob.envelope.digest();
    let items = [&binding[..], digest.as_bytes()];
    let framed = |item: &&[u8]| [&u32::try_from(item.len()).unwrap().to_be_bytes(), *item].concat();
    let message = [
        b"casemate/confirm/v1".to_vec(),
        items.iter().flat_map(framed).collect(),
    ]
    .concat();
    use base64::Engine as _;
    let encode = |bytes| base64::engine::general_purpose::STANDARD.encode(bytes);
    of_bob.confirmation["signature"] = json!(encode(crate::raw::sign(&bob, &message)));
    two.confirm(&of_bob).await.error(403, "signature_invalid");
    // The same by ada's is taken: the message above is the protocol's.
    let mut of_ada = two.prepare(&ada).await;
    let binding = hex::decode(of_ada.confirmation["binding"].as_str().unwrap()).unwrap();
    let digest = of_ada.envelope.digest();
    let items = [&binding[..], digest.as_bytes()];
    let message = [
        b"casemate/confirm/v1".to_vec(),
        items.iter().flat_map(framed).collect(),
    ]
    .concat();
    of_ada.confirmation["signature"] = json!(encode(crate::raw::sign(&ada, &message)));
    two.confirm(&of_ada).await.ok();

    for reason in [
        "no_challenge",
        "binding_mismatch",
        "evidence_mismatch",
        "signature_invalid",
    ] {
        let record = server.refused(reason).await;
        assert_eq!(record["leaf"], json!(ada.digest()));
    }
    one.get("/v1/models")
        .await
        .error(403, "attestation_required");
    server.saw_nothing();
}

/// Sessions of two seconds at most.
async fn short_lived() -> Server {
    Server::start(Setup {
        api: api::Limits {
            session_s_max: 2,
            ..api::Limits::default()
        },
        ..Setup::default()
    })
    .await
}

#[tokio::test]
async fn a09_past_the_deadline_requests_are_refused_until_the_connection_is_attested_again() {
    let server = short_lived().await;
    let ada = ORGANISATION.client("ada");
    let mut raw = Raw::connect(&server, &ada).await;
    let deadline = raw.attest(&ada).await;
    raw.chat("hello").await.ok();
    while now().secs() < deadline {
        sleep(Duration::from_millis(20)).await;
    }
    raw.chat("hello").await.error(421, "attestation_stale");
    raw.get("/v1/models").await.error(421, "attestation_stale");
    let record = server.refused("attestation_stale").await;
    assert!(record["session"].is_string());
    assert_eq!(server.model.seen().len(), 1);
    raw.attest(&ada).await;
    raw.chat("hello").await.ok();
}

#[tokio::test]
async fn a09_a_long_answer_is_cut_at_the_deadline() {
    let server = short_lived().await;
    let (mut slow, mut silent) = (
        Raw::attested(&server, "ada").await,
        Raw::attested(&server, "bob").await,
    );
    slow.stream("slow").await;
    silent.stream("silent").await;
    slow.cut_with("attestation_stale").await;
    silent.cut_with("attestation_stale").await;
    server
        .recorded_times(2, "answer", "attestation_stale")
        .await;
}

#[tokio::test]
async fn a09_the_client_keeps_the_deadline_by_itself() {
    let server = Server::ordinary().await;
    let wishes = Wishes {
        limits: "session_life_s_max = 1",
        ..Wishes::of(server.address)
    };
    let client = wishes.client();
    let connection = client.attest().await.unwrap();
    let answer = connection
        .send_request(chat_request("slow", true))
        .await
        .unwrap();
    let cut = timeout(Duration::from_secs(5), answer.into_body().collect()).await;
    let cut = cut.expect("the answer goes on").unwrap_err();
    assert!(cut.to_string().contains("session's deadline"), "{cut}");
    let late = connection
        .send_request(chat_request("hello", false))
        .await
        .unwrap_err();
    assert!(late.to_string().contains("deadline has passed"), "{late}");
    assert_eq!(server.model.seen().len(), 1);
    // On the open connection it goes on after another attestation.
    let again = client.connector.attest_again(&connection).await.unwrap();
    assert_eq!(
        again
            .send_request(chat_request("hello", false))
            .await
            .unwrap()
            .status(),
        200
    );
}

#[tokio::test]
async fn a09_p44_no_session_outlives_what_its_evidence_was_judged_by() {
    let server = Server::ordinary().await;
    let client = Wishes::of(server.address).client();
    let whole = client.attest().await.unwrap().life();
    assert!(whole > Duration::from_secs(60), "{whole:?}");
    client.believe_for(20);
    let short = client.attest().await.unwrap().life();
    assert!(short <= Duration::from_secs(20), "{short:?}");
    client.believe_for(1);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let late = client.refused().await;
    assert!(late.contains("expired"), "{late}");
}

#[tokio::test]
async fn a09_another_policy_makes_sessions_stale_and_cuts_answers() {
    let server = Server::ordinary().await;
    let ada = ORGANISATION.client("ada");
    let (mut raw, mut slow) = (
        Raw::connect(&server, &ada).await,
        Raw::attested(&server, "bob").await,
    );
    raw.attest(&ada).await;
    slow.stream("slow").await;
    // A challenge that was answered under the policy before gives no session under the next.
    let mut before = Raw::connect(&server, &ada).await;
    let exchange = before.prepare(&ada).await;

    let next = ORGANISATION.policy(2);
    let digest = next.digest();
    server.service.replace_policy(next);
    raw.chat("hello").await.error(421, "attestation_stale");
    slow.cut_with("attestation_stale").await;
    before.confirm(&exchange).await;
    before.chat("hello").await.error(421, "attestation_stale");

    let exchange = raw.prepare(&ada).await;
    assert_eq!(exchange.envelope.context().policy_bundle, digest);
    raw.confirm(&exchange).await.ok();
    raw.chat("hello").await.ok();
}
