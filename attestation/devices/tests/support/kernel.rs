//! A kernel's configfs-tsm that is none: entries with counters as the kernel documents them, recorded answers, and faults.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use casemate_devices::files::Files;

/// What goes wrong at an attribute: the file's name, and the error of the system.
pub type Fault = (&'static str, i32);

/// Linux's numbers.
pub const EIO: i32 = 5;
pub const EAGAIN: i32 = 11;
pub const EBUSY: i32 = 16;
pub const ENXIO: i32 = 6;
pub const ETIMEDOUT: i32 = 110;

/// Writes a report over the data of a request.
pub type Answer = Box<dyn Fn(&[u8]) -> Vec<u8>>;

#[derive(Default)]
struct Entry {
    generation: u64,
    data: Vec<u8>,
    level: Option<Vec<u8>>,
}

pub struct Kernel {
    pub provider: &'static str,
    pub answer: Answer,
    pub table: Option<Vec<u8>>,
    /// The first faults, in order; each happens once.
    pub faults: RefCell<Vec<Fault>>,
    /// Somebody else writes to the entry when this attribute is read.
    pub intruder: Cell<Option<&'static str>>,
    /// Somebody removes the entry when this attribute is read.
    pub remover: Cell<Option<&'static str>>,
    /// What `generation` says instead.
    pub generation: Cell<Option<&'static str>>,
    /// Level of the last request, and how many were made.
    pub last_level: RefCell<Option<Vec<u8>>>,
    pub made: Cell<u32>,
    entries: RefCell<BTreeMap<PathBuf, Entry>>,
}

impl Kernel {
    pub fn new(provider: &'static str, answer: Answer) -> Self {
        Self {
            provider,
            answer,
            table: None,
            faults: RefCell::default(),
            intruder: Cell::default(),
            remover: Cell::default(),
            generation: Cell::default(),
            last_level: RefCell::default(),
            made: Cell::default(),
            entries: RefCell::default(),
        }
    }

    /// Entries that were not removed.
    pub fn left(&self) -> usize {
        self.entries.borrow().len()
    }

    fn fault(&self, name: &str) -> io::Result<()> {
        let mut faults = self.faults.borrow_mut();
        if faults.first().is_some_and(|(at, _)| *at == name) {
            let (_, number) = faults.remove(0);
            return Err(io::Error::from_raw_os_error(number));
        }
        Ok(())
    }
}

fn split(path: &Path) -> (PathBuf, String) {
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    (path.parent().unwrap().to_owned(), name)
}

impl Files for &Kernel {
    fn make_folder(&self, path: &Path) -> io::Result<()> {
        self.fault("mkdir")?;
        self.made.set(self.made.get() + 1);
        let old = self
            .entries
            .borrow_mut()
            .insert(path.to_owned(), Entry::default());
        assert!(old.is_none(), "a name was used twice");
        Ok(())
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        match self.entries.borrow_mut().remove(path) {
            Some(_) => Ok(()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let (folder, name) = split(path);
        self.fault(&name)?;
        let mut entries = self.entries.borrow_mut();
        let entry = entries.get_mut(&folder).ok_or(io::ErrorKind::NotFound)?;
        entry.generation += 1;
        match name.as_str() {
            "inblob" => entry.data = bytes.to_vec(),
            "privlevel" => entry.level = Some(bytes.to_vec()),
            _ => return Err(io::ErrorKind::PermissionDenied.into()),
        }
        Ok(())
    }

    fn read(&self, path: &Path, most: usize) -> io::Result<Vec<u8>> {
        let (folder, name) = split(path);
        self.fault(&name)?;
        let mut entries = self.entries.borrow_mut();
        if self.remover.get().is_some_and(|at| at == name) {
            entries.remove(&folder);
        }
        let entry = entries.get_mut(&folder).ok_or(io::ErrorKind::NotFound)?;
        if self.intruder.get().is_some_and(|at| at == name) {
            entry.generation += 1;
        }
        let bytes = match name.as_str() {
            "provider" => format!("{}\n", self.provider).into_bytes(),
            "generation" => match self.generation.get() {
                Some(text) => text.into(),
                None => format!("{}\n", entry.generation).into_bytes(),
            },
            "outblob" => {
                *self.last_level.borrow_mut() = entry.level.clone();
                (self.answer)(&entry.data)
            }
            "auxblob" => self.table.clone().ok_or(io::ErrorKind::NotFound)?,
            _ => return Err(io::ErrorKind::NotFound.into()),
        };
        if bytes.len() > most {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(bytes)
    }

    fn is_there(&self, path: &Path) -> bool {
        let (folder, name) = split(path);
        match name.as_str() {
            "auxblob" => self.table.is_some() && self.entries.borrow().contains_key(&folder),
            "report" => true,
            _ => self.entries.borrow().contains_key(path),
        }
    }
}
