//! Event logs for tests and for the seeds of the fuzz target, written event by event.

#![allow(dead_code, reason = "each user takes its own part")]

use std::collections::BTreeSet;

use casemate_attestation::eventlog::{
    Basis, Claims, LogKind, LogRejection, QuotedRegisters, Register, Replay, replay,
};
use casemate_attestation::tpm::Bank;

pub const NO_ACTION: u32 = 3;
pub const SEPARATOR: u32 = 4;
pub const PLAIN_ACTION: u32 = 5;
pub const TAG: u32 = 6;
pub const VERSION: u32 = 8;
pub const IPL: u32 = 13;
pub const CONFIG: u32 = 0x8000_0001;
pub const BOOT: u32 = 0x8000_0002;
pub const APPLICATION: u32 = 0x8000_0003;
pub const GPT: u32 = 0x8000_0006;
pub const ACTION: u32 = 0x8000_0007;
pub const BLOB: u32 = 0x8000_0008;
pub const AUTHORITY: u32 = 0x8000_00e0;

pub const GLOBAL: [u8; 16] = [
    0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c,
];

const IMAGE_SECURITY: [u8; 16] = [
    0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f,
];

/// An event: register, type, what was hashed, data.
pub type Measured = (u32, u32, Vec<u8>, Vec<u8>);

/// An event whose data is what was hashed.
pub fn whole(index: u32, event_type: u32, data: &[u8]) -> Measured {
    (index, event_type, data.to_vec(), data.to_vec())
}

/// An event whose data only describes what was hashed.
pub fn apart(index: u32, event_type: u32, hashed: &[u8], data: &[u8]) -> Measured {
    (index, event_type, hashed.to_vec(), data.to_vec())
}

pub fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

pub fn variable(name: &str, value: &[u8]) -> Vec<u8> {
    variable_of(GLOBAL, name, value)
}

/// An entry of a database of secure boot, or the whole of one.
pub fn database(name: &str, value: &[u8]) -> Vec<u8> {
    variable_of(IMAGE_SECURITY, name, value)
}

fn variable_of(vendor: [u8; 16], name: &str, value: &[u8]) -> Vec<u8> {
    let mut out = vendor.to_vec();
    out.extend((name.encode_utf16().count() as u64).to_le_bytes());
    out.extend((value.len() as u64).to_le_bytes());
    out.extend(utf16(name));
    out.extend(value);
    out
}

/// A signature list of one hash and its owner.
pub fn signature_list() -> Vec<u8> {
    let mut list = vec![7; 16];
    for field in [28 + 48_u32, 0, 48] {
        list.extend(field.to_le_bytes());
    }
    list.extend([9; 48]);
    list
}

/// A partition table with one entry.
pub fn partition_table() -> Vec<u8> {
    let mut table = [&b"EFI PART"[..], &[1; 76]].concat();
    table.extend(128_u32.to_le_bytes());
    table.extend([2; 4]);
    table.extend(1_u64.to_le_bytes());
    table.extend([3; 128]);
    table
}

/// The first event: names the banks.
pub fn header(banks: &[(u16, u16)]) -> Vec<u8> {
    let mut data = b"Spec ID Event03\0".to_vec();
    data.extend([0, 0, 0, 0, 0, 2, 0, 2]);
    data.extend((banks.len() as u32).to_le_bytes());
    for (id, length) in banks {
        data.extend(id.to_le_bytes());
        data.extend(length.to_le_bytes());
    }
    data.push(0);
    sha1_event(0, NO_ACTION, &data)
}

/// An event of the SHA-1 form with a digest of zeros.
pub fn sha1_event(index: u32, event_type: u32, data: &[u8]) -> Vec<u8> {
    let mut out = [index.to_le_bytes(), event_type.to_le_bytes()].concat();
    out.extend([0; 20]);
    out.extend((data.len() as u32).to_le_bytes());
    out.extend(data);
    out
}

pub fn event(banks: &[Bank], (index, event_type, hashed, data): &Measured) -> Vec<u8> {
    let digests = banks.iter().map(|bank| {
        let digest = if *event_type == NO_ACTION {
            vec![0; bank.digest_bytes()]
        } else {
            bank.digest(hashed)
        };
        (bank.id(), digest)
    });
    raw_event(*index, *event_type, &digests.collect::<Vec<_>>(), data)
}

pub fn raw_event(index: u32, event_type: u32, digests: &[(u16, Vec<u8>)], data: &[u8]) -> Vec<u8> {
    let mut out = [index.to_le_bytes(), event_type.to_le_bytes()].concat();
    out.extend((digests.len() as u32).to_le_bytes());
    for (id, digest) in digests {
        out.extend(id.to_le_bytes());
        out.extend(digest);
    }
    out.extend((data.len() as u32).to_le_bytes());
    out.extend(data);
    out
}

/// A log of SHA-256 and SHA-384.
pub fn log(events: &[Measured]) -> Vec<u8> {
    let banks = [Bank::Sha256, Bank::Sha384];
    let mut out = header(&[(0x0b, 32), (0x0c, 48)]);
    out.extend(events.iter().flat_map(|measured| event(&banks, measured)));
    out
}

/// The boot of a machine with secure boot, GRUB and a kernel.
pub fn boot() -> Vec<Measured> {
    let mut events = vec![
        whole(0, VERSION, &utf16("1.0")),
        apart(0, BLOB, b"firmware", &[0; 16]),
        whole(7, CONFIG, &variable("SecureBoot", &[1])),
        whole(7, CONFIG, &variable("PK", b"platform key")),
        whole(7, CONFIG, &database("db", &signature_list())),
        whole(7, SEPARATOR, &[0; 4]),
        apart(1, BOOT, b"\x01\0", &variable("BootOrder", b"\x01\0")),
        whole(4, ACTION, b"Calling EFI Application from Boot Option"),
    ];
    events.extend((0..7).map(|pcr| whole(pcr, SEPARATOR, &[0; 4])));
    events.extend([
        whole(5, GPT, &partition_table()),
        apart(4, APPLICATION, b"shim", &[0; 32]),
        whole(7, AUTHORITY, &database("db", b"certificate")),
        apart(
            8,
            IPL,
            b"linux /vmlinuz ro",
            b"grub_cmd: linux /vmlinuz ro\0",
        ),
        apart(9, IPL, b"kernel", b"/vmlinuz\0"),
        apart(8, IPL, b"/vmlinuz ro", b"kernel_cmdline: /vmlinuz ro\0"),
        apart(
            9,
            TAG,
            b"options",
            b"\xed\x22;\x8f\x1a\0\0\0LOADED_IMAGE::LoadOptions\0",
        ),
        whole(5, ACTION, b"Exit Boot Services Invocation"),
        whole(5, ACTION, b"Exit Boot Services Returned with Success"),
    ]);
    events
}

/// The same boot as a trust domain's firmware logs it: registers 1 to 3, SHA-384.
pub fn domain() -> Vec<u8> {
    let mut bytes = header(&[(0x0c, 48)]);
    for (index, event_type, hashed, data) in boot() {
        let index = match index {
            0 | 1 | 7 => 1,
            2..=6 => 2,
            _ => 3,
        };
        bytes.extend(event(&[Bank::Sha384], &(index, event_type, hashed, data)));
    }
    bytes
}

/// Registers of a replay as if a TPM had quoted them all, unsigned.
pub fn own(replay: &Replay, bank: Bank) -> QuotedRegisters {
    let registers = replay.registers(bank).into_iter().flatten();
    let values = registers.map(|(register, value)| match register {
        Register::Pcr(number) | Register::Rtmr(number) => (*number, value.clone()),
    });
    QuotedRegisters::unsigned(bank, values.collect())
}

/// Reads a TPM's log and claims by its own registers.
pub fn claims(log: &[u8]) -> Result<Claims, LogRejection> {
    let replay = replay(log, LogKind::Tcg2)?;
    replay.confirm(&own(&replay, Bank::Sha256))?.claims()
}

/// What registers that somebody signed prove, as text.
pub fn proven(replay: &Replay, quoted: &QuotedRegisters) -> Result<BTreeSet<String>, LogRejection> {
    let claims = replay.confirm(quoted)?.claims()?;
    let all = claims.all().iter();
    let proven = all.filter(|claim| claim.basis == Basis::HardwareProven);
    Ok(proven
        .map(|claim| format!("{} {:?}", claim.register, claim.value))
        .collect())
}

/// RTMR 0 to 3 as a trust domain's log gives them; zeros where it extends none.
pub fn rtmrs(replay: &Replay) -> [[u8; 48]; 4] {
    std::array::from_fn(|number| {
        let register = u8::try_from(number).ok().map(Register::Rtmr);
        let registers = replay.registers(Bank::Sha384);
        let value = registers.zip(register).and_then(|(all, it)| all.get(&it));
        let value = value.and_then(|value| value.as_slice().try_into().ok());
        value.unwrap_or([0; 48])
    })
}

/// Whether all claims are nothing but assertions.
pub fn all_asserted(claims: &Claims) -> bool {
    claims
        .all()
        .iter()
        .all(|claim| claim.basis == Basis::Asserted)
}
