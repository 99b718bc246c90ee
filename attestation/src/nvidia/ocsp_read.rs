//! An answer's bytes as parts (RFC 6960, 4.2.1): strict DER, and nothing judged.

use ring::digest::{Algorithm, SHA256, SHA384};

use super::ocsp::{OcspRejection, Responder, Single, Status};
use crate::der::{generalized_time, value};
use crate::digest::UnixTime;
use crate::reader::Reader;

/// Most certificates that an answer is said to cover.
const ANSWERS_MAX: usize = 16;
/// Most certificates of responders beside an answer.
const RESPONDERS_MAX: usize = 4;

pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const INTEGER: u8 = 0x02;
pub(super) const BITS: u8 = 0x03;
pub(super) const OCTETS: u8 = 0x04;
pub(super) const OBJECT_ID: u8 = 0x06;
const ENUMERATED: u8 = 0x0a;
const TIME: u8 = 0x18;

/// id-pkix-ocsp-basic and id-pkix-ocsp-nonce.
const BASIC: [u8; 9] = [0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1];
const NONCE: [u8; 9] = [0x2b, 6, 1, 5, 5, 7, 0x30, 1, 2];
/// SHA-256 and SHA-384, by which a certificate's issuer may be named.
const SHA256_ID: [u8; 9] = [0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1];
pub(super) const SHA384_ID: [u8; 9] = [0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2];

/// The outermost layer: that the responder answered, and the answer's own bytes.
pub(super) fn basic(bytes: &[u8]) -> Result<&[u8], OcspRejection> {
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

pub(super) fn certificates<'a>(parts: &mut Reader<'a>) -> Result<Vec<&'a [u8]>, OcspRejection> {
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
pub(super) fn data_of(
    data: &[u8],
) -> Result<(Responder<'_>, UnixTime, Vec<Single<'_>>), OcspRejection> {
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
