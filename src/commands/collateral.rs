//! `casemate collateral`: fetch and pack what vendors sign about machines into one signed document, verify it, look at it.

use std::fs;
use std::path::{Path, PathBuf};

use casemate_attestation::collateral::{
    Collateral, CollateralError, CollateralRoots, GpuReferences, JudgedItem, PackError, Packer,
};
use casemate_attestation::{
    Kind, ReleasePublicKey, SignedDocument, SignedError, UnixTime, Verified,
};
use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Value, json};

use super::fetch::{self, Fetch};
use super::{CommandError, ExitCode};
use crate::org::documents::{self, InForceError};
use crate::org::{Organisation, files};
use crate::session::now;

/// Vendors' documents are due again after a month.
const DAYS_DEFAULT: u32 = 30;
/// Longest document or file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Fetch, pack, verify and show what vendors sign about machines.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Ask AMD, Intel and NVIDIA about the machines that are owned, judge what they answer, and keep what is right in a folder.
    #[command(
        after_help = "Examples:\n  casemate collateral fetch ./rack-1 ./rack-2 --into ./from-vendors\n  \
        casemate collateral fetch --config fetch.toml --into ./from-vendors --dry-run"
    )]
    Fetch(Fetch),
    /// Judge files of AMD, Intel and NVIDIA, and sign them as the organisation's collateral.json with the next number.
    #[command(
        after_help = "Examples:\n  casemate collateral pack ./from-vendors --org acme --days 30\n  \
        casemate collateral pack vcek.der cert_chain.pem crl.der tdx-collateral.json --org acme"
    )]
    Pack(Pack),
    /// Check signature, number and dates of a bundle, and every item in it. Asks nobody.
    #[command(
        after_help = "Examples:\n  casemate collateral verify acme/collateral.json\n  \
        casemate collateral verify collateral.json --release-key acme/release/public.key --number 7"
    )]
    Verify(Look),
    /// Say what a bundle holds and until when each item counts, also when that is past.
    #[command(after_help = "Example:\n  casemate collateral show acme/collateral.json --json")]
    Show(Look),
}

#[derive(Debug, Args)]
struct Pack {
    /// Files, or folders of files: certificates, lists and answers (DER), chains (PEM), collateral of TDX quotes (JSON).
    /// Each is known by what it is, not by its name.
    files: Vec<PathBuf>,
    /// The organisation's folder; its lists of GPUs (gpu-reference.json) are packed, too.
    #[arg(long, value_name = "FOLDER")]
    org: PathBuf,
    /// Days that the bundle is in force, at most 366.
    #[arg(long, default_value_t = DAYS_DEFAULT, value_parser = clap::value_parser!(u32).range(1..=366))]
    days: u32,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Look {
    /// The bundle.
    file: PathBuf,
    /// The release key's public half; by default release/public.key beside the bundle.
    #[arg(long, value_name = "FILE")]
    release_key: Option<PathBuf>,
    /// Refuse a bundle with a lower number.
    #[arg(long, default_value_t = 0)]
    number: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs `casemate collateral`.
///
/// # Errors
/// 3 for files that cannot be read and folders that are damaged, 10 for what does not verify, 12 for what is out of date or
/// revoked, 30 for files that are not what they claim to be.
pub fn run(arguments: Arguments) -> Result<(), CommandError> {
    match arguments.verb {
        Verb::Fetch(arguments) => fetch::run(&arguments),
        Verb::Pack(pack) => run_pack(&pack),
        Verb::Verify(look) => run_verify(&look),
        Verb::Show(look) => run_show(&look),
    }
}

fn run_pack(pack: &Pack) -> Result<(), CommandError> {
    let organisation = Organisation::open(&pack.org).map_err(configuration)?;
    let now = now();
    let mut packer = Packer::new();
    for file in all_files(&pack.files)? {
        let name = file.display();
        let what = packer
            .add(&read(&file)?)
            .map_err(|error| of_packing(&error, &format!("{name}: ")))?;
        eprintln!("{name}: {what}");
    }
    if let Some(lists) = lists(&organisation, now)? {
        packer.add_lists(&lists.lists);
    }
    let collateral = packer.finish().map_err(|error| of_packing(&error, ""))?;
    let items = collateral.check(&CollateralRoots::production(), now);
    if !pack.json {
        items.iter().for_each(print_item);
    }
    must_be_right(&items)?;
    let number =
        documents::sign_next(&organisation, &collateral, pack.days, now).map_err(configuration)?;
    let file = pack.org.join(files::COLLATERAL);
    if pack.json {
        let about = json!({"file": file, "number": number, "days": pack.days});
        println!("{}", described(about, &collateral, &items));
    } else {
        print_lists(&collateral);
        print_until(&items);
        println!("INFO collateral-number {number}");
    }
    eprintln!(
        "signed {} number {number}, in force for {} days",
        file.display(),
        pack.days
    );
    Ok(())
}

/// Lists in force, where the organisation has any.
fn lists(
    organisation: &Organisation,
    now: UnixTime,
) -> Result<Option<GpuReferences>, CommandError> {
    if !organisation.folder().join(files::GPU_REFERENCE).exists() {
        return Ok(None);
    }
    let key = organisation.release_key();
    match documents::in_force::<GpuReferences>(organisation.folder(), key, 0, now) {
        Ok((lists, _)) => Ok(Some(lists.into_payload())),
        Err(InForceError::Signed { file, source }) => Err(of_signing(&source, file)),
        Err(other) => Err(configuration(other)),
    }
}

fn run_verify(look: &Look) -> Result<(), CommandError> {
    let now = now();
    let bundle = open(look, now).inspect_err(|_| {
        if !look.json {
            println!("FAIL collateral-signature {}", look.file.display());
        }
    })?;
    let collateral = bundle.payload();
    let items = collateral.check(&CollateralRoots::production(), now);
    if look.json {
        println!("{}", described(about(look, &bundle), collateral, &items));
    } else {
        println!("PASS collateral-signature {}", look.file.display());
        print_document(&bundle);
        items.iter().for_each(print_item);
        print_lists(collateral);
        print_until(&items);
    }
    must_be_right(&items)
}

/// Opens at the bundle's own date: what is past can be looked at, what is not signed cannot.
fn run_show(look: &Look) -> Result<(), CommandError> {
    #[derive(Deserialize)]
    struct Dated {
        issued: UnixTime,
    }
    let bytes = read(&look.file)?;
    let dated: Dated = serde_json::from_slice(&bytes).map_err(|_| {
        let text = format!("{}: not a signed document", look.file.display());
        CommandError::new(ExitCode::Malformed, text)
    })?;
    let bundle = open(look, dated.issued)?;
    let items = bundle
        .payload()
        .check(&CollateralRoots::production(), now());
    if look.json {
        println!(
            "{}",
            described(about(look, &bundle), bundle.payload(), &items)
        );
        return Ok(());
    }
    print_document(&bundle);
    for judged in &items {
        let JudgedItem {
            vendor,
            item,
            result,
        } = judged;
        match result {
            Ok(until) => println!("INFO collateral-item {vendor} {item}: until {until}"),
            Err(error) => {
                println!("INFO collateral-item {vendor} {item}: does not count now: {error}")
            }
        }
    }
    print_lists(bundle.payload());
    print_until(&items);
    Ok(())
}

fn open(look: &Look, now: UnixTime) -> Result<Verified<Collateral>, CommandError> {
    let beside = || {
        let parent = look.file.parent().unwrap_or(Path::new(""));
        parent.join(files::RELEASE_PUBLIC)
    };
    let key_file = look.release_key.clone().unwrap_or_else(beside);
    let key = read(&key_file)?;
    let key = ReleasePublicKey::from_hex(&String::from_utf8_lossy(&key))
        .map_err(|error| configuration(format!("{}: {error}", key_file.display())))?;
    let bytes = read(&look.file)?;
    SignedDocument::open(&bytes, &key, look.number, now)
        .map_err(|error| of_signing(&error, &look.file.display().to_string()))
}

/// Files as given; of folders the files in them, by name.
fn all_files(given: &[PathBuf]) -> Result<Vec<PathBuf>, CommandError> {
    let mut all = Vec::new();
    for path in given {
        if !path.is_dir() {
            all.push(path.clone());
            continue;
        }
        let wrong = |error| configuration(format!("cannot read {}: {error}", path.display()));
        let mut inside = Vec::new();
        for entry in fs::read_dir(path).map_err(wrong)? {
            let entry = entry.map_err(wrong)?.path();
            if entry.is_file() {
                inside.push(entry);
            }
        }
        inside.sort();
        all.extend(inside);
    }
    Ok(all)
}

/// A file of a sensible length.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, CommandError> {
    let wrong = |error| configuration(format!("cannot read {}: {error}", path.display()));
    let about = fs::metadata(path).map_err(wrong)?;
    if !about.is_file() || about.len() > FILE_BYTES_MAX {
        let text = format!(
            "{}: not a file of at most {FILE_BYTES_MAX} bytes",
            path.display()
        );
        return Err(CommandError::new(ExitCode::Malformed, text));
    }
    fs::read(path).map_err(wrong)
}

fn print_item(judged: &JudgedItem) {
    let JudgedItem {
        vendor,
        item,
        result,
    } = judged;
    match result {
        Ok(until) => println!("PASS collateral-item {vendor} {item}: until {until}"),
        Err(error) => println!("FAIL collateral-item {vendor} {item}: {error}"),
    }
}

fn print_document(bundle: &Verified<Collateral>) {
    println!("INFO collateral-number {}", bundle.number());
    println!("INFO collateral-expires {}", bundle.expires());
    println!("INFO collateral-digest {}", bundle.digest());
}

fn print_lists(collateral: &Collateral) {
    for list in &collateral.nvidia.lists {
        let (kind, version, product) = (list.kind, &list.version, &list.product);
        let count = list.values.len();
        println!("INFO collateral-list {kind} {version} of {product}: {count} indices");
    }
}

/// The earliest end. A bundle may be in force for longer than what is in it.
fn print_until(items: &[JudgedItem]) {
    if let Some(until) = until(items) {
        println!("INFO collateral-until {until}");
    }
}

fn until(items: &[JudgedItem]) -> Option<UnixTime> {
    let ends = items.iter().filter_map(|it| it.result.as_ref().ok());
    ends.min().copied()
}

fn about(look: &Look, bundle: &Verified<Collateral>) -> Value {
    json!({
        "file": look.file, "number": bundle.number(), "issued": bundle.issued(),
        "expires": bundle.expires(), "digest": bundle.digest(),
    })
}

fn described(mut about: Value, collateral: &Collateral, items: &[JudgedItem]) -> Value {
    let item = |it: &JudgedItem| {
        let (until, refused) = match &it.result {
            Ok(until) => (Some(*until), None),
            Err(error) => (None, Some(error.to_string())),
        };
        json!({"vendor": it.vendor, "item": it.item, "until": until, "refused": refused})
    };
    let list = |it: &casemate_attestation::collateral::GpuList| {
        json!({"kind": it.kind, "version": it.version, "product": it.product,
            "manifest": it.manifest, "indices": it.values.len()})
    };
    if let Some(fields) = about.as_object_mut() {
        let right = items.iter().all(|it| it.result.is_ok());
        fields.insert("right".to_owned(), json!(right));
        fields.insert("until".to_owned(), json!(until(items)));
        fields.insert("items".to_owned(), items.iter().map(item).collect());
        let lists = collateral.nvidia.lists.iter().map(list);
        fields.insert("lists".to_owned(), lists.collect());
    }
    about
}

fn must_be_right(items: &[JudgedItem]) -> Result<(), CommandError> {
    let refused = items
        .iter()
        .find_map(|it| it.result.as_ref().err().map(|error| (it, error)));
    let Some((item, error)) = refused else {
        return Ok(());
    };
    Err(CommandError::new(
        code(error),
        format!("{}: {error}", item.item),
    ))
}

const fn code(error: &CollateralError) -> ExitCode {
    if error.is_out_of_date() || error.is_revoked() {
        ExitCode::Expired
    } else {
        ExitCode::Rejected
    }
}

fn of_packing(error: &PackError, file: &str) -> CommandError {
    let code = match error {
        PackError::Unknown | PackError::Malformed { .. } | PackError::TooMuch => {
            ExitCode::Malformed
        }
        _ => ExitCode::Configuration,
    };
    CommandError::new(code, format!("{file}{error}"))
}

/// What a signed document's refusal means for a script.
pub(super) fn of_signing(error: &SignedError, file: &str) -> CommandError {
    let code = match error {
        SignedError::Expired { .. } | SignedError::NotYetValid { .. } => ExitCode::Expired,
        SignedError::WrongKey { .. }
        | SignedError::BadSignature(_)
        | SignedError::WrongKind { .. }
        | SignedError::RolledBack { .. } => ExitCode::Rejected,
        _ => ExitCode::Malformed,
    };
    let error = CommandError::new(code, format!("{file}: {error}"));
    match code {
        ExitCode::Expired => error.hint(format!(
            "pack again: casemate collateral pack FILES --org FOLDER (kind {})",
            Kind::Collateral
        )),
        _ => error,
    }
}

fn configuration(error: impl std::fmt::Display) -> CommandError {
    CommandError::new(ExitCode::Configuration, error)
}
