//! `casemate image boot`: start a machine with an image, or print how others start it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::commands::{CommandError, ExitCode, end_requested, runtime};
use crate::image::{self, Boot, Ended, Folder, FolderError, Forward, Hardware, Machine, RunError};

/// A machine for an image.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) machine: MachineArguments,
    /// Print how the machine is started, instead of starting it.
    #[arg(long, value_enum, value_name = "FORM")]
    print: Option<Form>,
    /// What is printed for: the host's platform.
    #[arg(long, value_enum, requires = "print", default_value_t = Host::Tpm)]
    platform: Host,
    /// Stop the machine as soon as it serves, and end with 0.
    #[arg(long)]
    until_ready: bool,
    /// Seconds until the guest must say that it serves. Images without a console say nothing, and have no limit.
    #[arg(long, default_value_t = 600)]
    limit: u64,
}

/// What a machine is given.
#[derive(Debug, Clone, Args)]
pub(super) struct MachineArguments {
    /// The folder that `casemate image build` wrote.
    #[arg(long, value_name = "FOLDER")]
    pub(super) image: PathBuf,
    /// How it is started here.
    #[arg(long, value_enum, default_value_t = Way::Direct)]
    pub(super) boot: Way,
    /// File of the sealed model, as a disk that the guest only reads.
    #[arg(long, value_name = "FILE")]
    pub(super) disk: Option<PathBuf>,
    /// Serial number by which the guest's configuration knows that disk.
    #[arg(long, default_value = "casemate-model", value_parser = serial)]
    pub(super) serial: String,
    /// A port of this host that leads into the guest: HOST_PORT:GUEST_PORT on loopback, or ADDRESS:HOST_PORT:GUEST_PORT (repeatable).
    #[arg(long)]
    pub(super) forward: Vec<Forward>,
    /// Memory in MiB.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(128..=16_777_216))]
    pub(super) memory: u32,
    /// Virtual processors.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(super) vcpus: u32,
    /// Model of processors as QEMU names it. Another model of SEV-SNP is another measurement.
    #[arg(long, value_parser = word)]
    pub(super) cpu: Option<String>,
    /// What runs the guest's code. kvm needs a host that lets its guests have it.
    #[arg(long, value_enum, default_value_t = Accelerator::Tcg)]
    pub(super) accelerator: Accelerator,
    /// QEMU 10 or newer.
    #[arg(long, value_name = "PROGRAM", default_value = "qemu-system-x86_64")]
    pub(super) qemu: PathBuf,
    /// State of the machine's software TPM. Without it the TPM is new at each start, and known to nobody.
    #[arg(long, value_name = "FOLDER")]
    pub(super) tpm_state: Option<PathBuf>,
}

/// See [`Boot`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Way {
    /// Kernel, initrd and command line, measured into a software TPM.
    Direct,
    /// The unified kernel image, measured into a software TPM.
    Uki,
    /// The firmware of SEV-SNP holds the files to their hashes, but nothing is encrypted or proven. For trials.
    SnpTrial,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Host {
    Tpm,
    Snp,
    Tdx,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Form {
    /// A command for a shell.
    Qemu,
    /// A domain's XML.
    Libvirt,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Accelerator {
    Tcg,
    Kvm,
}

impl Accelerator {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Tcg => "tcg",
            Self::Kvm => "kvm",
        }
    }
}

impl MachineArguments {
    fn machine(&self, boot: Boot) -> Machine {
        let confidential = boot.is_confidential();
        let accelerator = if confidential {
            "kvm"
        } else {
            self.accelerator.name()
        };
        let cpu = match boot {
            Boot::Snp => "EPYC-v4",
            Boot::Tdx => "host",
            Boot::Direct | Boot::Unified | Boot::SnpTrial => "max",
        };
        Machine {
            boot,
            memory_mib: self.memory,
            vcpus: self.vcpus,
            cpu: self.cpu.clone().unwrap_or_else(|| cpu.to_owned()),
            accelerator: accelerator.to_owned(),
            disk: self.disk.clone().map(|file| (file, self.serial.clone())),
            forwards: self.forward.clone(),
        }
    }

    fn own_boot(&self) -> Boot {
        match self.boot {
            Way::Direct => Boot::Direct,
            Way::Uki => Boot::Unified,
            Way::SnpTrial => Boot::SnpTrial,
        }
    }
}

pub(super) fn run(it: Arguments) -> Result<(), CommandError> {
    let folder = Folder::open(&it.machine.image).map_err(of_folder)?;
    if let Some(form) = it.print {
        return print(&it, &folder, form);
    }
    folder.check().map_err(of_folder)?;
    let machine = it.machine.machine(it.machine.own_boot());
    if machine.boot.has_tpm() && it.machine.tpm_state.is_none() {
        eprintln!(
            "the machine's TPM is new and known to nobody; --tpm-state keeps one that was enrolled"
        );
    }
    if !folder.manifest().debug_console {
        eprintln!("this image prints nothing: ask the server at its port whether it serves");
    }
    let hardware = Hardware {
        qemu: it.machine.qemu.clone(),
        tpm_state: it.machine.tpm_state.clone(),
        limit: Duration::from_secs(it.limit),
        until_ready: it.until_ready,
    };
    let ended = runtime()?.block_on(async {
        image::run(&folder, &machine, &hardware, end_requested(), |line| {
            println!("{line}")
        })
        .await
    });
    told(ended.map_err(of_run)?)
}

/// The exit code for how a machine ended.
fn told(ended: Ended) -> Result<(), CommandError> {
    match ended {
        Ended::Served | Ended::Stopped => Ok(()),
        Ended::Failed(failure) => {
            let error = CommandError::new(failure.code(), format!("the guest stopped: {}", failure.what));
            Err(match failure.hint.is_empty() {
                true => error,
                false => error.hint(failure.hint),
            })
        }
        Ended::Silent => Err(CommandError::new(ExitCode::Unexpected, "the guest ended without a word").hint(
            "altered files, too little memory, or an image without a console: build one with --console to see why",
        )),
    }
}

fn print(it: &Arguments, folder: &Folder, form: Form) -> Result<(), CommandError> {
    let boot = match (it.platform, it.machine.boot) {
        (Host::Snp, _) => Boot::Snp,
        (Host::Tdx, _) => Boot::Tdx,
        (Host::Tpm, Way::Uki) => Boot::Unified,
        (Host::Tpm, Way::Direct) => Boot::Direct,
        (Host::Tpm, Way::SnpTrial) => Boot::SnpTrial,
    };
    let machine = it.machine.machine(boot);
    let launch = image::launch_as_printed(folder, boot).map_err(of_run)?;
    match form {
        Form::Qemu => {
            let arguments: Vec<OsString> = image::arguments(&machine, &launch);
            println!(
                "{}",
                image::shell(&it.machine.qemu.to_string_lossy(), &arguments)
            );
        }
        Form::Libvirt => println!("{}", image::domain(&machine, &launch)),
    }
    Ok(())
}

pub(super) fn of_folder(error: FolderError) -> CommandError {
    let code = match error {
        FolderError::Altered(_) => ExitCode::Rejected,
        FolderError::Manifest { .. } => ExitCode::Malformed,
        _ => ExitCode::Configuration,
    };
    CommandError::new(code, error)
}

fn of_run(error: RunError) -> CommandError {
    match error {
        RunError::Folder(error) => of_folder(error),
        RunError::Start(..) => CommandError::new(ExitCode::Unsupported, error).hint(
            "apt-get install qemu-system-x86 swtpm; casemate host check says what else is missing",
        ),
        RunError::Tpm(_) => CommandError::new(ExitCode::Unsupported, error)
            .hint("the folder must be writable; what swtpm says stands above"),
        RunError::TpmBusy(_) => CommandError::new(ExitCode::Unsupported, error).hint(
            "stop that one first, or enrol another TPM: a state is for one machine at a time",
        ),
        RunError::Disk { .. } => CommandError::new(ExitCode::Configuration, error),
        RunError::Hashes(_) => CommandError::new(ExitCode::Malformed, error),
        _ => CommandError::new(ExitCode::Unexpected, error),
    }
}

/// Serial numbers of virtio disks have 20 bytes at most.
fn serial(text: &str) -> Result<String, String> {
    let fits = text.len() <= 20;
    word(text)
        .ok()
        .filter(|_| fits)
        .ok_or_else(|| "a serial number is 1 to 20 letters, digits, - and _".to_owned())
}

/// A word that means nothing to QEMU's options.
fn word(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
    let is_word = !text.is_empty() && text.len() <= 64 && text.chars().all(plain);
    is_word
        .then(|| text.to_owned())
        .ok_or_else(|| "a name is letters, digits, -, _, . and +".to_owned())
}
