//! A program that goes when this one goes, also when this one was killed and could end nothing any more.
//!
//! The kernel signals a process whose parent died if that process asked for it (PR_SET_PDEATHSIG, prctl(2)), and keeps that wish across
//! `execve`. QEMU and swtpm do not ask; so this program is started in their place, asks, and becomes them.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::ExitStatus;

use rustix::process::Signal;
use tokio::process::Command;

/// What shells end with for a program that is not there, and for one that cannot be run.
const NOT_THERE: u8 = 127;
const NOT_A_PROGRAM: u8 = 126;

/// Starts `program`, held by the thread that spawns it: one that lives as long as this program, as its first does.
pub(super) fn command(program: &Path) -> Command {
    let mut command = Command::new("/proc/self/exe");
    let by = std::process::id().to_string();
    command
        .args(["image", "held", "--by", &by, "--"])
        .arg(program)
        .kill_on_drop(true);
    command
}

/// Becomes `program`. Comes back with an exit code where that cannot be: nothing is left running then.
#[must_use]
pub fn become_program(by: u32, program: &OsStr, arguments: &[OsString]) -> u8 {
    let asked = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let parent = rustix::process::getppid().map(|it| it.as_raw_nonzero().get().cast_unsigned());
    // Whoever died before the question was asked is no parent any more.
    if asked.is_err() || parent != Some(by) {
        return NOT_A_PROGRAM;
    }
    let error = std::process::Command::new(program).args(arguments).exec();
    match error.kind() {
        io::ErrorKind::NotFound => NOT_THERE,
        _ => NOT_A_PROGRAM,
    }
}

/// Why nothing was started, where a status says so.
pub(super) fn not_started(status: ExitStatus) -> Option<io::Error> {
    let code = u8::try_from(status.code()?).ok()?;
    let kind = match code {
        NOT_THERE => io::ErrorKind::NotFound,
        NOT_A_PROGRAM => io::ErrorKind::PermissionDenied,
        _ => return None,
    };
    Some(kind.into())
}
