//! The plaintext manifest of a package. What is read is nine framed items that fill it, and only
//! what the publisher signed verifies.
#![no_main]

use casemate_models::package::{ClearHeader, Manifest, PackageError, PublisherKey};
use libfuzzer_sys::fuzz_target;
use zeroize::Zeroizing;

const HEADER: &[u8] = include_bytes!("../seeds/package_header/sealed");
const SEED: &[u8] = include_bytes!("../seeds/package_manifest/signed");

fuzz_target!(init: seeds(), |bytes: &[u8]| {
    let Ok(manifest) = parse(bytes) else { return };
    assert_eq!(manifest.as_bytes(), bytes);
    let items = framed_items(bytes);
    assert_eq!(items.as_ref().map(Vec::len), Some(9));
    let framed = |item: &[u8]| [&(item.len() as u32).to_be_bytes(), item].concat();
    let written: Vec<u8> = items.into_iter().flatten().flat_map(framed).collect();
    assert_eq!(written, bytes);
    assert_eq!(verifies(manifest), bytes == SEED);
});

fn seeds() {
    assert!(
        parse(SEED).is_ok_and(verifies),
        "the seed is out of date: scripts/fuzz seeds"
    );
}

fn parse(bytes: &[u8]) -> Result<Manifest, PackageError> {
    Manifest::parse(Zeroizing::new(bytes.to_vec()))
}

/// Whether the publisher of the seed signed it for the seed's package.
fn verifies(manifest: Manifest) -> bool {
    let publisher = framed_items(SEED).and_then(|items| items[7].try_into().ok());
    let (Some(publisher), Ok(header)) = (publisher, ClearHeader::parse(HEADER)) else {
        panic!("the seeds are out of date: scripts/fuzz seeds");
    };
    manifest
        .verify(&header, &PublisherKey::from_bytes(publisher))
        .is_ok()
}

/// Rule P-3: lengths of 32 bits, each before its item, to the last byte.
fn framed_items(mut rest: &[u8]) -> Option<Vec<&[u8]>> {
    let mut items = Vec::new();
    while let Some((len, behind)) = rest.split_first_chunk::<4>() {
        let (item, left) = behind.split_at_checked(u32::from_be_bytes(*len) as usize)?;
        items.push(item);
        rest = left;
    }
    rest.is_empty().then_some(items)
}
