//! The first and only program of a measured image: brings the machine up, closes it, and serves in a process without rights.
//!
//! Outside of an image it does nothing. It has no commands, reads no environment, and no file but those of the image
//! (docs/formats/guest.md).

use std::alloc::System;
use std::process::ExitCode;

use zeroizing_alloc::ZeroAlloc;

mod attester;
mod clock;
mod command_line;
mod console;
mod disk;
mod failure;
mod init;
mod machine;
mod modules;
mod mounts;
mod network;
mod server;

/// Whatever held a secret is zero before its memory can be handed out again, also in libraries that do not wipe.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    if rustix::process::getpid() == rustix::process::Pid::INIT {
        init::run();
        return ExitCode::FAILURE;
    }
    let is_child = rustix::process::getppid() == Some(rustix::process::Pid::INIT);
    let verb = std::env::args().nth(1);
    match verb.as_deref() {
        Some("serve") if is_child => server::main(),
        Some("probe") if is_child => server::probe(),
        _ => {
            eprintln!(
                "casemate-guest {} is the first process of a measured image and runs nowhere else",
                env!("CARGO_PKG_VERSION")
            );
            ExitCode::from(2)
        }
    }
}
