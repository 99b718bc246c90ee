//! A publisher with a fixed release key, and packages sealed by it.

use std::io::{Cursor, Read, Seek};
use std::path::Path;

use casemate_models::package::*;
use ring::signature::{Ed25519KeyPair, KeyPair};

/// The seed of the vectors' publisher.
pub const SEED: [u8; 32] = {
    let mut seed = [0; 32];
    let mut i = 0;
    while i < 32 {
        seed[i] = 0x40 + i as u8;
        i += 1;
    }
    seed
};

pub fn signer() -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&SEED).unwrap()
}

pub fn public_key() -> PublisherKey {
    PublisherKey::from_bytes(signer().public_key().as_ref().try_into().unwrap())
}

pub fn options(epoch: u64) -> SealOptions {
    let key_id = "file:0123456789abcdef".to_owned();
    SealOptions {
        name: "tiny".into(),
        version: "1.0".into(),
        epoch,
        key_id,
    }
}

/// Seals `source` at `out`; returns the digest and the data key's bytes.
pub fn sealed(source: &[u8], out: &Path, epoch: u64) -> (PackageDigest, [u8; 32]) {
    let made = try_seal(&mut Cursor::new(source), out, &options(epoch), &|_| ()).unwrap();
    (made.digest, *made.key.expose())
}

pub fn try_seal(
    source: &mut (impl Read + Seek),
    out: &Path,
    options: &SealOptions,
    progress: &Progress<'_>,
) -> Result<Sealed, SealError> {
    let signer = signer();
    let sign = |message: &[u8]| <[u8; 64]>::try_from(signer.sign(message).as_ref()).unwrap();
    seal(
        source,
        out,
        options,
        &Publisher {
            public_key: public_key(),
            sign: &sign,
        },
        progress,
    )
}

/// Opens, unlocks and verifies: the strictest reading there is.
pub fn read_fully(path: &Path, mut key: [u8; 32]) -> Result<UnlockedPackage, PackageError> {
    let key = DataKey::from_bytes(&mut key);
    let package = SealedPackage::open(path)?.unlock(key, &public_key(), 0)?;
    package.verify(&|_| ())?;
    Ok(package)
}

/// The name of an error's variant.
pub fn variant(error: &impl std::fmt::Debug) -> String {
    format!("{error:?}")
        .chars()
        .take_while(char::is_ascii_alphanumeric)
        .collect()
}
