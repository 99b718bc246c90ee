//! What stands inside event data: UEFI variables, UTF-16 text, boot loaders' labels, image paths.

use crate::reader::Reader;

/// EFI_GLOBAL_VARIABLE, as its bytes lie: 8be4df61-93ca-11d2-aa0d-00e098032b8c.
pub(super) const GLOBAL: [u8; 16] = [
    0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c,
];

/// Labels that GRUB writes before the text that it hashes.
const GRUB_LABELS: [&[u8]; 3] = [b"grub_cmd: ", b"kernel_cmdline: ", b"module_cmdline: "];

/// UEFI_VARIABLE_DATA (PC Client PFP 1.05, 10.2.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Variable<'a> {
    pub(super) vendor: [u8; 16],
    name: &'a [u8],
    pub(super) value: &'a [u8],
}

impl<'a> Variable<'a> {
    /// Reads it; the lengths inside must add up to the data.
    pub(super) fn parse(data: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(data);
        let vendor = reader.array()?;
        let name_units = usize::try_from(reader.le64()?).ok()?;
        let value_bytes = usize::try_from(reader.le64()?).ok()?;
        let name = reader.take(name_units.checked_mul(2)?)?;
        let value = reader.take(value_bytes)?;
        reader.is_empty().then_some(Self {
            vendor,
            name,
            value,
        })
    }

    pub(super) fn name(&self) -> Option<String> {
        utf16(self.name)
    }
}

/// UTF-16LE text, without one terminator at its end.
pub(super) fn utf16(bytes: &[u8]) -> Option<String> {
    let (units, rest) = bytes.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let units: Vec<u16> = units.iter().map(|pair| u16::from_le_bytes(*pair)).collect();
    let text = units.strip_suffix(&[0]).unwrap_or(&units);
    String::from_utf16(text)
        .ok()
        .filter(|text| !text.contains('\0'))
}

/// UTF-8 text, without terminators at its end.
pub(super) fn utf8(bytes: &[u8]) -> Option<String> {
    let text = without_terminator(bytes);
    let text = std::str::from_utf8(text).ok()?;
    (!text.contains('\0')).then(|| text.to_owned())
}

fn without_terminator(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|byte| *byte != 0);
    end.and_then(|end| bytes.get(..=end)).unwrap_or_default()
}

/// A label of GRUB's and the text behind it, which GRUB hashes without its terminator.
pub(super) fn grub(data: &[u8]) -> Option<(&'static [u8], &[u8])> {
    GRUB_LABELS.into_iter().find_map(|label| {
        let text = data.strip_prefix(label)?;
        Some((label, without_terminator(text)))
    })
}

/// The file in a UEFI_IMAGE_LOAD_EVENT's device path, if there is one: addresses and lengths of 8 bytes each, then nodes.
pub(super) fn image_path(data: &[u8]) -> Option<String> {
    const MEDIA: u8 = 4;
    const FILE_PATH: u8 = 4;
    let mut reader = Reader::new(data);
    reader.take(24)?;
    let length = usize::try_from(reader.le64()?).ok()?;
    let mut nodes = Reader::new(reader.take(length)?);
    loop {
        let (kind, subtype) = (nodes.byte()?, nodes.byte()?);
        let length = usize::from(nodes.le16()?);
        let content = nodes.take(length.checked_sub(4)?)?;
        if (kind, subtype) == (MEDIA, FILE_PATH) {
            return utf16(content);
        }
    }
}

/// TCG_PCClientTaggedEvent: its number and its label.
pub(super) fn tagged(data: &[u8]) -> Option<(u32, String)> {
    let mut reader = Reader::new(data);
    let id = reader.le32()?;
    let length = usize::try_from(reader.le32()?).ok()?;
    let content = reader.take(length)?;
    let label = utf8(content).filter(|text| !text.is_empty() && text.is_ascii());
    let label = label.or_else(|| utf16(content))?;
    reader.is_empty().then_some((id, label))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_inside_must_add_up() {
        let mut data = GLOBAL.to_vec();
        data.extend(2_u64.to_le_bytes());
        data.extend(1_u64.to_le_bytes());
        data.extend(b"P\0K\0\x07");
        let variable = Variable::parse(&data).unwrap();
        assert_eq!(
            (variable.name().unwrap().as_str(), variable.value),
            ("PK", &[7][..])
        );
        assert_eq!(Variable::parse(data.get(..data.len() - 1).unwrap()), None);
        let long = [&data[..], &[0]].concat();
        assert_eq!(Variable::parse(&long), None);
        let huge = [&GLOBAL[..], &[0xff; 16]].concat();
        assert_eq!(Variable::parse(&huge), None);
    }

    #[test]
    fn text_is_whole_or_none() {
        assert_eq!(utf16(b"a\0b\0\0\0").as_deref(), Some("ab"));
        assert_eq!(utf16(b"a\0b"), None);
        assert_eq!(utf16(b"a\0\0\0b\0"), None);
        assert_eq!(utf8(b"abc\0\0").as_deref(), Some("abc"));
        assert_eq!(utf8(b"a\0b"), None);
        assert_eq!(utf8(b"\xff"), None);
        let (label, text) = grub(b"grub_cmd: ls\0").unwrap();
        assert_eq!((label, text), (&b"grub_cmd: "[..], &b"ls"[..]));
        assert_eq!(grub(b"ls"), None);
    }

    #[test]
    fn a_device_path_that_does_not_end_gives_no_file() {
        let mut data = vec![0; 24];
        data.extend(8_u64.to_le_bytes());
        data.extend([4, 4, 8, 0, b'a', 0, 0, 0]);
        assert_eq!(image_path(&data).as_deref(), Some("a"));
        let short = [&data[..24], &4_u64.to_le_bytes()[..], &[1, 1, 3, 0][..]].concat();
        assert_eq!(image_path(&short), None);
    }
}
