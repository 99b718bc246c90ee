//! Rules L1 and L2.

use casemate_attestation::eventlog::ccel::{CcelError, CcelTable};
use casemate_attestation::eventlog::{
    Basis, EVENTS_MAX, LOG_BYTES_MAX, LogKind, LogRejection, QuotedRegisters, Register, replay,
};
use casemate_attestation::tpm::Bank;

use super::common::tdx::verdict_with;
use super::support::log::*;

const BANKS: [Bank; 2] = [Bank::Sha256, Bank::Sha384];

fn refused(log: &[u8]) -> LogRejection {
    replay(log, LogKind::Tcg2).unwrap_err()
}

fn header_refused(log: &[u8], what: &'static str) {
    assert_eq!(refused(log), LogRejection::HeaderMalformed(what));
}

#[test]
fn l1_the_log_that_these_tests_change_is_accepted() {
    let bytes = log(&boot());
    let replayed = replay(&bytes, LogKind::Tcg2).unwrap();
    assert_eq!(replayed.events().len(), boot().len());
    assert_eq!(replayed.banks(), BANKS);
    // Register 9, computed by hand.
    let mut value = vec![0; 32];
    for hashed in [&b"kernel"[..], b"options"] {
        value.extend(Bank::Sha256.digest(hashed));
        value = Bank::Sha256.digest(&value);
    }
    assert_eq!(
        replayed.registers(Bank::Sha256).unwrap()[&Register::Pcr(9)],
        value
    );
    // Buffers are padded with either byte, and with nothing else.
    for fill in [0, 0xff] {
        let mut padded = bytes.clone();
        padded.resize(65_536, fill);
        let read = replay(&padded, LogKind::Tcg2).unwrap();
        assert_eq!(
            (read.bytes_used(), read.events()),
            (bytes.len(), replayed.events())
        );
        *padded.last_mut().unwrap() = 1;
        assert_eq!(refused(&padded).rule(), "L1");
    }
}

#[test]
fn l1_headers() {
    assert_eq!(
        refused(&vec![0; LOG_BYTES_MAX + 1]),
        LogRejection::LogLength(LOG_BYTES_MAX + 1)
    );
    let mut largest = log(&boot());
    largest.resize(LOG_BYTES_MAX, 0xff);
    assert!(replay(&largest, LogKind::Tcg2).is_ok());
    header_refused(&[], "ends too early");
    assert_eq!(refused(&sha1_event(0, 8, b"1.0")), LogRejection::Sha1Log);
    assert_eq!(
        refused(&sha1_event(0, NO_ACTION, b"Spec ID Event00\0")),
        LogRejection::Sha1Log
    );
    assert_eq!(
        refused(&sha1_event(0, NO_ACTION, b"StartupLocality\0\x03")),
        LogRejection::Sha1Log
    );
    assert_eq!(
        refused(&sha1_event(2, NO_ACTION, b"Spec ID Event03\0")),
        LogRejection::Sha1Log
    );
    let mut digest = header(&[(0x0b, 32)]);
    digest[8] = 1;
    header_refused(&digest, "has a digest, although it is not extended");
    header_refused(&header(&[]), "names no algorithm, or more than 16");
    let many: Vec<(u16, u16)> = (0..17).map(|id| (0x100 + id, 32)).collect();
    header_refused(&header(&many), "names no algorithm, or more than 16");
    // Sixteen of them, or a digest of 64 bytes, are read.
    let mut most: Vec<(u16, u16)> = (0..15).map(|id| (0x100 + id, 64)).collect();
    most.push((0x0b, 32));
    let read = replay(&header(&most), LogKind::Tcg2).unwrap();
    assert_eq!(read.banks(), [Bank::Sha256]);
    for wrong in [(0x0b, 20), (0x04, 32), (0x100, 0), (0x100, 65)] {
        header_refused(
            &header(&[wrong]),
            "gives an algorithm a wrong digest length",
        );
    }
    header_refused(
        &header(&[(0x0b, 32), (0x0b, 32)]),
        "names an algorithm twice",
    );
    header_refused(&header(&[(0x12, 32)]), "names no algorithm that is known");
    let good = header(&[(0x0b, 32)]);
    for length in 1..good.len() {
        assert_eq!(refused(&good[..length]).rule(), "L1");
    }
    let mut behind = good.clone();
    behind[28] += 1;
    behind.push(0);
    header_refused(&behind, "has bytes after its end");
    // An unknown algorithm beside a known one is skipped by its length.
    let mut unknown = header(&[(0x12, 32), (0x0b, 32)]);
    let digests = [(0x12, vec![9; 32]), (0x0b, vec![7; 32])];
    unknown.extend(raw_event(0, 1, &digests, b""));
    assert_eq!(
        replay(&unknown, LogKind::Tcg2).unwrap().banks(),
        [Bank::Sha256]
    );
}

#[test]
fn l1_events() {
    let with = |event: Vec<u8>| refused(&[log(&[]), event].concat());
    let what = |rejection: LogRejection| match rejection {
        LogRejection::EventMalformed { event: 0, what } => what,
        other => panic!("{other}"),
    };
    let digests = |banks: &[Bank]| -> Vec<(u16, Vec<u8>)> {
        banks
            .iter()
            .map(|bank| (bank.id(), vec![1; bank.digest_bytes()]))
            .collect()
    };
    let number = "has another number of digests than the header has algorithms";
    let both = digests(&BANKS);
    for some in [&both[..1], &[], &[both.clone(), both.clone()].concat()] {
        assert_eq!(what(with(raw_event(0, 1, some, b""))), number);
    }
    let foreign = digests(&[Bank::Sha256, Bank::Sha1]);
    let other = "has a digest of an algorithm not in the header";
    assert_eq!(what(with(raw_event(0, 1, &foreign, b""))), other);
    let twice = digests(&[Bank::Sha256, Bank::Sha256]);
    let missing = LogRejection::DigestMissing {
        event: 0,
        algorithm: 0x0c,
    };
    assert_eq!(with(raw_event(0, 1, &twice, b"")), missing);
    let good = raw_event(0, 1, &both, b"data");
    for length in 1..good.len() {
        // What is cut to zeros alone reads as padding; the registers then tell.
        if good[..length].iter().any(|byte| *byte != 0) {
            assert_eq!(with(good[..length].to_vec()).rule(), "L1", "{length}");
        }
    }
    for index in [24, 255, 256, u32::MAX] {
        let event = raw_event(index, 1, &both, b"");
        assert_eq!(with(event), LogRejection::NoRegister { event: 0, index });
        // An event that extends nothing may name any register.
        let event = raw_event(index, NO_ACTION, &both, b"");
        assert!(replay(&[log(&[]), event].concat(), LogKind::Tcg2).is_ok());
    }
    for index in [0, 5, 6] {
        let log = [header(&[(0x0c, 48)]), raw_event(index, 1, &both[1..], b"")].concat();
        let refused = replay(&log, LogKind::Ccel).unwrap_err();
        assert_eq!(refused, LogRejection::NoRegister { event: 0, index });
    }
}

#[test]
fn b25_sizes_that_are_not_there_are_refused_before_anything_is_taken() {
    for size in [1_u32, 0x7fff_ffff, u32::MAX] {
        let mut bytes = log(&[whole(0, 1, b"")]);
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(&size.to_le_bytes());
        let what = "has data longer than what is left of the log";
        assert_eq!(
            refused(&bytes),
            LogRejection::EventMalformed { event: 0, what }
        );
        let mut bytes = header(&[(0x0b, 32)]);
        bytes[28..32].copy_from_slice(&(size.saturating_add(100)).to_le_bytes());
        assert_eq!(
            refused(&bytes),
            LogRejection::HeaderMalformed("ends too early")
        );
    }
    let event = raw_event(0, 1, &[(0x0b, vec![1; 32])], b"");
    let mut many = header(&[(0x0b, 32)]);
    many.extend(event.repeat(EVENTS_MAX));
    assert!(replay(&many, LogKind::Tcg2).is_ok());
    many.extend(event);
    assert_eq!(refused(&many), LogRejection::TooManyEvents);
}

#[test]
fn l1_events_without_action_extend_nothing() {
    let mut events = boot();
    let plain = replay(&log(&events), LogKind::Tcg2).unwrap();
    events.insert(3, whole(0, NO_ACTION, b"SP800-155 Event3"));
    events.push(whole(7, NO_ACTION, b""));
    let more = replay(&log(&events), LogKind::Tcg2).unwrap();
    assert_eq!(plain.registers(Bank::Sha256), more.registers(Bank::Sha256));
}

#[test]
fn l1_startup_locality_is_where_register_0_begins() {
    let locality = |value: &[u8]| whole(0, NO_ACTION, &[b"StartupLocality\0", value].concat());
    let with = |events: &[Measured]| replay(&log(events), LogKind::Tcg2);
    let measured = whole(0, 1, b"firmware");
    for number in [0, 3, 4] {
        let replay = with(&[locality(&[number]), measured.clone()]).unwrap();
        let mut value = vec![0; 31];
        value.push(number);
        value.extend(Bank::Sha256.digest(b"firmware"));
        let register = &replay.registers(Bank::Sha256).unwrap()[&Register::Pcr(0)];
        assert_eq!(register, &Bank::Sha256.digest(&value));
    }
    let what = |events: &[Measured]| match with(events).unwrap_err() {
        LogRejection::StartupLocality { what, .. } => what,
        other => panic!("{other}"),
    };
    for length in [&[][..], &[3, 0]] {
        assert_eq!(
            what(&[locality(length)]),
            "has no locality, or bytes after it"
        );
    }
    for number in [1, 2, 5, 255] {
        assert_eq!(
            what(&[locality(&[number])]),
            "names a locality other than 0, 3 and 4"
        );
    }
    let late = "comes twice, or after a measurement into register 0";
    assert_eq!(what(&[locality(&[3]), locality(&[3])]), late);
    assert_eq!(what(&[measured.clone(), locality(&[3])]), late);
    let mut other = locality(&[3]);
    other.0 = 1;
    assert_eq!(what(&[other]), "is for another register than 0");
    // A measurement into another register may come before.
    assert!(with(&[whole(1, 1, b"early"), locality(&[3]), measured]).is_ok());
}

#[test]
fn l2_the_replay_is_what_was_quoted() {
    let replayed = replay(&log(&boot()), LogKind::Tcg2).unwrap();
    let good = own(&replayed, Bank::Sha256);
    assert!(replayed.confirm(&good).is_ok());
    let mut values: std::collections::BTreeMap<u8, Vec<u8>> = replayed
        .registers(Bank::Sha256)
        .unwrap()
        .iter()
        .map(|(register, value)| match register {
            Register::Pcr(number) | Register::Rtmr(number) => (*number, value.clone()),
        })
        .collect();
    let unsigned = |values: &_| QuotedRegisters::unsigned(Bank::Sha256, Clone::clone(values));
    values.get_mut(&4).unwrap()[0] ^= 1;
    let refused = replayed.confirm(&unsigned(&values)).unwrap_err();
    assert_eq!(refused, LogRejection::RegisterMismatch(Register::Pcr(4)));
    values.get_mut(&4).unwrap().pop();
    assert_eq!(
        replayed.confirm(&unsigned(&values)).unwrap_err().rule(),
        "L2"
    );
    // A register that was not quoted stays unproven: its events give no claims.
    values.remove(&4);
    let confirmed = replayed.confirm(&unsigned(&values)).unwrap();
    assert!(!confirmed.registers().contains(&Register::Pcr(4)));
    assert_eq!(confirmed.claims().unwrap().images().count(), 0);
    values.retain(|number, _| *number == 23);
    let nothing = replayed.confirm(&unsigned(&values)).unwrap_err();
    assert_eq!(nothing, LogRejection::NothingConfirmed);
    let missing = QuotedRegisters::unsigned(Bank::Sha512, values);
    assert_eq!(
        replayed.confirm(&missing).unwrap_err(),
        LogRejection::BankMissing(Bank::Sha512)
    );
    let domain = QuotedRegisters::of_tdx(&verdict_with(&[[0; 48]; 4]));
    assert_eq!(
        replayed.confirm(&domain).unwrap_err(),
        LogRejection::KindMismatch
    );
}

#[test]
fn l2_a_trust_domains_log_is_read_by_its_own_numbers() {
    let mut events = header(&[(0x0c, 48)]);
    let banks = [Bank::Sha384];
    for measured in [
        whole(1, CONFIG, &variable("SecureBoot", &[1])),
        whole(1, SEPARATOR, &[0; 4]),
        whole(2, ACTION, b"Exit Boot Services Invocation"),
        whole(2, ACTION, b"Exit Boot Services Returned with Success"),
        apart(3, IPL, b"ro", b"kernel_cmdline: ro\0"),
    ] {
        events.extend(event(&banks, &measured));
    }
    let replayed = replay(&events, LogKind::Ccel).unwrap();
    let of = |number| {
        replayed
            .registers(Bank::Sha384)
            .unwrap()
            .get(&Register::Rtmr(number))
    };
    let rtmrs: [[u8; 48]; 4] = std::array::from_fn(|number| {
        let number = u8::try_from(number).unwrap();
        of(number).map_or([0; 48], |value| value.as_slice().try_into().unwrap())
    });
    let claims = replayed
        .confirm(&QuotedRegisters::of_tdx(&verdict_with(&rtmrs)))
        .unwrap()
        .claims()
        .unwrap();
    assert_eq!(claims.secure_boot(), Some((true, Basis::HardwareProven)));
    assert_eq!(claims.left_boot_services(), Some(Basis::HardwareProven));
    assert_eq!(
        claims.command_lines().collect::<Vec<_>>(),
        [("ro", Basis::Derived)]
    );
    let mut other = rtmrs;
    other[2][0] ^= 1;
    let refused = replayed
        .confirm(&QuotedRegisters::of_tdx(&verdict_with(&other)))
        .unwrap_err();
    assert_eq!(refused, LogRejection::RegisterMismatch(Register::Rtmr(2)));
}

#[test]
fn l2_the_acpi_table_that_points_to_a_log() {
    let mut table = b"CCEL".to_vec();
    table.extend(56_u32.to_le_bytes());
    table.extend([0; 28]);
    table.extend([2, 0, 0, 0]);
    table.extend(65_536_u64.to_le_bytes());
    table.extend(0x1000_u64.to_le_bytes());
    let summed = |mut table: Vec<u8>| {
        let sum = table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        table[9] = table[9].wrapping_sub(sum);
        table
    };
    let good = summed(table.clone());
    let (area_bytes, address) = (65_536, 0x1000);
    assert_eq!(
        CcelTable::parse(&good),
        Ok(CcelTable {
            area_bytes,
            address
        })
    );
    assert_eq!(CcelTable::parse(&good[..55]), Err(CcelError::NotATable));
    let mut other = good.clone();
    other[20] ^= 1;
    assert_eq!(CcelTable::parse(&other), Err(CcelError::Checksum));
    other[0] = b'D';
    assert_eq!(CcelTable::parse(&other), Err(CcelError::NotATable));
    table[36] = 1;
    assert_eq!(CcelTable::parse(&summed(table)), Err(CcelError::NotTdx(1)));
}
