//! Challenges and confirmations: all that a client may send before it is attested. What is read can
//! be written, and is read back as the same.
#![no_main]

use std::fmt::Debug;

use casemate::session::{parse_challenge, parse_confirmation};
use casemate_attestation::strict_json::{self, JsonError};
use libfuzzer_sys::fuzz_target;
use serde::Serialize;

const CHALLENGE: &[u8] = include_bytes!("../seeds/challenge_json/challenge.json");
const CONFIRMATION: &[u8] = include_bytes!("../seeds/challenge_json/confirmation.json");

fuzz_target!(init: seeds(), |bytes: &[u8]| {
    read_back(bytes, parse_challenge);
    read_back(bytes, parse_confirmation);
});

fn seeds() {
    let read = parse_challenge(CHALLENGE).is_ok() && parse_confirmation(CONFIRMATION).is_ok();
    assert!(read, "a seed is out of date: scripts/fuzz seeds");
}

fn read_back<T: Serialize + PartialEq + Debug>(
    bytes: &[u8],
    parse: fn(&[u8]) -> Result<T, JsonError>,
) {
    let Ok(read) = parse(bytes) else { return };
    let Ok(written) = strict_json::to_vec(&read) else {
        panic!("a read document cannot be written")
    };
    // White space and escapes may make the received document longer than ours, never shorter.
    assert!(written.len() <= bytes.len());
    assert_eq!(parse(&written), Ok(read));
}
