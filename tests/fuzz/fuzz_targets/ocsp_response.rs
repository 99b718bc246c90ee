//! Answers about revocation. Whatever is read, only the answer that was signed says good.
#![no_main]

use casemate_attestation::UnixTime;
use casemate_attestation::nvidia::{OcspResponse, judge_ocsp};
use libfuzzer_sys::fuzz_target;

const GOOD: &[u8] = include_bytes!("../seeds/ocsp_response/good");
const AUTHORITY: &[u8] = include_bytes!("../seeds/ocsp-authority.der");
const ROOT: &[u8] = include_bytes!("../seeds/ocsp-root.der");
/// 2026-03-01T00:00:00Z, as in the seeds.
const NOW: UnixTime = UnixTime::from_secs(1_772_323_200);

fuzz_target!(init: seeds(), |bytes: &[u8]| {
    if let Ok(answer) = OcspResponse::parse(bytes) {
        let _ = answer.is_about(AUTHORITY, ROOT);
    }
    if judge_ocsp(bytes, AUTHORITY, ROOT, NOW).is_ok() {
        assert_eq!(bytes, GOOD);
    }
});

fn seeds() {
    let good = judge_ocsp(GOOD, AUTHORITY, ROOT, NOW).is_ok();
    assert!(good, "the seed is out of date: scripts/fuzz seeds");
}
