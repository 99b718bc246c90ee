//! Known answers (models/tests/vectors/package-kat.json): they need a fixed key, which only tests have.

use std::io::Cursor;

use ring::hkdf::{HKDF_SHA256, KeyType, Salt};
use ring::signature::Ed25519KeyPair;
use serde_json::Value;

use super::chunk::ChunkKey;
use super::key::{DataKey, FreshKey, Part, SALT, subkey_info};
use super::seal::seal_under;
use super::*;

#[path = "../../tests/support/tiny_gguf.rs"]
mod tiny_gguf;

struct Known(Value);

impl Known {
    fn read() -> Self {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/vectors/package-kat.json"
        );
        Self(serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
    }

    fn input<const N: usize>(&self, name: &str) -> [u8; N] {
        bytes(&self.0["inputs"][name]).try_into().unwrap()
    }

    fn text(&self, name: &str) -> String {
        self.0["inputs"][name].as_str().unwrap().to_owned()
    }

    fn key(&self) -> DataKey {
        DataKey::from_bytes(&mut self.input("data_key"))
    }

    fn id(&self) -> PackageId {
        PackageId::from_bytes(self.input("package_id"))
    }
}

fn bytes(hex_text: &Value) -> Vec<u8> {
    hex::decode(hex_text.as_str().unwrap()).unwrap()
}

fn part(name: &Value) -> Part {
    match name.as_str().unwrap() {
        "manifest" => Part::Manifest,
        "weights" => Part::Weights,
        other => panic!("part {other}"),
    }
}

#[test]
fn k09_derivation_vectors() {
    struct Len;
    impl KeyType for Len {
        fn len(&self) -> usize {
            32
        }
    }
    let known = Known::read();
    let cases = known.0["PK-11"].as_array().unwrap();
    for case in cases {
        let secret = Salt::new(HKDF_SHA256, SALT).extract(known.key().expose());
        let mut subkey = [0; 32];
        let info = subkey_info(known.id(), part(&case["part"]));
        secret
            .expand(&[&info], Len)
            .unwrap()
            .fill(&mut subkey)
            .unwrap();
        assert_eq!(subkey.to_vec(), bytes(&case["subkey"]));
    }
    assert_eq!(cases.len(), 2);
    assert_ne!(cases[0]["subkey"], cases[1]["subkey"]);
}

#[test]
fn k09_chunk_vectors() {
    let known = Known::read();
    for case in known.0["PK-22"].as_array().unwrap() {
        let epoch = case["epoch"].as_u64().unwrap();
        let (index, last) = (
            case["index"].as_u64().unwrap(),
            case["last"].as_bool().unwrap(),
        );
        let key = ChunkKey::derive(&known.key(), known.id(), epoch, part(&case["part"])).unwrap();
        assert_eq!(key.associated(index, last), bytes(&case["associated"]));
        let mut chunk = bytes(&case["plain"]);
        let tag = key.seal(index, last, &mut chunk).unwrap();
        assert_eq!([&chunk, tag.as_ref()].concat(), bytes(&case["sealed"]));
        let tag = tag.as_ref().try_into().unwrap();
        key.open(index, last, &mut chunk, tag).unwrap();
        assert_eq!(chunk, bytes(&case["plain"]));
    }
}

#[test]
fn tree_vectors() {
    for case in Known::read().0["PK-32"].as_array().unwrap() {
        let leaves = case["leaves"].as_u64().unwrap() as u8;
        let root = tree::root((0..leaves).map(|i| tree::leaf(&[i])).collect());
        assert_eq!(root.to_vec(), bytes(&case["root"]), "{leaves} leaves");
    }
}

#[test]
fn whole_packages_are_byte_for_byte_the_known_ones() {
    let known = Known::read();
    let signer = Ed25519KeyPair::from_seed_unchecked(&known.input::<32>("publisher_seed")).unwrap();
    let sign = |message: &[u8]| <[u8; 64]>::try_from(signer.sign(message).as_ref()).unwrap();
    let options = SealOptions {
        name: known.text("name"),
        version: known.text("version"),
        epoch: known.0["inputs"]["epoch"].as_u64().unwrap(),
        key_id: known.text("key_id"),
    };
    for case in known.0["packages"].as_array().unwrap() {
        let public_key = PublisherKey::from_bytes(known.input("publisher"));
        let publisher = Publisher {
            public_key,
            sign: &sign,
        };
        let source = tiny_gguf::tiny_gguf(case["content_len"].as_u64().unwrap() as usize);
        assert_eq!(
            tree::sha256(&[&source]).to_vec(),
            bytes(&case["source_sha256"])
        );
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("known.casemate");
        let fresh = FreshKey::fixed(known.input("package_id"), known.input("data_key"));
        let mut reader = Cursor::new(source);
        let header = source::read_header(&mut reader).unwrap();
        let silent = |_| ();
        let made = seal_under(
            fresh,
            &header,
            &mut reader,
            &out,
            &options,
            &publisher,
            &silent,
        );
        let digest = made.unwrap().digest;
        assert_eq!(digest.as_bytes().to_vec(), bytes(&case["package_digest"]));
        let package = std::fs::read(&out).unwrap();
        assert_eq!(package.len() as u64, case["package_len"].as_u64().unwrap());
        assert_eq!(
            tree::sha256(&[&package]).to_vec(),
            bytes(&case["package_sha256"])
        );
        if let Some(whole) = case["package"].as_str() {
            assert_eq!(hex::encode(&package), whole);
        }
        let verified = || {
            let sealed = SealedPackage::open(&out).unwrap();
            let open = sealed.unlock(known.key(), &public_key, 0).unwrap();
            open.verify(&|_| ())
        };
        verified().unwrap();
        // The last tag, which an empty content has too.
        let mut altered = package.clone();
        *altered.last_mut().unwrap() ^= 1;
        std::fs::write(&out, altered).unwrap();
        assert!(matches!(verified(), Err(PackageError::CannotOpen)));
    }
}
