//! What a serving process gives up before it meets a secret: files, ports and system calls that it does not need.
//!
//! Nothing here needs the first process's rights; an image (`src/guest`) closes the machine besides. Everything is done in the only
//! thread that there is, so that every later thread is born with it.

mod calls;
mod machine;

use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, NetPort,
    PathBeneath, PathFd, Ruleset, RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _,
    RulesetStatus, Scope,
};
use seccompiler::{SeccompAction, SeccompFilter, TargetArch};

pub use calls::{ALLOWED, Allowed, OLDER, When};
pub use machine::{Knob, SYSCTLS};

use crate::secrets::{self, MemoryLock};

/// The kernel's interface to Landlock that is asked for: Linux 6.12.
const LANDLOCK: ABI = ABI::V6;

/// Why the process could not be closed. It must not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HardenError {
    /// The limit of core dumps, or the flag that keeps debuggers out.
    #[error("core dumps cannot be turned off: {0}")]
    Core(io::Error),
    /// Memory may reach swap.
    #[error("memory cannot be locked: {0}")]
    Memory(String),
    /// The limit of files and ports.
    #[error("files and ports cannot be limited (landlock, Linux 6.12): {0}")]
    Files(String),
    /// The filter of system calls.
    #[error("system calls cannot be limited (seccomp): {0}")]
    Calls(String),
}

/// What is left to a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Confinement {
    /// Files and folders that it reads.
    pub read: Vec<PathBuf>,
    /// Folders in which it writes.
    pub write: Vec<PathBuf>,
    /// The port that it listens on.
    pub listen: u16,
    /// The port that it connects to.
    pub connect: u16,
}

impl Confinement {
    /// Closes the process that calls, for good.
    ///
    /// # Errors
    /// [`HardenError`]; some of it may be in force then.
    pub fn close(&self) -> Result<(), HardenError> {
        secrets::forbid_core_dumps().map_err(HardenError::Core)?;
        match secrets::lock_memory() {
            MemoryLock::Locked => {}
            other => return Err(HardenError::Memory(other.check_line())),
        }
        self.limit_files()?;
        limit_calls()
    }

    fn limit_files(&self) -> Result<(), HardenError> {
        let failed = |error: landlock::RulesetError| HardenError::Files(error.to_string());
        let rules = self.rules().map_err(failed)?;
        let status = rules.restrict_self().map_err(failed)?;
        match status.ruleset {
            RulesetStatus::FullyEnforced => Ok(()),
            other => Err(HardenError::Files(format!("{other:?}"))),
        }
    }

    fn rules(&self) -> Result<RulesetCreated, landlock::RulesetError> {
        let mut rules = Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::from_all(LANDLOCK))?
            .handle_access(AccessNet::from_all(LANDLOCK))?
            .scope(Scope::from_all(LANDLOCK))?
            .create()?;
        let writing = AccessFs::from_all(LANDLOCK) & !AccessFs::Execute & !AccessFs::IoctlDev;
        for path in &self.read {
            rules = allow(rules, path, AccessFs::ReadFile | AccessFs::ReadDir)?;
        }
        for path in &self.write {
            rules = allow(rules, path, writing)?;
        }
        for (port, access) in [
            (self.listen, AccessNet::BindTcp),
            (self.connect, AccessNet::ConnectTcp),
        ] {
            rules = rules.add_rule(NetPort::new(port, access))?;
        }
        Ok(rules)
    }
}

/// Allows `access` below a folder, or as much of it as a file has. What is not there is not allowed, and never will be.
fn allow(
    rules: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, landlock::RulesetError> {
    let Ok(opened) = PathFd::new(path) else {
        return Ok(rules);
    };
    let access = if path.is_dir() {
        access
    } else {
        access & AccessFs::from_file(LANDLOCK)
    };
    rules.add_rule(PathBeneath::new(opened, access))
}

/// Allows [`ALLOWED`] and refuses the rest with `EPERM`, so that libraries get an error that they know.
fn limit_calls() -> Result<(), HardenError> {
    let failed = |error: seccompiler::BackendError| HardenError::Calls(error.to_string());
    let target = TargetArch::try_from(std::env::consts::ARCH).map_err(failed)?;
    let filter = |rules, otherwise, action| {
        SeccompFilter::new(rules, otherwise, action, target)
            .and_then(seccompiler::BpfProgram::try_from)
            .map_err(failed)
    };
    let allowed = filter(
        calls::rules().map_err(failed)?,
        SeccompAction::Errno(libc::EPERM.unsigned_abs()),
        SeccompAction::Allow,
    )?;
    // A pointer is all that this call shows. The C library takes `clone` where there is none, whose flags can be read.
    let newer = filter(
        [(libc::SYS_clone3, Vec::new())].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS.unsigned_abs()),
    )?;
    for program in [newer, allowed] {
        seccompiler::apply_filter(&program)
            .map_err(|error| HardenError::Calls(error.to_string()))?;
    }
    Ok(())
}
