//! Writes the little DER that certificates and revocation lists need.

use crate::digest::UnixTime;

pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const UTF8_STRING: u8 = 0x0c;
pub(super) const IA5_STRING: u8 = 0x16;
const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// A tag, the length, and the parts one after the other.
pub(super) fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut out = vec![tag];
    match content.len() {
        short @ 0..=0x7f => out.extend(u8::try_from(short)),
        long => {
            let bytes = long.to_be_bytes();
            let digits: Vec<u8> = bytes.into_iter().skip_while(|byte| *byte == 0).collect();
            out.extend(u8::try_from(digits.len()).map(|count| 0x80 | count));
            out.extend(digits);
        }
    }
    out.extend(content);
    out
}

pub(super) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(SEQUENCE, parts)
}

/// Context-specific, constructed.
pub(super) fn explicit(number: u8, content: &[u8]) -> Vec<u8> {
    tlv(0xa0 | number, &[content])
}

/// An unsigned integer from big-endian bytes.
pub(super) fn integer(bytes: &[u8]) -> Vec<u8> {
    let digits: Vec<u8> = bytes
        .iter()
        .copied()
        .skip_while(|byte| *byte == 0)
        .collect();
    match digits.first() {
        Some(0..=0x7f) => tlv(INTEGER, &[&digits]),
        _ => tlv(INTEGER, &[&[0], &digits]),
    }
}

pub(super) fn boolean_true() -> Vec<u8> {
    tlv(BOOLEAN, &[&[0xff]])
}

pub(super) fn bits(bytes: &[u8]) -> Vec<u8> {
    tlv(BIT_STRING, &[&[0], bytes])
}

/// An object identifier from its arcs; the first two are joined as X.690 wants it.
pub(super) fn oid(first: u8, second: u8, arcs: &[u32]) -> Vec<u8> {
    let mut content = vec![40 * first + second];
    for arc in arcs {
        let shifts = (0..5).rev().map(|digit| 7 * digit);
        let mut digits = shifts
            .map(|shift| (arc >> shift) & 0x7f)
            .skip_while(|digit| *digit == 0)
            .peekable();
        if *arc == 0 {
            content.push(0);
        }
        while let Some(digit) = digits.next() {
            let more = if digits.peek().is_some() { 0x80 } else { 0 };
            content.extend(u8::try_from(digit | more));
        }
    }
    tlv(OBJECT_IDENTIFIER, &[&content])
}

/// UTCTime until 2049, GeneralizedTime from then on (RFC 5280, section 4.1.2.5).
pub(super) fn time(time: UnixTime) -> Vec<u8> {
    let secs = time.secs();
    let (year, month, day) = civil(secs / 86_400);
    let (hour, minute, second) = (secs / 3600 % 24, secs / 60 % 60, secs % 60);
    let rest = format!("{month:02}{day:02}{hour:02}{minute:02}{second:02}Z");
    if (1950..2050).contains(&year) {
        tlv(UTC_TIME, &[format!("{:02}{rest}", year % 100).as_bytes()])
    } else {
        tlv(GENERALIZED_TIME, &[format!("{year:04}{rest}").as_bytes()])
    }
}

/// Year, month and day of a number of days since 1970 (Howard Hinnant's `civil_from_days`, without negative days).
const fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (
        year_of_era + 400 * era + if month <= 2 { 1 } else { 0 },
        month,
        day,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_calendars_have_them() {
        let text = |secs| String::from_utf8(time(UnixTime::from_secs(secs)).split_off(2)).unwrap();
        assert_eq!(text(0), "700101000000Z");
        assert_eq!(text(1_709_164_800), "240229000000Z");
        assert_eq!(text(1_735_689_599), "241231235959Z");
        assert_eq!(text(2_524_608_000), "20500101000000Z");
    }

    #[test]
    fn identifiers_and_integers_have_their_shortest_form() {
        assert_eq!(
            oid(1, 3, &[6, 1, 4, 1, 3704, 1, 3, 8]),
            b"\x06\x0a\x2b\x06\x01\x04\x01\x9c\x78\x01\x03\x08"
        );
        assert_eq!(integer(&[0]), [2, 1, 0]);
        assert_eq!(integer(&[0, 0xd1]), [2, 2, 0, 0xd1]);
        assert_eq!(
            tlv(OCTET_STRING, &[&[0; 200]]).get(..3),
            Some(&[4, 0x81, 200][..])
        );
    }
}
