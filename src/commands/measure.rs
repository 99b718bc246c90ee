//! `casemate measure`: predict what a machine will measure, and write the section of reference values that an officer signs.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use casemate_attestation::signed::SIGNED_BYTES_MAX;
use casemate_attestation::tpm::Bank;
use casemate_attestation::{
    Measurement, ReferenceValues, Sha256Digest, SnpMeasurement, SnpReference, TpmMachine,
    TpmReference, strict_json,
};
use casemate_measure::MeasureError;
use casemate_measure::boot::{self, DirectBoot, LoadOptions, Stub};
use casemate_measure::registers::Hash;
use casemate_measure::snp::{CpuModel, Hypervisor, KernelHashes, Shape, SnpFirmware};
use casemate_measure::tdx::{self, PageOrder};
use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use serde_json::json;

use super::{CommandError, ExitCode};

/// Largest file that is read, in bytes: an initrd with firmware for GPUs is the largest.
const FILE_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// Predict what a machine will measure.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Launch digests of an SEV-SNP guest under QEMU, one for each shape of machine.
    #[command(
        after_help = "Example:\n  casemate measure snp --firmware OVMF.amdsev.fd --kernel vmlinuz --initrd initrd --command-line quiet \\\n    \
        --vcpus 2 --vcpus 8 --cpu EPYC-v4 --features 0x1 --release 'casemate 0.1.0' > snp.json\n  \
        casemate org reference ./acme --section snp.json"
    )]
    Snp(Snp),
    /// MRTD and RTMR1 to RTMR3 of a trust domain that boots a kernel directly. RTMR0 depends on the host and is left open.
    #[command(
        after_help = "Example:\n  casemate measure tdx --firmware OVMF.fd --kernel vmlinuz --initrd initrd --command-line quiet \\\n    \
        --load-options initrd-first --collateral-floor 18 --release 'casemate 0.1.0' > tdx.json"
    )]
    Tdx(Tdx),
    /// TPM registers 4, 8, 9, 11 and 12 (SHA-256) of a machine that boots a unified kernel image, or a kernel directly.
    #[command(
        after_help = "Examples:\n  casemate measure tpm --uki casemate.efi --stub 257 --release 'casemate 0.1.0' > tpm.json\n  \
        casemate measure tpm --kernel vmlinuz --initrd initrd --command-line quiet --load-options initrd-last --release 'casemate 0.1.0'"
    )]
    Tpm(Tpm),
}

/// What every section says of where it came from.
#[derive(Debug, Args)]
struct Origin {
    /// What is measured, for people; digests of the files are added to it.
    #[arg(long)]
    release: String,
    /// A section whose values stay in force beside the new ones: {"snp": {...}}, {"tdx": {...}} or {"tpm": {...}}.
    #[arg(long, value_name = "FILE")]
    base: Option<PathBuf>,
}

/// A kernel that is booted directly.
#[derive(Debug, Args)]
struct Direct {
    /// Kernel, as given to QEMU.
    #[arg(long, requires_all = ["initrd", "command_line"])]
    kernel: Option<PathBuf>,
    /// Initrd, as given to QEMU.
    #[arg(long, requires = "kernel")]
    initrd: Option<PathBuf>,
    /// Command line, as given to QEMU.
    #[arg(long, requires = "kernel", allow_hyphen_values = true)]
    command_line: Option<String>,
}

#[derive(Debug, Args)]
struct Snp {
    /// The firmware's image. Measures kernel, initrd and command line only when it has a place for their hashes.
    #[arg(long)]
    firmware: PathBuf,
    #[command(flatten)]
    direct: Direct,
    /// Virtual processors (repeatable).
    #[arg(long, required = true)]
    vcpus: Vec<u32>,
    /// Processor model as given to QEMU (repeatable).
    #[arg(long, required = true)]
    cpu: Vec<String>,
    /// SEV_FEATURES that the host turns on, 0x1 or 0x21 on most (repeatable).
    #[arg(long, required = true, value_parser = features)]
    features: Vec<u64>,
    #[command(flatten)]
    origin: Origin,
}

#[derive(Debug, Args)]
struct Tdx {
    /// The firmware's image (TDVF).
    #[arg(long)]
    firmware: PathBuf,
    #[command(flatten)]
    direct: Direct,
    /// What this firmware makes of the command line.
    #[arg(long, value_enum)]
    load_options: Order,
    /// The order in which the host's kernel measures pages.
    #[arg(long, value_enum, default_value_t = Pages::SinglePass)]
    page_order: Pages,
    /// Lowest tcbEvaluationDataNumber of Intel's documents.
    #[arg(long)]
    collateral_floor: u32,
    #[command(flatten)]
    origin: Origin,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("boot").required(true).args(["uki", "kernel"])))]
struct Tpm {
    /// Unified kernel image with systemd's stub.
    #[arg(long, requires = "stub")]
    uki: Option<PathBuf>,
    /// Release of the stub in it: 252 (Debian 12), 257 (Debian 13) or 262; what others measure is not known here.
    #[arg(long, requires = "uki", value_parser = stub)]
    stub: Option<Stub>,
    #[command(flatten)]
    direct: Direct,
    /// What the firmware makes of the command line of a direct boot.
    #[arg(
        long,
        value_enum,
        required_unless_present = "uki",
        conflicts_with = "uki"
    )]
    load_options: Option<Order>,
    #[command(flatten)]
    origin: Origin,
}

/// See [`LoadOptions`].
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Order {
    /// OVMF up to 2025.02.
    InitrdLast,
    /// OVMF 2026.08.
    InitrdFirst,
}

impl From<Order> for LoadOptions {
    fn from(order: Order) -> Self {
        match order {
            Order::InitrdLast => Self::InitrdLast,
            Order::InitrdFirst => Self::InitrdFirst,
        }
    }
}

/// See [`PageOrder`].
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Pages {
    /// Each page is added and measured.
    SinglePass,
    /// All pages of a section are added, then measured: older kernels.
    TwoPass,
}

/// Runs `casemate measure`. The section goes to stdout.
///
/// # Errors
/// 2 for a shape that no machine has, 3 for a file that cannot be read, 30 for one that is not what it is given as.
pub fn run(arguments: Arguments) -> Result<(), CommandError> {
    let values = match arguments.verb {
        Verb::Snp(it) => snp(&it)?,
        Verb::Tdx(it) => tdx(&it)?,
        Verb::Tpm(it) => tpm(&it)?,
    };
    let text = serde_json::to_string_pretty(&values).map_err(anyhow::Error::from)?;
    println!("{text}");
    Ok(())
}

/// The three files of a direct boot.
struct Boot {
    kernel: Vec<u8>,
    initrd: Vec<u8>,
    line: String,
}

impl Direct {
    fn read(&self) -> Result<Option<Boot>, CommandError> {
        let (Some(kernel), Some(initrd)) = (&self.kernel, &self.initrd) else {
            return Ok(None);
        };
        Ok(Some(Boot {
            kernel: read(kernel)?,
            initrd: read(initrd)?,
            line: self.command_line.clone().unwrap_or_default(),
        }))
    }
}

impl Boot {
    fn with(&self, order: Order) -> DirectBoot<'_> {
        DirectBoot {
            kernel: &self.kernel,
            initrd: &self.initrd,
            command_line: &self.line,
            load_options: order.into(),
        }
    }

    fn sources(&self) -> String {
        let line = Sha256Digest::of(self.line.as_bytes());
        let [kernel, initrd] = [&self.kernel, &self.initrd].map(|bytes| Sha256Digest::of(bytes));
        format!("kernel {kernel}, initrd {initrd}, command line {line}")
    }
}

fn snp(it: &Snp) -> Result<ReferenceValues, CommandError> {
    let image = read(&it.firmware)?;
    let firmware = SnpFirmware::read(&image).map_err(refused)?;
    let boot = it.direct.read()?;
    let hashes = boot
        .as_ref()
        .map(|boot| KernelHashes::of(&boot.kernel, &boot.initrd, &boot.line));
    let sources = match &boot {
        Some(boot) => boot.sources(),
        None => "no kernel measured".to_owned(),
    };
    let mut section = base(&it.origin)?.snp.unwrap_or_else(SnpReference::default);
    for cpu in &it.cpu {
        let model = CpuModel::named(cpu).map_err(refused)?;
        for (&processors, &features) in it
            .vcpus
            .iter()
            .flat_map(|n| it.features.iter().map(move |f| (n, f)))
        {
            let hypervisor = Hypervisor::Qemu;
            let shape = Shape {
                processors,
                model,
                features,
                hypervisor,
            };
            let digest = firmware.launch_digest(&shape, hashes.as_ref());
            let measurement = Measurement::from_bytes(digest.map_err(refused)?);
            let label = format!(
                "{}: QEMU, {processors} x {cpu}, features {features:#x}; firmware {}, {sources}",
                it.origin.release,
                Sha256Digest::of(&image),
            );
            if !section
                .measurements
                .iter()
                .any(|it| it.measurement == measurement)
            {
                section.measurements.push(SnpMeasurement {
                    measurement,
                    label,
                    until: None,
                });
            }
        }
    }
    if section.tcb_floor.is_empty() {
        eprintln!(
            "no product has a floor, so that every report is refused; after signing: casemate org floor"
        );
    }
    Ok(ReferenceValues {
        snp: Some(section),
        ..ReferenceValues::default()
    })
}

fn tdx(it: &Tdx) -> Result<ReferenceValues, CommandError> {
    let image = read(&it.firmware)?;
    let boot = it.direct.read()?.ok_or_else(needs_kernel)?;
    let order = match it.page_order {
        Pages::SinglePass => PageOrder::SinglePass,
        Pages::TwoPass => PageOrder::TwoPass,
    };
    let mrtd = tdx::launch_digest(&image, order).map_err(refused)?;
    let registers = boot.with(it.load_options).runtime_registers();
    let [first, second] = registers.map_err(refused)?.map(hex::encode);
    let label = format!(
        "{}: direct boot; firmware {}, {}",
        it.origin.release,
        Sha256Digest::of(&image),
        boot.sources()
    );
    eprintln!("RTMR0 is left open: it holds the host's ACPI tables, memory map and variables");
    let made = json!({"tdx": {
        "machines": [{
            "mrtd": Measurement::from_bytes(mrtd),
            "rtmrs": [null, [first], [second], [Measurement::from_bytes([0; 48])]],
            "label": label,
        }],
        "collateral_floor": it.collateral_floor,
    }});
    let mut made: ReferenceValues = serde_json::from_value(made).map_err(anyhow::Error::from)?;
    if let (Some(kept), Some(new)) = (base(&it.origin)?.tdx, &mut made.tdx) {
        let machines = [kept.machines.clone(), std::mem::take(&mut new.machines)].concat();
        *new = kept;
        new.machines = machines;
        new.collateral_floor = it.collateral_floor;
    }
    Ok(made)
}

fn tpm(it: &Tpm) -> Result<ReferenceValues, CommandError> {
    let (registers, sources) = match (&it.uki, it.load_options, it.direct.read()?) {
        (Some(file), _, _) => {
            let image = read(file)?;
            let stub = it.stub.ok_or_else(needs_kernel)?;
            let sources = format!("unified kernel image {}", Sha256Digest::of(&image));
            (boot::unified_registers(&image, stub, Hash::Sha256), sources)
        }
        (None, Some(order), Some(boot)) => {
            (boot.with(order).registers(Hash::Sha256), boot.sources())
        }
        _ => return Err(needs_kernel()),
    };
    let machine = TpmMachine {
        registers: registers.map_err(refused)?,
        label: format!("{}: {sources}", it.origin.release),
        until: None,
    };
    let mut section = base(&it.origin)?.tpm.unwrap_or_else(|| TpmReference {
        bank: Bank::Sha256,
        machines: Vec::new(),
    });
    let same = |kept: &TpmMachine| kept.registers.keys().eq(machine.registers.keys());
    if section.bank != Bank::Sha256 || !section.machines.iter().all(same) {
        return Err(CommandError::new(
            ExitCode::Malformed,
            "the base has another bank or other registers than SHA-256 of 4, 8, 9, 11 and 12",
        )
        .hint("all machines of a section are quoted with the same registers"));
    }
    section.machines.push(machine);
    Ok(ReferenceValues {
        tpm: Some(section),
        ..ReferenceValues::default()
    })
}

fn needs_kernel() -> CommandError {
    CommandError::new(ExitCode::Usage, "no kernel is given")
        .hint("give --kernel, --initrd and --command-line as QEMU gets them")
}

fn base(origin: &Origin) -> Result<ReferenceValues, CommandError> {
    let Some(file) = &origin.base else {
        return Ok(ReferenceValues::default());
    };
    let bytes = read(file)?;
    strict_json::from_slice(bytes.trim_ascii(), SIGNED_BYTES_MAX)
        .map_err(|e| CommandError::new(ExitCode::Malformed, format!("{}: {e}", file.display())))
}

pub(super) fn read(file: &Path) -> Result<Vec<u8>, CommandError> {
    let wrong = |what: String| {
        let what = format!("cannot read {}: {what}", file.display());
        CommandError::new(ExitCode::Configuration, what)
    };
    let mut bytes = Vec::new();
    let opened = File::open(file).map_err(|e| wrong(e.to_string()))?;
    let read = opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes);
    match read.map_err(|e| wrong(e.to_string()))? as u64 {
        0..=FILE_BYTES_MAX => Ok(bytes),
        _ => Err(wrong("it is larger than 1 GiB".into())),
    }
}

fn refused(error: MeasureError) -> CommandError {
    CommandError::new(code_of(&error), error)
}

/// A shape that no machine has is the caller's; anything else is the file's.
pub(super) fn code_of(error: &MeasureError) -> ExitCode {
    match error {
        MeasureError::Processors(_)
        | MeasureError::Features(_)
        | MeasureError::Model(_)
        | MeasureError::CommandLine => ExitCode::Usage,
        _ => ExitCode::Malformed,
    }
}

/// A number in decimal, or in hexadecimal after 0x.
pub(super) fn features(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| "features are a number such as 0x1 or 0x21".to_owned())
}

/// A stub whose rules are known.
fn stub(text: &str) -> Result<Stub, String> {
    match text {
        "252" => Ok(Stub::V252),
        "257" => Ok(Stub::V257),
        "262" => Ok(Stub::V262),
        _ => Err("stubs whose measurements are known are 252, 257 and 262".to_owned()),
    }
}
