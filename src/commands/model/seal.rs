//! Sealing for an organisation: its release key signs, its key-encryption key wraps, its folder keeps the wrapped key.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};

use casemate_models::package::{
    ClearHeader, Progress, Publisher, SealError, SealOptions, Sealed, SealedPackage, seal,
};
use ring::signature::Ed25519KeyPair;

use super::{
    SealArguments, about, open_organisation, package_error, pinned, print_header, with_bar,
};
use crate::commands::{CommandError, ExitCode};
use crate::keys::{self, FileKek, KeyEncryption, KeySubject};
use crate::org::Organisation;

pub(super) fn run(arguments: &SealArguments) -> Result<(), CommandError> {
    let organisation = open_organisation(&arguments.org)?;
    check_key_id(arguments, &organisation)?;
    let model = File::open(&arguments.gguf)
        .and_then(|file| file.metadata().map(|about| (file, about.len())))
        .map_err(|e| {
            about(
                ExitCode::Usage,
                format!("{}: {e}", arguments.gguf.display()),
            )
        });
    let (mut file, len) = model?;
    let new = NewPackage {
        name: &arguments.name,
        version: &arguments.version,
        epoch: arguments.epoch,
        out: &arguments.out,
    };
    let header = with_bar("sealing", len, |progress| {
        new.seal(&organisation, &mut file, progress)
    })?;
    print_header(&header, &arguments.out, arguments.json);
    eprintln!(
        "sealed {}; its wrapped key is in {}/keys",
        arguments.out.display(),
        arguments.org.display()
    );
    Ok(())
}

fn check_key_id(
    arguments: &SealArguments,
    organisation: &Organisation,
) -> Result<(), CommandError> {
    let kek = organisation
        .kek()
        .map_err(|e| about(ExitCode::Configuration, e))?;
    match &arguments.key_id {
        Some(wanted) if wanted != kek.key_id() => Err(about(
            ExitCode::Configuration,
            format!(
                "the organisation's key-encryption key is {}, not {wanted}",
                kek.key_id()
            ),
        )),
        _ => Ok(()),
    }
}

/// A package that is to be made for an organisation.
#[derive(Debug, Clone, Copy)]
pub struct NewPackage<'a> {
    /// The model's name, as policies and clients will see it.
    pub name: &'a str,
    /// The model's version.
    pub version: &'a str,
    /// Its epoch.
    pub epoch: u64,
    /// The file to write.
    pub out: &'a Path,
}

impl NewPackage<'_> {
    /// Seals `source` with the organisation's release key and registers the wrapped data key with the organisation.
    /// What fails leaves neither package nor key.
    ///
    /// # Errors
    /// With the exit code of what went wrong.
    pub fn seal(
        &self,
        organisation: &Organisation,
        source: &mut (impl Read + Seek),
        progress: &Progress<'_>,
    ) -> Result<ClearHeader, CommandError> {
        let kek = organisation
            .kek()
            .map_err(|e| about(ExitCode::Configuration, e))?;
        self.check_epoch(organisation)?;
        let key_id = kek.key_id().to_owned();
        let (name, version) = (self.name.to_owned(), self.version.to_owned());
        let options = SealOptions {
            name,
            version,
            epoch: self.epoch,
            key_id,
        };
        let sealed = seal_and_sign(organisation, source, self.out, &options, progress)?;
        self.register(organisation, &kek, &sealed)
            .inspect_err(|_| {
                // Nobody has the key: what was written is rubbish. The first error is the one to report.
                let _ = std::fs::remove_file(self.out);
            })?;
        let package = SealedPackage::open(self.out).map_err(package_error)?;
        Ok(package.header().clone())
    }

    fn register(
        &self,
        organisation: &Organisation,
        kek: &FileKek,
        sealed: &Sealed,
    ) -> Result<PathBuf, CommandError> {
        let subject = KeySubject {
            package_id: sealed.id,
            epoch: self.epoch,
        };
        let digest = *sealed.digest.as_bytes();
        keys::register(
            organisation.folder(),
            kek,
            subject,
            self.name,
            digest,
            &sealed.key,
        )
        .map_err(|e| about(ExitCode::Configuration, e))
    }

    /// A package below the newest epoch of its name would be refused by the broker: better to say so now.
    fn check_epoch(&self, organisation: &Organisation) -> Result<(), CommandError> {
        let registered = keys::list(organisation.folder());
        let registered = registered.map_err(|e| about(ExitCode::Configuration, e))?;
        let of_name = registered.iter().filter(|key| key.name == self.name);
        match of_name.map(|key| key.subject.epoch).max() {
            Some(newest) if newest > self.epoch => Err(about(
                ExitCode::Usage,
                format!("{} is registered with epoch {newest} already", self.name),
            )
            .hint(format!(
                "take an epoch from {newest} on; epochs of one model never go back"
            ))),
            _ => Ok(()),
        }
    }
}

/// Seals with the organisation's release key, which is read for this and not kept.
fn seal_and_sign(
    organisation: &Organisation,
    source: &mut (impl Read + Seek),
    out: &Path,
    options: &SealOptions,
    progress: &Progress<'_>,
) -> Result<Sealed, CommandError> {
    let broken = |e: &dyn std::fmt::Display| about(ExitCode::Configuration, e);
    let secret = organisation.release_secret().map_err(|e| broken(&e))?;
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&secret.to_pkcs8())
        .map_err(|e| broken(&format!("release/secret.key: {e}")))?;
    let sign = |message: &[u8]| {
        // Ed25519 signatures have 64 bytes; anything else would not verify and is refused by `seal`.
        <[u8; 64]>::try_from(pair.sign(message).as_ref()).unwrap_or([0; 64])
    };
    let publisher = Publisher {
        public_key: pinned(organisation),
        sign: &sign,
    };
    seal(source, out, options, &publisher, progress).map_err(seal_error)
}

/// The exit code of a package that was not made.
fn seal_error(error: SealError) -> CommandError {
    use SealError as E;
    let code = match &error {
        E::BadKeyId | E::BadText(_) | E::OutputExists(_) => ExitCode::Usage,
        E::Gguf(_) | E::TooLarge(_) | E::NoTensors | E::SourceTruncated { .. } => {
            ExitCode::Malformed
        }
        E::BadSignature => ExitCode::Configuration,
        _ => ExitCode::Unexpected,
    };
    about(code, error)
}
