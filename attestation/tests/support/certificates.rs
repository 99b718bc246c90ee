//! Certificates of test keys: a root, an intermediate, attestation keys' leaves, and wrong ones on request.

use super::{TestKey, other_ak, p256, p384};
use casemate_attestation::UnixTime;
use casemate_attestation::tpm::Bank;

pub const FROM: &str = "240101000000Z";
pub const UNTIL: &str = "440101000000Z";
/// The same as seconds.
pub const FROM_SECS: UnixTime = UnixTime::from_secs(1_704_067_200);
pub const UNTIL_SECS: UnixTime = UnixTime::from_secs(2_335_219_200);

pub const EK_PURPOSE: [u8; 5] = [0x67, 0x81, 0x05, 0x08, 0x01];
pub const AK_PURPOSE: [u8; 5] = [0x67, 0x81, 0x05, 0x08, 0x03];
pub const TLS_PURPOSE: [u8; 8] = [0x2b, 6, 1, 5, 5, 7, 3, 1];

pub fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut out = vec![tag];
    match content.len() {
        short @ 0..=0x7f => out.push(short as u8),
        long @ 0x80..=0xff => out.extend([0x81, long as u8]),
        long => out.extend([0x82, (long >> 8) as u8, long as u8]),
    }
    out.extend(content);
    out
}

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(0x30, parts)
}

pub fn oid(bytes: &[u8]) -> Vec<u8> {
    tlv(0x06, &[bytes])
}

/// A public key as certificates carry it.
pub fn spki(key: &TestKey) -> Vec<u8> {
    let bits = |bytes: &[u8]| tlv(0x03, &[&[0], bytes]);
    match key {
        TestKey::Rsa(_) => rsa_spki(&key.modulus(), &[1, 0, 1]),
        TestKey::P256(_) | TestKey::P384(_) => {
            let curve = if matches!(key, TestKey::P256(_)) {
                oid(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7])
            } else {
                oid(&[0x2b, 0x81, 4, 0, 0x22])
            };
            let kind = oid(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1]);
            sequence(&[&sequence(&[&kind, &curve]), &bits(&key.point())])
        }
    }
}

pub fn rsa_spki(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    let number = |bytes: &[u8]| {
        let lead: &[u8] = if bytes[0] >= 0x80 { &[0] } else { &[] };
        tlv(0x02, &[lead, bytes])
    };
    let kind = oid(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1]);
    let numbers = sequence(&[&number(modulus), &number(exponent)]);
    sequence(&[&sequence(&[&kind, &[5, 0]]), &tlv(0x03, &[&[0], &numbers])])
}

/// What of a certificate a test changes.
#[derive(Clone)]
pub struct Template {
    pub subject: String,
    pub issuer: String,
    pub from: &'static str,
    pub until: &'static str,
    /// `None`: no basic constraints. Else whether an authority, and how long a path may be below it.
    pub authority: Option<(bool, Option<u8>)>,
    /// Bits of key usage: 0x80 digital signature, 0x04 certificates.
    pub usage: Option<u8>,
    pub purposes: Vec<Vec<u8>>,
    pub extensions: Vec<Vec<u8>>,
}

pub fn root() -> Template {
    Template {
        subject: "Test TPM root".to_owned(),
        issuer: "Test TPM root".to_owned(),
        from: FROM,
        until: UNTIL,
        authority: Some((true, None)),
        usage: Some(0x04),
        purposes: Vec::new(),
        extensions: Vec::new(),
    }
}

pub fn intermediate() -> Template {
    Template {
        subject: "Test TPM intermediate".to_owned(),
        authority: Some((true, Some(0))),
        ..root()
    }
}

pub fn leaf() -> Template {
    Template {
        subject: "Test attestation key".to_owned(),
        issuer: "Test TPM intermediate".to_owned(),
        authority: Some((false, None)),
        usage: Some(0x80),
        purposes: vec![AK_PURPOSE.to_vec()],
        ..root()
    }
}

/// The root's key.
pub fn root_key() -> &'static TestKey {
    p384()
}

/// The intermediate's key.
pub fn intermediate_key() -> &'static TestKey {
    other_ak()
}

/// A key that signs for neither.
pub fn stranger() -> &'static TestKey {
    p256()
}

pub fn extension(id: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { &[1, 1, 0xff] } else { &[] };
    sequence(&[&oid(id), critical, &tlv(0x04, &[value])])
}

impl Template {
    /// A certificate of `key`, signed by `signer`.
    pub fn sign(&self, key: &TestKey, signer: &TestKey) -> Vec<u8> {
        let algorithm = match signer {
            TestKey::Rsa(_) => sequence(&[
                &oid(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11]),
                &[5, 0],
            ]),
            TestKey::P256(_) => sequence(&[&oid(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2])]),
            TestKey::P384(_) => sequence(&[&oid(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3])]),
        };
        self.sign_naming(&algorithm, key, signer)
    }

    /// The same, with any name for the signature's algorithm.
    pub fn sign_naming(&self, algorithm: &[u8], key: &TestKey, signer: &TestKey) -> Vec<u8> {
        let name = |text: &str| {
            let pair = sequence(&[&oid(&[0x55, 4, 3]), &tlv(0x0c, &[text.as_bytes()])]);
            sequence(&[&tlv(0x31, &[&pair])])
        };
        let date = |text: &str| tlv(0x17, &[text.as_bytes()]);
        let extensions = self.all_extensions();
        let extensions = if extensions.is_empty() {
            Vec::new()
        } else {
            tlv(0xa3, &[&sequence(&[&extensions])])
        };
        let tbs = sequence(&[
            &tlv(0xa0, &[&[2, 1, 2]]),
            &[2, 1, 1],
            algorithm,
            &name(&self.issuer),
            &sequence(&[&date(self.from), &date(self.until)]),
            &name(&self.subject),
            &spki(key),
            &extensions,
        ]);
        let signature = match signer {
            TestKey::Rsa(_) => signer.rsassa(Bank::Sha256, &tbs),
            TestKey::P256(_) | TestKey::P384(_) => der_signature(signer, &tbs),
        };
        sequence(&[&tbs, algorithm, &tlv(0x03, &[&[0], &signature])])
    }

    fn all_extensions(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some((authority, path)) = self.authority {
            let flag: &[u8] = if authority { &[1, 1, 0xff] } else { &[] };
            let path = path.map(|length| vec![2, 1, length]).unwrap_or_default();
            out.extend(extension(
                &[0x55, 0x1d, 19],
                true,
                &sequence(&[flag, &path]),
            ));
        }
        if let Some(bits) = self.usage {
            out.extend(extension(
                &[0x55, 0x1d, 15],
                true,
                &[3, 2, bits.trailing_zeros() as u8, bits],
            ));
        }
        if !self.purposes.is_empty() {
            let all: Vec<u8> = self.purposes.iter().flat_map(|id| oid(id)).collect();
            out.extend(extension(&[0x55, 0x1d, 37], false, &sequence(&[&all])));
        }
        out.extend(self.extensions.concat());
        out
    }
}

/// ECDSA in DER, from the fixed form that the TPM's signature has.
fn der_signature(signer: &TestKey, message: &[u8]) -> Vec<u8> {
    let signature = signer.sign(message);
    let half = (signature.len() - 8) / 2;
    let number = |bytes: &[u8]| {
        let digits: Vec<u8> = bytes
            .iter()
            .copied()
            .skip_while(|byte| *byte == 0)
            .collect();
        let lead: &[u8] = if digits[0] >= 0x80 { &[0] } else { &[] };
        tlv(0x02, &[lead, &digits])
    };
    let (r, s) = (&signature[6..6 + half], &signature[8 + half..]);
    sequence(&[&number(r), &number(s)])
}
