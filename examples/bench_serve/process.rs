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

/// CPU seconds of a process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu {
    /// Of all its threads, ended ones included.
    pub all: f64,
    /// Of those of the engine.
    pub computing: f64,
}

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

    /// CPU seconds that it has taken: in all, and in the threads that compute.
    ///
    /// # Errors
    /// When it has ended.
    pub fn cpu(&self) -> anyhow::Result<Cpu> {
        let id = self.child.id().context("the process has ended")?;
        let folder = PathBuf::from(format!("/proc/{id}"));
        let all = all_seconds(&fs::read_to_string(folder.join("stat"))?);
        let mut computing = 0.0;
        for task in fs::read_dir(folder.join("task"))? {
            let task = task?.path();
            // A thread may end between two looks; those that compute do not.
            let read = |file| fs::read_to_string(task.join(file)).unwrap_or_default();
            let name = read("comm");
            if name.starts_with("engine") || name.starts_with("kernel-") {
                computing += thread_seconds(&read("schedstat")).unwrap_or_default();
            }
        }
        Ok(Cpu {
            all: all.context("the system does not say what CPU time was taken")?,
            computing,
        })
    }

    /// The end of what it said on stderr.
    pub fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let mut lines: Vec<&str> = text.lines().rev().take(12).collect();
        lines.reverse();
        lines.join("\n")
    }
}

/// Clock ticks per second in the system's tables: a constant of its interface.
const TICKS: f64 = 100.0;

/// User and system time in the text of a process's `stat`.
fn all_seconds(stat: &str) -> Option<f64> {
    // The name in brackets may hold anything; what is wanted are the 12th and 13th words after it.
    let (_, after) = stat.rsplit_once(')')?;
    let mut ticks = after.split_whitespace().skip(11).map(str::parse::<f64>);
    Some((ticks.next()?.ok()? + ticks.next()?.ok()?) / TICKS)
}

/// Time on the CPU in the text of a thread's `schedstat`: nanoseconds come first.
fn thread_seconds(schedstat: &str) -> Option<f64> {
    let nanoseconds: f64 = schedstat.split_whitespace().next()?.parse().ok()?;
    Some(nanoseconds / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_times_are_found_in_the_systems_tables() {
        let stat = "77 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20";
        assert_eq!(all_seconds(stat), Some(3.0));
        assert_eq!(all_seconds("77 (a) S 1"), None);
        assert_eq!(thread_seconds("2500000000 17 4\n"), Some(2.5));
        assert_eq!(thread_seconds(""), None);
    }
}
