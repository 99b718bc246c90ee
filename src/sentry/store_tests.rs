//! The ledger when it is whole, lost, rolled back and edited.

use super::super::ledger::Given;
use super::*;
use crate::guard::Step;

const NOW: u64 = 1_790_000_000;

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join(FILE)
    }

    fn open_at(&self, generation: u64, given: Vec<(AccountId, u64)>) -> (Store, Found) {
        let of_account = |(id, millibits)| {
            let given = Given {
                millibits,
                told_millibits: millibits / 2,
                arranged_millibits: millibits / 5,
            };
            (id, given)
        };
        let given = given.into_iter().map(of_account).collect();
        let floor = Floor { generation, given };
        self.open_with(&LedgerKey::new([5; 32]), "node-a", &floor)
    }

    fn open_with(&self, key: &LedgerKey, server: &str, floor: &Floor) -> (Store, Found) {
        Store::open(self.folder.path(), key, server, floor, NOW).unwrap()
    }

    fn found(&self, generation: u64) -> Found {
        self.open_at(generation, Vec::new()).1
    }
}

fn account(holder: &str) -> AccountId {
    let model = Sha256Digest::of(b"model");
    (Holder::of_word(holder).unwrap(), model)
}

fn given(holder: &str, tokens: u64) -> (AccountId, Tally) {
    (account(holder), Tally::of_text(tokens))
}

fn write(store: &mut Store, holder: &str, tokens: u64) -> Tally {
    let changes = Changes {
        given: vec![given(holder, tokens)],
        ..Changes::default()
    };
    store.write(&changes).unwrap()[0].1
}

#[test]
fn what_was_written_is_read_and_sums_go_on() {
    let place = Place::new();
    let (mut store, found) = place.open_at(0, Vec::new());
    assert_eq!(found, Found::First);
    assert_eq!(write(&mut store, "team/red", 5).tokens, 5);
    let note = Note {
        step: Step::Slowed,
        ..Note::blank(7)
    };
    let changes = Changes {
        notes: vec![
            ("ada".into(), Some(note.clone())),
            ("bob".into(), Some(Note::blank(1))),
        ],
        ..Changes::default()
    };
    store.write(&changes).unwrap();
    let gone = Changes {
        notes: vec![("bob".into(), None)],
        ..Changes::default()
    };
    store.write(&gone).unwrap();
    let generation = store.generation();
    drop(store);
    let (mut store, found) = place.open_at(generation, Vec::new());
    assert_eq!(found, Found::Whole);
    assert_eq!(write(&mut store, "team/red", 2).tokens, 7);
    let book = store.read().unwrap();
    assert_eq!(book.notes, [("ada".to_owned(), note)]);
    assert_eq!(book.accounts, [given("team/red", 7)]);
    assert_eq!(book.loss, Loss::default());
}

#[test]
fn s24_a_ledger_that_is_older_than_its_floor_counts_as_the_least() {
    let place = Place::new();
    let (mut store, _) = place.open_at(0, Vec::new());
    write(&mut store, "team/red", 5);
    write(&mut store, "principal/ada", 5);
    drop(store);
    let old = fs::read(place.file()).unwrap();
    let (mut store, _) = place.open_at(0, Vec::new());
    write(&mut store, "team/red", 90);
    let generation = store.generation();
    drop(store);
    fs::write(place.file(), &old).unwrap();
    let told = vec![
        (account("team/red"), 95_000),
        (account("organisation"), 95_000),
    ];
    let (mut store, found) = place.open_at(generation, told);
    assert_eq!(found, Found::RolledBack);
    let book = store.read().unwrap();
    let of = |holder| {
        let id = account(holder);
        let found = book.accounts.iter().find(|(known, _)| *known == id);
        found.map(|(_, tally)| tally.millibits)
    };
    assert_eq!(of("team/red"), Some(95_000));
    assert_eq!(of("organisation"), Some(95_000));
    assert_eq!(of("principal/ada"), Some(5000));
    assert_eq!((book.loss.at, book.loss.floors.len()), (NOW, 1));
    assert!(store.generation() > generation);
    drop(store);
    // The same old bytes once more: the ledger went on above the floor, so that they are older still.
    fs::write(place.file(), old).unwrap();
    assert_eq!(place.found(generation + 1), Found::RolledBack);
}

#[test]
fn s24_a_ledger_that_is_gone_is_lost_and_not_a_first_start() {
    let place = Place::new();
    let (mut store, found) = place.open_at(9, vec![(account("team/red"), 8000)]);
    assert_eq!(found, Found::Lost);
    let book = store.read().unwrap();
    let known = book.loss.floors[0].1;
    assert_eq!(known.millibits, 8000);
    assert_eq!(
        (known.told_millibits, known.arranged_millibits),
        (4000, 1600),
        "what has a lifetime limit comes back, too"
    );
    assert_eq!(store.generation(), 10, "one above the floor");
    drop(store);
    assert_eq!(place.found(10), Found::Whole);
}

#[test]
fn s24_an_edited_ledger_is_not_believed_and_is_kept_aside() {
    type Edit = fn(&redb::WriteTransaction);
    fn keys() -> Keys {
        Keys::new(&LedgerKey::new([5; 32])).unwrap()
    }
    let edits: [(&str, Edit); 7] = [
        (
            "less, by whoever has the cipher's key and not the chain",
            |t| {
                let row = account_row("account", &account("team/red"));
                let less = json(&Tally::of_text(1)).unwrap();
                let (place, less) = keys().cipher.seal(&row, &less).unwrap();
                t.open_table(ROWS)
                    .unwrap()
                    .insert(place.as_str(), less.as_slice())
                    .unwrap();
            },
        ),
        ("not sealed", |t| {
            let row = account_row("account", &account("team/red"));
            let less = json(&Tally::of_text(1)).unwrap();
            t.open_table(ROWS)
                .unwrap()
                .insert(row.as_str(), less.as_slice())
                .unwrap();
        }),
        ("removed", |t| {
            let row = account_row("account", &account("team/red"));
            let place = keys().cipher.place(&row);
            let mut rows = t.open_table(ROWS).unwrap();
            assert!(rows.remove(place.as_str()).unwrap().is_some());
        }),
        ("more rows", |t| {
            t.open_table(ROWS)
                .unwrap()
                .insert("note/x", b"{}".as_slice())
                .unwrap();
        }),
        ("younger", |t| {
            let number = 99_u64.to_be_bytes();
            t.open_table(SEALS)
                .unwrap()
                .insert("generation", number.as_slice())
                .unwrap();
        }),
        ("unsealed", |t| {
            t.open_table(SEALS)
                .unwrap()
                .insert("seal", [0; 32].as_slice())
                .unwrap();
        }),
        ("no seal", |t| {
            t.open_table(SEALS).unwrap().remove("seal").unwrap();
        }),
    ];
    for (what, edit) in edits {
        let place = Place::new();
        let (mut store, _) = place.open_at(0, Vec::new());
        write(&mut store, "team/red", 50);
        drop(store);
        let database = Database::open(place.file()).unwrap();
        let transaction = database.begin_write().unwrap();
        edit(&transaction);
        transaction.commit().unwrap();
        drop(database);
        assert_eq!(place.found(1), Found::Edited, "{what}");
        assert!(place.folder.path().join("guard.redb.edited").exists());
        assert_eq!(place.found(1), Found::Whole, "{what}: the new one");
    }
}

#[test]
fn s24_bytes_that_are_no_ledger_another_key_and_another_server_are_not_believed() {
    let place = Place::new();
    drop(place.open_at(0, Vec::new()));
    let floor = Floor {
        generation: 1,
        ..Floor::default()
    };
    let other = place
        .open_with(&LedgerKey::new([6; 32]), "node-a", &floor)
        .1;
    assert_eq!(other, Found::Edited);
    let other = place
        .open_with(&LedgerKey::new([6; 32]), "node-b", &floor)
        .1;
    assert_eq!(other, Found::Edited);
    fs::write(place.file(), b"not a database at all").unwrap();
    assert_eq!(place.found(1), Found::Edited);
    assert_eq!(format!("{:?}", LedgerKey::new([5; 32])), "LedgerKey(..)");
}

#[test]
fn s24_any_byte_of_a_ledger_may_be_another_one_and_nothing_panics() {
    let place = Place::new();
    let (mut store, _) = place.open_at(0, Vec::new());
    write(&mut store, "team/red", 50);
    drop(store);
    let good = fs::read(place.file()).unwrap();
    let mut believed = 0;
    for at in (0..good.len()).step_by(good.len() / 150) {
        let mut bad = good.clone();
        bad[at] ^= 0x5a;
        fs::write(place.file(), &bad).unwrap();
        let floor = Floor {
            generation: 1,
            ..Floor::default()
        };
        let key = LedgerKey::new([5; 32]);
        // A disk's error is none of the host's bytes; whatever is believed is what was written.
        let opened = Store::open(place.folder.path(), &key, "node-a", &floor, NOW);
        let Ok((mut store, found)) = opened else {
            continue;
        };
        if found == Found::Whole {
            believed += 1;
            assert_eq!(store.read().unwrap().accounts, [given("team/red", 50)]);
        }
    }
    assert!(believed > 0, "most of a file is unused");
}

#[test]
fn a_second_server_on_the_same_ledger_is_refused() {
    let place = Place::new();
    let _first = place.open_at(0, Vec::new());
    let key = LedgerKey::new([5; 32]);
    let second = Store::open(place.folder.path(), &key, "node-a", &Floor::default(), NOW);
    assert!(matches!(second.unwrap_err(), LedgerError::InUse(_)));
}

#[test]
fn g15_the_file_of_a_ledger_names_nobody_and_holds_no_sum() {
    let place = Place::new();
    let (mut store, _) = place.open_at(0, Vec::new());
    write(&mut store, "principal/spiffe://acme/ada", 1234);
    drop(store);
    let bytes = fs::read(place.file()).unwrap();
    let holds = |word: &str| bytes.windows(word.len()).any(|at| at == word.as_bytes());
    for word in ["ada", "principal", "account", "tokens", "1234"] {
        assert!(!holds(word), "{word}");
    }
    assert!(holds("generation"), "the test can see");
    let (mut store, found) = place.open_at(1, Vec::new());
    assert_eq!(found, Found::Whole);
    let kept = store.read().unwrap().accounts;
    assert_eq!(kept, [given("principal/spiffe://acme/ada", 1234)]);
}
