//! What a session, the fleet list and audit records say of a TPM: its nonce, its id, and one value for its registers.

use std::collections::BTreeMap;

use ring::digest::{SHA384, digest};

use super::algorithm::Bank;
use crate::digest::{ChipId, Measurement, Sha256Digest};
use crate::framing;

const NONCE_LABEL: &str = "casemate/tpm-nonce/v1";
const ID_LABEL: &str = "casemate/tpm-id/v1";
const REGISTERS_LABEL: &str = "casemate/tpm-registers/v1";

/// The qualifying data of a quote for a session: SHA-256 of the label `casemate/tpm-nonce/v1` and the framed 64 bytes that other
/// platforms take as report data. A TPM takes no more than its largest digest, which may have 32 bytes.
#[must_use]
pub fn session_nonce(report_data: &[u8; 64]) -> [u8; 32] {
    *Sha256Digest::of(&framing::labelled(NONCE_LABEL, &[report_data])).as_bytes()
}

/// What the fleet list calls a TPM: SHA-512 of the label `casemate/tpm-id/v1` and the framed SubjectPublicKeyInfo (DER) of its
/// endorsement key, which stays when attestation keys change.
#[must_use]
pub fn tpm_id(endorsement_key_spki: &[u8]) -> ChipId {
    ChipId::from_bytes(framing::sha512(ID_LABEL, &[endorsement_key_spki]))
}

/// One value for all registers quoted: SHA-384 of the label `casemate/tpm-registers/v1` and, framed, the bank's number, and for
/// each register its number and its value.
#[must_use]
pub fn registers_digest(bank: Bank, registers: &BTreeMap<u8, Vec<u8>>) -> Measurement {
    let bank = bank.id().to_be_bytes();
    let numbers: Vec<[u8; 1]> = registers.keys().map(|number| [*number]).collect();
    let mut items: Vec<&[u8]> = vec![&bank];
    for (number, value) in numbers.iter().zip(registers.values()) {
        items.push(number);
        items.push(value);
    }
    let mut bytes = [0; 48];
    bytes.copy_from_slice(digest(&SHA384, &framing::labelled(REGISTERS_LABEL, &items)).as_ref());
    Measurement::from_bytes(bytes)
}
