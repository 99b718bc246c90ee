//! Answers about revocation (RFC 6960; rules C-20 to C-25 of `docs/formats/collateral.md`): whose they are, about whom, until when.
//!
//! An answer is read over the bytes received. It counts without a nonce, because it travels with evidence: how old it may be is
//! what its signer wrote into it.

use aws_lc_rs::digest::{Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA384, digest as digest_of};

use super::chain::{Certificate, CertificatePlace};
use super::rejection::NvidiaRejection;
use crate::der::{generalized_time, value};
use crate::digest::UnixTime;
use crate::reader::Reader;

/// Longest answer that is read, in bytes. NVIDIA's have less than 2,000.
pub const OCSP_BYTES_MAX: usize = 8 * 1024;
/// Most certificates that an answer is said to cover.
const ANSWERS_MAX: usize = 16;
/// Most certificates of responders beside an answer.
const RESPONDERS_MAX: usize = 4;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BITS: u8 = 0x03;
const OCTETS: u8 = 0x04;
const OBJECT_ID: u8 = 0x06;
const ENUMERATED: u8 = 0x0a;
const TIME: u8 = 0x18;

/// id-pkix-ocsp-basic and id-pkix-ocsp-nonce.
const BASIC: [u8; 9] = [0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1];
const NONCE: [u8; 9] = [0x2b, 6, 1, 5, 5, 7, 0x30, 1, 2];
/// SHA-256 and SHA-384, by which a certificate's issuer may be named.
const SHA256_ID: [u8; 9] = [0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1];
const SHA384_ID: [u8; 9] = [0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2];
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

/// A certificate that its issuer says is good. Only [`OcspResponse::judge`] makes one.
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
enum Status {
    Good,
    Revoked { at: UnixTime, reason: Option<u8> },
    Unknown,
}

/// One certificate's line in an answer.
#[derive(Debug, Clone, Copy)]
struct Single<'a> {
    hash: &'static Algorithm,
    issuer_name: &'a [u8],
    issuer_key: &'a [u8],
    serial: &'a [u8],
    status: Status,
    from: UnixTime,
    due: Option<UnixTime>,
}

/// Who says that he signed.
#[derive(Debug, Clone, Copy)]
enum Responder<'a> {
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

/// The outermost layer: that the responder answered, and the answer's own bytes.
fn basic(bytes: &[u8]) -> Result<&[u8], OcspRejection> {
    let malformed = OcspRejection::Malformed("it is no answer in DER");
    let read = |part: Option<_>| part.ok_or(malformed.clone());
    let mut whole = Reader::new(bytes);
    let (_, inside) = read(value(&mut whole, SEQUENCE))?;
    let mut parts = Reader::new(inside);
    let (_, status) = read(value(&mut parts, ENUMERATED))?;
    match status {
        [0] => {}
        [1] => {
            return Err(OcspRejection::NotSuccessful(
                "it finds the question malformed",
            ));
        }
        [2] => return Err(OcspRejection::NotSuccessful("it failed inside")),
        [3] => return Err(OcspRejection::NotSuccessful("it asks to try later")),
        [5] => return Err(OcspRejection::NotSuccessful("it wants a signed question")),
        [6] => return Err(OcspRejection::NotSuccessful("it does not answer us")),
        _ => return Err(malformed),
    }
    let (_, explicit) = read(value(&mut parts, 0xa0))?;
    let mut outer = Reader::new(explicit);
    let (_, body) = read(value(&mut outer, SEQUENCE))?;
    let mut body = Reader::new(body);
    let (_, kind) = read(value(&mut body, OBJECT_ID))?;
    if kind != BASIC {
        return Err(OcspRejection::Malformed("it is of another kind than basic"));
    }
    let (_, basic) = read(value(&mut body, OCTETS))?;
    if whole.is_empty() && parts.is_empty() && outer.is_empty() && body.is_empty() {
        Ok(basic)
    } else {
        Err(OcspRejection::Malformed("it has bytes behind it"))
    }
}

fn certificates<'a>(parts: &mut Reader<'a>) -> Result<Vec<&'a [u8]>, OcspRejection> {
    let malformed = OcspRejection::Malformed("its certificates are no list");
    let mut all = Vec::new();
    if parts.is_empty() {
        return Ok(all);
    }
    let (_, explicit) = value(parts, 0xa0).ok_or(malformed.clone())?;
    let mut outer = Reader::new(explicit);
    let (_, list) = value(&mut outer, SEQUENCE).ok_or(malformed.clone())?;
    let mut list = Reader::new(list);
    while !list.is_empty() {
        let (certificate, _) = value(&mut list, SEQUENCE).ok_or(malformed.clone())?;
        all.push(certificate);
        if all.len() > RESPONDERS_MAX {
            return Err(OcspRejection::Malformed("it has more than 4 certificates"));
        }
    }
    if outer.is_empty() {
        Ok(all)
    } else {
        Err(malformed)
    }
}

/// ResponseData: who signed, when, about whom.
fn data_of(data: &[u8]) -> Result<(Responder<'_>, UnixTime, Vec<Single<'_>>), OcspRejection> {
    let malformed = OcspRejection::Malformed;
    let mut parts = Reader::new(data);
    // Version 1 is what is meant where nothing is said; some say it.
    if let Some((_, version)) = optional(&mut parts, 0xa0)?
        && version != [INTEGER, 1, 0]
    {
        return Err(malformed("it is of another version than 1"));
    }
    let responder = match (optional(&mut parts, 0xa1)?, optional(&mut parts, 0xa2)?) {
        (Some((_, name)), None) => Responder::Name(name),
        (None, Some((_, key))) => {
            let mut inside = Reader::new(key);
            let hash = value(&mut inside, OCTETS).filter(|_| inside.is_empty());
            let (_, hash) = hash.ok_or(malformed("it names its responder's key wrongly"))?;
            Responder::Key(hash)
        }
        _ => return Err(malformed("it does not name its responder")),
    };
    let produced = time(&mut parts, TIME)?;
    let (_, list) = value(&mut parts, SEQUENCE).ok_or(malformed("it has no answers"))?;
    let mut list = Reader::new(list);
    let mut singles = Vec::new();
    while !list.is_empty() {
        let (_, single) = value(&mut list, SEQUENCE).ok_or(malformed("it has no answers"))?;
        singles.extend(single_of(single)?);
        if singles.len() > ANSWERS_MAX {
            return Err(malformed("it has more than 16 answers"));
        }
    }
    extensions(&mut parts)?;
    if parts.is_empty() {
        Ok((responder, produced, singles))
    } else {
        Err(malformed("its data have parts that are not known"))
    }
}

/// One line of the answer; none where the issuer is named by a hash that does not count.
fn single_of(single: &[u8]) -> Result<Option<Single<'_>>, OcspRejection> {
    let malformed = || OcspRejection::Malformed("it names a certificate wrongly");
    let mut parts = Reader::new(single);
    let (_, id) = value(&mut parts, SEQUENCE).ok_or_else(malformed)?;
    let mut id = Reader::new(id);
    let (_, algorithm) = value(&mut id, SEQUENCE).ok_or_else(malformed)?;
    let mut algorithm = Reader::new(algorithm);
    let (_, hash) = value(&mut algorithm, OBJECT_ID).ok_or_else(malformed)?;
    if !matches!(algorithm.left(), [] | [5, 0]) {
        return Err(malformed());
    }
    let (_, issuer_name) = value(&mut id, OCTETS).ok_or_else(malformed)?;
    let (_, issuer_key) = value(&mut id, OCTETS).ok_or_else(malformed)?;
    let (_, serial) = value(&mut id, INTEGER).ok_or_else(malformed)?;
    if !id.is_empty() {
        return Err(malformed());
    }
    let status = status(&mut parts)?;
    let from = time(&mut parts, TIME)?;
    let due = match optional(&mut parts, 0xa0)? {
        Some((_, next)) => {
            let mut next = Reader::new(next);
            let due = time(&mut next, TIME)?;
            if !next.is_empty() {
                return Err(OcspRejection::Malformed("it has a time that is none"));
            }
            Some(due)
        }
        None => None,
    };
    extensions(&mut parts)?;
    if !parts.is_empty() {
        return Err(malformed());
    }
    let hash: &'static Algorithm = match hash {
        hash if hash == SHA384_ID => &SHA384,
        hash if hash == SHA256_ID => &SHA256,
        _ => return Ok(None),
    };
    Ok(Some(Single {
        hash,
        issuer_name,
        issuer_key,
        serial,
        status,
        from,
        due,
    }))
}

fn status(parts: &mut Reader<'_>) -> Result<Status, OcspRejection> {
    let malformed = OcspRejection::Malformed("it gives a certificate no status");
    if let Some((_, good)) = optional(parts, 0x80)? {
        return if good.is_empty() {
            Ok(Status::Good)
        } else {
            Err(malformed)
        };
    }
    if let Some((_, unknown)) = optional(parts, 0x82)? {
        return if unknown.is_empty() {
            Ok(Status::Unknown)
        } else {
            Err(malformed)
        };
    }
    let (_, revoked) = optional(parts, 0xa1)?.ok_or(malformed.clone())?;
    let mut revoked = Reader::new(revoked);
    let at = time(&mut revoked, TIME)?;
    let reason = match optional(&mut revoked, 0xa0)? {
        Some((_, [ENUMERATED, 1, reason])) => Some(*reason),
        Some(_) => return Err(malformed),
        None => None,
    };
    if revoked.is_empty() {
        Ok(Status::Revoked { at, reason })
    } else {
        Err(malformed)
    }
}

/// Extensions are let pass unless they must be understood. A nonce is: nobody asked for one.
fn extensions(parts: &mut Reader<'_>) -> Result<(), OcspRejection> {
    let malformed = || OcspRejection::Malformed("its extensions are no list");
    let Some((_, explicit)) = optional(parts, 0xa1)? else {
        return Ok(());
    };
    let mut outer = Reader::new(explicit);
    let (_, list) = value(&mut outer, SEQUENCE).ok_or_else(malformed)?;
    let mut list = Reader::new(list);
    while !list.is_empty() {
        let (_, extension) = value(&mut list, SEQUENCE).ok_or_else(malformed)?;
        let mut extension = Reader::new(extension);
        let (_, id) = value(&mut extension, OBJECT_ID).ok_or_else(malformed)?;
        let critical = match optional(&mut extension, 0x01)? {
            Some((_, [0xff])) => true,
            Some(_) => return Err(malformed()),
            None => false,
        };
        value(&mut extension, OCTETS).ok_or_else(malformed)?;
        if !extension.is_empty() {
            return Err(malformed());
        }
        if critical && id != NONCE {
            let what = "it has a critical extension that is not understood";
            return Err(OcspRejection::Malformed(what));
        }
    }
    if outer.is_empty() {
        Ok(())
    } else {
        Err(malformed())
    }
}

type Part<'a> = (&'a [u8], &'a [u8]);

/// The next value if it has this tag.
fn optional<'a>(parts: &mut Reader<'a>, tag: u8) -> Result<Option<Part<'a>>, OcspRejection> {
    if parts.left().first() != Some(&tag) {
        return Ok(None);
    }
    let found = value(parts, tag);
    found
        .map(Some)
        .ok_or(OcspRejection::Malformed("it ends early"))
}

fn time(parts: &mut Reader<'_>, tag: u8) -> Result<UnixTime, OcspRejection> {
    value(parts, tag)
        .and_then(|(_, text)| generalized_time(text))
        .ok_or(OcspRejection::Malformed("it has a time that is none"))
}
