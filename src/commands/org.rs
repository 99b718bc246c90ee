//! `casemate org`: make and keep an organisation.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use casemate_attestation::nvidia::FeatureFlag;
use casemate_attestation::signed::SIGNED_BYTES_MAX;
use casemate_attestation::{
    Measurement, Platform, ReferenceValues, Sha256Digest, SnpMeasurement, UnixTime, strict_json,
};
use clap::{ArgGroup, Args, Subcommand};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::enrol::{Devices, Enrol, run_devices, run_enrol};
use super::enrolment::{self, ChallengeArguments};
use super::upgrade::{self, Upgrade};
use super::{CommandError, ExitCode};
use crate::org::documents::{self, DOCUMENT_DAYS, ReferenceSection, Revocation};
use crate::org::{self, InitOptions, Name, OrgError, Organisation};

/// Arguments of `casemate org`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a new organisation: authorities, release key, key-encryption key, empty lists.
    #[command(after_help = "Example:\n  casemate org init ./acme --name acme")]
    Init(Init),
    /// Issue a client certificate for a member of a team (again: renews it).
    #[command(
        after_help = "Example:\n  casemate org issue ./acme --team research --member ada --days 30"
    )]
    Issue(Issue),
    /// Add a chip to the signed fleet list.
    #[command(
        after_help = "Examples:\n  casemate org enrol ./acme --chip-id 8f3a… --label 'rack 1' --name llm.acme.internal\n  \
        casemate org enrol ./acme --platform tdx --chip-id 04c1… --label 'rack 2' --name llm.acme.internal\n  \
        casemate org enrol ./acme --evidence ./saved --label 'rack 2' --name llm.acme.internal\n  \
        casemate org enrol ./acme --tpm answer.json --label 'rack 3' --name llm.acme.internal\n  \
        casemate org enrol ./acme --evidence ./saved --gpu ./gpu-0 --label 'rack 4' --name gpu.acme.internal\n  \
        casemate org enrol ./acme --test-chip --label laptop --name localhost"
    )]
    Enrol(Box<Enrol>),
    /// Replace the GPUs and switches that the signed fleet list gives a machine.
    #[command(
        after_help = "Examples:\n  casemate org devices ./acme --chip-id 8f3a… --gpu ./gpu-0 --gpu ./gpu-1\n  \
        casemate org devices ./acme --chip-id 8f3a… --none"
    )]
    Devices(Box<Devices>),
    /// Add a certificate or a principal to the signed revocation list.
    #[command(
        after_help = "Examples:\n  casemate org revoke ./acme --certificate acme/teams/research/ada/cert.pem\n  \
        casemate org revoke ./acme --principal spiffe://acme/team/research/ada"
    )]
    Revoke(Revoke),
    /// Add a measurement to the signed reference values.
    #[command(
        after_help = "Example:\n  casemate org reference ./acme --measurement 4c1d… --label 'casemate 0.1.0'"
    )]
    Reference(Reference),
    /// Accept a newer image, and let the present ones end.
    #[command(
        after_help = "Example:\n  casemate org upgrade ./acme --section newer.json --overlap-days 14"
    )]
    Upgrade(Upgrade),
    /// Make a challenge that only the TPM of a request can open.
    #[command(
        after_help = "Example:\n  casemate org challenge ./acme --request request.json --roots maker.pem --out challenge.json"
    )]
    Challenge(ChallengeArguments),
    /// Set the lowest firmware of a product in the signed reference values.
    #[command(
        after_help = "Example:\n  casemate org floor ./acme --product genoa --boot-loader 10 --tee 0 --snp 25 --microcode 84"
    )]
    Floor(Floor),
    /// Sign every document again, unchanged, with a new date.
    #[command(after_help = "Example:\n  casemate org renew ./acme --days 90")]
    Renew(Renew),
}

#[derive(Debug, Args)]
struct Init {
    /// A folder that does not exist, or is empty.
    folder: PathBuf,
    /// Name in identities: lower-case letters, digits, '.', '-', '_'.
    #[arg(long)]
    name: String,
    /// Name of the machine that the broker runs on (repeatable).
    #[arg(long, default_values_t = [String::from("localhost"), String::from("127.0.0.1")])]
    broker_name: Vec<String>,
    /// Make a test chip, too. NOT CONFIDENTIAL: for trying out and for tests.
    #[arg(long)]
    test_chip: bool,
    /// Days that signed documents are in force.
    #[arg(long, default_value_t = DOCUMENT_DAYS)]
    days: u32,
}

#[derive(Debug, Args)]
struct Issue {
    /// The organisation's folder.
    folder: PathBuf,
    /// Team name.
    #[arg(long)]
    team: String,
    /// Name of a person or program.
    #[arg(long)]
    member: String,
    /// Days that the certificate is valid, at most 90.
    #[arg(long, default_value_t = 30)]
    days: u32,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).args(["certificate", "principal"])))]
struct Revoke {
    /// The organisation's folder.
    folder: PathBuf,
    /// Certificate (PEM) that is no longer valid.
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// Principal all of whose certificates are no longer valid.
    #[arg(long, value_name = "URI")]
    principal: Option<String>,
    /// Days that the new list is in force.
    #[arg(long, default_value_t = DOCUMENT_DAYS)]
    days: u32,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("values").required(true).args(["measurement", "section"])))]
struct Reference {
    /// The organisation's folder.
    folder: PathBuf,
    /// SNP launch measurement to add, 96 hexadecimal digits.
    #[arg(long, value_name = "HEX", requires = "label")]
    measurement: Option<Measurement>,
    /// What was measured.
    #[arg(long)]
    label: Option<String>,
    /// A platform's whole section in place of the one before, as JSON: {"tdx": {...}}, {"tpm": {...}}, {"snp": {...}} or
    /// {"nvidia": {...}}.
    #[arg(long, value_name = "FILE", conflicts_with = "label")]
    section: Option<PathBuf>,
    /// Days that the new document is in force.
    #[arg(long, default_value_t = DOCUMENT_DAYS)]
    days: u32,
}

#[derive(Debug, Args)]
struct Floor {
    /// The organisation's folder.
    folder: PathBuf,
    /// milan, genoa or turin.
    #[arg(long)]
    product: String,
    /// Lowest boot loader version.
    #[arg(long)]
    boot_loader: u8,
    /// Lowest TEE version.
    #[arg(long)]
    tee: u8,
    /// Lowest SNP firmware version.
    #[arg(long)]
    snp: u8,
    /// Lowest microcode version.
    #[arg(long)]
    microcode: u8,
    /// Lowest FMC version (turin only).
    #[arg(long, default_value_t = 0)]
    fmc: u8,
    /// Days that the new document is in force.
    #[arg(long, default_value_t = DOCUMENT_DAYS)]
    days: u32,
}

#[derive(Debug, Args)]
struct Renew {
    /// The organisation's folder.
    folder: PathBuf,
    /// Days that the new documents are in force.
    #[arg(long, default_value_t = DOCUMENT_DAYS)]
    days: u32,
}

/// Runs `casemate org`.
///
/// # Errors
/// 2 for names and dates, 3 for a folder that is damaged or there already, 20 for what this build lacks.
pub fn run(arguments: Arguments) -> Result<(), CommandError> {
    match arguments.verb {
        Verb::Init(init) => run_init(init),
        Verb::Issue(issue) => run_issue(&issue),
        Verb::Enrol(enrol) => run_enrol(&enrol),
        Verb::Devices(devices) => run_devices(&devices),
        Verb::Challenge(challenge) => enrolment::run_challenge(&challenge),
        Verb::Revoke(revoke) => run_revoke(revoke),
        Verb::Reference(reference) => run_reference(reference),
        Verb::Floor(floor) => run_floor(&floor),
        Verb::Upgrade(upgrade) => upgrade::run(&upgrade),
        Verb::Renew(renew) => run_renew(&renew),
    }
}

fn run_init(init: Init) -> Result<(), CommandError> {
    let name = Name::organisation(&init.name).map_err(|e| command_error(e.into()))?;
    let Init {
        folder,
        broker_name: broker_names,
        test_chip,
        days,
        ..
    } = init;
    let options = InitOptions {
        name,
        broker_names,
        test_chip,
        days,
    };
    org::init(&folder, &options, now()).map_err(command_error)?;
    let folder = folder.display();
    eprintln!(
        "made organisation {} in {folder}; keep it where only officers can read",
        init.name
    );
    eprintln!("next: casemate org issue {folder} --team TEAM --member MEMBER");
    Ok(())
}

fn run_issue(issue: &Issue) -> Result<(), CommandError> {
    let organisation = open(&issue.folder)?;
    let name = |text: &str| text.parse::<Name>().map_err(|e| command_error(e.into()));
    let (team, member) = (name(&issue.team)?, name(&issue.member)?);
    let folder = organisation
        .issue(&team, &member, issue.days, now().secs())
        .map_err(command_error)?;
    let principal = organisation.principal(&team, &member);
    match issue.json {
        true => println!(
            "{}",
            json!({"principal": principal, "folder": folder, "days": issue.days})
        ),
        false => println!("{principal}\t{}", folder.display()),
    }
    Ok(())
}

/// Reads one strict JSON document that an officer hands in.
pub(super) fn read_json<T: DeserializeOwned>(file: &Path) -> Result<T, CommandError> {
    let shown = file.display();
    let bytes = fs::read(file).map_err(|e| {
        CommandError::new(ExitCode::Configuration, format!("cannot read {shown}: {e}"))
    })?;
    strict_json::from_slice(bytes.trim_ascii(), SIGNED_BYTES_MAX)
        .map_err(|e| CommandError::new(ExitCode::Malformed, format!("{shown}: {e}")))
}

fn run_revoke(revoke: Revoke) -> Result<(), CommandError> {
    let organisation = open(&revoke.folder)?;
    let what = match (revoke.certificate, revoke.principal) {
        (Some(file), _) => Revocation::Certificate(certificate_digest(&file)?),
        (None, Some(principal)) => Revocation::Principal(principal),
        (None, None) => return Err(CommandError::new(ExitCode::Usage, "nothing to revoke")),
    };
    let number =
        documents::revoke(&organisation, what, revoke.days, now()).map_err(command_error)?;
    eprintln!("signed revocation list number {number}; servers end open sessions within seconds");
    Ok(())
}

fn certificate_digest(file: &Path) -> Result<Sha256Digest, CommandError> {
    let unreadable = |e: std::io::Error| {
        CommandError::new(
            ExitCode::Configuration,
            format!("cannot read {}: {e}", file.display()),
        )
    };
    let pem = fs::read(file).map_err(unreadable)?;
    let leaf = CertificateDer::from_pem_slice(&pem).map_err(|_| {
        let what = format!("{} is not a certificate in PEM", file.display());
        CommandError::new(ExitCode::Malformed, what)
    })?;
    Ok(Sha256Digest::of(&leaf))
}

fn run_reference(reference: Reference) -> Result<(), CommandError> {
    let organisation = open(&reference.folder)?;
    let days = reference.days;
    let number = match (reference.measurement, reference.section) {
        (Some(measurement), _) => {
            let label = reference.label.unwrap_or_default();
            let until = None;
            let entry = SnpMeasurement {
                measurement,
                label,
                until,
            };
            documents::add_measurement(&organisation, Platform::Snp, entry, days, now())
        }
        (None, Some(file)) => {
            let section = one_section(read_json(&file)?)?;
            documents::replace_section(&organisation, section, days, now())
        }
        (None, None) => return Err(CommandError::new(ExitCode::Usage, "no values are given")),
    };
    eprintln!(
        "signed reference values number {}",
        number.map_err(command_error)?
    );
    Ok(())
}

/// The one section of a document that has the form of reference values.
pub(super) fn one_section(values: ReferenceValues) -> Result<ReferenceSection, CommandError> {
    let ReferenceValues {
        snp,
        test_chip,
        tdx,
        tpm,
        nvidia,
    } = values;
    if let Some(section) = &nvidia {
        // In protected PCIe mode, and in no other, there are switches.
        let switches = usize::from(section.mode == FeatureFlag::ProtectedPcie);
        let usable = section.policy(1, switches);
        usable.map_err(|error| CommandError::new(ExitCode::Malformed, error))?;
    }
    let mut sections = [
        snp.map(ReferenceSection::Snp),
        tdx.map(ReferenceSection::Tdx),
        tpm.map(ReferenceSection::Tpm),
        nvidia.map(ReferenceSection::Nvidia),
    ]
    .into_iter()
    .flatten();
    match (sections.next(), sections.next(), test_chip) {
        (Some(section), None, None) => Ok(section),
        _ => Err(CommandError::new(
            ExitCode::Malformed,
            "the file must hold one section: snp, tdx, tpm or nvidia",
        )),
    }
}

fn run_floor(floor: &Floor) -> Result<(), CommandError> {
    let organisation = open(&floor.folder)?;
    let product = serde_json::from_value(json!(floor.product)).map_err(|_| {
        CommandError::new(
            ExitCode::Usage,
            format!("there is no product {:?}", floor.product),
        )
        .hint("use milan, genoa or turin")
    })?;
    let &Floor {
        boot_loader,
        tee,
        snp,
        microcode,
        fmc,
        ..
    } = floor;
    let lowest = casemate_attestation::TcbVersion {
        boot_loader,
        tee,
        snp,
        microcode,
        fmc,
    };
    let number = documents::set_floor(&organisation, product, lowest, floor.days, now());
    eprintln!(
        "signed reference values number {}",
        number.map_err(command_error)?
    );
    Ok(())
}

fn run_renew(renew: &Renew) -> Result<(), CommandError> {
    let organisation = open(&renew.folder)?;
    let numbers = documents::renew(&organisation, renew.days, now()).map_err(command_error)?;
    for (kind, number) in numbers {
        println!("{kind}\t{number}");
    }
    Ok(())
}

pub(super) fn open(folder: &Path) -> Result<Organisation, CommandError> {
    Organisation::open(folder).map_err(command_error)
}

pub(super) fn command_error(error: OrgError) -> CommandError {
    let code = match &error {
        OrgError::Name(_)
        | OrgError::Authority(_)
        | OrgError::ChipEnrolled(_)
        | OrgError::ChipUnknown(_)
        | OrgError::DeviceEnrolled(_)
        | OrgError::MeasurementListed(_)
        | OrgError::OtherRegisters
        | OrgError::NothingNewer
        | OrgError::ImageEnding(_)
        | OrgError::NoUpgrade
        | OrgError::RevokedAlready(_)
        | OrgError::NoNames => ExitCode::Usage,
        OrgError::NoTestChip(_) => ExitCode::Unsupported,
        OrgError::NoRandomness => ExitCode::Unexpected,
        _ => ExitCode::Configuration,
    };
    CommandError::new(code, error)
}

pub(super) fn now() -> UnixTime {
    UnixTime::from(SystemTime::now())
}
