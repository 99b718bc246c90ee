//! Images that have ended never come back: the end that a signed document gave an image is kept in the store, where numbers only grow,
//! and no later document opens the image again (rule O-5).

use casemate_attestation::{Platform, ReferenceValues, Sha256Digest, UnixTime, VerifiedEvidence};

use super::refusal::Refusal;
use super::store::{Store, StoreError};

/// Name of an image's mark, whose value is its end in seconds.
fn mark(id: &Sha256Digest) -> String {
    format!("image/{id}")
}

/// Keeps the ends that a document in force gives. One that has come is not moved; one that has not can be moved, later only.
pub(super) fn note(
    store: &mut Store,
    platform: Platform,
    values: &ReferenceValues,
    now: UnixTime,
) -> Result<(), StoreError> {
    let mut marks = Vec::new();
    for image in values.images(platform) {
        let (mark, Some(until)) = (mark(&image.id), image.until) else {
            continue;
        };
        if !has_ended(store.highest(&mark), now) {
            // Zero is the value of a mark that was never made.
            marks.push((mark, until.secs().max(1)));
        }
    }
    store.raise(marks.iter().map(|(mark, until)| (mark.as_str(), *until)))
}

/// Refuses evidence of an image that has ended, whatever the document in force says of it.
pub(super) fn check(
    store: &Store,
    evidence: &VerifiedEvidence,
    now: UnixTime,
) -> Result<(), Refusal> {
    let until = store.highest(&mark(&evidence.image()));
    match has_ended(until, now) {
        true => Err(Refusal::ImageEnded(UnixTime::from_secs(until))),
        false => Ok(()),
    }
}

const fn has_ended(until: u64, now: UnixTime) -> bool {
    until != 0 && now.secs() >= until
}
