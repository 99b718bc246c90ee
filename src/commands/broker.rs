//! `casemate broker`: hold the keys and release them to attested servers.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::{CommandError, ExitCode};
use crate::broker::{self, Broker, BrokerConfig, BrokerError, StoreError};
use crate::config::Loaded;
use crate::secrets;

const EXAMPLE: &str = "Example:
  casemate broker --config broker.toml --new-state    once, makes the store and its witness
  casemate broker --config broker.toml

broker.toml:
  listen = \"127.0.0.1:7440\"
  organisation = \"org\"          # folder of casemate org init
  state = \"broker-state\"        # folder of the store
  witness = \"broker.witness\"    # shows that the store was rolled back; best on another disk
  audit = \"broker-audit.jsonl\"
  platform = \"snp\"";

/// Arguments of `casemate broker`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Arguments {
    /// The broker's configuration.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Make the store and its witness, once, and end. A broker that finds no store does not start.
    #[arg(long)]
    new_state: bool,
    /// Print every value in force and its digest, and end.
    #[arg(long)]
    print_config: bool,
}

/// Runs `casemate broker`.
///
/// # Errors
/// 3 for configuration, folder and store; 12 for documents out of date; 1 for the rest.
pub fn run(arguments: Arguments) -> Result<(), CommandError> {
    let config = Loaded::<BrokerConfig>::read(&arguments.config)
        .map_err(|e| CommandError::new(ExitCode::Configuration, e))?;
    if arguments.print_config {
        println!("{}# digest = \"{}\"", config.text(), config.digest());
        return Ok(());
    }
    let config = config.into_inner();
    if arguments.new_state {
        broker::create_state(&config).map_err(command_error)?;
        eprintln!("made the broker's store in {}", config.state.display());
        return Ok(());
    }
    eprintln!("{}", secrets::lock_memory().check_line());
    super::runtime()?.block_on(async {
        let platform = config.platform;
        let broker = Broker::start(config).await.map_err(command_error)?;
        let address = broker.address()?;
        if let Some(caveat) = platform.caveat() {
            eprintln!("NOT CONFIDENTIAL: evidence of platform {platform} is accepted ({caveat})");
        }
        let mut out = std::io::stdout();
        writeln!(out, "broker ready on {address}")?;
        out.flush()?;
        tokio::select! {
            () = broker.serve() => {}
            () = super::end_requested() => {}
        }
        Ok(())
    })
}

/// Code and advice for each way in which a broker does not start.
fn command_error(error: BrokerError) -> CommandError {
    let error_text = error.to_string();
    let new = |code| CommandError::new(code, error_text);
    match &error {
        BrokerError::Store(StoreError::Missing(_)) => new(ExitCode::Configuration).hint(
            "if this broker never ran, make its store with --new-state; if it did, restore store and witness \
             from a backup: without them old keys could be released again",
        ),
        BrokerError::Store(StoreError::Exists(_)) => new(ExitCode::Configuration)
            .hint("start without --new-state; what the store remembers must not be forgotten"),
        BrokerError::Store(
            StoreError::RolledBack { .. } | StoreError::Edited(_) | StoreError::Witness { .. },
        ) => new(ExitCode::Configuration).hint(
            "find out who touched the files; restore the newest store and witness from a backup, or, knowing what it \
             forgets, move both away and start anew with --new-state",
        ),
        BrokerError::Store(StoreError::InUse(_)) => {
            new(ExitCode::Configuration).hint("stop the other broker first")
        }
        BrokerError::Organisation(_) | BrokerError::Store(_) | BrokerError::Audit(_) => {
            new(ExitCode::Configuration)
        }
        BrokerError::NotReady(_) => new(ExitCode::Expired).hint(
            "sign what is missing or out of date: casemate org renew, casemate org enrol, casemate policy sign",
        ),
        BrokerError::Listen { .. } => {
            new(ExitCode::Configuration).hint("choose another port in `listen`, or stop what uses it")
        }
        _ => new(ExitCode::Unexpected),
    }
}
