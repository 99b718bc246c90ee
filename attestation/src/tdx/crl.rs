//! Revocation (rule T3): each list is signed by its own authority, current, and does not name what it covers.

use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;

use super::certificate::{Certificate, unix};
use super::parts::TdxCrl;
use super::rejection::TdxRejection;
use super::signatures::Signatures;
use crate::digest::UnixTime;

/// Longest list that is read, in bytes. Intel's have less than 4,000 and grow with every revoked platform.
pub(crate) const CRL_BYTES_MAX: usize = 64 * 1024;

/// A list that its authority signed and that is current.
pub(crate) struct Crl<'a> {
    list: CertificateRevocationList<'a>,
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
        if list.issuer().as_raw() != authority.subject().as_raw() {
            return Err(TdxRejection::CrlIssuer(which));
        }
        let (tbs, signature) = (list.tbs_cert_list.as_ref(), &list.signature_value);
        if signature.unused_bits != 0
            || !authority.signed(tbs, &list.signature_algorithm, &signature.data, signatures)
        {
            return Err(TdxRejection::CrlSignature(which));
        }
        let (issued, due) = current(which, &list, now)?;
        Ok(Self { list, issued, due })
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
        if self
            .list
            .iter_revoked_certificates()
            .any(|entry| entry.raw_serial() == certificate.raw_serial())
        {
            return Err(TdxRejection::CertificateRevoked {
                certificate: certificate.place(),
            });
        }
        Ok(())
    }
}

fn parse(which: TdxCrl, der: &[u8]) -> Result<CertificateRevocationList<'_>, TdxRejection> {
    let malformed = |what| TdxRejection::CrlMalformed { list: which, what };
    if der.is_empty() {
        return Err(TdxRejection::CrlMissing(which));
    }
    if der.len() > CRL_BYTES_MAX {
        return Err(malformed("longer than 65536 bytes"));
    }
    let (rest, list) =
        CertificateRevocationList::from_der(der).map_err(|_| malformed("not a list in DER"))?;
    if !rest.is_empty() {
        return Err(malformed("bytes after its end"));
    }
    if list.tbs_cert_list.signature != list.signature_algorithm {
        return Err(malformed("names two signature algorithms"));
    }
    // A critical extension could narrow the list to some certificates, or shift an entry to another issuer.
    let entries = list
        .iter_revoked_certificates()
        .flat_map(|entry| entry.extensions());
    let understood = |parsed: &ParsedExtension<'_>| {
        matches!(
            parsed,
            ParsedExtension::CRLNumber(_) | ParsedExtension::AuthorityKeyIdentifier(_)
        )
    };
    if list
        .extensions()
        .iter()
        .chain(entries)
        .any(|extension| extension.critical && !understood(extension.parsed_extension()))
    {
        return Err(malformed("has a critical extension that is not understood"));
    }
    Ok(list)
}

fn current(
    which: TdxCrl,
    list: &CertificateRevocationList<'_>,
    now: UnixTime,
) -> Result<(UnixTime, UnixTime), TdxRejection> {
    let from = unix(&list.last_update());
    if now < from {
        return Err(TdxRejection::CrlNotYetValid {
            list: which,
            from,
            now,
        });
    }
    let next = list.next_update().ok_or(TdxRejection::CrlMalformed {
        list: which,
        what: "does not say when the next one is due",
    })?;
    let due = unix(&next);
    if now >= due {
        return Err(TdxRejection::CrlStale {
            list: which,
            due,
            now,
        });
    }
    Ok((from, due))
}
