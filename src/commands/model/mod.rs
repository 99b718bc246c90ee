//! `casemate model`: seal a GGUF file into a package, look at a package, verify one fully (package.md).

mod seal;
mod verify;

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use casemate_models::package::{ClearHeader, PackageError, Progress, PublisherKey, SealedPackage};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::{CommandError, ExitCode};
use crate::org::Organisation;

pub use seal::NewPackage;
pub(super) use verify::open;

/// Arguments of `casemate model`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Seal a GGUF file into a package that only attested servers of the organisation can open.
    #[command(
        disable_version_flag = true,
        after_help = "Example:\n  casemate model seal llama.gguf --org ./acme --name llama \
        --version 1 --epoch 1 --out llama.casemate"
    )]
    Seal(SealArguments),
    /// Show a package's clear header; needs no key, and authenticates nothing.
    #[command(after_help = "Example:\n  casemate model inspect llama.casemate --json")]
    Inspect(InspectArguments),
    /// Check everything: key, publisher, every chunk, tree hash, hash of the source file.
    #[command(after_help = "Example:\n  casemate model verify llama.casemate --org ./acme")]
    Verify(VerifyArguments),
}

#[derive(Debug, Args)]
struct SealArguments {
    /// The model: a GGUF file with its tokenizer and chat template.
    gguf: PathBuf,
    /// The organisation's folder: its release key signs, its key-encryption key wraps the data key.
    #[arg(long, value_name = "DIR")]
    org: PathBuf,
    /// The model's name, as policies and clients will see it.
    #[arg(long)]
    name: String,
    /// The model's version.
    #[arg(long)]
    version: String,
    /// Counts up with each new package of a model: brokers refuse to go back.
    #[arg(long)]
    epoch: u64,
    /// Refuse unless the organisation's key-encryption key has this id.
    #[arg(long, value_name = "ID")]
    key_id: Option<String>,
    /// The package to write; must not exist yet.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct InspectArguments {
    /// The package.
    file: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct VerifyArguments {
    /// The package.
    file: PathBuf,
    /// The organisation's folder, which holds the wrapped data key.
    #[arg(long, value_name = "DIR")]
    org: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs `casemate model`.
///
/// # Errors
/// With the exit code of what went wrong: 2 usage, 3 organisation, 10 rejected, 20 unsupported, 30 malformed.
pub fn run(arguments: Arguments) -> Result<(), CommandError> {
    match arguments.verb {
        Verb::Seal(arguments) => seal::run(&arguments),
        Verb::Inspect(arguments) => run_inspect(&arguments),
        Verb::Verify(arguments) => verify::run(&arguments),
    }
}

fn run_inspect(arguments: &InspectArguments) -> Result<(), CommandError> {
    let package = SealedPackage::open(&arguments.file).map_err(package_error)?;
    print_header(package.header(), &arguments.file, arguments.json);
    Ok(())
}

fn open_organisation(folder: &Path) -> Result<Organisation, CommandError> {
    Organisation::open(folder).map_err(|e| about(ExitCode::Configuration, e))
}

fn pinned(organisation: &Organisation) -> PublisherKey {
    PublisherKey::from_bytes(*organisation.release_key().as_bytes())
}

fn print_header(header: &ClearHeader, file: &Path, as_json: bool) {
    if as_json {
        println!("{:#}", header_json(header, file));
        return;
    }
    println!("package id      {}", header.id());
    println!("model digest    {}", header.digest());
    println!("epoch           {}", header.epoch());
    println!("key id          {}", header.key_id());
    println!("tensor data     {} bytes", header.content_len());
    println!("file            {} bytes", header.file_len());
    println!("algorithms      AES-256-GCM, HKDF-SHA-256, SHA-256 tree, Ed25519");
}

fn header_json(header: &ClearHeader, file: &Path) -> serde_json::Value {
    json!({
        "file": file.display().to_string(),
        "format": 1,
        "id": header.id().to_string(),
        "digest": header.digest().to_string(),
        "epoch": header.epoch(),
        "key_id": header.key_id(),
        "content_len": header.content_len(),
        "file_len": header.file_len(),
    })
}

/// A bar for bytes on stderr; shows nothing if stderr is no terminal.
pub(super) fn progress_bar(what: impl Into<Cow<'static, str>>, len: u64) -> ProgressBar {
    let bar = ProgressBar::new(len);
    let layout = "{msg} [{bar:40}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}";
    if let Ok(style) = ProgressStyle::with_template(layout) {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar
}

/// Shows a bar on stderr while `work` runs, if stderr is a terminal.
fn with_bar<T>(what: &'static str, len: u64, work: impl FnOnce(&Progress<'_>) -> T) -> T {
    let bar = progress_bar(what, len);
    let done = work(&|more| bar.inc(more));
    bar.finish_and_clear();
    done
}

fn about(code: ExitCode, message: impl std::fmt::Display) -> CommandError {
    CommandError::new(code, message)
}

fn package_error(error: PackageError) -> CommandError {
    about(package_code(&error), error)
}

/// The exit code of a refused package.
pub(super) fn package_code(error: &PackageError) -> ExitCode {
    use PackageError as E;
    match error {
        E::Read(_) => ExitCode::Usage,
        E::UnsupportedVersion { .. } | E::UnsupportedAlgorithm { .. } => ExitCode::Unsupported,
        E::NotAPackage
        | E::MalformedHeader(_)
        | E::Truncated { .. }
        | E::TrailingBytes { .. }
        | E::MalformedManifest(_)
        | E::SourceHeader(_) => ExitCode::Malformed,
        _ => ExitCode::Rejected,
    }
}
