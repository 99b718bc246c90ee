//! What must outlive a server: what was given to whom, and where everybody stands. A ledger lies outside the trust boundary;
//! what it returns is authenticated, and whether it is the last that was written is compared with a floor that is kept elsewhere.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::guard::counters::Day;
use crate::guard::{AccountId, Note, Tally};

/// What the broker knows of a server's ledger: it was at least here, and so much was given to teams and to everybody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Floor {
    /// Commits of the ledger, at least; 0 where the broker never heard of one.
    pub generation: u64,
    /// What had been given, at least. Accounts of principals are not among them.
    pub given: Vec<(AccountId, Given)>,
}

/// What somebody had been given, at least, in thousandths of a bit; see [`Tally`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Given {
    /// All of it.
    pub millibits: u64,
    /// What probabilities told.
    pub told_millibits: u64,
    /// What arranged choices told.
    pub arranged_millibits: u64,
}

impl Given {
    pub(super) const fn of(tally: &Tally) -> Self {
        Self {
            millibits: tally.millibits,
            told_millibits: tally.told_millibits,
            arranged_millibits: tally.arranged_millibits,
        }
    }

    /// What is known of it as an account.
    pub(super) fn tally(self) -> Tally {
        Tally {
            millibits: self.millibits,
            told_millibits: self.told_millibits,
            arranged_millibits: self.arranged_millibits,
            ..Tally::default()
        }
    }
}

/// In what state a ledger was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// There was none, and none was ever written.
    First,
    /// As it was left, or newer than the floor.
    Whole,
    /// One was written once and is not there.
    Lost,
    /// It is older than the floor. What it holds was true once and is taken as the least.
    RolledBack,
    /// Somebody without the key has changed it. Nothing in it counts; it was moved aside.
    Edited,
}

impl Found {
    /// Whether what it held may be missing.
    #[must_use]
    pub const fn is_loss(self) -> bool {
        matches!(self, Self::Lost | Self::RolledBack | Self::Edited)
    }

    /// The word of audit records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Whole => "whole",
            Self::Lost => "lost",
            Self::RolledBack => "rolled_back",
            Self::Edited => "edited",
        }
    }
}

/// What remains of a loss until policy makes it good: see [`crate::guard::Meter::of_rows`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loss {
    /// When it was noticed, seconds; 0 if never.
    pub at: u64,
    /// What teams had been given by then.
    pub floors: Vec<(AccountId, Tally)>,
}

/// Everything that a ledger holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Book {
    /// What was given.
    pub accounts: Vec<(AccountId, Tally)>,
    /// Where principals stand, by name.
    pub notes: Vec<(String, Note)>,
    /// The last loss.
    pub loss: Loss,
    /// What was told of days, oldest first.
    pub days: Vec<Day>,
}

/// What is written at once, or not at all.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Changes {
    /// What was given since the last time. Servers that share a ledger add up.
    pub given: Vec<(AccountId, Tally)>,
    /// Where principals stand now; none for those of whom nothing need be kept.
    pub notes: Vec<(String, Option<Note>)>,
    /// A loss that was just noticed.
    pub loss: Option<Loss>,
    /// A day that is about to be told, and the first second of one that is too old to be kept.
    pub day: Option<(Day, Option<u64>)>,
}

impl Changes {
    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.given.is_empty() && self.notes.is_empty() && self.loss.is_none() && self.day.is_none()
    }
}

/// Why a ledger cannot be used. The text says what to do where something can be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// Another server has it open.
    #[error("the guard's ledger {0} is in use by another server")]
    InUse(PathBuf),
    /// The database failed.
    #[error("the guard's ledger failed: {0}")]
    Database(String),
}

/// Keeps a [`Book`]. One server writes redb today; replicas need one that several write ([`Changes::given`] are sums for that).
pub trait Ledger: Send {
    /// Everything in it.
    ///
    /// # Errors
    /// [`LedgerError`].
    fn read(&mut self) -> Result<Book, LedgerError>;

    /// Writes changes durably. Returns what the accounts in `changes` hold now.
    ///
    /// # Errors
    /// [`LedgerError`]; nothing is changed then.
    fn write(&mut self, changes: &Changes) -> Result<Vec<(AccountId, Tally)>, LedgerError>;

    /// Commits so far: what a floor is about.
    fn generation(&self) -> u64;
}
