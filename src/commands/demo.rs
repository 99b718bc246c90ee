//! `casemate demo`: the whole way on this machine.

use std::path::PathBuf;

use clap::Args;

use super::{CommandError, ExitCode};
use crate::demo::{self, DemoError, Vouched};

/// Arguments of `casemate demo`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  casemate demo            stays up until Ctrl-C\n  casemate demo --once\n  casemate demo --platform tpm"
)]
pub struct Arguments {
    /// Folder of the demonstration; made on the first run, used again later.
    #[arg(long, value_name = "DIR", default_value = "casemate-demo")]
    dir: PathBuf,
    /// End after the first question; exit code 0 only if every step held.
    #[arg(long)]
    once: bool,
    /// What vouches for the server: a seed in a file, or this machine's TPM 2.0 (a software TPM, swtpm, where there is none).
    #[arg(long, value_enum, default_value_t)]
    platform: Vouched,
}

/// Runs `casemate demo`.
///
/// # Errors
/// 3 for a folder that is damaged or of another platform, the code of what is not supported without a TPM, 1 for a step that did not hold.
pub fn run(arguments: Arguments) -> Result<(), CommandError> {
    // One thread: children end with the thread that started them.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime
        .block_on(demo::run(
            &arguments.dir,
            arguments.platform,
            arguments.once,
        ))
        .map_err(|error| {
            let code = match &error {
                DemoError::Organisation(_)
                | DemoError::Missing(_)
                | DemoError::OtherPlatform(_) => ExitCode::Configuration,
                DemoError::NoTpm(_) => ExitCode::Unsupported,
                _ => ExitCode::Unexpected,
            };
            CommandError::new(code, error)
        })
}
