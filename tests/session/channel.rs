//! Relay and diversion: evidence of another connection, another machine, another policy (A1 to A3).

use std::net::SocketAddr;
use std::sync::Arc;

use casemate_attestation::Sha256Digest;
use futures_util::FutureExt;
use tokio::sync::Mutex;

use crate::client::Wishes;
use crate::false_server::{FalseServer, Lies, bytes, truth};
use crate::harness::{Server, Setup};
use crate::organisation::{Leaf, NODE_A, NODE_B, ORGANISATION, model};
use crate::raw::{Http, Raw, chat, handshake, tls_config};

/// A false server with `leaf` that forwards each challenge to a genuine one as a client with `insider`, and what comes back.
async fn relay(genuine: SocketAddr, leaf: Leaf, insider: Leaf) -> FalseServer {
    let open: Arc<Mutex<Vec<Raw>>> = Arc::default();
    let forward = move |_, nonce| {
        let (insider, open) = (insider.clone(), Arc::clone(&open));
        async move {
            let config = tls_config(&insider, casemate::tls::provider());
            let mut raw = handshake(genuine, config).await.unwrap();
            let answer = raw.challenge(nonce).await;
            assert_eq!(answer.status, 200, "the genuine server has no part in this");
            open.lock().await.push(raw);
            answer.body
        }
        .boxed()
    };
    Lies::new(leaf, forward).start().await
}

/// A user of the product behind its proxy gets an error that names the check, and the relay gets nothing of the prompt.
async fn is_refused(server: &Server, relay: &FalseServer, wishes: Wishes) {
    let mut proxied = wishes.client().proxied().await;
    let refused = proxied
        .http
        .post("/v1/chat/completions", &chat("hello", false))
        .await;
    let error = refused.error(502, "attestation_failed");
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("(S16): report data is not this session's binding"),
        "{message}"
    );
    relay.heard_only_challenges();
    server.saw_nothing();
}

#[tokio::test]
async fn a01_the_truth_is_accepted_so_that_refusals_below_are_for_the_lie() {
    let leaf = ORGANISATION.server(&[NODE_A]);
    let honest = Lies::about(leaf, |_, _, parts| bytes(parts)).start().await;
    let client = Wishes::of(honest.address).client();
    let connection = client.attest().await.unwrap();
    assert!(!connection.verified().confidential());

    let server = Server::ordinary().await;
    let mut proxied = Wishes::of(server.address).client().proxied().await;
    proxied
        .http
        .post("/v1/chat/completions", &chat("hello", false))
        .await
        .ok();
    assert_eq!(server.model.seen().len(), 1);
}

#[tokio::test]
async fn a01_relay_of_genuine_evidence_is_refused() {
    let server = Server::ordinary().await;
    let own = ORGANISATION.server(&[NODE_A]);
    let relay = relay(server.address, own, ORGANISATION.client("mallory")).await;
    is_refused(&server, &relay, Wishes::of(relay.address)).await;
}

#[tokio::test]
async fn a02_relay_with_the_leaked_tls_key_of_an_accepted_server_is_refused() {
    let server = Server::ordinary().await;
    let leaked = server.leaf.clone();
    let relay = relay(server.address, leaked, ORGANISATION.client("mallory")).await;
    is_refused(&server, &relay, Wishes::of(relay.address)).await;
}

#[tokio::test]
async fn a02_the_connection_itself_is_bound_even_if_both_tls_keys_leaked() {
    // Server leaf, client leaf, nonce and context are all the same; nothing is left but the exporter.
    let server = Server::ordinary().await;
    let wishes = Wishes::of(server.address);
    let relay = relay(server.address, server.leaf.clone(), wishes.leaf.clone()).await;
    let server_address = relay.address;
    is_refused(
        &server,
        &relay,
        Wishes {
            server: server_address,
            ..wishes
        },
    )
    .await;
}

#[tokio::test]
async fn a03_another_node_of_the_fleet_is_refused_by_its_chip() {
    // An accepted machine, with a certificate for node A that the broker would not have given it.
    let server = Server::start(Setup {
        provider: Arc::new(ORGANISATION.node_b.clone()),
        leaf: ORGANISATION.server(&[NODE_A, NODE_B]),
        ..Setup::default()
    })
    .await;
    let refused = Wishes::of(server.address).client().refused().await;
    let expected =
        format!("(identity): chip \"machine of {NODE_B}\" of the fleet does not serve {NODE_A}");
    assert!(refused.contains(&expected), "{refused}");
    let wishes = Wishes {
        server_name: NODE_B,
        ..Wishes::of(server.address)
    };
    wishes.client().attest().await.unwrap();

    // And its own certificate does not say node A.
    let server = Server::start(Setup {
        provider: Arc::new(ORGANISATION.node_b.clone()),
        leaf: ORGANISATION.server(&[NODE_B]),
        ..Setup::default()
    })
    .await;
    let refused = Wishes::of(server.address).client().refused().await;
    assert!(refused.contains("server certificate refused"), "{refused}");
    server.saw_nothing();
}

#[tokio::test]
async fn a03_another_policy_than_the_pinned_one_is_refused() {
    let server = Server::ordinary().await;
    let pinned = |policy: Sha256Digest| Wishes {
        expect: format!("policy_bundle = \"{policy}\""),
        ..Wishes::of(server.address)
    };
    pinned(server.policy).client().attest().await.unwrap();
    let refused = pinned(Sha256Digest::of(b"another"))
        .client()
        .refused()
        .await;
    let expected = format!("(policy): policy bundle {} is in force", server.policy);
    assert!(refused.contains(&expected), "{refused}");
}

#[tokio::test]
async fn a03_other_models_than_the_pinned_ones_are_refused() {
    let server = Server::ordinary().await;
    let other = Sha256Digest::of(b"another");
    let pinned = |models: String| Wishes {
        expect: format!("models = [{models}]"),
        ..Wishes::of(server.address)
    };
    pinned(format!("\"{}\"", model()))
        .client()
        .attest()
        .await
        .unwrap();
    let refused = pinned(format!("\"{}\", \"{other}\"", model()))
        .client()
        .refused()
        .await;
    assert!(
        refused.contains(&format!("pinned model {other} is not served")),
        "{refused}"
    );

    // A server that serves one more than was pinned.
    let leaf = ORGANISATION.server(&[NODE_A]);
    let more = Lies::about(leaf, move |peer, nonce, _| {
        let mut parts = truth(peer, nonce);
        parts.context.models.push(other);
        crate::evidence::signed_again(peer, nonce, parts)
    });
    let more = more.start().await;
    let wishes = Wishes {
        server: more.address,
        ..pinned(format!("\"{}\"", model()))
    };
    let refused = wishes.client().refused().await;
    assert!(
        refused.contains(&format!("served model {other} is not among those")),
        "{refused}"
    );
    more.heard_only_challenges();
}

#[tokio::test]
async fn a03_the_proxy_sends_nothing_to_a_diverted_connection() {
    let server = Server::start(Setup {
        provider: Arc::new(ORGANISATION.node_b.clone()),
        leaf: ORGANISATION.server(&[NODE_A, NODE_B]),
        ..Setup::default()
    })
    .await;
    let mut proxied = Wishes::of(server.address).client().proxied().await;
    let http: &mut Http<_> = &mut proxied.http;
    let refused = http
        .post("/v1/chat/completions", &chat("hello", false))
        .await;
    refused.error(502, "attestation_failed");
    server.saw_nothing();
}
