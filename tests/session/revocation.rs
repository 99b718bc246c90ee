//! Revoked certificates and principals: out within seconds, and not in again (S8).

use std::time::{Duration, Instant};

use casemate_attestation::Revocations;
use serde_json::json;
use tokio::time::sleep;

use crate::client::Wishes;
use crate::harness::{Server, soon};
use crate::organisation::{ORGANISATION, nobody, now, principal};
use crate::raw::Raw;

/// What SECURITY-MODEL.md says: within seconds. The server's part of it.
const STATED: Duration = Duration::from_secs(3);

#[tokio::test]
async fn s08_revocation_ends_open_sessions_and_answers_and_leaves_others_alone() {
    let server = Server::ordinary().await;
    let (ada, bob) = (ORGANISATION.client("ada"), ORGANISATION.client("bob"));
    let mut by_leaf = Raw::connect(&server, &ada).await;
    by_leaf.attest(&ada).await;
    by_leaf.stream("slow").await;
    let mut by_name = Raw::connect(&server, &bob).await;
    by_name.attest(&bob).await;
    let mut other = Raw::attested(&server, "carol").await;

    let list = Revocations {
        certificates: vec![ada.digest()],
        principals: vec![principal("bob")],
    };
    let asked = Instant::now();
    assert_eq!(server.revoke(&list), 2);
    by_leaf.until_cut().await;
    by_name.ended().await;
    assert!(asked.elapsed() < STATED, "{:?}", asked.elapsed());
    soon("two places are free", || {
        server.service.open_connections() == 1
    })
    .await;
    server.recorded_times(2, "session_ended", "revoked").await;
    other.chat("hello").await.ok();
}

#[tokio::test]
async fn s08_what_was_revoked_does_not_come_in_again() {
    let server = Server::ordinary().await;
    let (ada, bob) = (ORGANISATION.client("ada"), ORGANISATION.client("bob"));
    let list = Revocations {
        certificates: vec![ada.digest()],
        principals: vec![principal("bob")],
    };
    assert_eq!(server.revoke(&list), 0);

    // A revoked leaf fails the handshake; the same person with another one is let in.
    let with = |leaf| Wishes {
        leaf,
        ..Wishes::of(server.address)
    };
    let refused = with(ada).client().refused().await;
    assert!(refused.contains("it has been revoked"), "{refused}");
    assert_eq!(
        server.refused("certificate_revoked").await["step"],
        "handshake"
    );
    with(ORGANISATION.client("ada"))
        .client()
        .attest()
        .await
        .unwrap();

    // A revoked principal is refused with every certificate, old and new.
    let leaves = [bob, ORGANISATION.client("bob")];
    for leaf in &leaves {
        Raw::connect(&server, leaf).await.ended().await;
    }
    let records = server.recorded_times(2, "refused", "revoked").await;
    for (record, leaf) in records.iter().zip(&leaves) {
        assert_eq!(record["principal"], json!(principal("bob")));
        assert_eq!(record["leaf"], json!(leaf.digest()));
    }

    // A later list without them is the list in force.
    server.revoke(&nobody());
    Raw::attested(&server, "bob").await.chat("hello").await.ok();
}

#[tokio::test]
async fn s08_without_a_list_in_force_nobody_is_served() {
    let server = Server::ordinary().await;
    let mut raw = Raw::attested(&server, "ada").await;
    raw.chat("hello").await.ok();
    let brief = ORGANISATION.revocations(&nobody(), 3);
    server.service.revoke(&brief);
    raw.chat("hello").await.ok();
    while now() < brief.expires() {
        sleep(Duration::from_millis(20)).await;
    }
    raw.chat("hello").await.error(503, "revocations_expired");
    raw.get("/v1/models")
        .await
        .error(503, "revocations_expired");
    server.refused("revocations_expired").await;
    assert_eq!(server.model.seen().len(), 2);
    server.revoke(&nobody());
    raw.chat("hello").await.ok();
}
