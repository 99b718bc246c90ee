//! Certificates and revocation lists that are signed by the right authority and of the wrong form (rules S4 to S10).

use super::common::der::{Der, extension};
use super::*;

/// Positions inside the signed part of a certificate.
const VERSION: [usize; 2] = [0, 0];
const ALGORITHM: usize = 2;
const SUBJECT: usize = 5;
const KEY_ALGORITHM: [usize; 2] = [6, 0];
const EXTENSIONS: [usize; 2] = [7, 0];

const SHA_256: [u8; 9] = [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];
const SHA_384_WITH_RSA: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0c];
const P_256: [u8; 8] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const EC_DH: [u8; 5] = [0x2b, 0x81, 0x04, 0x01, 0x0c];
const RSA_PSS_KEY: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a];
/// An identifier below AMD's that nobody uses, and one of X.509 that nobody understands.
const OF_NOBODY: [u8; 3] = [0x55, 0x1d, 0x63];
const BASIC_CONSTRAINTS: [u8; 3] = [0x55, 0x1d, 0x13];

/// Changes the signed part and the algorithm beside it, and signs again.
fn altered(
    chip: &TestChip,
    signer: Authority,
    der: &[u8],
    change: impl FnOnce(&mut Der, &mut Der),
) -> Vec<u8> {
    let mut whole = Der::read(der);
    assert_eq!(whole.write(), der);
    let [inner, algorithm, _] = whole.parts.as_mut_slice() else {
        panic!("three parts");
    };
    change(inner, algorithm);
    chip.sign_der(signer, &inner.write(), &algorithm.write())
}

fn altered_vek(change: impl FnOnce(&mut Der, &mut Der)) -> SnpRejection {
    evidence(|chip, evidence| {
        evidence.vek = altered(chip, Authority::Intermediate, &evidence.vek, change);
    })
}

fn altered_intermediate(change: impl FnOnce(&mut Der, &mut Der)) -> SnpRejection {
    evidence(|chip, evidence| {
        evidence.intermediate = altered(chip, Authority::Root, &evidence.intermediate, change);
    })
}

fn altered_crl(revoked: &[u32], change: impl FnOnce(&mut Der, &mut Der)) -> SnpRejection {
    evidence(|chip, evidence| {
        let list = chip.issue_crl(&CrlTemplate {
            revoked: revoked.to_vec(),
            ..CrlTemplate::issued_at(NOW)
        });
        evidence.crl = altered(chip, Authority::Root, &list, change);
    })
}

fn vek_malformed(what: &'static str) -> SnpRejection {
    SnpRejection::CertificateMalformed {
        role: Role::Vek,
        what,
    }
}

#[test]
fn s5_what_is_signed_again_unchanged_is_accepted() {
    let chip = chip();
    let mut evidence = chip.evidence_for(&chip.template());
    evidence.vek = altered(&chip, Authority::Intermediate, &evidence.vek, |_, _| ());
    evidence.intermediate = altered(&chip, Authority::Root, &evidence.intermediate, |_, _| ());
    evidence.crl = altered(&chip, Authority::Root, &evidence.crl, |_, _| ());
    assert!(judge(&chip, &evidence).is_ok());
}

#[test]
fn s5_form_of_certificates() {
    let refused = altered_vek(|inner, _| inner.at(&VERSION).bytes = vec![1]);
    assert_eq!(refused, vek_malformed("not of version 3"));
    let refused = altered_vek(|_, outer| outer.at(&[1, 2, 0]).bytes = vec![32]);
    assert_eq!(refused, vek_malformed("names two signature algorithms"));
    let refused = altered_vek(|inner, _| {
        let twin = inner.at(&EXTENSIONS).parts[0].clone();
        inner.at(&EXTENSIONS).parts.push(twin);
    });
    assert_eq!(refused, vek_malformed("an extension occurs twice"));
    let more = |critical| {
        move |inner: &mut Der, _: &mut Der| {
            let unknown = extension(&OF_NOBODY, critical, &[5, 0]);
            inner.at(&EXTENSIONS).parts.push(unknown);
        }
    };
    let what = "has a critical extension that is not understood";
    assert_eq!(altered_vek(more(true)), vek_malformed(what));
    let chip = chip();
    let mut tolerated = chip.evidence_for(&chip.template());
    tolerated.vek = altered(&chip, Authority::Intermediate, &tolerated.vek, more(false));
    assert!(judge(&chip, &tolerated).is_ok());
    let refused = altered_vek(|inner, _| {
        let name = inner.parts[SUBJECT].parts[1].clone();
        inner.parts[SUBJECT].parts.push(name);
    });
    assert_eq!(refused, vek_malformed("has no single common name"));
}

#[test]
fn b04_signature_of_another_algorithm_or_with_bits_cut_off_does_not_chain() {
    type Change = fn(&mut Der);
    let changes: [(&str, Change); 6] = [
        ("hash", |algorithm| {
            algorithm.at(&[1, 0, 0, 0]).bytes = SHA_256.to_vec();
        }),
        ("mask function", |algorithm| {
            algorithm.at(&[1, 1, 0, 0]).bytes = OF_NOBODY.to_vec();
        }),
        ("mask hash", |algorithm| {
            algorithm.at(&[1, 1, 0, 1, 0]).bytes = SHA_256.to_vec();
        }),
        ("salt", |algorithm| {
            algorithm.at(&[1, 2, 0]).bytes = vec![32];
        }),
        ("trailer", |algorithm| {
            let mut trailer = algorithm.at(&[1, 2]).clone();
            (trailer.tag, trailer.parts[0].bytes) = (0xa3, vec![2]);
            algorithm.at(&[1]).parts.push(trailer);
        }),
        ("PKCS 1", |algorithm| {
            algorithm.parts = vec![
                Der::primitive(0x06, &SHA_384_WITH_RSA),
                Der::primitive(0x05, &[]),
            ];
        }),
    ];
    for (what, change) in changes {
        let refused = altered_vek(|inner, outer| {
            change(&mut inner.parts[ALGORITHM]);
            change(outer);
        });
        let role = Role::Vek;
        assert_eq!(refused, SnpRejection::ChainSignature { role }, "{what}");
    }
    let refused = altered_intermediate(|inner, _| {
        inner.at(&KEY_ALGORITHM).parts[0].bytes = RSA_PSS_KEY.to_vec();
    });
    let role = Role::Vek;
    assert_eq!(
        refused,
        SnpRejection::ChainSignature { role },
        "kind of key"
    );
    // The bits that are said to be unused lie outside what is signed.
    let chip = chip();
    let shortened = even(&chip, |days| {
        chip.issue_vek(&VekTemplate {
            not_after: VALID_UNTIL.minus(days * 86_400),
            ..chip.vek_template()
        })
    });
    let refused = evidence(|_, evidence| evidence.vek = shortened);
    assert_eq!(refused, SnpRejection::ChainSignature { role });
}

/// A certificate or list whose signature ends in an even byte, with its last bit declared unused.
fn even(chip: &TestChip, issue: impl Fn(u64) -> Vec<u8>) -> Vec<u8> {
    let mut whole = (0..)
        .map(|number| Der::read(&issue(number)))
        .find(|whole| whole.parts[2].bytes.last().unwrap() % 2 == 0)
        .unwrap();
    assert!(!chip.root_der().is_empty());
    whole.parts[2].bytes[0] = 1;
    whole.write()
}

#[test]
fn s5_authority_must_be_allowed_to_sign_certificates() {
    let refused = altered_intermediate(|inner, _| {
        // Only lists: bit 6 of the key usage.
        inner.at(&EXTENSIONS).parts[1].parts[2].bytes = vec![0x03, 0x02, 0x01, 0x02];
    });
    let role = Role::Intermediate;
    assert_eq!(refused, SnpRejection::NotAuthority { role });
    // Two answers to whether a leaf is an authority are none.
    let refused = altered_vek(|inner, _| {
        let no = extension(&BASIC_CONSTRAINTS, false, &[0x30, 0x00]);
        inner.at(&EXTENSIONS).parts.extend([no.clone(), no]);
    });
    assert_eq!(refused, vek_malformed("an extension occurs twice"));
}

/// A certificate or list that is grown to this many bytes by an extension that nobody must understand.
fn grown(chip: &TestChip, signer: Authority, der: &[u8], path: &[usize], length: usize) -> Vec<u8> {
    let with = |size: usize| {
        altered(chip, signer, der, |inner, _| {
            let unknown = extension(&OF_NOBODY, false, &vec![0; size]);
            inner.at(path).parts.push(unknown);
        })
    };
    let grown = with(4096 + length - with(4096).len());
    assert_eq!(grown.len(), length);
    grown
}

#[test]
fn s5_s10_certificates_and_lists_are_exactly_as_long_as_they_may_be() {
    let vek = |chip: &TestChip, length| {
        let der = &chip.collateral().vek;
        grown(chip, Authority::Intermediate, der, &EXTENSIONS, length)
    };
    let list = |chip: &TestChip, length| {
        let der = &chip.collateral().crl;
        grown(chip, Authority::Root, der, &[5, 0], length)
    };
    let long = evidence(|chip, evidence| evidence.vek = vek(chip, 8193));
    assert_eq!(long, vek_malformed("longer than 8192 bytes"));
    let long = evidence(|chip, evidence| evidence.crl = list(chip, 32_769));
    assert_eq!(long, SnpRejection::CrlMalformed("longer than 32768 bytes"));
    let chip = chip();
    let mut longest = chip.evidence_for(&chip.template());
    longest.vek = vek(&chip, 8192);
    assert!(judge(&chip, &longest).is_ok());
    longest.crl = list(&chip, 32_768);
    assert!(judge(&chip, &longest).is_ok());
}

#[test]
fn s3_key_must_say_that_it_is_on_p384() {
    for (position, id) in [(0, &EC_DH[..]), (1, &P_256[..])] {
        let refused =
            altered_vek(|inner, _| inner.at(&KEY_ALGORITHM).parts[position].bytes = id.to_vec());
        assert_eq!(refused, vek_malformed("has no P-384 key"));
    }
}

#[test]
fn b05_product_is_read_strictly() {
    for name in ["Rome-B0", "Genoax", "genoa", ""] {
        let refused = vek(|template| template.product_name = name.to_owned());
        assert_eq!(refused, vek_malformed("names an unknown product"), "{name}");
    }
    let missing = vek_malformed("has no product name");
    // As another kind of text, and with a length that is not its own.
    let refused = altered_vek(|inner, _| {
        inner.at(&EXTENSIONS).parts[1].parts[1].bytes[0] = 0x0c;
    });
    assert_eq!(refused, missing);
    let refused = altered_vek(|inner, _| {
        inner.at(&EXTENSIONS).parts[1].parts[1].bytes[1] = 4;
    });
    assert_eq!(refused, missing);
    let refused = altered_vek(|inner, _| drop(inner.at(&EXTENSIONS).parts.remove(1)));
    assert_eq!(refused, missing);
}

#[test]
fn b09_firmware_in_the_certificate_is_read_strictly() {
    assert_eq!(
        vek(|template| template.structure = 1),
        vek_malformed("has an unknown structure version")
    );
    for arc in 4..=7 {
        let what = "has a version for a component that its product lacks";
        let refused = vek(|template| template.components.push((arc, 1)));
        assert_eq!(refused, vek_malformed(what), "arc {arc}");
    }
    // The right number with a zero before it.
    let refused = altered_vek(|inner, _| {
        let value = &mut inner.at(&EXTENSIONS).parts[2].parts[1].bytes;
        assert_eq!(value[..], [0x02, 0x01, TCB.boot_loader]);
        *value = vec![0x02, 0x02, 0x00, TCB.boot_loader];
    });
    assert_eq!(refused, SnpRejection::TcbExtensionMissing("boot loader"));
}

#[test]
fn b11_provider_key_must_name_its_provider_and_policy_allow_it() {
    let csp_id = "CN=cloud".to_owned();
    for allowed in ["CN=other", ""] {
        let judged = provider(|_| (), |policy| policy.allowing_vlek_of(allowed));
        let csp_id = csp_id.clone();
        assert_eq!(judged.unwrap_err(), SnpRejection::VlekNotAllowed { csp_id });
    }
    let judged = provider(|_| (), |policy| policy);
    assert_eq!(judged.unwrap_err(), SnpRejection::VlekNotAllowed { csp_id });
    let refused = provider_with(|template| template.csp_id = None);
    assert_eq!(refused, vek_malformed("has no CSP id"));
    let refused = provider_with(|template| template.hardware_id = Some(vec![0; 64]));
    assert_eq!(refused, SnpRejection::VlekNamesChip);
}

#[test]
fn s4_a_verdict_says_who_endorses() {
    let said = |judged: Judged| {
        let verdict = judged.unwrap();
        let mut lines = verdict.checks().iter();
        lines.find(|line| line.id == "S4").unwrap().text.clone()
    };
    assert_eq!(
        said(under(|policy| policy)),
        "endorsed by the chip's own key (VCEK)"
    );
    let allowed = provider(|_| (), |policy| policy.allowing_vlek_of("CN=cloud"));
    assert_eq!(
        said(allowed),
        "endorsed by the provider CN=cloud (VLEK), which policy allows"
    );
}

fn provider_with(change: impl FnOnce(&mut VekTemplate)) -> SnpRejection {
    let chip = chip();
    let mut report = chip.template();
    (report.flags, report.chip_id) = (1 << 2, ChipId::from_bytes([0; 64]));
    let mut evidence = chip.evidence_for(&report);
    let mut template = VekTemplate {
        common_name: "SEV-VLEK".to_owned(),
        issuer: "SEV-VLEK-Genoa".to_owned(),
        hardware_id: None,
        csp_id: Some("CN=cloud".to_owned()),
        ..chip.vek_template()
    };
    change(&mut template);
    evidence.vek = chip.issue_vek(&template);
    evidence.intermediate = chip.issue_intermediate(&IntermediateTemplate {
        common_name: template.issuer,
        ..IntermediateTemplate::default()
    });
    let policy = policy(&chip).allowing_vlek_of("CN=cloud");
    verify_snp_report(&evidence, &REPORT_DATA, &policy, &roots(&chip), NOW).unwrap_err()
}

#[test]
fn s10_form_of_revocation_lists() {
    let long = evidence(|_, evidence| evidence.crl = vec![0x30; 32 * 1024 + 1]);
    assert_eq!(long, SnpRejection::CrlMalformed("longer than 32768 bytes"));
    let behind = evidence(|_, evidence| evidence.crl.push(0));
    assert_eq!(behind, SnpRejection::CrlMalformed("bytes after its end"));
    assert_eq!(
        altered_crl(&[], |_, outer| outer.at(&[1, 2, 0]).bytes = vec![32]),
        SnpRejection::CrlMalformed("names two signature algorithms")
    );
    let refused = altered_crl(&[], |inner, _| drop(inner.parts.remove(4)));
    assert_eq!(
        refused,
        SnpRejection::CrlMalformed("does not say when the next one is due")
    );
    let critical = SnpRejection::CrlMalformed("has a critical extension that is not understood");
    let more = |critical| {
        move |inner: &mut Der, _: &mut Der| {
            let unknown = extension(&OF_NOBODY, critical, &[5, 0]);
            inner.at(&[5, 0]).parts.push(unknown);
        }
    };
    assert_eq!(altered_crl(&[], more(true)), critical);
    let tolerating = chip();
    let mut tolerated = tolerating.evidence_for(&tolerating.template());
    tolerated.crl = altered(&tolerating, Authority::Root, &tolerated.crl, more(false));
    assert!(judge(&tolerating, &tolerated).is_ok());
    // An entry that could be of another issuer.
    let refused = altered_crl(&[7], |inner, _| {
        let unknown = Der::sequence(vec![extension(&OF_NOBODY, true, &[5, 0])]);
        inner.at(&[5, 0]).parts.push(unknown);
    });
    assert_eq!(refused, critical);
    let chip = chip();
    let shortened = even(&chip, |number| {
        chip.issue_crl(&CrlTemplate {
            next_update: NOW.plus(86_400 + number),
            ..CrlTemplate::issued_at(NOW)
        })
    });
    assert_eq!(
        evidence(|_, evidence| evidence.crl = shortened),
        SnpRejection::CrlSignature
    );
}

#[test]
fn b18_a_list_that_is_there_must_be_right_even_where_a_missing_one_is_tolerated() {
    let chip = chip();
    let tolerant = policy(&chip).with_crl(casemate_attestation::snp::CrlPolicy::MissingIsShown);
    let mut evidence = chip.evidence_for(&chip.template());
    evidence.crl = chip.issue_crl(&CrlTemplate {
        next_update: NOW,
        ..CrlTemplate::issued_at(NOW)
    });
    let judged = verify_snp_report(&evidence, &REPORT_DATA, &tolerant, &roots(&chip), NOW);
    let (due, now) = (NOW, NOW);
    assert_eq!(judged.unwrap_err(), SnpRejection::CrlStale { due, now });
}
