//! A publisher of the moment: seals a model for a benchmark and opens it again with the key from standard input.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use casemate_models::package::{
    DataKey, Publisher, PublisherKey, SealOptions, SealedPackage, UnlockedPackage, seal,
};
use ring::signature::{Ed25519KeyPair, KeyPair};
use zeroize::Zeroizing;

use crate::Anyhow;

/// Seed of the throw-away publisher; the data key is fresh at each run.
const SEED: [u8; 32] = [7; 32];

/// Seals with a throw-away publisher; returns the data key for the children's standard input.
pub fn seal_model(source: &Path, out: &Path) -> Anyhow<Zeroizing<[u8; 32]>> {
    let pair = Ed25519KeyPair::from_seed_unchecked(&SEED)?;
    let sign =
        |message: &[u8]| <[u8; 64]>::try_from(pair.sign(message).as_ref()).unwrap_or([0; 64]);
    let publisher = Publisher {
        public_key: publisher_key()?,
        sign: &sign,
    };
    let options = SealOptions {
        name: "random".into(),
        version: "1".into(),
        epoch: 1,
        key_id: "bench".into(),
    };
    let sealed = seal(&mut File::open(source)?, out, &options, &publisher, &|_| ())?;
    Ok(Zeroizing::new(*sealed.key.expose()))
}

/// Opens what [`seal_model`] made, with the key from standard input.
pub fn unlock(path: &Path) -> Anyhow<UnlockedPackage> {
    let mut key = [0; 32];
    std::io::stdin().read_exact(&mut key)?;
    Ok(SealedPackage::open(path)?.unlock(DataKey::from_bytes(&mut key), &publisher_key()?, 1)?)
}

fn publisher_key() -> Anyhow<PublisherKey> {
    let pair = Ed25519KeyPair::from_seed_unchecked(&SEED)?;
    Ok(PublisherKey::from_bytes(
        pair.public_key().as_ref().try_into()?,
    ))
}
