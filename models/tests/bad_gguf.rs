//! Model files that are cut short, lie about their sizes, lack or damage what they must have or are of another
//! architecture: a clear error, before any tensor is read where that can be, and memory in proportion to the file.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

#[path = "support/tiny_gguf.rs"]
mod tiny_gguf;
#[path = "support/tiny_model.rs"]
mod tiny_model;

use std::fs::{self, File};

use casemate_models::LoadedModel;
use casemate_models::engine::EngineLimits;
use casemate_models::weights::GgufFile;
use tiny_gguf::tiny_gguf;
use tiny_model::{Family, Meta, Sizes, TinyModel, TinyTensor, VOCABULARY};

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

fn refusal_of_model(change: impl FnOnce(TinyModel) -> TinyModel) -> String {
    let model = TinyModel::sized(Family::Llama, 1, WIDE);
    refusal_of(&change(model).bytes())
}

/// Rows of whole superblocks.
const WIDE: Sizes = Sizes {
    layers: 1,
    width: 256,
    heads: 4,
    key_value_heads: 2,
    head_width: 64,
    feed_forward: 256,
    experts: 0,
    experts_used: 0,
};

#[test]
fn scales_and_numbers_that_are_not_finite_are_found_while_loading() {
    use candle_core::quantized::GgmlDType as Kind;
    const DOWN: &str = "blk.0.ffn_down.weight";
    // A type, and what makes one of its scales infinite or no number, in the last block.
    type Damage = fn(&mut [u8]);
    let at_end: [(Kind, Damage); 9] = [
        (Kind::F32, |bytes| end(bytes, 4, &f32::NAN.to_le_bytes())),
        (Kind::F16, |bytes| end(bytes, 2, &[0x00, 0xfc])),
        (Kind::BF16, |bytes| end(bytes, 2, &[0x80, 0x7f])),
        (Kind::Q8_0, |bytes| end(bytes, 34, &[0x01, 0x7c])),
        (Kind::Q4_0, |bytes| end(bytes, 18, &[0x00, 0x7c])),
        (Kind::Q5_1, |bytes| end(bytes, 22, &[0x00, 0x7c])),
        (Kind::Q4K, |bytes| end(bytes, 142, &[0x00, 0x7e])),
        (Kind::Q5K, |bytes| end(bytes, 176, &[0x00, 0xfe])),
        (Kind::Q6K, |bytes| end(bytes, 2, &[0x00, 0x7c])),
    ];
    for (kind, damage) in at_end {
        let good = |model: TinyModel| model.quantised(kind);
        let path = tempfile::NamedTempFile::new().unwrap();
        good(TinyModel::sized(Family::Llama, 1, WIDE)).write(path.path());
        let file = GgufFile::open(path.path()).unwrap();
        let loaded = LoadedModel::load(&file, EngineLimits::default(), &mut |_, _| {});
        assert!(loaded.is_ok(), "{kind:?}");
        let bad = |tensor: &mut TinyTensor| tensor.damage = Some(damage);
        let said = refusal_of_model(|model| good(model).with(DOWN, bad));
        let expected = match kind {
            Kind::F32 | Kind::F16 | Kind::BF16 => "a number that is not finite",
            _ => "a block whose scale is not finite",
        };
        assert!(
            said.contains(DOWN) && said.contains(expected),
            "{kind:?}: {said}"
        );
    }
    // Norms and factors too.
    for name in ["output_norm.weight", "rope_freqs.weight"] {
        let bad = |tensor: &mut TinyTensor| tensor.floats[0] = f32::INFINITY;
        let said = refusal_of_model(|model| model.with(name, bad));
        assert!(said.contains(name) && said.contains("not finite"), "{said}");
    }
}

/// Replaces what begins `from_end` bytes before the end.
fn end(bytes: &mut [u8], from_end: usize, with: &[u8]) {
    let at = bytes.len() - from_end;
    bytes[at..at + with.len()].copy_from_slice(with);
}

#[test]
fn types_that_are_not_read_are_called_by_their_names() {
    for (id, name) in [
        (16, "IQ2_XXS"),
        (17, "IQ2_XS"),
        (18, "IQ3_XXS"),
        (19, "IQ1_S"),
        (20, "IQ4_NL"),
        (21, "IQ3_S"),
        (22, "IQ2_S"),
        (23, "IQ4_XS"),
        (29, "IQ1_M"),
        (34, "TQ1_0"),
        (35, "TQ2_0"),
        (39, "MXFP4"),
        (40, "NVFP4"),
        (9, "Q8_1"),
        (24, "I8"),
        (28, "F64"),
        (99, "99, which ggml does not know"),
    ] {
        let kind = |tensor: &mut TinyTensor| tensor.said_kind = Some(id);
        let said = refusal_of_model(|model| model.with("blk.0.attn_q.weight", kind));
        let expected = format!("tensor \"blk.0.attn_q.weight\" has the type {name}, ");
        assert!(said.contains(&expected), "{said}");
    }
}

#[test]
fn tensors_that_lie_wrong_or_have_impossible_shapes_are_named() {
    const NAME: &str = "blk.0.attn_q.weight";
    let said = |change: fn(&mut TinyTensor)| refusal_of_model(|model| model.with(NAME, change));
    let cases = [
        (said(|tensor| tensor.said_offset = Some(0)), "overlap"),
        (
            said(|tensor| tensor.said_offset = Some(8)),
            "misaligned or out of range",
        ),
        (
            said(|tensor| tensor.said_offset = Some(u64::MAX - 31)),
            "misaligned or out of range",
        ),
        (
            said(|tensor| tensor.said_shape = Some(vec![256, 0])),
            "dimensions that are zero",
        ),
        (
            said(|tensor| tensor.said_shape = Some(vec![0])),
            "dimensions that are zero",
        ),
        (
            said(|tensor| tensor.said_shape = Some(vec![1; 5])),
            "too many or too large",
        ),
        (
            said(|tensor| tensor.said_shape = Some(vec![u64::MAX, 2])),
            "too many or too large",
        ),
        (
            said(|tensor| tensor.said_shape = Some(vec![128, 512])),
            "has shape [512, 128]",
        ),
        (
            said(|tensor| tensor.said_shape = Some(vec![256 * 256])),
            "has shape [65536]",
        ),
    ];
    for (said, expected) in cases {
        assert!(
            said.contains(NAME) && said.contains(expected),
            "{expected}: {said}"
        );
    }
    let far = said(|tensor| tensor.said_offset = Some(1 << 40));
    assert!(far.contains("the model file is truncated"), "{far}");
}

#[test]
fn a_model_without_its_tokenizer_names_what_is_missing() {
    for key in ["model", "tokens", "scores"] {
        let key = format!("tokenizer.ggml.{key}");
        let said = refusal_of_model(|mut model| {
            model.metadata.remove(&key);
            model
        });
        assert!(said.contains(&key), "{said}");
    }
}

/// The tokenizers crate joins both halves in a buffer of the longest token's size, and slices past its end (found by
/// fuzzing).
#[test]
fn a_merge_that_no_token_is_long_enough_for_is_named() {
    for merge in ["<0x00> <0x01>", "<0x00> a", "<0x00>", " <0x00>"] {
        let said = refusal_of_model(|mut model| {
            let kinds = Meta::Integers(vec![1; VOCABULARY]);
            let merges = Meta::Texts(vec![merge.to_owned()]);
            for (key, value) in [
                ("model", Meta::Text("gpt2")),
                ("token_type", kinds),
                ("merges", merges),
            ] {
                let key = format!("tokenizer.ggml.{key}");
                model.metadata.insert(key, value);
            }
            model
        });
        assert!(said.contains("merge"), "{merge}: {said}");
    }
}
