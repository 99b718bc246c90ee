//! Signed documents and their payloads. Nothing that a fuzzer makes is signed; a payload that is
//! read can be written, and is read back as the same.
#![no_main]

use casemate_attestation::{
    FleetList, Payload, ReferenceValues, ReleasePublicKey, Revocations, SignedDocument, UnixTime,
};
use libfuzzer_sys::fuzz_target;

const FLEET: &[u8] = include_bytes!("../seeds/signed_document/fleet.json");
const REFERENCE: &[u8] = include_bytes!("../seeds/signed_document/reference.json");
const REVOCATIONS: &[u8] = include_bytes!("../seeds/signed_document/revocations.json");

fuzz_target!(init: seeds(), |bytes: &[u8]| {
    let key = ReleasePublicKey::from_bytes([7; 32]);
    let now = UnixTime::from_secs(1_772_323_200);
    assert!(SignedDocument::open::<FleetList>(bytes, &key, 0, now).is_err());
    read_back::<FleetList>(bytes);
    read_back::<ReferenceValues>(bytes);
    read_back::<Revocations>(bytes);
});

fn seeds() {
    let read = read_back::<FleetList>(FLEET)
        && read_back::<ReferenceValues>(REFERENCE)
        && read_back::<Revocations>(REVOCATIONS);
    assert!(read, "a seed is out of date: scripts/fuzz seeds");
}

/// Whether it was read.
fn read_back<T: Payload + PartialEq>(bytes: &[u8]) -> bool {
    let Ok(payload) = T::from_payload(bytes) else {
        return false;
    };
    let Ok(written) = payload.to_payload() else {
        panic!("a read payload cannot be written")
    };
    assert!(T::from_payload(&written).is_ok_and(|again| again == payload));
    true
}
