//! The few DER values that are read by hand, with every tag and length as it must be.

use crate::digest::UnixTime;
use crate::reader::Reader;

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
