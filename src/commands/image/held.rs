//! `casemate image held`: what `casemate image boot` starts QEMU and swtpm by. Not for people.

use std::ffi::OsString;

use clap::Args;

use crate::image;

/// Which program, for whom.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The process that it ends with.
    #[arg(long)]
    by: u32,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Becomes the program, or ends as a shell would that cannot start it.
pub(super) fn run(it: &Arguments) -> u8 {
    match it.command.split_first() {
        Some((program, arguments)) => image::become_program(it.by, program, arguments),
        None => 2,
    }
}
