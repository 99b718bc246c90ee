//! `casemate serve`: serve sealed models to attested sessions.

use std::io::Write;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use casemate_devices::Machine;
use casemate_devices::files::SystemFiles;
use casemate_models::LoadError;
use casemate_models::decoder::ArchitectureError;
use casemate_models::weights::WeightError;
use clap::Args;
use indicatif::ProgressBar;

use super::model::{package_code, progress_bar};
use super::{CommandError, ExitCode};
use crate::broker::client::ReleaseError;
use crate::config::{Loaded, ServerConfig};
use crate::devices::DeviceAskError;
use crate::policy::ModelName;
use crate::secrets;
use crate::serve::{LoadWatch, ServeError, Server};

const EXAMPLE: &str = "Example:
  casemate serve --config server.toml
  casemate serve --config server.toml --print-config

server.toml:
  [server]
  listen = \"0.0.0.0:7443\"
  names = [\"model.example\"]              # names that clients connect to; the fleet list allows them

  [broker]
  address = \"broker.example:7440\"
  name = \"broker.example\"
  authority = \"broker-ca.pem\"            # from the organisation's folder: broker/ca.pem

  [trust]
  release_key = \"release.key\"            # release/public.key
  client_authority = \"client-ca.pem\"     # client-ca/cert.pem

  [attestation]
  platform = \"snp\"                       # or \"tdx\"
  collateral = \"collateral.json\"         # from: casemate collateral pack; or a folder of single files
  # platform = \"tpm\"                     # measured boot: NOT CONFIDENTIAL
  # tpm = { registers = [0, 1, 2, 3, 4, 5, 6, 7] }
  # platform = \"test-chip\"               # NOT CONFIDENTIAL
  # test_chip_seed = \"seed\"

  # [attestation.devices]                 # a machine with GPUs in the fleet list
  # source = \"nvidia\"

  [state]
  folder = \"state\"                       # numbers that never go back

  [audit]
  file = \"audit.jsonl\"

  [[model]]
  name = \"default\"
  package = \"default.casemate\"";

/// Arguments of `casemate serve`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Arguments {
    /// The server's configuration.
    #[arg(long, value_name = "FILE", default_value = "server.toml")]
    config: PathBuf,
    /// Print every value in force and the digest that the binding carries, and end.
    #[arg(long)]
    print_config: bool,
}

/// Runs `casemate serve`.
///
/// # Errors
/// 3 for configuration and files, 10 where keys, package or evidence are refused, 12 for documents out of date, 20 for
/// what this version cannot run, 30 for malformed packages and models, 1 for the rest.
pub fn run(arguments: Arguments) -> Result<(), CommandError> {
    let config = Loaded::<ServerConfig>::read(&arguments.config)
        .map_err(|error| CommandError::new(ExitCode::Configuration, error))?;
    if arguments.print_config {
        println!("{}# digest = \"{}\"", config.text(), config.digest());
        return Ok(());
    }
    secrets::no_new_privileges()?;
    eprintln!("{}", secrets::lock_memory().check_line());
    let platform = config.attestation.platform;
    super::runtime()?.block_on(async {
        // One wait for both parts: a signal that comes between two would be nobody's.
        let mut end = pin!(super::end_requested());
        let server = Server::start(config, Arc::new(Bars::default()));
        let server = tokio::select! {
            server = server => server.map_err(explain)?,
            () = &mut end => return Ok(()),
        };
        let address = server.address()?;
        if let Some(caveat) = platform.caveat() {
            eprintln!("NOT CONFIDENTIAL: {caveat}");
        }
        let mut out = std::io::stdout();
        writeln!(out, "server ready on {address}")?;
        out.flush()?;
        let served = server.serve(end).await;
        eprintln!("stopped");
        served.map_err(explain)
    })
}

/// One bar after the other, for the model that is being loaded.
#[derive(Default)]
struct Bars(Mutex<Option<(ModelName, ProgressBar)>>);

impl LoadWatch for Bars {
    fn loaded(&self, model: &ModelName, done: u64, total: u64) {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = match &*current {
            Some((name, bar)) if name == model => bar.clone(),
            _ => progress_bar(format!("loading {model}"), total),
        };
        bar.set_position(done);
        if done < total {
            *current = Some((model.clone(), bar));
        } else {
            bar.finish_and_clear();
            *current = None;
        }
    }
}

/// Code and advice for each way in which a server does not start.
#[must_use]
pub fn explain(error: ServeError) -> CommandError {
    use ServeError as E;
    let (code, hint) = match &error {
        E::Listen { .. } => (
            ExitCode::Configuration,
            "choose another port in [server] `listen`, or stop what uses it",
        ),
        E::NoProvider(_) => (
            ExitCode::Unsupported,
            "use a build and a platform that this machine has; the test chip proves nothing",
        ),
        E::Device(_) => {
            let new = CommandError::new(ExitCode::Unsupported, &error);
            return new.hint(device_hint(&Machine::detect(&SystemFiles)));
        }
        E::DevicesChanged(_) => (
            ExitCode::Rejected,
            "find out who touched the machine; enrol what is in it now with: casemate org devices",
        ),
        E::Package { error, .. } => (
            package_code(error),
            "check it with: casemate model verify FILE --org FOLDER",
        ),
        E::Load { error, .. } => (load_code(error), load_hint(error)),
        E::Release(error) => return release_error(error),
        E::Document(error) if error.is_expiry() => (
            ExitCode::Expired,
            "sign a new one: casemate policy sign, or casemate org renew",
        ),
        E::Document(_) => (
            ExitCode::Rejected,
            "the broker hands out what its organisation's folder holds; compare release keys and numbers",
        ),
        E::System(_) => return CommandError::new(ExitCode::Unexpected, error),
        _ => (
            ExitCode::Configuration,
            "check the file that the message names, and its entry in server.toml",
        ),
    };
    CommandError::new(code, &error).hint(hint)
}

/// What this machine has, and what to write for it.
fn device_hint(machine: &Machine) -> String {
    let advice = match machine.best() {
        Some(platform) => format!(
            "[attestation] `platform = \"{platform}\"` fits this machine; the device must be there and this user may open it"
        ),
        None => "this machine has no attestation device that is known".to_owned(),
    };
    format!("{advice}. Found:\n{machine}")
}

fn load_code(error: &LoadError) -> ExitCode {
    match error {
        LoadError::Architecture(
            ArchitectureError::Unsupported(_) | ArchitectureError::UnsupportedVariant(_),
        ) => ExitCode::Unsupported,
        LoadError::TooLarge { .. } | LoadError::DraftVocabulary { .. } | LoadError::Device(_) => {
            ExitCode::Configuration
        }
        LoadError::Weights(WeightError::Sealed(_)) => ExitCode::Rejected,
        _ => ExitCode::Malformed,
    }
}

fn load_hint(error: &LoadError) -> &'static str {
    match error {
        LoadError::Weights(WeightError::Sealed(_)) => {
            "copy the package again, and check it with: casemate model verify FILE --org FOLDER"
        }
        LoadError::TooLarge { .. } => {
            "lower [limits] `cache_tokens`, take [engine] `cache = \"q8\"`, or a smaller model"
        }
        LoadError::DraftVocabulary { .. } => {
            "take the `draft` out of its entry in server.toml, or name another package there"
        }
        LoadError::Device(_) => {
            "set [engine] `device` and `cache` to what this machine and this program have"
        }
        _ => "seal a model that this version runs",
    }
}

fn release_error(error: &ReleaseError) -> CommandError {
    let (code, hint) = match error {
        ReleaseError::Refused { code, .. } => match code.as_str() {
            "policy_expired" => (
                ExitCode::Expired,
                "sign what is missing or out of date: casemate org renew, casemate policy sign",
            ),
            "evidence_rejected" => (
                ExitCode::Rejected,
                "enrol this chip and its measurement with: casemate org enrol",
            ),
            "epoch_below_floor" => (
                ExitCode::Rejected,
                "a newer package of this model exists; serve that one",
            ),
            "package_unknown" => (
                ExitCode::Rejected,
                "seal the model for this organisation, or take the package that the broker knows",
            ),
            "package_not_in_policy" => (
                ExitCode::Rejected,
                "name the package's digest under [models] of the policy, and sign it: casemate policy sign",
            ),
            "name_not_allowed" => (
                ExitCode::Rejected,
                "allow the name on this chip with: casemate org enrol",
            ),
            _ => (ExitCode::Rejected, "the broker's audit log says why"),
        },
        ReleaseError::Connect { .. } | ReleaseError::Lost(_) => (
            ExitCode::Unexpected,
            "start the broker first, and compare [broker] with its address, name and authority",
        ),
        ReleaseError::Devices(DeviceAskError::Failed(_)) => (
            ExitCode::Unsupported,
            "ask the driver itself, as nvidia-smi conf-compute -f does, and look at [attestation.devices]",
        ),
        ReleaseError::Devices(DeviceAskError::NotGenuine { .. } | DeviceAskError::Changed(_)) => (
            ExitCode::Rejected,
            "find out what answers in the place of this machine's GPUs",
        ),
        ReleaseError::Name(_) => (ExitCode::Configuration, "correct [broker] `name`"),
        _ => return CommandError::new(ExitCode::Unexpected, error),
    };
    CommandError::new(code, error).hint(hint)
}
