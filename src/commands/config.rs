//! `casemate config`: look at configuration files before they are used.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};

use super::{CommandError, ExitCode};
use crate::broker::BrokerConfig;
use crate::config::{self, ConfigError, Loaded, ServerConfig};

/// Look at configuration files before they are used.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Check a file: every field known, every value possible. Says nothing about the files that it names.
    #[command(
        after_help = "Example:\n  casemate config check server.toml --role server --print-config"
    )]
    Check(Check),
}

#[derive(Debug, Args)]
struct Check {
    /// The file.
    file: PathBuf,
    /// Whose configuration it is.
    #[arg(long, value_enum)]
    role: Role,
    /// Print every value in force, defaults included, as TOML on stdout.
    #[arg(long)]
    print_config: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Role {
    Server,
    Broker,
    Connect,
}

/// Runs `casemate config`.
///
/// # Errors
/// Exit code 3 where the file is refused.
pub fn run(arguments: Arguments) -> Result<(), CommandError> {
    let Verb::Check(Check {
        file,
        role,
        print_config,
    }) = arguments.verb;
    let refused = |error: &dyn std::fmt::Display| {
        println!("FAIL config {}", file.display());
        CommandError::new(ExitCode::Configuration, error)
    };
    let in_force = match role {
        Role::Server => loaded::<ServerConfig>(&file).map_err(|error| refused(&error))?,
        Role::Broker => loaded::<BrokerConfig>(&file).map_err(|error| refused(&error))?,
        Role::Connect => {
            let config = casemate_client::config::Config::load(&file);
            let config = config.map_err(|error| refused(&error))?;
            config.print().map_err(|error| refused(&error))?
        }
    };
    if print_config {
        println!("{}", in_force.trim_end());
    } else {
        println!("PASS config {}", file.display());
    }
    Ok(())
}

/// What is in force as TOML, with its digest.
fn loaded<T: config::Role>(file: &Path) -> Result<String, ConfigError> {
    let loaded = Loaded::<T>::read(file)?;
    Ok(format!(
        "{}# digest = \"{}\"",
        loaded.text(),
        loaded.digest()
    ))
}
