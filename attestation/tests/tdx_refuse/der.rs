//! Certificates and lists are DER of their one form (rules T2, T3): whatever is more, less or another thing is refused.

use casemate_attestation::tdx::{TdxCertificate as Place, TdxCrl, TdxRejection as R};

use super::certificates::{alter, crl_of};
use super::common::der::{Der, extension};
use super::*;

const NULL: [u8; 2] = [5, 0];
const CRL_NUMBER: [u8; 3] = [0x55, 0x1d, 0x14];
const REASON: [u8; 3] = [0x55, 0x1d, 0x15];
const AUTHORITY_KEY: [u8; 3] = [0x55, 0x1d, 0x23];

fn null() -> Der {
    Der::primitive(5, &[])
}

type Change = fn(&mut Der, &mut Der);

#[test]
fn t2_nothing_is_left_over_in_a_certificate() {
    let changes: [Change; 13] = [
        |inner, _| inner.parts.push(null()),
        // The version, the times, the key and the extensions, in their wrappers.
        |inner, _| inner.at(&VERSION[..1]).parts.push(null()),
        |inner, _| inner.parts[4].parts.push(null()),
        |inner, _| inner.parts[6].parts.push(null()),
        |inner, _| inner.parts[7].parts.push(null()),
        |inner, _| inner.at(&EXTENSIONS).parts[0].parts.push(null()),
        |inner, _| inner.at(&EXTENSIONS).parts.push(null()),
        |inner, _| drop(inner.at(&EXTENSIONS).parts[0].parts.pop()),
        // "Critical" has two values.
        |inner, _| inner.at(&EXTENSIONS).parts[0].parts[1].bytes = vec![1],
        |inner, _| inner.at(&NOT_AFTER).bytes = b"2603010000Z".to_vec(),
        // A name is made of sets of pairs.
        |inner, _| inner.parts[5].parts[0].tag = 0x30,
        |inner, _| inner.at(&[5, 0, 0]).parts.push(null()),
        |inner, _| drop(inner.at(&[5, 0, 0]).parts.pop()),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let refused = refusal(|platform| alter(platform, Place::Pck, change));
        let (certificate, what) = (Place::Pck, "not a certificate in DER");
        let expected = R::CertificateMalformed { certificate, what };
        assert_eq!(refused, expected, "{number}");
    }
    let whole = refusal(|platform| {
        let mut der = Der::read(&platform.pck_der);
        der.parts.push(null());
        platform.pck_der = der.write();
    });
    let (certificate, what) = (Place::Pck, "not a certificate in DER");
    assert_eq!(whole, R::CertificateMalformed { certificate, what });
    let unnumbered = refusal(|platform| {
        alter(platform, Place::Pck, |inner, _| {
            drop(inner.parts.remove(0));
        });
    });
    let what = "not of version 3";
    assert_eq!(unnumbered, R::CertificateMalformed { certificate, what });
}

#[test]
fn t2_a_name_is_text() {
    for (tag, found) in [
        (0x0c, None),
        (0x13, None),
        (0x1e, Some("")),
        (0x04, Some("")),
    ] {
        let judged = after(|platform| {
            alter(platform, Place::Pck, |inner, _| {
                inner.at(&SUBJECT_NAME).tag = tag;
            });
        });
        let certificate = Place::Pck;
        let expected = found.map(|found| R::CertificateName {
            certificate,
            found: found.to_owned(),
        });
        assert_eq!(judged.err(), expected, "{tag:x}");
    }
}

#[test]
fn t2_what_limits_a_certificate_is_of_its_form() {
    let with = |position: usize, value: &'static [u8]| {
        refusal(|platform| {
            alter(platform, Place::Pck, |inner, _| {
                inner.at(&EXTENSIONS).parts[position].parts[2].bytes = value.to_vec();
            });
        })
    };
    let certificate = Place::Pck;
    let what = "has a critical extension that is not understood";
    for (position, value) in [
        // Constraints: another value, more behind it, a depth that is negative, too long, or followed by more.
        (0, &NULL[..]),
        (0, &[0x30, 0, 5, 0]),
        (0, &[0x30, 3, 2, 1, 0x80]),
        (0, &[0x30, 4, 2, 2, 1, 0]),
        (0, &[0x30, 5, 2, 1, 0, 5, 0]),
        // Usage: another value, no bits, too many of them, bits that are none.
        (1, &NULL),
        (1, &[3, 0]),
        (1, &[3, 1, 0]),
        (1, &[3, 4, 0, 0x80, 0, 0]),
        (1, &[3, 2, 8, 0x80]),
        (1, &[3, 2, 7, 0xc0]),
        (1, &[3, 3, 7, 0x80, 0x40]),
    ] {
        let refused = with(position, value);
        let expected = R::CertificateMalformed { certificate, what };
        assert_eq!(refused, expected, "{value:x?}");
    }
    // A ninth bit, and every bit of the first byte.
    for usage in [&[3, 3, 7, 0x80, 0x80][..], &[3, 2, 0, 0x81]] {
        let judged = after(|platform| {
            alter(platform, Place::Pck, |inner, _| {
                inner.at(&EXTENSIONS).parts[1].parts[2].bytes = usage.to_vec();
            });
        });
        assert!(judged.is_ok(), "{usage:x?}");
    }
}

/// A list that names one certificate, whose entry is at `[5, 0]`.
fn listed(which: TdxCrl, change: Change) -> Judged {
    after(|platform| {
        platform.root_crl = crl(&platform.root, &[0x66]);
        platform.pck_crl = crl(&platform.authority, &[0x66]);
        crl_of(which, platform, change);
    })
}

fn entry_extension(inner: &mut Der, extension: Der) {
    inner.at(&[5, 0]).parts.push(Der::sequence(vec![extension]));
}

#[test]
fn t3_nothing_is_left_over_in_a_list() {
    let changes: [Change; 13] = [
        |inner, _| inner.parts.push(null()),
        |inner, _| drop(inner.parts.remove(0)),
        |inner, _| inner.parts[0].bytes = vec![0],
        |inner, _| inner.parts[0].bytes = vec![0, 1],
        |inner, _| inner.parts[3].bytes = b"2603010000Z".to_vec(),
        |inner, _| inner.parts[4].bytes = b"2603010000Z".to_vec(),
        |inner, _| inner.parts[5].parts.push(null()),
        |inner, _| drop(inner.at(&[5, 0]).parts.pop()),
        |inner, _| inner.at(&[5, 0]).parts.push(null()),
        |inner, _| inner.at(&[5, 0, 0]).tag = 4,
        |inner, _| {
            entry_extension(inner, extension(&REASON, false, &[0x0a, 1, 1]));
            inner.at(&[5, 0]).parts.push(null());
        },
        |inner, _| inner.parts[6].parts.push(null()),
        |inner, _| inner.parts[6].tag = 0xa1,
    ];
    for list in [TdxCrl::Root, TdxCrl::Pck] {
        for (number, change) in changes.into_iter().enumerate() {
            let what = "not a list in DER";
            let expected = R::CrlMalformed { list, what };
            assert_eq!(listed(list, change).err(), Some(expected), "{number}");
        }
        let whole = refusal(|platform| {
            let der = match list {
                TdxCrl::Root => &mut platform.root_crl,
                TdxCrl::Pck => &mut platform.pck_crl,
            };
            let mut parts = Der::read(der);
            parts.parts.push(null());
            *der = parts.write();
        });
        let what = "not a list in DER";
        assert_eq!(whole, R::CrlMalformed { list, what });
        let cut = refusal(|platform| {
            let der = match list {
                TdxCrl::Root => &mut platform.root_crl,
                TdxCrl::Pck => &mut platform.pck_crl,
            };
            let mut whole = Der::read(der);
            whole.parts[2].bytes[0] = 1;
            *der = whole.write();
        });
        assert_eq!(cut, R::CrlSignature(list));
    }
}

#[test]
fn t3_extensions_of_a_list_that_must_be_understood() {
    let accepted: [Change; 4] = [
        |_, _| (),
        |inner, _| entry_extension(inner, extension(&REASON, false, &[0x0a, 1, 1])),
        |inner, _| {
            inner.at(&[6, 0]).parts = vec![extension(&CRL_NUMBER, true, &[2, 1, 1])];
        },
        |inner, _| {
            let key = extension(&AUTHORITY_KEY, true, &[0x30, 0]);
            inner.at(&[6, 0]).parts.push(key);
        },
    ];
    let refused: [Change; 5] = [
        // An entry's reason may not be critical, and a list's number must be one.
        |inner, _| entry_extension(inner, extension(&REASON, true, &[0x0a, 1, 1])),
        |inner, _| {
            inner.at(&[6, 0]).parts = vec![extension(&CRL_NUMBER, true, &NULL)];
        },
        |inner, _| {
            inner.at(&[6, 0]).parts = vec![extension(&CRL_NUMBER, true, &[2, 1, 1, 5, 0])];
        },
        |inner, _| {
            let key = extension(&AUTHORITY_KEY, true, &NULL);
            inner.at(&[6, 0]).parts.push(key);
        },
        |inner, _| {
            let unknown = extension(&REASON, true, &[0x30, 0]);
            inner.at(&[6, 0]).parts.push(unknown);
        },
    ];
    for list in [TdxCrl::Root, TdxCrl::Pck] {
        for (number, change) in accepted.into_iter().enumerate() {
            assert_eq!(listed(list, change).err(), None, "{number}");
        }
        for (number, change) in refused.into_iter().enumerate() {
            let what = "has a critical extension that is not understood";
            let expected = R::CrlMalformed { list, what };
            assert_eq!(listed(list, change).err(), Some(expected), "{number}");
        }
    }
}

#[test]
fn t6_one_signer_of_both_documents_is_judged_as_two_would_be() {
    // Intel's own is one; here the quoting enclave's signer signs both, and the chains differ by a space or by nothing.
    let with = |space: &str, change: fn(&mut Platform)| {
        let mut platform = Platform::new();
        change(&mut platform);
        let mut collateral = platform.collateral_json();
        let text = collateral["tcb_info"].as_str().unwrap();
        let signature = platform.qe_signer.key.sign_fixed(text.as_bytes());
        collateral["tcb_info_signature"] = hex::encode(signature).into();
        let chain = collateral["qe_identity_issuer_chain"].as_str().unwrap();
        collateral["tcb_info_issuer_chain"] = format!("{chain}{space}").into();
        documents::judge(&platform, &collateral)
    };
    for space in ["", "\n"] {
        assert_eq!(with(space, |_| ()).err(), None);
        let refused = with(space, |platform| {
            platform.root_crl = crl(&platform.root, &[5]);
        });
        let certificate = Place::TcbInfoSigner;
        assert_eq!(refused.err(), Some(R::CertificateRevoked { certificate }));
    }
}
