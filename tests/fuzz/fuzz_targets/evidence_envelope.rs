//! The evidence envelope. What is read can be written, and what was written is read back as the same.
#![no_main]

use casemate_attestation::Envelope;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(read) = Envelope::parse(bytes) else { return };
    assert_eq!(read.as_bytes(), bytes);
    // White space between tokens may make the received document longer than ours, never shorter.
    let Ok(written) = Envelope::build(read.parts().clone()) else { panic!("a read envelope cannot be written") };
    assert!(written.as_bytes().len() <= bytes.len());
    let Ok(again) = Envelope::parse(written.as_bytes()) else { panic!("a written envelope cannot be read") };
    assert_eq!(again.parts(), read.parts());
});
