//! The organisation's `keys/` folder: one wrapped data key for each sealed package.
//!
//! A file is bound to its package by the wrapping; its name and digest are checked against the package by whoever
//! releases the key.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use super::{DataKey, KeyEncryption, KeyError, KeySubject, PackageId};
use crate::secrets::{FileError, write_secret_file};

const FORMAT: &str = "casemate/wrapped-key/v1";
const FILE_LENGTH_MAX: u64 = 4096;
const NAME_LENGTH_MAX: usize = 128;
/// Name of the folder inside the organisation's.
pub const FOLDER: &str = "keys";

/// Why the `keys/` folder could not be used. Every message names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFolderError {
    /// The operating system refused.
    #[error("cannot read {path}: {source}", path = path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Writing failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not a wrapped key, or not the one that its name says.
    #[error("{path} is damaged: {reason}; register the package again or restore the file", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The package is registered already, with this epoch or a later one.
    #[error(
        "package {id} is registered already with epoch {registered}; seal it anew with a higher epoch"
    )]
    AlreadyRegistered {
        /// Package id.
        id: String,
        /// Its epoch in the folder.
        registered: u64,
    },
    /// The model's name cannot be shown safely.
    #[error("a model's name has 1 to {NAME_LENGTH_MAX} printable characters")]
    BadName,
    /// The backend failed.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// A wrapped data key as it lies in the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisteredKey {
    /// The package and epoch that it opens.
    pub subject: KeySubject,
    /// Which key-encryption key wrapped it.
    pub key_id: String,
    /// The model's name; epochs of one name never go back.
    pub name: String,
    /// Rule P-22: SHA-256 of the package's clear header.
    pub digest: [u8; 32],
    /// The wrapped key.
    pub wrapped: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: String,
    id: String,
    epoch: u64,
    key_id: String,
    name: String,
    digest: String,
    wrapped: String,
}

/// Wraps `key` and writes it into the organisation's folder `organisation`. Returns the file's path.
///
/// # Errors
/// When the package is registered already with the same or a later epoch, the name is unfit, or writing fails.
pub fn register(
    organisation: &Path,
    kek: &dyn KeyEncryption,
    subject: KeySubject,
    name: &str,
    digest: [u8; 32],
    key: &DataKey,
) -> Result<PathBuf, KeyFolderError> {
    let printable = !name.is_empty() && !name.chars().any(char::is_control);
    if !printable || name.len() > NAME_LENGTH_MAX {
        return Err(KeyFolderError::BadName);
    }
    let folder = organisation.join(FOLDER);
    fs::create_dir_all(&folder).map_err(|e| read_error(&folder, e))?;
    let path = file_of(&folder, subject.package_id);
    if path.exists() {
        let registered = load(&path)?.subject.epoch;
        if registered >= subject.epoch {
            let id = subject.package_id.to_string();
            return Err(KeyFolderError::AlreadyRegistered { id, registered });
        }
    }
    let document = Document {
        format: FORMAT.into(),
        id: subject.package_id.to_string(),
        epoch: subject.epoch,
        key_id: kek.key_id().to_owned(),
        name: name.to_owned(),
        digest: hex::encode(digest),
        wrapped: BASE64.encode(kek.wrap(&subject, key)?),
    };
    let json = serde_json::to_vec_pretty(&document).map_err(|e| damaged(&path, e))?;
    write_secret_file(&path, &json)?;
    Ok(path)
}

/// Reads every wrapped key of the organisation's folder. A damaged file is an error: nothing is skipped silently.
///
/// # Errors
/// When a file cannot be read, or is damaged or misnamed.
pub fn list(organisation: &Path) -> Result<Vec<RegisteredKey>, KeyFolderError> {
    let folder = organisation.join(FOLDER);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(read_error(&folder, e)),
    };
    let mut keys = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| read_error(&folder, e))?.path();
        if path.extension().is_some_and(|x| x == "json") {
            keys.push(load(&path)?);
        }
    }
    keys.sort_by_key(|key| *key.subject.package_id.as_bytes());
    Ok(keys)
}

fn load(path: &Path) -> Result<RegisteredKey, KeyFolderError> {
    let about = fs::metadata(path).map_err(|e| read_error(path, e))?;
    if about.len() > FILE_LENGTH_MAX {
        return Err(damaged(
            path,
            format!("longer than {FILE_LENGTH_MAX} bytes"),
        ));
    }
    let bytes = fs::read(path).map_err(|e| read_error(path, e))?;
    let document: Document = serde_json::from_slice(&bytes).map_err(|e| damaged(path, e))?;
    if document.format != FORMAT {
        return Err(damaged(path, format!("its format is not {FORMAT}")));
    }
    let package_id = decode_hex(&document.id).map(PackageId::from_bytes);
    let package_id = package_id.ok_or_else(|| damaged(path, "bad id"))?;
    let digest = decode_hex::<32>(&document.digest).ok_or_else(|| damaged(path, "bad digest"))?;
    let wrapped = BASE64
        .decode(&document.wrapped)
        .map_err(|_| damaged(path, "bad base64"))?;
    if path.file_name() != file_of(Path::new(""), package_id).file_name() {
        return Err(damaged(
            path,
            format!("it belongs to package {}", document.id),
        ));
    }
    let subject = KeySubject {
        package_id,
        epoch: document.epoch,
    };
    let (key_id, name) = (document.key_id, document.name);
    Ok(RegisteredKey {
        subject,
        key_id,
        name,
        digest,
        wrapped,
    })
}

fn file_of(folder: &Path, package_id: PackageId) -> PathBuf {
    folder.join(format!("{package_id}.json"))
}

/// Rule P-1: lower-case hexadecimal of exactly `N` bytes.
pub(crate) fn decode_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0_u8; N];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    (hex::encode(bytes) == text).then_some(bytes)
}

fn damaged(path: &Path, reason: impl std::fmt::Display) -> KeyFolderError {
    KeyFolderError::Damaged {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

fn read_error(path: &Path, source: io::Error) -> KeyFolderError {
    KeyFolderError::Io {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::FileKek;

    fn kek(folder: &Path) -> FileKek {
        let path = folder.join("kek.key");
        write_secret_file(&path, &[5; 32]).unwrap();
        FileKek::open(&path).unwrap()
    }

    fn subject() -> KeySubject {
        KeySubject {
            package_id: PackageId::from_bytes([0xab; 16]),
            epoch: 2,
        }
    }

    #[test]
    fn a_registered_key_is_listed_and_opens() {
        let folder = tempfile::tempdir().unwrap();
        let kek = kek(folder.path());
        let key = DataKey::from_bytes(&mut [3; 32]);
        register(folder.path(), &kek, subject(), "tiny", [1; 32], &key).unwrap();
        let keys = list(folder.path()).unwrap();
        assert_eq!(keys.len(), 1);
        assert_eq!((keys[0].name.as_str(), keys[0].digest), ("tiny", [1; 32]));
        let opened = kek.unwrap(&keys[0].subject, &keys[0].wrapped).unwrap();
        assert_eq!(opened.expose(), &[3; 32]);
    }

    #[test]
    fn a_package_is_registered_again_only_with_a_higher_epoch() {
        let folder = tempfile::tempdir().unwrap();
        let kek = kek(folder.path());
        let key = DataKey::from_bytes(&mut [3; 32]);
        let add = |epoch| {
            let subject = KeySubject { epoch, ..subject() };
            register(folder.path(), &kek, subject, "tiny", [1; 32], &key)
        };
        add(2).unwrap();
        for epoch in [1, 2] {
            let error = add(epoch).unwrap_err();
            assert!(matches!(
                error,
                KeyFolderError::AlreadyRegistered { registered: 2, .. }
            ));
        }
        add(3).unwrap();
        assert_eq!(list(folder.path()).unwrap()[0].subject.epoch, 3);
    }

    #[test]
    fn names_that_cannot_be_shown_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let kek = kek(folder.path());
        let key = DataKey::from_bytes(&mut [3; 32]);
        for name in ["", "a\nb", "a\u{1b}[2J", &"n".repeat(129)] {
            let error = register(folder.path(), &kek, subject(), name, [1; 32], &key);
            assert!(matches!(error, Err(KeyFolderError::BadName)), "{name:?}");
        }
        assert!(list(folder.path()).unwrap().is_empty());
        let longest = "n".repeat(128);
        register(folder.path(), &kek, subject(), &longest, [1; 32], &key).unwrap();
    }

    #[test]
    fn k08_a_wrapped_key_is_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let kek = kek(folder.path());
        let key = DataKey::from_bytes(&mut [3; 32]);
        let path = register(folder.path(), &kek, subject(), "tiny", [1; 32], &key).unwrap();
        let mode = fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn damaged_and_misnamed_files_are_reported_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let kek = kek(folder.path());
        let key = DataKey::from_bytes(&mut [3; 32]);
        let path = register(folder.path(), &kek, subject(), "tiny", [1; 32], &key).unwrap();
        let good = fs::read_to_string(&path).unwrap();
        let spoiled = [
            good.replace("\"epoch\": 2", "\"epoch\": 2, \"epoch\": 2"),
            good.replace("\"epoch\": 2", "\"epoch\": 2, \"more\": 2"),
            good.replace("abab", "ABAB"),
            good.replace("abab", "acac"),
            good.replace("key/v1", "key/v2"),
            format!("{good}x"),
            format!("{good}{}", " ".repeat(4096)),
            String::new(),
        ];
        for text in spoiled {
            fs::write(&path, &text).unwrap();
            let error = list(folder.path()).unwrap_err().to_string();
            assert!(
                error.contains("abababab") && error.contains("damaged"),
                "{error}\n{text}"
            );
        }
    }
}
