//! Rows of the ledger on a disk that the host reads: names and sums of principals are sealed one by one, so that the file tells how
//! many rows there are and when they are written, and not whose they are or what is in them.
//!
//! A row stands under a keyed hash of its name. Its value is AES-256-GCM over name and value, padded, under a key that comes from the
//! ledger's key and a salt of the process that wrote it; numbers count up within a process, so that none comes twice under a key.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;
use zeroize::Zeroizing;

use super::store::LedgerKey;

const NAMES_LABEL: &[u8] = b"casemate/guard-rows/v1";
const VALUES_LABEL: &[u8] = b"casemate/guard-values/v1";
/// Bytes of a salt, and of the counter that follows it.
const SALT: usize = 16;
/// Sealed rows are as long as a multiple of this.
const PADDED: usize = 256;

/// A row as it lies on the disk: what it stands under, and its value.
pub(super) type SealedRow = (String, Vec<u8>);

/// Seals rows, and opens them.
pub(super) struct Cipher {
    names: hmac::Key,
    values: hmac::Key,
    salt: [u8; SALT],
    own: LessSafeKey,
    count: u64,
}

impl Cipher {
    /// Under a ledger's key, for a process that drew `salt`; nothing where the library takes no such key.
    pub(super) fn new(key: &LedgerKey, salt: [u8; SALT]) -> Option<Self> {
        let base = key.hmac();
        let derived = |label| hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&base, label).as_ref());
        let values = derived(VALUES_LABEL);
        Some(Self {
            names: derived(NAMES_LABEL),
            own: value_key(&values, &salt)?,
            values,
            salt,
            count: 0,
        })
    }

    /// What a row stands under.
    pub(super) fn place(&self, row: &str) -> String {
        hex::encode(hmac::sign(&self.names, row.as_bytes()))
    }

    /// A row for the disk. `None` where the library refuses, which it has no reason to.
    pub(super) fn seal(&mut self, row: &str, value: &[u8]) -> Option<SealedRow> {
        let place = self.place(row);
        let mut bytes = u32::try_from(row.len()).ok()?.to_be_bytes().to_vec();
        bytes.extend_from_slice(&u32::try_from(value.len()).ok()?.to_be_bytes());
        bytes.extend_from_slice(row.as_bytes());
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(PADDED), 0);
        self.count = self.count.checked_add(1)?;
        let about = Aad::from(place.as_bytes());
        self.own
            .seal_in_place_append_tag(nonce(self.count), about, &mut bytes)
            .ok()?;
        let mut sealed = self.salt.to_vec();
        sealed.extend_from_slice(&self.count.to_be_bytes());
        sealed.append(&mut bytes);
        Some((place, sealed))
    }

    /// Name and value of a row from the disk; nothing where it is none of ours, or stands elsewhere than it was put.
    pub(super) fn open(&self, place: &str, sealed: &[u8]) -> Option<(String, Vec<u8>)> {
        let (salt, rest) = sealed.split_first_chunk::<SALT>()?;
        let (count, rest) = rest.split_first_chunk()?;
        let mut bytes = Zeroizing::new(rest.to_vec());
        let about = Aad::from(place.as_bytes());
        let key = value_key(&self.values, salt)?;
        let nonce = nonce(u64::from_be_bytes(*count));
        let open = key.open_in_place(nonce, about, &mut bytes).ok()?;
        let (row_len, rest) = open.split_first_chunk()?;
        let (value_len, rest) = rest.split_first_chunk()?;
        let row_len = usize::try_from(u32::from_be_bytes(*row_len)).ok()?;
        let value_len = usize::try_from(u32::from_be_bytes(*value_len)).ok()?;
        let (row, rest) = rest.split_at_checked(row_len)?;
        let row = String::from_utf8(row.to_vec()).ok()?;
        let value = rest.get(..value_len)?.to_vec();
        (self.place(&row) == place).then_some((row, value))
    }
}

fn value_key(values: &hmac::Key, salt: &[u8; SALT]) -> Option<LessSafeKey> {
    let key = hmac::sign(values, salt);
    let key = UnboundKey::new(&AES_256_GCM, key.as_ref()).ok()?;
    Some(LessSafeKey::new(key))
}

fn nonce(count: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    let numbers = bytes.iter_mut().rev().zip(count.to_le_bytes());
    numbers.for_each(|(byte, of_count)| *byte = of_count);
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cipher(key: u8, salt: u8) -> Cipher {
        Cipher::new(&LedgerKey::new([key; 32]), [salt; SALT]).unwrap()
    }

    #[test]
    fn a_row_opens_under_its_key_at_its_place_and_nowhere_else() {
        let mut writer = cipher(1, 2);
        let (place, sealed) = writer.seal("note/ada", b"{\"step\":1}").unwrap();
        assert_eq!((place.len(), sealed.len()), (64, 16 + 8 + 256 + 16));
        let opened = Some(("note/ada".to_owned(), b"{\"step\":1}".to_vec()));
        assert_eq!(
            cipher(1, 9).open(&place, &sealed),
            opened,
            "another process"
        );
        assert_eq!(cipher(3, 2).open(&place, &sealed), None, "another key");
        assert_eq!(writer.open(&writer.place("note/bob"), &sealed), None);
        for at in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[at] ^= 1;
            assert_eq!(writer.open(&place, &bad), None, "byte {at}");
            assert_eq!(writer.open(&place, &sealed[..at]), None, "{at} bytes");
        }
        let again = writer.seal("note/ada", b"{\"step\":1}").unwrap();
        assert_eq!(again.0, place);
        assert_ne!(again.1, sealed, "the same value reads otherwise");
        let long = writer.seal("a", &[7; 300]).unwrap();
        assert_eq!(long.1.len(), 16 + 8 + 512 + 16);
    }
}
