//! The few DER values that are read by hand, with every tag and length as it must be.

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
