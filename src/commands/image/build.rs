//! `casemate image build`: files in, an image's folder out. What is done with the bytes is `casemate-image`'s.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use casemate_image::ImageError;
use casemate_image::crates::Crates;
use casemate_image::deb::Package;
use casemate_image::firmware::{self, Firmware, Purpose};
use casemate_image::guest::{Configuration, Guest, LoadOrder, command_line};
use casemate_image::kernel::{self, Kernel};
use casemate_image::manifest::{FORMAT, Input, Manifest, Written};
use casemate_image::pins::Pins;
use casemate_image::prediction::{Files, Shapes, Tpm};
use casemate_image::program::Program;
use casemate_image::sbom::sbom;
use casemate_image::uki::{self, Parts};
use clap::Args;
use serde::Serialize;

use super::references;
use crate::commands::measure::{code_of, features, read};
use crate::commands::{CommandError, ExitCode};
use crate::config::{GuestConfig, Loaded};

/// Inputs of an image, and what is predicted of it.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The guest's configuration (guest.toml). Public files that it names lie in the folder `trust` beside it.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The static program that is the guest's first process.
    #[arg(long, value_name = "FILE")]
    program: PathBuf,
    /// What the program was compiled of (PROGRAM.crates of scripts/build-guest), for the list of parts.
    #[arg(long, value_name = "FILE")]
    crates: Option<PathBuf>,
    /// Digests of the inputs from outside, as sha256sum writes them. Others are refused.
    #[arg(long, value_name = "FILE")]
    pins: PathBuf,
    /// Package of a signed kernel; the newest are split over several (repeatable).
    #[arg(long, value_name = "DEB", required = true)]
    kernel: Vec<PathBuf>,
    /// Package with OVMF.amdsev.fd, for SEV-SNP.
    #[arg(long, value_name = "DEB")]
    snp_firmware: Option<PathBuf>,
    /// Package with OVMF.fd that has a trust domain's metadata, for TDX.
    #[arg(long, value_name = "DEB")]
    tdx_firmware: Option<PathBuf>,
    /// Package with OVMF_CODE_4M.fd and its variables, for machines with a TPM.
    #[arg(long, value_name = "DEB")]
    tpm_firmware: Option<PathBuf>,
    /// Package or file of systemd's boot stub: a unified kernel image is made too.
    #[arg(long, value_name = "DEB|FILE")]
    stub: Option<PathBuf>,
    /// Where to write; must not be there yet.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Let the host read what the guest prints. For trials: another measurement, and marked in the manifest.
    #[arg(long)]
    console: bool,
    /// What this is, for people: the beginning of each label.
    #[arg(long)]
    release: String,
    /// Time of every file in the initrd, in seconds since 1970.
    #[arg(long, default_value_t = 0)]
    epoch: u32,
    /// Numbers of virtual processors for SEV-SNP.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8, 16, 32, 64])]
    vcpus: Vec<u32>,
    /// Models of processors for SEV-SNP, as QEMU names them.
    #[arg(long, value_delimiter = ',', default_values_t = ["EPYC-v4", "EPYC-Milan-v2", "EPYC-Genoa-v2", "EPYC-Turin"].map(String::from))]
    cpu: Vec<String>,
    /// SEV_FEATURES that hosts turn on.
    #[arg(long, value_delimiter = ',', default_values = ["0x1", "0x21"], value_parser = features)]
    features: Vec<u64>,
    /// Lowest tcbEvaluationDataNumber of Intel's documents; reference values for TDX are written only with it.
    #[arg(long)]
    collateral_floor: Option<u32>,
}

/// An image in memory, before anything is written.
struct Built {
    files: BTreeMap<String, Vec<u8>>,
    manifest: Manifest,
}

pub(super) fn run(it: &Arguments) -> Result<(), CommandError> {
    if it.out.exists() {
        let text = format!("{} is there already", it.out.display());
        return Err(CommandError::new(ExitCode::Usage, text)
            .hint("an image is written whole, into a new folder"));
    }
    let built = build(it)?;
    write(&it.out, &built, it.collateral_floor)?;
    for (name, file) in &built.manifest.files {
        println!("{}  {name}", file.sha256);
    }
    if it.crates.is_none() {
        eprintln!(
            "the list of parts names no crates: --crates takes what scripts/build-guest writes beside the program"
        );
    }
    if it.console {
        eprintln!(
            "this image shows the host what the guest prints: it is for trials, and marked so in manifest.json"
        );
    }
    eprintln!("wrote {}", it.out.display());
    Ok(())
}

fn build(it: &Arguments) -> Result<Built, CommandError> {
    let pins = Inputs::read(&it.pins)?;
    let packages = it
        .kernel
        .iter()
        .map(|file| pins.package(file, kernel::is_wanted));
    let packages = packages.collect::<Result<Vec<_>, _>>()?;
    let mut inputs: Vec<Input> = packages.iter().map(Input::of).collect();
    let kernel = Kernel::new(packages).map_err(refused)?;
    let configuration = configuration(&it.config)?;
    let trust = trust(&it.config, &configuration)?;
    let program_bytes = read(&it.program)?;
    let program = Program::read(&program_bytes).map_err(refused)?;
    let crates = it.crates.as_deref();
    let crates = crates.map(|file| crates_of(file, program)).transpose()?;
    let modules = Guest::modules(&kernel).map_err(refused)?;
    let order = LoadOrder::of(&kernel, &modules);
    let guest = Guest::new(program, &kernel, &modules, &order, &configuration, &trust);
    let guest = guest.map_err(refused)?;

    let (initrd, line) = (guest.initrd(it.epoch), command_line(it.console));
    let booted = Files {
        kernel: kernel.image(),
        initrd: &initrd,
        command_line: &line,
    };
    let mut files = BTreeMap::from([
        ("vmlinuz".to_owned(), kernel.image().to_vec()),
        ("initrd.cpio".to_owned(), initrd.clone()),
        ("cmdline".to_owned(), line.clone().into_bytes()),
    ]);
    let predicted = predict(it, &pins, &booted, &mut files, &mut inputs)?;
    inputs.sort();
    let list = sbom(&it.release, &guest, &kernel, crates.as_ref(), &inputs);
    let manifest = Manifest {
        format: FORMAT.into(),
        release: it.release.clone(),
        debug_console: it.console,
        kernel: kernel.version().into(),
        command_line: line.clone(),
        epoch: it.epoch,
        program: casemate_image::sha256(program.bytes()),
        compilers: program.compilers(),
        configuration: casemate_image::sha256(configuration.bytes()),
        modules: guest.module_names().map(str::to_owned).collect(),
        inputs,
        files: files
            .iter()
            .map(|(name, bytes)| (name.clone(), Written::of(bytes)))
            .collect(),
        snp: predicted.snp,
        tdx: predicted.tdx,
        tpm: predicted.tpm,
    };
    files.insert("sbom.json".into(), json(&list)?);
    Ok(Built { files, manifest })
}

/// Takes firmware and stub out of their packages, puts them beside the image, and says what a machine measures with each.
fn predict(
    it: &Arguments,
    pins: &Inputs,
    booted: &Files<'_>,
    files: &mut BTreeMap<String, Vec<u8>>,
    inputs: &mut Vec<Input>,
) -> Result<Predicted, CommandError> {
    let mut predicted = Predicted::default();
    for (file, purpose) in it.firmware() {
        let package = pins.package(file, firmware::is_wanted)?;
        inputs.push(Input::of(&package));
        let firmware = Firmware::new(purpose, &package).map_err(refused)?;
        predicted
            .add(booted, &firmware, &it.shapes())
            .map_err(refused)?;
        files.extend(
            purpose
                .files()
                .iter()
                .map(|name| (*name).to_owned())
                .zip(firmware.files),
        );
    }
    if let Some(file) = &it.stub {
        let stub = pins.stub(file, inputs)?;
        let release = uki::release(&stub).map_err(refused)?;
        let parts = Parts {
            stub: &stub,
            command_line: booted.command_line,
            initrd: booted.initrd,
            kernel: booted.kernel,
        };
        let image = uki::unified(&parts).map_err(refused)?;
        predicted
            .tpm
            .push(Tpm::unified(&image, release).map_err(refused)?);
        files.insert("uki.efi".into(), image);
    }
    Ok(predicted)
}

#[derive(Default)]
struct Predicted {
    snp: Option<casemate_image::prediction::Snp>,
    tdx: Option<casemate_image::prediction::Tdx>,
    tpm: Vec<Tpm>,
}

impl Predicted {
    fn add(
        &mut self,
        booted: &Files<'_>,
        firmware: &Firmware,
        shapes: &Shapes,
    ) -> Result<(), ImageError> {
        match firmware.purpose {
            Purpose::Snp => self.snp = Some(booted.snp(firmware, shapes)?),
            Purpose::Tdx => self.tdx = Some(booted.tdx(firmware)?),
            Purpose::Tpm => self.tpm.push(booted.tpm(firmware)?),
        }
        Ok(())
    }
}

impl Arguments {
    fn firmware(&self) -> impl Iterator<Item = (&Path, Purpose)> {
        let all = [
            (&self.snp_firmware, Purpose::Snp),
            (&self.tdx_firmware, Purpose::Tdx),
            (&self.tpm_firmware, Purpose::Tpm),
        ];
        all.into_iter()
            .filter_map(|(file, purpose)| Some((file.as_deref()?, purpose)))
    }

    fn shapes(&self) -> Shapes {
        Shapes {
            models: self.cpu.clone(),
            processors: self.vcpus.clone(),
            features: self.features.clone(),
        }
    }
}

/// The pins, and files that are held to them.
struct Inputs(Pins);

impl Inputs {
    fn read(file: &Path) -> Result<Self, CommandError> {
        let text = String::from_utf8(read(file)?);
        let wrong = |text: String| {
            CommandError::new(ExitCode::Malformed, format!("{}: {text}", file.display()))
        };
        let text = text.map_err(|_| wrong("it is not text".into()))?;
        Pins::read(&text)
            .map(Self)
            .map_err(|error| wrong(error.to_string()))
    }

    fn package(&self, file: &Path, wanted: fn(&str) -> bool) -> Result<Package, CommandError> {
        let bytes = read(file)?;
        let pinned = self.0.check(name(file)?, &bytes).map_err(refused)?;
        Package::read(pinned, wanted).map_err(|error| refused_file(file, error))
    }

    /// A stub, out of its package or by itself.
    fn stub(&self, file: &Path, inputs: &mut Vec<Input>) -> Result<Vec<u8>, CommandError> {
        const PATH: &str = "usr/lib/systemd/boot/efi/linuxx64.efi.stub";
        if file.extension().is_some_and(|it| it == "deb") {
            let mut package = self.package(file, |path| path == PATH)?;
            let stub = package.files.remove(PATH);
            inputs.push(Input::of(&package));
            let missing = || ImageError::Package(format!("it has no {PATH}"));
            return stub.ok_or_else(|| refused_file(file, missing()));
        }
        let bytes = read(file)?;
        let name = name(file)?;
        self.0.check(name, &bytes).map_err(refused)?;
        inputs.push(Input {
            file: name.into(),
            sha256: casemate_image::sha256(&bytes),
            package: name.into(),
            version: "none".into(),
            architecture: "amd64".into(),
        });
        Ok(bytes)
    }
}

fn name(file: &Path) -> Result<&str, CommandError> {
    let name = file.file_name().and_then(|name| name.to_str());
    name.ok_or_else(|| {
        CommandError::new(
            ExitCode::Usage,
            format!("{} is no file's name", file.display()),
        )
    })
}

/// The list of crates of this program.
fn crates_of(file: &Path, program: Program<'_>) -> Result<Crates, CommandError> {
    let text = String::from_utf8_lossy(&read(file)?).into_owned();
    Crates::read(&text, program.bytes()).map_err(|error| refused_file(file, error))
}

/// The guest's configuration, judged by the guest's own rules: what would stop the machine stops the build.
fn configuration(file: &Path) -> Result<Configuration, CommandError> {
    let bytes = read(file)?;
    let wrong = |error: &dyn std::fmt::Display| {
        let hint = "docs/formats/guest.md says what is in it";
        CommandError::new(ExitCode::Configuration, error).hint(hint)
    };
    let made = Configuration::read(&bytes).map_err(|error| wrong(&error))?;
    let text = String::from_utf8_lossy(&bytes);
    Loaded::<GuestConfig>::parse(&text, file).map_err(|error| wrong(&error))?;
    Ok(made)
}

/// Files that the configuration names, from the folder beside it.
fn trust(
    config: &Path,
    configuration: &Configuration,
) -> Result<BTreeMap<String, Vec<u8>>, CommandError> {
    let folder = config.parent().unwrap_or(Path::new("")).join("trust");
    let mut found = BTreeMap::new();
    for name in configuration.trust() {
        // Names that lead elsewhere are not followed; the builder refuses them by name.
        let plain = !name.contains('/') && name != "..";
        if plain && folder.join(name).is_file() {
            found.insert(name.clone(), read(&folder.join(name))?);
        }
    }
    Ok(found)
}

/// Everything goes into a folder beside, which gets its name when it is whole.
fn write(out: &Path, built: &Built, collateral_floor: Option<u32>) -> Result<(), CommandError> {
    let wrong = |error: std::io::Error| {
        CommandError::new(
            ExitCode::Configuration,
            format!("cannot write {}: {error}", out.display()),
        )
    };
    let parent = out
        .parent()
        .filter(|it| !it.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let partial = parent.join(format!(".{}.partial-{}", name(out)?, std::process::id()));
    fs::create_dir(&partial).map_err(wrong)?;
    let all = || -> Result<(), CommandError> {
        for (name, bytes) in &built.files {
            fs::write(partial.join(name), bytes).map_err(wrong)?;
        }
        fs::write(partial.join("manifest.json"), json(&built.manifest)?).map_err(wrong)?;
        fs::create_dir(partial.join("reference")).map_err(wrong)?;
        for (name, values) in references::of(&built.manifest, collateral_floor)? {
            fs::write(partial.join("reference").join(name), json(&values)?).map_err(wrong)?;
        }
        fs::rename(&partial, out).map_err(wrong)
    };
    all().inspect_err(|_| {
        // What was begun is of no use; the error that is reported is the first one.
        let _ = fs::remove_dir_all(&partial);
    })
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, CommandError> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(anyhow::Error::from)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn refused_file(file: &Path, error: ImageError) -> CommandError {
    let code = refused(error.clone()).code();
    CommandError::new(code, format!("{}: {error}", file.display()))
}

/// What went wrong, and what to do about it.
fn refused(error: ImageError) -> CommandError {
    use ImageError as E;
    let (code, hint) = match &error {
        E::CratesOfOther { .. } => (
            ExitCode::Rejected,
            Some("scripts/build-guest writes program and list together; take both of one build"),
        ),
        E::NotPinned(_) | E::OtherThanPinned { .. } => (
            ExitCode::Rejected,
            Some("take the pinned file, or pin this one after looking at where it is from"),
        ),
        E::Configuration(_) => (ExitCode::Configuration, None),
        E::Trust { .. } => (
            ExitCode::Configuration,
            Some("public files lie in the folder trust beside the configuration"),
        ),
        E::KernelTooOld(_) | E::FirmwareRelease(_) | E::StubRelease(_) => (
            ExitCode::Unsupported,
            Some("scripts/image-inputs fetches releases that are known"),
        ),
        E::Measure(inner) => (code_of(inner), None),
        E::ModuleMissing { .. } => (
            ExitCode::Malformed,
            Some(
                "take the kernel for clouds; newest kernels have modules in a package of their own",
            ),
        ),
        _ => (ExitCode::Malformed, None),
    };
    let made = CommandError::new(code, error);
    match hint {
        Some(hint) => made.hint(hint),
        None => made,
    }
}
