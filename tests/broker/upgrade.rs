//! From one image to the next: both accepted for a while, the older closed by its date, and never opened again.

use std::time::Duration;

use casemate::org::documents;
use casemate_attestation::{Measurement, ReferenceValues, SnpMeasurement, UnixTime};

use crate::place::*;
use crate::refused_update;

/// The measurement of the newer image.
const NEWER: [u8; 48] = [0x42; 48];

/// Signs reference values in which the present image has this end and the newer one stands beside it.
fn sign(place: &Place, older_until: Option<UnixTime>, newer_until: Option<UnixTime>) {
    let organisation = place.organisation();
    let values = documents::open_for_editing::<ReferenceValues>(&organisation).unwrap();
    let mut values = values.into_payload();
    let section = values.test_chip.as_mut().unwrap();
    section.measurements.truncate(1);
    section.measurements[0].until = older_until;
    section.measurements.push(SnpMeasurement {
        measurement: Measurement::from_bytes(NEWER),
        label: "newer".into(),
        until: newer_until,
    });
    documents::sign_next(&organisation, &values, 90, now()).unwrap();
}

fn newer(place: &Place) -> Altered {
    Altered(place.chip.clone(), |template| {
        template.measurement = Measurement::from_bytes(NEWER);
    })
}

#[test]
fn o5_an_older_image_closes_by_its_date_and_its_servers_are_sent_away() {
    let place = Place::new();
    let end = now().plus(8);
    sign(&place, Some(end), None);
    let broker = place.start();
    let (_, mut older) = broker.release(place.chip.clone(), &place.request).unwrap();
    let (_, mut of_newer) = broker.release(newer(&place), &place.request).unwrap();
    runtime().block_on(older.updates(1, 1)).unwrap();
    while now() < end {
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(refused_update(&mut older), "evidence_rejected");
    runtime().block_on(of_newer.updates(1, 1)).unwrap();
    let (code, message) = broker.refusal(place.chip.clone(), &place.request);
    assert_eq!(code, "evidence_rejected");
    assert!(message.contains("O-5"), "{message}");
    broker.release(newer(&place), &place.request).unwrap();
}

#[test]
fn k02_an_image_that_has_ended_is_not_opened_by_a_later_document() {
    let place = Place::new();
    // As long as a busy machine may take until it was released once.
    let end = now().plus(8);
    sign(&place, Some(end), None);
    let broker = place.start();
    broker.release(place.chip.clone(), &place.request).unwrap();
    while now() <= end {
        std::thread::sleep(Duration::from_millis(100));
    }
    // Whoever has the release key signs the older image again: without an end, and with a later one.
    for later in [None, Some(now().plus(1_000_000))] {
        sign(&place, later, None);
        let (code, message) = broker.refusal(place.chip.clone(), &place.request);
        assert_eq!(code, "evidence_rejected");
        assert!(message.contains("never is again"), "{message}");
        broker.release(newer(&place), &place.request).unwrap();
    }
    // Nor after a restart of the broker.
    drop(broker);
    let broker = place.start();
    let (code, _) = broker.refusal(place.chip.clone(), &place.request);
    assert_eq!(code, "evidence_rejected");
}

#[test]
fn an_end_that_has_not_come_can_be_moved() {
    let place = Place::new();
    sign(&place, Some(now().plus(3)), None);
    let broker = place.start();
    broker.release(place.chip.clone(), &place.request).unwrap();
    sign(&place, Some(now().plus(1_000_000)), None);
    broker.release(place.chip.clone(), &place.request).unwrap();
    std::thread::sleep(Duration::from_secs(4));
    broker.release(place.chip.clone(), &place.request).unwrap();
}

#[test]
fn the_audit_log_says_who_signed_which_images_into_force() {
    let place = Place::new();
    let broker = place.start();
    let end = now().plus(1_000_000);
    sign(&place, Some(end), None);
    broker.release(newer(&place), &place.request).unwrap();
    let lines: Vec<serde_json::Value> = place
        .audit()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|line: &serde_json::Value| line["kind"] == "reference_in_force")
        .collect();
    let [first, second] = lines.as_slice() else {
        panic!("{lines:?}");
    };
    let key = place.organisation().release_key().id().to_string();
    for line in [first, second] {
        assert_eq!(line["signed_by"], key.as_str());
    }
    assert_eq!(second["number"], first["number"].as_u64().unwrap() + 1);
    assert_eq!(first["images"].as_array().unwrap().len(), 1);
    assert!(first["images"][0]["until"].is_null());
    let images = second["images"].as_array().unwrap();
    assert_eq!(images.len(), 2);
    assert_eq!(images[0]["until"], end.secs());
    assert_eq!(images[1]["label"], "newer");
    assert!(images[1]["until"].is_null());
    // The older image is the same one in both documents.
    assert_eq!(images[0]["image"], first["images"][0]["image"]);
}
