//! Sealing and reading back: real models, every kind of read, and nothing left behind when sealing fails.

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

use std::fs;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use casemate_models::package::*;
use casemate_models::weights::WeightSource;
use proptest::prelude::*;
use publisher::{options, public_key, read_fully, sealed, try_seal, variant};
use tiny_gguf::tiny_gguf;

fn gguf_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(gguf_files(&path));
        } else if path
            .extension()
            .is_some_and(|extension| extension == "gguf")
        {
            found.push(path);
        }
    }
    found
}

/// Seals a file and compares everything that can be read of the package with the file.
fn round_trip(path: &Path) {
    let source = fs::read(path).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("model.casemate");
    let (digest, key) = sealed(&source, &out, 3);
    let package = read_fully(&out, key).unwrap();
    assert_eq!((package.name(), package.version()), ("tiny", "1.0"));
    assert_eq!(package.clear_header().digest(), digest);
    assert_eq!(
        package.clear_header().file_len(),
        fs::metadata(&out).unwrap().len()
    );
    let mut content = vec![0; package.clear_header().content_len() as usize];
    package.read_content(0, &mut content).unwrap();
    assert!(source.ends_with(&content), "{}", path.display());
    let sealed_bytes = fs::read(&out).unwrap();
    let vocabulary = b"tokenizer.ggml.tokens";
    let shows = |bytes: &[u8]| {
        bytes
            .windows(vocabulary.len())
            .any(|window| window == vocabulary)
    };
    assert!(
        shows(&source) && !shows(&sealed_bytes),
        "shapes and vocabulary are sealed"
    );
}

#[test]
fn the_default_model_comes_back() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("default");
    let files = gguf_files(&folder);
    assert!(!files.is_empty());
    files.iter().for_each(|path| round_trip(path));
}

#[test]
fn real_models_come_back() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/models");
    if !folder.is_dir() {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "{} is missing",
            folder.display()
        );
        println!(
            "SKIP real_models_come_back: {} is missing",
            folder.display()
        );
        return;
    }
    let files = gguf_files(&folder);
    assert!(files.len() >= 10);
    files.iter().for_each(|path| round_trip(path));
}

#[test]
fn contents_at_chunk_borders_come_back() {
    let folder = tempfile::tempdir().unwrap();
    for len in [
        4,
        CHUNK_LEN - 4,
        CHUNK_LEN,
        CHUNK_LEN + 4,
        8 * CHUNK_LEN,
        9 * CHUNK_LEN + 32,
    ] {
        let source = tiny_gguf(len);
        let out = folder.path().join(format!("{len}.casemate"));
        let (_, key) = sealed(&source, &out, 1);
        let package = read_fully(&out, key).unwrap();
        let mut content = vec![0; len];
        package.read_content(0, &mut content).unwrap();
        assert_eq!(content, source[source.len() - len..]);
        let beyond = package
            .read_content(len as u64 - 3, &mut [0; 4])
            .unwrap_err();
        assert_eq!(variant(&beyond), "OutsideContent");
        let overflow = package.read_content(u64::MAX, &mut [0; 4]).unwrap_err();
        assert_eq!(variant(&overflow), "OutsideContent");
    }
}

#[test]
fn an_id_and_a_key_are_never_the_same_twice() {
    let folder = tempfile::tempdir().unwrap();
    let source = tiny_gguf(64);
    let (one, one_key) = sealed(&source, &folder.path().join("one"), 1);
    let (two, two_key) = sealed(&source, &folder.path().join("two"), 1);
    assert_ne!(one, two);
    assert_ne!(one_key, two_key);
    let id = |name| {
        let package = SealedPackage::open(&folder.path().join(name)).unwrap();
        package.header().id()
    };
    assert_ne!(id("one"), id("two"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_read_gives_the_same_bytes(
        reads in prop::collection::vec((0..3 * CHUNK_LEN + 512, 0..2 * CHUNK_LEN + 9), 1..8)
    ) {
        let len = 3 * CHUNK_LEN + 512;
        let source = tiny_gguf(len);
        let content = &source[source.len() - len..];
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("model.casemate");
        let (_, mut key) = sealed(&source, &out, 1);
        let package = SealedPackage::open(&out).unwrap();
        let package = package.unlock(DataKey::from_bytes(&mut key), &public_key(), 1).unwrap();
        for (offset, wanted) in reads {
            let mut into = vec![0; wanted.min(len - offset)];
            package.read_content(offset as u64, &mut into).unwrap();
            prop_assert!(into == content[offset..offset + into.len()]);
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_a_header_or_an_error(
        mut bytes in prop::collection::vec(any::<u8>(), 0..200),
        start in 0..3usize,
    ) {
        // Random bytes never get past the magic: most cases are given it, half of them a right length too.
        let len = bytes.len() as u32;
        let right = [&b"CASEMATE"[..], &[0, 0, 0, 1], &len.to_be_bytes()].concat();
        let take = [0, 12, 16][start];
        if bytes.len() >= 16 {
            bytes[..take].copy_from_slice(&right[..take]);
        }
        if let Ok(header) = ClearHeader::parse(&bytes) {
            prop_assert_eq!(header.as_bytes(), &bytes[..]);
        }
    }
}

// Failures of the sealer.

/// Seals into an empty folder, expects a failure and looks that the folder is still empty.
fn fails_with(error: &str, source: &mut (impl Read + Seek), options: &SealOptions) {
    let folder = tempfile::tempdir().unwrap();
    let failed = try_seal(source, &folder.path().join("out"), options, &|_| ()).unwrap_err();
    assert_eq!(variant(&failed), error, "{failed}");
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        0,
        "nothing is left: {failed}"
    );
}

#[test]
fn bad_options_are_refused() {
    let good = options(1);
    let mut source = Cursor::new(tiny_gguf(32));
    for key_id in ["", "a b", "a\n", "schl\u{fc}ssel", &"k".repeat(129)] {
        let bad = SealOptions {
            key_id: key_id.to_owned(),
            ..good.clone()
        };
        fails_with("BadKeyId", &mut source, &bad);
    }
    for text in ["", "a\u{1b}[2J", &"n".repeat(129)] {
        fails_with(
            "BadText",
            &mut source,
            &SealOptions {
                name: text.to_owned(),
                ..good.clone()
            },
        );
        fails_with(
            "BadText",
            &mut source,
            &SealOptions {
                version: text.to_owned(),
                ..good.clone()
            },
        );
    }
}

#[test]
fn sources_that_are_no_whole_model_are_refused() {
    let whole = tiny_gguf(64);
    let cut = |len: usize| Cursor::new(whole[..len].to_vec());
    fails_with("Gguf", &mut cut(0), &options(1));
    fails_with("Gguf", &mut cut(40), &options(1));
    // The header, but not the padding behind it.
    fails_with("SourceTruncated", &mut cut(whole.len() - 65), &options(1));
    fails_with("SourceTruncated", &mut cut(whole.len() - 1), &options(1));
    fails_with(
        "Gguf",
        &mut Cursor::new(b"no model at all".to_vec()),
        &options(1),
    );
}

#[test]
fn a_vocabulary_without_tensors_is_refused_by_name() {
    // With the padding that some writers put behind the header, and without it.
    let padded = tiny_gguf(0);
    let whole = padded.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    for len in [padded.len(), whole] {
        let mut source = Cursor::new(padded[..len].to_vec());
        fails_with("NoTensors", &mut source, &options(1));
    }
}

/// A file whose length, as told by seeking, is not the number of bytes that it yields.
struct Changing {
    inner: Cursor<Vec<u8>>,
    told_len: u64,
}

impl Read for Changing {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.inner.read(into)
    }
}

impl Seek for Changing {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match to {
            SeekFrom::End(0) => Ok(self.told_len),
            other => self.inner.seek(other),
        }
    }
}

#[test]
fn a_source_that_changes_meanwhile_is_refused() {
    let whole = tiny_gguf(3 * CHUNK_LEN);
    for change in [-1, 1] {
        let told_len = whole.len() as u64;
        let mut bytes = whole.clone();
        bytes.resize((whole.len() as i64 + change) as usize, 0);
        let mut source = Changing {
            inner: Cursor::new(bytes),
            told_len,
        };
        fails_with("SourceChanged", &mut source, &options(1));
    }
}

#[test]
fn a_signature_that_does_not_verify_is_never_published() {
    let folder = tempfile::tempdir().unwrap();
    let publisher = Publisher {
        public_key: public_key(),
        sign: &|_| [0; 64],
    };
    let out = folder.path().join("out");
    let mut source = Cursor::new(tiny_gguf(64));
    let failed = seal(&mut source, &out, &options(1), &publisher, &|_| ()).unwrap_err();
    assert_eq!(variant(&failed), "BadSignature");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn an_existing_file_is_never_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    fs::write(&out, "mine").unwrap();
    let failed = try_seal(&mut Cursor::new(tiny_gguf(64)), &out, &options(1), &|_| ()).unwrap_err();
    assert_eq!(variant(&failed), "OutputExists");
    assert_eq!(fs::read(&out).unwrap(), b"mine");
    let nowhere = folder.path().join("no/such/folder/out");
    let failed = try_seal(
        &mut Cursor::new(tiny_gguf(64)),
        &nowhere,
        &options(1),
        &|_| (),
    )
    .unwrap_err();
    assert_eq!(variant(&failed), "Write");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn progress_adds_up_to_the_content() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let len = 9 * CHUNK_LEN + 32;
    let source = tiny_gguf(len);
    let done = AtomicU64::new(0);
    let progress = |more: u64| {
        done.fetch_add(more, Ordering::Relaxed);
    };
    let made = try_seal(&mut Cursor::new(source), &out, &options(1), &progress).unwrap();
    assert_eq!(done.swap(0, Ordering::Relaxed), len as u64);
    let package = SealedPackage::open(&out).unwrap();
    let package = package.unlock(made.key, &public_key(), 1).unwrap();
    package.verify(&progress).unwrap();
    assert_eq!(done.into_inner(), len as u64);
}
