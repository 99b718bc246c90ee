//! The `casemate` command: everything an organisation runs, and what a user's machine runs.

use std::alloc::System;
use std::process::ExitCode;

use zeroizing_alloc::ZeroAlloc;

/// Whatever held a secret is zero before its memory can be handed out again, also in libraries that do not wipe.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    casemate::commands::main()
}
