//! A TPM behind a fake transport: recorded responses, and everything that goes wrong between a command and its response.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

mod support;
#[path = "support/waits.rs"]
mod waits;

use std::collections::{BTreeSet, VecDeque};
use std::io;

use casemate_attestation::tpm::{
    AttestationKey, Bank, Curve, PublicKey, QuoteSignature, session_nonce,
};
use casemate_devices::tpm::{
    Attester, CredentialError, KeyKind, Measured, Tpm, Transport, make_credential,
};
use casemate_devices::{DeviceError, Retry};
use proptest::prelude::*;

use waits::Waits;

const BINDING: [u8; 64] = [0x5c; 64];

/// Responses in order; commands are written down. What comes after the last is EIO.
#[derive(Debug, Default)]
struct Script {
    responses: VecDeque<io::Result<Vec<u8>>>,
    commands: Vec<Vec<u8>>,
}

impl Script {
    fn of(responses: impl IntoIterator<Item = Vec<u8>>) -> Self {
        Self {
            responses: responses.into_iter().map(Ok).collect(),
            commands: Vec::new(),
        }
    }
}

impl Transport for &mut Script {
    fn exchange(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        self.commands.push(command.to_vec());
        let next = self.responses.pop_front();
        next.unwrap_or_else(|| Err(io::Error::from_raw_os_error(5)))
    }
}

fn response(tag: u16, code: u32, body: &[u8]) -> Vec<u8> {
    let mut out = tag.to_be_bytes().to_vec();
    out.extend((10 + body.len() as u32).to_be_bytes());
    out.extend(code.to_be_bytes());
    out.extend_from_slice(body);
    out
}

fn code(code: u32) -> Vec<u8> {
    response(0x8001, code, &[])
}

fn plain(parameters: &[u8]) -> Vec<u8> {
    response(0x8001, 0, parameters)
}

/// With one session: handle, length, parameters, an empty acknowledgement.
fn with_session(handle: &[u8], parameters: &[u8]) -> Vec<u8> {
    let length = (parameters.len() as u32).to_be_bytes();
    response(
        0x8002,
        0,
        &[handle, &length, parameters, &[0, 0, 1, 0, 0]].concat(),
    )
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

/// A public area of our kind, on P-256.
fn area() -> Vec<u8> {
    let mut out = vec![0, 0x23, 0, 0x0b, 0, 5, 4, 0x72, 0, 0];
    out.extend([0, 0x10, 0, 0x18, 0, 0x0b, 0, 3, 0, 0x10]);
    out.extend(sized(&[1; 32]));
    out.extend(sized(&[2; 32]));
    out
}

fn key() -> Vec<u8> {
    with_session(&[0x80, 0, 0, 1], &sized(&area()))
}

/// Registers 0 and 4 of the SHA-256 bank.
fn registers(first: u8) -> Vec<u8> {
    let mut out = vec![0, 0, 0, 9, 0, 0, 0, 1, 0, 0x0b, 3, 0b1_0001, 0, 0];
    out.extend([0, 0, 0, 2]);
    out.extend(sized(&[first; 32]));
    out.extend(sized(&[4; 32]));
    plain(&out)
}

fn quote(nonce: &[u8], first: u8) -> Vec<u8> {
    let mut message = b"\xffTCG\x80\x18".to_vec();
    message.extend(sized(&[0; 34]));
    message.extend(sized(nonce));
    message.extend([0; 17]);
    message.extend([0; 8]);
    message.extend([0, 0, 0, 1, 0, 0x0b, 3, 0b1_0001, 0, 0]);
    let values = [[first; 32], [4; 32]].concat();
    message.extend(sized(&Bank::Sha256.digest(&values)));
    with_session(&[], &[sized(&message), b"signature".to_vec()].concat())
}

fn measured() -> Measured {
    Measured {
        bank: Bank::Sha256,
        registers: BTreeSet::from([0, 4]),
    }
}

/// Evidence from a script that begins with the key.
fn evidence(
    script: &mut Script,
    waits: &Waits,
) -> Result<casemate_attestation::tpm::TpmEvidence, DeviceError> {
    let (tpm, retry) = (Tpm::new(script), Retry::default());
    Attester::start(tpm, KeyKind::P256, measured(), retry, waits)?.evidence(&BINDING, waits)
}

#[test]
fn a_quote_carries_the_digest_of_the_binding_and_its_registers() {
    let nonce = session_nonce(&BINDING);
    let mut script = Script::of([key(), registers(1), quote(&nonce, 1), plain(&[])]);
    let waits = Waits::default();
    let evidence = evidence(&mut script, &waits).unwrap();
    assert_eq!(evidence.registers[&0], [1; 32]);
    let signature = QuoteSignature::Tpmt(b"signature".to_vec());
    assert_eq!(evidence.signature, signature);
    let [create, read, asked, flush] = script.commands.as_slice() else {
        panic!("{} commands", script.commands.len());
    };
    assert_eq!(
        create[..14],
        *b"\x80\x02\x00\x00\x00\x4f\x00\x00\x01\x31\x40\x00\x00\x0b"
    );
    assert_eq!(read[10..], [0, 0, 0, 1, 0, 0x0b, 3, 0b1_0001, 0, 0]);
    assert_eq!(asked[10..14], [0x80, 0, 0, 1], "the key's handle");
    assert_eq!(asked[27..61], [&[0, 32], &nonce[..]].concat());
    assert_eq!(flush[6..], [0, 0, 1, 0x65, 0x80, 0, 0, 1], "given back");
}

#[test]
fn registers_that_move_are_read_again_and_not_for_ever() {
    let nonce = session_nonce(&BINDING);
    let moved = || [registers(1), quote(&nonce, 2)];
    let still = [registers(2), quote(&nonce, 2)];
    let mut script = Script::of([key()].into_iter().chain(moved()).chain(still));
    let waits = Waits::default();
    assert_eq!(
        evidence(&mut script, &waits).unwrap().registers[&0],
        [2; 32]
    );
    let mut script = Script::of([key()].into_iter().chain((0..4).flat_map(|_| moved())));
    let error = evidence(&mut script, &waits).unwrap_err();
    assert!(matches!(error, DeviceError::NotOurs { .. }), "{error}");
    // A quote over another request's nonce is not handed on.
    let of_another = quote(&session_nonce(&[0; 64]), 1);
    let mut script = Script::of([key(), registers(1), of_another]);
    let error = evidence(&mut script, &waits).unwrap_err();
    assert!(matches!(error, DeviceError::NotOurs { .. }), "{error}");
}

#[test]
fn a_busy_tpm_is_asked_again_and_any_other_code_ends_it() {
    let nonce = session_nonce(&BINDING);
    for again in [0x908, 0x90a, 0x920, 0x922, 0x923] {
        let mut script = Script::of([
            code(again),
            key(),
            code(again),
            registers(1),
            code(again),
            code(again),
            quote(&nonce, 1),
        ]);
        let waits = Waits::default();
        assert!(evidence(&mut script, &waits).is_ok(), "{again:#x}");
        assert_eq!(waits.count(), 4);
    }
    for (other, words) in [
        (0x921, "locked out"),
        (0x101, "failure mode"),
        (0x902, "resource manager"),
        (0x9a2, "password"),
        (0x18b, "0x18b"),
    ] {
        let mut script = Script::of([key(), code(other), registers(1)]);
        let waits = Waits::default();
        let error = evidence(&mut script, &waits).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(waits.count(), 0);
    }
    // The kernel's lock, and its EIO.
    for (number, busy) in [(16, true), (11, true), (5, false), (62, false)] {
        let mut script = Script::default();
        let failed = Err(io::Error::from_raw_os_error(number));
        script.responses.push_back(failed);
        script.responses.push_back(Ok(key()));
        let waits = Waits::default();
        let tpm = Tpm::new(&mut script);
        let key = Retry::default().run(&waits, {
            let mut tpm = tpm;
            move || tpm.attestation_key(KeyKind::P256)
        });
        assert_eq!(key.is_ok(), busy, "{number}");
        assert_eq!(waits.count(), usize::from(busy));
    }
}

#[test]
fn responses_of_another_shape_are_refused() {
    let nonce = session_nonce(&BINDING);
    let good = [key(), registers(1), quote(&nonce, 1)];
    for at in 0..3 {
        // Cut short, one byte more, and a length that lies.
        for length in 0..good[at].len() {
            let mut wrong = good.clone();
            wrong[at].truncate(length);
            refused(&wrong);
        }
        let mut wrong = good.clone();
        wrong[at].push(0);
        refused(&wrong);
        let mut wrong = good.clone();
        let length = wrong[at].len() as u32;
        wrong[at].push(0);
        wrong[at][2..6].copy_from_slice(&(length + 1).to_be_bytes());
        if at > 0 {
            refused(&wrong);
        }
    }
    // Without the session that was sent, with one that was not, and registers that were not asked for.
    refused(&[plain(&sized(&area()))]);
    let unasked = response(0x8002, 0, &good[1][10..]);
    refused(&[good[0].clone(), unasked]);
    let mut other = good[1].clone();
    other[21] = 0b10_0001;
    refused(&[good[0].clone(), other]);
    let mut none = good[1].clone();
    none[21] = 0;
    refused(&[good[0].clone(), none]);
    let mut bank = good[1].clone();
    bank[19] = 0x0c;
    refused(&[good[0].clone(), bank]);
}

fn refused(responses: &[Vec<u8>]) {
    let mut script = Script::of(responses.iter().cloned());
    let waits = Waits::default();
    let error = evidence(&mut script, &waits).unwrap_err();
    let malformed = matches!(
        error,
        DeviceError::Malformed { .. } | DeviceError::NotOurs { .. }
    );
    assert!(malformed, "{error}");
    assert_eq!(waits.count(), 0);
}

#[test]
fn certificates_in_nv_memory_are_read_in_parts_and_bounded() {
    let public = |length: u16| {
        let mut area = vec![1, 0xc0, 0, 2, 0, 0x0b, 0, 7, 0, 2];
        area.extend(sized(&[]));
        area.extend(length.to_be_bytes());
        plain(&[sized(&area), sized(&[0; 34])].concat())
    };
    let part = |bytes: &[u8]| with_session(&[], &sized(bytes));
    let read = |responses: Vec<Vec<u8>>| {
        let mut script = Script::of(responses);
        let certificate = Tpm::new(&mut script).endorsement_certificate(KeyKind::Rsa2048);
        (certificate, script.commands.len())
    };
    let whole = read(vec![public(700), part(&[1; 512]), part(&[2; 188])]);
    let expected = [vec![1; 512], vec![2; 188]].concat();
    assert_eq!(whole, (Ok(Some(expected)), 3));
    for absent in [0x18b, 0x28b] {
        assert_eq!(read(vec![code(absent)]), (Ok(None), 1));
    }
    for length in [0, 8193, u16::MAX] {
        let (refused, asked) = read(vec![public(length)]);
        assert!(matches!(refused, Err(DeviceError::Malformed { .. })));
        assert_eq!(asked, 1);
    }
    let (short, _) = read(vec![public(700), part(&[1; 511])]);
    assert!(matches!(short, Err(DeviceError::Malformed { .. })));
    // An index of another number than the one asked for; an error that is no absence.
    let mut other = public(700);
    other[15] ^= 1;
    assert!(matches!(
        read(vec![other]).0,
        Err(DeviceError::Malformed { .. })
    ));
    assert!(matches!(
        read(vec![code(0x149)]).0,
        Err(DeviceError::Failed { .. })
    ));
}

#[test]
fn credentials_are_made_for_usable_endorsement_keys_alone() {
    let attestation = AttestationKey::parse(&area()).unwrap();
    let make = |key: PublicKey| make_credential(&key, &attestation, &[1; 32]);
    let (x, y) = ([0x11; 32], [0x22; 32]);
    let off_the_curve = PublicKey::Ec {
        curve: Curve::P256,
        point: [&[4], &x[..], &y[..]].concat(),
    };
    assert_eq!(make(off_the_curve), Err(CredentialError::Key));
    let large = PublicKey::Ec {
        curve: Curve::P384,
        point: vec![4; 97],
    };
    assert_eq!(make(large), Err(CredentialError::KeyKind));
    let rsa = |n: Vec<u8>| PublicKey::Rsa {
        n,
        e: vec![1, 0, 1],
    };
    assert_eq!(make(rsa(vec![0xff; 384])), Err(CredentialError::KeyKind));
    let mut odd = vec![0xc5; 256];
    let first = make(rsa(odd.clone())).unwrap();
    let second = make(rsa(odd.clone())).unwrap();
    assert_ne!(first, second, "a seed of its own each time");
    assert_eq!(first.seed.len(), 258);
    assert_eq!(first.object.len(), 2 + 34 + 34);
    odd[255] = 0;
    assert!(make(rsa(odd)).is_err(), "an even modulus is none");
}

proptest! {
    #[test]
    fn any_response_is_used_or_refused(
        responses in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..4),
        tag in prop::sample::select(vec![0x8001_u16, 0x8002]),
        framed in any::<bool>(),
    ) {
        let responses = responses.into_iter().map(|body| {
            if framed { response(tag, 0, &body) } else { body }
        });
        let mut script = Script::of(responses);
        let mut tpm = Tpm::new(&mut script);
        let _ = tpm.manufacturer();
        let _ = tpm.endorsement_certificate(KeyKind::P256);
        let _ = tpm.registers(Bank::Sha256, &BTreeSet::from([0, 4]));
        let _ = tpm.public_area(0x8101_0001);
    }

    #[test]
    fn one_changed_byte_of_a_response_never_changes_what_is_quoted(
        which in 0_usize..2,
        at in any::<prop::sample::Index>(),
        bit in 0_u8..8,
    ) {
        let nonce = session_nonce(&BINDING);
        let mut responses = [registers(1), quote(&nonce, 1)];
        let at = at.index(responses[which].len());
        responses[which][at] ^= 1 << bit;
        let [registers, quote] = responses;
        let mut script = Script::of([key(), registers, quote]);
        if let Ok(evidence) = evidence(&mut script, &Waits::default()) {
            prop_assert_eq!(&evidence.registers[&0], &vec![1; 32]);
            prop_assert_eq!(&evidence.registers[&4], &vec![4; 32]);
        }
    }
}
