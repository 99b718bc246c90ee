//! The ledger of one server, in redb. Each commit authenticates all rows under a key that only attested servers get from the broker, and
//! chains the seal to the one before; the broker holds the last generation as a floor. An edited, older or lost store is noticed,
//! and the server goes on with what is known for certain.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use casemate_attestation::Sha256Digest;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use ring::hmac;
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::cipher::Cipher;
use super::ledger::{Book, Changes, Floor, Found, Ledger, LedgerError, Loss};
use crate::guard::counters::Day;
use crate::guard::{AccountId, Holder, Note, Tally};

const FILE: &str = "guard.redb";
const SEAL_LABEL: &[u8] = b"casemate/guard-seal/v1";
/// Sealed one by one ([`Cipher`]): `account/<model>/<holder>`, `floor/<model>/<holder>`, `note/<principal>`, `day/<its first second>`, `loss`: values are JSON.
const ROWS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("rows");
/// `generation`, `previous` and `seal` of the last commit.
const SEALS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("seals");

type Seal = [u8; 32];
type Rows = BTreeMap<String, Vec<u8>>;

/// The key of a server's ledger: released to attested servers, always the same for one organisation. Wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct LedgerKey([u8; 32]);

impl LedgerKey {
    /// A key of 32 bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(super) fn hmac(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.0)
    }
}

/// What a ledger's key is used as: to authenticate, and to keep rows from the host.
struct Keys {
    seal: hmac::Key,
    cipher: Cipher,
}

impl Keys {
    fn new(key: &LedgerKey) -> Result<Self, LedgerError> {
        let salt = super::random().map_err(database)?;
        let cipher = Cipher::new(key, salt);
        Ok(Self {
            seal: key.hmac(),
            cipher: cipher.ok_or_else(|| database("its key cannot be used"))?,
        })
    }
}

impl std::fmt::Debug for LedgerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LedgerKey(..)")
    }
}

fn database(error: impl std::fmt::Display) -> LedgerError {
    LedgerError::Database(error.to_string())
}

/// The open store. One process at a time holds it.
pub struct Store {
    database: Database,
    keys: Keys,
    server: String,
    generation: u64,
    seal: Seal,
    rows: Rows,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store(generation {})", self.generation)
    }
}

struct Content {
    generation: u64,
    previous: Seal,
    seal: Seal,
    rows: Rows,
}

impl Store {
    /// Opens or begins the ledger of `server` in `folder` and says how it was found. After a loss what the floor knows is
    /// entered, and the generation goes on above the floor, so that the older store stays the older one.
    ///
    /// # Errors
    /// [`LedgerError`]: it is in use, or the disk fails. A store that cannot be believed is no error.
    pub fn open(
        folder: &Path,
        key: &LedgerKey,
        server: &str,
        floor: &Floor,
        now: u64,
    ) -> Result<(Self, Found), LedgerError> {
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder);
        made.map_err(database)?;
        let path = folder.join(FILE);
        // The database library panics on some bytes that no database of its own has.
        let read = || Self::open_sealed(&path, key, server);
        let opened = catch_unwind(AssertUnwindSafe(read)).unwrap_or(Ok(Opened::Unbelievable))?;
        let (store, found) = match opened {
            Opened::Sealed(store) if store.generation >= floor.generation => (store, Found::Whole),
            Opened::Sealed(store) => (store, Found::RolledBack),
            Opened::Missing if floor.generation == 0 => {
                (Self::create(&path, key, server)?, Found::First)
            }
            Opened::Missing => (Self::create(&path, key, server)?, Found::Lost),
            Opened::Unbelievable => {
                move_aside(&path)?;
                (Self::create(&path, key, server)?, Found::Edited)
            }
        };
        let mut store = *store;
        if found.is_loss() {
            store.recover(floor, now)?;
        }
        Ok((store, found))
    }

    fn create(path: &Path, key: &LedgerKey, server: &str) -> Result<Box<Self>, LedgerError> {
        let mut store = Self {
            database: Database::create(path).map_err(|error| opening(path, error))?,
            keys: Keys::new(key)?,
            server: server.to_owned(),
            generation: 0,
            seal: [0; 32],
            rows: Rows::new(),
        };
        store.commit(BTreeMap::new())?;
        Ok(Box::new(store))
    }

    fn open_sealed(path: &Path, key: &LedgerKey, server: &str) -> Result<Opened, LedgerError> {
        if !path.exists() {
            return Ok(Opened::Missing);
        }
        let database = match Database::open(path) {
            Ok(database) => database,
            Err(redb::DatabaseError::DatabaseAlreadyOpen) => {
                return Err(LedgerError::InUse(path.to_owned()));
            }
            // Bytes that are no database are an edited one; a disk that fails is not.
            Err(redb::DatabaseError::Storage(redb::StorageError::Io(error)))
                if error.kind() != io::ErrorKind::InvalidData =>
            {
                return Err(self::database(error));
            }
            Err(_) => return Ok(Opened::Unbelievable),
        };
        let keys = Keys::new(key)?;
        let Ok(content) = read_content(&database, &keys.cipher) else {
            return Ok(Opened::Unbelievable);
        };
        let Content {
            generation,
            previous,
            seal,
            rows,
        } = content;
        let sealed = sealed_bytes(server, generation, &previous, &rows);
        if hmac::verify(&keys.seal, &sealed, &seal).is_err() || book(&rows).is_none() {
            return Ok(Opened::Unbelievable);
        }
        Ok(Opened::Sealed(Box::new(Self {
            database,
            keys,
            server: server.to_owned(),
            generation,
            seal,
            rows,
        })))
    }

    /// What had been given at least becomes what is held, and the members of its teams begin there.
    fn recover(&mut self, floor: &Floor, now: u64) -> Result<(), LedgerError> {
        let held = book(&self.rows).unwrap_or_default();
        let mut accounts: BTreeMap<AccountId, Tally> = held.accounts.into_iter().collect();
        for (id, given) in &floor.given {
            let account = accounts.entry(id.clone()).or_default();
            *account = account.at_least(given.tally());
        }
        let is_team = |id: &AccountId| id.0.as_str().starts_with("team/");
        let teams = accounts.iter().filter(|(id, _)| is_team(id));
        let loss = Loss {
            at: now,
            floors: teams.map(|(id, tally)| (id.clone(), *tally)).collect(),
        };
        let mut changed = loss_rows(&loss)?;
        for (id, tally) in &accounts {
            changed.insert(account_row("account", id), Some(json(tally)?));
        }
        self.generation = self.generation.max(floor.generation);
        self.commit(changed)
    }

    /// Writes rows; `None` takes one away.
    fn commit(&mut self, changed: BTreeMap<String, Option<Vec<u8>>>) -> Result<(), LedgerError> {
        let mut rows = self.rows.clone();
        for (row, value) in &changed {
            match value {
                Some(value) => rows.insert(row.clone(), value.clone()),
                None => rows.remove(row),
            };
        }
        let generation = self.generation.saturating_add(1);
        let sealed = sealed_bytes(&self.server, generation, &self.seal, &rows);
        let seal = hmac::sign(&self.keys.seal, &sealed);
        let transaction = self.database.begin_write().map_err(database)?;
        {
            let mut table = transaction.open_table(ROWS).map_err(database)?;
            let cipher = &mut self.keys.cipher;
            for (row, value) in &changed {
                match value {
                    Some(value) => {
                        let sealed = cipher.seal(row, value);
                        let (place, value) =
                            sealed.ok_or_else(|| database("a row cannot be sealed"))?;
                        table.insert(place.as_str(), value.as_slice())
                    }
                    None => table.remove(cipher.place(row).as_str()),
                }
                .map_err(database)?;
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
        self.rows = rows;
        Ok(())
    }
}

impl Ledger for Store {
    fn read(&mut self) -> Result<Book, LedgerError> {
        book(&self.rows).ok_or_else(|| database("a row is not of this format"))
    }

    fn write(&mut self, changes: &Changes) -> Result<Vec<(AccountId, Tally)>, LedgerError> {
        let mut changed = match &changes.loss {
            Some(loss) => loss_rows(loss)?,
            None => BTreeMap::new(),
        };
        let mut totals = Vec::with_capacity(changes.given.len());
        for (id, given) in &changes.given {
            let row = account_row("account", id);
            let held: Option<Tally> = self.rows.get(&row).and_then(|value| of_json(value));
            let total = held.unwrap_or_default().plus(*given);
            changed.insert(row, Some(json(&total)?));
            totals.push((id.clone(), total));
        }
        for (principal, note) in &changes.notes {
            let value = note.as_ref().map(json).transpose()?;
            changed.insert(format!("note/{principal}"), value);
        }
        if let Some((day, oldest)) = &changes.day {
            changed.insert(day_row(day.begins), Some(json(day)?));
            changed.extend(oldest.map(|begins| (day_row(begins), None)));
        }
        self.commit(changed)?;
        Ok(totals)
    }

    fn generation(&self) -> u64 {
        self.generation
    }
}

enum Opened {
    Sealed(Box<Store>),
    Missing,
    Unbelievable,
}

/// Keeps what cannot be believed for whoever looks into it, once: the newest such store.
fn move_aside(path: &Path) -> Result<(), LedgerError> {
    let aside: PathBuf = path.with_extension("redb.edited");
    fs::rename(path, aside).map_err(database)
}

fn opening(path: &Path, error: redb::DatabaseError) -> LedgerError {
    match error {
        redb::DatabaseError::DatabaseAlreadyOpen => LedgerError::InUse(path.to_owned()),
        other => database(other),
    }
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, LedgerError> {
    serde_json::to_vec(value).map_err(database)
}

fn of_json<T: DeserializeOwned>(value: &[u8]) -> Option<T> {
    serde_json::from_slice(value).ok()
}

fn account_row(kind: &str, (holder, model): &AccountId) -> String {
    format!("{kind}/{model}/{}", holder.as_str())
}

/// Days in the order of their numbers.
fn day_row(begins: u64) -> String {
    format!("day/{begins:020}")
}

fn loss_rows(loss: &Loss) -> Result<BTreeMap<String, Option<Vec<u8>>>, LedgerError> {
    let mut rows = BTreeMap::from([("loss".to_owned(), Some(json(&loss.at)?))]);
    for (id, tally) in &loss.floors {
        rows.insert(account_row("floor", id), Some(json(tally)?));
    }
    Ok(rows)
}

/// Rows as a book; nothing where one is not of this format.
fn book(rows: &Rows) -> Option<Book> {
    let mut book = Book::default();
    for (row, value) in rows {
        let account = |rest: &str| -> Option<(AccountId, Tally)> {
            let (model, holder) = rest.split_once('/')?;
            let model: Sha256Digest = model.parse().ok()?;
            Some(((Holder::of_word(holder)?, model), of_json(value)?))
        };
        match row.split_once('/') {
            None if row == "loss" => book.loss.at = of_json(value)?,
            Some(("account", rest)) => book.accounts.push(account(rest)?),
            Some(("floor", rest)) => book.loss.floors.push(account(rest)?),
            Some(("note", principal)) => {
                let note: Note = of_json(value)?;
                book.notes.push((principal.to_owned(), note));
            }
            Some(("day", begins)) => {
                let day: Day = of_json(value)?;
                (day_row(day.begins) == format!("day/{begins}")).then(|| book.days.push(day))?;
            }
            _ => return None,
        }
    }
    Some(book)
}

fn read_content(database: &Database, cipher: &Cipher) -> Result<Content, LedgerError> {
    let transaction = database.begin_read().map_err(self::database)?;
    let table = transaction.open_table(ROWS).map_err(self::database)?;
    let mut rows = Rows::new();
    for row in table.iter().map_err(self::database)? {
        let (place, value) = row.map_err(self::database)?;
        let opened = cipher.open(place.value(), value.value());
        let (row, value) = opened.ok_or_else(|| self::database("a row is not of this ledger"))?;
        rows.insert(row, value);
    }
    let seals = transaction.open_table(SEALS).map_err(self::database)?;
    Ok(Content {
        generation: u64::from_be_bytes(read_seal(&seals, "generation")?),
        previous: read_seal(&seals, "previous")?,
        seal: read_seal(&seals, "seal")?,
        rows,
    })
}

fn read_seal<const N: usize>(
    seals: &impl ReadableTable<&'static str, &'static [u8]>,
    name: &str,
) -> Result<[u8; N], LedgerError> {
    let row = seals.get(name).map_err(database)?;
    let row = row.ok_or_else(|| database("a seal is missing"))?;
    row.value().try_into().map_err(database)
}

/// What a seal covers: whose ledger, generation, the seal before, and every row, framed (rule P-3).
fn sealed_bytes(server: &str, generation: u64, previous: &Seal, rows: &Rows) -> Vec<u8> {
    let mut bytes = SEAL_LABEL.to_vec();
    let mut put = |item: &[u8]| {
        bytes.extend_from_slice(&(item.len() as u32).to_be_bytes());
        bytes.extend_from_slice(item);
    };
    put(server.as_bytes());
    put(&generation.to_be_bytes());
    put(previous);
    for (row, value) in rows {
        put(row.as_bytes());
        put(value);
    }
    bytes
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
