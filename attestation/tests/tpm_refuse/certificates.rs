//! Rule P5 where an authority certifies the key.

use casemate_attestation::UnixTime;
use casemate_attestation::tpm::{
    AkTrust, CertificatePlace as Place, HostedIn, KeyEvidence, PinnedTpmRoot, TpmAnchors,
    TpmRejection, TpmVerdict, verify_ak_certificate, verify_ek_certificate, verify_tpm_quote,
};

use super::support::certificates::*;
use super::support::*;

/// Leaf, intermediates, and the roots that are pinned.
#[derive(Clone)]
struct Chain {
    leaf: Vec<u8>,
    intermediates: Vec<Vec<u8>>,
    roots: Vec<Vec<u8>>,
    now: UnixTime,
}

fn chain() -> Chain {
    Chain {
        leaf: leaf().sign(ak(), intermediate_key()),
        intermediates: vec![intermediate().sign(intermediate_key(), root_key())],
        roots: vec![root().sign(root_key(), root_key())],
        now: NOW,
    }
}

impl Chain {
    fn judge(&self) -> Result<TpmVerdict, TpmRejection> {
        let roots = self.roots.iter();
        let roots = roots
            .map(|der| PinnedTpmRoot::new(der, HostedIn::CloudHypervisor))
            .collect();
        let mut case = case();
        case.evidence = Some(KeyEvidence::Certificate {
            leaf: self.leaf.clone(),
            intermediates: self.intermediates.clone(),
        });
        let anchors = TpmAnchors::new(roots, Vec::new());
        verify_tpm_quote(&case.evidence(), NONCE, &policy(), &anchors, self.now)
    }
}

fn refusal(change: impl FnOnce(&mut Chain)) -> TpmRejection {
    let mut chain = chain();
    change(&mut chain);
    chain.judge().unwrap_err()
}

fn with_leaf(change: impl FnOnce(&mut Template)) -> Result<TpmVerdict, TpmRejection> {
    let mut template = leaf();
    change(&mut template);
    let mut chain = chain();
    chain.leaf = template.sign(ak(), intermediate_key());
    chain.judge()
}

fn with_intermediate(change: impl FnOnce(&mut Template)) -> TpmRejection {
    let mut template = intermediate();
    change(&mut template);
    refusal(|chain| chain.intermediates = vec![template.sign(intermediate_key(), root_key())])
}

fn malformed(place: Place, what: &'static str) -> TpmRejection {
    TpmRejection::CertificateMalformed { place, what }
}

#[test]
fn p5_the_chain_that_these_tests_change_is_accepted() {
    let verdict = chain().judge().unwrap();
    assert_eq!(verdict.trust(), AkTrust::Certified);
    assert!(verdict.location().host_could_lie());
    // Right under the root, and under two authorities.
    let mut short = chain();
    let mut template = leaf();
    template.issuer = root().subject;
    (short.leaf, short.intermediates) = (template.sign(ak(), root_key()), Vec::new());
    assert!(short.judge().is_ok());
    let mut upper = intermediate();
    (upper.subject, upper.authority) = ("Upper".to_owned(), Some((true, Some(1))));
    let mut lower = intermediate();
    lower.issuer = "Upper".to_owned();
    let mut long = chain();
    long.intermediates = vec![
        lower.sign(intermediate_key(), stranger()),
        upper.sign(stranger(), root_key()),
    ];
    assert!(long.judge().is_ok());
    // Under three, which is the most.
    let mut top = intermediate();
    (top.subject, top.authority) = ("Top".to_owned(), Some((true, Some(2))));
    let mut below_top = upper.clone();
    below_top.issuer = "Top".to_owned();
    let mut longest = long.clone();
    longest.intermediates[1] = below_top.sign(stranger(), intermediate_key());
    longest
        .intermediates
        .push(top.sign(intermediate_key(), root_key()));
    assert!(longest.judge().is_ok());
    // One more than the path may have.
    upper.authority = Some((true, Some(0)));
    long.intermediates[1] = upper.sign(stranger(), root_key());
    let place = Place::Intermediate(2);
    assert_eq!(
        long.judge().unwrap_err(),
        TpmRejection::PathLength { place }
    );
    long.intermediates = vec![Vec::new(); 4];
    assert_eq!(long.judge().unwrap_err(), TpmRejection::ChainLength(4));
}

#[test]
fn p5_no_root_is_taken_from_evidence() {
    assert_eq!(
        refusal(|chain| chain.roots.clear()),
        TpmRejection::NoPinnedRoot
    );
    let mut other = root();
    (other.subject, other.issuer) = ("Other root".to_owned(), "Other root".to_owned());
    let other = other.sign(stranger(), stranger());
    assert_eq!(
        refusal(|chain| chain.roots = vec![other.clone()]),
        TpmRejection::NoPinnedRoot
    );
    // The whole chain to a self-signed root of the evidence's own.
    let brought = refusal(|chain| {
        chain.intermediates.push(chain.roots[0].clone());
        chain.roots = vec![other.clone()];
    });
    assert_eq!(brought, TpmRejection::NoPinnedRoot);
    // A root of the same name and another key.
    let namesake = root().sign(stranger(), stranger());
    let place = Place::Intermediate(1);
    let refused = refusal(|chain| chain.roots = vec![namesake.clone()]);
    assert_eq!(refused, TpmRejection::ChainSignature { place });
    // Beside it, the right one is found.
    let mut both = chain();
    both.roots.insert(0, namesake);
    assert!(both.judge().is_ok());
    let garbage = refusal(|chain| chain.roots[0].push(0));
    assert_eq!(
        garbage,
        malformed(Place::Root, "is followed by other bytes")
    );
}

#[test]
fn p5_names_signatures_and_authorities() {
    let other = with_leaf(|leaf| leaf.issuer = "Somebody".to_owned()).unwrap_err();
    assert_eq!(other, TpmRejection::ChainName { place: Place::Leaf });
    let forged = leaf().sign(ak(), stranger());
    let refused = refusal(|chain| chain.leaf = forged);
    assert_eq!(refused, TpmRejection::ChainSignature { place: Place::Leaf });
    let forged = intermediate().sign(intermediate_key(), stranger());
    let place = Place::Intermediate(1);
    let refused = refusal(|chain| chain.intermediates = vec![forged]);
    assert_eq!(refused, TpmRejection::ChainSignature { place });
    for authority in [None, Some((false, None))] {
        let refused = with_intermediate(|it| it.authority = authority);
        assert_eq!(refused, TpmRejection::NotAuthority { place });
    }
    let refused = with_intermediate(|it| it.usage = Some(0x80));
    assert_eq!(refused, TpmRejection::NotAuthority { place });
    // A leaf that stands where an authority should: another attestation key's certificate signs nothing.
    let mut template = leaf();
    template.issuer = leaf().subject;
    let below = template.sign(ak(), p256());
    let above = leaf().sign(p256(), intermediate_key());
    let refused = refusal(|chain| {
        chain.leaf = below;
        chain.intermediates.insert(0, above);
    });
    assert_eq!(refused, TpmRejection::NotAuthority { place });
}

#[test]
fn p5_a_signature_is_of_the_algorithm_that_its_certificate_names() {
    // The root signs with ECDSA, P-384 and SHA-384.
    let named = |id: &[u8]| {
        let algorithm = tlv(0x30, &[&oid(id)]);
        let authority = intermediate().sign_naming(&algorithm, intermediate_key(), root_key());
        let mut chain = chain();
        chain.intermediates = vec![authority];
        chain.judge().map(|_| ())
    };
    assert_eq!(named(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3]), Ok(()));
    let place = Place::Intermediate(1);
    let refused = Err(TpmRejection::ChainSignature { place });
    // ECDSA with SHA-224, SHA-256 and SHA-512; RSA with SHA-384.
    for hash in [1, 2, 4] {
        let id = [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, hash];
        assert_eq!(named(&id), refused, "{hash}");
    }
    let rsa = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 12];
    assert_eq!(named(&rsa), refused);
}

#[test]
fn p5_the_leaf_is_for_a_tpms_signing_key() {
    let authority = with_leaf(|leaf| leaf.authority = Some((true, None)));
    assert_eq!(authority.unwrap_err(), TpmRejection::LeafIsAuthority);
    for usage in [0x20, 0x04] {
        let refused = with_leaf(|leaf| leaf.usage = Some(usage)).unwrap_err();
        assert_eq!(refused, TpmRejection::LeafUsage("signing"));
    }
    let tls = with_leaf(|leaf| leaf.purposes = vec![TLS_PURPOSE.to_vec()]);
    assert_eq!(tls.unwrap_err(), TpmRejection::LeafUsage("a TPM's keys"));
    // What providers leave out is not demanded: Google's leaf has no purpose, older ones that of an endorsement key.
    assert!(with_leaf(|leaf| leaf.purposes.clear()).is_ok());
    assert!(with_leaf(|leaf| leaf.purposes = vec![EK_PURPOSE.to_vec()]).is_ok());
    assert!(with_leaf(|leaf| leaf.usage = None).is_ok());
    assert!(with_leaf(|leaf| leaf.authority = None).is_ok());
    // A certificate for another key than the one that signed.
    let refused = refusal(|chain| chain.leaf = leaf().sign(p256(), intermediate_key()));
    assert!(matches!(refused, TpmRejection::SignatureKey(_)));
}

#[test]
fn p5_times_first_and_last_second_included() {
    let at = |now| refusal(|chain| chain.now = now);
    for now in [FROM_SECS, UNTIL_SECS] {
        assert!(Chain { now, ..chain() }.judge().is_ok());
    }
    let (from, until) = (FROM_SECS, UNTIL_SECS);
    let now = from.minus(1);
    let early = TpmRejection::CertificateNotYetValid {
        place: Place::Leaf,
        from,
        now,
    };
    assert_eq!(at(now), early);
    let now = until.plus(1);
    let late = TpmRejection::CertificateExpired {
        place: Place::Leaf,
        until,
        now,
    };
    assert_eq!(at(now), late);
    // The same for those above.
    let expired = "250101000000Z";
    let refused = with_intermediate(|it| it.until = expired);
    let place = Place::Intermediate(1);
    assert!(matches!(refused, TpmRejection::CertificateExpired { place: p, .. } if p == place));
    let mut template = root();
    template.until = expired;
    let refused = refusal(|chain| chain.roots = vec![template.sign(root_key(), root_key())]);
    assert!(matches!(
        refused,
        TpmRejection::CertificateExpired {
            place: Place::Root,
            ..
        }
    ));
    let refused = with_intermediate(|it| it.from = "300101000000Z");
    assert!(matches!(refused, TpmRejection::CertificateNotYetValid { place: p, .. } if p == place));
}

#[test]
fn p5_certificates_are_read_strictly() {
    let garbage = refusal(|chain| chain.leaf = vec![0x30, 3, 1, 2, 3]);
    assert_eq!(garbage, malformed(Place::Leaf, "is no certificate in DER"));
    let long = refusal(|chain| chain.leaf.resize(8193, 0));
    assert_eq!(long, malformed(Place::Leaf, "is longer than 8192 bytes"));
    // At the bound, padded as NV storage pads.
    let mut padded = chain();
    padded.leaf.resize(8192, 0);
    assert!(padded.judge().is_ok());
    *padded.leaf.last_mut().unwrap() = 0xff;
    let padding = malformed(Place::Leaf, "is followed by bytes that are no padding");
    assert_eq!(padded.judge().unwrap_err(), padding);
    let place = Place::Intermediate(1);
    let behind = refusal(|chain| chain.intermediates[0].push(0));
    assert_eq!(behind, malformed(place, "is followed by other bytes"));
    let strange = extension(&[0x2a, 3, 4], true, &[5, 0]);
    let refused = with_leaf(|leaf| leaf.extensions = vec![strange]).unwrap_err();
    let critical = "has a critical extension that is not understood";
    assert_eq!(refused, malformed(Place::Leaf, critical));
    let harmless = extension(&[0x2a, 3, 4], false, &[5, 0]);
    assert!(with_leaf(|leaf| leaf.extensions = vec![harmless.clone()]).is_ok());
    let twice = with_leaf(|leaf| leaf.extensions = vec![harmless.clone(), harmless]);
    assert_eq!(
        twice.unwrap_err(),
        malformed(Place::Leaf, "has an extension twice")
    );
    // Algorithms inside and outside differ.
    let mut der = leaf().sign(ak(), intermediate_key());
    let id = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11];
    let last = der.windows(9).rposition(|window| window == id).unwrap();
    der[last + 8] = 12;
    let refused = refusal(|chain| chain.leaf = der);
    assert_eq!(
        refused,
        malformed(Place::Leaf, "names two signature algorithms")
    );
}

#[test]
fn p5_certificates_are_judged_alone_as_at_enrolment() {
    let chain = chain();
    let root = PinnedTpmRoot::new(&chain.roots[0], HostedIn::Machine);
    let anchors = TpmAnchors::new(vec![root], Vec::new());
    let judge = |leaf: &[u8]| verify_ak_certificate(leaf, &chain.intermediates, &anchors, NOW);
    assert_eq!(judge(&chain.leaf).unwrap().1, HostedIn::Machine);
    // SHA-1 stands in no list of a chain's algorithms.
    let id = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11];
    let mut weak = chain.leaf.clone();
    for position in (0..weak.len() - 8).rev() {
        if weak[position..position + 9] == id {
            weak[position + 8] = 5;
        }
    }
    assert_eq!(
        judge(&weak).unwrap_err(),
        TpmRejection::ChainSignature { place: Place::Leaf }
    );
}

#[test]
fn p5_endorsement_keys_are_certified_for_credentials_and_for_nothing_else() {
    let chain = chain();
    let root = PinnedTpmRoot::new(&chain.roots[0], HostedIn::Machine);
    let anchors = TpmAnchors::new(vec![root], Vec::new());
    let sign = |usage: u8, purpose: &[u8]| {
        let mut template = leaf();
        (template.usage, template.purposes) = (Some(usage), vec![purpose.to_vec()]);
        template.sign(ak(), intermediate_key())
    };
    let judge = |leaf: &[u8]| verify_ek_certificate(leaf, &chain.intermediates, &anchors, NOW);
    let good = sign(0x20, &EK_PURPOSE);
    assert_eq!(judge(&good).unwrap().1, HostedIn::Machine);
    let signs = judge(&sign(0x80, &EK_PURPOSE)).unwrap_err();
    assert_eq!(signs, TpmRejection::LeafUsage("taking credentials"));
    let other = judge(&sign(0x20, &AK_PURPOSE)).unwrap_err();
    assert_eq!(other, TpmRejection::LeafUsage("endorsement keys"));
    let attests = verify_ak_certificate(&good, &chain.intermediates, &anchors, NOW);
    assert_eq!(attests.unwrap_err(), TpmRejection::LeafUsage("signing"));
}
