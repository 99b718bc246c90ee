//! Bundles: what is packed is judged, what is asked for is taken out or refused by name, and nothing is read that is out of form.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

mod common;
#[path = "support/ocsp.rs"]
mod ocsp;
#[path = "support/spdm.rs"]
mod spdm;
mod support;
#[path = "collateral_take/mod.rs"]
mod take;

use std::collections::BTreeSet;

use casemate_attestation::collateral::{
    Collateral, CollateralError, CollateralRoots, Der, Endorser, GpuList, GpuReferences,
    IndexValues, MissingCollateral, PackError, Packer,
};
use casemate_attestation::nvidia::{OcspRejection, PinnedGpuRoot, ReferenceKind, Revocation};
use casemate_attestation::snp::{CertificateRole, PinnedRoot};
use casemate_attestation::tdx::{PckCa, TdxRejection};
use casemate_attestation::test_chip::{IntermediateTemplate, VekTemplate};
use casemate_attestation::{
    Issue, Kind, Measurement, Payload, Product, Sha256Digest, SignedDocument, SignedError,
    SnpRejection, UnixTime,
};
use proptest::prelude::*;

use common::{NOW, chip, release_key};

/// Everything of everybody, by signers of the tests, with the roots that it leads to.
struct World {
    collateral: Collateral,
    roots: CollateralRoots,
    tdx: common::tdx::Platform,
    device: spdm::Case,
}

fn world() -> World {
    let chip = chip();
    let tdx = common::tdx::Platform::new();
    let mut device = spdm::case();
    let ders = device.ders();
    device.chain = Some(spdm::pem(&ders));
    let about = |place: usize, key: &spdm::Key| {
        let (certificate, issuer) = (&ders[place], &ders[place + 1]);
        ocsp::Answer::of_issuer(ocsp::Line::good(certificate, issuer), issuer).sign(key)
    };
    let held = chip.collateral();
    let mut packer = Packer::new();
    for file in [
        held.vek.clone(),
        held.intermediate.clone(),
        held.crl.clone(),
        tdx.collateral().to_json().unwrap(),
        tdx.pck_chain().into_bytes(),
        device.chain.clone().unwrap(),
        about(1, &device.maker.authority),
        about(2, &device.maker.root),
    ] {
        packer.add(&file).unwrap();
    }
    packer.add_lists(&[list("580.1.2")]);
    World {
        collateral: packer.finish().unwrap(),
        roots: CollateralRoots {
            amd: vec![PinnedRoot::private(Product::Genoa, chip.root_der())],
            intel: tdx.trusted(),
            nvidia: vec![PinnedGpuRoot::private(&device.root)],
        },
        tdx,
        device,
    }
}

fn list(version: &str) -> GpuList {
    GpuList {
        kind: ReferenceKind::Driver,
        version: version.to_owned(),
        product: "GH100".to_owned(),
        manifest: Sha256Digest::of(version.as_bytes()),
        values: vec![IndexValues {
            index: 7,
            digests: vec![Measurement::from_bytes([1; 48])],
        }],
    }
}

fn refused(world: &World, now: UnixTime) -> CollateralError {
    world
        .collateral
        .must_be_right(&world.roots, now)
        .unwrap_err()
        .1
}

/// Changes a bundle, and says why it is refused.
fn changed(change: impl FnOnce(&mut Collateral)) -> CollateralError {
    let mut world = world();
    change(&mut world.collateral);
    refused(&world, NOW)
}

#[test]
fn c10_a_bundle_of_everything_is_right_and_says_until_when() {
    let world = world();
    let judged = world.collateral.check(&world.roots, NOW);
    let good: Vec<_> = judged.iter().filter(|it| it.result.is_ok()).collect();
    assert_eq!(good.len(), judged.len(), "{judged:#?}");
    // List, ASK and VCEK; list, TCB info, identity, list, platform; two answers.
    assert_eq!(judged.len(), 3 + 5 + 2);
    let until = world.collateral.must_be_right(&world.roots, NOW).unwrap();
    assert_eq!(until, ocsp::DUE.minus(1), "the answers end first");
    assert_eq!(judged[8].vendor, "nvidia");
    let about: BTreeSet<&str> = judged[8..].iter().map(|it| it.item.as_str()).collect();
    let subjects = [
        "answer about Test device 1",
        "answer about Test provisioner",
    ];
    assert_eq!(about, BTreeSet::from(subjects));
    // The vendors' own roots know none of it.
    let production = world.collateral.check(&CollateralRoots::production(), NOW);
    assert!(
        production.iter().all(|it| it.result.is_err()),
        "{production:#?}"
    );
}

#[test]
fn c01_a_bundle_travels_signed_and_as_nothing_else() {
    let world = world();
    let key = release_key();
    let issue = Issue {
        number: 3,
        issued: NOW.minus(1),
        expires: NOW.plus(60),
    };
    let bytes = SignedDocument::sign(&world.collateral, issue, &key).unwrap();
    let public = key.public().unwrap();
    let open = |floor, now| SignedDocument::open::<Collateral>(&bytes, &public, floor, now);
    let opened = open(3, NOW).unwrap();
    assert_eq!(*opened.payload(), world.collateral);
    assert!(matches!(
        open(4, NOW).unwrap_err(),
        SignedError::RolledBack {
            kind: Kind::Collateral,
            ..
        }
    ));
    assert!(matches!(
        open(0, NOW.plus(60)).unwrap_err(),
        SignedError::Expired { .. }
    ));
    let other = SignedDocument::open::<GpuReferences>(&bytes, &public, 0, NOW).unwrap_err();
    let (found, expected) = (Kind::Collateral, Kind::GpuReference);
    assert_eq!(other, SignedError::WrongKind { found, expected });
    let stranger = release_key().public().unwrap();
    let judged = SignedDocument::open::<Collateral>(&bytes, &stranger, 0, NOW);
    assert!(matches!(judged.unwrap_err(), SignedError::WrongKey { .. }));
}

#[test]
fn c02_lists_are_in_order_and_nothing_is_there_twice() {
    let form = |change: fn(&mut Collateral)| {
        let mut collateral = world().collateral;
        change(&mut collateral);
        let written = collateral.to_payload().unwrap_err();
        // What cannot be written is not read either.
        let text = serde_json::to_vec(&collateral).unwrap();
        assert_eq!(Collateral::from_payload(&text).unwrap_err(), written);
        written.to_string()
    };
    let twice =
        |what: &str| format!("document breaks a rule of its form: {what} are in order, none twice");
    let two = |it: &mut Collateral| it.amd.push(it.amd[0].clone());
    assert_eq!(form(two), twice("products"));
    let two = |it: &mut Collateral| {
        let again = it.amd[0].endorsements[0].clone();
        it.amd[0].endorsements.push(again);
    };
    assert_eq!(form(two), twice("endorsement certificates"));
    assert_eq!(
        form(|it| it.intel.tcb.push(it.intel.tcb[0].clone())),
        twice("TCB infos")
    );
    assert_eq!(
        form(|it| it.intel.pck_lists.push(it.intel.pck_lists[0].clone())),
        twice("lists of authorities")
    );
    assert_eq!(
        form(|it| it.intel.platforms.push(it.intel.platforms[0].clone())),
        twice("platforms")
    );
    assert_eq!(form(|it| it.nvidia.answers.reverse()), twice("answers"));
    assert_eq!(
        form(|it| it.nvidia.lists.push(list("580.1.2"))),
        twice("lists")
    );
    let values = |it: &mut Collateral| {
        let again = it.nvidia.lists[0].values[0].clone();
        it.nvidia.lists[0].values.push(again);
    };
    assert_eq!(form(values), twice("indices of a list"));
    assert!(form(|it| it.nvidia.lists[0].values.clear()).contains("has values"));
    assert!(form(|it| it.nvidia.lists[0].product = "a b".to_owned()).contains("names its product"));
    assert!(
        form(|it| it.nvidia.answers = vec![it.nvidia.answers[0].clone(); 2]).contains("answers")
    );
}

#[test]
fn c03_a_payload_is_read_strictly() {
    let text = String::from_utf8(world().collateral.to_payload().unwrap()).unwrap();
    let read = |text: &str| Collateral::from_payload(text.as_bytes());
    assert!(read(&text).is_ok());
    for (from, to) in [
        ("\"amd\":[", "\"amd\":[],\"amd\":["),
        ("\"nvidia\":{", "\"nvidia\":{\"more\":1,"),
        ("\"asvk\":null,", ""),
        ("\"chip\":", "\"rack\":"),
        ("\"fmspc\":\"", "\"fmspc\":\"A"),
    ] {
        assert!(text.contains(from), "{from}");
        assert!(read(&text.replacen(from, to, 1)).is_err(), "{from}");
    }
    assert!(read(&format!("{text} ")).is_err());
    assert!(read("{\"amd\":[],\"intel\":{},\"nvidia\":{}}").is_err());
}

#[test]
fn c11_amds_part_is_judged() {
    let filed = |change: fn(&mut Collateral), what| {
        assert_eq!(changed(change), CollateralError::Filed(what))
    };
    filed(
        |it| it.amd[0].endorsements[0].tcb.snp ^= 1,
        "firmware version",
    );
    filed(
        |it| {
            it.amd[0].endorsements[0].endorser =
                Endorser::Chip(casemate_attestation::ChipId::from_bytes([7; 64]))
        },
        "chip or provider",
    );
    assert_eq!(
        changed(|it| it.amd[0].ask = None),
        CollateralError::Lacks("ASK")
    );
    let provider = |it: &mut Collateral| {
        it.amd[0].endorsements[0].endorser = Endorser::Provider("x".to_owned())
    };
    assert_eq!(changed(provider), CollateralError::Lacks("ASVK"));
    assert_eq!(
        changed(|it| it.amd[0].product = Product::Milan),
        CollateralError::NoRoot
    );
    let crl = changed(|it| *it.amd[0].crl.0.last_mut().unwrap() ^= 1);
    assert_eq!(crl, CollateralError::Amd(SnpRejection::CrlSignature));
    assert_eq!(
        changed(|it| it.amd[0].crl.0.clear()),
        CollateralError::Amd(SnpRejection::CrlMissing)
    );
    let swapped = changed(|it| it.amd[0].ask = Some(it.amd[0].endorsements[0].certificate.clone()));
    assert!(matches!(swapped, CollateralError::Amd(_)), "{swapped}");
    let flipped = changed(|it| *it.amd[0].endorsements[0].certificate.0.last_mut().unwrap() ^= 1);
    assert!(matches!(
        flipped,
        CollateralError::Amd(SnpRejection::ChainSignature { .. })
    ));
    let chip = chip();
    let renamed = changed(|it| {
        it.amd[0].endorsements[0].certificate = Der(chip.issue_vek(&VekTemplate {
            common_name: "SEV-OTHER".to_owned(),
            ..chip.vek_template()
        }));
    });
    let name = SnpRejection::CertificateName {
        role: CertificateRole::Vek,
        found: "SEV-OTHER".to_owned(),
        expected: "SEV-VCEK".to_owned(),
    };
    assert_eq!(renamed, CollateralError::Amd(name));
}

#[test]
fn c11_a_providers_certificate_is_right_under_its_own_authority() {
    let (chip, issuer) = (chip(), "SEV-VLEK-Genoa".to_owned());
    let vlek = chip.issue_vek(&VekTemplate {
        common_name: "SEV-VLEK".to_owned(),
        issuer: issuer.clone(),
        hardware_id: None,
        csp_id: Some("CN=cloud".to_owned()),
        ..chip.vek_template()
    });
    let asvk = chip.issue_intermediate(&IntermediateTemplate {
        common_name: issuer,
        ..IntermediateTemplate::default()
    });
    let mut packer = Packer::new();
    for file in [vlek, asvk, chip.collateral().crl.clone()] {
        packer.add(&file).unwrap();
    }
    let mut collateral = packer.finish().unwrap();
    let mut roots = CollateralRoots::production();
    roots.amd = vec![PinnedRoot::private(Product::Genoa, chip.root_der())];
    let until = collateral.must_be_right(&roots, NOW).unwrap();
    assert_eq!(until, NOW.plus(366 * 86_400 - 1), "the list ends first");
    collateral.amd[0].endorsements[0].endorser = Endorser::Provider("CN=other".to_owned());
    let (_, filed) = collateral.must_be_right(&roots, NOW).unwrap_err();
    assert_eq!(filed, CollateralError::Filed("chip or provider"));
}

#[test]
fn c12_intels_part_is_judged() {
    let edited =
        changed(|it| it.intel.tcb[0].text = it.intel.tcb[0].text.replace("OutOfDate", "UpToDate "));
    assert!(
        matches!(
            edited,
            CollateralError::Intel(TdxRejection::DocumentSignature(_))
        ),
        "{edited}"
    );
    let edited = changed(|it| it.intel.qe_identity.as_mut().unwrap().signature.0[5] ^= 1);
    assert!(
        matches!(
            edited,
            CollateralError::Intel(TdxRejection::DocumentSignature(_))
        ),
        "{edited}"
    );
    assert_eq!(
        changed(|it| it.intel.tcb[0].fmspc[0] ^= 1),
        CollateralError::Filed("FMSPC")
    );
    assert_eq!(
        changed(|it| it.intel.root_crl = None),
        CollateralError::Lacks("revocation list of the root")
    );
    let root = changed(|it| it.intel.root_crl = Some(it.intel.pck_lists[0].crl.clone()));
    assert!(
        matches!(root, CollateralError::Intel(TdxRejection::CrlIssuer(_))),
        "{root}"
    );
    let other = |it: &mut Collateral| {
        it.intel.pck_lists[0].ca = match it.intel.pck_lists[0].ca {
            PckCa::Platform => PckCa::Processor,
            PckCa::Processor => PckCa::Platform,
        };
        it.intel.platforms.clear();
    };
    assert_eq!(changed(other), CollateralError::Filed("authority"));
    assert_eq!(
        changed(|it| it.intel.pck_lists.clear()),
        CollateralError::Lacks("authority's revocation list")
    );
    assert_eq!(
        changed(|it| it.intel.platforms[0].tcb[17] ^= 1),
        CollateralError::Filed("platform or firmware version")
    );
}

#[test]
fn c15_nvidias_part_is_judged() {
    let flipped = changed(|it| *it.nvidia.answers[0].answer.0.last_mut().unwrap() ^= 1);
    assert_eq!(flipped, CollateralError::Answer(OcspRejection::Signature));
    // Without a root at the end of the way nobody vouches for an answer.
    let mut alone = world();
    alone.roots.nvidia.clear();
    assert_eq!(refused(&alone, NOW), CollateralError::Lacks("issuer"));
    let mut broken = world();
    broken.collateral.nvidia.answers[0].certificate.0.clear();
    let judged = broken.collateral.must_be_right(&broken.roots, NOW);
    let (item, _) = judged.unwrap_err();
    assert_eq!(item, "answer about a malformed certificate");
    let swapped = changed(|it| {
        let answer = it.nvidia.answers[0].answer.clone();
        it.nvidia.answers[1].answer = answer;
    });
    assert_eq!(
        swapped,
        CollateralError::Answer(OcspRejection::OtherCertificate)
    );
}

#[test]
fn c16_what_is_out_of_date_is_called_so() {
    let world = world();
    for now in [ocsp::DUE, NOW.minus(40 * 86_400), NOW.plus(3650 * 86_400)] {
        let error = refused(&world, now);
        assert!(
            error.is_out_of_date() && !error.is_revoked(),
            "{now}: {error}"
        );
    }
}

#[test]
fn c40_files_are_known_by_what_they_are() {
    let unknown = |bytes: &[u8]| Packer::new().add(bytes).unwrap_err();
    for bytes in [&b""[..], b"hello", &[0x30, 3, 1, 1, 0], b"\x30\x82\xff\xff"] {
        assert_eq!(unknown(bytes), PackError::Unknown);
    }
    assert!(matches!(unknown(b"{}"), PackError::Malformed { .. }));
    assert!(matches!(
        unknown(b"-----BEGIN X-----"),
        PackError::Malformed { .. }
    ));
    assert_eq!(unknown(&vec![0; 600_000]), PackError::TooMuch);
    assert_eq!(Packer::new().finish().unwrap_err(), PackError::Nothing);
    let mut alone = Packer::new();
    alone.add(&chip().collateral().vek).unwrap();
    assert_eq!(
        alone.finish().unwrap_err(),
        PackError::NoList(Product::Genoa)
    );
}

#[test]
fn c40_a_hardware_id_is_as_long_as_its_products() {
    let chip = chip();
    let add = |product: &str, length| {
        let mut template = chip.vek_template();
        template.hardware_id = Some(vec![7; length]);
        if product == "Turin" {
            (template.product_name, template.structure) = (product.to_owned(), 1);
            template.components.push((9, 0));
        }
        Packer::new().add(&chip.issue_vek(&template))
    };
    let malformed = PackError::Malformed {
        what: "certificate of AMD",
        reason: SnpRejection::ChipIdMismatch.to_string(),
    };
    for (product, length) in [("Genoa", 64), ("Turin", 8)] {
        assert!(add(product, length).is_ok(), "{product}");
        for wrong in [0, length - 1, length + 1] {
            assert_eq!(add(product, wrong), Err(malformed.clone()), "{product}");
        }
    }
}

#[test]
fn c41_two_that_differ_are_not_chosen_from() {
    let (one, other) = (chip(), common::tdx::Platform::new());
    let mut packer = Packer::new();
    // ECDSA draws a number for each signature, so that the same is said in other bytes each time.
    let json = other.collateral().to_json().unwrap();
    packer.add(&json).unwrap();
    packer.add(&json).unwrap();
    let again = other.collateral().to_json().unwrap();
    let second = packer.add(&again).unwrap_err();
    assert!(matches!(second, PackError::Two(_)), "{second}");
    packer.add(&one.collateral().crl).unwrap();
    packer.add(&one.collateral().crl).unwrap();
}

#[test]
fn c42_answers_and_chains_belong_together() {
    let world = world();
    let chain = world.device.chain.clone().unwrap();
    let missing = |given: usize| {
        let mut packer = Packer::new();
        packer.add(&chain).unwrap();
        let answer = &world.collateral.nvidia.answers[given].answer.0;
        packer.add(answer).unwrap();
        match packer.finish().unwrap_err() {
            PackError::NoAnswer(subject) => subject,
            other => panic!("{other}"),
        }
    };
    let mut both = [missing(0), missing(1)];
    both.sort();
    assert_eq!(both, ["Test device 1", "Test provisioner"]);
    let answer = &world.collateral.nvidia.answers[0].answer.0;
    let mut packer = Packer::new();
    packer.add(answer).unwrap();
    assert_eq!(packer.finish().unwrap_err(), PackError::AnswerOfNobody);
}

#[test]
fn lists_of_gpus_are_added_once_and_in_order() {
    let mut all = GpuReferences::default();
    assert!(all.add(list("580.1.2")) && all.add(list("550.1")) && !all.add(list("580.1.2")));
    let bytes = all.to_payload().unwrap();
    assert_eq!(GpuReferences::from_payload(&bytes).unwrap(), all);
    assert_eq!(all.lists[0].version, "550.1");
    assert!(all.lists[0].reference().is_ok());
    all.lists.reverse();
    assert!(all.to_payload().is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_read_is_written_and_a_changed_byte_is_refused_or_judged(place in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let world = world();
        let mut text = world.collateral.to_payload().unwrap();
        let place = place.index(text.len());
        prop_assume!(text[place] != byte);
        text[place] = byte;
        if let Ok(read) = Collateral::from_payload(&text) {
            let again = read.to_payload().unwrap();
            prop_assert_eq!(Collateral::from_payload(&again).unwrap(), read.clone());
            // What was read differently is not right, unless nobody signed the change: a list's own words, text between PEM blocks.
            let same_signed = read.amd == world.collateral.amd && read.intel == world.collateral.intel
                && read.nvidia.answers == world.collateral.nvidia.answers;
            let chains_only = read.amd == world.collateral.amd && read.nvidia == world.collateral.nvidia;
            prop_assert!(same_signed || chains_only || read.must_be_right(&world.roots, NOW).is_err());
        }
    }

    #[test]
    fn any_file_is_taken_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        prop_assert!(Packer::new().add(&bytes).is_err());
        let _ = Der(bytes);
    }
}
