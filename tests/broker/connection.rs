//! One connection to the broker, call by call: challenges, who may connect, what is read, and for how long.

use std::io::Read;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use casemate_attestation::{ENVELOPE_BYTES_MAX, Sha256Digest};
use serde_json::{Value, json};

use crate::place::*;
use crate::raw::{Identity, Peer, code};

pub const KEYS: &str = "/release/keys";
const UPDATES: &str = "/release/updates";

pub fn digests(place: &Place) -> Vec<Sha256Digest> {
    let packages = place.request.packages.iter();
    packages.map(|package| package.digest).collect()
}

async fn good_request(place: &Place, peer: &mut Peer) -> Value {
    let nonce = peer.challenge().await;
    peer.keys_request(&place.chip, nonce, &place.request, &digests(place))
}

fn spent() -> (u16, String) {
    (409, "challenge_spent".to_owned())
}

#[test]
fn k06_a_challenge_is_answered_once_by_a_good_answer_or_a_bad_one() {
    let place = Place::new();
    let broker = place.start();
    runtime().block_on(async {
        let mut peer = Peer::connect(&broker, &Identity::new()).await.unwrap();
        let nobodys = place.request.configuration.to_string().parse().unwrap();
        let unasked = peer.keys_request(&place.chip, nobodys, &place.request, &digests(&place));
        assert_eq!(
            peer.refusal(KEYS, &unasked).await,
            spent(),
            "none was given"
        );

        let good = good_request(&place, &mut peer).await;
        let (status, answer) = peer.post(KEYS, &good).await;
        assert_eq!(status, 200, "{answer}");
        assert_eq!(peer.refusal(KEYS, &good).await, spent(), "used");

        let good = good_request(&place, &mut peer).await;
        let bad = peer.refusal(KEYS, &json!({})).await;
        assert_eq!(bad, (400, "malformed".to_owned()));
        assert_eq!(
            peer.refusal(KEYS, &good).await,
            spent(),
            "used by a bad answer"
        );

        let older = good_request(&place, &mut peer).await;
        peer.challenge().await;
        let (status, answer) = peer.post(KEYS, &older).await;
        assert_eq!((status, code(&answer).as_str()), (403, "evidence_rejected"));
        assert!(answer.to_string().contains("S16"), "{answer}");

        // A challenge of one connection opens nothing on another.
        let mut other = Peer::connect(&broker, &Identity::new()).await.unwrap();
        let nonce = peer.challenge().await;
        let theirs = other.keys_request(&place.chip, nonce, &place.request, &digests(&place));
        assert_eq!(other.refusal(KEYS, &theirs).await, spent());
    });
}

#[test]
fn a_peer_must_hold_the_key_of_the_one_certificate_that_it_shows() {
    let place = Place::new();
    let broker = place.start();
    runtime().block_on(async {
        let connects = async |identity: Identity| -> std::io::Result<()> {
            let mut peer = Peer::connect(&broker, &identity).await?;
            let (status, _) = peer.call("POST", "/release/challenge", b"{}").await?;
            assert_eq!(status, 200);
            Ok(())
        };
        let (own, victim) = (Identity::new(), Identity::new());
        connects(own.clone()).await.unwrap();
        let borrowed = Identity {
            chain: victim.chain.clone(),
            ..own.clone()
        };
        assert!(connects(borrowed).await.is_err(), "another's certificate");
        let two = Identity {
            chain: [own.chain.clone(), victim.chain].concat(),
            ..own.clone()
        };
        assert!(connects(two).await.is_err(), "a second certificate");
        let none = Identity {
            chain: Vec::new(),
            ..own
        };
        assert!(connects(none).await.is_err(), "no certificate");
        let long = Identity::with_names(250);
        assert!(long.chain[0].len() > 4096);
        assert!(connects(long).await.is_err(), "a long certificate");
    });
}

#[test]
fn b25_requests_are_read_strictly() {
    let place = Place::new();
    let broker = place.start();
    runtime().block_on(async {
        let mut peer = Peer::connect(&broker, &Identity::new()).await.unwrap();
        let malformed = (400, "malformed".to_owned());
        let more = json!({"more": 1});
        assert_eq!(peer.refusal("/release/challenge", &more).await, malformed);
        let mut keys = good_request(&place, &mut peer).await;
        keys["more"] = json!(1);
        assert_eq!(peer.refusal(KEYS, &keys).await, malformed);
        let mut keys = good_request(&place, &mut peer).await;
        keys["packages"][0]["more"] = json!(1);
        assert_eq!(peer.refusal(KEYS, &keys).await, malformed);

        let have = json!({"policy_number": 0, "revocation_number": 0});
        let before = (403, "attestation_required".to_owned());
        assert_eq!(peer.refusal(UPDATES, &have).await, before);
        let good = good_request(&place, &mut peer).await;
        assert_eq!(peer.post(KEYS, &good).await.0, 200);
        assert_eq!(peer.post(UPDATES, &have).await.0, 200);
        let more = json!({"policy_number": 0, "revocation_number": 0, "more": 1});
        assert_eq!(peer.refusal(UPDATES, &more).await, malformed);

        let (status, got) = peer.call("GET", UPDATES, b"").await.unwrap();
        assert_eq!((status, code(&got).as_str()), (404, "malformed"));
        let other = peer.refusal("/release/all", &have).await;
        assert_eq!(other, (404, "malformed".to_owned()));
        let long = vec![b' '; ENVELOPE_BYTES_MAX.div_ceil(3) * 4 + 64 * 1024 + 1];
        let (status, got) = peer.call("POST", UPDATES, &long).await.unwrap();
        assert_eq!((status, code(&got).as_str()), (413, "malformed"));
    });
}

#[test]
fn evidence_must_name_the_models_whose_keys_are_asked_for() {
    let place = Place::new();
    let broker = place.start();
    runtime().block_on(async {
        let mut peer = Peer::connect(&broker, &Identity::new()).await.unwrap();
        let other = vec![Sha256Digest::of(b"another model")];
        for models in [
            Vec::new(),
            other,
            [digests(&place), digests(&place)].concat(),
        ] {
            let nonce = peer.challenge().await;
            let request = peer.keys_request(&place.chip, nonce, &place.request, &models);
            let (status, answer) = peer.post(KEYS, &request).await;
            assert_eq!((status, code(&answer).as_str()), (403, "evidence_rejected"));
            assert!(answer.to_string().contains("other models"), "{answer}");
        }
    });
}

async fn attest(place: &Place, broker: &Running) -> std::io::Result<Peer> {
    let mut peer = Peer::connect(broker, &Identity::new()).await?;
    let (_, challenge) = peer.call("POST", "/release/challenge", b"{}").await?;
    let nonce = challenge["nonce"].as_str().unwrap().parse().unwrap();
    let good = peer.keys_request(&place.chip, nonce, &place.request, &digests(place));
    let (status, answer) = peer.call("POST", KEYS, good.to_string().as_bytes()).await?;
    assert_eq!(status, 200, "{answer}");
    Ok(peer)
}

#[test]
fn who_does_not_hurry_is_dropped() {
    let place = Place::new();
    place.configure("limits = { request_seconds = 2, unattested_seconds = 4 }");
    let broker = place.start();
    // No handshake.
    let mut silent = TcpStream::connect(&broker.address.address).unwrap();
    silent
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let started = Instant::now();
    assert_eq!(silent.read(&mut [0; 16]).unwrap(), 0);
    assert!(started.elapsed() >= Duration::from_millis(900));
    runtime().block_on(async {
        // Half a request.
        let mut slow = Peer::connect(&broker, &Identity::new()).await.unwrap();
        let head = b"POST /release/updates HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n{";
        slow.send(head).await.unwrap();
        let (status, answer) = slow.answer().await.unwrap();
        assert_eq!((status, code(&answer).as_str()), (413, "malformed"));
        // Calls, and no attestation.
        let mut idle = Peer::connect(&broker, &Identity::new()).await.unwrap();
        let mut attested = loop {
            // On a busy machine this, too, may take longer than the broker waits.
            let attested = attest(&place, &broker).await;
            if let Ok(peer) = attested {
                break peer;
            }
        };
        let have = json!({"policy_number": 0, "revocation_number": 0});
        let pause = || tokio::time::sleep(Duration::from_millis(200));
        let started = Instant::now();
        while idle.call("POST", "/release/challenge", b"{}").await.is_ok() {
            let waited = started.elapsed();
            assert!(waited < Duration::from_secs(60), "asks for ever");
            assert_eq!(attested.post(UPDATES, &have).await.0, 200);
            pause().await;
        }
        for _ in 0..12 {
            assert_eq!(attested.post(UPDATES, &have).await.0, 200);
            pause().await;
        }
    });
}
