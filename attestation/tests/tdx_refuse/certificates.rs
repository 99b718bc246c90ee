//! Chains and revocation lists that are signed by the right key and wrong all the same (rules T2, T3, and T6's signers).

use casemate_attestation::tdx::{TdxCertificate as Place, TdxCrl, TdxRejection as R};

use super::common::der::{Der, extension};
use super::*;

/// An identifier of X.509 that nobody understands.
const OF_NOBODY: [u8; 3] = [0x55, 0x1d, 0x63];
const CONSTRAINTS: usize = 0;
const USAGE: usize = 1;

/// Who issues the certificate of a place.
pub fn alter(platform: &mut Platform, place: Place, change: impl FnOnce(&mut Der, &mut Der)) {
    let (issuer, der) = match place {
        Place::Pck => (&platform.authority, &mut platform.pck_der),
        Place::PckAuthority => (&platform.root, &mut platform.authority_der),
        Place::TcbInfoSigner => (&platform.root, &mut platform.info_signer_der),
        Place::QeIdentitySigner => (&platform.root, &mut platform.qe_signer_der),
        Place::Root => (&platform.root, &mut platform.root_der),
    };
    *der = altered(&issuer.key, der, change);
}

fn with(place: Place, change: impl FnOnce(&mut Der, &mut Der)) -> R {
    refusal(|platform| alter(platform, place, change))
}

const EVERY: [Place; 5] = [
    Place::Root,
    Place::PckAuthority,
    Place::Pck,
    Place::TcbInfoSigner,
    Place::QeIdentitySigner,
];
const LEAVES: [Place; 3] = [Place::Pck, Place::TcbInfoSigner, Place::QeIdentitySigner];

fn rule(place: Place) -> &'static str {
    match place {
        Place::TcbInfoSigner | Place::QeIdentitySigner => "T6",
        _ => "T2",
    }
}

#[test]
fn t2_what_is_signed_again_unchanged_is_accepted() {
    for place in EVERY {
        assert!(after(|platform| alter(platform, place, |_, _| ())).is_ok());
    }
}

#[test]
fn t2_form_of_certificates() {
    type Change = fn(&mut Der, &mut Der);
    let changes: [(&str, Change); 6] = [
        ("not of version 3", |inner, _| {
            inner.at(&VERSION).bytes = vec![1];
        }),
        ("names two signature algorithms", |_, outer| {
            outer.parts.push(Der::primitive(5, &[]));
        }),
        ("an extension occurs twice", |inner, _| {
            let twin = inner.at(&EXTENSIONS).parts[0].clone();
            inner.at(&EXTENSIONS).parts.push(twin);
        }),
        (
            "has a critical extension that is not understood",
            |inner, _| {
                let unknown = extension(&OF_NOBODY, true, &[5, 0]);
                inner.at(&EXTENSIONS).parts.push(unknown);
            },
        ),
        ("has no uncompressed P-256 key", |inner, _| {
            inner.at(&CURVE).bytes = vec![0x2b, 0x81, 0x04, 0x00, 0x22];
        }),
        ("longer than 4096 bytes", |inner, _| {
            let long = extension(&OF_NOBODY, false, &[0; 4096]);
            inner.at(&EXTENSIONS).parts.push(long);
        }),
    ];
    for place in EVERY {
        for (what, change) in changes {
            let refused = with(place, change);
            let certificate = place;
            assert_eq!(refused, R::CertificateMalformed { certificate, what });
            assert_eq!(refused.rule(), rule(place));
        }
    }
    let refused = refusal(|platform| platform.pck_der.push(0));
    let (certificate, what) = (Place::Pck, "bytes after its end");
    assert_eq!(refused, R::CertificateMalformed { certificate, what });
    let refused = refusal(|platform| platform.pck_der.truncate(100));
    let what = "not a certificate in DER";
    assert_eq!(refused, R::CertificateMalformed { certificate, what });
    // An extension that is not critical may say what it likes.
    let more = |inner: &mut Der, _: &mut Der| {
        let unknown = extension(&OF_NOBODY, false, &[5, 0]);
        inner.at(&EXTENSIONS).parts.push(unknown);
    };
    assert!(after(|platform| alter(platform, Place::Pck, more)).is_ok());
}

#[test]
fn t2_keys_are_uncompressed_points_of_p256_in_every_part() {
    type Change = fn(&mut Der, &mut Der);
    let changes: [Change; 4] = [
        // The algorithm alone is another one: 1.2.840.10045.2.2 instead of 2.1.
        |inner, _| inner.at(&[6, 0, 0]).bytes[6] = 2,
        |inner, _| inner.at(&[6, 1]).bytes.truncate(65),
        |inner, _| inner.at(&[6, 1]).bytes.push(0),
        |inner, _| inner.at(&[6, 1]).bytes[1] = 2,
    ];
    for change in changes {
        let refused = with(Place::Pck, change);
        let (certificate, what) = (Place::Pck, "has no uncompressed P-256 key");
        assert_eq!(refused, R::CertificateMalformed { certificate, what });
    }
}

#[test]
fn b25_a_certificate_may_have_4096_bytes() {
    let judged = after(|platform| {
        let padded = |length: usize| {
            altered(&platform.authority.key, &platform.pck_der, |inner, _| {
                let padding = extension(&OF_NOBODY, false, &vec![0x30; length]);
                inner.at(&EXTENSIONS).parts.push(padding);
            })
        };
        let length = 2_000 + 4_096 - padded(2_000).len();
        let mut certificates = std::iter::repeat_with(|| padded(length));
        platform.pck_der = certificates.find(|der| der.len() == 4_096).unwrap();
    });
    judged.unwrap();
}

#[test]
fn t2_chains_have_their_certificates_and_perhaps_a_root_that_nobody_reads() {
    let chain = |certificates: fn(&Platform) -> String| {
        let platform = Platform::new();
        let mut collateral = platform.collateral_json();
        collateral["tcb_info_issuer_chain"] = certificates(&platform).into();
        documents::judge(&platform, &collateral)
    };
    assert!(chain(|platform| pem(&[&platform.info_signer_der])).is_ok());
    assert!(chain(|platform| pem(&[&platform.info_signer_der, b"not a root"])).is_ok());
    let leaf = Place::TcbInfoSigner;
    let what = "has too few certificates";
    assert_eq!(
        chain(|_| String::new()).unwrap_err(),
        R::ChainMalformed { leaf, what }
    );
    let what = "has too many certificates";
    assert_eq!(
        chain(|platform| platform.pck_chain()).unwrap_err(),
        R::ChainMalformed { leaf, what }
    );
    let what = "has text outside of its certificates";
    assert_eq!(
        chain(|_| "hello".to_owned()).unwrap_err(),
        R::ChainMalformed { leaf, what }
    );
}

#[test]
fn t2_a_chain_that_collateral_repeats_is_the_quotes() {
    let platform = Platform::new();
    let mut collateral = platform.collateral_json();
    collateral["pck_certificate_chain"] = platform.pck_chain().into();
    assert!(documents::judge(&platform, &collateral).is_ok());
    collateral["pck_certificate_chain"] = Platform::new().pck_chain().into();
    let refused = documents::judge(&platform, &collateral).unwrap_err();
    assert_eq!((refused.rule(), refused), ("T2", R::PckChainsDiffer));
}

#[test]
fn t2_names_chain() {
    for certificate in EVERY.into_iter().skip(1) {
        let refused = with(certificate, |inner, _| {
            inner.at(&[3, 0, 0, 1]).bytes = b"Intel SGX Root CB".to_vec();
        });
        assert_eq!(refused, R::ChainName { certificate });
        assert_eq!(refused.rule(), rule(certificate));
    }
}

#[test]
fn t2_certificates_are_named_as_intel_names_them() {
    for place in [Place::TcbInfoSigner, Place::QeIdentitySigner, Place::Pck] {
        let refused = with(place, |inner, _| {
            inner.at(&SUBJECT_NAME).bytes = b"Intel SGX PCK Processor CA".to_vec();
        });
        let found = "Intel SGX PCK Processor CA".to_owned();
        let certificate = place;
        assert_eq!(refused, R::CertificateName { certificate, found });
        let refused = with(place, |inner, _| {
            let twin = inner.parts[5].parts[0].clone();
            inner.parts[5].parts.push(twin);
        });
        assert!(matches!(refused, R::CertificateName { .. }));
    }
    // A Processor CA is an authority as good as a Platform CA, and no other name is.
    let under = |name: &'static str| {
        after(|platform| {
            platform.authority.name = name;
            let (root, authority) = (&platform.root, &platform.authority);
            platform.authority_der = certificate(root, authority, Rank::Authority(0), Vec::new());
            platform.pck_crl = crl(authority, &[]);
            platform.describe(|_| ());
        })
    };
    assert!(under("Intel SGX PCK Processor CA").is_ok());
    let (certificate, found) = (Place::PckAuthority, "Intel SGX TCB Signing".to_owned());
    assert_eq!(
        under("Intel SGX TCB Signing").unwrap_err(),
        R::CertificateName { certificate, found }
    );
}

#[test]
fn t2_only_authorities_sign_certificates() {
    let limits: [fn(&mut Der, &mut Der); 5] = [
        // Not an authority; no right to sign certificates, or lists, or either; no constraints at all.
        |inner, _| {
            let list = inner.at(&EXTENSIONS);
            list.parts[CONSTRAINTS].parts[2].bytes = vec![0x30, 0];
        },
        |inner, _| {
            let list = inner.at(&EXTENSIONS);
            list.parts[USAGE].parts[2].bytes = vec![3, 2, 6, 0xc0];
        },
        |inner, _| {
            let list = inner.at(&EXTENSIONS);
            list.parts[USAGE].parts[2].bytes = vec![3, 2, 1, 0x02];
        },
        |inner, _| {
            let list = inner.at(&EXTENSIONS);
            list.parts[USAGE].parts[2].bytes = vec![3, 2, 2, 0x04];
        },
        |inner, _| {
            inner.at(&EXTENSIONS).parts.remove(CONSTRAINTS);
        },
    ];
    for place in [Place::PckAuthority, Place::Root] {
        for change in limits {
            let certificate = place;
            assert_eq!(with(place, change), R::NotAuthority { certificate });
        }
    }
    // The root's path has room for one authority; with none, a PCK authority below it is one too many.
    let refused = with(Place::Root, |inner, _| {
        let list = inner.at(&EXTENSIONS);
        list.parts[CONSTRAINTS].parts[2].bytes = vec![0x30, 6, 1, 1, 0xff, 2, 1, 0];
    });
    let certificate = Place::Root;
    assert_eq!(refused, R::NotAuthority { certificate });
}

#[test]
fn t2_leaves_are_no_authorities_and_sign() {
    for certificate in LEAVES {
        let refused = with(certificate, |inner, _| {
            let list = inner.at(&EXTENSIONS);
            list.parts[CONSTRAINTS].parts[2].bytes = vec![0x30, 3, 1, 1, 0xff];
        });
        assert_eq!(refused, R::LeafIsAuthority { certificate });
        let refused = with(certificate, |inner, _| {
            inner.at(&EXTENSIONS).parts.remove(CONSTRAINTS);
        });
        assert_eq!(refused, R::LeafIsAuthority { certificate });
        for usage in [[3, 2, 5, 0x20], [3, 2, 2, 0xc4]] {
            let refused = with(certificate, |inner, _| {
                let list = inner.at(&EXTENSIONS);
                list.parts[USAGE].parts[2].bytes = usage.to_vec();
            });
            assert_eq!(refused, R::KeyUsage { certificate });
        }
    }
}

#[test]
fn t2_every_link_is_signed_by_the_one_above() {
    for certificate in [
        Place::Pck,
        Place::PckAuthority,
        Place::TcbInfoSigner,
        Place::QeIdentitySigner,
    ] {
        let refused = refusal(|platform| {
            let der = match certificate {
                Place::Pck => &mut platform.pck_der,
                Place::PckAuthority => &mut platform.authority_der,
                Place::TcbInfoSigner => &mut platform.info_signer_der,
                _ => &mut platform.qe_signer_der,
            };
            // Signed by another key of the same name.
            *der = altered(&Key::generate(), der, |_, _| ());
        });
        assert_eq!(refused, R::ChainSignature { certificate });
        assert_eq!(refused.rule(), rule(certificate));
    }
    // Bits cut off, and another algorithm.
    let refused = refusal(|platform| {
        let mut whole = Der::read(&platform.pck_der);
        whole.parts[2].bytes[0] = 1;
        platform.pck_der = whole.write();
    });
    assert!(matches!(refused.rule(), "T2"), "{refused}");
    let refused = with(Place::Pck, |inner, outer| {
        let sha384 = vec![0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];
        inner.parts[2].parts[0].bytes = sha384.clone();
        outer.parts[0].bytes = sha384;
    });
    let certificate = Place::Pck;
    assert_eq!(refused, R::ChainSignature { certificate });
}

#[test]
fn t2_certificates_are_valid_in_their_first_and_last_second_and_not_outside() {
    let at = |place: Place, from: &str, until: &str| {
        after(|platform| {
            alter(platform, place, |inner, _| {
                inner.at(&NOT_BEFORE).bytes = from.as_bytes().to_vec();
                inner.at(&NOT_AFTER).bytes = until.as_bytes().to_vec();
            });
        })
    };
    let (now, before, behind) = ("260301000000Z", "260228235959Z", "260301000001Z");
    for certificate in EVERY {
        assert!(at(certificate, now, now).is_ok(), "{certificate}");
        let refused = at(certificate, behind, CERTIFICATE_UNTIL.0).unwrap_err();
        let from = NOW.plus(1);
        let now = NOW;
        assert_eq!(
            refused,
            R::CertificateNotYetValid {
                certificate,
                from,
                now
            }
        );
        let refused = at(certificate, CERTIFICATE_FROM.0, before).unwrap_err();
        let until = NOW.minus(1);
        assert_eq!(
            refused,
            R::CertificateExpired {
                certificate,
                until,
                now
            }
        );
        assert_eq!(refused.rule(), rule(certificate));
    }
}

#[test]
fn t2_the_platform_is_described_once_and_whole() {
    let described = |change: fn(&mut Der)| refusal(|platform| platform.describe(change));
    let said = |what: &'static str| R::PckExtension(what);
    type Change = fn(&mut Der);
    let cases: [(Change, &str); 14] = [
        (|sgx| drop(sgx.parts.remove(0)), "the PPID is missing"),
        (
            |sgx| drop(sgx.parts.remove(1)),
            "the firmware versions are missing",
        ),
        (|sgx| drop(sgx.parts.remove(2)), "the PCE id is missing"),
        (|sgx| drop(sgx.parts.remove(3)), "the FMSPC is missing"),
        (
            |sgx| drop(sgx.at(&[1, 1]).parts.remove(4)),
            "a firmware version is missing",
        ),
        (
            |sgx| drop(sgx.at(&[1, 1]).parts.remove(16)),
            "the PCE's version is missing",
        ),
        (
            |sgx| drop(sgx.at(&[1, 1]).parts.remove(17)),
            "CPUSVN is missing",
        ),
        (
            |sgx| drop(sgx.at(&[6, 1]).parts.remove(2)),
            "a flag of the configuration is missing",
        ),
        (
            |sgx| {
                let twin = sgx.parts[3].clone();
                sgx.parts.push(twin);
            },
            "a part of the SGX extension occurs twice",
        ),
        (
            |sgx| sgx.parts.push(sgx_entry(&[8], Der::primitive(5, &[]))),
            "a part of the SGX extension is not known",
        ),
        (
            |sgx| sgx.at(&[3, 1]).bytes = vec![0; 5],
            "a value is not of its length",
        ),
        (|sgx| sgx.at(&[3, 1]).tag = 2, "a value is not of its type"),
        (
            |sgx| sgx.at(&[1, 1, 0, 1]).bytes = vec![1, 0],
            "a firmware version is not a small number",
        ),
        (
            |sgx| sgx.at(&[6, 1, 0, 1]).bytes = vec![1],
            "a flag is neither true nor false",
        ),
    ];
    for (change, what) in cases {
        assert_eq!(described(change), said(what));
    }
    let refused = refusal(|platform| {
        let (authority, pck) = (&platform.authority, &platform.pck);
        platform.pck_der = certificate(authority, pck, Rank::Leaf, Vec::new());
    });
    for (bytes, number) in [(vec![0x7f], 127), (vec![0, 0x85], 133), (vec![1, 2], 258)] {
        let judged = after(|platform| {
            platform.describe(|sgx| sgx.at(&[1, 1, 16, 1]).bytes = bytes);
        });
        assert_eq!(judged.unwrap().platform().pce_svn(), number);
    }
    assert_eq!(refused, said("the SGX extension is missing"));
    assert_eq!(refused.rule(), "T2");
}

pub fn crl_of(which: TdxCrl, platform: &mut Platform, change: impl FnOnce(&mut Der, &mut Der)) {
    let (authority, list) = match which {
        TdxCrl::Root => (&platform.root, &mut platform.root_crl),
        TdxCrl::Pck => (&platform.authority, &mut platform.pck_crl),
    };
    *list = altered(&authority.key, list, change);
}

const LISTS: [TdxCrl; 2] = [TdxCrl::Root, TdxCrl::Pck];

#[test]
fn b19_tdx_missing_list_is_not_a_clean_list() {
    for list in LISTS {
        let refused = refusal(|platform| match list {
            TdxCrl::Root => platform.root_crl.clear(),
            TdxCrl::Pck => platform.pck_crl.clear(),
        });
        assert_eq!(refused, R::CrlMissing(list));
        assert_eq!(refused.rule(), "T3");
    }
}

#[test]
fn t3_lists_are_signed_by_their_own_authority() {
    for list in LISTS {
        assert!(after(|platform| crl_of(list, platform, |_, _| ())).is_ok());
        let refused = refusal(|platform| match list {
            TdxCrl::Root => {
                platform.root_crl = altered(&Key::generate(), &platform.root_crl, |_, _| ());
            }
            TdxCrl::Pck => {
                platform.pck_crl = altered(&Key::generate(), &platform.pck_crl, |_, _| ());
            }
        });
        assert_eq!(refused, R::CrlSignature(list));
    }
    // Each list in the place of the other: genuine, and of another authority.
    let refused = refusal(|platform| platform.pck_crl = platform.root_crl.clone());
    assert_eq!(refused, R::CrlIssuer(TdxCrl::Pck));
    let refused = refusal(|platform| platform.root_crl = platform.pck_crl.clone());
    assert_eq!(refused, R::CrlIssuer(TdxCrl::Root));
}

#[test]
fn t3_form_of_lists() {
    for list in LISTS {
        let malformed = |what| R::CrlMalformed { list, what };
        let with =
            |change: fn(&mut Der, &mut Der)| refusal(|platform| crl_of(list, platform, change));
        let refused = with(|_, outer| outer.parts.push(Der::primitive(5, &[])));
        assert_eq!(refused, malformed("names two signature algorithms"));
        let refused = with(|inner, _| {
            let unknown = extension(&OF_NOBODY, true, &[5, 0]);
            let last = inner.parts.len() - 1;
            inner.at(&[last, 0]).parts.push(unknown);
        });
        assert_eq!(
            refused,
            malformed("has a critical extension that is not understood")
        );
        let refused = with(|inner, _| drop(inner.parts.remove(4)));
        assert_eq!(refused, malformed("does not say when the next one is due"));
        let edited = |change: fn(&mut Vec<u8>)| {
            refusal(|platform| match list {
                TdxCrl::Root => change(&mut platform.root_crl),
                TdxCrl::Pck => change(&mut platform.pck_crl),
            })
        };
        assert_eq!(edited(|der| der.push(0)), malformed("bytes after its end"));
        assert_eq!(
            edited(|der| der.truncate(20)),
            malformed("not a list in DER")
        );
        let refused = edited(|der| der.resize(64 * 1024 + 1, 0));
        assert_eq!(refused, malformed("longer than 65536 bytes"));
    }
}

#[test]
fn b25_a_list_may_have_65536_bytes() {
    let judged = after(|platform| {
        let padded = |length: usize| {
            altered(&platform.authority.key, &platform.pck_crl, |inner, _| {
                let last = inner.parts.len() - 1;
                let padding = extension(&OF_NOBODY, false, &vec![0x30; length]);
                inner.at(&[last, 0]).parts.push(padding);
            })
        };
        // A signature's length varies by a byte or two; one of the next has the same again.
        let length = 65_000 + 65_536 - padded(65_000).len();
        let mut lists = std::iter::repeat_with(|| padded(length));
        platform.pck_crl = lists.find(|list| list.len() == 65_536).unwrap();
    });
    judged.unwrap();
}

#[test]
fn b18_tdx_lists_count_from_their_first_second_until_the_next_is_due() {
    for list in LISTS {
        let at = |from: &str, due: &str| {
            after(|platform| {
                crl_of(list, platform, |inner, _| {
                    inner.parts[3].bytes = from.as_bytes().to_vec();
                    inner.parts[4].bytes = due.as_bytes().to_vec();
                });
            })
        };
        let (now, next, last) = ("260301000000Z", "260301000001Z", "260322000000Z");
        assert!(at(now, last).is_ok());
        assert!(at("260220000000Z", next).is_ok());
        let refused = at(next, last).unwrap_err();
        let from = NOW.plus(1);
        assert_eq!(
            refused,
            R::CrlNotYetValid {
                list,
                from,
                now: NOW
            }
        );
        let refused = at("260220000000Z", now).unwrap_err();
        let due = NOW;
        assert_eq!(
            refused,
            R::CrlStale {
                list,
                due,
                now: NOW
            }
        );
        assert_eq!(refused.rule(), "T3");
    }
}

#[test]
fn t3_whoever_a_list_names_is_refused() {
    for (certificate, serial) in [
        (Place::Root, 1),
        (Place::PckAuthority, 2),
        (Place::TcbInfoSigner, 4),
        (Place::QeIdentitySigner, 5),
    ] {
        let refused = refusal(|platform| platform.root_crl = crl(&platform.root, &[9, serial]));
        assert_eq!(refused, R::CertificateRevoked { certificate });
        assert_eq!(refused.rule(), "T3");
    }
    let refused = refusal(|platform| platform.pck_crl = crl(&platform.authority, &[9, 3]));
    let certificate = Place::Pck;
    assert_eq!(refused, R::CertificateRevoked { certificate });
    // A number means a certificate of the list's own authority and no other.
    let accepted = after(|platform| {
        platform.root_crl = crl(&platform.root, &[3]);
        platform.pck_crl = crl(&platform.authority, &[1, 2, 4, 5]);
    });
    assert!(accepted.is_ok());
}
