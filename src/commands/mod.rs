//! The command line: nouns, then verbs. Data goes to stdout, talk to stderr; secrets are never arguments.
//!
//! Each noun is one file here with `Arguments` (clap) and `run(Arguments) -> Result<(), CommandError>`.

pub mod broker;
pub mod collateral;
pub mod config;
#[cfg(feature = "test-chip")]
pub mod demo;
pub mod doctor;
mod enrol;
mod enrolment;
mod error;
mod fetch;
mod gpus;
pub mod guard;
pub mod host;
pub mod image;
pub mod machine;
pub mod mark;
pub mod measure;
pub mod model;
pub mod nvidia;
pub mod org;
mod own;
pub mod policy;
pub mod range;
pub mod serve;
mod upgrade;

use casemate_attestation::Platform;
use casemate_client::command::{
    self as client, CONNECT_EXAMPLE, CommandFailure, ConnectArguments, VERIFY_EXAMPLE,
    VerifyArguments,
};
use clap::{Parser, Subcommand, ValueEnum};

pub use error::{CommandError, ExitCode};

use crate::secrets;

/// Confidential inference on hardware that you own.
#[derive(Debug, Parser)]
#[command(
    name = "casemate",
    version,
    propagate_version = true,
    max_term_width = 100
)]
pub struct Cli {
    /// How much to say on stderr while running.
    #[arg(long, global = true, value_enum, default_value_t = LogLevel::Warn)]
    log: LogLevel,
    /// End when the parent process ends; for programs that start this one.
    #[arg(long, global = true, hide = true, value_name = "PID")]
    end_with_parent: Option<i32>,
    #[command(subcommand)]
    command: Command,
}

/// Verbosity of stderr. Prompts, answers and keys are in none of them.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The whole way on this machine, with the test chip. NOT CONFIDENTIAL.
    #[cfg(feature = "test-chip")]
    Demo(demo::Arguments),
    /// Hold the keys and release them to attested servers.
    Broker(broker::Arguments),
    /// Serve sealed models to attested sessions.
    Serve(serve::Arguments),
    /// Attest a server, then offer its API to programs on this machine.
    #[command(after_help = CONNECT_EXAMPLE)]
    Connect(ConnectArguments),
    /// Attest a server once and print every check.
    #[command(after_help = VERIFY_EXAMPLE)]
    Verify(VerifyArguments),
    /// Judge one piece of evidence on standard input, for programs.
    #[command(
        hide = true,
        after_help = "Example:\n  casemate judge < request.json    # docs/formats/judge.md"
    )]
    Judge,
    /// Make and keep an organisation: authorities, identities, chips, revocations.
    Org(org::Arguments),
    /// On a machine of the fleet: ask to be enrolled, answer the organisation's challenge.
    Machine(machine::Arguments),
    /// Seal models, look at packages, verify them.
    Model(model::Arguments),
    /// Edit, check, try out and sign what teams may do.
    Policy(policy::Arguments),
    /// Declare workloads, see whom the extraction guard asks about, release.
    Guard(guard::Arguments),
    /// Look for the marks of an organisation's teams in texts.
    Mark(mark::Arguments),
    /// Run published attacks against a server of yours, and see what each obtains.
    Range(range::Arguments),
    /// Fetch, pack, verify and show what vendors sign about machines.
    Collateral(collateral::Arguments),
    /// Predict what a machine will measure, before it exists.
    Measure(measure::Arguments),
    /// Build the guest image, and boot it.
    Image(image::Arguments),
    /// Look at the host that starts guests.
    Host(host::Arguments),
    /// Look whether a machine is closed as an image should be.
    Doctor(doctor::Arguments),
    /// Convert what NVIDIA publishes for GPUs and switches.
    Nvidia(nvidia::Arguments),
    /// Look at configuration files before they are used.
    Config(config::Arguments),
}

/// Runs the command line of this process.
pub fn main() -> std::process::ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code.into(),
        Err(error) => {
            eprintln!("{error}");
            error.code().into()
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode, CommandError> {
    secrets::forbid_core_dumps()?;
    if let Some(parent) = cli.end_with_parent {
        secrets::end_with_parent(parent)?;
    }
    start_log(cli.log);
    let done = match cli.command {
        #[cfg(feature = "test-chip")]
        Command::Demo(arguments) => demo::run(arguments),
        Command::Broker(arguments) => broker::run(arguments),
        Command::Serve(arguments) => serve::run(arguments),
        Command::Connect(arguments) => return of_client(client::connect(arguments, own::evidence)),
        Command::Verify(arguments) => return of_client(client::verify(arguments, own::evidence)),
        Command::Judge => return of_client(async { client::judge() }),
        Command::Org(arguments) => org::run(arguments),
        Command::Machine(arguments) => machine::run(arguments),
        Command::Model(arguments) => model::run(arguments),
        Command::Policy(arguments) => policy::run(arguments),
        Command::Guard(arguments) => guard::run(arguments),
        Command::Mark(arguments) => mark::run(arguments),
        Command::Range(arguments) => range::run(arguments),
        Command::Collateral(arguments) => collateral::run(arguments),
        Command::Measure(arguments) => measure::run(arguments),
        Command::Image(arguments) => image::run(arguments),
        Command::Host(arguments) => host::run(arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Nvidia(arguments) => nvidia::run(arguments),
        Command::Config(arguments) => config::run(arguments),
    };
    done.map(|()| ExitCode::Done)
}

/// Runs a command of the light client, whose failed checks are lines of a report and an exit code.
fn of_client(
    command: impl Future<Output = Result<ExitCode, CommandFailure>>,
) -> Result<ExitCode, CommandError> {
    runtime()?
        .block_on(command)
        .map_err(|error| CommandError::new(error.exit_code(), error))
}

/// The log goes to stderr as plain lines, and only our own modules speak.
fn start_log(level: LogLevel) {
    let level = match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
    };
    let filter = format!("casemate={level},casemate_client={level},casemate_models={level}");
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
}

/// A runtime for commands that talk to the network.
///
/// # Errors
/// When the system gives no threads or no epoll.
pub fn runtime() -> Result<tokio::runtime::Runtime, CommandError> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?)
}

/// Completes when the user or the system asks the process to end.
pub async fn end_requested() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        // Without handlers the signals end the process by themselves.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// A platform by its word, for arguments.
fn platform(text: &str) -> Result<Platform, String> {
    Platform::ALL
        .into_iter()
        .find(|platform| platform.as_str() == text)
        .ok_or_else(|| "platforms are snp, tdx, tpm and test-chip".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_tree_is_consistent() {
        Cli::command().debug_assert();
    }

    fn without_example(command: &clap::Command, path: &str, found: &mut Vec<String>) {
        let path = format!("{path} {}", command.get_name());
        let help = command.get_after_help().map(ToString::to_string);
        if command.has_subcommands() {
            command
                .get_subcommands()
                .for_each(|sub| without_example(sub, &path, found));
        } else if !help.is_some_and(|help| help.contains("Example")) {
            found.push(path);
        }
    }

    #[test]
    fn every_command_shows_an_example() {
        let mut found = Vec::new();
        without_example(&Cli::command(), "", &mut found);
        assert!(found.is_empty(), "{found:?}");
    }
}
