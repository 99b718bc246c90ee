//! `casemate nvidia`: NVIDIA's manifests become plain lists that the organisation signs.

use std::path::PathBuf;

use casemate_attestation::Payload as _;
use casemate_attestation::collateral::GpuReferences;
use casemate_attestation::nvidia::{NvidiaRejection, PinnedManifestRoot};
use clap::{Args, Subcommand};
use serde_json::json;

use super::collateral::read;
use super::{CommandError, ExitCode};
use crate::org::documents::{self, DOCUMENT_DAYS};
use crate::org::{Organisation, files};
use crate::rim::{self, Imported, RimError};
use crate::session::now;

/// Convert what NVIDIA publishes for GPUs and switches.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Verify manifests (RIM, signed XML) under NVIDIA's root, and add their values to the organisation's signed lists.
    #[command(
        after_help = "Example:\n  casemate nvidia rim-import NV_GPU_DRIVER_GH100_580.xml NV_GPU_VBIOS_1010.xml --org acme"
    )]
    RimImport(RimImport),
}

#[derive(Debug, Args)]
struct RimImport {
    /// Manifests, as NVIDIA's service hands them out.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The organisation's folder.
    #[arg(long, value_name = "FOLDER")]
    org: PathBuf,
    /// Days that the lists are in force.
    #[arg(long, default_value_t = DOCUMENT_DAYS, value_parser = clap::value_parser!(u32).range(1..=366))]
    days: u32,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs `casemate nvidia`.
///
/// # Errors
/// 3 for files and folders, 10 for a manifest that does not verify, 12 for one whose signer's time is over, 30 for bytes that are
/// no manifest.
pub fn run(arguments: Arguments) -> Result<(), CommandError> {
    let Verb::RimImport(arguments) = arguments.verb;
    let organisation = Organisation::open(&arguments.org).map_err(configuration)?;
    let (now, root) = (now(), PinnedManifestRoot::nvidia());
    let mut imported = Vec::new();
    for file in &arguments.files {
        let bytes = read(file)?;
        let one = rim::import(&bytes, &root, now).map_err(|error| {
            if !arguments.json {
                println!("FAIL rim {}", file.display());
            }
            CommandError::new(code(&error), format!("{}: {error}", file.display()))
        })?;
        if !arguments.json {
            let (kind, version) = (one.list.kind, &one.list.version);
            println!("PASS rim {kind} {version} {}", file.display());
        }
        imported.push(one);
    }
    let number = add(&organisation, &imported, &arguments, now)?;
    if arguments.json {
        let lists: Vec<_> = imported.iter().map(about).collect();
        println!("{}", json!({"number": number, "lists": lists}));
    } else {
        println!("INFO gpu-reference-number {number}");
        println!("INFO rim revocation of the manifests' signers was not asked for");
    }
    let file = arguments.org.join(files::GPU_REFERENCE);
    eprintln!(
        "signed {} number {number}, in force for {} days",
        file.display(),
        arguments.days
    );
    Ok(())
}

/// Signs the lists with what is new. What is listed already stays, with a new date.
fn add(
    organisation: &Organisation,
    imported: &[Imported],
    arguments: &RimImport,
    now: casemate_attestation::UnixTime,
) -> Result<u64, CommandError> {
    let mut all = match organisation.folder().join(files::GPU_REFERENCE).exists() {
        true => documents::open_for_editing::<GpuReferences>(organisation)
            .map_err(configuration)?
            .into_payload(),
        false => GpuReferences::default(),
    };
    for one in imported {
        let (kind, version) = (one.list.kind, &one.list.version);
        if !all.add(one.list.clone()) {
            eprintln!("{kind} {version} is listed already");
        }
    }
    // Too many lists for one document is said before anything is written.
    all.to_payload().map_err(configuration)?;
    documents::sign_next(organisation, &all, arguments.days, now).map_err(configuration)
}

fn about(one: &Imported) -> serde_json::Value {
    let list = &one.list;
    json!({"kind": list.kind, "version": list.version, "product": list.product, "manifest": list.manifest,
        "indices": list.values.len(), "signer_until": one.signer_until})
}

const fn code(error: &RimError) -> ExitCode {
    match error {
        RimError::Xml { .. } | RimError::Form(_) | RimError::Content(_) => ExitCode::Malformed,
        RimError::Signer(
            NvidiaRejection::CertificateExpired { .. }
            | NvidiaRejection::CertificateNotYetValid { .. },
        ) => ExitCode::Expired,
        _ => ExitCode::Rejected,
    }
}

fn configuration(error: impl std::fmt::Display) -> CommandError {
    CommandError::new(ExitCode::Configuration, error)
}
