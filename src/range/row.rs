//! A row of the table: what was tried, what it obtained, what the bar is, and whether it holds. No row holds text of an answer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Whether a bar holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It holds.
    Pass,
    /// The attack obtained more.
    Fail,
    /// It could not be tried, or there is nothing to compare with: the row says why.
    Skip,
    /// There is no bar: a figure beside the others.
    Info,
}

impl Verdict {
    /// The word at the beginning of a line.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
            Self::Skip => "SKIP",
            Self::Info => "INFO",
        }
    }
}

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Whose row.
    pub attack: String,
    /// Which of its rows.
    pub row: String,
    /// What was obtained, in words.
    pub obtained: String,
    /// What must hold, in words; empty where nothing must.
    pub bar: String,
    /// Whether it does.
    pub verdict: Verdict,
    /// Requests that it took.
    pub requests: u32,
    /// How often each error came back.
    pub refused: BTreeMap<String, u32>,
    /// What was obtained, in numbers.
    pub figures: BTreeMap<String, Value>,
}

impl Row {
    fn new(row: &str, verdict: Verdict, obtained: String, bar: &str) -> Self {
        Self {
            attack: String::new(),
            row: row.to_owned(),
            obtained,
            bar: bar.to_owned(),
            verdict,
            requests: 0,
            refused: BTreeMap::new(),
            figures: BTreeMap::new(),
        }
    }

    /// A row with a bar that holds, or does not.
    #[must_use]
    pub fn judged(row: &str, holds: bool, obtained: String, bar: &str) -> Self {
        let verdict = if holds { Verdict::Pass } else { Verdict::Fail };
        Self::new(row, verdict, obtained, bar)
    }

    /// A figure without a bar.
    #[must_use]
    pub fn told(row: &str, obtained: String) -> Self {
        Self::new(row, Verdict::Info, obtained, "")
    }

    /// What could not be tried, and why.
    #[must_use]
    pub fn skipped(row: &str, why: String) -> Self {
        Self::new(row, Verdict::Skip, why, "")
    }

    /// Adds a number, or a word, for machines. Numbers that are not finite are `null`.
    #[must_use]
    pub fn figure(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.figures.insert(name.to_owned(), value.into());
        self
    }

    /// The line for people, without the verdict's word.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = format!("range.{}.{} {}", self.attack, self.row, self.obtained);
        if !self.bar.is_empty() {
            line += &format!(" (bar: {})", self.bar);
        }
        line += &format!(" [{} requests", self.requests);
        for (code, count) in &self.refused {
            line += &format!(", {count} x {code}");
        }
        line + "]"
    }
}
