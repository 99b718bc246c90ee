//! GGUF metadata, and the architecture and tokenizer that are built from it. Memory stays within a
//! multiple of the input.
#![no_main]

use std::alloc::System;

use cap::Cap;
use casemate_models::gguf::GgufHeader;
use casemate_models::decoder::DecoderConfig;
use casemate_models::tokenizer::Tokenizer;
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, usize::MAX);

const SPM: &[u8] = include_bytes!("../seeds/gguf_metadata/spm.gguf");
const BPE: &[u8] = include_bytes!("../seeds/gguf_metadata/bpe.gguf");

/// What a header takes in memory: a hash table of keys of one byte needs the most for its bytes.
const HEADER_FACTOR: usize = 32;
const HEADER_BYTES: usize = 4096;
/// The same for what is built from it. The compiled patterns of a tokenizer come on top.
const MODEL_FACTOR: usize = 256;
const MODEL_BYTES: usize = 64 << 20;

fuzz_target!(init: seeds(), |bytes: &[u8]| {
    let header_limit = HEADER_BYTES + HEADER_FACTOR * bytes.len();
    let Ok(header) = within(header_limit, || GgufHeader::parse(bytes)) else { return };
    prefix_is_enough(&header, bytes);
    for tensor in header.tensors() {
        assert!(tensor.offset() + tensor.byte_len() <= header.data_len());
    }
    within(MODEL_BYTES + MODEL_FACTOR * bytes.len(), || describe(&header));
});

fn seeds() {
    for seed in [SPM, BPE] {
        let header = GgufHeader::parse(seed);
        let read = header.is_ok_and(|header| {
            DecoderConfig::from_header(&header).is_ok() && Tokenizer::from_header(&header).is_ok()
        });
        assert!(read, "a seed is out of date: scripts/fuzz seeds");
    }
}

/// What stands behind the header changes nothing.
fn prefix_is_enough(header: &GgufHeader, bytes: &[u8]) {
    let end = bytes.len().min(header.data_offset() as usize);
    let again = GgufHeader::parse(&bytes[..end]);
    assert!(again.is_ok_and(|again| again.tensors() == header.tensors()));
}

fn describe(header: &GgufHeader) {
    if let Ok(config) = DecoderConfig::from_header(header) {
        assert!(config.cache_bytes_per_token() > 0);
    }
    let Ok(tokenizer) = Tokenizer::from_header(header) else {
        return;
    };
    for text in ["", "Two words.", "<s>\u{2581}\u{1F980}</s>"] {
        let ids = tokenizer.encode_text(text).unwrap_or_default();
        assert!(ids.iter().all(|id| (*id as usize) < tokenizer.len()));
        let _ = tokenizer.decode(&ids);
    }
}

/// Runs `work`, in which an allocation beyond `limit` more bytes ends the process.
fn within<T>(limit: usize, work: impl FnOnce() -> T) -> T {
    assert!(MEMORY.set_limit(MEMORY.allocated() + limit).is_ok());
    let done = work();
    assert!(MEMORY.set_limit(usize::MAX).is_ok());
    done
}
