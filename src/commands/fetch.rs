//! `casemate collateral fetch`: ask vendors for what they sign about the machines that are owned, and keep what is right.

use std::path::PathBuf;

use casemate_client::recorded::RecordedError;
use clap::Args;
use serde_json::{Value, json};

use super::{CommandError, ExitCode, runtime};
use crate::config::Loaded;
use crate::session::now;
use crate::vendors::{
    self, FetchConfig, FetchError, FetchRoots, Fetched, Owned, OwnedError, Planned, Refusal, Shelf,
};

/// `casemate collateral fetch`.
#[derive(Debug, Args)]
pub struct Fetch {
    /// Folders of saved evidence (`casemate verify URL --save FOLDER`): what they need is asked for.
    evidence: Vec<PathBuf>,
    /// The folder that documents are kept in; it may have some already.
    #[arg(long, value_name = "FOLDER")]
    into: PathBuf,
    /// Services, their limits, and machines of which no evidence is at hand (docs/formats/collateral.md).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// List the addresses, and ask nobody.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs `casemate collateral fetch`.
///
/// # Errors
/// 1 for services that give no document, 2 where nothing is named, 3 for files, 10, 12 and 30 for documents, by the first that is
/// refused. Documents that are right are kept all the same.
pub fn run(fetch: &Fetch) -> Result<(), CommandError> {
    let config = match &fetch.config {
        Some(file) => Loaded::<FetchConfig>::read(file)
            .map_err(configuration)?
            .into_inner(),
        None => FetchConfig::default(),
    };
    let owned = Owned::read(&config.owned, &fetch.evidence).map_err(|error| of_owned(&error))?;
    if owned.is_empty() {
        let text =
            "nothing to ask for: name folders of evidence, or machines in a file with --config";
        return Err(CommandError::new(ExitCode::Usage, text));
    }
    let shelf = Shelf::new(fetch.into.clone());
    if fetch.dry_run {
        let planned = vendors::plan(&config.services, &owned, &shelf);
        print_plan(fetch, &planned.map_err(|error| failed(&error, ""))?);
        return Ok(());
    }
    let roots = FetchRoots::production();
    let work = vendors::fetch(&config, &owned, &shelf, &roots, now());
    let all = runtime()?
        .block_on(work)
        .map_err(|error| failed(&error, ""))?;
    if fetch.json {
        println!("{}", described(fetch, &all));
    } else {
        all.iter().for_each(print);
    }
    must_be_right(&all)?;
    let folder = fetch.into.display();
    eprintln!("next: casemate collateral pack {folder} --org FOLDER");
    if all.iter().any(|it| it.file.starts_with("manifests/")) {
        eprintln!(
            "and before it: casemate nvidia rim-import {folder}/manifests/*.xml --org FOLDER"
        );
    }
    Ok(())
}

fn print_plan(fetch: &Fetch, planned: &[Planned]) {
    if fetch.json {
        let one = |it: &Planned| json!({"method": it.method, "url": it.url});
        let all: Vec<Value> = planned.iter().map(one).collect();
        println!("{}", json!({"into": fetch.into, "asks": all}));
        return;
    }
    for Planned { method, url } in planned {
        println!("INFO collateral-ask {method} {url}");
    }
}

fn print(fetched: &Fetched) {
    let Fetched {
        vendor,
        item,
        file,
        result,
    } = fetched;
    match result {
        Ok(kept) => println!("PASS collateral-fetch {vendor} {item}: {kept}, {file}"),
        Err(error) => println!("FAIL collateral-fetch {vendor} {item}: {error}"),
    }
}

fn described(fetch: &Fetch, all: &[Fetched]) -> Value {
    let one = |it: &Fetched| {
        let (kept, refused) = match &it.result {
            Ok(kept) => (Some(kept.to_string()), None),
            Err(error) => (None, Some(error.to_string())),
        };
        json!({"vendor": it.vendor, "item": it.item, "file": it.file, "kept": kept, "refused": refused})
    };
    let right = all.iter().all(|it| it.result.is_ok());
    let documents: Vec<Value> = all.iter().map(one).collect();
    json!({"into": fetch.into, "right": right, "documents": documents})
}

/// The first refusal that has a reason of its own.
fn must_be_right(all: &[Fetched]) -> Result<(), CommandError> {
    let refused = all
        .iter()
        .filter_map(|it| it.result.as_ref().err().map(|error| (it, error)));
    let by_itself = |(_, error): &(_, &FetchError)| {
        !matches!(error, FetchError::Together | FetchError::Alone(_))
    };
    let first = refused.clone().find(by_itself).or(refused.clone().next());
    match first {
        None => Ok(()),
        Some((it, error)) => Err(failed(error, &format!("{} {}: ", it.vendor, it.item))),
    }
}

fn failed(error: &FetchError, what: &str) -> CommandError {
    let code = match error.refusal() {
        Refusal::Unreached => ExitCode::Unexpected,
        Refusal::Files => ExitCode::Configuration,
        Refusal::Rejected => ExitCode::Rejected,
        Refusal::Expired => ExitCode::Expired,
        Refusal::Malformed => ExitCode::Malformed,
    };
    CommandError::new(code, format!("{what}{error}"))
}

fn of_owned(error: &OwnedError) -> CommandError {
    let code = match error {
        OwnedError::Recorded(RecordedError::File(_)) | OwnedError::File(_) => {
            ExitCode::Configuration
        }
        OwnedError::Recorded(error) => error.exit_code(),
        OwnedError::Log(_) => ExitCode::Unsupported,
        _ => ExitCode::Malformed,
    };
    CommandError::new(code, error)
}

fn configuration(error: impl std::fmt::Display) -> CommandError {
    CommandError::new(ExitCode::Configuration, error)
}
