//! What the broker must never forget: the highest document numbers and epochs, in redb, authenticated.
//!
//! The store lies outside the trust boundary. Each commit seals all rows under a key derived from the key-encryption key
//! and chains the seal to the one before; a witness file elsewhere holds the last generation and seal. An edited store,
//! an older store or a lost one does not open. (Putting back *both* files of an older state is not seen: keep them apart.)

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use ring::hmac;

use crate::keys::{DerivedKey, KeyEncryption, KeyError};
use crate::secrets::{FileError, write_secret_file};

const FILE: &str = "broker.redb";
const KEY_LABEL: &str = "casemate/broker-store/v1";
const SEAL_LABEL: &[u8] = b"casemate/broker-seal/v1";
/// Name to highest value ever. Values only grow.
const MARKS: TableDefinition<'_, &str, u64> = TableDefinition::new("marks");
/// `generation`, `previous` and `seal` of the last commit.
const SEALS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("seals");

type Seal = [u8; 32];

/// Why the store does not open or take a change. The broker fails closed on each of them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is none: never made, or lost.
    #[error("there is no broker store at {0}")]
    Missing(PathBuf),
    /// There is one already.
    #[error("there is a broker store at {0} already")]
    Exists(PathBuf),
    /// The witness is missing or unreadable.
    #[error("the witness {path} of the broker store cannot be used: {reason}", path = path.display())]
    Witness {
        /// The witness file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Rows or seal were changed by somebody without the key, or the key-encryption key is another.
    #[error("the broker store {0} was edited, or belongs to another key-encryption key")]
    Edited(PathBuf),
    /// An older store was put back.
    #[error("the broker store {path} was rolled back: it is at generation {found}, the witness saw {witnessed}",
        path = path.display())]
    RolledBack {
        /// The store.
        path: PathBuf,
        /// Its generation.
        found: u64,
        /// The witness's.
        witnessed: u64,
    },
    /// Another broker has it open.
    #[error("the broker store {0} is in use by another broker")]
    InUse(PathBuf),
    /// The database failed.
    #[error("the broker store failed: {0}")]
    Database(String),
    /// Writing the witness failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The backend failed to derive the store's key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

fn database(error: impl std::fmt::Display) -> StoreError {
    StoreError::Database(error.to_string())
}

/// The open store. One process at a time holds it.
pub struct Store {
    database: Database,
    witness: PathBuf,
    key: hmac::Key,
    generation: u64,
    seal: Seal,
    marks: BTreeMap<String, u64>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store(generation {})", self.generation)
    }
}

impl Store {
    /// Makes an empty store and its witness. Deliberately a step of its own: a broker that finds no store must not take
    /// that for a first start.
    ///
    /// # Errors
    /// When there is a store, or writing fails.
    pub fn create(
        folder: &Path,
        witness: &Path,
        kek: &dyn KeyEncryption,
    ) -> Result<(), StoreError> {
        let path = folder.join(FILE);
        if path.exists() {
            return Err(StoreError::Exists(path));
        }
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder);
        made.map_err(database)?;
        let scratch = folder.join(format!("{FILE}.new"));
        match fs::remove_file(&scratch) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(database(e)),
            _ => {}
        }
        let key = store_key(&kek.derive(KEY_LABEL)?);
        let store = Self {
            database: Database::create(&scratch).map_err(database)?,
            witness: witness.to_owned(),
            key,
            generation: 0,
            seal: [0; 32],
            marks: BTreeMap::new(),
        };
        let mut store = store;
        store.commit(BTreeMap::new())?;
        drop(store);
        fs::rename(&scratch, &path).map_err(database)?;
        fs::File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(database)
    }

    /// Opens the store and checks it against seal and witness.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn open(
        folder: &Path,
        witness: &Path,
        kek: &dyn KeyEncryption,
    ) -> Result<Self, StoreError> {
        let path = folder.join(FILE);
        if !path.exists() {
            return Err(StoreError::Missing(path));
        }
        let seen = read_witness(witness)?;
        let database = Database::open(&path).map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => StoreError::InUse(path.clone()),
            other => database(other),
        })?;
        let content = read_content(&database).map_err(|_| StoreError::Edited(path.clone()))?;
        let Content {
            generation,
            previous,
            seal,
            marks,
        } = content;
        let key = store_key(&kek.derive(KEY_LABEL)?);
        hmac::verify(&key, &sealed_bytes(generation, &previous, &marks), &seal)
            .map_err(|_| StoreError::Edited(path.clone()))?;
        let store = Self {
            database,
            witness: witness.to_owned(),
            key,
            generation,
            seal,
            marks,
        };
        store.compare(path, &previous, seen)?;
        // After a crash between commit and witness, the witness is one behind; now it is not.
        store.write_witness()?;
        Ok(store)
    }

    /// The highest value of `mark` so far, 0 if there is none.
    pub fn highest(&self, mark: &str) -> u64 {
        self.marks.get(mark).copied().unwrap_or(0)
    }

    /// Marks whose names begin with `prefix`, in their order.
    pub fn beginning_with<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, u64)> {
        let from = self.marks.range(prefix.to_owned()..);
        let those = from.take_while(move |(mark, _)| mark.starts_with(prefix));
        those.map(|(mark, value)| (mark.as_str(), *value))
    }

    /// Raises marks; those that are higher already stay. When this returns the change is on disk and witnessed.
    ///
    /// # Errors
    /// When the database or the witness cannot be written; the marks are then as before for this process, and whatever
    /// was being decided must not happen.
    pub fn raise<'a>(
        &mut self,
        marks: impl IntoIterator<Item = (&'a str, u64)>,
    ) -> Result<(), StoreError> {
        let mut raised = self.marks.clone();
        for (mark, value) in marks {
            let highest = raised.entry(mark.to_owned()).or_insert(0);
            *highest = value.max(*highest);
        }
        if raised == self.marks {
            return Ok(());
        }
        self.commit(raised)
    }

    fn commit(&mut self, marks: BTreeMap<String, u64>) -> Result<(), StoreError> {
        let generation = self.generation.saturating_add(1);
        let seal = hmac::sign(&self.key, &sealed_bytes(generation, &self.seal, &marks));
        let transaction = self.database.begin_write().map_err(database)?;
        {
            let mut table = transaction.open_table(MARKS).map_err(database)?;
            for (mark, value) in &marks {
                table.insert(mark.as_str(), value).map_err(database)?;
            }
            let mut seals = transaction.open_table(SEALS).map_err(database)?;
            let number = generation.to_be_bytes();
            for (name, value) in [
                ("generation", number.as_slice()),
                ("previous", &self.seal),
                ("seal", seal.as_ref()),
            ] {
                seals.insert(name, value).map_err(database)?;
            }
        }
        transaction.commit().map_err(database)?;
        self.generation = generation;
        self.seal = seal.as_ref().try_into().map_err(database)?;
        self.marks = marks;
        self.write_witness()
    }

    fn write_witness(&self) -> Result<(), StoreError> {
        let text = format!("{} {}\n", self.generation, hex::encode(self.seal));
        Ok(write_secret_file(&self.witness, text.as_bytes())?)
    }

    /// The store may be where the witness saw it, or one commit further; nowhere else.
    fn compare(&self, path: PathBuf, previous: &Seal, seen: (u64, Seal)) -> Result<(), StoreError> {
        let (witnessed, seal) = seen;
        if self.generation == witnessed && self.seal == seal {
            return Ok(());
        }
        if self.generation == witnessed.saturating_add(1) && *previous == seal {
            return Ok(());
        }
        if self.generation < witnessed {
            return Err(StoreError::RolledBack {
                path,
                found: self.generation,
                witnessed,
            });
        }
        let reason = format!("it saw generation {witnessed} of another store");
        Err(StoreError::Witness {
            path: self.witness.clone(),
            reason,
        })
    }
}

struct Content {
    generation: u64,
    previous: Seal,
    seal: Seal,
    marks: BTreeMap<String, u64>,
}

fn read_content(database: &Database) -> Result<Content, StoreError> {
    let transaction = database.begin_read().map_err(self::database)?;
    let table = transaction.open_table(MARKS).map_err(self::database)?;
    let mut marks = BTreeMap::new();
    for row in table.iter().map_err(self::database)? {
        let (mark, value) = row.map_err(self::database)?;
        marks.insert(mark.value().to_owned(), value.value());
    }
    let seals = transaction.open_table(SEALS).map_err(self::database)?;
    Ok(Content {
        generation: u64::from_be_bytes(read_seal(&seals, "generation")?),
        previous: read_seal(&seals, "previous")?,
        seal: read_seal(&seals, "seal")?,
        marks,
    })
}

fn read_seal<const N: usize>(
    seals: &impl ReadableTable<&'static str, &'static [u8]>,
    name: &str,
) -> Result<[u8; N], StoreError> {
    let row = seals
        .get(name)
        .map_err(database)?
        .ok_or_else(|| database("a seal is missing"))?;
    row.value().try_into().map_err(database)
}

fn read_witness(path: &Path) -> Result<(u64, Seal), StoreError> {
    let wrong = |reason: String| StoreError::Witness {
        path: path.to_owned(),
        reason,
    };
    let text = fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
    let parts = text.trim_end().split_once(' ');
    parts
        .and_then(|(number, seal)| Some((number.parse().ok()?, crate::keys::decode_hex(seal)?)))
        .ok_or_else(|| wrong("not a witness".into()))
}

fn store_key(key: &DerivedKey) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, key.expose())
}

/// What a seal covers: generation, the seal before, and every mark, framed (rule P-3).
fn sealed_bytes(generation: u64, previous: &Seal, marks: &BTreeMap<String, u64>) -> Vec<u8> {
    let mut bytes = SEAL_LABEL.to_vec();
    let mut put = |item: &[u8]| {
        bytes.extend_from_slice(&(item.len() as u32).to_be_bytes());
        bytes.extend_from_slice(item);
    };
    put(&generation.to_be_bytes());
    put(previous);
    for (mark, value) in marks {
        put(mark.as_bytes());
        put(&value.to_be_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::FileKek;

    struct Place {
        folder: tempfile::TempDir,
        kek: FileKek,
    }

    impl Place {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let key = folder.path().join("kek.key");
            write_secret_file(&key, &[5; 32]).unwrap();
            let place = Self {
                kek: FileKek::open(&key).unwrap(),
                folder,
            };
            Store::create(&place.state(), &place.witness(), &place.kek).unwrap();
            place
        }
        fn state(&self) -> PathBuf {
            self.folder.path().join("state")
        }
        fn file(&self) -> PathBuf {
            self.state().join(FILE)
        }
        fn witness(&self) -> PathBuf {
            self.folder.path().join("witness")
        }
        fn open(&self) -> Result<Store, StoreError> {
            Store::open(&self.state(), &self.witness(), &self.kek)
        }
    }

    #[test]
    fn marks_survive_and_never_go_back() {
        let place = Place::new();
        let mut store = place.open().unwrap();
        store.raise([("a", 3), ("b", 1)]).unwrap();
        store.raise([("a", 2)]).unwrap();
        drop(store);
        let store = place.open().unwrap();
        assert_eq!(
            (store.highest("a"), store.highest("b"), store.highest("c")),
            (3, 1, 0)
        );
        assert_eq!(
            store.generation, 2,
            "nothing was written for the second change"
        );
    }

    #[test]
    fn k12_a_store_that_was_rolled_back_does_not_open() {
        let place = Place::new();
        place.open().unwrap().raise([("a", 1)]).unwrap();
        let old = fs::read(place.file()).unwrap();
        place.open().unwrap().raise([("a", 2)]).unwrap();
        place.open().unwrap().raise([("a", 3)]).unwrap();
        fs::write(place.file(), old).unwrap();
        let error = place.open().unwrap_err();
        assert!(
            matches!(
                error,
                StoreError::RolledBack {
                    found: 2,
                    witnessed: 4,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn k12_a_lost_store_or_witness_is_not_taken_for_a_first_start() {
        let place = Place::new();
        let witness = fs::read(place.witness()).unwrap();
        fs::remove_file(place.witness()).unwrap();
        assert!(matches!(
            place.open().unwrap_err(),
            StoreError::Witness { .. }
        ));
        fs::write(place.witness(), witness).unwrap();
        fs::remove_file(place.file()).unwrap();
        assert!(matches!(place.open().unwrap_err(), StoreError::Missing(_)));
    }

    #[test]
    fn a_crash_between_commit_and_witness_is_not_a_rollback() {
        let place = Place::new();
        place.open().unwrap().raise([("a", 1)]).unwrap();
        let behind = fs::read(place.witness()).unwrap();
        place.open().unwrap().raise([("a", 2)]).unwrap();
        fs::write(place.witness(), &behind).unwrap();
        assert_eq!(place.open().unwrap().highest("a"), 2);
        // Two behind is no crash of ours: somebody touched the witness.
        place.open().unwrap().raise([("a", 3)]).unwrap();
        fs::write(place.witness(), &behind).unwrap();
        assert!(matches!(
            place.open().unwrap_err(),
            StoreError::Witness { .. }
        ));
    }

    /// Puts another store of the same key-encryption key beside this witness.
    fn with_store_of(place: &Place, other: &Place) -> StoreError {
        fs::copy(other.file(), place.file()).unwrap();
        place.open().unwrap_err()
    }

    #[test]
    fn k12_another_store_of_the_same_age_or_one_commit_older_is_not_taken_for_ours() {
        let (place, other) = (Place::new(), Place::new());
        place.open().unwrap().raise([("a", 5)]).unwrap();
        other.open().unwrap().raise([("a", 1)]).unwrap();
        let error = with_store_of(&place, &other);
        assert!(matches!(error, StoreError::Witness { .. }), "{error}");
        other.open().unwrap().raise([("a", 2)]).unwrap();
        let error = with_store_of(&place, &other);
        assert!(matches!(error, StoreError::Witness { .. }), "{error}");
    }

    #[test]
    fn k12_opening_after_a_crash_is_witnessed() {
        let place = Place::new();
        place.open().unwrap().raise([("a", 1)]).unwrap();
        let (store, witness) = (place.file(), fs::read(place.witness()).unwrap());
        let before = fs::read(&store).unwrap();
        place.open().unwrap().raise([("a", 2)]).unwrap();
        fs::write(place.witness(), witness).unwrap();
        drop(place.open().unwrap());
        fs::write(&store, before).unwrap();
        let error = place.open().unwrap_err();
        assert!(matches!(error, StoreError::RolledBack { .. }), "{error}");
    }

    #[test]
    fn k12_a_store_is_made_once_and_for_its_owner() {
        use std::os::unix::fs::PermissionsExt as _;
        let place = Place::new();
        place.open().unwrap().raise([("a", 1)]).unwrap();
        let again = Store::create(&place.state(), &place.witness(), &place.kek);
        assert!(matches!(again.unwrap_err(), StoreError::Exists(_)));
        assert_eq!(place.open().unwrap().highest("a"), 1);
        let mode = fs::metadata(place.state()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn k12_an_edited_store_does_not_open() {
        type Edit = fn(&redb::WriteTransaction);
        let edits: [(&str, Edit); 8] = [
            ("lower", |t| {
                t.open_table(MARKS).unwrap().insert("epoch", 1).unwrap();
            }),
            ("higher", |t| {
                t.open_table(MARKS).unwrap().insert("epoch", 8).unwrap();
            }),
            ("removed", |t| {
                t.open_table(MARKS).unwrap().remove("epoch").unwrap();
            }),
            ("renamed", |t| {
                t.open_table(MARKS).unwrap().remove("epoch").unwrap();
                t.open_table(MARKS).unwrap().insert("epocj", 7).unwrap();
            }),
            // Without lengths these two marks and that one would read alike.
            ("joined", |t| {
                let mut marks = t.open_table(MARKS).unwrap();
                marks.remove("epoch").unwrap();
                marks.remove("next").unwrap();
                marks.insert("epoch\0\0\0\0\0\0\0\x07next", 9).unwrap();
            }),
            ("younger", |t| {
                let mut seals = t.open_table(SEALS).unwrap();
                seals
                    .insert("generation", 9_u64.to_be_bytes().as_slice())
                    .unwrap();
            }),
            ("unchained", |t| {
                let mut seals = t.open_table(SEALS).unwrap();
                seals.insert("previous", [0; 32].as_slice()).unwrap();
            }),
            ("unsealed", |t| {
                let mut seals = t.open_table(SEALS).unwrap();
                seals.insert("seal", [0; 32].as_slice()).unwrap();
            }),
        ];
        for (what, edit) in edits {
            let place = Place::new();
            let mut store = place.open().unwrap();
            store.raise([("epoch", 7), ("next", 9)]).unwrap();
            drop(store);
            let database = Database::open(place.file()).unwrap();
            let transaction = database.begin_write().unwrap();
            edit(&transaction);
            transaction.commit().unwrap();
            drop(database);
            let error = place.open().unwrap_err();
            assert!(matches!(error, StoreError::Edited(_)), "{what}: {error}");
        }
    }

    #[test]
    fn k12_a_store_sealed_under_another_key_encryption_key_does_not_open() {
        let place = Place::new();
        let path = place.folder.path().join("other.key");
        write_secret_file(&path, &[6; 32]).unwrap();
        let other = FileKek::open(&path).unwrap();
        let error = Store::open(&place.state(), &place.witness(), &other).unwrap_err();
        assert!(matches!(error, StoreError::Edited(_)), "{error}");
    }

    #[test]
    fn a11_a_second_broker_on_the_same_store_is_refused() {
        let place = Place::new();
        let _first = place.open().unwrap();
        assert!(matches!(place.open().unwrap_err(), StoreError::InUse(_)));
    }
}
