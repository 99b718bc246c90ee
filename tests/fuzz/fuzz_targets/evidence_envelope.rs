//! The evidence envelope. What is read can be written, and is read back as the same.
#![no_main]

use casemate_attestation::Envelope;
use libfuzzer_sys::fuzz_target;

const ALONE: &[u8] = include_bytes!("../seeds/evidence_envelope/alone.json");
const BATCH: &[u8] = include_bytes!("../seeds/evidence_envelope/batch.json");
const TDX: &[u8] = include_bytes!("../seeds/evidence_envelope/tdx.json");
const TPM: &[u8] = include_bytes!("../seeds/evidence_envelope/tpm.json");

fuzz_target!(init: seeds(), |bytes: &[u8]| {
    let Ok(read) = Envelope::parse(bytes) else { return };
    assert_eq!(read.as_bytes(), bytes);
    let Ok(written) = Envelope::build(read.parts().clone()) else {
        panic!("a read envelope cannot be written")
    };
    // White space and escapes may make the received document longer than ours, never shorter.
    assert!(written.as_bytes().len() <= bytes.len());
    let Ok(again) = Envelope::parse(written.as_bytes()) else {
        panic!("a written envelope cannot be read")
    };
    assert_eq!(again.parts(), read.parts());
});

fn seeds() {
    let read = [ALONE, BATCH, TDX, TPM]
        .map(Envelope::parse)
        .iter()
        .all(Result::is_ok);
    assert!(read, "a seed is out of date: scripts/fuzz seeds");
}
