//! Bundles of collateral: what is read is written and read back as the same, and nothing of it is right under the vendors' roots,
//! whatever a fuzzer makes of the tests' own. Files to be packed, too.
#![no_main]

use casemate_attestation::collateral::{Collateral, CollateralRoots, Packer};
use casemate_attestation::{Payload as _, UnixTime};
use libfuzzer_sys::fuzz_target;

const EVERYTHING: &[u8] = include_bytes!("../seeds/collateral_bundle/everything.json");
/// 2026-03-01T00:00:00Z, as in the seeds.
const NOW: UnixTime = UnixTime::from_secs(1_772_323_200);

fuzz_target!(init: seeds(), |bytes: &[u8]| {
    read_back(bytes);
    let mut packer = Packer::new();
    if packer.add(bytes).is_ok() {
        let _ = packer.finish();
    }
});

fn seeds() {
    assert!(read_back(EVERYTHING), "the seed is out of date: scripts/fuzz seeds");
}

/// Whether it was read.
fn read_back(bytes: &[u8]) -> bool {
    let Ok(collateral) = Collateral::from_payload(bytes) else {
        return false;
    };
    let Ok(written) = collateral.to_payload() else {
        panic!("a read payload cannot be written")
    };
    assert!(Collateral::from_payload(&written).is_ok_and(|again| again == collateral));
    let judged = collateral.check(&CollateralRoots::production(), NOW);
    assert!(judged.iter().all(|item| item.result.is_err()));
    true
}
