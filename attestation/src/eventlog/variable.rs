//! What stands inside event data: UEFI variables, UTF-16 text, boot loaders' labels, image paths.

use crate::reader::Reader;

/// EFI_GLOBAL_VARIABLE, as its bytes lie: 8be4df61-93ca-11d2-aa0d-00e098032b8c.
pub(super) const GLOBAL: [u8; 16] = [
    0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c,
];

/// EFI_IMAGE_SECURITY_DATABASE_GUID, as its bytes lie: d719b2cb-3d3a-4596-a3bc-dad00e67656f.
const IMAGE_SECURITY: [u8; 16] = [
    0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f,
];
/// Variables that say how images are checked (UEFI 2.10, 32.3), without the lists below.
const CONFIGURATION: [&str; 5] = ["SecureBoot", "PK", "KEK", "AuditMode", "DeployedMode"];
/// The lists of whom and what to trust or to refuse.
const DATABASES: [&str; 4] = ["db", "dbx", "dbt", "dbr"];

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

    /// Whether it says itself that it is part of the secure boot configuration: by a name and vendor that no authority
    /// has, or, as authorities carry the databases' names, by being a whole database.
    pub(super) fn is_configuration(&self) -> bool {
        let Some(name) = self.name() else {
            return false;
        };
        let named = self.vendor == GLOBAL && CONFIGURATION.contains(&name.as_str());
        let database = self.vendor == IMAGE_SECURITY && DATABASES.contains(&name.as_str());
        named || (database && are_signature_lists(self.value))
    }

    /// Whether it says itself that it is one entry of a database, or of shim's lists, and neither a whole one nor a
    /// variable that the firmware itself defines.
    pub(super) fn is_authority(&self) -> bool {
        self.vendor != GLOBAL && !are_signature_lists(self.value)
    }
}

/// Whether bytes are nothing but EFI_SIGNATURE_LISTs (UEFI 2.10, 32.4.1). An empty database is one, too.
fn are_signature_lists(bytes: &[u8]) -> bool {
    const FIXED: usize = 28;
    let mut reader = Reader::new(bytes);
    while !reader.is_empty() {
        let whole = (|| {
            reader.take(16)?;
            let length = usize::try_from(reader.le32()?).ok()?;
            let header = usize::try_from(reader.le32()?).ok()?;
            let entry = usize::try_from(reader.le32()?).ok()?;
            let entries = length.checked_sub(FIXED)?.checked_sub(header)?;
            reader.take(length.checked_sub(FIXED)?)?;
            (entry > 16).then(|| entries.is_multiple_of(entry))
        })();
        if whole != Some(true) {
            return false;
        }
    }
    true
}

/// Whether bytes are a UEFI_GPT_DATA (PC Client PFP 1.05, 10.2.4): a partition table's header, a count, and that many entries.
pub(super) fn is_partition_table(data: &[u8]) -> bool {
    let mut reader = Reader::new(data);
    let read = (|| {
        let signature: [u8; 8] = reader.array()?;
        // Revision and length of the header, checksums, places of the table, the disk's name, and the count of all entries.
        reader.take(76)?;
        let entry = u64::from(reader.le32()?);
        reader.le32()?;
        let count = reader.le64()?;
        let left = u64::try_from(reader.left().len()).ok()?;
        Some(signature == *b"EFI PART" && entry > 0 && entry.checked_mul(count) == Some(left))
    })();
    read == Some(true)
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
#[allow(
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]
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

    fn variable<'a>(vendor: [u8; 16], name: &'a [u8], value: &'a [u8]) -> Variable<'a> {
        Variable {
            vendor,
            name,
            value,
        }
    }

    /// One list of two hashes with their owners.
    fn database() -> Vec<u8> {
        let mut list = vec![7; 16];
        for field in [28 + 2 * 48_u32, 0, 48] {
            list.extend(field.to_le_bytes());
        }
        list.extend([9; 96]);
        list
    }

    #[test]
    fn a_variable_is_a_configuration_or_an_authority_and_never_both() {
        let (database, entry) = (database(), [5; 48]);
        let two = [&database[..], &database[..]].concat();
        for (vendor, name, value, configuration, authority) in [
            (GLOBAL, &b"P\0K\0"[..], &entry[..], true, false),
            (GLOBAL, b"B\0o\0o\0t\0", &entry, false, false),
            (IMAGE_SECURITY, b"d\0b\0", &database, true, false),
            (IMAGE_SECURITY, b"d\0b\0x\0", &two, true, false),
            (IMAGE_SECURITY, b"d\0b\0x\0", &[], true, false),
            (IMAGE_SECURITY, b"d\0b\0", &entry, false, true),
            (
                IMAGE_SECURITY,
                b"d\0b\0",
                &database[..database.len() - 1],
                false,
                true,
            ),
            ([1; 16], b"M\0o\0k\0", &entry, false, true),
            ([1; 16], b"d\0b\0", &database, false, false),
        ] {
            let it = variable(vendor, name, value);
            assert_eq!(
                (it.is_configuration(), it.is_authority()),
                (configuration, authority),
                "{it:?}"
            );
        }
    }

    #[test]
    fn lists_must_end_where_their_lengths_say() {
        let genuine = database();
        assert!(are_signature_lists(&genuine));
        for (at, value) in [
            (16, 0_u32),
            (16, 27),
            (20, 97),
            (20, 1),
            (24, 0),
            (24, 16),
            (24, 47),
        ] {
            let mut list = genuine.clone();
            list[at..at + 4].copy_from_slice(&value.to_le_bytes());
            assert!(!are_signature_lists(&list), "{at} {value}");
        }
        assert!(!are_signature_lists(&[&genuine[..], &[0]].concat()));
    }

    #[test]
    fn a_partition_table_has_as_many_entries_as_it_says() {
        let mut table = [&b"EFI PART"[..], &[0; 76]].concat();
        table.extend(128_u32.to_le_bytes());
        table.extend([0; 4]);
        table.extend(2_u64.to_le_bytes());
        table.extend([0; 256]);
        assert!(is_partition_table(&table));
        assert!(!is_partition_table(&table[1..]));
        assert!(!is_partition_table(&table[..table.len() - 1]));
        assert!(!is_partition_table(b"Exit Boot Services Invocation"));
        let mut none = table.clone();
        none[84..88].fill(0);
        assert!(!is_partition_table(&none));
        // Entries without a length fill nothing, however many there are.
        none.truncate(100);
        assert!(!is_partition_table(&none));
        table[0] = b'e';
        assert!(!is_partition_table(&table));
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
    fn a_tags_label_is_ascii_or_utf16() {
        let tag = |content: &[u8], length: u32| {
            tagged(&[&7_u32.to_le_bytes(), &length.to_le_bytes(), content].concat())
        };
        for (content, label) in [
            (&b"options\0"[..], Some("options")),
            (b"o\0p\0", Some("op")),
            // Two bytes that are one letter in UTF-8 as well.
            ("\u{e9}".as_bytes(), Some("\u{a9c3}")),
            // Terminators alone: half a letter, or more than one terminator.
            (b"\0", None),
            (b"\0\0\0\0", None),
            (b"\xff", None),
        ] {
            let length = u32::try_from(content.len()).unwrap();
            let expected = label.map(|label| (7, label.to_owned()));
            assert_eq!(tag(content, length), expected, "{content:?}");
            assert_eq!(tag(content, length - 1), None);
            assert_eq!(tag(content, length + 1), None);
        }
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
