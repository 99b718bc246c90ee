//! Signed documents (rules O-1 to O-4): every refusal once, and the kinds kept apart.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

mod common;

use casemate_attestation::strict_json::JsonError;
use casemate_attestation::tdx::Expected;
use casemate_attestation::{
    FleetList, Issue, Kind, Measurement, Payload, Platform, PolicyPayload, ReferenceValues,
    ReleasePublicKey, ReleaseSecretKey, Revocations, Sha256Digest, SignedDocument, SignedError,
    UnixTime,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use common::{NOW, chip, fleet, reference, release_key};

const ISSUE: Issue = Issue {
    number: 7,
    issued: NOW,
    expires: UnixTime::from_secs(NOW.secs() + 100),
};

fn revocations() -> Revocations {
    let certificates = vec![Sha256Digest::of(b"leaf")];
    Revocations {
        certificates,
        principals: vec!["spiffe://example/team/red".to_owned()],
    }
}

fn open<T: Payload>(bytes: &[u8], key: &ReleaseSecretKey) -> Result<T, SignedError> {
    SignedDocument::open(bytes, &key.public().unwrap(), 0, NOW)
        .map(casemate_attestation::Verified::into_payload)
}

fn edited(bytes: &[u8], key: &str, value: Value) -> Vec<u8> {
    let mut document: Value = serde_json::from_slice(bytes).unwrap();
    document[key] = value;
    serde_json::to_vec(&document).unwrap()
}

#[test]
fn documents_of_every_kind_are_read_back() {
    let key = release_key();
    let (fleet, reference) = (fleet(Platform::Snp, &chip()), reference(Platform::Snp));
    assert_eq!(
        open::<FleetList>(&SignedDocument::sign(&fleet, ISSUE, &key).unwrap(), &key).unwrap(),
        fleet
    );
    assert_eq!(
        open::<ReferenceValues>(
            &SignedDocument::sign(&reference, ISSUE, &key).unwrap(),
            &key
        )
        .unwrap(),
        reference
    );
    let bytes = SignedDocument::sign(&revocations(), ISSUE, &key).unwrap();
    assert_eq!(open::<Revocations>(&bytes, &key).unwrap(), revocations());
    let policy = PolicyPayload(b"permit(principal, action, resource);".to_vec());
    let bytes = SignedDocument::sign(&policy, ISSUE, &key).unwrap();
    let verified =
        SignedDocument::open::<PolicyPayload>(&bytes, &key.public().unwrap(), 7, NOW).unwrap();
    assert_eq!(
        (verified.number(), verified.issued(), verified.expires()),
        (7, ISSUE.issued, ISSUE.expires)
    );
    assert_eq!(verified.digest(), Sha256Digest::of(&bytes));
    assert_eq!(verified.payload(), &policy);
}

#[test]
fn o1_form_key_and_kind() {
    let key = release_key();
    let bytes = SignedDocument::sign(&revocations(), ISSUE, &key).unwrap();
    let open = |bytes: &[u8]| open::<Revocations>(bytes, &key).unwrap_err();
    assert!(matches!(
        open(b"{}"),
        SignedError::Json(JsonError::Malformed { .. })
    ));
    assert_eq!(
        open(&[&bytes[..], b"\n"].concat()),
        SignedError::Json(JsonError::NotOneObject)
    );
    assert_eq!(
        open(&edited(&bytes, "format", json!("casemate/signed/v2"))),
        SignedError::Format
    );
    assert!(matches!(
        open(&edited(&bytes, "more", json!(1))),
        SignedError::Json(_)
    ));
    let other = release_key();
    let found = other.public().unwrap().id();
    assert_eq!(
        open(&SignedDocument::sign(&revocations(), ISSUE, &other).unwrap()),
        SignedError::WrongKey { found }
    );
    let (found, expected) = (Kind::Revocation, Kind::Fleet);
    let wrong =
        SignedDocument::open::<FleetList>(&bytes, &key.public().unwrap(), 0, NOW).unwrap_err();
    assert_eq!(wrong, SignedError::WrongKind { found, expected });
}

#[test]
fn o2_every_signed_field_is_signed() {
    let key = release_key();
    let bytes = SignedDocument::sign(&revocations(), ISSUE, &key).unwrap();
    for (field, value) in [
        ("number", json!(8)),
        ("issued", json!(NOW.secs() - 1)),
        ("expires", json!(NOW.secs() + 1_000_000)),
        ("payload", json!("e30=")),
        ("signature", json!("AAAA")),
    ] {
        let refused = open::<Revocations>(&edited(&bytes, field, value), &key).unwrap_err();
        assert_eq!(
            refused,
            SignedError::BadSignature(Kind::Revocation),
            "{field}"
        );
    }
    // Signed as one kind, relabelled as another whose payload it would fit.
    let relabelled = edited(&bytes, "kind", json!("policy"));
    assert_eq!(
        open::<PolicyPayload>(&relabelled, &key).unwrap_err(),
        SignedError::BadSignature(Kind::Policy)
    );
}

#[test]
fn o3_number_and_time() {
    let key = release_key();
    let public = key.public().unwrap();
    let bytes = SignedDocument::sign(&revocations(), ISSUE, &key).unwrap();
    let judge =
        |floor, now| SignedDocument::open::<Revocations>(&bytes, &public, floor, now).map(|_| ());
    let kind = Kind::Revocation;
    assert_eq!(judge(7, NOW), Ok(()));
    assert_eq!(
        judge(8, NOW),
        Err(SignedError::RolledBack {
            kind,
            found: 7,
            floor: 8
        })
    );
    let (issued, expires) = (ISSUE.issued, ISSUE.expires);
    assert_eq!(
        judge(0, NOW.minus(1)),
        Err(SignedError::NotYetValid {
            kind,
            issued,
            now: NOW.minus(1)
        })
    );
    assert_eq!(judge(0, expires.minus(1)), Ok(()));
    assert_eq!(
        judge(0, expires),
        Err(SignedError::Expired {
            kind,
            expires,
            now: expires
        })
    );
}

/// A payload signed by the release key that is not of its kind's form.
struct Odd(&'static [u8]);

impl Payload for Odd {
    const KIND: Kind = Kind::Fleet;

    fn from_payload(_: &[u8]) -> Result<Self, JsonError> {
        Err(JsonError::NotOneObject)
    }

    fn to_payload(&self) -> Result<Vec<u8>, JsonError> {
        Ok(self.0.to_vec())
    }
}

#[test]
fn o4_payloads_are_strict() {
    let key = release_key();
    for payload in [
        &b"{}"[..],
        br#"{"chips":[],"chips":[]}"#,
        br#"{"chips":[],"more":1}"#,
        br#"{"chips":[{"platform":"snp","chip_id":"00","names":[],"label":""}]}"#,
        br#"{"chips":null}"#,
    ] {
        let bytes = SignedDocument::sign(&Odd(payload), ISSUE, &key).unwrap();
        let refused = open::<FleetList>(&bytes, &key).unwrap_err();
        assert!(
            matches!(
                refused,
                SignedError::Payload {
                    kind: Kind::Fleet,
                    ..
                }
            ),
            "{refused}"
        );
    }
}

#[test]
fn o4_reference_values_have_the_documented_form() {
    let (ab, cd) = ("ab".repeat(48), "cd".repeat(32));
    let text = format!(
        r#"{{"snp":{{"measurements":[{{"measurement":"{ab}","label":"casemate 0.1.0"}}],
        "tcb_floor":{{"milan":{{"boot_loader":4,"tee":0,"snp":24,"microcode":219,"fmc":0}}}},
        "vmpl":0,"families_allowed_despite_broken_root":["milan"]}},
        "tdx":{{"machines":[{{"mrtd":"{ab}","rtmrs":[["{ab}"],["{ab}","{ab}"],null,[]],"label":"casemate 0.1.0"}}],
        "collateral_floor":17,"statuses":{{"SWHardeningNeeded":["INTEL-SA-00837"]}}}},
        "tpm":{{"bank":"sha256","machines":[{{"registers":{{"4":"{cd}","11":"{cd}"}},"label":"casemate 0.1.0"}}]}}}}"#,
    );
    let values = ReferenceValues::from_payload(text.as_bytes()).unwrap();
    let snp = values.snp.as_ref().unwrap();
    assert_eq!(
        snp.families_allowed_despite_broken_root,
        [casemate_attestation::Product::Milan]
    );
    assert_eq!(values.test_chip, None);
    let tdx = values.tdx.as_ref().unwrap();
    assert_eq!(
        tdx.mr_owner,
        Expected::OneOf(vec![Measurement::from_bytes([0; 48])])
    );
    assert_eq!(tdx.mr_seam, Expected::NotJudged);
    assert_eq!(tdx.machines[0].rtmrs[2], Expected::NotJudged);
    assert_eq!(tdx.machines[0].rtmrs[3], Expected::OneOf(Vec::new()));
    let again = values.to_payload().unwrap();
    assert_eq!(ReferenceValues::from_payload(&again).unwrap(), values);
    for (from, to) in [
        ("\"milan\":", "\"rome\":"),
        ("\"snp\":{\"meas", "\"sev\":{\"meas"),
        ("SWHardeningNeeded", "Fine"),
        ("\"sha256\"", "\"md5\""),
        ("\"11\":", "\"011\":"),
        (",null,[]]", ",null]"),
        ("\"collateral_floor\":17,", ""),
    ] {
        assert!(text.contains(from), "{from}");
        let other = text.replacen(from, to, 1);
        assert!(
            ReferenceValues::from_payload(other.as_bytes()).is_err(),
            "{to}"
        );
    }
}

#[test]
fn o4_payloads_hold_nothing_more_at_any_depth() {
    let key = release_key();
    let reads = |payload: &str, read: fn(&[u8]) -> bool| {
        let read = |text: &str| read(text.as_bytes());
        assert!(read(payload), "{payload}");
        let more = |opening: &str| payload.replacen(opening, &format!("{opening}\"more\":1,"), 1);
        assert!(!read(&more("{")), "{payload}");
        assert!(!payload.contains("[{") || !read(&more("[{")), "{payload}");
    };
    let fleet = fleet(Platform::Snp, &chip()).to_payload().unwrap();
    let reference = reference(Platform::Snp).to_payload().unwrap();
    let revocations = revocations().to_payload().unwrap();
    let text = |payload| String::from_utf8(payload).unwrap();
    reads(&text(fleet), |b| FleetList::from_payload(b).is_ok());
    reads(&text(reference), |b| {
        ReferenceValues::from_payload(b).is_ok()
    });
    reads(&text(revocations), |b| Revocations::from_payload(b).is_ok());
    // Nor is there a document that could not be opened again.
    let long = PolicyPayload(vec![0; casemate_attestation::signed::SIGNED_BYTES_MAX]);
    assert!(matches!(
        SignedDocument::sign(&long, ISSUE, &key),
        Err(SignedError::Json(JsonError::TooLong { .. }))
    ));
}

#[test]
fn keys_are_read_strictly_and_never_printed() {
    let key = release_key();
    let pkcs8 = key.to_pkcs8();
    let again = ReleaseSecretKey::from_pkcs8(&pkcs8).unwrap();
    assert_eq!(again.public().unwrap(), key.public().unwrap());
    assert_eq!(
        ReleaseSecretKey::from_pkcs8(b"no key").unwrap_err(),
        SignedError::MalformedKey
    );
    assert_eq!(format!("{key:?}"), "ReleaseSecretKey(..)");
    let public = key.public().unwrap();
    assert_eq!(
        ReleasePublicKey::from_hex(&format!("{}\n", public.to_hex())).unwrap(),
        public
    );
    assert!(ReleasePublicKey::from_hex(&public.to_hex().to_uppercase()).is_err());
    assert!(ReleasePublicKey::from_hex(&format!("{} ", public.to_hex())).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn any_policy_is_read_back_and_any_change_refused(payload in prop::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>(), flip in 1_u8..) {
        let key = release_key();
        let mut bytes = SignedDocument::sign(&PolicyPayload(payload.clone()), ISSUE, &key).unwrap();
        prop_assert_eq!(open::<PolicyPayload>(&bytes, &key).unwrap().0, payload);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        prop_assert!(open::<PolicyPayload>(&bytes, &key).is_err());
    }
}
