//! Rules P4 and P6, and policies that cannot be made.

use std::collections::{BTreeMap, BTreeSet};

use casemate_attestation::tpm::{
    Bank, ClockState, Continuity, TpmPolicy, TpmPolicyError, TpmRejection, verify_tpm_quote,
};

use super::support::*;
use super::{message, refusal};

#[test]
fn p4_one_selection_of_exactly_the_expected_registers() {
    let none = message(|m| m.selections.clear());
    assert_eq!(none, TpmRejection::SelectionCount { found: 0 });
    let two = message(|m| m.selections.push((0x0c, vec![0; 3])));
    assert_eq!(two, TpmRejection::SelectionCount { found: 2 });
    for found in [0x0004, 0x000c, 0x0012] {
        let expected = Bank::Sha256;
        let refused = message(|m| m.selections[0].0 = found);
        assert_eq!(refused, TpmRejection::PcrBank { found, expected });
    }
    for bits in [vec![0x7f, 0, 0], vec![0xff, 1, 0], vec![0, 0, 0], vec![]] {
        let refused = message(|m| m.selections[0].1 = bits.clone());
        assert!(
            matches!(refused, TpmRejection::PcrSelection { .. }),
            "{bits:?}"
        );
    }
    // A longer or shorter bit field that says the same.
    for bits in [vec![0xff], vec![0xff, 0, 0, 0]] {
        let mut case = case();
        case.message.selections[0].1 = bits;
        assert!(case.judge().is_ok());
    }
}

#[test]
fn p4_the_values_are_those_quoted_and_those_expected() {
    let missing = refusal(|case| drop(case.registers.remove(&3)));
    assert_eq!(missing, TpmRejection::PcrMissing(3));
    let more = refusal(|case| drop(case.registers.insert(8, vec![0; 32])));
    assert_eq!(more, TpmRejection::PcrNotCovered(8));
    let short = refusal(|case| drop(case.registers.insert(3, vec![0; 31])));
    let (register, found, bank) = (3, 31, Bank::Sha256);
    assert_eq!(
        short,
        TpmRejection::PcrLength {
            register,
            found,
            bank
        }
    );
    // Register 3 has no expected value, and yet must be what was quoted.
    for register in 0..8 {
        let changed = refusal(|case| case.registers.get_mut(&register).unwrap()[31] ^= 1);
        assert_eq!(changed, TpmRejection::PcrDigest, "{register}");
    }
    // Two values changed places: the order is part of the digest.
    let swapped = refusal(|case| {
        let (one, two) = (case.registers[&1].clone(), case.registers[&2].clone());
        case.registers.extend([(1, two), (2, one)]);
    });
    assert_eq!(swapped, TpmRejection::PcrDigest);
    // A machine that booted something else, and quotes it honestly.
    for register in 0..8 {
        let mut registers = values(Bank::Sha256);
        registers.get_mut(&register).unwrap()[0] ^= 1;
        let judged = case_of(ak(), Bank::Sha256, registers).judge();
        if [0, 4, 7].contains(&register) {
            assert_eq!(judged.unwrap_err(), TpmRejection::PcrUnexpected(register));
        } else {
            assert!(judged.is_ok(), "register {register} is shown, not judged");
        }
    }
}

#[test]
fn p4_any_value_of_a_list_will_do() {
    let registers = values(Bank::Sha256);
    let covered: BTreeSet<u8> = registers.keys().copied().collect();
    let listed = vec![vec![0; 32], registers[&7].clone()];
    let policy = TpmPolicy::new(Bank::Sha256, covered, BTreeMap::from([(7, listed)])).unwrap();
    let evidence = case().evidence();
    assert!(verify_tpm_quote(&evidence, NONCE, &policy, &anchors(ak()), NOW).is_ok());
}

#[test]
fn p4_the_digest_is_by_the_hash_that_signed_and_not_by_the_banks() {
    // A bank of SHA-384 quoted by a signature with SHA-256, with the digest made by SHA-384.
    let registers = values(Bank::Sha384);
    let policy = policy_for(Bank::Sha384, &registers, &[0]);
    let mut case = case_of(ak(), Bank::Sha384, registers);
    let judge =
        |case: &Case| verify_tpm_quote(&case.evidence(), NONCE, &policy, &anchors(ak()), NOW);
    assert!(judge(&case).is_ok());
    let joined: Vec<u8> = case.registers.values().flatten().copied().collect();
    case.message.digest = Bank::Sha384.digest(&joined);
    assert_eq!(judge(&case).unwrap_err(), TpmRejection::PcrDigest);
    // Nor is a digest that was cut.
    case.message.digest = Bank::Sha256.digest(&joined)[..31].to_vec();
    assert_eq!(judge(&case).unwrap_err(), TpmRejection::PcrDigest);
    case.message.digest = Vec::new();
    assert_eq!(judge(&case).unwrap_err(), TpmRejection::PcrDigest);
}

#[test]
fn p6_the_same_boot_as_before() {
    let before = ClockState {
        clock_ms: 100_000,
        reset_count: 7,
        restart_count: 1,
        safe: true,
        firmware_version: 0x0001_0002,
    };
    let judge = |change: &dyn Fn(&mut Message)| {
        let mut case = case();
        change(&mut case.message);
        let policy = policy().with_continuity(Continuity::Since(before));
        verify_tpm_quote(&case.evidence(), NONCE, &policy, &anchors(ak()), NOW)
    };
    // At the floor: the very same moment. And later.
    assert_eq!(judge(&|_| ()).unwrap().clock(), before);
    assert!(judge(&|m| m.clock += 1).is_ok());
    let back = TpmRejection::ClockWentBack {
        found: 99_999,
        before: 100_000,
    };
    assert_eq!(judge(&|m| m.clock -= 1).unwrap_err(), back);
    for (reset, restart) in [(8, 1), (6, 1), (7, 2), (7, 0)] {
        let refused = judge(&|m| (m.resets, m.restarts) = (reset, restart)).unwrap_err();
        let (expected_reset, expected_restart) = (7, 1);
        let restarted = TpmRejection::Restarted {
            reset,
            restart,
            expected_reset,
            expected_restart,
        };
        assert_eq!(refused, restarted);
    }
    let refused = judge(&|m| m.firmware = 0x0001_0001).unwrap_err();
    let (found, before) = (0x0001_0001, 0x0001_0002);
    assert_eq!(refused, TpmRejection::FirmwareChanged { found, before });
    // A first sight shows them and judges nothing.
    let mut first = case();
    (
        first.message.resets,
        first.message.clock,
        first.message.safe,
    ) = (0, 0, 0);
    let verdict = first.judge().unwrap();
    assert!(!verdict.clock().safe);
    let last = verdict.checks().last().unwrap();
    assert_eq!(
        (last.id, last.text.contains("no earlier state")),
        ("P6", true)
    );
}

#[test]
fn policies_that_would_accept_nothing_or_anything_cannot_be_made() {
    let make = |covered: &[u8], expected: &[(u8, Vec<Vec<u8>>)]| {
        let covered = covered.iter().copied().collect();
        let expected = expected.iter().cloned().collect();
        TpmPolicy::new(Bank::Sha256, covered, expected).map(drop)
    };
    let good = || vec![vec![0; 32]];
    assert_eq!(make(&[0], &[(0, good())]), Ok(()));
    assert_eq!(make(&[23], &[(23, good())]), Ok(()));
    assert_eq!(make(&[0], &[]), Err(TpmPolicyError::NothingExpected));
    assert_eq!(make(&[], &[]), Err(TpmPolicyError::NothingExpected));
    assert_eq!(make(&[0], &[(0, vec![])]), Err(TpmPolicyError::NoValues(0)));
    assert_eq!(
        make(&[24], &[(24, good())]),
        Err(TpmPolicyError::NoRegister(24))
    );
    assert_eq!(
        make(&[0], &[(1, good())]),
        Err(TpmPolicyError::NotQuoted(1))
    );
    let (register, found, bank) = (0, 20, Bank::Sha256);
    let length = TpmPolicyError::ValueLength {
        register,
        found,
        bank,
    };
    assert_eq!(make(&[0], &[(0, vec![vec![0; 20]])]), Err(length));
    let sha1 = TpmPolicy::new(
        Bank::Sha1,
        BTreeSet::from([0]),
        BTreeMap::from([(0, vec![vec![0; 20]])]),
    );
    assert_eq!(sha1.unwrap_err(), TpmPolicyError::Sha1Bank);
}
