//! Known answers for binding, batch and confirmation, from a separate implementation; and what must never coincide.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

mod common;

use std::collections::BTreeSet;

use casemate_attestation::{
    Batch, BatchError, BatchPath, Binding, BindingInputs, Context, Direction, Nonce, Sha256Digest,
    confirmation_message,
};
use proptest::prelude::*;
use serde::Deserialize;

use common::{Channel, channel, context};

#[derive(Deserialize)]
struct Vectors {
    sessions: Vec<Session>,
    batches: Vec<BatchVector>,
}

#[derive(Deserialize)]
struct Session {
    name: String,
    direction: Direction,
    exporter: Sha256Digest,
    server_leaf: Sha256Digest,
    client_leaf: Sha256Digest,
    nonce: Nonce,
    context: Context,
    binding: String,
    evidence: Sha256Digest,
    confirmation: String,
}

#[derive(Deserialize)]
struct BatchVector {
    bindings: usize,
    report_data: String,
}

impl Session {
    fn binding(&self) -> Binding {
        let (exporter, context) = (self.exporter.as_bytes(), &self.context);
        let Self {
            direction,
            server_leaf,
            client_leaf,
            nonce,
            ..
        } = *self;
        BindingInputs {
            direction,
            exporter,
            server_leaf,
            client_leaf,
            nonce,
            context,
        }
        .binding()
    }
}

fn vectors() -> Vectors {
    serde_json::from_slice(include_bytes!("vectors/binding.json")).unwrap()
}

#[test]
fn k09_bindings_and_confirmations_equal_the_known_answers_and_differ_from_each_other() {
    let vectors = vectors();
    let mut seen = BTreeSet::new();
    for session in &vectors.sessions {
        let binding = session.binding();
        assert_eq!(binding.to_string(), session.binding, "{}", session.name);
        let message = confirmation_message(&binding, &session.evidence);
        assert_eq!(
            hex::encode(message),
            session.confirmation,
            "{}",
            session.name
        );
        assert!(seen.insert(session.binding.clone()), "{}", session.name);
    }
    assert_eq!(seen.len(), 7);
}

#[test]
fn k09_batches_equal_the_known_answers_and_no_session_is_its_own_batch() {
    let vectors = vectors();
    let bindings: Vec<Binding> = vectors.sessions.iter().map(Session::binding).collect();
    let mut seen: BTreeSet<String> = bindings.iter().map(Binding::to_string).collect();
    for vector in &vectors.batches {
        let batch = Batch::new(&bindings[..vector.bindings]).unwrap();
        assert_eq!(
            hex::encode(batch.report_data()),
            vector.report_data,
            "{} bindings",
            vector.bindings
        );
        assert!(
            seen.insert(vector.report_data.clone()),
            "labels keep a batch of one apart from a binding"
        );
    }
}

#[test]
fn batches_are_bounded() {
    let binding = channel().binding(&context());
    assert_eq!(Batch::new(&[]).unwrap_err(), BatchError::Empty);
    assert_eq!(
        Batch::new(&vec![binding; 65_537]).unwrap_err(),
        BatchError::TooManyLeaves(65_537)
    );
    let full = Batch::new(&vec![binding; 65_536]).unwrap();
    assert_eq!(
        full.path(65_535).unwrap().report_data(&binding),
        full.report_data()
    );
    assert_eq!(full.path(65_536), None);
    let read = |text: &str| {
        serde_json::from_str::<BatchPath>(text)
            .unwrap_err()
            .to_string()
    };
    let sibling = "00".repeat(64);
    assert!(read(r#"{"index":0,"leaves":0,"path":[]}"#).contains("not below"));
    assert!(read(r#"{"index":2,"leaves":2,"path":[]}"#).contains("not below"));
    assert!(read(r#"{"index":0,"leaves":65537,"path":[]}"#).contains("more than 65536"));
    assert!(read(r#"{"index":0,"leaves":2,"path":[]}"#).contains("0 siblings"));
    assert!(
        read(&format!(r#"{{"index":0,"leaves":1,"path":["{sibling}"]}}"#)).contains("1 siblings")
    );
    assert!(read(r#"{"index":0,"leaves":2,"path":["00"]}"#).contains("64 bytes"));
    assert!(
        read(&format!(
            r#"{{"index":0,"leaves":2,"path":["{}"]}}"#,
            "AA".repeat(64)
        ))
        .contains("lower-case")
    );
}

#[test]
fn bindings_are_compared_as_a_whole() {
    let binding = channel().binding(&context());
    for bit in 0..512 {
        let mut other = *binding.as_bytes();
        other[bit / 8] ^= 1 << (bit % 8);
        assert!(!binding.matches(&other));
    }
    assert!(binding.matches(&{ *binding.as_bytes() }));
    assert_eq!(binding, channel().binding(&context()));
    assert_ne!(binding, numbered(0));
}

fn numbered(number: usize) -> Binding {
    let mut nonce = [0; 32];
    nonce[..8].copy_from_slice(&number.to_be_bytes());
    Channel {
        nonce: Nonce::from_bytes(nonce),
        ..channel()
    }
    .binding(&context())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn every_path_leads_to_the_report_and_no_other_binding_does(count in 1_usize..200, pick in any::<prop::sample::Index>()) {
        let bindings: Vec<Binding> = (0..count).map(numbered).collect();
        let batch = Batch::new(&bindings).unwrap();
        let index = pick.index(count);
        let path = batch.path(index).unwrap();
        prop_assert_eq!(path.report_data(&bindings[index]), batch.report_data());
        prop_assert_ne!(path.report_data(&numbered(count)), batch.report_data());
        if count > 1 {
            prop_assert_ne!(path.report_data(&bindings[(index + 1) % count]), batch.report_data());
        }
        let text = serde_json::to_string(&path).unwrap();
        prop_assert_eq!(serde_json::from_str::<BatchPath>(&text).unwrap(), path);
    }
}
