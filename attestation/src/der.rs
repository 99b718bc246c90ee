//! The few DER values that are read by hand, with every tag and length as it must be.

use crate::digest::UnixTime;
use crate::reader::Reader;

pub(crate) const UTC_TIME: u8 = 0x17;
pub(crate) const GENERALIZED_TIME: u8 = 0x18;

/// The signature algorithm of the signed part and the one outside it, as bytes, with every tag around them as it must be.
pub(crate) fn signature_algorithms(der: &[u8]) -> Option<(&[u8], &[u8])> {
    const SEQUENCE: u8 = 0x30;
    let mut whole = Reader::new(der);
    let (_, content) = value(&mut whole, SEQUENCE)?;
    let mut parts = Reader::new(content);
    let (_, signed) = value(&mut parts, SEQUENCE)?;
    let (outside, _) = value(&mut parts, SEQUENCE)?;
    value(&mut parts, 0x03)?;
    let mut signed = Reader::new(signed);
    value(&mut signed, 0xa0)?;
    value(&mut signed, 0x02)?;
    let (inside, _) = value(&mut signed, SEQUENCE)?;
    (whole.is_empty() && parts.is_empty()).then_some((inside, outside))
}

/// A DER value of this tag and less than 64 KiB, whole and without its header. Its length is in the shortest form.
pub(crate) fn value<'a>(reader: &mut Reader<'a>, tag: u8) -> Option<(&'a [u8], &'a [u8])> {
    let whole = reader.left();
    if reader.byte()? != tag {
        return None;
    }
    let length = match reader.byte()? {
        short @ 0..=0x7f => usize::from(short),
        0x81 => usize::from(reader.byte().filter(|length| *length >= 0x80)?),
        0x82 => usize::from(reader.be16().filter(|length| *length >= 0x100)?),
        _ => return None,
    };
    let content = reader.take(length)?;
    let used = whole.len().checked_sub(reader.left().len())?;
    Some((whole.get(..used)?, content))
}

/// A Time (RFC 5280, section 4.1.2.5): UTCTime from 1970 to 2049, or GeneralizedTime.
pub(crate) fn time(reader: &mut Reader<'_>) -> Option<UnixTime> {
    if reader.left().first() != Some(&UTC_TIME) {
        return generalized_time(value(reader, GENERALIZED_TIME)?.1);
    }
    let (_, [decade, rest @ ..]) = value(reader, UTC_TIME)? else {
        return None;
    };
    let century = if *decade < b'5' { *b"20" } else { *b"19" };
    generalized_time(&[&century[..], &[*decade], rest].concat())
}

/// A GeneralizedTime as DER has it: `20260301000000Z`, from 1970 on.
pub(crate) fn generalized_time(text: &[u8]) -> Option<UnixTime> {
    let digits = text
        .strip_suffix(b"Z")
        .filter(|digits| digits.len() == 14)?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let mut left = Reader::new(digits);
    let mut number = |length| {
        let taken = left.take(length)?;
        let digit = |sum: u64, byte: &u8| sum * 10 + u64::from(byte.wrapping_sub(b'0'));
        Some(taken.iter().fold(0, digit))
    };
    let (year, month, day) = (number(4)?, number(2)?, number(2)?);
    let (hour, minute, second) = (number(2)?, number(2)?, number(2)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_of_month = match month {
        4 | 6 | 9 | 11 => 30,
        2 => 28 + u64::from(leap),
        1..=12 => 31,
        _ => return None,
    };
    let possible = year >= 1970 && (1..=days_of_month).contains(&day);
    if !possible || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    // Days since 1970-01-01, with years that begin in March so that the odd day comes last.
    let (year, month) = if month < 3 {
        (year - 1, month + 9)
    } else {
        (year, month - 3)
    };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    let days = days.checked_sub(719_468)?;
    Some(UnixTime::from_secs(
        days * 86_400 + hour * 3600 + minute * 60 + second,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_two_digits_is_of_the_century_around_2000() {
        let read = |tag: u8, text: &str| {
            let der = [&[tag, text.len() as u8], text.as_bytes(), &[5]].concat();
            let mut reader = Reader::new(&der);
            let read = time(&mut reader)?;
            assert_eq!(reader.left(), [5]);
            Some(read.secs())
        };
        for (tag, text, expected) in [
            (0x17, "700101000000Z", Some(0)),
            (0x17, "991231235959Z", Some(946_684_799)),
            (0x17, "000101000000Z", Some(946_684_800)),
            (0x17, "491231235959Z", Some(2_524_607_999)),
            (0x18, "20260301000000Z", Some(1_772_323_200)),
            (0x17, "500101000000Z", None),
            (0x17, "20260301000000Z", None),
            (0x18, "260301000000Z", None),
            (0x17, "260301000000", None),
            (0x17, "2603010000Z", None),
            (0x17, "", None),
            (0x16, "260301000000Z", None),
        ] {
            assert_eq!(read(tag, text), expected, "{text}");
        }
    }

    #[test]
    fn a_time_is_what_it_says_and_nothing_else_is_one() {
        let secs = |text: &str| generalized_time(text.as_bytes()).map(UnixTime::secs);
        for (text, expected) in [
            ("19700101000000Z", 0),
            ("20000229235959Z", 951_868_799),
            ("20240229000000Z", 1_709_164_800),
            ("20260301000000Z", 1_772_323_200),
            ("99991231235959Z", 253_402_300_799),
        ] {
            assert_eq!(secs(text), Some(expected), "{text}");
        }
        for text in [
            "",
            "20260301000000",
            "2026030100000Z",
            "20260301000000.0Z",
            "19691231235959Z",
            "20261301000000Z",
            "20260001000000Z",
            "20260431000000Z",
            "20250229000000Z",
            "21000229000000Z",
            "20260300000000Z",
            "20260301240000Z",
            "20260301006000Z",
            "20260301000060Z",
            "2026030100000 Z",
            "20260301000000+",
        ] {
            assert_eq!(secs(text), None, "{text}");
        }
    }
}
