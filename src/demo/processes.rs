//! One part of the demonstration as a process of its own. It ends with its handle, and with this process however that ends.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};

use super::DemoError;

/// A part that is not ready by then is not going to be.
const READY_SECONDS_MAX: u64 = 45;

/// A running part.
pub(super) struct Process {
    /// Killed when dropped.
    _child: Child,
    /// Kept open: a part that prints more must not find a closed pipe.
    _out: BufReader<ChildStdout>,
    ready_line: String,
}

impl Process {
    /// Starts `casemate <part> <arguments>` in `folder` and waits for its first line on stdout: it is ready then.
    pub(super) async fn start(
        part: &'static str,
        folder: &Path,
        arguments: &[&str],
    ) -> Result<Self, DemoError> {
        let failed = |reason: String| DemoError::Part { part, reason };
        let mut child = Command::new(std::env::current_exe()?)
            .arg(part)
            .args(arguments)
            .arg(format!("--end-with-parent={}", std::process::id()))
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let out = child
            .stdout
            .take()
            .ok_or_else(|| failed("it has no stdout".into()))?;
        let mut out = BufReader::new(out);
        let mut line = String::new();
        let patience = Duration::from_secs(READY_SECONDS_MAX);
        let read = tokio::time::timeout(patience, out.read_line(&mut line)).await;
        let read = read.map_err(|_| failed(format!("nothing for {READY_SECONDS_MAX} s")))??;
        if read == 0 {
            let status = child.wait().await?;
            return Err(failed(format!(
                "it ended with {status}; its message is above"
            )));
        }
        Ok(Self {
            _child: child,
            _out: out,
            ready_line: line.trim_end().to_owned(),
        })
    }

    /// What the part printed when it was ready.
    pub(super) fn ready_line(&self) -> &str {
        &self.ready_line
    }
}
