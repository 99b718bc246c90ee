//! Certificates of devices' chains by themselves, without a report: who issued them, and whether NVIDIA's root stands behind them.

use super::chain::{Certificate, CertificatePlace, certificates};
use super::rejection::NvidiaRejection;
use super::roots::PinnedGpuRoot;
use crate::digest::UnixTime;

/// Longest way to a root.
const STEPS_MAX: usize = 8;

/// A certificate's subject, for people.
pub(crate) fn subject(der: &[u8]) -> String {
    Certificate::parse(CertificatePlace(0), der).map_or_else(
        |_| "a malformed certificate".to_owned(),
        |it| it.subject_text(),
    )
}

/// Of `authorities`, who issued `der`, where a way leads from there to one of `roots` and all on it is valid. How long a path may
/// be is judged with a device's whole chain.
pub(crate) fn issuer<'a>(
    der: &'a [u8],
    authorities: &[&'a [u8]],
    roots: &[PinnedGpuRoot],
    now: UnixTime,
) -> Result<Option<&'a [u8]>, NvidiaRejection> {
    let mut first = None;
    let mut below = der;
    for step in 0..STEPS_MAX {
        let place = CertificatePlace(step.saturating_add(1));
        let certificate = Certificate::parse(place, below)?;
        certificate.must_be_valid_at(now)?;
        if roots.iter().any(|root| root.der() == below) {
            return Ok(first);
        }
        let issued = |authority: &&&'a [u8]| {
            Certificate::parse(place, authority)
                .is_ok_and(|issuer| certificate.must_be_issued_by(&issuer, 0).is_ok())
        };
        let Some(above) = authorities.iter().find(issued) else {
            return Ok(None);
        };
        first = first.or(Some(*above));
        below = above;
    }
    Ok(None)
}

/// A certificate (DER) and that of its issuer.
pub type WithIssuer = (Vec<u8>, Vec<u8>);

/// Certificates of a device's chain (PEM) that can be asked about: all between leaf and root. Nothing is judged.
///
/// # Errors
/// [`NvidiaRejection`] where the text is no chain.
pub fn askable(pem: &[u8]) -> Result<Vec<WithIssuer>, NvidiaRejection> {
    let ders = certificates(pem)?;
    let above = ders.iter().skip(1);
    Ok(above
        .clone()
        .zip(above.skip(1))
        .map(|(certificate, issuer)| (certificate.clone(), issuer.clone()))
        .collect())
}

/// The blocks of a PEM text, one or more, as DER.
pub(crate) fn blocks(pem: &[u8]) -> Result<Vec<Vec<u8>>, NvidiaRejection> {
    super::chain::blocks(pem)
}
