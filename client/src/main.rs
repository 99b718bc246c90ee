//! `casemate-connect`: the light client. Attests a server, then offers a plain OpenAI endpoint on loopback.

use std::alloc::System;
use std::process::ExitCode;

use casemate_client::command::{self, ConnectArguments};
use casemate_client::exit;
use clap::Parser;
use zeroizing_alloc::ZeroAlloc;

/// Whatever held a key or a prompt is zero before its memory can be handed out again.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

/// Attest a Casemate server, then offer programs on this machine a plain OpenAI endpoint.
///
/// Prints the base URL on standard output when it is ready. Exit codes: 0 done, 1 unexpected, 2 usage, 3 configuration,
/// 10 verification rejected, 11 policy denied, 12 revoked or expired, 20 unsupported, 30 malformed.
#[derive(Debug, Parser)]
#[command(name = "casemate-connect", version, max_term_width = 100)]
#[command(after_help = "Example:\n  casemate-connect --config connect.toml")]
struct Cli {
    #[command(flatten)]
    connect: ConnectArguments,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new("casemate_client=warn"))
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: {error}");
            return exit::ExitCode::Unexpected.into();
        }
    };
    match runtime.block_on(command::connect(cli.connect, command::no_devices)) {
        Ok(code) => code.into(),
        Err(error) => {
            eprintln!("error: {error}");
            error.exit_code().into()
        }
    }
}
