//! What the process does for itself: no core dumps, no debugger, and memory that stays out of swap where that is permitted.

use rustix::mm::MlockAllFlags;
use rustix::process::{DumpableBehavior, Resource, Rlimit};

use crate::report::{Outcome, Report};

/// Hardens this process and says how it went. A failure is shown and stops nothing.
pub fn harden(report: &mut Report) {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let undumpable = rustix::process::setrlimit(Resource::Core, none)
        .and_then(|()| rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable));
    match undumpable {
        Ok(()) => report.pass("process.core_dumps", "off"),
        Err(error) => report.line(
            Outcome::Info,
            "process.core_dumps",
            format!("cannot be turned off ({error}); a crash may leave prompts on disk"),
        ),
    }
    match lock_memory() {
        Ok(()) => report.pass("process.memory", "pages in use cannot reach swap"),
        Err(why) => report.line(
            Outcome::Info,
            "process.memory",
            format!(
                "not locked ({why}); prompts may reach swap, raise the memlock limit or use none"
            ),
        ),
    }
}

/// Locks pages only under an unlimited limit: with a smaller one an allocation would fail later, in somebody's answer.
fn lock_memory() -> Result<(), String> {
    let limit = rustix::process::getrlimit(Resource::Memlock);
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    if limit.current.is_some() && rustix::process::setrlimit(Resource::Memlock, unlimited).is_err()
    {
        return Err(format!("limit is {} bytes", limit.maximum.unwrap_or(0)));
    }
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    rustix::mm::mlockall(flags).map_err(|error| error.to_string())
}
