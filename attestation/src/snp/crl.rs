//! Revocation (rule S10): the list is signed by the pinned root, current, and names neither of our authorities.

use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;

use super::chain::{Certificate, unix};
use super::rejection::{CertificateRole, SnpRejection};
use crate::digest::UnixTime;

/// Longest list that is read, in bytes.
pub(crate) const CRL_BYTES_MAX: usize = 32 * 1024;

/// Checks the list and that none of `authorities` is on it. An empty list of bytes is a missing list. Returns when the next
/// one is due.
pub(crate) fn must_not_list(
    der: &[u8],
    root: &Certificate<'_>,
    authorities: &[(CertificateRole, &Certificate<'_>)],
    now: UnixTime,
) -> Result<UnixTime, SnpRejection> {
    let list = parse(der)?;
    if list.issuer().as_raw() != root.subject().as_raw() {
        return Err(SnpRejection::CrlIssuer);
    }
    let (tbs, signature) = (list.tbs_cert_list.as_ref(), &list.signature_value);
    if signature.unused_bits != 0 || !root.signed(tbs, &list.signature_algorithm, &signature.data) {
        return Err(SnpRejection::CrlSignature);
    }
    let due = current(&list, now)?;
    for (role, certificate) in authorities {
        if list
            .iter_revoked_certificates()
            .any(|entry| entry.raw_serial() == certificate.raw_serial())
        {
            return Err(SnpRejection::CertificateRevoked { role: *role });
        }
    }
    Ok(due)
}

/// When the next list is due, and the common name of who issued this one. Judges nothing.
pub(crate) fn described(der: &[u8]) -> Result<(UnixTime, String), SnpRejection> {
    let list = parse(der)?;
    let name = list.issuer().iter_common_name().next();
    let name = name.and_then(|name| name.as_str().ok()).unwrap_or_default();
    let due = list.next_update().ok_or(SnpRejection::CrlMalformed(
        "does not say when the next one is due",
    ))?;
    Ok((unix(&due), name.to_owned()))
}

fn parse(der: &[u8]) -> Result<CertificateRevocationList<'_>, SnpRejection> {
    if der.is_empty() {
        return Err(SnpRejection::CrlMissing);
    }
    if der.len() > CRL_BYTES_MAX {
        return Err(SnpRejection::CrlMalformed("longer than 32768 bytes"));
    }
    let (rest, list) = CertificateRevocationList::from_der(der)
        .map_err(|_| SnpRejection::CrlMalformed("not a list in DER"))?;
    if !rest.is_empty() {
        return Err(SnpRejection::CrlMalformed("bytes after its end"));
    }
    if list.tbs_cert_list.signature != list.signature_algorithm {
        return Err(SnpRejection::CrlMalformed("names two signature algorithms"));
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
        .any(|ext| ext.critical && !understood(ext.parsed_extension()))
    {
        return Err(SnpRejection::CrlMalformed(
            "has a critical extension that is not understood",
        ));
    }
    Ok(list)
}

fn current(list: &CertificateRevocationList<'_>, now: UnixTime) -> Result<UnixTime, SnpRejection> {
    let from = unix(&list.last_update());
    if now < from {
        return Err(SnpRejection::CrlNotYetValid { from, now });
    }
    let next = list.next_update().ok_or(SnpRejection::CrlMalformed(
        "does not say when the next one is due",
    ))?;
    let due = unix(&next);
    if now >= due {
        return Err(SnpRejection::CrlStale { due, now });
    }
    Ok(due)
}
