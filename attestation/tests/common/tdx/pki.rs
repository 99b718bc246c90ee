//! Keys, certificates, revocation lists and Intel's SGX extension, as DER trees that a test can change before they are signed.

#![allow(dead_code, reason = "each test file uses its own part")]

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
};

use super::super::der::{Der, extension};
use super::{CERTIFICATE_FROM, CERTIFICATE_UNTIL, INSTANCE, PPID};

const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const PRIME256V1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const CRL_NUMBER: &[u8] = &[0x55, 0x1d, 0x14];
pub const SGX: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x01, 0x0d, 0x01];

/// A P-256 key that signs both as certificates want it and as quotes want it.
pub struct Key {
    der: EcdsaKeyPair,
    fixed: EcdsaKeyPair,
}

impl Key {
    pub fn generate() -> Self {
        let random = SystemRandom::new();
        let secret =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
        let pair = |form| EcdsaKeyPair::from_pkcs8(form, secret.as_ref(), &random).unwrap();
        Self {
            der: pair(&ECDSA_P256_SHA256_ASN1_SIGNING),
            fixed: pair(&ECDSA_P256_SHA256_FIXED_SIGNING),
        }
    }

    /// The uncompressed point, 65 bytes.
    pub fn point(&self) -> &[u8] {
        self.der.public_key().as_ref()
    }

    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.der
            .sign(&SystemRandom::new(), message)
            .unwrap()
            .as_ref()
            .to_vec()
    }

    /// R and S, 32 bytes each.
    pub fn sign_fixed(&self, message: &[u8]) -> Vec<u8> {
        self.fixed
            .sign(&SystemRandom::new(), message)
            .unwrap()
            .as_ref()
            .to_vec()
    }
}

/// Somebody with a name, a serial number and a key.
pub struct Identity {
    pub name: &'static str,
    pub serial: u8,
    pub key: Key,
}

impl Identity {
    pub fn new(name: &'static str, serial: u8) -> Self {
        let key = Key::generate();
        Self { name, serial, key }
    }
}

/// What a certificate allows.
#[derive(Clone, Copy)]
pub enum Rank {
    /// With so many authorities below.
    Authority(u8),
    Leaf,
}

fn oid(bytes: &[u8]) -> Der {
    Der::primitive(0x06, bytes)
}

fn bits(bytes: &[u8]) -> Der {
    Der::primitive(0x03, &[&[0], bytes].concat())
}

fn constructed(tag: u8, parts: Vec<Der>) -> Der {
    Der {
        tag,
        ..Der::sequence(parts)
    }
}

fn name(common: &str) -> Der {
    let pair = vec![oid(COMMON_NAME), Der::primitive(0x0c, common.as_bytes())];
    Der::sequence(vec![constructed(0x31, vec![Der::sequence(pair)])])
}

fn time(text: &str) -> Der {
    Der::primitive(0x17, text.as_bytes())
}

fn algorithm() -> Der {
    Der::sequence(vec![oid(ECDSA_SHA256)])
}

/// Signs the inner part of a certificate or list.
fn signed(inner: &Der, algorithm: &Der, key: &Key) -> Vec<u8> {
    let signature = bits(&key.sign(&inner.write()));
    Der::sequence(vec![inner.clone(), algorithm.clone(), signature]).write()
}

/// Changes what is signed and the algorithm beside it, and signs again.
pub fn altered(key: &Key, der: &[u8], change: impl FnOnce(&mut Der, &mut Der)) -> Vec<u8> {
    let mut whole = Der::read(der);
    assert_eq!(whole.write(), der);
    let [inner, algorithm, _] = whole.parts.as_mut_slice() else {
        panic!("three parts");
    };
    change(inner, algorithm);
    signed(inner, algorithm, key)
}

/// Positions inside what is signed of a certificate.
pub const VERSION: [usize; 2] = [0, 0];
pub const SUBJECT_NAME: [usize; 4] = [5, 0, 0, 1];
pub const NOT_BEFORE: [usize; 2] = [4, 0];
pub const NOT_AFTER: [usize; 2] = [4, 1];
pub const CURVE: [usize; 3] = [6, 0, 1];
pub const EXTENSIONS: [usize; 2] = [7, 0];

/// A certificate as Intel makes them.
pub fn certificate(issuer: &Identity, subject: &Identity, rank: Rank, more: Vec<Der>) -> Vec<u8> {
    let (constraints, usage) = match rank {
        Rank::Authority(depth) => (
            vec![
                Der::primitive(0x01, &[0xff]),
                Der::primitive(0x02, &[depth]),
            ],
            [1, 0x06],
        ),
        Rank::Leaf => (Vec::new(), [6, 0xc0]),
    };
    let mut extensions = vec![
        extension(BASIC_CONSTRAINTS, true, &Der::sequence(constraints).write()),
        extension(KEY_USAGE, true, &Der::primitive(0x03, &usage).write()),
    ];
    extensions.extend(more);
    let key = Der::sequence(vec![
        Der::sequence(vec![oid(EC_PUBLIC_KEY), oid(PRIME256V1)]),
        bits(subject.key.point()),
    ]);
    let inner = Der::sequence(vec![
        constructed(0xa0, vec![Der::primitive(0x02, &[2])]),
        Der::primitive(0x02, &[subject.serial]),
        algorithm(),
        name(issuer.name),
        Der::sequence(vec![time(CERTIFICATE_FROM.0), time(CERTIFICATE_UNTIL.0)]),
        name(subject.name),
        key,
        constructed(0xa3, vec![Der::sequence(extensions)]),
    ]);
    signed(&inner, &algorithm(), &issuer.key)
}

/// A revocation list that names these serial numbers.
pub fn crl(issuer: &Identity, revoked: &[u8]) -> Vec<u8> {
    let mut parts = vec![
        Der::primitive(0x02, &[1]),
        algorithm(),
        name(issuer.name),
        time("260220000000Z"),
        time("260322000000Z"),
    ];
    let entry = |serial: &u8| {
        Der::sequence(vec![
            Der::primitive(0x02, &[*serial]),
            time("260220000000Z"),
        ])
    };
    if !revoked.is_empty() {
        parts.push(Der::sequence(revoked.iter().map(entry).collect()));
    }
    let number = extension(CRL_NUMBER, false, &Der::primitive(0x02, &[1]).write());
    parts.push(constructed(0xa0, vec![Der::sequence(vec![number])]));
    signed(&Der::sequence(parts), &algorithm(), &issuer.key)
}

/// A pair of the SGX extension: Intel's numbers and a value.
pub fn sgx_entry(number: &[u8], value: Der) -> Der {
    Der::sequence(vec![oid(&[SGX, number].concat()), value])
}

/// The SGX extension of the platform: PPID, firmware, PCE id, FMSPC, type, instance, configuration, in this order.
pub fn sgx_extension() -> Der {
    let octets = |bytes: &[u8]| Der::primitive(0x04, bytes);
    let number = |value: u8| Der::primitive(0x02, &[value]);
    let mut tcb: Vec<_> = (1..=16)
        .map(|index| sgx_entry(&[2, index], number(5)))
        .collect();
    tcb.push(sgx_entry(&[2, 17], number(13)));
    tcb.push(sgx_entry(&[2, 18], octets(&[5; 16])));
    let flags = [0xff, 0xff, 0].iter().zip(1_u8..);
    let flags = flags.map(|(flag, index)| sgx_entry(&[7, index], Der::primitive(0x01, &[*flag])));
    Der::sequence(vec![
        sgx_entry(&[1], octets(&PPID)),
        sgx_entry(&[2], Der::sequence(tcb)),
        sgx_entry(&[3], octets(&[0, 0])),
        sgx_entry(&[4], octets(&[0x90, 0xc0, 0x6f, 0, 0, 0])),
        sgx_entry(&[5], Der::primitive(0x0a, &[1])),
        sgx_entry(&[6], octets(&INSTANCE)),
        sgx_entry(&[7], Der::sequence(flags.collect())),
    ])
}

pub fn pem(certificates: &[&[u8]]) -> String {
    let block = |der: &&[u8]| {
        let text = STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    };
    certificates.iter().map(block).collect()
}
