//! Revocation (rule T3): each list is signed by its own authority, current, and does not name what it covers.

use super::certificate::Certificate;
use super::extension::{BIT_STRING, Extension, INTEGER, SEQUENCE, extensions};
use super::parts::TdxCrl;
use super::rejection::TdxRejection;
use super::signatures::Signatures;
use crate::der::{GENERALIZED_TIME, UTC_TIME, time, value};
use crate::digest::UnixTime;
use crate::reader::Reader;

/// Longest list that is read, in bytes. Intel's have less than 4,000 and grow with every revoked platform.
pub(crate) const CRL_BYTES_MAX: usize = 64 * 1024;

/// crlExtensions.
const EXTENSIONS: u8 = 0xa0;

/// CRLNumber and AuthorityKeyIdentifier, which narrow nothing (RFC 5280, sections 5.2.1 and 5.2.3), with the tags of their values.
const UNDERSTOOD: [(&[u8], u8); 2] = [
    (&[0x55, 0x1d, 0x14], INTEGER),
    (&[0x55, 0x1d, 0x23], SEQUENCE),
];

/// A list that its authority signed and that is current.
pub(crate) struct Crl<'a> {
    serials: Vec<&'a [u8]>,
    issued: UnixTime,
    due: UnixTime,
}

impl<'a> Crl<'a> {
    /// Reads a list and checks whose it is. An empty list of bytes is a missing list.
    pub(crate) fn open(
        which: TdxCrl,
        der: &'a [u8],
        authority: &Certificate<'_>,
        signatures: &Signatures<'_>,
        now: UnixTime,
    ) -> Result<Self, TdxRejection> {
        let list = parse(which, der)?;
        if list.issuer != authority.subject() {
            return Err(TdxRejection::CrlIssuer(which));
        }
        // No bit of the last byte is unused.
        let signed = matches!(list.signature, [0, signature @ ..]
            if authority.signed(list.signed, list.algorithm, signature, signatures));
        if !signed {
            return Err(TdxRejection::CrlSignature(which));
        }
        let (issued, due) = current(which, &list, now)?;
        Ok(Self {
            serials: list.serials,
            issued,
            due,
        })
    }

    /// thisUpdate.
    pub(crate) const fn issued(&self) -> UnixTime {
        self.issued
    }

    /// nextUpdate, at which it no longer counts.
    pub(crate) const fn due(&self) -> UnixTime {
        self.due
    }

    pub(crate) fn must_not_name(&self, certificate: &Certificate<'_>) -> Result<(), TdxRejection> {
        if self.serials.contains(&certificate.serial()) {
            return Err(TdxRejection::CertificateRevoked {
                certificate: certificate.place(),
            });
        }
        Ok(())
    }
}

/// What of a list is judged, as it was read.
pub(super) struct Read<'a> {
    pub(super) signed: &'a [u8],
    algorithm: &'a [u8],
    /// With the count of unused bits.
    pub(super) signature: &'a [u8],
    pub(super) issuer: &'a [u8],
    pub(super) from: UnixTime,
    pub(super) due: Option<UnixTime>,
    pub(super) serials: Vec<&'a [u8]>,
}

pub(super) fn parse(which: TdxCrl, der: &[u8]) -> Result<Read<'_>, TdxRejection> {
    let malformed = |what| TdxRejection::CrlMalformed { list: which, what };
    if der.is_empty() {
        return Err(TdxRejection::CrlMissing(which));
    }
    if der.len() > CRL_BYTES_MAX {
        return Err(malformed("longer than 65536 bytes"));
    }
    let mut whole = Reader::new(der);
    let not_a_list = "not a list in DER";
    let (_, content) = value(&mut whole, SEQUENCE).ok_or_else(|| malformed(not_a_list))?;
    if !whole.is_empty() {
        return Err(malformed("bytes after its end"));
    }
    let (list, algorithm, extensions) = read(content).ok_or_else(|| malformed(not_a_list))?;
    if algorithm != list.algorithm {
        return Err(malformed("names two signature algorithms"));
    }
    // A critical extension could narrow the list to some certificates, or shift an entry to another issuer.
    let understood = |extension: &Extension<'_>| {
        UNDERSTOOD
            .iter()
            .any(|(id, tag)| extension.id == *id && extension.content(*tag).is_some())
    };
    if extensions
        .iter()
        .any(|extension| extension.critical && !understood(extension))
    {
        return Err(malformed("has a critical extension that is not understood"));
    }
    Ok(list)
}

/// A CertificateList (RFC 5280, section 5.1) of version 2, with the algorithm that it says inside, and every extension of it and its
/// entries.
fn read(content: &[u8]) -> Option<(Read<'_>, &[u8], Vec<Extension<'_>>)> {
    let mut parts = Reader::new(content);
    let (signed, inside) = value(&mut parts, SEQUENCE)?;
    let (algorithm, _) = value(&mut parts, SEQUENCE)?;
    let (_, signature) = value(&mut parts, BIT_STRING)?;
    let mut inside = Reader::new(inside);
    let (_, [1]) = value(&mut inside, INTEGER)? else {
        return None;
    };
    let (algorithm_inside, _) = value(&mut inside, SEQUENCE)?;
    let (issuer, _) = value(&mut inside, SEQUENCE)?;
    let from = time(&mut inside)?;
    let next = |reader: &Reader<'_>| reader.left().first().copied();
    let due = match next(&inside) {
        Some(UTC_TIME | GENERALIZED_TIME) => Some(time(&mut inside)?),
        _ => None,
    };
    let (mut serials, mut all) = (Vec::new(), Vec::new());
    if next(&inside) == Some(SEQUENCE) {
        let (_, revoked) = value(&mut inside, SEQUENCE)?;
        let mut revoked = Reader::new(revoked);
        while !revoked.is_empty() {
            let (_, entry) = value(&mut revoked, SEQUENCE)?;
            let mut entry = Reader::new(entry);
            serials.push(value(&mut entry, INTEGER)?.1);
            time(&mut entry)?;
            if !entry.is_empty() {
                all.extend(extensions(&mut entry)?);
            }
            entry.is_empty().then_some(())?;
        }
    }
    if !inside.is_empty() {
        let (_, explicit) = value(&mut inside, EXTENSIONS)?;
        let mut explicit = Reader::new(explicit);
        all.extend(extensions(&mut explicit)?);
        explicit.is_empty().then_some(())?;
    }
    let list = Read {
        signed,
        algorithm,
        signature,
        issuer,
        from,
        due,
        serials,
    };
    (parts.is_empty() && inside.is_empty()).then_some((list, algorithm_inside, all))
}

fn current(
    which: TdxCrl,
    list: &Read<'_>,
    now: UnixTime,
) -> Result<(UnixTime, UnixTime), TdxRejection> {
    let from = list.from;
    if now < from {
        return Err(TdxRejection::CrlNotYetValid {
            list: which,
            from,
            now,
        });
    }
    let due = list.due.ok_or(TdxRejection::CrlMalformed {
        list: which,
        what: "does not say when the next one is due",
    })?;
    if now >= due {
        return Err(TdxRejection::CrlStale {
            list: which,
            due,
            now,
        });
    }
    Ok((from, due))
}
