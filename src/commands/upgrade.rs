//! `casemate org upgrade`: a newer image beside the present ones, which end.

use std::path::PathBuf;
use std::time::SystemTime;

use casemate_attestation::UnixTime;
use clap::Args;
use serde_json::json;

use super::CommandError;
use super::org::{command_error, one_section, open, read_json};
use crate::org::documents::DOCUMENT_DAYS;
use crate::org::upgrade::upgrade;

/// Arguments of `casemate org upgrade`.
#[derive(Debug, Args)]
pub(super) struct Upgrade {
    /// The organisation's folder.
    folder: PathBuf,
    /// The newer image, as `casemate measure` writes it: {"snp": {...}}, {"tdx": {...}} or {"tpm": {...}}. Of it the images are
    /// taken; floors stay as they are.
    #[arg(long, value_name = "FILE")]
    section: PathBuf,
    /// Days for which the present images are accepted beside it; 0 ends them at once.
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u16).range(0..=366))]
    overlap_days: u16,
    /// Days that the new document is in force.
    #[arg(long, default_value_t = DOCUMENT_DAYS)]
    days: u32,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Upgrade) -> Result<(), CommandError> {
    let organisation = open(&arguments.folder)?;
    let section = one_section(read_json(&arguments.section)?)?;
    let now = UnixTime::from(SystemTime::now());
    let end = now.plus(u64::from(arguments.overlap_days).saturating_mul(86_400));
    let (number, images) =
        upgrade(&organisation, section, end, arguments.days, now).map_err(command_error)?;
    if arguments.json {
        let images: Vec<_> = images
            .iter()
            .map(|image| json!({"image": image.id, "label": image.label, "until": image.until}))
            .collect();
        println!("{}", json!({"number": number, "images": images}));
    } else {
        for image in images {
            let until = image
                .until
                .map_or_else(|| "-".to_owned(), |it| it.to_string());
            println!("{}\t{until}\t{}", image.id, image.label);
        }
    }
    eprintln!("signed reference values number {number}");
    Ok(())
}
