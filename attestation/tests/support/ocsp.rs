//! A responder for tests: it answers well and badly about certificates of the test device's chain.

#![allow(dead_code, reason = "each test file uses its own part")]

use aws_lc_rs::digest::{Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA384, digest};
use casemate_attestation::UnixTime;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::spdm::{Key, Template, ecdsa_sha384, extension, sequence, tlv};

/// 2026-02-28, 2026-03-08 and the seconds of the latter.
pub const THIS_UPDATE: &str = "20260228000000Z";
pub const NEXT_UPDATE: &str = "20260308000000Z";
pub const DUE: UnixTime = UnixTime::from_secs(1_772_928_000);
pub const ISSUED: UnixTime = UnixTime::from_secs(1_772_236_800);
/// id-kp-OCSPSigning.
pub const OCSP_SIGNING: [u8; 8] = [0x2b, 6, 1, 5, 5, 7, 3, 9];
const BASIC: [u8; 9] = [0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1];

pub fn good() -> Vec<u8> {
    tlv(0x80, &[])
}

pub fn unknown() -> Vec<u8> {
    tlv(0x82, &[])
}

pub fn revoked(reason: Option<u8>) -> Vec<u8> {
    let reason = reason.map(|reason| tlv(0xa0, &[&[0x0a, 1, reason]]));
    tlv(
        0xa1,
        &[&time("20260101000000Z"), &reason.unwrap_or_default()],
    )
}

pub fn time(text: &str) -> Vec<u8> {
    tlv(0x18, &[text.as_bytes()])
}

/// By which hash an answer names its certificate's issuer.
#[derive(Clone, Copy)]
pub enum NamedBy {
    Sha1,
    Sha256,
    Sha384,
}

/// certID of `certificate` under `issuer`.
pub fn id(certificate: &[u8], issuer: &[u8], by: NamedBy) -> Vec<u8> {
    let (_, certificate) = X509Certificate::from_der(certificate).unwrap();
    let (_, issuer) = X509Certificate::from_der(issuer).unwrap();
    let (algorithm, number): (&'static Algorithm, &[u8]) = match by {
        NamedBy::Sha1 => (&SHA1_FOR_LEGACY_USE_ONLY, &[0x2b, 0x0e, 3, 2, 0x1a]),
        NamedBy::Sha256 => (&SHA256, &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1]),
        NamedBy::Sha384 => (&SHA384, &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2]),
    };
    let hash = |bytes: &[u8]| tlv(4, &[digest(algorithm, bytes).as_ref()]);
    let key = &issuer.public_key().subject_public_key.data;
    sequence(&[
        &sequence(&[&tlv(6, &[number]), &[5, 0]]),
        &hash(issuer.subject().as_raw()),
        &hash(key),
        &tlv(2, &[certificate.raw_serial()]),
    ])
}

/// One line of an answer.
#[derive(Clone)]
pub struct Line {
    pub id: Vec<u8>,
    pub status: Vec<u8>,
    pub this_update: &'static str,
    pub next_update: Option<&'static str>,
    pub extensions: Vec<u8>,
}

impl Line {
    pub fn good(certificate: &[u8], issuer: &[u8]) -> Self {
        Self {
            id: id(certificate, issuer, NamedBy::Sha384),
            status: good(),
            this_update: THIS_UPDATE,
            next_update: Some(NEXT_UPDATE),
            extensions: Vec::new(),
        }
    }

    fn der(&self) -> Vec<u8> {
        let next = self.next_update.map(|text| tlv(0xa0, &[&time(text)]));
        sequence(&[
            &self.id,
            &self.status,
            &time(self.this_update),
            &next.unwrap_or_default(),
            &self.extensions,
        ])
    }
}

/// An answer to be signed.
#[derive(Clone)]
pub struct Answer {
    pub status: u8,
    pub kind: Vec<u8>,
    pub version: Vec<u8>,
    /// The whole responder id.
    pub responder: Vec<u8>,
    pub produced: &'static str,
    pub lines: Vec<Line>,
    pub extensions: Vec<u8>,
    pub certificates: Vec<Vec<u8>>,
    pub algorithm: Vec<u8>,
    pub behind: Vec<u8>,
}

/// A responder id by name: the subject of `certificate`.
pub fn by_name(certificate: &[u8]) -> Vec<u8> {
    let (_, certificate) = X509Certificate::from_der(certificate).unwrap();
    tlv(0xa1, &[certificate.subject().as_raw()])
}

/// A responder id by key.
pub fn by_key(key: &Key) -> Vec<u8> {
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, key.point());
    tlv(0xa2, &[&tlv(4, &[hash.as_ref()])])
}

pub fn nonce(critical: bool) -> Vec<u8> {
    let id = [0x2b, 6, 1, 5, 5, 7, 0x30, 1, 2];
    tlv(
        0xa1,
        &[&sequence(&[&extension(&id, critical, &[4, 2, 7, 7])])],
    )
}

impl Answer {
    /// What an issuer answers itself.
    pub fn of_issuer(line: Line, issuer: &[u8]) -> Self {
        Self {
            status: 0,
            kind: BASIC.to_vec(),
            version: Vec::new(),
            responder: by_name(issuer),
            produced: THIS_UPDATE,
            lines: vec![line],
            extensions: Vec::new(),
            certificates: Vec::new(),
            algorithm: ecdsa_sha384(),
            behind: Vec::new(),
        }
    }

    pub fn sign(&self, key: &Key) -> Vec<u8> {
        let lines: Vec<u8> = self.lines.iter().flat_map(Line::der).collect();
        let data = sequence(&[
            &self.version,
            &self.responder,
            &time(self.produced),
            &sequence(&[&lines]),
            &self.extensions,
        ]);
        let signature = tlv(3, &[&[0], &key.sign_der(&data)]);
        let certificates = match self.certificates.is_empty() {
            true => Vec::new(),
            false => tlv(0xa0, &[&sequence(&[&self.certificates.concat()])]),
        };
        let basic = sequence(&[&data, &self.algorithm, &signature, &certificates]);
        let bytes = sequence(&[&tlv(6, &[&self.kind]), &tlv(4, &[&basic])]);
        let mut out = sequence(&[&[0x0a, 1, self.status], &tlv(0xa0, &[&bytes])]);
        out.extend(&self.behind);
        out
    }
}

/// A responder's certificate by `issuer`, to be changed.
pub fn responder(issuer: &str) -> Template {
    let purpose = sequence(&[&tlv(6, &[&OCSP_SIGNING])]);
    Template {
        serial: vec![0x77],
        authority: None,
        usage: Some(0x80),
        extensions: vec![extension(&[0x55, 0x1d, 37], false, &purpose)],
        ..Template::authority("Test responder", issuer)
    }
}
