//! Every event log of the shared evidence replays to the expected registers, or is refused for the expected reason.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

mod common;
mod support;

use casemate_attestation::eventlog::ccel::CcelTable;
use casemate_attestation::eventlog::{
    Basis, Claims, Event, LogKind, LogRejection, QuotedRegisters, Register, RegisterSource, Replay,
    replay,
};
use casemate_attestation::tpm::Bank;
use serde_json::Value;

use common::shared;
use common::tdx::verdict_with;
use support::all_banks;
use support::log::{all_asserted, domain, own, proven, rtmrs};
use support::vectors::{Folder, text};

#[test]
fn every_folder_replays_or_is_refused() {
    let Some(platform) = shared("eventlog") else {
        return;
    };
    let mut seen = 0;
    for folder in Folder::all(&platform) {
        let log = folder.file(text(&folder.expected, "event_log"));
        match folder.verdict() {
            "parses and replays" | "replays, but must not match the quote" => {
                replays(&folder, &log);
            }
            _ => refused(&folder, &log),
        }
        seen += 1;
    }
    assert!(seen >= 22, "only {seen} vectors");
}

fn kind(folder: &Folder) -> LogKind {
    match text(&folder.expected, "kind") {
        "ccel" => LogKind::Ccel,
        "tcg2" => LogKind::Tcg2,
        other => panic!("no expectation for the kind {other}"),
    }
}

fn replays(folder: &Folder, log: &[u8]) {
    let (name, expected) = (folder.name.as_str(), &folder.expected);
    let replay = replay(log, kind(folder)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let number = |key: &str| usize::try_from(expected[key].as_u64().unwrap()).unwrap();
    assert_eq!(log.len(), number("bytes"));
    assert_eq!(replay.bytes_used(), number("bytes_used"), "{name}");
    assert_eq!(replay.events().len(), number("events"), "{name}");
    let banks: Vec<&str> = replay.banks().iter().map(|bank| bank.as_str()).collect();
    let named: Vec<&str> = expected["hash_algorithms"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_str().unwrap())
        .collect();
    assert_eq!(banks, named, "{name}");
    if replay.kind() == LogKind::Ccel {
        registers_agree(name, &replay, Bank::Sha384, &expected["rtmr"]);
    } else {
        for bank in replay.banks() {
            registers_agree(name, &replay, *bank, &expected["pcr"][bank.as_str()]);
        }
    }
    for bank in replay.banks() {
        let confirmed = replay.confirm(&own(&replay, *bank)).unwrap();
        assert_eq!(confirmed.source(), RegisterSource::Unsigned);
        let claims = confirmed
            .claims()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(
            all_asserted(&claims),
            "{name}: nobody signed these registers"
        );
        println!(
            "{name:30} {bank:8} {} claims, {:?}",
            claims.all().len(),
            claims.secure_boot()
        );
    }
    if folder.has("acpi_ccel_table.bin") {
        let table = CcelTable::parse(&folder.file("acpi_ccel_table.bin")).unwrap();
        assert_eq!(table.area_bytes, log.len() as u64);
    }
}

fn registers_agree(name: &str, replay: &Replay, bank: Bank, expected: &Value) {
    let found = replay.registers(bank).unwrap();
    let expected = expected.as_object().unwrap();
    assert_eq!(found.len(), expected.len(), "{name} {bank}");
    for (register, value) in found {
        let (Register::Pcr(number) | Register::Rtmr(number)) = register;
        let wanted = expected[&number.to_string()].as_str().unwrap();
        assert_eq!(hex::encode(value), wanted, "{name} {bank} {register}");
    }
}

fn refused(folder: &Folder, log: &[u8]) {
    let name = folder.name.as_str();
    let result = replay(log, LogKind::Tcg2);
    let rejection = match name {
        "neg-event-size-huge" => {
            let rejection = result.unwrap_err();
            let what = "has data longer than what is left of the log";
            assert!(matches!(rejection, LogRejection::EventMalformed { what: w, .. } if w == what));
            rejection
        }
        "neg-truncated-log" => {
            let rejection = result.unwrap_err();
            assert!(matches!(rejection, LogRejection::EventMalformed { .. }));
            rejection
        }
        "neg-short-no-action" | "neg-exit-boot-services-missing" => {
            let rejection = result.unwrap_err();
            assert_eq!(rejection, LogRejection::Sha1Log);
            rejection
        }
        "neg-event-data-edited" | "neg-separator-type-rewritten" => {
            // The replay equals what was really quoted: only the look at the data finds it.
            let replay = result.unwrap();
            let (edited, genuine) = under_the_quote(folder, &replay);
            let genuine = genuine.unwrap();
            assert_eq!(genuine.secure_boot(), Some((true, Basis::Asserted)));
            let rejection = edited.unwrap_err();
            if name == "neg-event-data-edited" {
                assert!(matches!(
                    rejection,
                    LogRejection::DataNotDigest {
                        event_type: 0x8000_0001,
                        ..
                    }
                ));
            } else {
                assert!(matches!(
                    rejection,
                    LogRejection::SeparatorType {
                        event_type: 0xd,
                        ..
                    }
                ));
            }
            rejection
        }
        other => panic!("no expectation for {other}"),
    };
    println!("{name:30} {:6} {rejection}", rejection.rule());
}

type Read = Result<Claims, LogRejection>;

/// Claims of a log and of the one that it derives from, by the register values that were quoted with that.
fn under_the_quote(folder: &Folder, edited: &Replay) -> (Read, Read) {
    let genuine = folder.genuine();
    let log = replay(&genuine.file("event_log.bin"), LogKind::Tcg2).unwrap();
    let mut out = Vec::new();
    for bank in all_banks(&log) {
        let values = genuine.registers(&format!("pcrs-{bank}.json"));
        let quoted = QuotedRegisters::unsigned(bank, values);
        let read = |replay: &Replay| replay.confirm(&quoted).unwrap().claims();
        out.push((read(edited), read(&log)));
    }
    let rules: Vec<_> = out
        .iter()
        .map(|(edited, _)| edited.as_ref().unwrap_err().rule())
        .collect();
    assert_eq!(rules, ["L3"; 3], "every bank finds it");
    out.pop().unwrap()
}

#[test]
fn a_log_of_another_boot_does_not_match() {
    let Some(platform) = shared("eventlog") else {
        return;
    };
    let read = |name: &str| {
        let folder = Folder::read(&platform.join(name));
        replay(&folder.file("event_log.bin"), LogKind::Ccel).unwrap()
    };
    let (boot, other) = (read("ccel-baremetal-ubuntu"), read("ccel-mismatch-rtmr2"));
    let quoted = own(&boot, Bank::Sha384);
    assert!(boot.confirm(&quoted).is_ok());
    assert_eq!(
        other.confirm(&quoted).unwrap_err(),
        LogRejection::RegisterMismatch(Register::Rtmr(2))
    );
}

/// The register values inside the TDX quotes of the set, whose signatures another test checks.
#[test]
fn trust_domain_logs_match_the_registers_of_their_quotes() {
    let (Some(logs), Some(quotes)) = (shared("eventlog"), shared("tdx")) else {
        return;
    };
    let mut matched = 0;
    for (log, quote, secure_boot) in [
        ("ccel-gcp-cos-113", "v4-gcp-cos-113", Some(false)),
        ("ccel-baremetal-ubuntu", "v4-out-of-date-live", Some(false)),
    ] {
        let log = Folder::read(&logs.join(log));
        let quote = Folder::read(&quotes.join(quote));
        let bytes = quote.file(quote.expected["quote"].as_str().unwrap());
        // The quote is verified in `tdx_vectors`; one of the tests' own platform with its registers stands for it here.
        let rtmrs: [[u8; 48]; 4] = std::array::from_fn(|number| {
            let start = 48 + 328 + 48 * number;
            bytes[start..start + 48].try_into().unwrap()
        });
        let replay = replay(&log.file("event_log.bin"), LogKind::Ccel).unwrap();
        let confirmed = replay
            .confirm(&QuotedRegisters::of_tdx(&verdict_with(&rtmrs)))
            .unwrap();
        let claims = confirmed.claims().unwrap();
        let proven = secure_boot.map(|on| (on, Basis::HardwareProven));
        assert_eq!(claims.secure_boot(), proven, "{}", log.name);
        assert_eq!(claims.left_boot_services(), Some(Basis::HardwareProven));
        for claim in claims.all() {
            println!(
                "{} {:>3} {} {:?} {:?}",
                log.name, claim.event, claim.register, claim.basis, claim.value
            );
        }
        matched += 1;
    }
    assert_eq!(matched, 2);
}

/// A type is not measured. Whatever type is written over an event's, the log proves nothing that it did not prove before.
#[test]
fn another_type_proves_nothing_new() {
    let mut logs = vec![domain()];
    for folder in shared("eventlog")
        .iter()
        .flat_map(|platform| Folder::all(platform))
    {
        if folder.verdict() == "parses and replays" && kind(&folder) == LogKind::Ccel {
            logs.push(folder.file(text(&folder.expected, "event_log")));
        }
    }
    let (mut tried, mut refused) = (0, 0);
    for log in logs {
        let genuine = replay(&log, LogKind::Ccel).unwrap();
        let quoted = QuotedRegisters::of_tdx(&verdict_with(&rtmrs(&genuine)));
        let known = proven(&genuine, &quoted).unwrap();
        assert!(!known.is_empty());
        for at in types_at(&log, &genuine) {
            for event_type in TYPES {
                let mut edited = log.clone();
                edited[at..at + 4].copy_from_slice(&event_type.to_le_bytes());
                tried += 1;
                match replay(&edited, LogKind::Ccel).map(|edited| proven(&edited, &quoted)) {
                    Ok(Ok(found)) => {
                        let new: Vec<_> = found.difference(&known).collect();
                        assert!(new.is_empty(), "type {event_type:#x} at {at}: {new:?}");
                    }
                    _ => refused += 1,
                }
            }
        }
    }
    println!("{tried} types written over others, {refused} of them refused");
    assert!(tried > 300 && refused > 0 && refused < tried);
}

/// Every type that gives a claim, and one that is not known.
const TYPES: [u32; 17] = [
    0x4,
    0x5,
    0x6,
    0x8,
    0xd,
    0x8000_0001,
    0x8000_0002,
    0x8000_0003,
    0x8000_0004,
    0x8000_0005,
    0x8000_0006,
    0x8000_0007,
    0x8000_0008,
    0x8000_000a,
    0x8000_000c,
    0x8000_00e0,
    0x8000_0077,
];

/// Where each event's type stands: events of one bank, one after another up to the padding.
fn types_at(log: &[u8], replay: &Replay) -> Vec<usize> {
    let length = |event: &Event| 4 + 4 + 4 + 2 + 48 + 4 + event.data.len();
    let mut end = replay.bytes_used();
    let mut out: Vec<usize> = Vec::new();
    for event in replay.events().iter().rev() {
        end -= length(event);
        assert_eq!(
            log[end + 4..end + 8],
            event.event_type.to_le_bytes(),
            "SHA-384 is the only bank"
        );
        out.push(end + 4);
    }
    out
}
