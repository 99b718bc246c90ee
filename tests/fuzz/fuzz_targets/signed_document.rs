//! Signed documents and their payloads. Nothing that a fuzzer makes is signed; a payload that is read is read back.
#![no_main]

use casemate_attestation::{FleetList, Payload, ReferenceValues, ReleasePublicKey, Revocations, SignedDocument, UnixTime};
use libfuzzer_sys::fuzz_target;

fn read_back<T: Payload + PartialEq>(bytes: &[u8]) {
    let Ok(payload) = T::from_payload(bytes) else { return };
    let Ok(written) = payload.to_payload() else { panic!("a read payload cannot be written") };
    assert!(T::from_payload(&written).is_ok_and(|again| again == payload));
}

fuzz_target!(|bytes: &[u8]| {
    let key = ReleasePublicKey::from_bytes([7; 32]);
    let now = UnixTime::from_secs(1_772_323_200);
    assert!(SignedDocument::open::<FleetList>(bytes, &key, 0, now).is_err());
    read_back::<FleetList>(bytes);
    read_back::<ReferenceValues>(bytes);
    read_back::<Revocations>(bytes);
});
