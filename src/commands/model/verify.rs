//! The full check of a package, as check lines or as JSON.

use std::path::Path;

use casemate_models::package::{SealedPackage, UnlockedPackage};
use casemate_models::weights::WeightSource;
use serde_json::json;

use super::{
    VerifyArguments, about, header_json, open_organisation, package_error, pinned, with_bar,
};
use crate::commands::{CommandError, ExitCode};
use crate::keys::{self, KeyEncryption};
use crate::org::Organisation;

pub(super) fn run(arguments: &VerifyArguments) -> Result<(), CommandError> {
    let organisation = open_organisation(&arguments.org)?;
    let sealed = SealedPackage::open(&arguments.file).map_err(|e| failed(package_error(e)))?;
    let header = sealed.header().clone();
    let unlocked = unlock(&organisation, sealed).map_err(failed)?;
    let checked = with_bar("verifying", header.content_len(), |progress| {
        unlocked.verify(progress)
    });
    checked.map_err(|e| failed(package_error(e)))?;
    if arguments.json {
        let mut document = header_json(&header, &arguments.file);
        if let Some(fields) = document.as_object_mut() {
            fields.extend([
                ("verified".to_owned(), json!(true)),
                ("name".to_owned(), json!(unlocked.name())),
                ("version".to_owned(), json!(unlocked.version())),
                (
                    "source_sha256".to_owned(),
                    json!(hex::encode(unlocked.source_hash())),
                ),
            ]);
        }
        println!("{document:#}");
        return Ok(());
    }
    println!(
        "PASS PK-6 clear header and length of package {}",
        header.id()
    );
    println!(
        "PASS PK-5 model digest {} is the registered one",
        header.digest()
    );
    println!(
        "PASS PK-34 published by the release key {}",
        organisation.release_key().to_hex()
    );
    println!(
        "PASS PK-24 every chunk of {} bytes is authentic",
        header.content_len()
    );
    println!("PASS PK-32 tree hash of the content");
    println!(
        "PASS PK-30 source file sha256 {}",
        hex::encode(unlocked.source_hash())
    );
    let (name, version) = (unlocked.name(), unlocked.version());
    println!(
        "INFO PK-30 {name} version {version}, epoch {}",
        header.epoch()
    );
    Ok(())
}

/// Opens a package of the organisation for whoever has its keys. Says nothing about its chunks that are not read.
pub(in crate::commands) fn open(
    organisation: &Organisation,
    path: &Path,
) -> Result<UnlockedPackage, CommandError> {
    unlock(
        organisation,
        SealedPackage::open(path).map_err(package_error)?,
    )
}

/// Finds the package's key in the organisation's folder and unlocks with it.
fn unlock(
    organisation: &Organisation,
    sealed: SealedPackage,
) -> Result<UnlockedPackage, CommandError> {
    let header = sealed.header();
    let registered = keys::list(organisation.folder());
    let registered = registered.map_err(|e| about(ExitCode::Configuration, e))?;
    let entry = registered
        .into_iter()
        .find(|key| key.subject.package_id == header.id());
    let entry = entry.ok_or_else(|| {
        let unknown = format!(
            "package {} is not registered in this organisation",
            header.id()
        );
        about(ExitCode::Rejected, unknown)
            .hint("its key file belongs into keys/; was it sealed here?")
    })?;
    if entry.digest != *header.digest().as_bytes() {
        let found = format!(
            "model digest {} is not the registered {}: the clear header was altered",
            header.digest(),
            hex::encode(entry.digest)
        );
        return Err(about(ExitCode::Rejected, found));
    }
    let kek = organisation
        .kek()
        .map_err(|e| about(ExitCode::Configuration, e))?;
    let key = kek.unwrap(&entry.subject, &entry.wrapped);
    let key = key.map_err(|e| about(ExitCode::Rejected, e))?;
    sealed
        .unlock(key, &pinned(organisation), entry.subject.epoch)
        .map_err(package_error)
}

/// A verification that failed says so as data, too.
fn failed(error: CommandError) -> CommandError {
    println!(
        "FAIL package {}",
        error.to_string().trim_start_matches("error: ")
    );
    error
}
