//! Every refusal of the TPM, log and Azure rules is provoked once, by one change to evidence that is otherwise accepted.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

#[path = "tpm_refuse/azure.rs"]
mod azure;
#[path = "tpm_refuse/certificates.rs"]
mod certificates;
#[path = "tpm_refuse/claims.rs"]
mod claims;
mod common;
#[path = "tpm_refuse/log.rs"]
mod log;
#[path = "tpm_refuse/policy.rs"]
mod policy_rules;
mod support;

use casemate_attestation::tpm::{
    AkTrust, AttestationKey, Bank, EnrolledKey, HostedIn, KeyEvidence, PublicKey, QuoteSignature,
    TpmAnchors, TpmLocation, TpmRejection, verify_tpm_quote,
};

use support::certificates::{oid, rsa_spki, spki, tlv};
use support::*;

/// Judges the case after `change`.
fn refusal(change: impl FnOnce(&mut Case)) -> TpmRejection {
    let mut case = case();
    change(&mut case);
    case.judge().unwrap_err()
}

fn message(change: impl FnOnce(&mut Message)) -> TpmRejection {
    refusal(|case| change(&mut case.message))
}

#[test]
fn the_quotes_that_these_tests_change_are_accepted() {
    for key in [ak(), p256(), p384()] {
        for bank in [Bank::Sha256, Bank::Sha384, Bank::Sha512, Bank::Sha1] {
            let registers = values(bank);
            let policy = policy_for(bank, &registers, &[0, 7]);
            let case = case_of(key, bank, registers);
            let judged = verify_tpm_quote(&case.evidence(), NONCE, &policy, &anchors(key), NOW);
            let verdict = judged.unwrap();
            let ids: Vec<&str> = verdict.checks().iter().map(|check| check.id).collect();
            let mut rules = ids.clone();
            rules.dedup();
            assert_eq!(rules, ["P1", "P2", "P3", "P4", "P5", "P6"]);
            // That the SHA-1 bank was quoted is said aloud.
            let fours = ids.iter().filter(|id| **id == "P4").count();
            assert_eq!(fours, if bank == Bank::Sha1 { 2 } else { 1 });
            assert_eq!(verdict.location(), TpmLocation::Machine);
            assert_eq!(verdict.trust(), AkTrust::Enrolled);
            assert_eq!(verdict.bank(), bank);
            let said = verdict
                .checks()
                .iter()
                .any(|check| check.text.contains("on the machine"));
            assert!(said, "the verdict says where the TPM lives");
        }
    }
}

#[test]
fn p1_nothing_but_a_quote_of_exactly_its_length() {
    assert_eq!(
        message(|m| m.magic = 0xff54_4346),
        TpmRejection::Magic(0xff54_4346)
    );
    // Certification, creation, time, session audit, NV: the same key signs them all.
    for kind in [0x8014, 0x8015, 0x8016, 0x8017, 0x8019, 0x801a, 0x801c, 0] {
        assert_eq!(message(|m| m.kind = kind), TpmRejection::NotAQuote(kind));
    }
    assert_eq!(
        message(|m| m.trailing = vec![0]),
        TpmRejection::MessageTrailing(1)
    );
    let to_the_bound = 1024 - case().message.bytes().len();
    let refused = message(|m| m.trailing = vec![0; to_the_bound]);
    assert_eq!(refused, TpmRejection::MessageTrailing(to_the_bound));
    let refused = message(|m| m.trailing = vec![0; to_the_bound + 1]);
    assert_eq!(refused, TpmRejection::MessageLength(1025));
    let clock = "has a clock that is neither safe nor not safe";
    assert_eq!(
        message(|m| m.safe = 2),
        TpmRejection::MessageMalformed(clock)
    );
    let case = case();
    let (whole, mut rules) = (case.message.bytes(), Vec::new());
    for length in 0..whole.len() {
        let mut evidence = case.evidence();
        evidence.message.truncate(length);
        evidence.signature = QuoteSignature::Tpmt(case.key.sign(&evidence.message));
        let judged = verify_tpm_quote(&evidence, NONCE, &policy(), &anchors(case.key), NOW);
        rules.push(judged.unwrap_err().rule());
    }
    assert!(
        rules.iter().all(|rule| *rule == "P1"),
        "cut anywhere: {rules:?}"
    );
}

#[test]
fn p1_lengths_inside_are_bounded() {
    let malformed = TpmRejection::MessageMalformed;
    let name = "has no well-formed signer name";
    let data = "has no well-formed extra data";
    assert_eq!(message(|m| m.signer = vec![0; 67]), malformed(name));
    assert_eq!(message(|m| m.extra_data = vec![0; 67]), malformed(data));
    let mut nameless = case();
    nameless.message.signer = Vec::new();
    assert!(
        nameless.judge().is_ok(),
        "who signed is told by the signature"
    );
    let many = "has no well-formed number of selections";
    assert_eq!(
        message(|m| m.selections = vec![(0x0b, vec![]); 17]),
        malformed(many)
    );
    let inside = "ends inside a selection";
    assert_eq!(
        message(|m| m.selections = vec![(0x0b, vec![0; 5])]),
        malformed(inside)
    );
    let above = "selects a register above 23";
    assert_eq!(
        message(|m| m.selections[0].1 = vec![0xff, 0, 0, 1]),
        malformed(above)
    );
    let digest = "ends inside its register digest";
    assert_eq!(message(|m| m.digest = vec![0; 65]), malformed(digest));
}

#[test]
fn p2_schemes_and_hashes_from_the_list() {
    let with =
        |signature: Vec<u8>| refusal(|case| case.signature = Some(QuoteSignature::Tpmt(signature)));
    let good = ak().sign(&case().message.bytes());
    let raw = &good[6..];
    // RSAPSS, ECDAA, SM2, ECSCHNORR, HMAC and none.
    for scheme in [0x0016, 0x001a, 0x001b, 0x001c, 0x0005, 0x0010] {
        assert_eq!(
            with(tpmt(scheme, 0x0b, &[raw])),
            TpmRejection::SignatureScheme(scheme)
        );
    }
    // SHA-1, SM3, SHA3 and none.
    for hash in [0x0004, 0x0012, 0x0027, 0x0010] {
        assert_eq!(
            with(tpmt(RSASSA, hash, &[raw])),
            TpmRejection::SignatureHash(hash)
        );
    }
    let end = "ends inside its value, or is too long";
    assert_eq!(
        with(good[..good.len() - 1].to_vec()),
        TpmRejection::SignatureMalformed(end)
    );
    let longest = tpmt(RSASSA, 0x0b, &[&[1; 513]]);
    assert_eq!(with(longest), TpmRejection::SignatureMalformed(end));
    let after = TpmRejection::SignatureMalformed("has bytes after its end");
    assert_eq!(with([&good[..], &[0]].concat()), after);
    let scheme = TpmRejection::SignatureMalformed("ends inside its scheme");
    assert_eq!(with(vec![0]), scheme);
    assert_eq!(
        with(vec![0, 0x14, 0]),
        TpmRejection::SignatureMalformed("ends inside its hash")
    );
    let raw = QuoteSignature::RsassaSha256(vec![1; 513]);
    let long = TpmRejection::SignatureMalformed("is longer than 512 bytes");
    assert_eq!(refusal(|case| case.signature = Some(raw)), long);
}

#[test]
fn p2_signature_and_key() {
    let other = other_ak().sign(&case().message.bytes());
    let refused = refusal(|case| case.signature = Some(QuoteSignature::Tpmt(other)));
    assert_eq!(refused, TpmRejection::QuoteSignature);
    // Stronger hashes are accepted where the register digest is made with them too.
    for (hash, id) in [(Bank::Sha384, 0x0c), (Bank::Sha512, 0x0d)] {
        let mut case = case();
        let joined: Vec<u8> = case.registers.values().flatten().copied().collect();
        case.message.digest = hash.digest(&joined);
        let signature = ak().rsassa(hash, &case.message.bytes());
        case.signature = Some(QuoteSignature::Tpmt(tpmt(RSASSA, id, &[&signature])));
        assert!(case.judge().is_ok(), "{hash}");
        // A raw signature is RSASSA with SHA-256, and with nothing else.
        case.signature = Some(QuoteSignature::RsassaSha256(signature));
        assert_eq!(case.judge().unwrap_err(), TpmRejection::QuoteSignature);
    }
    let kind = TpmRejection::SignatureKey("is of another kind than the key");
    let elliptic = p256().sign(&case().message.bytes());
    let refused = refusal(|case| case.signature = Some(QuoteSignature::Tpmt(elliptic)));
    assert_eq!(refused, kind);
    let mut elliptic = case_of(p256(), Bank::Sha256, values(Bank::Sha256));
    let signature = p256().sign(&elliptic.message.bytes());
    let pair = TpmRejection::SignatureKey("pairs a curve with a hash of another strength");
    let strong = [&[0, 0x18, 0, 0x0c], &signature[4..]].concat();
    elliptic.signature = Some(QuoteSignature::Tpmt(strong));
    assert_eq!(elliptic.judge().unwrap_err(), pair);
    let field = "has a number longer than its curve's field";
    let long = tpmt(ECDSA, 0x0b, &[&[1; 33], &[1; 32]]);
    elliptic.signature = Some(QuoteSignature::Tpmt(long));
    assert_eq!(
        elliptic.judge().unwrap_err(),
        TpmRejection::SignatureMalformed(field)
    );
}

#[test]
fn p2_elliptic_numbers_without_their_leading_zeros_are_the_same_numbers() {
    // One signature in 128 has such a number.
    let mut case = case_of(p256(), Bank::Sha256, values(Bank::Sha256));
    for clock in 0..4000 {
        case.message.clock = clock;
        let message = case.message.bytes();
        let signature = p256().sign(&message);
        let (r, s) = (&signature[6..38], &signature[40..72]);
        if r[0] != 0 && s[0] != 0 {
            continue;
        }
        let short = |bytes: &[u8]| -> Vec<u8> {
            bytes
                .iter()
                .copied()
                .skip_while(|byte| *byte == 0)
                .collect()
        };
        let shortened = tpmt(ECDSA, 0x0b, &[&short(r), &short(s)]);
        assert!(shortened.len() < signature.len());
        case.signature = Some(QuoteSignature::Tpmt(shortened));
        assert!(case.judge().is_ok());
        return;
    }
    panic!("no signature with a leading zero in 4000");
}

#[test]
fn p2_the_key_is_a_restricted_signing_key_that_stays_in_its_tpm() {
    let area = |change: &dyn Fn(&mut Area)| {
        let mut area = ak().area();
        change(&mut area);
        AttestationKey::parse(&area.bytes(ak()))
    };
    let attributes = |bits: u32| match area(&|area| area.attributes = bits) {
        Ok(_) => "accepted",
        Err(TpmRejection::KeyAttributes { what, bits: found }) => {
            assert_eq!(found, bits);
            what
        }
        Err(other) => panic!("{other}"),
    };
    for (bit, what) in [
        (1, "may leave its TPM"),
        (4, "may move to another parent"),
        (5, "was not made by its TPM"),
        (16, "may sign what its TPM did not make"),
        (18, "may not sign"),
    ] {
        assert_eq!(attributes(AK_ATTRIBUTES & !(1 << bit)), what);
    }
    assert_eq!(attributes(AK_ATTRIBUTES | 1 << 17), "decrypts too");
    for bit in [0, 3, 12, 15, 20, 31] {
        let what = "has attributes that are not known";
        assert_eq!(attributes(AK_ATTRIBUTES | 1 << bit), what, "{bit}");
    }
    // Who may use the key, and lockout, are the machine's affair.
    for bit in [2, 7, 10, 19] {
        assert_eq!(attributes(AK_ATTRIBUTES | 1 << bit), "accepted", "{bit}");
    }
    assert_eq!(attributes(AK_ATTRIBUTES & !(1 << 6)), "accepted");
    let scheme = area(&|area| area.scheme = 0x0016).unwrap_err();
    assert_eq!(scheme, TpmRejection::SignatureScheme(0x0016));
    let none = area(&|area| area.scheme = 0x0010).unwrap_err();
    assert_eq!(none, TpmRejection::SignatureScheme(0x0010));
    assert_eq!(
        area(&|area| area.hash = 4).unwrap_err(),
        TpmRejection::SignatureHash(4)
    );
    let storage = "has a symmetric algorithm, as only storage keys have";
    assert_eq!(
        area(&|a| a.symmetric = 6).unwrap_err(),
        TpmRejection::KeyMalformed(storage)
    );
    let name = "is named by another hash than SHA-256, SHA-384 or SHA-512";
    assert_eq!(
        area(&|a| a.name_hash = 4).unwrap_err(),
        TpmRejection::KeyMalformed(name)
    );
}

#[test]
fn p2_public_areas_and_keys_are_read_whole() {
    let malformed = |bytes: &[u8]| AttestationKey::parse(bytes).unwrap_err().rule();
    for key in [ak(), p256(), p384()] {
        let good = key.area().bytes(key);
        let parsed = AttestationKey::parse(&good).unwrap();
        assert_eq!(parsed.public(), &PublicKey::from_spki(&spki(key)).unwrap());
        // The Name: SHA-256, and the digest of the area.
        let name = [&[0, 0x0b][..], &Bank::Sha256.digest(&good)].concat();
        assert_eq!(parsed.name(), name);
        for length in 0..good.len() {
            assert_eq!(malformed(&good[..length]), "P2");
        }
        assert_eq!(malformed(&[&good[..], &[0]].concat()), "P2");
    }
    assert_eq!(malformed(&[0; 1025]), "P2");
    let spki_refused = |der: &[u8]| PublicKey::from_spki(der).unwrap_err();
    let modulus = ak().modulus();
    let exponent = "is an RSA key with another exponent than 65537";
    assert_eq!(
        spki_refused(&rsa_spki(&modulus, &[3])),
        TpmRejection::KeyMalformed(exponent)
    );
    let short = "is an RSA key of less than 2048 or more than 4096 bits";
    for length in [255, 513] {
        let refused = spki_refused(&rsa_spki(&vec![0xc1; length], &[1, 0, 1]));
        assert_eq!(refused, TpmRejection::KeyMalformed(short));
    }
    for length in [256, 512] {
        assert!(PublicKey::from_spki(&rsa_spki(&vec![0xc1; length], &[1, 0, 1])).is_ok());
    }
    let behind = [&spki(ak())[..], &[0]].concat();
    assert_eq!(
        spki_refused(&behind),
        TpmRejection::KeyMalformed("has bytes after its end")
    );
    let no_key = TpmRejection::KeyMalformed("is not a public key in DER");
    assert_eq!(spki_refused(&tlv(0x30, &[])), no_key);
    let evidence = KeyEvidence::PublicArea(vec![0]);
    let refused = refusal(|case| case.evidence = Some(evidence));
    assert!(matches!(refused, TpmRejection::KeyMalformed(_)));
}

#[test]
fn p2_public_areas_and_keys_have_at_most_1024_bytes() {
    let padded =
        |bytes: Vec<u8>, length: usize| [bytes.as_slice(), &[0; 1024]].concat()[..length].to_vec();
    let area = |length| AttestationKey::parse(&padded(ak().area().bytes(ak()), length)).map(|_| ());
    let key = |length| PublicKey::from_spki(&padded(spki(ak()), length)).map(|_| ());
    let read = Err(TpmRejection::KeyMalformed("has bytes after its end"));
    let refused = Err(TpmRejection::KeyMalformed("is longer than 1024 bytes"));
    assert_eq!((area(1024), key(1024)), (read.clone(), read));
    for length in [1025, 1026] {
        let refused = refused.clone();
        assert_eq!((area(length), key(length)), (refused.clone(), refused));
    }
}

#[test]
fn p2_a_public_area_names_the_exponent_or_leaves_it_out() {
    let with = |exponent: u32| {
        let mut area = ak().area().bytes(ak());
        area[18..22].copy_from_slice(&exponent.to_be_bytes());
        AttestationKey::parse(&area).map(|key| key.public().clone())
    };
    let key = PublicKey::from_spki(&spki(ak())).unwrap();
    assert_eq!(with(0).unwrap(), key);
    assert_eq!(with(65_537).unwrap(), key);
    let other = TpmRejection::KeyMalformed("is an RSA key with another exponent than 65537");
    for exponent in [1, 3, 65_536, 65_538, u32::MAX] {
        assert_eq!(with(exponent), Err(other.clone()));
    }
}

#[test]
fn p2_elliptic_keys_are_uncompressed_points_of_two_curves() {
    const KEYS_ON_CURVES: [u8; 7] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
    const SECP384R1: [u8; 5] = [0x2b, 0x81, 4, 0, 0x22];
    const BRAINPOOL_P384R1: [u8; 9] = [0x2b, 0x24, 3, 3, 2, 8, 1, 1, 0x0b];
    let read = |kind: &[u8], parameters: &[u8], point: &[u8]| {
        let algorithm = tlv(0x30, &[&oid(kind), parameters]);
        PublicKey::from_spki(&tlv(0x30, &[&algorithm, &tlv(0x03, &[&[0], point])]))
    };
    let curve = oid(&SECP384R1);
    let point = p384().point();
    let key = PublicKey::from_spki(&spki(p384())).unwrap();
    assert_eq!(read(&KEYS_ON_CURVES, &curve, &point).unwrap(), key);
    // Another curve whose numbers have the same length, a curve by its parameters, and no curve at all.
    let other = TpmRejection::KeyMalformed("is on another curve than P-256 and P-384");
    for parameters in [oid(&BRAINPOOL_P384R1), tlv(0x30, &[]), Vec::new()] {
        let refused = read(&KEYS_ON_CURVES, &parameters, &point);
        assert_eq!(refused, Err(other.clone()));
    }
    let no_point = TpmRejection::KeyMalformed("is no uncompressed point of its curve");
    let compressed = [&[2], &point[1..]].concat();
    let longer = [&point[..], &[0]].concat();
    for wrong in [
        &compressed[..],
        &compressed[..49],
        &point[..96],
        &longer,
        &[],
    ] {
        let refused = read(&KEYS_ON_CURVES, &curve, wrong);
        assert_eq!(refused, Err(no_point.clone()));
    }
    // The same keys under the names of other algorithms: 1.2.840.10045.2.2, and RSASSA-PSS.
    let unknown = TpmRejection::KeyMalformed("is neither RSA nor on a known curve");
    let refused = read(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 2], &curve, &point);
    assert_eq!(refused, Err(unknown.clone()));
    let mut rsa = spki(ak());
    let id = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
    let found = rsa.windows(9).position(|window| window == id).unwrap();
    rsa[found + 8] = 10;
    assert_eq!(PublicKey::from_spki(&rsa), Err(unknown));
}

#[test]
fn p3_the_nonce_is_there_and_equal() {
    assert_eq!(
        message(|m| m.extra_data[0] ^= 1),
        TpmRejection::NonceMismatch
    );
    assert_eq!(
        message(|m| m.extra_data.truncate(31)),
        TpmRejection::NonceMismatch
    );
    assert_eq!(
        message(|m| m.extra_data.push(0)),
        TpmRejection::NonceMismatch
    );
    assert_eq!(
        message(|m| m.extra_data = Vec::new()),
        TpmRejection::NonceMismatch
    );
    // An empty nonce beside a quote without one: equal, and yet no proof of any moment.
    let mut case = case();
    case.message.extra_data = Vec::new();
    let judged = verify_tpm_quote(&case.evidence(), b"", &policy(), &anchors(ak()), NOW);
    assert_eq!(judged.unwrap_err(), TpmRejection::NonceEmpty);
    // The longest that a TPM takes.
    let nonce = [7; 64];
    case.message.extra_data = nonce.to_vec();
    assert!(verify_tpm_quote(&case.evidence(), &nonce, &policy(), &anchors(ak()), NOW).is_ok());
}

#[test]
fn p5_who_vouches_and_where_the_tpm_lives() {
    let refused = |anchors: &TpmAnchors| {
        verify_tpm_quote(&case().evidence(), NONCE, &policy(), anchors, NOW).unwrap_err()
    };
    assert_eq!(
        refused(&TpmAnchors::default()),
        TpmRejection::KeyNotEnrolled
    );
    assert_eq!(refused(&anchors(other_ak())), TpmRejection::KeyNotEnrolled);
    let cloud = TpmAnchors::new(Vec::new(), vec![ak().enrolled(HostedIn::CloudHypervisor)]);
    let verdict = verify_tpm_quote(&case().evidence(), NONCE, &policy(), &cloud, NOW).unwrap();
    assert_eq!(verdict.location(), TpmLocation::CloudHypervisor);
    assert!(
        verdict
            .checks()
            .iter()
            .any(|check| check.text.contains("proves nothing"))
    );
    // A key that was enrolled bare: what it is rests on a word, and the verdict says so, unless evidence shows its area.
    let bare = EnrolledKey::from_spki(&spki(ak()), HostedIn::Machine).unwrap();
    let bare = TpmAnchors::new(Vec::new(), vec![bare]);
    let says = |case: &Case| {
        let verdict = verify_tpm_quote(&case.evidence(), NONCE, &policy(), &bare, NOW).unwrap();
        verdict
            .checks()
            .iter()
            .any(|check| check.text.contains("word of whoever enrolled it"))
    };
    let mut case = case();
    assert!(!says(&case));
    case.evidence = Some(KeyEvidence::Spki(spki(ak())));
    assert!(says(&case));
}

#[test]
fn b24_a_quote_of_the_wrong_bank_without_nonce_or_by_a_strange_key_is_refused() {
    let sha1 = case_of(ak(), Bank::Sha1, values(Bank::Sha1));
    assert_eq!(sha1.judge().unwrap_err().rule(), "P4");
    assert_eq!(message(|m| m.extra_data = Vec::new()).rule(), "P3");
    let strange = case_of(other_ak(), Bank::Sha256, values(Bank::Sha256));
    let judged = verify_tpm_quote(&strange.evidence(), NONCE, &policy(), &anchors(ak()), NOW);
    assert_eq!(judged.unwrap_err(), TpmRejection::KeyNotEnrolled);
}
