//! Answers about revocation that travel with evidence, by the certificate that they are about, and rule N6.

use std::collections::BTreeMap;

use super::chain::{Certificate, CertificatePlace, Identity};
use super::ocsp::{Good, OcspRejection, OcspResponse};
use super::policy::Revocation;
use super::rejection::NvidiaRejection;
use crate::digest::{Sha256Digest, UnixTime};
use crate::verdict::Lines;

/// Most answers that travel: those of 64 devices, each with a certificate of its own and authorities in common.
pub const ANSWERS_MAX: usize = 256;

/// Answers (RFC 6960, DER) by SHA-256 of the certificate that they are about. Nothing of them is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OcspAnswers(BTreeMap<Sha256Digest, Vec<u8>>);

impl OcspAnswers {
    /// No answers: nobody was asked.
    #[must_use]
    pub const fn none() -> Self {
        Self(BTreeMap::new())
    }

    /// Answers by certificate; those beyond 256 are left out, and a certificate without one is refused by rule N6.
    #[must_use]
    pub fn new(answers: impl IntoIterator<Item = (Sha256Digest, Vec<u8>)>) -> Self {
        Self(answers.into_iter().take(ANSWERS_MAX).collect())
    }

    /// Every answer with the certificate that it is about.
    pub fn iter(&self) -> impl Iterator<Item = (&Sha256Digest, &[u8])> {
        self.0.iter().map(|(about, it)| (about, it.as_slice()))
    }

    /// The answer about a certificate.
    #[must_use]
    pub fn about(&self, certificate: &Sha256Digest) -> Option<&[u8]> {
        self.0.get(certificate).map(Vec::as_slice)
    }
}

/// Rule N6: every certificate between leaf and root is good by its issuer's word. The leaf is issued by the device, which nobody
/// can ask, and the root is pinned. Returns until when all of that counts, or `None` where policy accepts that it was not judged.
///
/// What an answer says against a certificate refuses under every policy: the override is for silence alone.
pub(super) fn revocation(
    identity: &Identity,
    answers: &OcspAnswers,
    policy: Revocation,
    now: UnixTime,
    lines: &mut Lines,
) -> Result<Option<UnixTime>, NvidiaRejection> {
    let (mut until, mut asked, mut silent) = (None::<UnixTime>, 0_usize, None);
    let pairs = identity
        .above_leaf
        .iter()
        .zip(identity.above_leaf.iter().skip(1));
    for (number, (certificate, issuer)) in pairs.enumerate() {
        let place = CertificatePlace(number.saturating_add(1));
        asked = asked.saturating_add(1);
        match about(place, certificate, issuer, answers, now) {
            Ok(good) => until = Some(until.map_or(good.until(), |it| it.min(good.until()))),
            Err(rejection) if policy == Revocation::NotJudgedAccepted && rejection.is_silence() => {
                silent = silent.or(Some(rejection));
            }
            Err(rejection) => return Err(rejection),
        }
    }
    if let Some(rejection) = silent {
        lines.info(
            "N6",
            format!(
                "revocation not judged: {rejection}; a certificate on hold or revoked would pass, which policy accepts"
            ),
        );
        return Ok(None);
    }
    let until = until.ok_or(NvidiaRejection::RevocationNotJudged)?;
    lines.pass(
        "N6",
        format!(
            "issuers answer that all {asked} certificates above the leaf are good, until {until}"
        ),
    );
    Ok(Some(until))
}

fn about(
    place: CertificatePlace,
    certificate: &[u8],
    issuer: &[u8],
    answers: &OcspAnswers,
    now: UnixTime,
) -> Result<Good, NvidiaRejection> {
    let answer = answers
        .about(&Sha256Digest::of(certificate))
        .ok_or(NvidiaRejection::RevocationNotJudged)?;
    let certificate = Certificate::parse(place, certificate)?;
    let issuer = Certificate::parse(CertificatePlace(place.0.saturating_add(1)), issuer)?;
    let judged = OcspResponse::parse(answer).and_then(|it| it.judge(&certificate, &issuer, now));
    judged.map_err(|reason: OcspRejection| NvidiaRejection::Revocation { place, reason })
}
