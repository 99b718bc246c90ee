//! What is not negotiated: old versions, old groups, tickets, early data, long-lived certificates, skipping (A10, A12, A13).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue,
    Tls13ClientSessionValue,
};
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::{ClientConfig, HandshakeKind, NamedGroup, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::Wishes;
use crate::false_server::{Lies, bytes};
use crate::harness::Server;
use crate::organisation::{DAY, NODE_A, ORGANISATION};
use crate::raw::{Raw, chat, handshake, tls_config};

/// A memory for tickets that counts them.
#[derive(Debug)]
struct Counted {
    tickets: AtomicUsize,
    store: ClientSessionMemoryCache,
}

impl ClientSessionStore for Counted {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.store.set_kx_hint(name, group);
    }
    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.store.kx_hint(name)
    }
    fn set_tls12_session(&self, name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.store.set_tls12_session(name, value);
    }
    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.store.tls12_session(name)
    }
    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        self.store.remove_tls12_session(name);
    }
    fn insert_tls13_ticket(&self, name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.tickets.fetch_add(1, Ordering::SeqCst);
        self.store.insert_tls13_ticket(name, value);
    }
    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.store.take_tls13_ticket(name)
    }
}

#[tokio::test]
async fn a10_there_is_no_resumption_and_no_early_data() {
    let server = Server::ordinary().await;
    let ada = ORGANISATION.client("ada");
    let counted = Arc::new(Counted {
        tickets: AtomicUsize::new(0),
        store: ClientSessionMemoryCache::new(8),
    });
    let mut config = tls_config(&ada, casemate::tls::provider());
    config.resumption = Resumption::store(counted.clone());
    config.enable_early_data = true;

    let mut first = handshake(server.address, config.clone()).await.unwrap();
    first.attest(&ada).await;
    first.chat("hello").await.ok();
    let mut second = handshake(server.address, config).await.unwrap();
    // After an answer, so that a ticket would have arrived.
    second
        .chat("hello")
        .await
        .error(403, "attestation_required");
    let (_, tls) = second.stream.get_ref().get_ref();
    assert_eq!(tls.handshake_kind(), Some(HandshakeKind::Full));
    assert!(!tls.is_early_data_accepted());
    assert_eq!(counted.tickets.load(Ordering::SeqCst), 0);

    // The exporter is the second connection's own: its evidence is fresh, and the first one's confirmation is worth nothing.
    let of_first = first.prepare(&ada).await;
    second.prepare(&ada).await;
    second
        .confirm(&of_first)
        .await
        .error(403, "binding_mismatch");
}

#[tokio::test]
async fn a12_a_server_certificate_of_more_than_a_day_is_refused() {
    let liar = |life_s| {
        let leaf = ORGANISATION.server_living(&[NODE_A], life_s);
        Lies::about(leaf, |_, _, parts| bytes(parts)).start()
    };
    let day = liar(DAY).await;
    Wishes::of(day.address).client().attest().await.unwrap();
    for life_s in [DAY + 1, 3650 * DAY] {
        let long = liar(life_s).await;
        let refused = Wishes::of(long.address).client().refused().await;
        assert!(
            refused.contains(&format!("leaf lives {life_s} s")),
            "{refused}"
        );
        assert!(refused.contains("(P-12)"), "{refused}");
    }
}

#[tokio::test]
async fn a12_a_client_certificate_of_more_than_ninety_days_is_refused() {
    let server = Server::ordinary().await;
    let connect = |life_s| Wishes {
        leaf: ORGANISATION.client_living("ada", life_s),
        ..Wishes::of(server.address)
    };
    connect(90 * DAY).client().attest().await.unwrap();
    for life_s in [90 * DAY + 1, 3650 * DAY] {
        let refused = connect(life_s).client().refused().await;
        assert!(
            refused.contains("server refused this client's certificate"),
            "{refused}"
        );
    }
    let records = server
        .recorded_times(2, "refused", "certificate_lives_too_long")
        .await;
    assert!(records.iter().all(|record| record["step"] == "handshake"));
}

/// A ClientHello of TLS 1.2: no `supported_versions`.
fn hello_of_tls12() -> Vec<u8> {
    let length = |bytes: usize| u16::try_from(bytes).unwrap().to_be_bytes();
    let extensions = [
        // supported_groups: x25519; signature_algorithms: ecdsa_secp256r1_sha256; ec_point_formats: uncompressed.
        &[0, 10, 0, 4, 0, 2, 0, 29][..],
        &[0, 13, 0, 4, 0, 2, 4, 3],
        &[0, 11, 0, 2, 1, 0],
    ]
    .concat();
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[0],
        // TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, and one of TLS 1.3 to be generous.
        &[0, 4, 0xc0, 0x2b, 0x13, 0x01],
        &[1, 0],
        &length(extensions.len()),
        &extensions,
    ]
    .concat();
    let message = [&[1, 0][..], &length(body.len()), &body].concat();
    [&[22, 3, 1][..], &length(message.len()), &message].concat()
}

#[tokio::test]
async fn a13_tls_1_2_is_refused() {
    let server = Server::ordinary().await;
    let mut tcp = TcpStream::connect(server.address).await.unwrap();
    tcp.write_all(&hello_of_tls12()).await.unwrap();
    let mut alert = Vec::new();
    tcp.read_to_end(&mut alert).await.unwrap();
    // One record: alert, fatal, protocol_version.
    assert_eq!(alert[0], 21, "{alert:?}");
    assert_eq!(alert[5..], [2, 70], "{alert:?}");
    assert_eq!(
        server.refused("no_common_parameters").await["step"],
        "handshake"
    );
}

#[tokio::test]
async fn a13_only_the_two_groups_are_spoken() {
    let server = Server::ordinary().await;
    let ada = ORGANISATION.client("ada");
    let offering = |groups| {
        let mut provider = aws_lc_rs::default_provider();
        provider.kx_groups = groups;
        tls_config(&ada, Arc::new(provider))
    };
    let old = offering(vec![kx_group::SECP256R1, kx_group::SECP384R1]);
    let refused = handshake(server.address, old)
        .await
        .map(|_| ())
        .unwrap_err();
    assert!(
        refused.to_string().contains("HandshakeFailure"),
        "{refused}"
    );
    server.refused("no_common_parameters").await;

    // X25519 alone is taken; a client that prefers the hybrid one gets it.
    for (groups, chosen) in [
        (vec![kx_group::X25519], NamedGroup::X25519),
        (
            vec![kx_group::X25519MLKEM768, kx_group::X25519],
            NamedGroup::X25519MLKEM768,
        ),
    ] {
        let raw = handshake(server.address, offering(groups)).await.unwrap();
        let (_, tls) = raw.stream.get_ref().get_ref();
        assert_eq!(tls.negotiated_key_exchange_group().unwrap().name(), chosen);
    }
    let product = Wishes::of(server.address).client().attest().await.unwrap();
    assert_eq!(product.facts().group, Some(NamedGroup::X25519MLKEM768));
}

#[tokio::test]
async fn a13_nothing_is_served_to_a_client_that_skips_attestation() {
    let server = Server::ordinary().await;
    let ada = ORGANISATION.client("ada");
    let mut raw = Raw::connect(&server, &ada).await;
    raw.get("/health").await.ok();
    let mut attempts: Vec<(&str, &str)> = vec![
        ("GET", "/v1/models"),
        ("GET", "/v1/models/story"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
        ("POST", "/v1/embeddings"),
        ("POST", "/v1/responses"),
        ("GET", "/"),
        ("GET", "/metrics"),
        ("GET", "/v1/../health"),
        ("POST", "/health/../v1/chat/completions"),
        ("POST", "//attest/challenge"),
        ("DELETE", "/v1/models/story"),
    ];
    // The challenge alone changes nothing.
    for _ in 0..2 {
        for (method, path) in &mut attempts {
            let body = chat("hello", false).to_string();
            raw.send(method, path, body.as_bytes()).await.unwrap();
            raw.answer().await.error(403, "attestation_required");
        }
        raw.prepare(&ada).await;
    }
    server.refused("attestation_required").await;
    server.saw_nothing();
}

#[tokio::test]
async fn a13_a_client_without_a_certificate_of_the_organisation_does_not_get_in() {
    let server = Server::ordinary().await;
    let mut roots = RootCertStore::empty();
    roots.add(ORGANISATION.enclave_authority()).unwrap();
    let anonymous = ClientConfig::builder_with_provider(casemate::tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let with = |leaf| tls_config(&leaf, casemate::tls::provider());
    let stranger = with(ORGANISATION.stranger("ada"));
    // A server's certificate is of another authority and for another purpose.
    let server_leaf = with(ORGANISATION.server(&[NODE_A]));
    for config in [anonymous, stranger, server_leaf] {
        if let Ok(mut raw) = handshake(server.address, config).await {
            drop(raw.send("GET", "/health", b"").await);
            assert!(raw.head().await.is_err());
        }
    }
    server.refused("no_certificate").await;
    server.refused("certificate_of_unknown_issuer").await;
    server.refused("certificate_refused").await;
}
