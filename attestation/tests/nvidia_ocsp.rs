//! Answers about revocation: good ones let `Revocation::Required` accept a device, and each rule refuses by its name.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

#[path = "support/ocsp.rs"]
mod ocsp;
#[path = "support/spdm.rs"]
mod spdm;

use casemate_attestation::nvidia::{
    CertificatePlace, NvidiaRejection, OCSP_BYTES_MAX, OcspAnswers, OcspRejection, OcspResponse,
    ReferenceKind, Revocation, judge_ocsp, ocsp_request,
};
use casemate_attestation::{CheckResult, Sha256Digest, UnixTime};
use proptest::prelude::*;

use ocsp::*;
use spdm::*;

/// The authority of the test device and its root, with an answer about the former to be changed.
struct Asked {
    maker: Maker,
    authority: Vec<u8>,
    root: Vec<u8>,
    answer: Answer,
    /// Who signs, if not the root.
    signer: Option<Key>,
    now: UnixTime,
}

fn asked() -> Asked {
    let mut case = case();
    case.device.authority_template.serial = vec![9];
    let ders = case.ders();
    let (authority, root) = (ders[2].clone(), ders[3].clone());
    Asked {
        answer: Answer::of_issuer(Line::good(&authority, &root), &root),
        maker: case.maker,
        authority,
        root,
        signer: None,
        now: NOW,
    }
}

impl Asked {
    fn sign(&self) -> Vec<u8> {
        self.answer
            .sign(self.signer.as_ref().unwrap_or(&self.maker.root))
    }

    fn judge(&self) -> Result<casemate_attestation::nvidia::Good, OcspRejection> {
        judge_ocsp(&self.sign(), &self.authority, &self.root, self.now)
    }

    /// Hands the answer to a responder with this certificate, and returns its key.
    fn delegate(&mut self, template: &Template, by: &Key) -> Vec<u8> {
        let key = Key::new();
        let certificate = template.issue(&key, by);
        self.answer.responder = by_key(&key);
        self.answer.certificates = vec![certificate.clone()];
        self.signer = Some(key);
        certificate
    }
}

fn refusal(change: impl FnOnce(&mut Asked)) -> OcspRejection {
    let mut asked = asked();
    change(&mut asked);
    asked.judge().unwrap_err()
}

#[test]
fn the_answer_that_these_tests_change_is_good_until_the_next_is_due() {
    let good = asked().judge().unwrap();
    assert_eq!((good.issued(), good.until()), (ISSUED, DUE.minus(1)));
}

#[test]
fn c20_an_answer_has_one_shape() {
    let whole = asked().sign();
    for length in 0..whole.len() {
        assert!(OcspResponse::parse(&whole[..length]).is_err(), "{length}");
    }
    let malformed = |change: fn(&mut Asked), text: &str| match refusal(change) {
        OcspRejection::Malformed(what) => assert_eq!(what, text),
        other => panic!("{text}: {other}"),
    };
    malformed(|it| it.answer.behind = vec![0], "it has bytes behind it");
    malformed(
        |it| it.answer.kind[8] = 2,
        "it is of another kind than basic",
    );
    malformed(|it| it.answer.status = 4, "it is no answer in DER");
    malformed(
        |it| {
            it.answer.algorithm = sequence(&[&tlv(6, &[&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]])])
        },
        "it is not signed by ECDSA with SHA-384",
    );
    malformed(
        |it| it.answer.version = tlv(0xa0, &[&[2, 1, 1]]),
        "it is of another version than 1",
    );
    malformed(
        |it| it.answer.responder = Vec::new(),
        "it does not name its responder",
    );
    malformed(
        |it| it.answer.produced = "20260228000000",
        "it has a time that is none",
    );
    malformed(
        |it| it.answer.lines[0].this_update = "20260230000000Z",
        "it has a time that is none",
    );
    malformed(
        |it| it.answer.lines[0].status = vec![0x81, 0],
        "it gives a certificate no status",
    );
    malformed(
        |it| it.answer.lines[0].status = vec![0x80, 1, 0],
        "it gives a certificate no status",
    );
    malformed(
        |it| it.answer.lines = vec![it.answer.lines[0].clone(); 17],
        "it has more than 16 answers",
    );
    malformed(
        |it| it.answer.certificates = vec![it.root.clone(); 5],
        "it has more than 4 certificates",
    );
    malformed(
        |it| {
            it.answer.lines[0].extensions =
                tlv(0xa1, &[&sequence(&[&extension(&[0x2a, 3], true, &[5, 0])])])
        },
        "it has a critical extension that is not understood",
    );
    malformed(
        |it| it.answer.behind = vec![0; OCSP_BYTES_MAX],
        "it is longer than 8192 bytes",
    );
    let long = OcspRejection::Malformed("it is longer than 8192 bytes");
    let at_the_bound = OcspResponse::parse(&[0x30; OCSP_BYTES_MAX]).unwrap_err();
    assert_ne!(at_the_bound, long);
    let beyond = OcspResponse::parse(&[0x30; OCSP_BYTES_MAX + 1]).unwrap_err();
    assert_eq!(beyond, long);
    for (status, _) in [(1, ()), (2, ()), (3, ()), (5, ()), (6, ())] {
        let found = refusal(|it| it.answer.status = status);
        assert!(matches!(found, OcspRejection::NotSuccessful(_)), "{found}");
    }
    // A responder without an answer sends the status alone.
    let busy = OcspResponse::parse(&[0x30, 3, 0x0a, 1, 3]).unwrap_err();
    assert_eq!(busy, OcspRejection::NotSuccessful("it asks to try later"));
}

#[test]
fn c20_what_may_be_said_besides_changes_nothing() {
    let changes: [fn(&mut Asked); 8] = [
        |it: &mut Asked| it.answer.version = tlv(0xa0, &[&[2, 1, 0]]),
        |it: &mut Asked| it.answer.extensions = nonce(false),
        |it: &mut Asked| it.answer.extensions = nonce(true),
        |it: &mut Asked| it.answer.responder = by_key(&it.maker.root),
        |it: &mut Asked| it.answer.lines[0].id = id(&it.authority, &it.root, NamedBy::Sha256),
        |it: &mut Asked| {
            let other = Line {
                id: id(&it.root, &it.root, NamedBy::Sha384),
                status: unknown(),
                ..it.answer.lines[0].clone()
            };
            it.answer.lines.insert(0, other);
        },
        // As many certificates and as many lines as there may be.
        |it: &mut Asked| it.answer.certificates = vec![it.root.clone(); 4],
        |it: &mut Asked| {
            let other = Line {
                id: id(&it.root, &it.root, NamedBy::Sha384),
                ..it.answer.lines[0].clone()
            };
            it.answer.lines.extend(vec![other; 15]);
        },
    ];
    for change in changes {
        let mut asked = asked();
        change(&mut asked);
        asked.judge().unwrap();
    }
}

#[test]
fn c21_an_answer_is_about_exactly_this_certificate() {
    let other =
        |change: fn(&mut Asked)| assert_eq!(refusal(change), OcspRejection::OtherCertificate);
    other(|it| it.answer.lines.clear());
    other(|it| it.answer.lines[0].id = id(&it.root, &it.root, NamedBy::Sha384));
    other(|it| it.answer.lines[0].id = id(&it.authority, &it.authority, NamedBy::Sha384));
    // SHA-1 does not name an issuer here.
    other(|it| it.answer.lines[0].id = id(&it.authority, &it.root, NamedBy::Sha1));
    // Nor do the right digests under the name of another hash: SHA-512's ends in 3, and SHA-256's in 1.
    other(|it| {
        const SHA256: [u8; 9] = [0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1];
        let mut named = id(&it.authority, &it.root, NamedBy::Sha256);
        let at = named.windows(9).position(|it| it == SHA256).unwrap();
        named[at + 8] = 3;
        it.answer.lines[0].id = named;
    });
    let twice = refusal(|it| {
        let mut line = it.answer.lines[0].clone();
        line.status = unknown();
        it.answer.lines.push(line);
    });
    assert_eq!(twice, OcspRejection::SaidTwice);
    // The same serial number under another issuer.
    let asked = asked();
    let stranger = Maker::new();
    let theirs = Template::authority(AUTHORITY, ROOT).issue(&stranger.authority, &stranger.root);
    let found = judge_ocsp(&asked.sign(), &theirs, &stranger.root_der(), NOW);
    assert_eq!(found.unwrap_err(), OcspRejection::OtherCertificate);
    let about = asked.sign();
    let about = OcspResponse::parse(&about).unwrap();
    assert!(about.is_about(&asked.authority, &asked.root));
    assert!(!about.is_about(&asked.root, &asked.root) && !about.is_about(b"", &asked.root));
}

#[test]
fn c22_a_responder_is_the_issuer_or_named_by_it_for_that_purpose() {
    let mut asked = asked();
    let root = std::mem::replace(&mut asked.maker.root, Key::new());
    asked.delegate(&responder(ROOT), &root);
    asked.judge().unwrap();

    let delegated = |change: fn(&mut Template)| {
        let mut asked = self::asked();
        let mut template = responder(ROOT);
        change(&mut template);
        let root = std::mem::replace(&mut asked.maker.root, Key::new());
        asked.delegate(&template, &root);
        asked.judge()
    };
    assert!(
        delegated(|it| it.extensions[0] = extension(
            &[0x55, 0x1d, 37],
            true,
            &sequence(&[&tlv(6, &[&OCSP_SIGNING])])
        ))
        .is_ok()
    );
    let usage = delegated(|it| it.extensions.clear()).unwrap_err();
    assert_eq!(usage, OcspRejection::ResponderUsage);
    let server: [u8; 8] = [0x2b, 6, 1, 5, 5, 7, 3, 1];
    let purpose = sequence(&[&tlv(6, &[&server])]);
    let mut asked = self::asked();
    let mut template = responder(ROOT);
    template.extensions = vec![extension(&[0x55, 0x1d, 37], false, &purpose)];
    let root = std::mem::replace(&mut asked.maker.root, Key::new());
    asked.delegate(&template, &root);
    assert_eq!(asked.judge().unwrap_err(), OcspRejection::ResponderUsage);

    let place = CertificatePlace::RESPONDER;
    let of = |rejection| OcspRejection::Responder(Box::new(rejection));
    let authority = delegated(|it| it.authority = Some((true, None))).unwrap_err();
    assert_eq!(authority, of(NvidiaRejection::LeafIsAuthority));
    let name = delegated(|it| it.issuer = AUTHORITY.to_owned()).unwrap_err();
    assert_eq!(name, of(NvidiaRejection::ChainName { place }));
    let expired = delegated(|it| it.until = "260201000000Z").unwrap_err();
    assert!(
        matches!(expired, OcspRejection::Responder(it) if matches!(*it, NvidiaRejection::CertificateExpired { .. }))
    );
    let early = delegated(|it| it.from = "260401000000Z").unwrap_err();
    assert!(
        early
            .to_string()
            .starts_with("responder's certificate is valid from"),
        "{early}"
    );
}

#[test]
fn c22_nobody_else_may_answer() {
    // A stranger with a certificate of the stranger's own.
    let mut asked = self::asked();
    let stranger = Key::new();
    asked.delegate(&responder(ROOT), &stranger);
    let place = CertificatePlace::RESPONDER;
    let signature = OcspRejection::Responder(Box::new(NvidiaRejection::ChainSignature { place }));
    assert_eq!(asked.judge().unwrap_err(), signature);
    // A responder whose certificate is not there, and one that is another's.
    let missing = refusal(|it| {
        let root = std::mem::replace(&mut it.maker.root, Key::new());
        it.delegate(&responder(ROOT), &root);
        it.answer.certificates.clear();
    });
    assert_eq!(missing, OcspRejection::ResponderUnknown);
    let named = refusal(|it| it.answer.responder = by_key(&Key::new()));
    assert_eq!(named, OcspRejection::ResponderUnknown);
}

#[test]
fn c23_the_responder_signed_the_bytes_received() {
    assert_eq!(
        refusal(|it| it.signer = Some(Key::new())),
        OcspRejection::Signature
    );
    let asked = asked();
    let whole = asked.sign();
    let status = whole.windows(2).position(|it| it == [0x80, 0]).unwrap();
    let mut changed = whole;
    changed[status] = 0x82;
    let judged = judge_ocsp(&changed, &asked.authority, &asked.root, NOW);
    assert_eq!(judged.unwrap_err(), OcspRejection::Signature);
}

#[test]
fn c24_an_answer_counts_from_its_date_until_the_next_is_due() {
    let mut asked = asked();
    for (now, expected) in [
        (
            ISSUED.minus(1),
            Some(OcspRejection::NotYetValid {
                from: ISSUED,
                now: ISSUED.minus(1),
            }),
        ),
        (ISSUED, None),
        (DUE.minus(1), None),
        (DUE, Some(OcspRejection::Stale { due: DUE, now: DUE })),
    ] {
        asked.now = now;
        assert_eq!(asked.judge().err(), expected);
    }
    let produced = refusal(|it| it.answer.produced = "20260302000000Z");
    assert!(matches!(produced, OcspRejection::NotYetValid { .. }));
    assert!(produced.is_out_of_date());
    let endless = refusal(|it| it.answer.lines[0].next_update = None);
    assert_eq!(endless, OcspRejection::NoNextUpdate);
}

#[test]
fn c24_an_answer_ends_with_its_responders_certificate() {
    let mut asked = asked();
    let mut template = responder(ROOT);
    template.until = "260302000000Z";
    let root = std::mem::replace(&mut asked.maker.root, Key::new());
    asked.delegate(&template, &root);
    assert_eq!(
        asked.judge().unwrap().until(),
        UnixTime::from_secs(1_772_409_600)
    );
}

#[test]
fn c25_only_good_is_good() {
    let at = UnixTime::from_secs(1_767_225_600);
    for (status, expected) in [
        (revoked(None), OcspRejection::Revoked { at }),
        (revoked(Some(1)), OcspRejection::Revoked { at }),
        (revoked(Some(6)), OcspRejection::OnHold { at }),
        (unknown(), OcspRejection::Unknown),
    ] {
        let found = refusal(|it| it.answer.lines[0].status = status);
        assert!(!found.is_out_of_date());
        assert_eq!(found, expected);
    }
}

/// Answers about device and authority, each by its issuer, after `change` to the one about the device.
fn answers(case: &Case, change: impl FnOnce(&mut Answer)) -> OcspAnswers {
    let ders = case.ders();
    answers_about(case, &ders, change)
}

fn answers_about(case: &Case, ders: &[Vec<u8>], change: impl FnOnce(&mut Answer)) -> OcspAnswers {
    let about = |place: usize| {
        Answer::of_issuer(Line::good(&ders[place], &ders[place + 1]), &ders[place + 1])
    };
    let mut device = about(1);
    change(&mut device);
    OcspAnswers::new([
        (
            Sha256Digest::of(&ders[1]),
            device.sign(&case.maker.authority),
        ),
        (Sha256Digest::of(&ders[2]), about(2).sign(&case.maker.root)),
    ])
}

/// A case whose chain stays as it is: every issue draws another signature, and with it another certificate.
fn fixed(revocation: Revocation) -> Case {
    let mut case = case();
    let ders = case.ders();
    case.chain = Some(pem(&ders));
    case.parts.revocation = revocation;
    case.answers = answers_about(&case, &ders, |_| {});
    case
}

fn with_device(revocation: Revocation, change: impl FnOnce(&mut Answer)) -> Case {
    let mut case = case();
    let ders = case.ders();
    case.chain = Some(pem(&ders));
    case.parts.revocation = revocation;
    case.answers = answers_about(&case, &ders, change);
    case
}

#[test]
fn n06_required_is_met_by_good_answers_about_everything_above_the_leaf() {
    let case = fixed(Revocation::Required);
    let verdict = case.judge().unwrap();
    assert!(verdict.revocation_judged());
    assert_eq!(verdict.revocation_until(), Some(DUE.minus(1)));
    let line = verdict.checks().iter().find(|it| it.id == "N6").unwrap();
    assert_eq!(line.result, CheckResult::Pass);
    assert!(
        line.text
            .contains("all 2 certificates above the leaf are good"),
        "{}",
        line.text
    );
    // Where nobody asks for answers, good ones count all the same.
    assert!(
        fixed(Revocation::NotJudgedAccepted)
            .judge()
            .unwrap()
            .revocation_judged()
    );
    // The set passes them on.
    let set = case.judge_all(&[case.evidence()]).unwrap();
    assert!(set.devices()[0].revocation_judged());
    assert_eq!(set.until(), Some(DUE));
    let mut unasked = fixed(Revocation::NotJudgedAccepted);
    unasked.answers = OcspAnswers::none();
    let set = unasked.judge_all(&[unasked.evidence()]).unwrap();
    assert_eq!(set.until(), None);
    let list = list(ReferenceKind::Driver, "550.54.15", &[1]);
    assert_eq!(list.version(), "550.54.15");
}

#[test]
fn n06_one_answer_that_is_missing_stale_or_another_devices_is_not_enough() {
    let mut case = fixed(Revocation::Required);
    let other = fixed(Revocation::Required);
    case.answers = other.answers;
    assert_eq!(
        case.judge().unwrap_err(),
        NvidiaRejection::RevocationNotJudged
    );
    let place = CertificatePlace(1);
    let stale = with_device(Revocation::Required, |it| {
        it.lines[0].next_update = Some("20260301000000Z")
    });
    let reason = OcspRejection::Stale { due: NOW, now: NOW };
    let found = stale.judge().unwrap_err();
    assert_eq!(found, NvidiaRejection::Revocation { place, reason });
    assert_eq!(found.rule(), "N6");
    assert_eq!(
        found.to_string(),
        "certificate 1 above the leaf: answer is stale: a newer one was due at 1772323200, now is 1772323200"
    );
}

#[test]
fn n06_what_is_said_against_a_certificate_refuses_under_every_policy() {
    let at = UnixTime::from_secs(1_767_225_600);
    let place = CertificatePlace(1);
    for revocation in [Revocation::Required, Revocation::NotJudgedAccepted] {
        for (status, reason) in [
            (revoked(None), OcspRejection::Revoked { at }),
            (revoked(Some(6)), OcspRejection::OnHold { at }),
            (unknown(), OcspRejection::Unknown),
        ] {
            let case = with_device(revocation, |it| it.lines[0].status = status);
            let found = case.judge().unwrap_err();
            assert_eq!(found, NvidiaRejection::Revocation { place, reason });
        }
    }
    // Silence, and what is out of date, is what the override accepts, and the verdict says so.
    let stale = with_device(Revocation::NotJudgedAccepted, |it| {
        it.lines[0].next_update = Some("20260301000000Z")
    });
    let verdict = stale.judge().unwrap();
    assert!(!verdict.revocation_judged());
    let line = verdict.checks().iter().find(|it| it.id == "N6").unwrap();
    assert!(line.text.starts_with("revocation not judged") && line.text.contains("stale"));
}

#[test]
fn a_question_is_what_the_answer_names() {
    let asked = asked();
    let request = ocsp_request(&asked.authority, &asked.root).unwrap();
    let id = id(&asked.authority, &asked.root, NamedBy::Sha384);
    let expected = sequence(&[&sequence(&[&sequence(&[&sequence(&[&id])])])]);
    assert_eq!(request, expected);
    assert!(ocsp_request(b"", &asked.root).is_err());
}

#[test]
fn answers_of_one_certificate_are_kept_by_it() {
    let case = case();
    let two = answers(&case, |_| {});
    assert_eq!(two.about(&Sha256Digest::of(b"")), None);
    assert_eq!(two.iter().count(), 2);
    assert_eq!(OcspAnswers::none().iter().count(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_changed_answer_never_says_good(place in 0_usize..4096, bit in 0_u8..8) {
        let asked = asked();
        let mut bytes = asked.sign();
        let place = place % bytes.len();
        bytes[place] ^= 1 << bit;
        // Only the signature's own encoding could be read twice, and is not.
        prop_assert!(judge_ocsp(&bytes, &asked.authority, &asked.root, NOW).is_err());
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        prop_assert!(OcspResponse::parse(&bytes).is_err());
    }
}
