//! The table of certificates beside an SNP report: entries of GUID, offset and length, then the certificates (GHCB specification,
//! MSG_REPORT_REQ, "certificate data"). The host wrote it: every number in it is checked before it is used.

use casemate_attestation::reader::Reader;

/// The most certificates in a table. Hosts give three or four.
pub const CERTIFICATES_MAX: usize = 16;
/// Longest certificate, in bytes. AMD's have at most 1700.
const CERTIFICATE_BYTES_MAX: usize = 8 * 1024;
const ENTRY_BYTES: usize = 24;
const GUID_BYTES: usize = 16;

/// What an entry is, by its GUID. Hosts write its bytes in the order of the text; some in Microsoft's order, whose first three
/// numbers are little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateKind {
    /// The chip's own: c0b406a4-a803-4952-9743-3fb6014cd0ae.
    Ark,
    /// 4ab7b379-bbac-4fe4-a02f-05aef327c782.
    Ask,
    /// 63da758d-e664-4564-adc5-f4b93be8accd.
    Vcek,
    /// a8074bc2-a25a-483e-aae6-39c045a0b8a1.
    Vlek,
    /// 92f81bc3-5811-4d3d-97ff-d19f88dc67ea.
    Crl,
    /// A GUID that is not known here.
    Other([u8; GUID_BYTES]),
}

const KNOWN: [(CertificateKind, [u8; GUID_BYTES]); 5] = [
    (
        CertificateKind::Ark,
        0xc0b4_06a4_a803_4952_9743_3fb6_014c_d0ae_u128.to_be_bytes(),
    ),
    (
        CertificateKind::Ask,
        0x4ab7_b379_bbac_4fe4_a02f_05ae_f327_c782_u128.to_be_bytes(),
    ),
    (
        CertificateKind::Vcek,
        0x63da_758d_e664_4564_adc5_f4b9_3be8_accd_u128.to_be_bytes(),
    ),
    (
        CertificateKind::Vlek,
        0xa807_4bc2_a25a_483e_aae6_39c0_45a0_b8a1_u128.to_be_bytes(),
    ),
    (
        CertificateKind::Crl,
        0x92f8_1bc3_5811_4d3d_97ff_d19f_88dc_67ea_u128.to_be_bytes(),
    ),
];

/// Why a table was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// The entry of zeros that ends the list is missing.
    #[error("{}", self.what())]
    Unterminated,
    /// More than [`CERTIFICATES_MAX`].
    #[error("{}", self.what())]
    TooMany,
    /// An entry points outside the table, into the list of entries, or is empty or too long.
    #[error("{}", self.what())]
    Outside,
    /// Two entries share bytes.
    #[error("{}", self.what())]
    Overlap,
    /// A kind comes twice.
    #[error("{}", self.what())]
    Twice,
    /// The entry that ends the list has a GUID of zeros and something else.
    #[error("{}", self.what())]
    EndMalformed,
}

impl TableError {
    /// What is wrong, in words.
    #[must_use]
    pub const fn what(self) -> &'static str {
        match self {
            Self::Unterminated => "the certificate table does not end",
            Self::TooMany => "the certificate table has more than 16 entries",
            Self::Outside => "a certificate lies outside its table, is empty or is too long",
            Self::Overlap => "two certificates of the table overlap",
            Self::Twice => "the certificate table has a kind twice",
            Self::EndMalformed => "the entry that ends the certificate table is not all zeros",
        }
    }
}

/// A well-formed table. Whether its certificates are any good is for the verifier.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CertificateTable {
    entries: Vec<(CertificateKind, Vec<u8>)>,
}

impl CertificateTable {
    /// Reads a table. No bytes at all are a host without certificates: a table without entries.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, TableError> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let list = entries(bytes)?;
        let begin = (list.len() + 1) * ENTRY_BYTES;
        let mut taken: Vec<(usize, usize)> = Vec::new();
        let mut out: Vec<(CertificateKind, Vec<u8>)> = Vec::new();
        for (kind, offset, length) in list {
            let end = offset.checked_add(length).ok_or(TableError::Outside)?;
            if offset < begin || length == 0 || length > CERTIFICATE_BYTES_MAX {
                return Err(TableError::Outside);
            }
            let certificate = bytes.get(offset..end).ok_or(TableError::Outside)?;
            if taken.iter().any(|(from, to)| offset < *to && *from < end) {
                return Err(TableError::Overlap);
            }
            if out.iter().any(|(other, _)| *other == kind) {
                return Err(TableError::Twice);
            }
            taken.push((offset, end));
            out.push((kind, certificate.to_vec()));
        }
        Ok(Self { entries: out })
    }

    /// The certificate of this kind.
    #[must_use]
    pub fn get(&self, kind: CertificateKind) -> Option<&[u8]> {
        self.entries
            .iter()
            .find(|(other, _)| *other == kind)
            .map(|(_, certificate)| certificate.as_slice())
    }

    /// The key that signed: VCEK or VLEK. `None` when there is neither or both, and somebody else must say which.
    #[must_use]
    pub fn endorsement(&self) -> Option<(CertificateKind, &[u8])> {
        let of = |kind| self.get(kind).map(|certificate| (kind, certificate));
        match (of(CertificateKind::Vcek), of(CertificateKind::Vlek)) {
            (Some(one), None) | (None, Some(one)) => Some(one),
            _ => None,
        }
    }

    /// All, in the host's order.
    #[must_use]
    pub fn entries(&self) -> &[(CertificateKind, Vec<u8>)] {
        &self.entries
    }
}

/// Kind, offset and length of every entry before the one of zeros.
fn entries(bytes: &[u8]) -> Result<Vec<(CertificateKind, usize, usize)>, TableError> {
    let mut reader = Reader::new(bytes);
    let mut out = Vec::new();
    loop {
        let mut entry = reader
            .take(ENTRY_BYTES)
            .map(Reader::new)
            .ok_or(TableError::Unterminated)?;
        let fields = entry.array().zip(entry.le32()).zip(entry.le32());
        let ((guid, offset), length) = fields.ok_or(TableError::Unterminated)?;
        if guid == [0; GUID_BYTES] {
            return if offset == 0 && length == 0 {
                Ok(out)
            } else {
                Err(TableError::EndMalformed)
            };
        }
        if out.len() == CERTIFICATES_MAX {
            return Err(TableError::TooMany);
        }
        let other_order = microsoft(guid);
        let kind = KNOWN
            .iter()
            .find(|(_, known)| *known == guid || *known == other_order);
        let kind = kind.map_or(CertificateKind::Other(guid), |(kind, _)| *kind);
        let number = |value: u32| usize::try_from(value).map_err(|_| TableError::Outside);
        out.push((kind, number(offset)?, number(length)?));
    }
}

/// The same GUID in the other order of bytes.
const fn microsoft(guid: [u8; GUID_BYTES]) -> [u8; GUID_BYTES] {
    let [a, b, c, d, e, f, g, h, rest @ ..] = guid;
    let [i, j, k, l, m, n, o, p] = rest;
    [d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p]
}
