//! Answers about revocation (RFC 6960; rules C-20 to C-25 of `docs/formats/collateral.md`): whose they are, about whom, until when.
//!
//! An answer is read over the bytes received. It counts without a nonce, because it travels with evidence: how old it may be is
//! what its signer wrote into it.

use ring::digest::{Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA384, digest as digest_of};

use super::chain::{Certificate, CertificatePlace};
use super::ocsp_read::{
    BITS, INTEGER, OBJECT_ID, OCTETS, SEQUENCE, SHA384_ID, basic, certificates, data_of,
};
use super::rejection::NvidiaRejection;
use crate::der::value;
use crate::digest::UnixTime;
use crate::reader::Reader;

/// Longest answer that is read, in bytes. NVIDIA's have less than 2,000.
pub const OCSP_BYTES_MAX: usize = 8 * 1024;
/// The whole AlgorithmIdentifier of ecdsa-with-SHA384, the only one of these chains.
const ECDSA_SHA384: [u8; 12] = [0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3];

/// certificateHold: taken back for now (RFC 5280, 5.3.1).
const ON_HOLD: u8 = 6;

/// Why an answer does not say that a certificate is good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OcspRejection {
    /// Rule C-20.
    #[error("answer about revocation is malformed: {0}")]
    Malformed(&'static str),
    /// Rule C-20: the responder did not answer.
    #[error("responder did not answer: {0}")]
    NotSuccessful(&'static str),
    /// Rule C-21.
    #[error("answer is about other certificates")]
    OtherCertificate,
    /// Rule C-21: two words about one certificate.
    #[error("answer speaks twice about the certificate")]
    SaidTwice,
    /// Rule C-22: neither the issuer nor anybody whose certificate travels with the answer.
    #[error("answer names a responder whose certificate is not there")]
    ResponderUnknown,
    /// Rule C-22: the responder's certificate, by the rules of its chain.
    #[error("{0}")]
    Responder(Box<NvidiaRejection>),
    /// Rule C-22.
    #[error("responder's certificate is not for signing answers about revocation")]
    ResponderUsage,
    /// Rule C-23.
    #[error("answer is not signed by its responder over the bytes received")]
    Signature,
    /// Rule C-24.
    #[error("answer counts from {from}, now is {now}")]
    NotYetValid {
        /// thisUpdate, or when it was produced.
        from: UnixTime,
        /// The time given.
        now: UnixTime,
    },
    /// Rule C-24.
    #[error("answer does not say when the next one is due")]
    NoNextUpdate,
    /// Rule C-24.
    #[error("answer is stale: a newer one was due at {due}, now is {now}")]
    Stale {
        /// nextUpdate.
        due: UnixTime,
        /// The time given.
        now: UnixTime,
    },
    /// Rule C-25.
    #[error("certificate was revoked at {at}")]
    Revoked {
        /// Since when.
        at: UnixTime,
    },
    /// Rule C-25: NVIDIA took it back for now, which counts like revoked.
    #[error("certificate is on hold since {at}")]
    OnHold {
        /// Since when.
        at: UnixTime,
    },
    /// Rule C-25: the responder never heard of it.
    #[error("responder does not know the certificate")]
    Unknown,
}

impl OcspRejection {
    /// Whether a newer answer could say something else: nothing bad was said, it is no longer or not yet in force.
    #[must_use]
    pub const fn is_out_of_date(&self) -> bool {
        matches!(self, Self::Stale { .. } | Self::NotYetValid { .. })
    }
}

/// A certificate that its issuer says is good. Only the judgement of an answer makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Good {
    issued: UnixTime,
    until: UnixTime,
}

impl Good {
    /// When its issuer last knew so.
    #[must_use]
    pub const fn issued(&self) -> UnixTime {
        self.issued
    }

    /// The last second at which this counts.
    #[must_use]
    pub const fn until(&self) -> UnixTime {
        self.until
    }
}

/// What a responder says of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Good,
    Revoked { at: UnixTime, reason: Option<u8> },
    Unknown,
}

/// One certificate's line in an answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Single<'a> {
    pub(super) hash: &'static Algorithm,
    pub(super) issuer_name: &'a [u8],
    pub(super) issuer_key: &'a [u8],
    pub(super) serial: &'a [u8],
    pub(super) status: Status,
    pub(super) from: UnixTime,
    pub(super) due: Option<UnixTime>,
}

/// Who says that he signed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Responder<'a> {
    Name(&'a [u8]),
    Key(&'a [u8]),
}

/// An answer that is well-formed. Nothing of it was checked.
#[derive(Debug, Clone)]
pub struct OcspResponse<'a> {
    signed: &'a [u8],
    signature: &'a [u8],
    responder: Responder<'a>,
    produced: UnixTime,
    singles: Vec<Single<'a>>,
    certificates: Vec<&'a [u8]>,
}

impl<'a> OcspResponse<'a> {
    /// Reads an answer, strictly (rule C-20).
    ///
    /// # Errors
    /// [`OcspRejection::Malformed`] and [`OcspRejection::NotSuccessful`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, OcspRejection> {
        let malformed = OcspRejection::Malformed;
        if bytes.len() > OCSP_BYTES_MAX {
            return Err(malformed("it is longer than 8192 bytes"));
        }
        let basic = basic(bytes)?;
        let mut whole = Reader::new(basic);
        let read = |part: Option<(&'a [u8], &'a [u8])>, what| part.ok_or(malformed(what));
        let (_, inside) = read(value(&mut whole, SEQUENCE), "its body is no sequence")?;
        if !whole.is_empty() {
            return Err(malformed("its body has bytes behind it"));
        }
        let mut parts = Reader::new(inside);
        let (signed, data) = read(value(&mut parts, SEQUENCE), "it has no data")?;
        let (algorithm, _) = read(value(&mut parts, SEQUENCE), "it has no algorithm")?;
        if algorithm != ECDSA_SHA384 {
            return Err(malformed("it is not signed by ECDSA with SHA-384"));
        }
        let (_, bits) = read(value(&mut parts, BITS), "it has no signature")?;
        let signature = bits
            .strip_prefix(&[0])
            .ok_or(malformed("its signature has unused bits"))?;
        let certificates = certificates(&mut parts)?;
        if !parts.is_empty() {
            return Err(malformed("it has parts that are not known"));
        }
        let (responder, produced, singles) = data_of(data)?;
        Ok(Self {
            signed,
            signature,
            responder,
            produced,
            singles,
            certificates,
        })
    }

    /// Whether it says anything about this certificate (DER) of this issuer (DER). Judges nothing.
    #[must_use]
    pub fn is_about(&self, certificate: &[u8], issuer: &[u8]) -> bool {
        let place = CertificatePlace(0);
        let certificate = Certificate::parse(place, certificate);
        match (certificate, Certificate::parse(place, issuer)) {
            (Ok(certificate), Ok(issuer)) => self
                .singles
                .iter()
                .any(|it| it.names(&certificate, &issuer)),
            _ => false,
        }
    }

    /// Rules C-21 to C-25: the issuer, or a responder that it named, says that `certificate` is good, and says so at `now`.
    pub(super) fn judge(
        &self,
        certificate: &Certificate<'_>,
        issuer: &Certificate<'_>,
        now: UnixTime,
    ) -> Result<Good, OcspRejection> {
        let mut about = self
            .singles
            .iter()
            .filter(|it| it.names(certificate, issuer));
        let single = about.next().ok_or(OcspRejection::OtherCertificate)?;
        if about.next().is_some() {
            return Err(OcspRejection::SaidTwice);
        }
        let responder_until = self.signed_for(issuer, now)?;
        let (issued, due) = (single.from, single.due.ok_or(OcspRejection::NoNextUpdate)?);
        let from = issued.max(self.produced);
        if now < from {
            return Err(OcspRejection::NotYetValid { from, now });
        }
        if now >= due {
            return Err(OcspRejection::Stale { due, now });
        }
        match single.status {
            Status::Good => Ok(Good {
                issued,
                until: due.minus(1).min(responder_until),
            }),
            Status::Revoked { at, reason } if reason == Some(ON_HOLD) => {
                Err(OcspRejection::OnHold { at })
            }
            Status::Revoked { at, .. } => Err(OcspRejection::Revoked { at }),
            Status::Unknown => Err(OcspRejection::Unknown),
        }
    }

    /// Rules C-22 and C-23: the issuer itself, or who has a certificate of the issuer's for that purpose. Returns until when.
    fn signed_for(
        &self,
        issuer: &Certificate<'_>,
        now: UnixTime,
    ) -> Result<UnixTime, OcspRejection> {
        if self.responder.is(issuer) {
            return self.signed_by(issuer);
        }
        let wrong = |rejection| OcspRejection::Responder(Box::new(rejection));
        for der in &self.certificates {
            let responder = Certificate::parse(CertificatePlace::RESPONDER, der).map_err(wrong)?;
            if !self.responder.is(&responder) {
                continue;
            }
            responder.must_be_issued_by(issuer, 0).map_err(wrong)?;
            responder.must_be_leaf().map_err(wrong)?;
            if !responder.signs_answers() {
                return Err(OcspRejection::ResponderUsage);
            }
            responder.must_be_valid_at(now).map_err(wrong)?;
            return self.signed_by(&responder);
        }
        Err(OcspRejection::ResponderUnknown)
    }

    fn signed_by(&self, responder: &Certificate<'_>) -> Result<UnixTime, OcspRejection> {
        if responder.signed(self.signed, self.signature) {
            Ok(responder.until())
        } else {
            Err(OcspRejection::Signature)
        }
    }
}

/// Judges an answer about `certificate` (DER), which `issuer` (DER) issued. Both were checked by their chain before.
///
/// # Errors
/// [`OcspRejection`] names the first rule that does not hold.
pub fn judge_ocsp(
    answer: &[u8],
    certificate: &[u8],
    issuer: &[u8],
    now: UnixTime,
) -> Result<Good, OcspRejection> {
    let wrong = |rejection| OcspRejection::Responder(Box::new(rejection));
    let certificate = Certificate::parse(CertificatePlace(0), certificate).map_err(wrong)?;
    let issuer = Certificate::parse(CertificatePlace(1), issuer).map_err(wrong)?;
    OcspResponse::parse(answer)?.judge(&certificate, &issuer, now)
}

/// The question to a responder about `certificate` (DER) of `issuer` (DER): one, by SHA-384, without a nonce.
///
/// # Errors
/// [`NvidiaRejection`] where one of them is no certificate of such a chain.
pub fn ocsp_request(certificate: &[u8], issuer: &[u8]) -> Result<Vec<u8>, NvidiaRejection> {
    let certificate = Certificate::parse(CertificatePlace(0), certificate)?;
    let issuer = Certificate::parse(CertificatePlace(1), issuer)?;
    let named = digest_of(&SHA384, issuer.subject());
    let keyed = digest_of(&SHA384, issuer.point()?);
    let hash = write(SEQUENCE, &[&write(OBJECT_ID, &[&SHA384_ID]), &[5, 0]]);
    let (named, keyed) = (
        write(OCTETS, &[named.as_ref()]),
        write(OCTETS, &[keyed.as_ref()]),
    );
    let serial = write(INTEGER, &[certificate.serial()]);
    let id = write(SEQUENCE, &[&hash, &named, &keyed, &serial]);
    let list = write(SEQUENCE, &[&write(SEQUENCE, &[&id])]);
    Ok(write(SEQUENCE, &[&write(SEQUENCE, &[&list])]))
}

/// A DER value of less than 64 KiB, which everything here is.
fn write(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = u16::try_from(content.len()).unwrap_or(u16::MAX);
    let mut out = vec![tag];
    match length.to_be_bytes() {
        [0, short @ 0..=0x7f] => out.push(short),
        [0, low] => out.extend([0x81, low]),
        [high, low] => out.extend([0x82, high, low]),
    }
    out.extend(content);
    out
}

impl Single<'_> {
    /// Rule C-21.
    fn names(&self, certificate: &Certificate<'_>, issuer: &Certificate<'_>) -> bool {
        let hash = |bytes: &[u8]| digest_of(self.hash, bytes);
        certificate.issuer() == issuer.subject()
            && self.serial == certificate.serial()
            && self.issuer_name == hash(issuer.subject()).as_ref()
            && issuer
                .point()
                .is_ok_and(|point| self.issuer_key == hash(point).as_ref())
    }
}

impl Responder<'_> {
    /// A key is named by SHA-1, which names and proves nothing here: the signature does.
    fn is(&self, certificate: &Certificate<'_>) -> bool {
        match self {
            Self::Name(name) => *name == certificate.subject(),
            Self::Key(hash) => certificate
                .point()
                .is_ok_and(|point| digest_of(&SHA1_FOR_LEGACY_USE_ONLY, point).as_ref() == *hash),
        }
    }
}
