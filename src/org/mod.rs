//! The organisation: authorities, release key, fleet list, teams.
//!
//! [`Organisation::open`] checks the whole folder: whatever is missing, altered or readable by others is named, and
//! nothing is repaired silently.

pub mod authority;
pub mod documents;
pub mod files;
mod init;
mod names;
#[cfg(feature = "test-chip")]
pub mod test_chip;
pub mod upgrade;

use std::path::{Path, PathBuf};

use casemate_attestation::collateral::{Collateral, GpuReferences};
use casemate_attestation::{
    FleetList, Platform, PolicyPayload, ReferenceValues, ReleasePublicKey, ReleaseSecretKey,
    Revocations, SignedError,
};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use crate::keys::{self, FileKek, KeyError, KeyFolderError};
use crate::secrets::{self, FileError};
use authority::{Authority, AuthorityError, Identity};
pub use init::{InitOptions, init};
pub use names::{Name, NameError};

/// Why an organisation's folder could not be made, read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OrgError {
    /// There is something already; nothing is overwritten.
    #[error("{path} exists already; choose another folder", path = .0.display())]
    Exists(PathBuf),
    /// No such organisation.
    #[error("{path} is not an organisation's folder; make one with: casemate org init {path} --name NAME",
        path = .0.display())]
    NotThere(PathBuf),
    /// Missing, altered or cut.
    #[error("{path} is damaged: {reason}; restore this file from a backup", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Reading or writing failed, or a secret file has the wrong mode (rule O-10).
    #[error(transparent)]
    File(#[from] FileError),
    /// A certificate was not made.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// A name cannot stand in a path or an identity.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A document could not be signed.
    #[error("cannot sign: {0}")]
    Sign(#[source] SignedError),
    /// The key-encryption key's file.
    #[error(transparent)]
    Kek(#[from] KeyError),
    /// The wrapped keys.
    #[error(transparent)]
    Keys(#[from] KeyFolderError),
    /// The chip is in the fleet list.
    #[error("chip {0} is enrolled already")]
    ChipEnrolled(String),
    /// Its device has a machine already.
    #[error("device {0} is in the fleet list already")]
    DeviceEnrolled(String),
    /// There is no such machine to change.
    #[error("chip {0} is not enrolled")]
    ChipUnknown(String),
    /// The measurement is in the reference values.
    #[error("measurement {0} is listed already")]
    MeasurementListed(String),
    /// Its reference values have another form.
    #[error(
        "platform {0} proves itself by other evidence than SNP reports; give its whole section: org reference --section FILE"
    )]
    OtherEvidence(Platform),
    /// All machines of measured boot show the same registers.
    #[error(
        "the machines in the reference values show other registers; answer with theirs: machine answer --registers"
    )]
    OtherRegisters,
    /// Nothing would change.
    #[error("every image of the section is accepted already; measure the newer one")]
    NothingNewer,
    /// Rule O-5: an end is not taken back.
    #[error("image {0:?} has an end already, or has ended; build a newer image in its place")]
    ImageEnding(String),
    /// GPUs have versions, and no images.
    #[error("this section has no images; replace it as a whole: org reference --section FILE")]
    NoUpgrade,
    /// It is in the revocation list.
    #[error("{0} is revoked already")]
    RevokedAlready(String),
    /// A chip must be allowed some name.
    #[error("an enrolled chip needs at least one name")]
    NoNames,
    /// There is no test chip.
    #[error("{path} has no test chip; make the organisation with --test-chip", path = .0.display())]
    NoTestChip(PathBuf),
    /// The system gave no randomness.
    #[error("no randomness from the operating system")]
    NoRandomness,
}

/// What `org.toml` holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    format: String,
    made: u64,
    /// Last, so that a file that was cut is no longer TOML.
    name: String,
}

const ABOUT_FORMAT: &str = "casemate/organisation/v1";

/// An organisation whose folder is whole.
#[derive(Debug)]
pub struct Organisation {
    folder: PathBuf,
    name: Name,
    clients: Authority,
    enclaves: Authority,
    release: ReleasePublicKey,
}

impl Organisation {
    /// Opens and checks the folder. Expiry is not judged here: what must be in force is the user's to check.
    ///
    /// # Errors
    /// Names the first file that is missing, damaged or readable by others.
    pub fn open(folder: &Path) -> Result<Self, OrgError> {
        if !folder.join(files::ABOUT).exists() {
            return Err(OrgError::NotThere(folder.to_owned()));
        }
        let name = read_about(folder)?;
        let clients = open_authority(folder, files::CLIENT_CA)?;
        let enclaves = open_authority(folder, files::ENCLAVE_CA)?;
        let release = open_release_key(folder)?;
        let organisation = Self {
            folder: folder.to_owned(),
            name,
            clients,
            enclaves,
            release,
        };
        organisation.check_broker()?;
        organisation.kek()?;
        keys::list(folder)?;
        organisation.check_documents()?;
        #[cfg(feature = "test-chip")]
        organisation.check_test_chip()?;
        Ok(organisation)
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The name, which is also the trust domain of its SPIFFE identities.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// The authority of people and programs.
    pub fn clients(&self) -> &Authority {
        &self.clients
    }

    /// The authority of attested servers.
    pub fn enclaves(&self) -> &Authority {
        &self.enclaves
    }

    /// The release key's public half.
    pub fn release_key(&self) -> &ReleasePublicKey {
        &self.release
    }

    /// The release key's secret half; read when something is signed, and not kept.
    ///
    /// # Errors
    /// When the file is damaged or readable by others.
    pub fn release_secret(&self) -> Result<ReleaseSecretKey, OrgError> {
        let bytes = files::read_secret(&self.folder, files::RELEASE_SECRET)?;
        ReleaseSecretKey::from_pkcs8(&bytes)
            .map_err(|e| files::damaged(&self.folder, files::RELEASE_SECRET, e))
    }

    /// The file backend's key-encryption key.
    ///
    /// # Errors
    /// When the file is damaged or readable by others.
    pub fn kek(&self) -> Result<FileKek, OrgError> {
        files::read_secret(&self.folder, files::KEK)?;
        Ok(FileKek::open(&self.folder.join(files::KEK))?)
    }

    /// The broker's certificate chain and private key (PEM).
    ///
    /// # Errors
    /// When a file is damaged or readable by others.
    pub fn broker_identity(
        &self,
    ) -> Result<(CertificateDer<'static>, Zeroizing<String>), OrgError> {
        let certificate = read_certificate(&self.folder, files::BROKER_CERTIFICATE)?;
        Ok((
            certificate,
            files::read_secret_text(&self.folder, files::BROKER_KEY)?,
        ))
    }

    /// The principal of a member: `spiffe://<organisation>/team/<team>/<member>`.
    pub fn principal(&self, team: &Name, member: &Name) -> String {
        format!("spiffe://{}/team/{team}/{member}", self.name)
    }

    /// Issues a client certificate and writes it with its key into `teams/<team>/<member>`. Returns that folder.
    /// An identity that exists is renewed: key and certificate are replaced.
    ///
    /// # Errors
    /// When `days` is outside rule P-13, or writing fails.
    pub fn issue(
        &self,
        team: &Name,
        member: &Name,
        days: u32,
        now: u64,
    ) -> Result<PathBuf, OrgError> {
        let principal = self.principal(team, member);
        let identity = self
            .clients
            .issue_client(&principal, member.as_str(), days, now)?;
        let folder = files::member_folder(&self.folder, team.as_str(), member.as_str());
        create_folder(&folder)?;
        write_identity(&folder, &identity)?;
        Ok(folder)
    }

    fn check_broker(&self) -> Result<(), OrgError> {
        let (certificate, key) = self.broker_identity()?;
        let authority = read_certificate(&self.folder, files::BROKER_CA)?;
        check_certificate(&self.folder, files::BROKER_CA, &authority, &authority)?;
        check_certificate(
            &self.folder,
            files::BROKER_CERTIFICATE,
            &certificate,
            &authority,
        )?;
        let authority = Authority::from_pem("", certificate.clone(), &key)
            .map_err(|e| files::damaged(&self.folder, files::BROKER_KEY, e))?;
        check_key(&self.folder, files::BROKER_KEY, &authority)
    }

    fn check_documents(&self) -> Result<(), OrgError> {
        documents::open_for_editing::<FleetList>(self)?;
        documents::open_for_editing::<ReferenceValues>(self)?;
        documents::open_for_editing::<Revocations>(self)?;
        if self.folder.join(files::POLICY).exists() {
            documents::open_for_editing::<PolicyPayload>(self)?;
        }
        if self.folder.join(files::COLLATERAL).exists() {
            documents::open_for_editing::<Collateral>(self)?;
        }
        if self.folder.join(files::GPU_REFERENCE).exists() {
            documents::open_for_editing::<GpuReferences>(self)?;
        }
        Ok(())
    }
}

fn read_about(folder: &Path) -> Result<Name, OrgError> {
    let wrong = |e: &dyn std::fmt::Display| files::damaged(folder, files::ABOUT, e);
    let about: About = toml::from_str(&files::read_text(folder, files::ABOUT)?)
        .map_err(|e| wrong(&e.message()))?;
    if about.format != ABOUT_FORMAT {
        return Err(wrong(&format!("its format is not {ABOUT_FORMAT}")));
    }
    Name::organisation(&about.name).map_err(|e| wrong(&e))
}

fn open_authority(folder: &Path, authority: &str) -> Result<Authority, OrgError> {
    let certificate_name = format!("{authority}/{}", files::CERTIFICATE);
    let key_name = format!("{authority}/{}", files::KEY);
    let pem = files::read_text(folder, &certificate_name)?;
    let certificate = read_certificate(folder, &certificate_name)?;
    check_certificate(folder, &certificate_name, &certificate, &certificate)?;
    let key = files::read_secret_text(folder, &key_name)?;
    let authority = Authority::from_pem(&pem, certificate, &key)
        .map_err(|e| files::damaged(folder, &key_name, e))?;
    check_key(folder, &key_name, &authority)?;
    Ok(authority)
}

fn open_release_key(folder: &Path) -> Result<ReleasePublicKey, OrgError> {
    let text = files::read_text(folder, files::RELEASE_PUBLIC)?;
    let public = ReleasePublicKey::from_hex(&text)
        .map_err(|e| files::damaged(folder, files::RELEASE_PUBLIC, e))?;
    let wrong = |e: SignedError| files::damaged(folder, files::RELEASE_SECRET, e);
    let secret = files::read_secret(folder, files::RELEASE_SECRET)?;
    let of_secret = ReleaseSecretKey::from_pkcs8(&secret).and_then(|key| key.public());
    if of_secret.map_err(wrong)? != public {
        let reason = "it is not the public half of release/secret.key";
        return Err(files::damaged(folder, files::RELEASE_PUBLIC, reason));
    }
    Ok(public)
}

fn read_certificate(folder: &Path, name: &str) -> Result<CertificateDer<'static>, OrgError> {
    CertificateDer::from_pem_slice(&files::read(folder, name)?)
        .map_err(|_| files::damaged(folder, name, "not a certificate in PEM"))
}

/// Checks that `certificate` parses and that `issuer`'s key signed it.
fn check_certificate(
    folder: &Path,
    name: &str,
    certificate: &[u8],
    issuer: &[u8],
) -> Result<(), OrgError> {
    let wrong = |reason: &str| files::damaged(folder, name, reason);
    let parse = |der| X509Certificate::from_der(der).map(|(_, certificate)| certificate);
    let certificate = parse(certificate).map_err(|_| wrong("not a certificate"))?;
    let issuer = parse(issuer).map_err(|_| wrong("not a certificate"))?;
    let key = issuer.public_key().subject_public_key.as_ref();
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key)
        .verify(
            certificate.tbs_certificate.as_ref(),
            certificate.signature_value.as_ref(),
        )
        .map_err(|_| wrong("its signature does not verify"))
}

/// Checks that key and certificate of an authority belong together.
fn check_key(folder: &Path, key_name: &str, authority: &Authority) -> Result<(), OrgError> {
    let (_, certificate) = X509Certificate::from_der(authority.certificate())
        .map_err(|_| files::damaged(folder, key_name, "its certificate does not parse"))?;
    if certificate.public_key().raw != authority.public_key_info() {
        return Err(files::damaged(
            folder,
            key_name,
            "it does not belong to the certificate",
        ));
    }
    Ok(())
}

fn create_folder(folder: &Path) -> Result<(), OrgError> {
    std::fs::create_dir_all(folder).map_err(|source| {
        FileError::Io {
            action: "create",
            path: folder.to_owned(),
            source,
        }
        .into()
    })
}

/// Writes certificate and key of one identity; the key first, so that a certificate always has its key beside it.
fn write_identity(folder: &Path, identity: &Identity) -> Result<(), OrgError> {
    secrets::write_secret_file(&folder.join(files::KEY), identity.key_pem.as_bytes())?;
    let certificate = identity.certificate_pem.as_bytes();
    Ok(secrets::write_public_file(
        &folder.join(files::CERTIFICATE),
        certificate,
    )?)
}
