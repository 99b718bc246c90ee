//! Every alteration of a package is refused, and with the error of its rule.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

#[path = "support/publisher.rs"]
mod publisher;
#[path = "support/tiny_gguf.rs"]
mod tiny_gguf;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use casemate_models::package::*;
use publisher::{public_key, read_fully, sealed, variant};
use tiny_gguf::tiny_gguf;

const CHUNK: usize = CHUNK_LEN;
const SEALED_CHUNK: usize = CHUNK + 16;

/// A package with three chunks, the last a short one.
struct Case {
    folder: tempfile::TempDir,
    bytes: Vec<u8>,
    key: [u8; 32],
    weights_at: usize,
}

impl Case {
    fn new(content_len: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("good.casemate");
        let (_, key) = sealed(&tiny_gguf(content_len), &path, 7);
        let bytes = fs::read(&path).unwrap();
        let chunks = content_len.div_ceil(CHUNK).max(1);
        let weights_at = bytes.len() - content_len - 16 * chunks;
        Self {
            folder,
            bytes,
            key,
            weights_at,
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("altered.casemate")
    }

    /// The error that the full reading of `bytes` gives, or `None`.
    fn refusal(&self, bytes: &[u8]) -> Option<String> {
        fs::write(self.path(), bytes).unwrap();
        read_fully(&self.path(), self.key)
            .err()
            .map(|error| variant(&error))
    }

    fn chunk(&self, index: usize) -> std::ops::Range<usize> {
        let start = self.weights_at + index * SEALED_CHUNK;
        start..(start + SEALED_CHUNK).min(self.bytes.len())
    }
}

fn data_key(mut bytes: [u8; 32]) -> DataKey {
    DataKey::from_bytes(&mut bytes)
}

#[test]
fn vectors_are_refused_by_their_rule() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/vectors/package-refuse.json"
    );
    let vectors: Vec<serde_json::Value> = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut seen = BTreeSet::new();
    for vector in &vectors {
        let path = folder.path().join("vector.casemate");
        fs::write(
            &path,
            hex::decode(vector["package"].as_str().unwrap()).unwrap(),
        )
        .unwrap();
        let key: [u8; 32] = std::array::from_fn(|i| i as u8);
        let found = read_fully(&path, key).err().map(|error| variant(&error));
        assert_eq!(
            found.as_deref(),
            vector["error"].as_str(),
            "{}: {}",
            vector["rule"],
            vector["what"]
        );
        seen.extend(found);
    }
    // Read, EpochBelowFloor and OutsideContent have tests of their own below.
    assert_eq!(seen.len(), 13, "{seen:?}");
}

#[test]
fn a_clear_header_is_read_from_exactly_its_own_bytes() {
    let bytes = Case::new(32).bytes;
    ClearHeader::parse(&bytes[..125]).unwrap();
    for len in [124, 126] {
        let error = ClearHeader::parse(&bytes[..len]).unwrap_err();
        assert_eq!(variant(&error), "MalformedHeader", "{len} bytes");
    }
}

#[test]
fn k04_every_flipped_bit_is_refused() {
    let case = Case::new(32);
    for at in 0..case.bytes.len() {
        for bit in 0..8 {
            let mut altered = case.bytes.clone();
            altered[at] ^= 1 << bit;
            let refusal = case
                .refusal(&altered)
                .unwrap_or_else(|| panic!("byte {at} bit {bit}"));
            let sealed = at >= 125;
            assert!(
                !sealed || refusal == "CannotOpen",
                "byte {at} bit {bit}: {refusal}"
            );
        }
    }
}

#[test]
fn k04_a_flipped_bit_in_any_chunk_hands_out_nothing() {
    let case = Case::new(2 * CHUNK + 512);
    for index in 0..3 {
        let range = case.chunk(index);
        for at in [range.start, (range.start + range.end) / 2, range.end - 1] {
            let mut altered = case.bytes.clone();
            altered[at] ^= 0x10;
            fs::write(case.path(), &altered).unwrap();
            let sealed = SealedPackage::open(&case.path()).unwrap();
            let open = sealed.unlock(data_key(case.key), &public_key(), 7).unwrap();
            let mut into = vec![0x55; 2 * CHUNK + 512];
            let error = open.read_content(0, &mut into).unwrap_err();
            assert_eq!(variant(&error), "CannotOpen");
            assert!(into.iter().all(|byte| *byte == 0), "the buffer is wiped");
        }
    }
}

#[test]
fn k05_chunks_swapped_repeated_or_cut_are_refused() {
    let case = Case::new(2 * CHUNK + 512);
    let (first, second, last) = (case.chunk(0), case.chunk(1), case.chunk(2));
    let mut swapped = case.bytes.clone();
    swapped.copy_within(first.clone(), second.start);
    swapped[first.clone()].copy_from_slice(&case.bytes[second.clone()]);
    assert_eq!(case.refusal(&swapped).as_deref(), Some("CannotOpen"));
    let mut repeated = case.bytes.clone();
    repeated.copy_within(first, second.start);
    assert_eq!(case.refusal(&repeated).as_deref(), Some("CannotOpen"));
    assert_eq!(
        case.refusal(&case.bytes[..last.start]).as_deref(),
        Some("Truncated")
    );
    // The length in the clear header made to fit: the signature covers it, so the package is refused.
    let mut cut = case.bytes[..last.start].to_vec();
    let len_at = 125 - 48;
    let len = u64::from_be_bytes(cut[len_at..len_at + 8].try_into().unwrap());
    cut[len_at..len_at + 8].copy_from_slice(&(len - last.len() as u64).to_be_bytes());
    assert_eq!(case.refusal(&cut).as_deref(), Some("BadSignature"));
}

#[test]
fn k05_a_foreign_packages_chunk_is_refused() {
    let (case, other) = (Case::new(2 * CHUNK), Case::new(2 * CHUNK));
    let mut mixed = case.bytes.clone();
    mixed[case.chunk(1)].copy_from_slice(&other.bytes[other.chunk(1)]);
    assert_eq!(case.refusal(&mixed).as_deref(), Some("CannotOpen"));
    assert_eq!(
        case.refusal(&other.bytes).as_deref(),
        Some("CannotOpen"),
        "a foreign package's key"
    );
}

#[test]
fn k02_an_older_epoch_is_refused_and_the_floor_itself_accepted() {
    let case = Case::new(32);
    let path = case.folder.path().join("good.casemate");
    let at = |floor| {
        let sealed = SealedPackage::open(&path).unwrap();
        sealed
            .unlock(data_key(case.key), &public_key(), floor)
            .map(drop)
    };
    at(6).unwrap();
    at(7).unwrap();
    assert!(matches!(
        at(8),
        Err(PackageError::EpochBelowFloor { found: 7, floor: 8 })
    ));
    // A floor cannot be passed by writing another epoch into the header: associated data name it.
    let mut lifted = case.bytes.clone();
    lifted[39] = 8;
    assert_eq!(case.refusal(&lifted).as_deref(), Some("CannotOpen"));
}

#[test]
fn k11_the_content_is_held_against_the_publishers_hash() {
    // Weights re-sealed by somebody who holds the data key: the vectors of PK-32 and PK-42 are signed lies;
    // here the digest of the sealed file is not taken for that of the source either.
    let case = Case::new(32);
    let source = tiny_gguf(32);
    let digest = |bytes: &[u8]| ring::digest::digest(&ring::digest::SHA256, bytes);
    let whole = digest(&case.bytes);
    let clear = SealedPackage::open(&case.folder.path().join("good.casemate")).unwrap();
    let named = clear.header().digest();
    assert_ne!(named.as_bytes(), whole.as_ref());
    assert_ne!(named.as_bytes(), digest(&source).as_ref());
    assert_eq!(
        named.as_bytes(),
        digest(&case.bytes[..125]).as_ref(),
        "rule PK-5"
    );
}

#[test]
fn a_file_of_another_length_is_seen_without_a_key() {
    let case = Case::new(32);
    let opened = |bytes: &[u8]| {
        fs::write(case.path(), bytes).unwrap();
        let opened = SealedPackage::open(&case.path());
        opened.err().map(|error| variant(&error))
    };
    assert_eq!(opened(&case.bytes), None);
    let (cut, longer) = (
        &case.bytes[..case.bytes.len() - 1],
        [&case.bytes[..], &[0]].concat(),
    );
    assert_eq!(opened(cut).as_deref(), Some("Truncated"));
    assert_eq!(opened(&longer).as_deref(), Some("TrailingBytes"));
}

#[test]
fn a_file_cut_anywhere_is_truncated() {
    let case = Case::new(32);
    for len in 0..case.bytes.len() {
        assert_eq!(
            case.refusal(&case.bytes[..len]).as_deref(),
            Some("Truncated"),
            "{len} bytes"
        );
    }
    let long = Case::new(2 * CHUNK + 512);
    for index in 0..3 {
        let range = long.chunk(index);
        for len in [range.start, range.start + 1, range.end - 16, range.end - 1] {
            assert_eq!(
                long.refusal(&long.bytes[..len]).as_deref(),
                Some("Truncated"),
                "{len} bytes"
            );
        }
    }
}

#[test]
fn a_file_cut_after_it_was_opened_is_truncated() {
    let case = Case::new(2 * CHUNK + 512);
    fs::write(case.path(), &case.bytes).unwrap();
    let sealed = SealedPackage::open(&case.path()).unwrap();
    let open = sealed.unlock(data_key(case.key), &public_key(), 7).unwrap();
    let file = fs::OpenOptions::new()
        .write(true)
        .open(case.path())
        .unwrap();
    file.set_len(case.bytes.len() as u64 - 1).unwrap();
    assert_eq!(variant(&open.verify(&|_| ()).unwrap_err()), "Truncated");
}

#[test]
fn a_wrong_key_and_an_altered_file_are_one_error() {
    let case = Case::new(32);
    let path = case.folder.path().join("good.casemate");
    let sealed = SealedPackage::open(&path).unwrap();
    let wrong_key = sealed
        .unlock(data_key([9; 32]), &public_key(), 0)
        .unwrap_err();
    let mut altered = case.bytes.clone();
    altered[130] ^= 1;
    fs::write(case.path(), &altered).unwrap();
    let altered = read_fully(&case.path(), case.key).unwrap_err();
    assert_eq!(wrong_key.to_string(), altered.to_string());
}

#[test]
fn another_publisher_and_a_missing_file_are_named() {
    let case = Case::new(32);
    let path = case.folder.path().join("good.casemate");
    let pinned = PublisherKey::from_bytes([1; 32]);
    let error = SealedPackage::open(&path)
        .unwrap()
        .unlock(data_key(case.key), &pinned, 0);
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains(&hex::encode(public_key().as_bytes()))
    );
    assert_eq!(
        variant(&SealedPackage::open(Path::new("/nowhere")).unwrap_err()),
        "Read"
    );
}

#[test]
fn keys_do_not_show_themselves() {
    let mut bytes = [0x41; 32];
    let key = DataKey::from_bytes(&mut bytes);
    assert_eq!(format!("{key:?}"), "DataKey(..)");
    assert_eq!(bytes, [0; 32], "what was handed over is wiped");
}
