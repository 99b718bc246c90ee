//! Envelopes whose words and signed bytes differ, and evidence of another kind (A6 to A8, A14, S12).

use std::sync::Arc;

use casemate::listener::Peer;
use casemate_attestation::test_chip::ReportTemplate;
use casemate_attestation::{
    BindingInputs, Context, Direction, EnvelopeParts, HardwareEvidence, Nonce, Platform,
    Sha256Digest,
};
use serde_json::{Value, json};

use crate::client::Wishes;
use crate::false_server::{Lies, bytes, parts, truth};
use crate::harness::Server;
use crate::organisation::{NODE_A, ORGANISATION};
use crate::raw::{Raw, chat};

const UNBOUND: &str = "(S16): report data is not this session's binding";

/// Evidence for what `claims` says, signed by the chip of node A over this very connection.
pub fn signed_again(peer: &Peer, nonce: Nonce, claims: EnvelopeParts) -> Vec<u8> {
    let exporter = peer.exporter.export(&nonce).unwrap();
    let inputs = BindingInputs {
        direction: claims.direction,
        exporter: &exporter,
        server_leaf: peer.server_leaf_digest,
        client_leaf: Sha256Digest::of(&peer.leaf),
        nonce,
        context: &claims.context,
    };
    bytes(parts(&ORGANISATION.node_a, &inputs, claims.context.clone()))
}

/// What the product's client says to a server that tells `lie`, having sent it no prompt.
async fn refused<F>(lie: F) -> String
where
    F: Fn(&Peer, Nonce, EnvelopeParts) -> Vec<u8> + Send + Sync + 'static,
{
    let server = Lies::about(ORGANISATION.server(&[NODE_A]), lie)
        .start()
        .await;
    let refused = Wishes::of(server.address).client().refused().await;
    let mut proxied = Wishes::of(server.address).client().proxied().await;
    let answer = proxied
        .http
        .post("/v1/chat/completions", &chat("hello", false))
        .await;
    assert_eq!(answer.status, 502, "{}", answer.text());
    server.heard_only_challenges();
    refused
}

/// The envelope as JSON with one thing changed.
fn edited(parts: EnvelopeParts, edit: impl Fn(&mut Value)) -> Vec<u8> {
    let mut document: Value = serde_json::from_slice(&bytes(parts)).unwrap();
    edit(&mut document);
    document.to_string().into_bytes()
}

#[tokio::test]
async fn a06_a_key_beside_the_report_but_not_in_it_is_refused() {
    // The report vouches for another TLS key than the connection's.
    let other_key = refused(|peer, nonce, claims| {
        let exporter = peer.exporter.export(&nonce).unwrap();
        let inputs = BindingInputs {
            direction: Direction::Server,
            exporter: &exporter,
            server_leaf: Sha256Digest::of(b"the key inside the machine"),
            client_leaf: Sha256Digest::of(&peer.leaf),
            nonce,
            context: &claims.context,
        };
        bytes(parts(&ORGANISATION.node_a, &inputs, claims.context.clone()))
    });
    assert!(other_key.await.contains(UNBOUND));

    // The key is named in a field of its own, with the same result as any stray field.
    let named = refused(|peer, _, claims| {
        let key = peer.server_leaf_digest;
        edited(claims, |document| document["tls_key"] = json!(key))
    });
    let named = named.await;
    assert!(
        named.contains("evidence envelope") && named.contains("a field is unknown"),
        "{named}"
    );
}

#[tokio::test]
async fn a01_evidence_made_for_another_client_or_another_nonce_is_refused() {
    let other = Sha256Digest::of(b"another client");
    for (client, nonce) in [
        (Some(other), None),
        (None, Some(Nonce::from_bytes([9; 32]))),
    ] {
        let refused = refused(move |peer, asked, claims| {
            let exporter = peer.exporter.export(&asked).unwrap();
            let inputs = BindingInputs {
                direction: Direction::Server,
                exporter: &exporter,
                server_leaf: peer.server_leaf_digest,
                client_leaf: client.unwrap_or(Sha256Digest::of(&peer.leaf)),
                nonce: nonce.unwrap_or(asked),
                context: &claims.context,
            };
            let context = claims.context.clone();
            bytes(parts(&ORGANISATION.node_a, &inputs, context))
        });
        let refused = refused.await;
        assert!(refused.contains(UNBOUND), "{refused}");
    }
}

#[tokio::test]
async fn a07_words_that_look_honest_count_for_nothing_where_the_signed_bytes_differ() {
    let other = || Sha256Digest::of(b"what the client would like to read");
    let lies: [fn(&mut Context, Sha256Digest); 5] = [
        |context, other| context.policy_bundle = other,
        |context, other| context.models[0] = other,
        |context, _| context.models.clear(),
        |context, other| context.configuration = other,
        |context, other| context.device_evidence = other,
    ];
    for lie in lies {
        let refused = refused(move |_, _, mut claims| {
            lie(&mut claims.context, other());
            bytes(claims)
        });
        let refused = refused.await;
        assert!(refused.contains(UNBOUND), "{refused}");
    }
}

#[tokio::test]
async fn a07_a_pinned_policy_is_compared_with_signed_bytes_only() {
    let pinned = Sha256Digest::of(b"pinned");
    let liar = Lies::about(ORGANISATION.server(&[NODE_A]), move |_, _, mut claims| {
        claims.context.policy_bundle = pinned;
        bytes(claims)
    });
    let liar = liar.start().await;
    let wishes = Wishes {
        expect: format!("policy_bundle = \"{pinned}\""),
        ..Wishes::of(liar.address)
    };
    let refused = wishes.client().refused().await;
    assert!(refused.contains(UNBOUND), "{refused}");
}

fn report_of(claims: &mut EnvelopeParts) -> &mut Vec<u8> {
    match &mut claims.hardware {
        HardwareEvidence::Snp(evidence) => &mut evidence.report,
        other => panic!("evidence of kind {}", other.kind()),
    }
}

#[tokio::test]
async fn a08_report_data_that_is_not_the_binding_is_refused() {
    let lies: [fn(&mut [u8; 64]); 4] = [
        |data| *data = [0; 64],
        |data| *data = [0xff; 64],
        |data| data[32..].fill(0),
        |data| data[63] ^= 1,
    ];
    for lie in lies {
        let refused = refused(move |_, _, mut claims| {
            let chip = &ORGANISATION.node_a;
            let mut report_data: [u8; 64] = report_of(&mut claims)[0x50..0x90].try_into().unwrap();
            lie(&mut report_data);
            let template = ReportTemplate {
                report_data,
                ..chip.template()
            };
            claims.hardware = HardwareEvidence::Snp(chip.evidence_for(&template));
            bytes(claims)
        });
        let refused = refused.await;
        assert!(refused.contains(UNBOUND), "{refused}");
    }
}

#[tokio::test]
async fn a08_reports_that_are_empty_short_or_edited_are_refused() {
    type Lie = fn(&mut Vec<u8>);
    let lies: [(&str, Lie); 4] = [
        ("(S1): report has 0 bytes", Vec::clear),
        ("(S1): report has 1183 bytes", |report| {
            report.truncate(1183)
        }),
        ("(S1): report has 1185 bytes", |report| report.push(0)),
        // The right binding written into a report that signs another.
        ("(S3): report signature", |report| {
            let chip = &ORGANISATION.node_a;
            let mut other = chip.sign_report(&chip.template());
            other[0x50..0x90].copy_from_slice(&report[0x50..0x90]);
            *report = other;
        }),
    ];
    for (rule, lie) in lies {
        let refused = refused(move |_, _, mut claims| {
            lie(report_of(&mut claims));
            bytes(claims)
        });
        let refused = refused.await;
        assert!(refused.contains(rule), "{refused}");
    }
}

#[tokio::test]
async fn a14_evidence_does_not_choose_its_verifier() {
    // It says that it is an SNP machine's, and comes to a client that expects the test chip.
    let swapped = refused(|_, _, mut claims| {
        claims.platform = Platform::Snp;
        bytes(claims)
    });
    let swapped = swapped.await;
    assert!(
        swapped.contains("(P-31): evidence is of platform snp"),
        "{swapped}"
    );

    for none in ["nocc", "none", ""] {
        let refused = refused(move |_, _, claims| {
            edited(claims, |document| document["platform"] = json!(none))
        });
        let refused = refused.await;
        assert!(refused.contains("evidence envelope"), "{refused}");
    }
}

#[tokio::test]
async fn a14_s12_a_client_of_real_machines_refuses_the_test_chip_whatever_it_calls_itself() {
    let server = Server::ordinary().await;
    let real = |address| Wishes {
        platform: "snp",
        ..Wishes::of(address)
    };
    let refused = real(server.address).client().refused().await;
    let expected = "(P-31): evidence is of platform test-chip, policy accepts snp only";
    assert!(refused.contains(expected), "{refused}");
    server.saw_nothing();

    // Called SNP, its certificates do not lead to the vendor's root.
    let liar = Lies::about(ORGANISATION.server(&[NODE_A]), |_, _, mut claims| {
        claims.platform = Platform::Snp;
        bytes(claims)
    });
    let liar = liar.start().await;
    let refused = real(liar.address).client().refused().await;
    assert!(refused.contains("(S5)"), "{refused}");
    liar.heard_only_challenges();
}

#[tokio::test]
async fn s12_the_test_chip_says_everywhere_that_nothing_is_confidential() {
    let server = Server::ordinary().await;
    let ada = ORGANISATION.client("ada");
    let mut raw = Raw::connect(&server, &ada).await;
    let health = raw.get("/health").await.ok();
    assert_eq!(health["confidential"], false);
    assert_eq!(health["platform"], "test-chip");
    assert!(
        health["notice"]
            .as_str()
            .unwrap()
            .starts_with("NOT CONFIDENTIAL")
    );
    let exchange = raw.prepare(&ada).await;
    assert_eq!(raw.confirm(&exchange).await.ok()["confidential"], false);

    // A server whose word goes further than its evidence.
    let mut liar = Lies::about(ORGANISATION.server(&[NODE_A]), |_, _, claims| bytes(claims));
    liar.granted["confidential"] = json!(true);
    let liar = liar.start().await;
    let refused = Wishes::of(liar.address).client().refused().await;
    assert!(
        refused.contains("server says confidential, its evidence does not"),
        "{refused}"
    );
}

#[tokio::test]
async fn a13_evidence_under_the_roots_of_another_chip_is_refused() {
    // Same fields, same chip id, same measurement; only the seed differs, and with it every key.
    let stranger = Arc::new(casemate_attestation::test_chip::TestChip::from_seed(
        &[8; 32],
        crate::organisation::now(),
    ));
    let refused = refused(move |peer, nonce, _| {
        let mut claims = truth(peer, nonce);
        let report_data = report_of(&mut claims)[0x50..0x90].try_into().unwrap();
        let template = ReportTemplate {
            report_data,
            ..ORGANISATION.node_a.template()
        };
        claims.hardware = HardwareEvidence::Snp(stranger.evidence_for(&template));
        bytes(claims)
    });
    let refused = refused.await;
    assert!(refused.contains("evidence rejected (S"), "{refused}");
}
