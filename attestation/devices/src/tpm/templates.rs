//! Public areas from which a TPM makes keys: the endorsement key that its maker certified, and our attestation key.

use casemate_attestation::reader::Reader;
use casemate_attestation::tpm::{Curve, PublicKey};

use crate::wire::sized;

const RSA: u16 = 0x0001;
const AES: u16 = 0x0006;
const SHA256: u16 = 0x000b;
const NULL: u16 = 0x0010;
const RSASSA: u16 = 0x0014;
const ECDSA: u16 = 0x0018;
const ECC: u16 = 0x0023;
const CFB: u16 = 0x0043;
const P256: u16 = 0x0003;

/// fixedTPM, fixedParent, sensitiveDataOrigin, adminWithPolicy, restricted, decrypt (EK Credential Profile 2.5, B.3.3, B.3.4).
const ENDORSEMENT: u32 = 0x0003_00b2;
/// fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, restricted, sign.
const ATTESTATION: u32 = 0x0005_0472;
/// PolicySecret of the endorsement hierarchy (EK Credential Profile, B.6.2, PolicyA with SHA-256).
const POLICY: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24,
    0xfd, 0x52, 0xd7, 0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
];
/// Distinguishes our primary key from another program's of the same attributes: it goes into the derivation from the seed.
const LABEL: &[u8] = b"casemate/ak/v1";

/// Which of the two kinds of key that every TPM of the last ten years makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// RSA with 2048 bits. A discrete TPM takes seconds, sometimes a minute, to make one.
    Rsa2048,
    /// NIST P-256.
    P256,
}

impl KeyKind {
    /// The NV index where the maker left the certificate of the endorsement key of this kind (EK Credential Profile, 2.2.1.4).
    pub(super) const fn certificate_index(self) -> u32 {
        match self {
            Self::Rsa2048 => 0x01c0_0002,
            Self::P256 => 0x01c0_000a,
        }
    }

    /// TPMT_PUBLIC of the default endorsement key (templates L-1 and L-2).
    pub(super) fn endorsement(self) -> Vec<u8> {
        let mut area = self.head(ENDORSEMENT, &POLICY);
        push(&mut area, &[AES, 128, CFB, NULL]);
        match self {
            Self::Rsa2048 => {
                push(&mut area, &[2048, 0, 0]);
                area.extend(sized(&[0; 256]));
            }
            Self::P256 => {
                push(&mut area, &[P256, NULL]);
                area.extend(sized(&[0; 32]));
                area.extend(sized(&[0; 32]));
            }
        }
        area
    }

    /// The key of a default endorsement key's public area. `None` when the area is not the default template with a key in it.
    ///
    /// It is the TPM's own word. An enrolment that must know the maker takes the key out of the maker's certificate.
    #[must_use]
    pub fn endorsement_of(self, area: &[u8]) -> Option<PublicKey> {
        let template = self.endorsement();
        let unique = match self {
            Self::Rsa2048 => 2 + 256,
            Self::P256 => 2 * (2 + 32),
        };
        let fixed = template.get(..template.len().checked_sub(unique)?)?;
        let mut reader = Reader::new(area.strip_prefix(fixed)?);
        let key = match self {
            Self::Rsa2048 => PublicKey::Rsa {
                n: reader.sized(256).filter(|n| n.len() == 256)?.to_vec(),
                e: vec![1, 0, 1],
            },
            Self::P256 => {
                let mut point = vec![4];
                for _ in 0..2 {
                    point.extend(reader.sized(32).filter(|number| number.len() == 32)?);
                }
                PublicKey::Ec {
                    curve: Curve::P256,
                    point,
                }
            }
        };
        reader.is_empty().then_some(key)
    }

    /// TPMT_PUBLIC of our attestation key: restricted, for signatures alone, with SHA-256.
    pub(super) fn attestation(self) -> Vec<u8> {
        let mut area = self.head(ATTESTATION, &[]);
        match self {
            Self::Rsa2048 => {
                push(&mut area, &[NULL, RSASSA, SHA256, 2048, 0, 0]);
                area.extend(sized(LABEL));
            }
            Self::P256 => {
                push(&mut area, &[NULL, ECDSA, SHA256, P256, NULL]);
                area.extend(sized(LABEL));
                area.extend(sized(&[]));
            }
        }
        area
    }

    fn head(self, attributes: u32, policy: &[u8]) -> Vec<u8> {
        let mut area = Vec::new();
        let kind = match self {
            Self::Rsa2048 => RSA,
            Self::P256 => ECC,
        };
        push(&mut area, &[kind, SHA256]);
        area.extend(attributes.to_be_bytes());
        area.extend(sized(policy));
        area
    }
}

fn push(area: &mut Vec<u8>, numbers: &[u16]) {
    for number in numbers {
        area.extend(number.to_be_bytes());
    }
}
