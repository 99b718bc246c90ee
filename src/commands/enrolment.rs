//! The organisation's side of `casemate machine`: challenges for TPMs, and what their answers become.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use casemate_attestation::nvidia::DeviceEvidence;
use casemate_attestation::tpm::{HostedIn, PinnedTpmRoot, TpmAnchors};
use casemate_attestation::{ChipId, HardwareEvidence, Product, TpmMachine};
use clap::{ArgGroup, Args, ValueEnum};
use serde_json::json;

use super::collateral::read;
use super::machine::{OwnTpm, certificates};
use super::{CommandError, ExitCode};
use crate::enrolment::{self, Document as _, EnrolmentError, Redeemed, Request, Subject, Vouch};
use crate::org::{Organisation, documents};
use crate::secrets::write_public_file;
use crate::session::now;

#[derive(Debug, Args)]
pub(super) struct ChallengeArguments {
    /// The organisation's folder.
    folder: PathBuf,
    /// What `casemate machine request` wrote.
    #[arg(long, value_name = "FILE")]
    request: PathBuf,
    #[command(flatten)]
    vouched: Vouched,
    /// Where to write the challenge.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Who says that the TPM is one, and where it runs.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("vouched").args(["roots", "endorsement"])))]
pub(super) struct Vouched {
    /// Roots of TPM makers that you trust (PEM): the endorsement key's certificate must stand under one.
    #[arg(long, value_name = "FILE")]
    roots: Option<PathBuf>,
    /// The TPM's id, as `machine request` showed it on the machine itself: for a TPM without a maker's certificate.
    #[arg(long, value_name = "ID")]
    endorsement: Option<ChipId>,
    /// Where the TPM runs; every verdict repeats it.
    #[arg(long, value_enum, default_value_t = Place::Machine)]
    hosted: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Place {
    /// A discrete or firmware TPM of the machine.
    Machine,
    /// In a cloud's hypervisor.
    CloudHypervisor,
    /// A program. NOT CONFIDENTIAL: it proves nothing.
    Software,
}

impl From<Place> for HostedIn {
    fn from(place: Place) -> Self {
        match place {
            Place::Machine => Self::Machine,
            Place::CloudHypervisor => Self::CloudHypervisor,
            Place::Software => Self::Software,
        }
    }
}

impl Vouched {
    fn vouch(&self) -> Result<Vouch, CommandError> {
        let hosted = self.hosted.into();
        match (&self.roots, self.endorsement) {
            (Some(file), _) => {
                let roots = certificates(file)?;
                let roots = roots.iter().map(|der| PinnedTpmRoot::new(der, hosted));
                Ok(Vouch::Roots(TpmAnchors::new(roots.collect(), Vec::new())))
            }
            (None, Some(id)) => Ok(Vouch::Named(id, hosted)),
            (None, None) => Err(CommandError::new(
                ExitCode::Usage,
                "nobody vouches for the endorsement key",
            )
            .hint("give --roots FILE, or --endorsement ID as read on the machine itself")),
        }
    }
}

/// Runs `casemate org challenge`.
pub(super) fn run_challenge(arguments: &ChallengeArguments) -> Result<(), CommandError> {
    let organisation = super::org::open(&arguments.folder)?;
    let request = read(&arguments.request)?;
    let vouch = arguments.vouched.vouch()?;
    let made = enrolment::challenge(&organisation, &request, &vouch, now());
    let (id, bytes) = made.map_err(command_error)?;
    write(&arguments.out, &bytes)?;
    match arguments.json {
        true => println!("{}", json!({"challenge": arguments.out, "id": id})),
        false => {
            println!("PASS enrolment.endorsement {}", said_by(&arguments.vouched));
            println!("tpm\t{id}");
        }
    }
    if arguments.vouched.hosted == Place::Software {
        eprintln!("NOT CONFIDENTIAL: a software TPM proves nothing about a machine");
    }
    eprintln!(
        "wrote {}; take it to the machine within 7 days",
        arguments.out.display()
    );
    Ok(())
}

fn said_by(vouched: &Vouched) -> &'static str {
    match vouched.roots {
        Some(_) => "its certificate stands under a root that you named",
        None => "it is the one that you named; no maker's certificate was judged",
    }
}

/// What a TPM's answer becomes.
pub(super) fn redeemed(organisation: &Organisation, file: &Path) -> Result<Redeemed, CommandError> {
    let redeemed = enrolment::redeem(organisation, &read(file)?, now()).map_err(command_error)?;
    println!("PASS enrolment.credential the TPM of both keys opened the challenge");
    println!("tpm\t{}", redeemed.id);
    Ok(redeemed)
}

/// All three steps, where the organisation's folder is on the machine itself.
pub(super) fn this_machine(
    organisation: &Organisation,
    own: &OwnTpm,
    vouched: &Vouched,
    authorities: Option<&Path>,
) -> Result<Redeemed, CommandError> {
    let vouch = vouched.vouch()?;
    let above = authorities.map(certificates).transpose()?;
    let (transport, software) = own.open()?;
    let request = enrolment::request(transport, software, above.unwrap_or_default());
    let request = request
        .and_then(|it| it.to_bytes())
        .map_err(command_error)?;
    let (_, challenge) =
        enrolment::challenge(organisation, &request, &vouch, now()).map_err(command_error)?;
    let registers: BTreeSet<u8> = (0..=7).collect();
    let (transport, _) = own.open()?;
    // Its devices are named by the arguments: the organisation's folder is on the machine itself.
    let answer = enrolment::answer(transport, &challenge, registers, None);
    let answer = answer.and_then(|it| it.to_bytes()).map_err(command_error)?;
    let redeemed = enrolment::redeem(organisation, &answer, now()).map_err(command_error)?;
    println!("PASS enrolment.endorsement {}", said_by(vouched));
    println!("PASS enrolment.credential the TPM of both keys opened the challenge");
    println!("tpm\t{}", redeemed.id);
    Ok(redeemed)
}

fn booted(redeemed: &Redeemed, label: &str) -> TpmMachine {
    TpmMachine {
        registers: redeemed.registers.clone(),
        label: label.to_owned(),
        until: None,
    }
}

/// Refuses what [`accept_boot`] would refuse, before the machine is enrolled.
pub(super) fn can_accept_boot(
    organisation: &Organisation,
    redeemed: &Redeemed,
    label: &str,
) -> Result<(), CommandError> {
    documents::can_add_tpm_machine(organisation, &booted(redeemed, label))
        .map_err(super::org::command_error)
}

/// Adds what the machine measured when it answered to the reference values.
pub(super) fn accept_boot(
    organisation: &Organisation,
    redeemed: &Redeemed,
    label: &str,
    days: u32,
) -> Result<(), CommandError> {
    let number = documents::add_tpm_machine(organisation, booted(redeemed, label), days, now())
        .map_err(super::org::command_error)?;
    eprintln!("signed reference values number {number}: the machine as it booted now is right");
    Ok(())
}

/// The evidence in a processor's request, and that of its devices.
pub(super) fn processor(
    file: &Path,
) -> Result<(HardwareEvidence, Vec<DeviceEvidence>), CommandError> {
    let request = Request::parse(&read(file)?).map_err(command_error)?;
    match request.machine {
        Subject::Processor(evidence) => Ok((evidence, request.devices)),
        Subject::Tpm(_) => Err(command_error(EnrolmentError::ChallengeNeeded)),
    }
}

/// Which family with a broken root of trust is accepted with this chip, for [`accept_family`]: none where the root is sound, or the
/// reference values name the family already.
pub(super) fn family_to_accept(
    organisation: &Organisation,
    product: Option<Product>,
    named: Option<&str>,
) -> Result<Option<Product>, CommandError> {
    let broken = product.filter(|product| product.root_is_broken());
    let word = broken.map(|product| product.as_str().to_lowercase());
    if named.is_some() && named != word.as_deref() {
        let text = "--despite-broken-root names another family than this chip's, or one whose root is sound";
        return Err(CommandError::new(ExitCode::Usage, text).hint("leave it out"));
    }
    let Some(product) = broken else {
        return Ok(None);
    };
    if documents::allows_despite_broken_root(organisation, product)
        .map_err(super::org::command_error)?
    {
        return Ok(None);
    }
    if named.is_none() {
        let text = format!("the root of trust of {product} is broken: its evidence can be forged");
        return Err(CommandError::new(ExitCode::Rejected, text).hint(format!(
            "if you accept that, name it: --despite-broken-root {}; every verdict will say so",
            word.unwrap_or_default()
        )));
    }
    Ok(Some(product))
}

/// Signs that a family is accepted despite its broken root.
pub(super) fn accept_family(
    organisation: &Organisation,
    product: Product,
    days: u32,
) -> Result<(), CommandError> {
    let number = documents::allow_despite_broken_root(organisation, product, days, now())
        .map_err(super::org::command_error)?;
    eprintln!(
        "signed reference values number {number}: {product} is accepted despite its broken root"
    );
    Ok(())
}

pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), CommandError> {
    write_public_file(path, bytes)
        .map_err(|error| CommandError::new(ExitCode::Configuration, error))
}

/// What went wrong, and what to do about it.
pub(super) fn command_error(error: EnrolmentError) -> CommandError {
    use EnrolmentError as E;
    let code = match &error {
        E::Malformed { .. } | E::Format { .. } => ExitCode::Malformed,
        E::NoChallengeNeeded | E::ChallengeNeeded => ExitCode::Usage,
        E::Expired => ExitCode::Expired,
        E::Device(_) | E::Provider(_) => ExitCode::Unsupported,
        E::File(_) | E::Organisation(_) | E::TooManyWaiting(_) => ExitCode::Configuration,
        E::NoRandomness => ExitCode::Unexpected,
        _ => ExitCode::Rejected,
    };
    let hint = match &error {
        E::NoChallengeNeeded => "use: casemate org enrol FOLDER --request FILE",
        E::ChallengeNeeded => "use: casemate org challenge FOLDER --request FILE",
        E::NoCertificate(_) => {
            "compare the id with the one that `machine request` shows on the machine itself, then give --endorsement ID"
        }
        E::Endorsement(_) => {
            "name the root of the TPM's maker with --roots, and the authorities in between with `machine request --authorities`"
        }
        E::Gpu(_) => {
            "give evidence of a GPU or switch under NVIDIA's root, as the driver hands it out"
        }
        E::OtherDevices => {
            "let the machine ask its GPUs and itself again: casemate machine request, or machine answer"
        }
        E::TooManyWaiting(_) => "remove files of challenges that nobody will answer",
        E::SoftwareTpm => "say so with --hosted software; it is for trials only",
        E::NotForThisTpm(_) | E::Proof | E::NotWaiting | E::Expired => {
            "begin again with: casemate machine request, on the machine that is to be enrolled"
        }
        _ => "",
    };
    let told = CommandError::new(code, error);
    if hint.is_empty() {
        told
    } else {
        told.hint(hint)
    }
}
