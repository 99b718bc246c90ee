//! The broker as a server meets it: over TLS on a socket, with evidence of the test chip. Each refusal is provoked through
//! the public interface, and nothing is released with it.

#![cfg(feature = "test-chip")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

mod connection;
mod gpus;
mod guard;
mod place;
mod raw;

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use casemate::broker::client::{
    OwnMachine, PackageRequest, ReleaseClient, ReleaseError, ReleaseRequest,
};
use casemate::guard::mark::{MarkRoot, root_label};
use casemate::keys::{KeyEncryption, PackageId};
use casemate::org::{Organisation, authority, documents};
use casemate::policy::PolicyDocument;
use casemate_attestation::{
    FleetList, Issue, Measurement, Platform, ReferenceValues, Revocations, SignedDocument, UnixTime,
};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use place::*;

#[test]
fn an_attested_server_gets_leaf_documents_and_keys() {
    let place = Place::new();
    let broker = place.start();
    let (released, mut client) = broker.release(place.chip.clone(), &place.request).unwrap();
    assert_eq!(released.keys[0].1.expose(), &MARKER_KEY);
    assert_eq!(released.leaf_chain.len(), 2);
    assert_eq!(
        released.policy_bundle,
        fs::read(place.path("org/policy.json")).unwrap()
    );

    // P-52: nothing new, then a new revocation list, without a restart.
    let updates = runtime().block_on(client.updates(1, 1)).unwrap();
    assert!(updates.policy_bundle.is_none() && updates.revocations.is_none());
    let what = documents::Revocation::Principal("spiffe://example/team/a/b".into());
    documents::revoke(&place.organisation(), what, 90, now()).unwrap();
    let updates = runtime().block_on(client.updates(1, 1)).unwrap();
    let list = fs::read(place.path("org/revoked.json")).unwrap();
    assert_eq!(updates.revocations.unwrap(), list);
    assert!(place.audit().contains("released"));

    // A chip that is struck off the fleet list gets nothing any more.
    documents::sign_next(
        &place.organisation(),
        &FleetList { chips: Vec::new() },
        90,
        now(),
    )
    .unwrap();
    assert_eq!(refused_update(&mut client), "evidence_rejected");
}

/// The key of marks is derived for the policy's epoch, and nobody else's.
#[test]
fn the_key_of_marks_is_that_of_the_policys_epoch() {
    let place = Place::new();
    let kek = place.organisation().kek().unwrap();
    for epoch in [1, 2] {
        let policy = PolicyDocument {
            mark_epoch: epoch,
            ..policy_for_all()
        };
        documents::sign_next(&place.organisation(), &policy, 90, now()).unwrap();
        let broker = place.start();
        let (released, _) = broker.release(place.chip.clone(), &place.request).unwrap();
        let derived = kek.derive(&root_label(epoch)).unwrap();
        let expected = MarkRoot::new(*derived.expose(), epoch);
        assert_eq!(released.mark.epoch(), epoch);
        let canary = |root: &MarkRoot| root.team("red").canary();
        assert_eq!(canary(&released.mark), canary(&expected));
    }
}

fn refused_update(client: &mut ReleaseClient) -> String {
    match runtime().block_on(client.updates(0, 0)).unwrap_err() {
        ReleaseError::Refused { code, .. } => code,
        other => panic!("{other}"),
    }
}

#[test]
fn b01_b13_updates_end_when_chip_or_measurement_no_longer_count() {
    let place = Place::new();
    let broker = place.start();
    let (_, mut client) = broker.release(place.chip.clone(), &place.request).unwrap();
    let organisation = place.organisation();
    let values = documents::open_for_editing::<ReferenceValues>(&organisation).unwrap();
    let fleet = documents::open_for_editing::<FleetList>(&organisation).unwrap();
    let (values, fleet) = (values.into_payload(), fleet.into_payload());
    let mut updates = |values: &ReferenceValues, fleet: &FleetList| {
        documents::sign_next(&organisation, values, 90, now()).unwrap();
        documents::sign_next(&organisation, fleet, 90, now()).unwrap();
        runtime().block_on(client.updates(0, 0)).map(drop)
    };
    updates(&values, &fleet).unwrap();
    let mut other = values.clone();
    let section = other.test_chip.as_mut().unwrap();
    section.measurements[0].measurement = Measurement::from_bytes([1; 48]);
    assert!(updates(&other, &fleet).is_err(), "another measurement");
    let mut elsewhere = values.clone();
    elsewhere.snp = elsewhere.test_chip.take();
    assert!(updates(&elsewhere, &fleet).is_err(), "on another platform");
    let mut moved = fleet.clone();
    moved.chips[0].platform = Platform::Snp;
    assert!(updates(&values, &moved).is_err(), "a chip of another one");
    updates(&values, &fleet).unwrap();
}

#[test]
fn what_cannot_be_recorded_is_not_released() {
    let place = Place::new();
    let broker = place.start();
    broker.release(place.chip.clone(), &place.request).unwrap();
    // The log is moved away and something that is no file stands in its place.
    fs::rename(place.path("audit"), place.path("audit.1")).unwrap();
    fs::create_dir(place.path("audit")).unwrap();
    let (code, message) = broker.refusal(place.chip.clone(), &place.request);
    assert_eq!(code, "internal", "{message}");
    assert!(!message.contains("audit"), "{message}");
    fs::remove_dir(place.path("audit")).unwrap();
    broker.release(place.chip.clone(), &place.request).unwrap();
    assert!(place.audit().contains("released"));
}

#[test]
fn a_server_takes_no_broker_but_the_pinned_one() {
    let place = Place::new();
    let names = ["localhost".to_owned()];
    let (other, _) = authority::broker_identity("example", &names, now().secs()).unwrap();
    let other = CertificateDer::from_pem_slice(other.as_bytes()).unwrap();
    let mut broker = place.start();
    let refused = |broker: &Running| {
        let refused = broker.release(place.chip.clone(), &place.request);
        assert!(matches!(refused, Err(ReleaseError::Connect { .. })));
    };
    let good = broker.address.clone();
    broker.address.authority = other;
    refused(&broker);
    broker.address = good.clone();
    // The broker's certificate has the name localhost only.
    broker.address.name = "broker.example".into();
    refused(&broker);
    broker.address = good;
    broker.release(place.chip.clone(), &place.request).unwrap();
    assert!(!place.audit().contains("\"allowed\":false"));
}

#[test]
fn k06_evidence_replayed_to_the_broker_is_refused() {
    let place = Place::new();
    let broker = place.start();
    let replay = Replay(place.chip.clone(), Arc::default());
    broker.release(replay.clone(), &place.request).unwrap();
    let (code, message) = broker.refusal(replay, &place.request);
    assert_eq!(code, "evidence_rejected");
    assert!(message.contains("S16"), "{message}");
    assert!(place.audit().contains("evidence_rejected"));
}

#[test]
fn a11_evidence_for_one_broker_is_refused_by_a_second_replica() {
    let (one, mut two) = (Place::new(), Place::new());
    two.request = one.request.clone();
    let replay = Replay(one.chip.clone(), Arc::default());
    one.start().release(replay.clone(), &one.request).unwrap();
    let (code, _) = two.start().refusal(replay, &two.request);
    assert_eq!(code, "evidence_rejected");
    // And a second process on the same store does not even start.
    let _running = two.start();
    let (status, text) = two.refuses_to_start();
    assert_eq!(status, 3);
    assert!(text.contains("in use by another broker"), "{text}");
}

#[test]
fn b01_b07_b08_b13_wrong_evidence_is_refused_by_the_rule_it_breaks() {
    let place = Place::new();
    let broker = place.start();
    let chip = || place.chip.clone();
    let wrong = Measurement::from_bytes([1; 48]);
    type Refusal<'a> = Box<dyn Fn() -> (String, String) + 'a>;
    let rules: [(&str, Refusal<'_>); 4] = [
        (
            "S17",
            Box::new(|| broker.refusal(chip().with_measurement(wrong), &place.request)),
        ),
        (
            "S12",
            Box::new(|| broker.refusal(Altered(chip(), |t| t.policy |= 1 << 19), &place.request)),
        ),
        (
            "S13",
            Box::new(|| broker.refusal(Altered(chip(), |t| t.vmpl = 1), &place.request)),
        ),
        (
            "S19",
            Box::new(|| broker.refusal(chip().chip(1, now()), &place.request)),
        ),
    ];
    for (rule, refusal) in rules {
        let (code, message) = refusal();
        assert_eq!(code, "evidence_rejected", "{message}");
        assert!(
            message.contains(&format!("rule {rule}:")),
            "{rule}: {message}"
        );
    }
    assert_eq!(place.audit().matches("evidence_rejected").count(), 4);
    assert!(!place.audit().contains("\"released\""));
}

#[test]
fn names_packages_and_epochs_are_checked_and_nothing_is_released_in_part() {
    let place = Place::new();
    let broker = place.start();
    let ask = |change: &dyn Fn(&mut ReleaseRequest)| {
        let mut request = place.request.clone();
        change(&mut request);
        broker.refusal(place.chip.clone(), &request).0
    };
    assert_eq!(ask(&|r| r.names.push("other".into())), "name_not_allowed");
    assert_eq!(ask(&|r| r.names.clear()), "malformed");
    assert_eq!(ask(&|r| r.packages.clear()), "malformed");
    assert_eq!(
        ask(&|r| r.packages[0].digest = digest_of(9, 1)),
        "package_unknown"
    );
    assert_eq!(
        ask(&|r| r.packages[0].key_id = "file:0000000000000000".into()),
        "package_unknown"
    );
    assert_eq!(ask(&|r| r.packages[0].epoch = 0), "epoch_below_floor");
    assert_eq!(ask(&|r| r.packages[0].epoch = 2), "package_unknown");
    let many = |r: &mut ReleaseRequest| r.names = vec!["localhost".into(); 65];
    assert_eq!(ask(&many), "malformed");
    let many = |r: &mut ReleaseRequest| r.packages = vec![r.packages[0].clone(); 65];
    assert_eq!(ask(&many), "malformed");
    let unknown = PackageRequest {
        id: PackageId::from_bytes([9; 16]),
        digest: digest_of(9, 1),
        ..place.request.packages[0].clone()
    };
    assert_eq!(
        ask(&|r| r.packages.push(unknown.clone())),
        "package_unknown"
    );

    let unnamed = place.register(1, NOT_IN_POLICY);
    assert_eq!(
        ask(&|r| r.packages[0] = unnamed.clone()),
        "package_not_in_policy"
    );

    // A newer package of the same model raises the floor at once and for good.
    let newer = place.register(2, 8);
    assert_eq!(ask(&|_| {}), "epoch_below_floor");
    fs::remove_file(place.path("org/keys").join(format!("{}.json", newer.id))).unwrap();
    assert_eq!(ask(&|_| {}), "epoch_below_floor");
}

/// Edits the file of the package `id` in the organisation's folder.
fn edit_key(place: &Place, id: u8, from: &str, to: &str) {
    let id = PackageId::from_bytes([id; 16]);
    let path = place.path("org/keys").join(format!("{id}.json"));
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(&path, text.replace(from, to)).unwrap();
}

#[test]
fn k02_a_package_under_another_name_does_not_pass_below_its_own_floor() {
    let place = Place::new();
    let broker = place.start();
    let old = place.register(1, 9);
    let path = place.path("org/keys").join(format!("{}.json", old.id));
    let bytes = fs::read(&path).unwrap();
    let new = place.register(2, 9);
    let ask = |package: &PackageRequest| {
        let packages = vec![package.clone()];
        let request = ReleaseRequest {
            packages,
            ..place.request.clone()
        };
        broker.release(place.chip.clone(), &request)
    };
    ask(&new).unwrap();
    // The file of the older epoch, genuine but for the name, which is for people.
    fs::write(&path, bytes).unwrap();
    edit_key(&place, 9, "\"story\"", "\"history\"");
    match ask(&old).unwrap_err() {
        ReleaseError::Refused { code, .. } => assert_eq!(code, "epoch_below_floor"),
        other => panic!("{other}"),
    }
}

#[test]
fn a_key_that_another_key_encryption_key_wrapped_is_not_registered_here() {
    let place = Place::new();
    let broker = place.start();
    let here = place.request.packages[0].key_id.clone();
    let other = "file:0000000000000000";
    edit_key(&place, 7, &here, other);
    let mut request = place.request.clone();
    request.packages[0].key_id = other.into();
    let (code, message) = broker.refusal(place.chip.clone(), &request);
    assert_eq!(code, "package_unknown", "{message}");
}

#[test]
fn b04_configuration_and_not_evidence_chooses_the_roots() {
    let place = Place::new();
    place.configure("platform = \"snp\"");
    let (status, text) = place.refuses_to_start();
    assert_eq!(status, 12);
    assert!(text.contains("no section for platform snp"), "{text}");
}

#[test]
fn b03_empty_lists_mean_none() {
    let place = Place::new();
    documents::sign_next(
        &place.organisation(),
        &FleetList { chips: Vec::new() },
        90,
        now(),
    )
    .unwrap();
    let (status, text) = place.refuses_to_start();
    assert_eq!(status, 12);
    assert!(text.contains("no chip is listed"), "{text}");
}

#[test]
fn b06_unsigned_older_and_expired_documents_are_refused() {
    let place = Place::new();
    let reference = place.path("org/reference.json");
    let old = fs::read(&reference).unwrap();
    let broker = place.start();
    let values = documents::open_for_editing::<ReferenceValues>(&place.organisation()).unwrap();
    let payload = values.into_payload();
    documents::sign_next(&place.organisation(), &payload, 90, now()).unwrap();
    broker.release(place.chip.clone(), &place.request).unwrap();

    let refused = |text: &str| {
        let (code, message) = broker.refusal(place.chip.clone(), &place.request);
        assert_eq!(code, "policy_expired", "{message}");
        assert!(
            message.contains("reference.json") && message.contains(text),
            "{message}"
        );
    };
    // An older one, genuine as it is.
    fs::write(&reference, &old).unwrap();
    refused("older than");
    // The bare payload, without a signature.
    fs::write(&reference, serde_json::to_vec(&payload).unwrap()).unwrap();
    refused("malformed");
    // A signature over other bytes.
    let text = String::from_utf8(old).unwrap();
    fs::write(&reference, text.replace("\"number\":2", "\"number\":9")).unwrap();
    refused("signature");
    let organisation = Organisation::open(&place.path("org"));
    assert!(
        organisation
            .unwrap_err()
            .to_string()
            .contains("reference.json")
    );
}

#[test]
fn b06_an_expired_document_ends_releases() {
    let place = Place::new();
    let past = UnixTime::from_secs(now().secs() - 10 * 86_400);
    let none = Revocations {
        certificates: Vec::new(),
        principals: Vec::new(),
    };
    documents::sign_next(&place.organisation(), &none, 1, past).unwrap();
    let (status, text) = place.refuses_to_start();
    assert_eq!(status, 12);
    assert!(
        text.contains("revoked.json") && text.contains("expired"),
        "{text}"
    );
}

#[test]
fn b06_a_document_that_expires_ends_releases_and_updates_of_a_running_broker() {
    let place = Place::new();
    let organisation = place.organisation();
    let values = documents::open_for_editing::<ReferenceValues>(&organisation).unwrap();
    let issue = Issue {
        number: values.number() + 1,
        issued: now().minus(60),
        expires: now().plus(6),
    };
    let key = organisation.release_secret().unwrap();
    let bytes = SignedDocument::sign(values.payload(), issue, &key).unwrap();
    fs::write(place.path("org/reference.json"), bytes).unwrap();
    let broker = place.start();
    let (_, mut client) = broker.release(place.chip.clone(), &place.request).unwrap();
    runtime().block_on(client.updates(0, 0)).unwrap();
    while now() < issue.expires {
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    let (code, message) = broker.refusal(place.chip.clone(), &place.request);
    assert_eq!(code, "policy_expired");
    assert!(message.contains("reference.json"), "{message}");
    assert_eq!(refused_update(&mut client), "policy_expired");
}

#[test]
fn a_broker_without_a_policy_does_not_start() {
    let place = Place::new();
    fs::remove_file(place.path("org/policy.json")).unwrap();
    let (status, text) = place.refuses_to_start();
    assert_ne!(status, 0);
    assert!(text.contains("policy.json"), "{text}");
}

#[test]
fn k12_a_broker_whose_state_was_lost_or_rolled_back_does_not_start() {
    let place = Place::new();
    place
        .start()
        .release(place.chip.clone(), &place.request)
        .unwrap();
    let old = fs::read(place.path("state/broker.redb")).unwrap();
    place
        .start()
        .release(place.chip.clone(), &place.request)
        .unwrap();
    place
        .start()
        .release(place.chip.clone(), &place.request)
        .unwrap();
    let good = fs::read(place.path("state/broker.redb")).unwrap();

    fs::write(place.path("state/broker.redb"), old).unwrap();
    let (status, text) = place.refuses_to_start();
    assert_eq!(status, 3);
    assert!(
        text.contains("rolled back") && text.contains("hint:"),
        "{text}"
    );

    fs::remove_file(place.path("state/broker.redb")).unwrap();
    let (status, text) = place.refuses_to_start();
    assert_eq!(status, 3);
    assert!(text.contains("--new-state"), "{text}");

    fs::write(place.path("state/broker.redb"), good).unwrap();
    let again = place.command().arg("--new-state").output().unwrap();
    assert_eq!(again.status.code(), Some(3), "a store is made once");
    place
        .start()
        .release(place.chip.clone(), &place.request)
        .unwrap();
}

#[test]
fn a_broker_killed_at_any_point_starts_again_and_forgets_no_epoch() {
    let place = Place::new();
    let mut floor = 1;
    for round in 0..12_u64 {
        let mut broker = place.start();
        let id = 20 + u8::try_from(round).unwrap();
        let package = place.register(floor + 1, id);
        floor += 1;
        let request = ReleaseRequest {
            packages: vec![package],
            ..place.request.clone()
        };
        let address = broker.address.clone();
        let machine = OwnMachine::alone(Arc::new(place.chip.clone()));
        let asked = std::thread::spawn(move || {
            runtime()
                .block_on(ReleaseClient::release(&address, &machine, &request))
                .is_ok()
        });
        std::thread::sleep(std::time::Duration::from_millis(round * 3));
        broker.child.kill().unwrap();
        asked.join().unwrap();
    }
    let broker = place.start();
    let (code, _) = broker.refusal(place.chip.clone(), &place.request);
    assert_eq!(code, "epoch_below_floor");
    let package = place.register(floor + 1, 99);
    let request = ReleaseRequest {
        packages: vec![package],
        ..place.request.clone()
    };
    broker.release(place.chip.clone(), &request).unwrap();
}

#[test]
fn k08_no_key_is_in_arguments_environment_audit_or_readable_files() {
    let place = Place::new();
    let mut broker = place.start();
    broker.release(place.chip.clone(), &place.request).unwrap();
    let secrets: Vec<Vec<u8>> = vec![
        MARKER_KEY.to_vec(),
        hex::encode(MARKER_KEY).into_bytes(),
        format!("{MARKER_KEY:?}").into_bytes(),
        fs::read(place.path("org/kek.key")).unwrap(),
        fs::read(place.path("org/test-chip/seed")).unwrap(),
    ];
    let clean = |what: &str, bytes: &[u8]| {
        for secret in &secrets {
            let found = bytes
                .windows(secret.len())
                .any(|window| window == secret.as_slice());
            assert!(!found, "a key is in {what}");
        }
    };
    let process = PathBuf::from(format!("/proc/{}", broker.child.id()));
    clean("arguments", &fs::read(process.join("cmdline")).unwrap());
    clean("environment", &fs::read(process.join("environ")).unwrap());
    let mut log = broker.child.stderr.take().unwrap();
    broker.child.kill().unwrap();
    let mut said = Vec::new();
    log.read_to_end(&mut said).unwrap();
    assert!(!said.is_empty());
    clean("the log", &said);
    let mut pending = vec![place.folder.path().to_owned()];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let about = entry.metadata().unwrap();
            if about.is_dir() {
                pending.push(entry.path());
            } else if about.permissions().mode() & 0o077 != 0 || entry.file_name() == "audit" {
                clean(
                    &entry.path().display().to_string(),
                    &fs::read(entry.path()).unwrap(),
                );
            }
        }
    }
}

#[test]
fn a_secret_file_that_others_may_read_is_refused_with_the_remedy() {
    let place = Place::new();
    let kek = place.path("org/kek.key");
    fs::set_permissions(&kek, fs::Permissions::from_mode(0o644)).unwrap();
    let (status, text) = place.refuses_to_start();
    assert_eq!(status, 3);
    assert!(
        text.contains("kek.key") && text.contains("chmod 600"),
        "{text}"
    );
}
