//! The key-encryption key in a file of mode 0600: for development, and for brokers without a token.
//!
//! The file's 32 bytes are never used as a cipher key: every purpose has a subkey of its own (HKDF-SHA256).

use std::path::Path;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::{Zeroize, Zeroizing};

use super::{DataKey, DerivedKey, KeyEncryption, KeyError, KeySubject};
use crate::secrets::read_secret_file;

/// Length of a key-encryption key's file in bytes.
pub const KEK_LENGTH: usize = 32;

const DATA_KEY_LENGTH: usize = 32;
const SALT: &[u8] = b"casemate/kek/v1";
const WRAP_LABEL: &[u8] = b"casemate/wrapped-key/v1";
const ID_LABEL: &[u8] = b"casemate/kek-id/v1";
const DERIVE_LABEL: &[u8] = b"casemate/kek-derive/v1";

/// A key-encryption key that was read from a file.
pub struct FileKek {
    root: Prk,
    wrap: LessSafeKey,
    key_id: String,
}

impl std::fmt::Debug for FileKek {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FileKek({})", self.key_id)
    }
}

impl FileKek {
    /// Reads the file `path` of 32 random bytes and mode 0600.
    ///
    /// # Errors
    /// When the file cannot be read, has another mode (rule O-10) or another length.
    pub fn open(path: &Path) -> Result<Self, KeyError> {
        let bytes = read_secret_file(path)?;
        let bytes: &[u8; KEK_LENGTH] = bytes
            .as_slice()
            .try_into()
            .map_err(|_| KeyError::BadKek(path.display().to_string()))?;
        Self::from_bytes(bytes)
    }

    fn from_bytes(bytes: &[u8; KEK_LENGTH]) -> Result<Self, KeyError> {
        let root = Salt::new(HKDF_SHA256, SALT).extract(bytes);
        let wrap_key = expand(&root, &[WRAP_LABEL])?;
        let wrap = UnboundKey::new(&AES_256_GCM, &*wrap_key).map_err(|_| KeyError::DoesNotOpen)?;
        let id = expand(&root, &[ID_LABEL])?;
        let (short, _) = id.split_at(8);
        let key_id = format!("file:{}", hex::encode(short));
        Ok(Self {
            root,
            wrap: LessSafeKey::new(wrap),
            key_id,
        })
    }

    /// Associated data: what the wrapped key is good for, framed as in rule P-3.
    fn associated_data(&self, subject: &KeySubject) -> Vec<u8> {
        let epoch = subject.epoch.to_be_bytes();
        let items: [&[u8]; 3] = [
            subject.package_id.as_bytes(),
            &epoch,
            self.key_id.as_bytes(),
        ];
        let mut bytes = WRAP_LABEL.to_vec();
        for item in items {
            // Three short items: the lengths fit by construction.
            bytes.extend_from_slice(&(item.len() as u32).to_be_bytes());
            bytes.extend_from_slice(item);
        }
        bytes
    }
}

impl KeyEncryption for FileKek {
    fn key_id(&self) -> &str {
        &self.key_id
    }

    fn wrap(&self, subject: &KeySubject, key: &DataKey) -> Result<Vec<u8>, KeyError> {
        let mut nonce = [0_u8; NONCE_LEN];
        SystemRandom::new()
            .fill(&mut nonce)
            .map_err(|_| KeyError::NoRandomness)?;
        let mut sealed =
            Zeroizing::new(Vec::with_capacity(DATA_KEY_LENGTH + AES_256_GCM.tag_len()));
        sealed.extend_from_slice(key.expose());
        let aad = Aad::from(self.associated_data(subject));
        self.wrap
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut *sealed)
            .map_err(|_| KeyError::DoesNotOpen)?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    fn unwrap(&self, subject: &KeySubject, wrapped: &[u8]) -> Result<DataKey, KeyError> {
        let (nonce, sealed) = wrapped
            .split_first_chunk::<NONCE_LEN>()
            .ok_or(KeyError::DoesNotOpen)?;
        let mut sealed = Zeroizing::new(sealed.to_vec());
        let aad = Aad::from(self.associated_data(subject));
        let opened = self
            .wrap
            .open_in_place(Nonce::assume_unique_for_key(*nonce), aad, &mut sealed)
            .map_err(|_| KeyError::DoesNotOpen)?;
        let key = opened.try_into().map_err(|_| KeyError::DoesNotOpen)?;
        Ok(DataKey::from_bytes(key))
    }

    fn derive(&self, label: &str) -> Result<DerivedKey, KeyError> {
        let mut bytes = expand(&self.root, &[DERIVE_LABEL, label.as_bytes()])?;
        let key = DerivedKey(*bytes);
        bytes.zeroize();
        Ok(key)
    }
}

struct Bytes32;

impl KeyType for Bytes32 {
    fn len(&self) -> usize {
        32
    }
}

fn expand(root: &Prk, info: &[&[u8]]) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let mut bytes = Zeroizing::new([0_u8; 32]);
    root.expand(info, Bytes32)
        .and_then(|okm| okm.fill(&mut *bytes))
        .map_err(|_| KeyError::DoesNotOpen)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::PackageId;

    fn kek(byte: u8) -> FileKek {
        FileKek::from_bytes(&[byte; KEK_LENGTH]).unwrap()
    }

    fn subject() -> KeySubject {
        KeySubject {
            package_id: PackageId::from_bytes([7; 16]),
            epoch: 3,
        }
    }

    #[test]
    fn a_wrapped_key_opens_again_and_is_wrapped_differently_each_time() {
        let kek = kek(1);
        let key = DataKey::from_bytes(&mut [9; 32]);
        let (one, two) = (
            kek.wrap(&subject(), &key).unwrap(),
            kek.wrap(&subject(), &key).unwrap(),
        );
        assert_ne!(one, two);
        assert_eq!(kek.unwrap(&subject(), &one).unwrap().expose(), &[9; 32]);
    }

    #[test]
    fn k09_a_wrapped_key_is_good_for_its_package_epoch_and_kek_only() {
        let kek1 = kek(1);
        let wrapped = kek1
            .wrap(&subject(), &DataKey::from_bytes(&mut [9; 32]))
            .unwrap();
        let others = [
            KeySubject {
                package_id: PackageId::from_bytes([8; 16]),
                ..subject()
            },
            KeySubject {
                epoch: 2,
                ..subject()
            },
        ];
        for other in others {
            assert!(matches!(
                kek1.unwrap(&other, &wrapped),
                Err(KeyError::DoesNotOpen)
            ));
        }
        assert!(matches!(
            kek(2).unwrap(&subject(), &wrapped),
            Err(KeyError::DoesNotOpen)
        ));
    }

    /// Values of another implementation (Python's `hmac` and `cryptography`). Other ones would lock every organisation
    /// out of its packages and its broker's store.
    #[test]
    fn k09_derived_and_wrapped_keys_equal_the_known_answers() {
        let kek = FileKek::from_bytes(&std::array::from_fn(|i| i as u8)).unwrap();
        assert_eq!(kek.key_id(), "file:d581c924f330af3f");
        let derived = kek.derive("casemate/broker-store/v1").unwrap();
        assert_eq!(
            hex::encode(derived.expose()),
            "33f2b72e81ce8b3adb126347874d2af5cc973c8c1889873f8580ee182c102c46"
        );
        let wrapped = "000102030405060708090a0ba529e698d1e73543c75404350f160ebb\
            031ee2ca33993c1dab25df768b8d553878f9517d695fec213beed4a3d4c6fe67";
        let key = kek.unwrap(&subject(), &hex::decode(wrapped).unwrap());
        assert_eq!(key.unwrap().expose(), &[9; 32]);
    }

    #[test]
    fn a_key_encryption_key_has_32_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kek.key");
        for length in [0, 31, 33] {
            crate::secrets::write_secret_file(&path, &vec![5; length]).unwrap();
            let error = FileKek::open(&path).unwrap_err();
            assert!(matches!(error, KeyError::BadKek(_)), "{length}: {error}");
        }
    }

    #[test]
    fn every_bit_of_a_wrapped_key_counts_and_short_ones_are_refused() {
        let kek = kek(1);
        let wrapped = kek
            .wrap(&subject(), &DataKey::from_bytes(&mut [9; 32]))
            .unwrap();
        for bit in 0..wrapped.len() * 8 {
            let mut altered = wrapped.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(kek.unwrap(&subject(), &altered).is_err(), "bit {bit}");
        }
        for length in 0..wrapped.len() {
            assert!(
                kek.unwrap(&subject(), &wrapped[..length]).is_err(),
                "length {length}"
            );
        }
    }

    #[test]
    fn derived_keys_depend_on_label_and_kek() {
        let store = kek(1).derive("store").unwrap();
        assert_eq!(store.expose(), kek(1).derive("store").unwrap().expose());
        assert_ne!(store.expose(), kek(1).derive("other").unwrap().expose());
        assert_ne!(store.expose(), kek(2).derive("store").unwrap().expose());
    }

    #[test]
    fn debug_prints_names_only() {
        assert_eq!(
            format!("{:?}", DataKey::from_bytes(&mut [0x41; 32])),
            "DataKey(..)"
        );
        let kek = kek(0x41);
        assert_eq!(format!("{kek:?}"), format!("FileKek({})", kek.key_id()));
        let derived = kek.derive("store").unwrap();
        assert_eq!(format!("{derived:?}"), "DerivedKey(..)");
    }
}
