//! Processes that end with their handles.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};

/// A part that is not ready by then is not going to be.
pub const READY_SECONDS_MAX: u64 = 180;

/// A running process. What it says on stderr is kept in a file.
pub struct Process {
    child: Child,
    /// Kept open: a part that prints more must not find a closed pipe.
    out: BufReader<ChildStdout>,
    log: PathBuf,
}

impl Process {
    /// Starts `command` in `folder`.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(command: &mut Command, folder: &Path, name: &str) -> anyhow::Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let mut child = command
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{name} does not start"))?;
        let out = child.stdout.take().context("a process without output")?;
        let out = BufReader::new(out);
        Ok(Self { child, out, log })
    }

    /// Waits for its first line on stdout: it is ready then.
    ///
    /// # Errors
    /// When none comes, with what it said.
    pub async fn ready(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        let patience = Duration::from_secs(READY_SECONDS_MAX);
        match tokio::time::timeout(patience, self.out.read_line(&mut line)).await {
            Ok(Ok(read)) if read > 0 => Ok(line.trim_end().to_owned()),
            _ => bail!("it is not ready: {}", self.last_words()),
        }
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// When the system does not know.
    pub fn runs(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// The end of what it said on stderr.
    pub fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let mut lines: Vec<&str> = text.lines().rev().take(12).collect();
        lines.reverse();
        lines.join("\n")
    }
}
