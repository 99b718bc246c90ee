//! A TPM for tests: it signs what it is told to, well-formed or not, and its keys are certified or enrolled at will.

#![allow(dead_code, reason = "each test file uses its own part")]

pub mod certificates;
pub mod log;
pub mod vectors;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RsaKeyPair,
};
use casemate_attestation::UnixTime;
use casemate_attestation::tpm::{
    AttestationKey, Bank, EnrolledKey, HostedIn, KeyEvidence, QuoteSignature, TpmAnchors,
    TpmEvidence, TpmPolicy, TpmRejection, TpmVerdict, verify_tpm_quote,
};

/// 2026-03-01T00:00:00Z.
pub const NOW: UnixTime = UnixTime::from_secs(1_772_323_200);
pub const NONCE: &[u8] = b"thirty-two bytes of fresh nonce!";
/// Restricted, sign, userWithAuth, sensitiveDataOrigin, fixedParent, fixedTPM.
pub const AK_ATTRIBUTES: u32 = 0x0005_0072;
pub const RSASSA: u16 = 0x0014;
pub const ECDSA: u16 = 0x0018;

/// A key pair with a TPM's names for it.
pub enum TestKey {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
}

fn rsa() -> TestKey {
    TestKey::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
}

/// The RSA attestation key of this run.
pub fn ak() -> &'static TestKey {
    static KEY: OnceLock<TestKey> = OnceLock::new();
    KEY.get_or_init(rsa)
}

/// Another machine's.
pub fn other_ak() -> &'static TestKey {
    static KEY: OnceLock<TestKey> = OnceLock::new();
    KEY.get_or_init(rsa)
}

pub fn p256() -> &'static TestKey {
    static KEY: OnceLock<TestKey> = OnceLock::new();
    KEY.get_or_init(|| {
        TestKey::P256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    })
}

pub fn p384() -> &'static TestKey {
    static KEY: OnceLock<TestKey> = OnceLock::new();
    KEY.get_or_init(|| {
        TestKey::P384(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap())
    })
}

impl TestKey {
    pub fn scheme(&self) -> u16 {
        match self {
            Self::Rsa(_) => RSASSA,
            Self::P256(_) | Self::P384(_) => ECDSA,
        }
    }

    /// The hash that this key signs with by default.
    pub fn hash(&self) -> Bank {
        match self {
            Self::P384(_) => Bank::Sha384,
            _ => Bank::Sha256,
        }
    }

    /// RSASSA of a hash, bare.
    pub fn rsassa(&self, hash: Bank, message: &[u8]) -> Vec<u8> {
        let Self::Rsa(pair) = self else {
            panic!("an RSA key")
        };
        let algorithm = match hash {
            Bank::Sha256 => &RSA_PKCS1_SHA256,
            Bank::Sha384 => &RSA_PKCS1_SHA384,
            _ => &RSA_PKCS1_SHA512,
        };
        let mut out = vec![0; pair.public_modulus_len()];
        pair.sign(algorithm, &SystemRandom::new(), message, &mut out)
            .unwrap();
        out
    }

    /// TPMT_SIGNATURE with the default hash.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Rsa(_) => tpmt(RSASSA, 0x000b, &[&self.rsassa(Bank::Sha256, message)]),
            Self::P256(pair) | Self::P384(pair) => {
                let fixed = pair.sign(&SystemRandom::new(), message).unwrap();
                let (r, s) = fixed.as_ref().split_at(fixed.as_ref().len() / 2);
                tpmt(ECDSA, self.hash().id(), &[r, s])
            }
        }
    }

    pub fn modulus(&self) -> Vec<u8> {
        let Self::Rsa(pair) = self else {
            panic!("an RSA key")
        };
        let key = pair.public_key();
        // RSAPublicKey in DER: two headers of four bytes, a zero, the modulus.
        key.as_ref()[9..9 + 256].to_vec()
    }

    /// The uncompressed point.
    pub fn point(&self) -> Vec<u8> {
        match self {
            Self::P256(pair) | Self::P384(pair) => pair.public_key().as_ref().to_vec(),
            Self::Rsa(_) => panic!("an elliptic key"),
        }
    }

    /// The public area.
    pub fn area(&self) -> Area {
        Area {
            name_hash: 0x000b,
            attributes: AK_ATTRIBUTES,
            symmetric: 0x0010,
            scheme: self.scheme(),
            hash: self.hash().id(),
        }
    }

    pub fn enrolled(&self, hosted: HostedIn) -> EnrolledKey {
        let area = AttestationKey::parse(&self.area().bytes(self)).unwrap();
        EnrolledKey::new(&area, hosted)
    }
}

/// What of a TPMT_PUBLIC a test changes.
#[derive(Clone, Copy)]
pub struct Area {
    pub name_hash: u16,
    pub attributes: u32,
    pub symmetric: u16,
    pub scheme: u16,
    pub hash: u16,
}

impl Area {
    pub fn bytes(&self, key: &TestKey) -> Vec<u8> {
        let kind: u16 = if matches!(key, TestKey::Rsa(_)) {
            1
        } else {
            0x23
        };
        let mut out = kind.to_be_bytes().to_vec();
        out.extend(self.name_hash.to_be_bytes());
        out.extend(self.attributes.to_be_bytes());
        out.extend([0, 0]);
        for number in [self.symmetric, self.scheme, self.hash] {
            out.extend(number.to_be_bytes());
        }
        match key {
            TestKey::Rsa(_) => {
                let modulus = key.modulus();
                out.extend((8 * modulus.len() as u16).to_be_bytes());
                out.extend([0; 4]);
                out.extend(sized(&modulus));
            }
            TestKey::P256(_) | TestKey::P384(_) => {
                let curve: u16 = if matches!(key, TestKey::P256(_)) {
                    3
                } else {
                    4
                };
                out.extend(curve.to_be_bytes());
                out.extend([0, 0x10]);
                let point = key.point();
                let (x, y) = point[1..].split_at((point.len() - 1) / 2);
                out.extend(sized(x));
                out.extend(sized(y));
            }
        }
        out
    }
}

pub fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

pub fn tpmt(scheme: u16, hash: u16, values: &[&[u8]]) -> Vec<u8> {
    let mut out = [scheme.to_be_bytes(), hash.to_be_bytes()].concat();
    for value in values {
        out.extend(sized(value));
    }
    out
}

/// What of a TPMS_ATTEST a test changes.
#[derive(Clone)]
pub struct Message {
    pub magic: u32,
    pub kind: u16,
    pub signer: Vec<u8>,
    pub extra_data: Vec<u8>,
    pub clock: u64,
    pub resets: u32,
    pub restarts: u32,
    pub safe: u8,
    pub firmware: u64,
    /// Bank and bit field.
    pub selections: Vec<(u16, Vec<u8>)>,
    pub digest: Vec<u8>,
    pub trailing: Vec<u8>,
}

impl Message {
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = self.magic.to_be_bytes().to_vec();
        out.extend(self.kind.to_be_bytes());
        out.extend(sized(&self.signer));
        out.extend(sized(&self.extra_data));
        out.extend(self.clock.to_be_bytes());
        out.extend(self.resets.to_be_bytes());
        out.extend(self.restarts.to_be_bytes());
        out.push(self.safe);
        out.extend(self.firmware.to_be_bytes());
        out.extend((self.selections.len() as u32).to_be_bytes());
        for (bank, bits) in &self.selections {
            out.extend(bank.to_be_bytes());
            out.push(bits.len() as u8);
            out.extend(bits);
        }
        out.extend(sized(&self.digest));
        out.extend(&self.trailing);
        out
    }
}

/// Registers 0 to 7 of a bank, each filled with another byte.
pub fn values(bank: Bank) -> BTreeMap<u8, Vec<u8>> {
    (0..8)
        .map(|number| (number, vec![0x10 + number; bank.digest_bytes()]))
        .collect()
}

pub fn bits(registers: &BTreeMap<u8, Vec<u8>>) -> Vec<u8> {
    let mut bits = vec![0; 3];
    for register in registers.keys() {
        bits[usize::from(register / 8)] |= 1 << (register % 8);
    }
    bits
}

/// A quote that is accepted: message, values, key.
#[derive(Clone)]
pub struct Case {
    pub message: Message,
    pub registers: BTreeMap<u8, Vec<u8>>,
    pub key: &'static TestKey,
    pub evidence: Option<KeyEvidence>,
    pub signature: Option<QuoteSignature>,
}

pub fn case() -> Case {
    case_of(ak(), Bank::Sha256, values(Bank::Sha256))
}

pub fn case_of(key: &'static TestKey, bank: Bank, registers: BTreeMap<u8, Vec<u8>>) -> Case {
    let joined: Vec<u8> = registers.values().flatten().copied().collect();
    Case {
        message: Message {
            magic: 0xff54_4347,
            kind: 0x8018,
            signer: [&[0, 0x0b][..], &[9; 32]].concat(),
            extra_data: NONCE.to_vec(),
            clock: 100_000,
            resets: 7,
            restarts: 1,
            safe: 1,
            firmware: 0x0001_0002,
            selections: vec![(bank.id(), bits(&registers))],
            digest: key.hash().digest(&joined),
            trailing: Vec::new(),
        },
        registers,
        key,
        evidence: None,
        signature: None,
    }
}

impl Case {
    pub fn evidence(&self) -> TpmEvidence {
        let message = self.message.bytes();
        let signature = self.signature.clone();
        let area = || KeyEvidence::PublicArea(self.key.area().bytes(self.key));
        TpmEvidence {
            signature: signature.unwrap_or_else(|| QuoteSignature::Tpmt(self.key.sign(&message))),
            message,
            registers: self.registers.clone(),
            key: self.evidence.clone().unwrap_or_else(area),
        }
    }

    /// Under the policy that these very values are expected, with the key enrolled as a machine's.
    pub fn judge(&self) -> Result<TpmVerdict, TpmRejection> {
        verify_tpm_quote(&self.evidence(), NONCE, &policy(), &anchors(self.key), NOW)
    }
}

/// Registers 0 to 7 of SHA-256, of which 0, 4 and 7 must be as they are.
pub fn policy() -> TpmPolicy {
    policy_for(Bank::Sha256, &values(Bank::Sha256), &[0, 4, 7])
}

pub fn policy_for(bank: Bank, registers: &BTreeMap<u8, Vec<u8>>, fixed: &[u8]) -> TpmPolicy {
    let expected = fixed
        .iter()
        .map(|number| (*number, vec![registers[number].clone()]));
    let covered: BTreeSet<u8> = registers.keys().copied().collect();
    if bank == Bank::Sha1 {
        TpmPolicy::of_collidable_sha1_bank(covered, expected.collect()).unwrap()
    } else {
        TpmPolicy::new(bank, covered, expected.collect()).unwrap()
    }
}

pub fn anchors(key: &TestKey) -> TpmAnchors {
    TpmAnchors::new(Vec::new(), vec![key.enrolled(HostedIn::Machine)])
}

/// The banks of a log.
pub fn all_banks(replay: &casemate_attestation::eventlog::Replay) -> Vec<Bank> {
    replay.banks().to_vec()
}
