//! Rules N3 and N5: chains in order to a pinned root, and the firmware id in their leaf.

use casemate_attestation::UnixTime;
use casemate_attestation::nvidia::{CHAIN_BYTES_MAX, CertificatePlace, NvidiaRejection};

use super::spdm::*;
use super::{refusal, report, same};

/// Changes the certificates after they were issued.
fn ders(change: impl FnOnce(&mut Vec<Vec<u8>>)) -> NvidiaRejection {
    refusal(|case| {
        let mut chain = case.ders();
        change(&mut chain);
        case.chain = Some(pem(&chain));
    })
}

/// Changes the chain's text.
fn text(change: impl FnOnce(&mut String)) -> NvidiaRejection {
    refusal(|case| {
        let mut text = String::from_utf8(pem(&case.ders())).unwrap();
        change(&mut text);
        case.chain = Some(text.into_bytes());
    })
}

fn leaf(change: impl FnOnce(&mut Template)) -> NvidiaRejection {
    refusal(|case| change(&mut case.device.leaf))
}

fn malformed(place: usize, what: &'static str) -> NvidiaRejection {
    let place = CertificatePlace(place);
    NvidiaRejection::CertificateMalformed { place, what }
}

#[test]
fn n03_a_chain_is_certificates_and_nothing_else() {
    let chain = |what| NvidiaRejection::ChainMalformed(what);
    let outside = chain("has text outside of its certificates");
    same(
        text(|text| text.insert_str(0, "subject=x\n")),
        outside.clone(),
        "N3",
    );
    same(text(|text| text.push('x')), outside, "N3");
    same(
        text(|text| text.truncate(text.len() - 10)),
        chain("ends inside a certificate"),
        "N3",
    );
    same(
        text(|text| *text = text.replacen("MII", "M*I", 1)),
        chain("has a certificate that is not base64"),
        "N3",
    );
    same(
        refusal(|case| case.chain = Some(vec![0xff])),
        chain("is not text"),
        "N3",
    );
    let padded = |length: usize| move |text: &mut String| *text = format!("{text:length$}");
    let long = text(padded(CHAIN_BYTES_MAX + 1));
    same(long, chain("is longer than 16384 bytes"), "N3");
    let mut case = case();
    let mut good = String::from_utf8(pem(&case.ders())).unwrap();
    padded(CHAIN_BYTES_MAX)(&mut good);
    case.chain = Some(good.clone().into_bytes());
    assert!(case.judge().is_ok(), "exactly as long as it may be");
    case.chain = Some(good.replace('\n', "\r\n").trim_end().as_bytes().to_vec());
    assert!(case.judge().is_ok(), "white space is no difference");
}

#[test]
fn n03_a_chain_is_complete_and_in_order() {
    let name = |place| NvidiaRejection::ChainName {
        place: CertificatePlace(place),
    };
    same(ders(|chain| drop(chain.remove(1))), name(0), "N3");
    same(ders(|chain| drop(chain.remove(2))), name(1), "N3");
    same(ders(|chain| chain.swap(1, 2)), name(0), "N3");
    same(
        ders(|chain| chain.truncate(1)),
        NvidiaRejection::ChainLength(1),
        "N3",
    );
    same(
        ders(|chain| chain.clear()),
        NvidiaRejection::ChainLength(0),
        "N3",
    );
    same(
        ders(|chain| chain.truncate(2)),
        NvidiaRejection::ChainLength(2),
        "N3",
    );
    let nine = ders(|chain| {
        let again = chain[2].clone();
        chain.splice(
            2..2,
            [
                again.clone(),
                again.clone(),
                again.clone(),
                again.clone(),
                again,
            ],
        );
    });
    same(nine, NvidiaRejection::ChainLength(9), "N3");
    let mut eight = case();
    let mut chain = eight.ders();
    let key = &eight.maker.authority;
    let again = Template::authority(AUTHORITY, AUTHORITY).issue(key, key);
    chain.splice(2..2, std::iter::repeat_n(again, 4));
    eight.chain = Some(pem(&chain));
    assert!(eight.judge().is_ok(), "as many as there may be");
}

#[test]
fn n03_no_root_but_a_pinned_one_counts() {
    // The root left out, the chain cut so that an authority stands last, another root of the same name.
    same(
        ders(|chain| drop(chain.pop())),
        NvidiaRejection::NoPinnedRoot,
        "N3",
    );
    let another = refusal(|case| {
        let impostor = Maker::new();
        let root = impostor.root_der();
        case.chain = Some(pem(&case.device.chain(&impostor, &root)));
    });
    same(another, NvidiaRejection::NoPinnedRoot, "N3");
    // The pinned root at the end of a chain that somebody else signed.
    let borrowed = refusal(|case| {
        let impostor = Maker::new();
        case.chain = Some(pem(&case.device.chain(&impostor, &case.root)));
    });
    let place = CertificatePlace(2);
    same(borrowed, NvidiaRejection::ChainSignature { place }, "N3");
    // NVIDIA's own root does not know the test's devices.
    let production = super::spdm::case();
    let policy = casemate_attestation::nvidia::GpuPolicy::new(parts()).unwrap();
    let roots = [casemate_attestation::nvidia::PinnedGpuRoot::nvidia()];
    let evidence = production.evidence();
    let judged = casemate_attestation::nvidia::verify_device(
        &evidence,
        &production.nonce,
        &policy,
        &roots,
        &casemate_attestation::nvidia::OcspAnswers::none(),
        ON,
        NOW,
    );
    same(judged.unwrap_err(), NvidiaRejection::NoPinnedRoot, "N3");
}

#[test]
fn n03_certificates_are_well_formed() {
    same(
        ders(|chain| chain[0].push(0)),
        malformed(0, "is followed by other bytes"),
        "N3",
    );
    same(
        ders(|chain| chain[1] = vec![0x30, 0]),
        malformed(1, "is no certificate in DER"),
        "N3",
    );
    same(
        ders(|chain| chain[0].resize(4097, 0)),
        malformed(0, "is longer than 4096 bytes"),
        "N3",
    );
    same(
        leaf(|leaf| leaf.version = 1),
        malformed(0, "is not of version 3"),
        "N3",
    );
    let other = leaf(|leaf| leaf.algorithm_outside = Some(sequence(&[&tlv(6, &[&[0x2a, 3]])])));
    same(other, malformed(0, "names two signature algorithms"), "N3");
    let twice = leaf(|leaf| leaf.extensions.push(leaf.extensions[0].clone()));
    same(twice, malformed(0, "has an extension twice"), "N3");
    let unknown = extension(&[0x2a, 3], true, &[5, 0]);
    let critical = leaf(|leaf| leaf.extensions.push(unknown));
    let what = "has a critical extension that is not understood";
    same(critical, malformed(0, what), "N3");
    let what = "has no uncompressed P-384 key";
    for point in [&[4; 65][..], &[2; 97]] {
        let found = leaf(|leaf| leaf.key = Some(spki(point)));
        same(found, malformed(0, what), "N3");
    }
    let (agreement, p256) = (
        [0x2b, 0x81, 4, 1, 0x0c],
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7],
    );
    for (kind, curve) in [(&agreement[..], &P384[..]), (&EC_PUBLIC_KEY, &p256)] {
        let key = public_key(kind, curve, &[4; 97]);
        let found = leaf(|leaf| leaf.key = Some(key));
        same(found, malformed(0, what), "N3");
    }
}

/// A leaf of this many bytes. The length of a signature is drawn with it, so that some are issued in vain.
fn leaf_of(case: &Case, length: usize) -> Vec<u8> {
    let with = |size: usize| {
        let mut leaf = case.device.leaf.clone();
        let unknown = extension(&[0x2a, 3], false, &vec![0; size]);
        leaf.extensions.push(unknown);
        leaf.issue(&case.device.key, &case.device.device)
    };
    let size = 3000 + length - with(3000).len();
    let mut leaves = std::iter::repeat_with(|| with(size));
    leaves.find(|der| der.len() == length).unwrap()
}

#[test]
fn n03_a_certificate_is_exactly_as_long_as_it_may_be() {
    let judged = |length| {
        let mut case = case();
        let mut chain = case.ders();
        chain[0] = leaf_of(&case, length);
        case.chain = Some(pem(&chain));
        case.judge().map(drop)
    };
    assert_eq!(judged(4096), Ok(()));
    let long = malformed(0, "is longer than 4096 bytes");
    same(judged(4097).unwrap_err(), long, "N3");
}

#[test]
fn n03_authorities_may_sign_certificates_and_leaves_may_not() {
    let authority =
        |change: fn(&mut Template)| refusal(|case| change(&mut case.device.device_template));
    let place = CertificatePlace(1);
    for change in [
        (|it: &mut Template| it.authority = None) as fn(&mut Template),
        |it| it.authority = Some((false, None)),
        |it| it.usage = None,
        |it| it.usage = Some(0x80),
    ] {
        same(
            authority(change),
            NvidiaRejection::NotAuthority { place },
            "N3",
        );
    }
    let place = CertificatePlace(2);
    let found = refusal(|case| case.device.authority_template.authority = Some((true, Some(0))));
    same(found, NvidiaRejection::PathLength { place }, "N3");
    let mut exact = case();
    exact.device.authority_template.authority = Some((true, Some(1)));
    exact.device.device_template.authority = Some((true, Some(0)));
    assert!(exact.judge().is_ok(), "exactly as long as it may be");
    for change in [
        (|leaf: &mut Template| leaf.authority = Some((true, None))) as fn(&mut Template),
        |leaf| leaf.usage = Some(0x84),
        |leaf| leaf.usage = Some(0x82),
    ] {
        same(leaf(change), NvidiaRejection::LeafIsAuthority, "N3");
    }
    for usage in [None, Some(0x08)] {
        same(
            leaf(|leaf| leaf.usage = usage),
            NvidiaRejection::LeafUsage,
            "N3",
        );
    }
    let mut explicit = case();
    explicit.device.leaf.authority = Some((false, None));
    assert!(explicit.judge().is_ok());
}

#[test]
fn n03_signatures_are_those_of_the_certificate_above() {
    for place in [0, 1, 2] {
        let found = ders(|chain| {
            // The last byte of the signature.
            *chain[place].last_mut().unwrap() ^= 1;
        });
        let place = CertificatePlace(place);
        same(found, NvidiaRejection::ChainSignature { place }, "N3");
    }
}

#[test]
fn n03_certificates_are_valid_at_the_time_given() {
    let at = |secs| refusal(|case| case.now = UnixTime::from_secs(secs));
    for secs in [FROM.1.secs(), UNTIL.1.secs()] {
        let mut case = case();
        case.now = UnixTime::from_secs(secs);
        assert!(case.judge().is_ok(), "{secs}");
    }
    let place = CertificatePlace(0);
    let (from, until) = (FROM.1, UNTIL.1);
    let now = from.minus(1);
    let early = NvidiaRejection::CertificateNotYetValid { place, from, now };
    same(at(now.secs()), early, "N3");
    let now = until.plus(1);
    let late = NvidiaRejection::CertificateExpired { place, until, now };
    same(at(now.secs()), late, "N3");
}

#[test]
fn n05_firmware_ids_of_leaf_and_report_are_equal() {
    let id = |what| NvidiaRejection::LeafFirmwareId(what);
    let found = report(|report| report.set(20, &[0xf2; 48]));
    same(found, NvidiaRejection::FirmwareIdMismatch, "N5");
    let point = [4; 97];
    let found = leaf(|leaf| leaf.extensions = vec![composite(&point, &[0xf2; 48])]);
    same(found, NvidiaRejection::FirmwareIdMismatch, "N5");
    same(leaf(|leaf| leaf.extensions.clear()), id("has none"), "N5");
    let both = leaf(|leaf| leaf.extensions.push(tcb_info(&FIRMWARE, &FIRMWARE)));
    same(both, id("has two"), "N5");
    for extension in [
        composite(&point, &[0xf1; 47]),
        tcb_info(&[0xf1; 47], &FIRMWARE),
        extension(&[0x67, 0x81, 0x05, 5, 4, 1], false, &fwid(&FIRMWARE)),
        extension(
            &[0x67, 0x81, 0x05, 5, 4, 1, 1],
            false,
            &sequence(&[&tlv(0x80, &[b"x"])]),
        ),
        // Fields out of order, and a tag that this structure does not have.
        extension(
            &[0x67, 0x81, 0x05, 5, 4, 1, 1],
            false,
            &sequence(&[&tlv(0x87, &[b"x"]), &tlv(0xa6, &[&fwid(&FIRMWARE)])]),
        ),
        extension(
            &[0x67, 0x81, 0x05, 5, 4, 1, 1],
            false,
            &sequence(&[&tlv(0xa6, &[&fwid(&FIRMWARE)]), &tlv(0x04, &[b"x"])]),
        ),
    ] {
        let found = leaf(|leaf| leaf.extensions = vec![extension]);
        same(found, id("has a malformed one"), "N5");
    }
    // Blackwell: the first of two counts.
    let found = leaf(|leaf| leaf.extensions = vec![tcb_info(&[0; 48], &FIRMWARE)]);
    same(found, NvidiaRejection::FirmwareIdMismatch, "N5");
    let mut blackwell = case();
    blackwell.device.leaf.extensions = vec![tcb_info(&FIRMWARE, &[0; 48])];
    let verdict = blackwell.judge().unwrap();
    let found = verdict.report().opaque().firmware_id().unwrap();
    assert_eq!(found.as_bytes(), &FIRMWARE);
    // A report without the field has nothing to compare, and the verdict says so.
    let mut old = case();
    old.report.drop(20);
    let verdict = old.judge().unwrap();
    let line = verdict
        .checks()
        .iter()
        .find(|line| line.id == "N5")
        .unwrap();
    assert!(line.text.contains("has no firmware id"));
}

#[test]
fn n05_a_firmware_id_is_read_to_its_end_and_by_its_own_hash() {
    const COMPOSITE: [u8; 6] = [0x67, 0x81, 0x05, 5, 4, 1];
    const TCB_INFO: [u8; 7] = [0x67, 0x81, 0x05, 5, 4, 1, 1];
    let read = |id: &[u8], value: &[u8]| {
        let mut case = case();
        case.device.leaf.extensions = vec![extension(id, false, value)];
        case.judge().map(drop)
    };
    let key = spki(&[4; 97]);
    let composite = |id: &[u8], last: &[u8]| sequence(&[&[2, 1, 1], &key, id, last]);
    let good = composite(&fwid(&FIRMWARE), &[]);
    assert_eq!(read(&COMPOSITE, &good), Ok(()));
    let ids = tlv(0xa6, &[&fwid(&FIRMWARE)]);
    assert_eq!(read(&TCB_INFO, &sequence(&[&ids])), Ok(()));
    let digest = tlv(4, &[&FIRMWARE]);
    let of = |hash: &[u8], more: &[u8]| sequence(&[&tlv(6, &[hash]), &digest, more]);
    let other_hash = [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];
    for (id, value) in [
        (&COMPOSITE[..], [&good[..], &[5, 0]].concat()),
        (&COMPOSITE, composite(&fwid(&FIRMWARE), &[5, 0])),
        (&COMPOSITE, composite(&of(&other_hash, &[]), &[])),
        (&COMPOSITE, composite(&of(&SHA384, &[5, 0]), &[])),
        (&TCB_INFO, [&sequence(&[&ids])[..], &[5, 0]].concat()),
        // Of another class, and a tag whose number goes on in a second byte.
        (&TCB_INFO, sequence(&[&ids, &tlv(0x07, &[b"x"])])),
        (&TCB_INFO, sequence(&[&ids, &tlv(0x9f, &[b"x"])])),
        (&TCB_INFO, sequence(&[&ids, &ids])),
    ] {
        let malformed = NvidiaRejection::LeafFirmwareId("has a malformed one");
        same(read(id, &value).unwrap_err(), malformed, "N5");
    }
}
