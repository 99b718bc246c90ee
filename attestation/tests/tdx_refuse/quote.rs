//! The bytes of a quote, and who signed them (rules T1, T4, T5).

use casemate_attestation::tdx::{QUOTE_BYTES_MAX, TdxBody, TdxQuote, TdxRejection as R};

use super::*;

fn parsed(change: impl FnOnce(&mut Vec<u8>)) -> R {
    let mut bytes = Platform::new().signed_quote();
    change(&mut bytes);
    TdxQuote::parse(&bytes).unwrap_err()
}

#[test]
fn t1_header() {
    for version in [0, 1, 3, 6, 0x81, u16::MAX] {
        let refused = refusal(|platform| platform.quote.version = version);
        assert_eq!(refused, R::QuoteVersion(version));
    }
    for kind in [0, 1, 3, u16::MAX] {
        let refused = refusal(|platform| platform.quote.key_type = kind);
        assert_eq!(refused, R::AttestationKeyType(kind));
    }
    for tee in [0, 1, 0x80, 0x82, u32::MAX] {
        assert_eq!(
            refusal(|platform| platform.quote.tee = tee),
            R::TeeType(tee)
        );
    }
    for position in 0..4 {
        let refused = refusal(|platform| platform.quote.reserved[position] = 1);
        assert_eq!(refused, R::HeaderReserved);
    }
    let refused = refusal(|platform| platform.quote.vendor[15] = 8);
    let vendor = "939a7233f79c4ca9940a0db3957f0608".to_owned();
    assert_eq!(refused, R::QeVendor(vendor));
}

#[test]
fn t1_body_has_the_size_of_its_type() {
    for body_type in [0, 1, 5, u16::MAX] {
        let refused = refusal(|platform| platform.quote.body_type = body_type);
        assert_eq!(refused, R::BodyType(body_type));
    }
    for (body_type, expected) in [(2, 584), (4, 885)] {
        let refused = refusal(|platform| platform.quote.body_type = body_type);
        let found = 648;
        assert_eq!(
            refused,
            R::BodySize {
                body_type,
                found,
                expected
            }
        );
    }
    for found in [0, 647, 649, u32::MAX] {
        let refused = refusal(|platform| platform.quote.body_size = found);
        let (body_type, expected) = (3, 648);
        assert_eq!(
            refused,
            R::BodySize {
                body_type,
                found,
                expected
            }
        );
    }
}

#[test]
fn t1_every_kind_of_body_is_accepted() {
    let accepted = [
        after(|platform| platform.quote.version_4()),
        after(|platform| {
            platform.quote.version_4();
            (platform.quote.version, platform.quote.body_type) = (5, 2);
            platform.quote.body_size = 584;
        }),
        after(|_| ()),
        after(|platform| platform.quote.extended(&[0; 237])),
    ];
    let kinds = accepted.map(|verdict| {
        let verdict = verdict.unwrap();
        (verdict.quote().version(), verdict.quote().body())
    });
    let (small, middle, large) = (TdxBody::Td10, TdxBody::Td15, TdxBody::Td15Extended);
    assert_eq!(kinds, [(4, small), (5, small), (5, middle), (5, large)]);
}

#[test]
fn t1_every_cut_is_refused_and_names_what_it_cut() {
    let whole = Platform::new().signed_quote();
    let mut parts = Vec::new();
    for end in 0..whole.len() {
        let refused = TdxQuote::parse(&whole[..end]).unwrap_err();
        let R::QuoteTruncated(part) = refused else {
            panic!("{end}: {refused}");
        };
        if parts.last() != Some(&part) {
            parts.push(part);
        }
    }
    let wanted = [
        "header",
        "body type",
        "body size",
        "body",
        "length of the signature data",
        "signature data",
    ];
    assert_eq!(parts, wanted);
}

#[test]
fn t1_lengths_are_those_of_what_they_hold() {
    // The offset of the length of the signature data, which holds everything after it.
    let at = 48 + 6 + 648;
    let read = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let write = |bytes: &mut [u8], at: usize, value: u32| put(bytes, at, &value.to_le_bytes());
    let refused = parsed(|bytes| write(bytes, at, u32::MAX));
    assert_eq!(refused, R::QuoteTruncated("signature data"));
    let add = |bytes: &mut [u8], change: u32| {
        let length = read(bytes, at).wrapping_add(change);
        write(bytes, at, length);
    };
    let refused = parsed(|bytes| add(bytes, 1));
    assert_eq!(refused, R::QuoteTruncated("signature data"));
    // A length that is too small leaves something behind the quote, which is not zero.
    let refused = parsed(|bytes| add(bytes, u32::MAX));
    assert_eq!(refused, R::TrailingBytes(1));
    let refused = parsed(|bytes| write(bytes, at, 0));
    assert!(matches!(refused, R::TrailingBytes(_)));
    for (offset, part) in [
        (at + 4 + 128 + 2, "outer certification data"),
        (
            at + 4 + 128 + 6 + 384 + 64 + 2 + 32 + 2,
            "inner certification data",
        ),
    ] {
        for change in [1_u32, u32::MAX] {
            let refused = parsed(|bytes| {
                let length = read(bytes, offset).wrapping_add(change);
                write(bytes, offset, length);
            });
            assert!(
                matches!(refused, R::Length { part: named, .. } if named == part),
                "{refused}"
            );
        }
    }
    for length in [0, 31, 33] {
        let refused = refusal(|platform| platform.quote.auth_data = vec![7; length]);
        assert_eq!(
            refused,
            R::Length {
                part: "QE authentication data",
                found: length,
                held: 32
            }
        );
    }
}

#[test]
fn t1_certification_is_6_and_inside_it_5() {
    for found in [0, 1, 3, 4, 5, 7] {
        let refused = refusal(|platform| platform.quote.outer_type = found);
        let (place, expected) = ("outer", 6);
        assert_eq!(
            refused,
            R::CertificationType {
                place,
                found,
                expected
            }
        );
    }
    for found in [0, 1, 3, 4, 6, 7] {
        let refused = refusal(|platform| platform.quote.inner_type = found);
        let (place, expected) = ("inner", 5);
        assert_eq!(
            refused,
            R::CertificationType {
                place,
                found,
                expected
            }
        );
    }
}

#[test]
fn t1_zeros_behind_a_quote_are_a_buffer_and_anything_else_is_not() {
    let length = Platform::new().signed_quote().len();
    for zeros in [1, 70, QUOTE_BYTES_MAX - length - 40] {
        let verdict = after(|platform| platform.quote.behind = vec![0; zeros]).unwrap();
        assert_eq!(verdict.quote().trailing_zeros(), zeros);
        assert_eq!(remarks(&verdict)[0], "T1");
    }
    let refused = refusal(|platform| platform.quote.behind = vec![0, 0, 1, 0]);
    assert_eq!((refused.rule(), refused), ("T1", R::TrailingBytes(4)));
    let exactly = parsed(|bytes| {
        bytes.resize(QUOTE_BYTES_MAX, 0);
        bytes[QUOTE_BYTES_MAX - 1] = 1;
    });
    assert!(matches!(exactly, R::TrailingBytes(_)));
    let refused = parsed(|bytes| bytes.resize(QUOTE_BYTES_MAX + 1, 0));
    assert_eq!(refused, R::QuoteTooLong(QUOTE_BYTES_MAX + 1));
}

/// Flips one bit of the signed quote and judges it.
fn flipped(offset: usize) -> R {
    let platform = Platform::new();
    let mut bytes = platform.signed_quote();
    bytes[offset] ^= 1;
    casemate_attestation::tdx::verify_tdx_quote(
        &bytes,
        &platform.collateral(),
        &REPORT_DATA,
        &policy(),
        &platform.trusted(),
        NOW,
    )
    .unwrap_err()
}

#[test]
fn t4_t5_every_signed_byte_counts() {
    let data = 48 + 6 + 648 + 4;
    // User data of the header, the body's first and last byte, the signature.
    for offset in [28, 47, 54, 54 + 647, data, data + 63] {
        assert_eq!(flipped(offset), R::QuoteSignature, "{offset}");
    }
    // The attestation key, and what the quoting enclave added.
    let report = data + 128 + 6;
    for offset in [data + 64, data + 127, report + 384 + 64 + 2] {
        assert_eq!(flipped(offset), R::QeReportData, "{offset}");
    }
    for offset in [report, report + 383, report + 384, report + 447] {
        assert_eq!(flipped(offset), R::QeReportSignature, "{offset}");
    }
    let rules =
        [R::QuoteSignature, R::QeReportData, R::QeReportSignature].map(|refused| refused.rule());
    assert_eq!(rules, ["T5", "T4", "T4"]);
}

#[test]
fn t4_report_data_of_the_enclave_is_the_digest_and_zeros() {
    let refused = refusal(|platform| {
        let key = platform.attestation.point()[1..].to_vec();
        let named =
            casemate_attestation::Sha256Digest::of(&[&key[..], &platform.quote.auth_data].concat());
        put(&mut platform.quote.qe_report, 320, named.as_bytes());
        platform.quote.qe_report[383] = 1;
    });
    assert_eq!(refused, R::QeReportData);
}
