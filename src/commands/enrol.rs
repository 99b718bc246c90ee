//! `casemate org enrol` and `casemate org devices`: a machine enters the fleet list by what it proves, with the GPUs that it has.

use std::path::{Path, PathBuf};

use casemate_attestation::look::{self, look};
use casemate_attestation::{
    ChipId, FleetChip, FleetDevice, FleetTpm, HardwareEvidence, Platform, UnixTime,
};
use casemate_client::recorded::beside::Beside;
use casemate_client::recorded::{self, RecordedError, Subject};
use clap::{ArgGroup, Args};

use super::enrolment::{self, Vouched};
use super::gpus::{self, Gpus};
use super::machine::OwnTpm;
use super::org::{command_error, now, open};
use super::{CommandError, ExitCode};
use crate::enrolment::{Found, processor_data};
use crate::org::Organisation;
use crate::org::documents::{self, DOCUMENT_DAYS};

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("chip").required(true).args(["chip_id", "evidence", "request", "tpm", "this_machine", "test_chip"])))]
pub(super) struct Enrol {
    /// The organisation's folder.
    folder: PathBuf,
    /// CHIP_ID of an SNP chip, or the id of a TDX platform, as evidence carries it: 128 hexadecimal digits.
    #[arg(long, value_name = "HEX")]
    chip_id: Option<ChipId>,
    /// Saved evidence of the machine (`casemate verify URL --save FOLDER`): it is judged, and names the chip.
    #[arg(long, value_name = "FOLDER")]
    evidence: Option<PathBuf>,
    /// Platform of the chip: snp or tdx.
    #[arg(long, default_value = "snp", value_parser = super::platform, conflicts_with_all = ["evidence", "request", "tpm", "this_machine", "test_chip"])]
    platform: Platform,
    /// A processor's request (`casemate machine request --platform snp`): it is judged, and names the chip.
    #[arg(long, value_name = "FILE")]
    request: Option<PathBuf>,
    /// A TPM's answer to a challenge of this organisation (`casemate machine answer`).
    #[arg(long, value_name = "FILE")]
    tpm: Option<PathBuf>,
    /// This machine's own TPM, in one step: request, challenge and answer.
    #[arg(long)]
    this_machine: bool,
    #[command(flatten)]
    vouched: Vouched,
    #[command(flatten)]
    own: OwnTpm,
    /// Authorities above this machine's TPM's certificate, nearest first (PEM).
    #[arg(long, value_name = "FILE", requires = "this_machine")]
    authorities: Option<PathBuf>,
    /// Sign what the TPM measured when it answered into the reference values: the machine as it booted now is right.
    #[arg(long)]
    accept_present_boot: bool,
    /// Accept chips of the evidence's family although its root of trust is broken (milan); every verdict says so.
    #[arg(long, value_name = "PRODUCT", conflicts_with_all = ["chip_id", "tpm", "this_machine", "test_chip"])]
    despite_broken_root: Option<String>,
    /// Enrol the organisation's test chip. NOT CONFIDENTIAL.
    #[arg(long)]
    test_chip: bool,
    #[command(flatten)]
    gpus: Gpus,
    /// What people call the machine.
    #[arg(long)]
    label: String,
    /// Name that a server on this chip may have (repeatable).
    #[arg(long, required = true)]
    name: Vec<String>,
    /// Days that the new list is in force.
    #[arg(long, default_value_t = DOCUMENT_DAYS)]
    days: u32,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("machine").required(true).args(["chip_id", "test_chip"])))]
#[command(group(ArgGroup::new("devices").required(true).multiple(true).args(["gpu", "gpus_of_this_machine", "test_gpu", "none"])))]
pub(super) struct Devices {
    /// The organisation's folder.
    folder: PathBuf,
    /// The machine, as the fleet list has it.
    #[arg(long, value_name = "HEX")]
    chip_id: Option<ChipId>,
    /// Its platform: snp, tdx or tpm.
    #[arg(long, default_value = "snp", value_parser = super::platform, conflicts_with = "test_chip")]
    platform: Platform,
    /// The organisation's test chip.
    #[arg(long)]
    test_chip: bool,
    #[command(flatten)]
    gpus: Gpus,
    /// The machine has no devices any more.
    #[arg(long, conflicts_with_all = ["gpu", "gpus_of_this_machine", "test_gpu"])]
    none: bool,
    /// Days that the new list is in force.
    #[arg(long, default_value_t = DOCUMENT_DAYS)]
    days: u32,
}

/// Where a machine's entry comes from.
struct Known {
    platform: Platform,
    chip_id: ChipId,
    tpm: Option<FleetTpm>,
    devices: Vec<Found>,
}

/// Runs `casemate org enrol`.
pub(super) fn run_enrol(enrol: &Enrol) -> Result<(), CommandError> {
    enrol.gpus.must_fit(enrol.test_chip)?;
    let organisation = open(&enrol.folder)?;
    let number = if let Some(chip_id) = enrol.chip_id {
        let known = Known {
            platform: enrol.platform,
            chip_id,
            tpm: None,
            devices: Vec::new(),
        };
        add(&organisation, enrol, known)?
    } else if let Some(folder) = &enrol.evidence {
        enrol_saved(&organisation, enrol, folder)?
    } else if let Some(file) = &enrol.request {
        enrol_request(&organisation, enrol, file)?
    } else if enrol.tpm.is_some() || enrol.this_machine {
        enrol_tpm(&organisation, enrol)?
    } else {
        enrol_test_chip(&organisation, enrol)?
    };
    eprintln!(
        "signed fleet list number {number}, in force for {} days",
        enrol.days
    );
    Ok(())
}

/// Signs a machine into the fleet list with all of its devices. Returns the list's number.
fn add(organisation: &Organisation, enrol: &Enrol, known: Known) -> Result<u64, CommandError> {
    let devices = enrol
        .gpus
        .entries(organisation, known.devices, &enrol.label, enrol.days)?;
    let chip = FleetChip {
        platform: known.platform,
        chip_id: known.chip_id,
        names: enrol.name.clone(),
        label: enrol.label.clone(),
        tpm: known.tpm,
        devices: devices.clone(),
    };
    let number = documents::enrol(organisation, chip, enrol.days, now()).map_err(command_error)?;
    told(organisation, &devices)?;
    Ok(number)
}

/// Names the devices that were signed, and says what is missing to accept them.
fn told(organisation: &Organisation, devices: &[FleetDevice]) -> Result<(), CommandError> {
    for device in devices {
        println!("{}\t{}", device.kind, device.device_key);
    }
    if !devices.is_empty() && !documents::judges_devices(organisation).map_err(command_error)? {
        eprintln!(
            "until reference values say what GPUs must measure, this list is refused: casemate nvidia rim-import, then \
             casemate org reference --section FILE with {{\"nvidia\": {{...}}}}"
        );
    }
    Ok(())
}

/// Saved evidence names its chip, and the devices that answered its session.
fn enrol_saved(
    organisation: &Organisation,
    enrol: &Enrol,
    folder: &Path,
) -> Result<u64, CommandError> {
    let recorded = recorded::folder::read(folder, None).map_err(refused)?;
    let at = recorded.at.unwrap_or_else(now);
    match &recorded.subject {
        Subject::Hardware { platform, evidence } => {
            let devices = match recorded.beside.as_deref() {
                Some(beside) => saved_devices(evidence, beside, at)?,
                None => Vec::new(),
            };
            enrol_processor(organisation, enrol, *platform, evidence, devices, at)
        }
        Subject::Azure(machine) => {
            let nonce = recorded::nonce(&recorded.asked);
            let look = look::azure(machine, nonce.as_deref(), at);
            let look = look.map_err(|rejection| refused(rejection.into()))?;
            Err(azure_opens_no_session(&machine.hardware, look.chip_id))
        }
        Subject::Device { .. } => Err(names_no_chip()
            .hint("a GPU is enrolled beside its machine: --gpu FOLDER, with --chip-id or what names the machine")),
        Subject::EventLog { .. } => Err(names_no_chip()),
    }
}

/// Of an Azure VM the hardware report names Microsoft's chip, and nothing of it opens a session here.
fn azure_opens_no_session(hardware: &HardwareEvidence, chip: Option<ChipId>) -> CommandError {
    let (platform, chip) = (hardware.kind(), chip.filter(|chip| !chip.is_masked()));
    let Some(chip) = chip else {
        return names_no_chip();
    };
    let text = format!(
        "this is an Azure VM: what could be enrolled is {platform} chip {chip}, the cloud's own, on which any tenant's VM may run, and \
         no server behind Azure's paravisor opens a session in this version; its virtual TPM is enrolled nowhere, for the hardware \
         report names its key"
    );
    CommandError::new(ExitCode::Rejected, text).hint(
        "to judge recorded evidence give the chip in the policy of: casemate verify FOLDER --policy FILE; to list it all the same: \
         casemate org enrol --chip-id",
    )
}

/// Devices of a saved session: the machine's report signs their answers, and each of them answered.
fn saved_devices(
    hardware: &HardwareEvidence,
    beside: &Beside,
    at: UnixTime,
) -> Result<Vec<Found>, CommandError> {
    let report_data = beside.session.report_data();
    look(hardware, Some(&report_data), at).map_err(|rejection| refused(rejection.into()))?;
    gpus::of_session(beside, at)
}

/// A processor's request names its chip, and the devices that its evidence is over.
fn enrol_request(
    organisation: &Organisation,
    enrol: &Enrol,
    file: &Path,
) -> Result<u64, CommandError> {
    let (evidence, devices) = enrolment::processor(file)?;
    let platform = match evidence {
        HardwareEvidence::Tdx(_) => Platform::Tdx,
        _ => Platform::Snp,
    };
    // Evidence of a session, or of other devices, enrols nothing: it was made for something else.
    let asked = look(&evidence, Some(&processor_data(&devices)), now());
    asked.map_err(|rejection| {
        refused(rejection.into())
            .hint("a request is made on the machine: casemate machine request; a saved session serves with --evidence")
    })?;
    let found = gpus::of_enrolment(&devices, None)?;
    enrol_processor(organisation, enrol, platform, &evidence, found, now())
}

fn enrol_tpm(organisation: &Organisation, enrol: &Enrol) -> Result<u64, CommandError> {
    let redeemed = match &enrol.tpm {
        Some(file) => enrolment::redeemed(organisation, file)?,
        None => {
            let above = enrol.authorities.as_deref();
            enrolment::this_machine(organisation, &enrol.own, &enrol.vouched, above)?
        }
    };
    if enrol.accept_present_boot {
        enrolment::can_accept_boot(organisation, &redeemed, &enrol.label)?;
    }
    let devices = gpus::of_enrolment(&redeemed.devices, Some(&redeemed.challenge))?;
    let known = Known {
        platform: Platform::Tpm,
        chip_id: redeemed.id,
        tpm: Some(redeemed.key.clone()),
        devices,
    };
    let number = add(organisation, enrol, known)?;
    if enrol.accept_present_boot {
        enrolment::accept_boot(organisation, &redeemed, &enrol.label, enrol.days)?;
    }
    redeemed.close()?;
    Ok(number)
}

/// Enrols the chip that evidence names, judged under the vendor's roots at the time that it was made. Returns the list's number.
fn enrol_processor(
    organisation: &Organisation,
    enrol: &Enrol,
    platform: Platform,
    evidence: &HardwareEvidence,
    devices: Vec<Found>,
    at: UnixTime,
) -> Result<u64, CommandError> {
    let look = look(evidence, None, at).map_err(|rejection| refused(rejection.into()))?;
    let chip_id = look.chip_id.filter(|chip| !chip.is_masked());
    let chip_id = chip_id.ok_or_else(names_no_chip)?;
    let named = enrol.despite_broken_root.as_deref();
    let family = enrolment::family_to_accept(organisation, look.product, named)?;
    let known = Known {
        platform,
        chip_id,
        tpm: None,
        devices,
    };
    let number = add(organisation, enrol, known)?;
    if let Some(family) = family {
        enrolment::accept_family(organisation, family, enrol.days)?;
    }
    println!("{platform}\t{chip_id}");
    Ok(number)
}

fn refused(error: RecordedError) -> CommandError {
    CommandError::new(error.exit_code(), error)
}

fn names_no_chip() -> CommandError {
    CommandError::new(ExitCode::Rejected, "this evidence names no chip")
        .hint("use evidence of an SNP guest or a trust domain; a TPM is enrolled with: casemate machine request")
}

/// Runs `casemate org devices`.
pub(super) fn run_devices(arguments: &Devices) -> Result<(), CommandError> {
    arguments.gpus.must_fit(arguments.test_chip)?;
    let organisation = open(&arguments.folder)?;
    let machine = match arguments.chip_id {
        Some(id) => (arguments.platform, id),
        None => (Platform::TestChip, test_chip_id(&organisation)?),
    };
    let label = format!("{} {}", machine.0, machine.1);
    let label: String = label.chars().take(32).collect();
    let days = arguments.days;
    let devices = arguments
        .gpus
        .entries(&organisation, Vec::new(), &label, days)?;
    let number = documents::replace_devices(&organisation, machine, devices.clone(), days, now())
        .map_err(command_error)?;
    told(&organisation, &devices)?;
    eprintln!("signed fleet list number {number}, in force for {days} days");
    Ok(())
}

#[cfg(feature = "test-chip")]
fn test_chip_id(organisation: &Organisation) -> Result<ChipId, CommandError> {
    let chip = organisation.test_chip(now()).map_err(command_error)?;
    Ok(chip.chip_id())
}

#[cfg(feature = "test-chip")]
fn enrol_test_chip(organisation: &Organisation, enrol: &Enrol) -> Result<u64, CommandError> {
    eprintln!("NOT CONFIDENTIAL: a test chip proves nothing about a machine");
    let (label, days) = (&enrol.label, enrol.days);
    let devices = enrol.gpus.entries(organisation, Vec::new(), label, days)?;
    let names = enrol.name.clone();
    let enrolled = organisation.enrol_test_chip_with(label, names, devices.clone(), days, now());
    let number = enrolled.map_err(command_error)?;
    told(organisation, &devices)?;
    Ok(number)
}

#[cfg(not(feature = "test-chip"))]
fn no_test_chip() -> CommandError {
    CommandError::new(
        ExitCode::Unsupported,
        "this program was built without the test chip",
    )
    .hint("enrol a real chip with --chip-id")
}

#[cfg(not(feature = "test-chip"))]
fn test_chip_id(_: &Organisation) -> Result<ChipId, CommandError> {
    Err(no_test_chip())
}

#[cfg(not(feature = "test-chip"))]
fn enrol_test_chip(_: &Organisation, _: &Enrol) -> Result<u64, CommandError> {
    Err(no_test_chip())
}
