//! `casemate doctor`: look whether a machine is closed as an image should be.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use casemate_client::report::{CheckLine, Outcome};
use clap::Args;
use serde_json::json;

use super::{CommandError, ExitCode};
use crate::doctor::{self, Finding};
use crate::harden::Confinement;

const EXAMPLE: &str = "Example:
  casemate doctor --guest
  casemate doctor --guest --json

In a measured image the first process looks by itself before it serves, and stops the machine where something does not hold;
an image for looking at (console=ttyS0) prints the lines. Elsewhere this shows what a server's process gives up on this machine,
and what of the machine is open.";

/// What the process that tries may write to the one that asked.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// Ports as a server's would be.
const LISTEN: u16 = 7443;
const CONNECT: u16 = 7440;

/// Arguments of `casemate doctor`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Arguments {
    /// Each property of a closed guest, read or tried.
    #[arg(long, required = true)]
    guest: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// The process that is closed and tries.
    #[arg(long, hide = true)]
    probe: bool,
}

/// Runs `casemate doctor`.
///
/// # Errors
/// 10 when something does not hold, 1 when the process that tries does not answer.
pub fn run(arguments: &Arguments) -> Result<(), CommandError> {
    if arguments.probe {
        return tell();
    }
    let found = ask()?;
    if arguments.json {
        let lines: Vec<CheckLine> = found.iter().cloned().map(CheckLine::from).collect();
        println!("{}", json!({ "checks": lines }));
    } else {
        found.iter().for_each(|finding| println!("{finding}"));
    }
    let failed = found
        .iter()
        .filter(|it| it.outcome == Outcome::Fail)
        .count();
    match failed {
        0 => Ok(()),
        _ => Err(CommandError::new(
            ExitCode::Rejected,
            format!("{failed} properties do not hold"),
        )
        .hint("in an image all of them do: docs/formats/guest.md")),
    }
}

/// Starts the process that tries, and reads what it found.
fn ask() -> Result<Vec<Finding>, CommandError> {
    let lost = |what: String| CommandError::new(ExitCode::Unexpected, what);
    let mut child = Command::new(std::env::current_exe()?)
        .args(["doctor", "--guest", "--probe"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let out = child.stdout.take().ok_or_else(|| lost("no pipe".into()))?;
    let mut found = Vec::new();
    for line in BufReader::new(out.take(ANSWER_BYTES_MAX)).lines() {
        let finding = serde_json::from_str(&line?);
        found.push(finding.map_err(|error| lost(format!("the probe's answer: {error}")))?);
    }
    let status = child.wait()?;
    match status.success() {
        true => Ok(found),
        false => Err(lost(format!("the probe ended with {status}"))),
    }
}

/// In the process that tries: closes itself, tries, writes what it found.
fn tell() -> Result<(), CommandError> {
    let confinement = Confinement {
        read: ["/proc", "/sys"].map(PathBuf::from).to_vec(),
        write: Vec::new(),
        listen: LISTEN,
        connect: CONNECT,
    };
    let mut out = std::io::stdout().lock();
    for finding in doctor::closed(&confinement) {
        let line = serde_json::to_string(&finding)
            .map_err(|error| CommandError::new(ExitCode::Unexpected, error))?;
        writeln!(out, "{line}")?;
    }
    Ok(())
}
