//! Headers that are refused, one per rule, each made from a good one by a single change.

use super::*;

/// Builds headers piece by piece.
#[derive(Clone)]
struct Draft {
    version: u32,
    metadata: Vec<(String, Vec<u8>)>,
    tensors: Vec<(String, Vec<u64>, u32, u64)>,
}

impl Draft {
    fn good() -> Self {
        Self {
            version: 3,
            metadata: vec![
                ("general.name".into(), typed_text("tiny")),
                (
                    "n".into(),
                    [4_u32.to_le_bytes(), 7_u32.to_le_bytes()].concat(),
                ),
            ],
            tensors: vec![
                ("a".into(), vec![32, 2], 8, 0),
                ("b".into(), vec![5], 0, 96),
            ],
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            out.extend(text(key));
            out.extend(value);
        }
        for (name, shape, kind, offset) in &self.tensors {
            out.extend(text(name));
            out.extend((shape.len() as u32).to_le_bytes());
            shape
                .iter()
                .for_each(|dimension| out.extend(dimension.to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend(offset.to_le_bytes());
        }
        out
    }

    fn with(change: impl FnOnce(&mut Self)) -> GgufError {
        let mut draft = Self::good();
        change(&mut draft);
        GgufHeader::parse(&draft.bytes()).unwrap_err()
    }
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn typed_text(value: &str) -> Vec<u8> {
    [&8_u32.to_le_bytes()[..], &text(value)].concat()
}

fn array(kind: u32, count: u64) -> Vec<u8> {
    [
        &9_u32.to_le_bytes()[..],
        &kind.to_le_bytes(),
        &count.to_le_bytes(),
    ]
    .concat()
}

#[test]
fn a_good_header_is_read() {
    let bytes = Draft::good().bytes();
    let header = GgufHeader::parse(&bytes).unwrap();
    assert_eq!(header.text("general.name").unwrap(), Some("tiny"));
    assert_eq!(header.unsigned("n").unwrap(), Some(7));
    assert_eq!(header.tensors()[0].shape(), [2, 32]);
    assert_eq!(header.tensors()[0].byte_len(), 68);
    assert_eq!(header.data_len(), 96 + 20);
    assert_eq!(
        header.data_offset(),
        (bytes.len() as u64).next_multiple_of(32)
    );
    assert_eq!(header.tensor_index("b"), Some(1));
    assert!(matches!(header.text("n"), Err(GgufError::WrongType { .. })));
}

#[test]
fn every_shorter_prefix_is_truncated() {
    let bytes = Draft::good().bytes();
    for len in 0..bytes.len() {
        let error = GgufHeader::parse(&bytes[..len]).unwrap_err();
        assert!(matches!(error, GgufError::Truncated(_)), "{len}: {error}");
    }
}

#[test]
fn malformed_metadata_is_refused_by_name() {
    let cases: [(&str, Vec<u8>); 8] = [
        ("UnknownValueType", 13_u32.to_le_bytes().to_vec()),
        ("BadBoolean", [&7_u32.to_le_bytes()[..], &[2]].concat()),
        ("NestedArray", array(9, 1)),
        ("UnknownValueType", array(99, 1)),
        ("TooMany", array(4, u64::MAX)),
        ("Truncated", array(10, 1 << 22)),
        (
            "NotUtf8",
            [&8_u32.to_le_bytes()[..], &1_u64.to_le_bytes(), &[0xff]].concat(),
        ),
        (
            "TooMany",
            [&8_u32.to_le_bytes()[..], &u64::MAX.to_le_bytes()].concat(),
        ),
    ];
    for (name, value) in cases {
        let error = Draft::with(|draft| draft.metadata.push(("x".into(), value)));
        assert!(format!("{error:?}").starts_with(name), "{name}: {error:?}");
    }
    let alignment = [4_u32.to_le_bytes(), 24_u32.to_le_bytes()].concat();
    let error = Draft::with(|draft| draft.metadata.push(("general.alignment".into(), alignment)));
    assert_eq!(error, GgufError::BadAlignment);
    let error = Draft::with(|draft| draft.metadata.push(draft.metadata[0].clone()));
    assert_eq!(error, GgufError::DuplicateKey("general.name".into()));
    let error = Draft::with(|draft| draft.metadata[0].0.clear());
    assert_eq!(error, GgufError::Empty("metadata key"));
}

#[test]
fn malformed_tensors_are_refused_by_name() {
    let a = || "a".to_owned();
    let cases: [(GgufError, Vec<u64>, u32, u64); 9] = [
        (GgufError::BadShape(a()), vec![], 0, 0),
        (GgufError::BadShape(a()), vec![1; 5], 0, 0),
        (GgufError::BadShape(a()), vec![32, 0], 0, 0),
        (GgufError::BadShape(a()), vec![u64::MAX, u64::MAX], 0, 0),
        (GgufError::BadShape(a()), vec![1 << 39], 0, 0),
        (
            GgufError::UnknownTensorType {
                name: a(),
                kind: "Q4_2".to_owned(),
            },
            vec![32],
            4,
            0,
        ),
        (GgufError::PartialBlock(a()), vec![33], 8, 0),
        (GgufError::BadOffset(a()), vec![32], 8, 8),
        (GgufError::BadOffset(a()), vec![32], 0, u64::MAX - 31),
    ];
    for (expected, shape, kind, offset) in cases {
        let error = Draft::with(|draft| draft.tensors[0] = ("a".into(), shape, kind, offset));
        assert_eq!(error, expected);
    }
    let error = Draft::with(|draft| draft.tensors[1].3 = 64);
    assert_eq!(error, GgufError::Overlap("a".into(), "b".into()));
    let error = Draft::with(|draft| draft.tensors[1].0 = "a".into());
    assert_eq!(error, GgufError::DuplicateTensor("a".into()));
}

#[test]
fn other_files_and_huge_counts_are_refused() {
    assert_eq!(
        GgufHeader::parse(b"GGML\x03\0\0\0"),
        Err(GgufError::WrongMagic)
    );
    assert_eq!(
        Draft::with(|draft| draft.version = 1),
        GgufError::UnsupportedVersion(1)
    );
    for at in [8, 16] {
        let mut bytes = Draft::good().bytes();
        bytes[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        let error = GgufHeader::parse(&bytes).unwrap_err();
        assert!(matches!(error, GgufError::TooMany { .. }), "{error:?}");
    }
}

proptest::proptest! {
    #[test]
    fn changed_bytes_never_panic(at in 0_usize..200, byte: u8, cut in 0_usize..200) {
        let mut bytes = Draft::good().bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        bytes.truncate(bytes.len().saturating_sub(cut));
        if let Ok(header) = GgufHeader::parse(&bytes) {
            assert!(header.tensors().len() <= 2);
        }
    }
}
