//! `casemate machine`: a machine asks to be enrolled, and answers the organisation's challenge. Run where the devices are.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use casemate_attestation::{DeviceProvider, Platform};
use casemate_devices::CollateralFolder;
use clap::{Args, Subcommand};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::json;

use super::collateral::read;
use super::enrolment::{command_error, write};
use super::{CommandError, ExitCode};
use crate::enrolment::{self, Document as _, Request, Subject};
use crate::serve::provider;

/// Ask for enrolment, and answer the organisation's challenge.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Write what this machine says of itself: a TPM's keys, or a processor's evidence.
    #[command(
        after_help = "Example:\n  casemate machine request --platform tpm --out request.json\n  casemate org challenge ./acme --request request.json --roots maker.pem --out challenge.json"
    )]
    Request(Ask),
    /// Open the organisation's challenge in this machine's TPM.
    #[command(
        after_help = "Example:\n  casemate machine answer --challenge challenge.json --out answer.json\n  casemate org enrol ./acme --tpm answer.json --label rack-7 --name llm.example"
    )]
    Answer(Reply),
}

#[derive(Debug, Args)]
struct Ask {
    /// tpm, snp or tdx.
    #[arg(long, value_parser = super::platform)]
    platform: Platform,
    /// Where to write the request.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Authorities above the TPM's own certificate, nearest first, as its maker publishes them (PEM).
    #[arg(long, value_name = "FILE")]
    authorities: Option<PathBuf>,
    /// With snp and tdx: the folder with the vendor's certificates and lists.
    #[arg(long, value_name = "FOLDER")]
    collateral: Option<PathBuf>,
    /// With snp and tdx: show the machine's GPUs, too; the processor's evidence names them.
    #[arg(long)]
    gpus: bool,
    #[command(flatten)]
    tpm: OwnTpm,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Reply {
    /// What `casemate org challenge` made.
    #[arg(long, value_name = "FILE")]
    challenge: PathBuf,
    /// Where to write the answer.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Registers of the SHA-256 bank to show, as the machine's configuration names them.
    #[arg(long, value_delimiter = ',', default_values_t = 0..=7_u8, value_parser = clap::value_parser!(u8).range(0..24))]
    registers: Vec<u8>,
    /// Show the machine's GPUs, too; the TPM's quote names them.
    #[arg(long)]
    gpus: bool,
    #[command(flatten)]
    tpm: OwnTpm,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Which TPM.
#[derive(Debug, Args)]
pub(super) struct OwnTpm {
    /// Address of a software TPM on this machine, in place of the machine's own. NOT CONFIDENTIAL: it proves nothing.
    #[arg(long, value_name = "ADDRESS")]
    software: Option<SocketAddr>,
}

/// Runs `casemate machine`.
///
/// # Errors
/// 2 for arguments that do not fit, 3 for files, 10 for a challenge that this TPM does not open, 20 without the device, 30 for a file
/// that is no challenge.
pub fn run(arguments: Arguments) -> Result<(), CommandError> {
    match arguments.verb {
        Verb::Request(ask) => run_request(&ask),
        Verb::Answer(reply) => run_answer(&reply),
    }
}

fn run_request(ask: &Ask) -> Result<(), CommandError> {
    let usage = |text: &str| Err(CommandError::new(ExitCode::Usage, text));
    let request = match (ask.platform, &ask.collateral) {
        (Platform::Tpm, Some(_)) => return usage("--collateral is for snp and tdx"),
        (Platform::Tpm, None) if ask.gpus => {
            return usage("GPUs of a machine with a TPM are shown with: machine answer --gpus");
        }
        (Platform::Tpm, None) => {
            let above = ask.authorities.as_deref().map(certificates).transpose()?;
            let (transport, software) = ask.tpm.open()?;
            let request = enrolment::request(transport, software, above.unwrap_or_default());
            request.map_err(command_error)?
        }
        (Platform::Snp | Platform::Tdx, Some(folder)) => {
            let devices = own_devices(ask.gpus)?;
            let devices = devices.map_or(Ok(Vec::new()), |it| enrolment::ask(&*it, None));
            let devices = devices.map_err(|error| command_error(error.into()))?;
            let data = enrolment::processor_data(&devices);
            Request::new(
                Subject::Processor(processor(ask.platform, folder, &data)?),
                devices,
            )
        }
        (Platform::Snp | Platform::Tdx, None) => {
            return usage(
                "--collateral FOLDER is needed: the vendor's certificates and lists of this machine",
            );
        }
        (Platform::TestChip, _) => {
            return usage("a test chip is enrolled with: org enrol --test-chip");
        }
    };
    let bytes = request.to_bytes().map_err(command_error)?;
    write(&ask.out, &bytes)?;
    if let Some(id) = enrolment::shown_id(&request) {
        match ask.json {
            true => println!("{}", json!({"request": ask.out, "id": id})),
            false => println!("tpm\t{id}"),
        }
    } else if ask.json {
        println!("{}", json!({"request": ask.out}));
    }
    eprintln!("wrote {}; take it to the organisation", ask.out.display());
    Ok(())
}

/// Evidence of this machine's processor, over bytes that no session has: it is for enrolment and nothing else.
fn processor(
    platform: Platform,
    folder: &Path,
    report_data: &[u8; 64],
) -> Result<casemate_attestation::HardwareEvidence, CommandError> {
    let no_device = |error: String| {
        CommandError::new(ExitCode::Unsupported, error)
            .hint("run this in the guest whose processor is to be enrolled")
    };
    let collateral = Box::new(CollateralFolder::new(folder));
    let provider = provider::of_processor(platform, collateral);
    let provider = provider.map_err(|error| no_device(error.to_string()))?;
    let evidence = provider.evidence(report_data);
    evidence.map_err(|error| no_device(error.to_string()))
}

fn run_answer(reply: &Reply) -> Result<(), CommandError> {
    let challenge = read(&reply.challenge)?;
    let registers: BTreeSet<u8> = reply.registers.iter().copied().collect();
    let (transport, _) = reply.tpm.open()?;
    let devices = own_devices(reply.gpus)?;
    let answer = enrolment::answer(transport, &challenge, registers, devices.as_deref());
    let answer = answer.map_err(command_error)?;
    write(&reply.out, &answer.to_bytes().map_err(command_error)?)?;
    match reply.json {
        true => println!(
            "{}",
            json!({"answer": reply.out, "challenge": answer.challenge})
        ),
        false => println!("PASS enrolment.credential this TPM opened the challenge"),
    }
    eprintln!("wrote {}; take it to the organisation", reply.out.display());
    Ok(())
}

/// What asks this machine's GPUs, where they are to be shown.
fn own_devices(wanted: bool) -> Result<Option<Box<dyn DeviceProvider>>, CommandError> {
    wanted.then(super::gpus::of_this_machine).transpose()
}

impl OwnTpm {
    /// The way to the TPM, and whether it is a program.
    pub(super) fn open(&self) -> Result<(provider::TpmTransport, bool), CommandError> {
        if self
            .software
            .is_some_and(|address| !address.ip().is_loopback())
        {
            let text = "--software must be an address of this machine, as 127.0.0.1:2321";
            return Err(CommandError::new(ExitCode::Usage, text));
        }
        let transport = provider::transport(self.software).map_err(|error| {
            CommandError::new(ExitCode::Unsupported, error)
                .hint("the user must be allowed to open /dev/tpmrm0 (group tss)")
        })?;
        Ok((transport, self.software.is_some()))
    }
}

/// The certificates of a PEM file, at least one.
pub(super) fn certificates(file: &Path) -> Result<Vec<Vec<u8>>, CommandError> {
    let bytes = read(file)?;
    let found = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    let found = found.ok().filter(|found| !found.is_empty());
    let found = found.ok_or_else(|| {
        let text = format!("{} holds no certificates in PEM", file.display());
        CommandError::new(ExitCode::Malformed, text)
    })?;
    Ok(found.into_iter().map(|der| der.to_vec()).collect())
}
