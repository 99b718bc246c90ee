//! The end of a day: what is told of it is written down first, then shown to officers and in a file. A day that could not be
//! written down is told to nobody.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use casemate_attestation::UnixTime;

use super::desk::Desk;
use super::ledger::Changes;
use super::{lock, random};
use crate::audit::AuditEvent;
use crate::guard::counters::{Day, Exhausted};

/// Days that are kept.
const DAYS_MAX: usize = 400;

impl Desk {
    /// Closes the day if it is over.
    pub(super) fn close_day(&mut self, now: u64, uptime: u64) {
        let mut bits = || random().map(u64::from_le_bytes).map_err(|_| Exhausted);
        let closed = lock(&self.shared.counters).close(now, uptime, &mut bits);
        let day = match closed {
            Ok(Some(day)) => day,
            Ok(None) => return,
            Err(error) => {
                tracing::error!(%error, "a day is not closed");
                return;
            }
        };
        let oldest = {
            let days = lock(&self.shared.days);
            let first = days.first().filter(|_| days.len() >= DAYS_MAX);
            first.map(|day| day.begins)
        };
        let changes = Changes {
            day: Some((day.clone(), oldest)),
            ..Changes::default()
        };
        if let Err(error) = self.ledger.write(&changes) {
            tracing::error!(%error, "nothing is told of a day, because it cannot be written down");
            return;
        }
        self.note_generation();
        let event = AuditEvent::GuardDay {
            begins: UnixTime::from_secs(day.begins),
            whole: day.whole,
        };
        self.audit.note(UnixTime::from_secs(now), event);
        {
            let mut days = lock(&self.shared.days);
            days.retain(|known| Some(known.begins) != oldest);
            days.push(day);
        }
        self.show_days();
    }

    /// Writes all days into their file.
    pub(super) fn show_days(&self) {
        let Some(file) = &self.days_file else { return };
        let days = lock(&self.shared.days).clone();
        if days.is_empty() {
            return;
        }
        if let Err(error) = write(file, &days) {
            tracing::warn!(%error, "the file of counters is not up to date");
        }
    }
}

/// A line of JSON for each day; the file is replaced as a whole.
fn write(file: &Path, days: &[Day]) -> std::io::Result<()> {
    let new = file.with_extension("new");
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o644);
    let mut out = options.open(&new)?;
    for day in days {
        serde_json::to_writer(&mut out, day)?;
        out.write_all(b"\n")?;
    }
    out.sync_all()?;
    fs::rename(new, file)
}
