//! The clear header of a package. What is read is written as the same bytes by another encoder,
//! field by field after rule PK-1.
#![no_main]

use casemate_models::package::{CHUNK_LEN, ClearHeader};
use libfuzzer_sys::fuzz_target;

const SEED: &[u8] = include_bytes!("../seeds/package_header/sealed");

fuzz_target!(init: seeds(), |bytes: &[u8]| {
    let Ok(header) = ClearHeader::parse(bytes) else { return };
    assert_eq!(header.as_bytes(), bytes);
    assert_eq!(encode(&header), bytes);
});

fn seeds() {
    assert!(
        ClearHeader::parse(SEED).is_ok(),
        "the seed is out of date: scripts/fuzz seeds"
    );
}

/// The header's fields in their order. The manifest's length follows from the file's; its digest is
/// opaque.
fn encode(header: &ClearHeader) -> Vec<u8> {
    let read = header.as_bytes();
    let weights = sealed_len(header.content_len());
    let manifest = header.file_len() - weights - read.len() as u64;
    assert!(
        manifest >= sealed_len(0),
        "even an empty manifest has a tag"
    );
    let mut out = b"CASEMATE\0\0\0\x01".to_vec();
    out.extend((read.len() as u32).to_be_bytes());
    out.extend(header.id().as_bytes());
    out.extend(header.epoch().to_be_bytes());
    out.extend((header.key_id().len() as u32).to_be_bytes());
    out.extend(header.key_id().as_bytes());
    out.extend([0, 1, 0, 1, 0, 1, 0, 1]);
    out.extend((CHUNK_LEN as u32).to_be_bytes());
    out.extend(weights.to_be_bytes());
    out.extend(manifest.to_be_bytes());
    out.extend(read.last_chunk::<32>().into_iter().flatten());
    out
}

/// Rule PK-23.
fn sealed_len(plain: u64) -> u64 {
    plain + 16 * plain.div_ceil(CHUNK_LEN as u64).max(1)
}
