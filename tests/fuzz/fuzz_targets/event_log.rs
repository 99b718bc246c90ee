//! An event log, read as a TPM's and as a trust domain's. Whatever was done to the seed: where its
//! replay still gives the seed's registers, nothing is proven that the seed does not prove.
#![no_main]

#[path = "../../../attestation/tests/common/der.rs"]
mod der;
#[path = "../../../attestation/tests/support/log.rs"]
mod log;
#[path = "../../../attestation/tests/common/tdx/mod.rs"]
mod tdx;

use std::sync::OnceLock;

use casemate_attestation::eventlog::{LogKind, QuotedRegisters, Replay, replay};
use libfuzzer_sys::fuzz_target;
use log::{own, proven, rtmrs};

const LOG: &[u8] = include_bytes!("../seeds/event_log/domain");

fuzz_target!(init: seeds(), |bytes: &[u8]| {
    for kind in [LogKind::Tcg2, LogKind::Ccel] {
        let Ok(replay) = replay(bytes, kind) else { continue };
        assert!(replay.bytes_used() <= bytes.len());
        for bank in replay.banks() {
            let _ = proven(&replay, &own(&replay, *bank));
        }
    }
    let genuine = genuine();
    let quoted = quoted();
    if let Ok(Ok(found)) = replay(bytes, LogKind::Ccel).map(|replay| proven(&replay, quoted)) {
        let Ok(known) = proven(&genuine, quoted) else {
            panic!("the seed is out of date");
        };
        assert!(found.is_subset(&known), "{:?}", found.difference(&known));
    }
});

fn seeds() {
    let genuine = genuine();
    let known = proven(&genuine, quoted());
    let known = known.unwrap_or_else(|rejection| panic!("the seed is out of date: {rejection}"));
    assert!(known.iter().any(|claim| claim.contains("SecureBoot(true)")));
}

fn genuine() -> Replay {
    let Ok(replay) = replay(LOG, LogKind::Ccel) else {
        panic!("the seed is out of date");
    };
    replay
}

/// The registers that the seed's log replays to, under a quote of the tests' own platform. Signed once.
fn quoted() -> &'static QuotedRegisters {
    static QUOTED: OnceLock<QuotedRegisters> = OnceLock::new();
    QUOTED.get_or_init(|| {
        QuotedRegisters::of_tdx(&tdx::verdict_with(&rtmrs(&genuine())))
    })
}
