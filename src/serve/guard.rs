//! Starts the extraction guard: its ledger under the broker's key and floor, and the texts that say nothing of who sends them.

use std::path::Path;

use super::ServeError;
use crate::audit::{AuditEvent, AuditLog};
use crate::config::{ConfigPath, ServerConfig};
use crate::policy::PolicyDocument;
use crate::sentry::{Floor, LedgerKey, Sentry, SentryError, Setup, Store};
use crate::session::now;

/// Folder of the ledger in the state folder.
const FOLDER: &str = "guard";
/// What is told of days, for whoever watches the machine.
const DAYS: &str = "days.jsonl";
/// The longest file of public wording.
const WORDING_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Opens the ledger, records how it was found, and starts the guard.
pub(super) async fn start(
    config: &ServerConfig,
    audit: &AuditLog,
    policy: &PolicyDocument,
    (key, floor): (&LedgerKey, &Floor),
) -> Result<Sentry, ServeError> {
    let folder = config.state.folder.join(FOLDER);
    let server = config.server.names.first().map_or("", String::as_str);
    let now = now();
    let opened = Store::open(&folder, key, server, floor, now.secs());
    let (ledger, found) = opened.map_err(SentryError::from)?;
    let generation = crate::sentry::Ledger::generation(&ledger);
    if found.is_loss() {
        tracing::warn!(
            found = found.as_str(),
            "the guard's ledger is not what it was; everybody stands one step higher"
        );
    }
    let event = AuditEvent::GuardState {
        found: found.as_str(),
        generation,
    };
    audit.record(now, event).await?;
    let lines = |path: &Option<ConfigPath>| match path {
        Some(path) => lines(path),
        None => Ok(Vec::new()),
    };
    Ok(Sentry::start(Setup {
        ledger: Box::new(ledger),
        found,
        principals_max: config.guard.principals as usize,
        background: lines(&config.guard.background)?,
        instructions: lines(&config.guard.instructions)?,
        pace: policy.guard().pace(),
        audit: audit.clone(),
        keeps_wording: policy.guard().keeps_wording(),
        counts_days: policy.guard().counts_days(),
        days_file: Some(folder.join(DAYS)),
        now: now.secs(),
    })?)
}

fn lines(path: &Path) -> Result<Vec<String>, ServeError> {
    let bytes = casemate_client::files::read_public(path, WORDING_BYTES_MAX)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.lines().map(str::to_owned).collect())
}
