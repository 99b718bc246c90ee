//! An event log, read as a TPM's and as a trust domain's. Whatever was done to the seed: where its
//! replay still gives the seed's registers, nothing is proven that the seed does not prove.
#![no_main]

#[path = "../../../attestation/tests/common/der.rs"]
mod der;
#[path = "../../../attestation/tests/common/tdx/mod.rs"]
mod tdx;

use std::collections::BTreeSet;
use std::sync::OnceLock;

use casemate_attestation::eventlog::{
    Basis, LogKind, LogRejection, QuotedRegisters, Register, Replay, replay,
};
use casemate_attestation::tpm::Bank;
use libfuzzer_sys::fuzz_target;

const LOG: &[u8] = include_bytes!("../seeds/event_log/domain");

fuzz_target!(init: seeds(), |bytes: &[u8]| {
    for kind in [LogKind::Tcg2, LogKind::Ccel] {
        let Ok(replay) = replay(bytes, kind) else { continue };
        assert!(replay.bytes_used() <= bytes.len());
        for bank in replay.banks() {
            let _ = claims(&replay, &own(&replay, *bank));
        }
    }
    let genuine = genuine();
    let quoted = quoted();
    if let Ok(Ok(found)) = replay(bytes, LogKind::Ccel).map(|replay| claims(&replay, quoted)) {
        let Ok(known) = claims(&genuine, quoted) else {
            panic!("the seed is out of date");
        };
        assert!(found.is_subset(&known), "{:?}", found.difference(&known));
    }
});

fn seeds() {
    let genuine = genuine();
    let known = claims(&genuine, quoted());
    let known = known.unwrap_or_else(|rejection| panic!("the seed is out of date: {rejection}"));
    assert!(known.iter().any(|claim| claim.contains("SecureBoot(true)")));
}

fn genuine() -> Replay {
    let Ok(replay) = replay(LOG, LogKind::Ccel) else {
        panic!("the seed is out of date");
    };
    replay
}

/// What registers that somebody signed prove.
fn claims(replay: &Replay, quoted: &QuotedRegisters) -> Result<BTreeSet<String>, LogRejection> {
    let claims = replay.confirm(quoted)?.claims()?;
    let proven = claims
        .all()
        .iter()
        .filter(|claim| claim.basis == Basis::HardwareProven);
    Ok(proven
        .map(|claim| format!("{} {:?}", claim.register, claim.value))
        .collect())
}

fn own(replay: &Replay, bank: Bank) -> QuotedRegisters {
    let registers = replay.registers(bank).into_iter().flatten();
    let values = registers.map(|(register, value)| match register {
        Register::Pcr(number) | Register::Rtmr(number) => (*number, value.clone()),
    });
    QuotedRegisters::unsigned(bank, values.collect())
}

/// The registers that the seed's log replays to, under a quote of the tests' own platform. Signed once.
fn quoted() -> &'static QuotedRegisters {
    static QUOTED: OnceLock<QuotedRegisters> = OnceLock::new();
    QUOTED.get_or_init(|| {
        let replay = genuine();
        let rtmrs = std::array::from_fn(|number| {
            let register = u8::try_from(number).ok().map(Register::Rtmr);
            let registers = replay.registers(Bank::Sha384);
            let value = registers.zip(register).and_then(|(all, it)| all.get(&it));
            value
                .and_then(|value| value.as_slice().try_into().ok())
                .unwrap_or([0; 48])
        });
        QuotedRegisters::of_tdx(&tdx::verdict_with(&rtmrs))
    })
}
