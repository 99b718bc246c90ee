//! Model files that are cut short, lie about their sizes or are of another architecture: a clear error before any
//! tensor is read, and memory in proportion to the file.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

#[path = "support/tiny_gguf.rs"]
mod tiny_gguf;

use std::fs::{self, File};

use casemate_models::LoadedModel;
use casemate_models::engine::EngineLimits;
use casemate_models::weights::GgufFile;
use tiny_gguf::tiny_gguf;

/// What loading says about a file of these bytes, `len` bytes long with a hole at the end.
fn refusal(bytes: &[u8], len: u64) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.gguf");
    fs::write(&path, bytes).unwrap();
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(len)
        .unwrap();
    match GgufFile::open(&path) {
        Err(error) => error.to_string(),
        Ok(file) => LoadedModel::load(&file, EngineLimits::default(), &mut |_, _| {})
            .err()
            .map(|error| error.to_string())
            .unwrap(),
    }
}

fn refusal_of(bytes: &[u8]) -> String {
    refusal(bytes, bytes.len() as u64)
}

/// `good` with eight bytes replaced.
fn with_number(good: &[u8], at: usize, number: u64) -> Vec<u8> {
    let mut bytes = good.to_vec();
    bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// Where a text's length stands.
fn length_of(bytes: &[u8], text: &str) -> usize {
    let found = bytes
        .windows(text.len())
        .position(|part| part == text.as_bytes());
    found.unwrap() - 8
}

fn peak_memory_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn every_cut_is_called_a_cut() {
    let good = tiny_gguf(4_000);
    let header_len = good.len() - 4_000;
    let some_data = (header_len..good.len()).step_by(499);
    for len in (0..header_len).chain(some_data) {
        let said = refusal_of(&good[..len]);
        let expected = match len {
            // The last bytes before the data are padding.
            len if len + 32 < header_len => "cut short inside its",
            len if len >= header_len => "the model file is truncated: its tensors need",
            _ => "",
        };
        assert!(said.contains(expected), "{len} of {}: {said}", good.len());
    }
    let said = refusal_of(&good[..good.len() - 1]);
    assert!(said.contains(&good.len().to_string()), "{said}");
    assert!(said.contains(&(good.len() - 1).to_string()), "{said}");
}

#[test]
fn sizes_that_no_file_has_are_refused_by_name_and_reserve_nothing() {
    const HUGE: u64 = 1 << 60;
    let good = tiny_gguf(4_000);
    let dimension = length_of(&good, "token_embd.weight") + 8 + "token_embd.weight".len() + 4;
    let cases = [
        (8, "tensor count"),
        (16, "metadata"),
        (length_of(&good, "general.architecture"), "metadata key"),
        (length_of(&good, "llama"), "metadata value"),
        (length_of(&good, "token_embd.weight"), "tensor name"),
        (dimension, "dimensions"),
        (dimension + 12, "truncated"),
    ];
    let before = peak_memory_kib();
    for (at, what) in cases {
        let bytes = with_number(&good, at, HUGE);
        // Also as the beginning of a long file, which could hold more.
        for len in [bytes.len() as u64, 8 << 30] {
            let said = refusal(&bytes, len);
            assert!(said.contains(what), "{what}: {said}");
        }
    }
    // Large, but not so large that the number alone is refused: then the file must have the bytes.
    for (at, number) in [
        (8, 10_000),
        (16, 10_000),
        (length_of(&good, "llama"), 1 << 20),
    ] {
        let said = refusal_of(&with_number(&good, at, number));
        assert!(said.contains("cut short"), "{at}: {said}");
    }
    let grown = peak_memory_kib() - before;
    assert!(grown < 64 << 10, "refusals took {grown} KiB");
}

#[test]
fn a_tensor_larger_than_the_file_is_refused_before_memory_is_reserved() {
    let good = tiny_gguf(4_000);
    let dimension = length_of(&good, "token_embd.weight") + 8 + "token_embd.weight".len() + 4;
    let before = peak_memory_kib();
    let said = refusal_of(&with_number(&good, dimension, 1 << 36));
    assert!(said.contains("truncated"), "{said}");
    let grown = peak_memory_kib() - before;
    assert!(grown < 64 << 10, "the refusal took {grown} KiB");
}

#[test]
fn another_architecture_is_named() {
    let mut bytes = tiny_gguf(4_000);
    let at = length_of(&bytes, "llama") + 8;
    bytes[at..at + 5].copy_from_slice(b"mamba");
    let said = refusal_of(&bytes);
    assert!(
        said.contains("\"mamba\"") && said.contains("llama"),
        "{said}"
    );
}

#[test]
fn a_model_that_lacks_its_sizes_names_the_key() {
    let said = refusal_of(&tiny_gguf(4_000));
    assert!(said.contains("llama.embedding_length"), "{said}");
}

#[test]
fn other_kinds_of_files_are_no_gguf() {
    for bytes in [&b"PK\x03\x04 and so on"[..], b"{\"weights\": []}", &[0; 64]] {
        assert!(refusal_of(bytes).contains("no GGUF file"));
    }
}
