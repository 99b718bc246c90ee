//! Servers that ask for the client's own evidence, and what is not taken for it (A4).

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use casemate::session::{ClientEvidence, ClientVerifier};
use casemate_attestation::{Context, Direction, EnvelopeParts, Platform};
use casemate_client::session::OwnEvidence;
use serde_json::{Value, json};

use crate::client::Wishes;
use crate::evidence::signed_again;
use crate::false_server::{Lies, bytes, parts};
use crate::harness::{Server, Setup};
use crate::organisation::{NODE_A, ORGANISATION};
use crate::raw::{Answer, Raw};

async fn demanding() -> Server {
    Server::start(Setup {
        clients: ClientEvidence::Required(ClientVerifier::Fixed(Box::new(ORGANISATION.verifier()))),
        ..Setup::default()
    })
    .await
}

/// A server that judges evidence where it comes, under this guard.
pub async fn asking_for_evidence(guard: casemate::policy::GuardPolicy) -> Server {
    Server::start(Setup {
        clients: ClientEvidence::Optional(ClientVerifier::Fixed(Box::new(ORGANISATION.verifier()))),
        guard: Some(guard),
        ..Setup::default()
    })
    .await
}

/// An attested connection of this member that has shown its own machine.
pub async fn with_evidence(server: &Server, member: &str) -> Raw {
    let (answer, raw) = offered_by(server, member, |honest, _| Some(bytes(honest))).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    raw
}

/// The server's answer to a good confirmation that offers `own` as the client's evidence. `own` is given what the client
/// itself would send, and the server's envelope.
async fn offered(
    server: &Server,
    own: impl Fn(EnvelopeParts, EnvelopeParts) -> Option<Vec<u8>>,
) -> Answer {
    offered_by(server, "ada", own).await.0
}

/// The same for this member, with the connection.
async fn offered_by(
    server: &Server,
    member: &str,
    own: impl Fn(EnvelopeParts, EnvelopeParts) -> Option<Vec<u8>>,
) -> (Answer, Raw) {
    let ada = ORGANISATION.client(member);
    let mut raw = Raw::connect(server, &ada).await;
    let mut exchange = raw.prepare(&ada).await;
    let context = Context::absent();
    let exporter = raw.exporter(&exchange.nonce);
    let inputs = raw.inputs(Direction::Client, &exporter, &ada, exchange.nonce, &context);
    let honest = parts(&ORGANISATION.node_b, &inputs, context.clone());
    let offer = own(honest, exchange.envelope.parts().clone());
    exchange.confirmation["client_evidence"] =
        offer.map_or(Value::Null, |envelope| json!(STANDARD.encode(envelope)));
    let answer = raw.confirm(&exchange).await;
    if answer.status != 200 {
        raw.get("/v1/models")
            .await
            .error(403, "attestation_required");
    }
    (answer, raw)
}

/// The refusal's text, once its record is in the log.
async fn rejected(
    server: &Server,
    own: impl Fn(EnvelopeParts, EnvelopeParts) -> Option<Vec<u8>>,
) -> String {
    let error = offered(server, own)
        .await
        .error(403, "client_evidence_rejected");
    let record = server.refused("client_evidence_rejected").await;
    assert_eq!(record["step"], "attestation");
    error["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a04_the_servers_own_evidence_sent_back_is_refused_by_its_direction() {
    let server = demanding().await;
    let reflected = rejected(&server, |_, theirs| Some(bytes(theirs))).await;
    let expected = "evidence describes the server side, expected the client side";
    assert!(reflected.contains(expected), "{reflected}");

    // The word alone does not help: the direction is signed.
    let relabelled = rejected(&server, |_, mut theirs| {
        theirs.direction = Direction::Client;
        Some(bytes(theirs))
    })
    .await;
    assert!(
        relabelled.contains("report data is not this session's binding"),
        "{relabelled}"
    );

    let other_platform = rejected(&server, |mut honest, _| {
        honest.platform = Platform::Snp;
        Some(bytes(honest))
    })
    .await;
    assert!(other_platform.contains("platform snp"), "{other_platform}");
}

#[tokio::test]
async fn a04_a_client_is_not_impressed_by_evidence_of_a_client() {
    let liar = Lies::about(ORGANISATION.server(&[NODE_A]), |peer, nonce, mut claims| {
        claims.direction = Direction::Client;
        signed_again(peer, nonce, claims)
    });
    let liar = liar.start().await;
    let refused = Wishes::of(liar.address).client().refused().await;
    let expected = "(P-20): evidence describes the client side, expected the server side";
    assert!(refused.contains(expected), "{refused}");

    let liar = Lies::about(ORGANISATION.server(&[NODE_A]), |peer, nonce, mut claims| {
        claims.direction = Direction::Client;
        let mut document: Value =
            serde_json::from_slice(&signed_again(peer, nonce, claims)).unwrap();
        document["direction"] = json!("server");
        document.to_string().into_bytes()
    });
    let liar = liar.start().await;
    let refused = Wishes::of(liar.address).client().refused().await;
    assert!(refused.contains("(S16)"), "{refused}");
}

#[tokio::test]
async fn a04_good_evidence_of_the_client_is_taken_and_none_is_not() {
    let server = demanding().await;
    offered(&server, |honest, _| Some(bytes(honest))).await.ok();
    offered(&server, |_, _| None)
        .await
        .error(403, "client_evidence_required");
    server.refused("client_evidence_required").await;
    rejected(&server, |_, _| Some(b"{}".to_vec())).await;

    let mut client = Wishes::of(server.address).client();
    assert!(client.refused().await.contains("client_evidence_required"));
    let own = OwnEvidence::new(Arc::new(ORGANISATION.node_b.clone()));
    client.connector = client.connector.with_own_evidence(own);
    client.attest().await.unwrap();

    // Nobody here could judge it, so that it is not accepted either.
    let ordinary = Server::ordinary().await;
    rejected(&ordinary, |honest, _| Some(bytes(honest))).await;
}

fn chat() -> Value {
    json!({"model": "story", "messages": [{"role": "user", "content": "hello"}]})
}

async fn judging() -> Server {
    let verifier = ClientVerifier::Fixed(Box::new(ORGANISATION.verifier()));
    Server::start(Setup {
        clients: ClientEvidence::Optional(verifier),
        ..Setup::default()
    })
    .await
}

#[tokio::test]
async fn a04_a_policy_that_asks_for_the_clients_evidence_refuses_without_and_allows_with() {
    let server = judging().await;
    // Policy speaks of one member: the other needs no evidence.
    let (session, mut ada) = offered_by(&server, "ada", |_, _| None).await;
    session.ok();
    ada.post("/v1/chat/completions", &chat()).await.ok();
    let (session, mut bare) = offered_by(&server, "guarded", |_, _| None).await;
    session.ok();
    let refused = bare.post("/v1/chat/completions", &chat()).await;
    refused.error(403, "policy_denied");
    let (session, mut shown) = offered_by(&server, "guarded", |own, _| Some(bytes(own))).await;
    session.ok();
    shown.post("/v1/chat/completions", &chat()).await.ok();
}

#[tokio::test]
async fn a04_optional_evidence_that_is_offered_is_judged_all_the_same() {
    let server = judging().await;
    let reflected = rejected(&server, |_, theirs| Some(bytes(theirs))).await;
    assert!(reflected.contains("the server side"), "{reflected}");

    // Good evidence of another session of the same client.
    let earlier = std::sync::Mutex::new(None);
    offered(&server, |own, _| {
        *earlier.lock().unwrap() = Some(bytes(own.clone()));
        Some(bytes(own))
    })
    .await
    .ok();
    let replayed = rejected(&server, |_, _| earlier.lock().unwrap().clone()).await;
    assert!(
        replayed.contains("report data is not this session's binding"),
        "{replayed}"
    );
}
