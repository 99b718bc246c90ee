//! Starts a machine and stays with it: software TPM, QEMU, the guest's lines, and how it ended.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::process::Child;
use tokio::time::{Instant, sleep, timeout};

use super::console::{Console, Failure, Said};
use super::folder::{Folder, FolderError};
use super::held;
use super::machine::{Boot, Launch, Machine};
use super::qemu;
use casemate_image::prediction::Files;

/// How long a software TPM may take to start.
const TPM_SECONDS: u64 = 20;
/// How long a guest that said why it stops may take to power off.
const POWER_OFF_SECONDS: u64 = 60;

/// What the host runs machines with.
#[derive(Debug, Clone)]
pub struct Hardware {
    /// QEMU's program.
    pub qemu: PathBuf,
    /// Folder of the software TPM's state; without one the TPM is new each time.
    pub tpm_state: Option<PathBuf>,
    /// How long the guest may take until it says that it serves. Not for images that say nothing.
    pub limit: Duration,
    /// Stop the machine as soon as it serves.
    pub until_ready: bool,
}

/// How a machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It served; the machine was stopped then, as asked, or by the user, or powered off by itself.
    Served,
    /// The user stopped it before it served, or it is an image that says nothing.
    Stopped,
    /// The guest said why it stops.
    Failed(Failure),
    /// It ended without a word.
    Silent,
}

/// Why no machine was started, or it had to be stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The image.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A program is not there or does not start.
    #[error("cannot start {0}: {1}")]
    Start(String, io::Error),
    /// The software TPM does not answer.
    #[error("the software TPM (swtpm) did not start with the state in {state}", state = .0.display())]
    Tpm(PathBuf),
    /// The software TPM's state is in use.
    #[error("the TPM's state in {state} is another machine's that runs", state = .0.display())]
    TpmBusy(PathBuf),
    /// QEMU refused its arguments, or ended with an error.
    #[error("QEMU ended with {0}; what it says stands above")]
    Qemu(std::process::ExitStatus),
    /// The disk's file cannot be read.
    #[error("the disk {file} cannot be read: {error}", file = .file.display())]
    Disk {
        /// The file.
        file: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
    /// The guest does not come up.
    #[error("the guest did not say that it serves within {0} s, and was stopped")]
    TooLate(u64),
    /// A hash page cannot be made.
    #[error("the firmware cannot be given hashes: {0}")]
    Hashes(String),
    /// A file or a pipe.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// The files of a start as they are printed: those of the machine's own stand for what an operator makes.
///
/// # Errors
/// What the image lacks for this way of booting.
pub fn launch_as_printed(folder: &Folder, boot: Boot) -> Result<Launch, RunError> {
    launch(folder, boot, Path::new("/run/casemate"))
}

/// The files of a start, some of them made in `scratch`.
fn launch(folder: &Folder, boot: Boot, scratch: &Path) -> Result<Launch, RunError> {
    let firmware = match boot {
        Boot::Direct | Boot::Unified => "firmware-tpm.fd",
        Boot::SnpTrial | Boot::Snp => "firmware-snp.fd",
        Boot::Tdx => "firmware-tdx.fd",
    };
    Ok(Launch {
        firmware: folder.file(firmware)?,
        variables: scratch.join("variables.fd"),
        kernel: folder.file("vmlinuz")?,
        initrd: folder.file("initrd.cpio")?,
        command_line: folder.manifest().command_line.clone(),
        boot_folder: scratch.join("boot"),
        hash_page: (boot == Boot::SnpTrial).then(|| (scratch.join("hashes"), 0)),
        tpm: scratch.join("tpm.sock"),
    })
}

/// Makes the files that a start needs beside the image.
fn prepare(folder: &Folder, boot: Boot, launch: &mut Launch) -> Result<(), RunError> {
    if boot.has_tpm() {
        fs::write(
            &launch.variables,
            folder.bytes("firmware-tpm-variables.fd")?,
        )?;
    }
    if boot == Boot::Unified {
        let place = launch.boot_folder.join("EFI/BOOT");
        fs::create_dir_all(&place)?;
        fs::write(place.join("BOOTX64.EFI"), folder.bytes("uki.efi")?)?;
    }
    if let Some((file, address)) = &mut launch.hash_page {
        let (kernel, initrd) = (folder.bytes("vmlinuz")?, folder.bytes("initrd.cpio")?);
        let booted = Files {
            kernel: &kernel,
            initrd: &initrd,
            command_line: &launch.command_line,
        };
        let made = booted.snp_hash_page(&folder.bytes("firmware-snp.fd")?);
        let (at, page) = made.map_err(|error| RunError::Hashes(error.to_string()))?;
        fs::write(file.as_path(), page)?;
        *address = at;
    }
    Ok(())
}

/// Starts a machine and waits until it ends, serves or is told to stop. `show` gets every line of the guest's. What is started ends with
/// the thread that waits here, even where that is killed: call it on the program's first, in `casemate` itself (see `held`).
///
/// # Errors
/// [`RunError`].
pub async fn run(
    folder: &Folder,
    machine: &Machine,
    hardware: &Hardware,
    stop: impl Future<Output = ()>,
    mut show: impl FnMut(&str),
) -> Result<Ended, RunError> {
    if let Some((file, _)) = &machine.disk {
        let opened = File::open(file).and_then(|file| file.metadata());
        opened.map_err(|error| RunError::Disk {
            file: file.clone(),
            error,
        })?;
    }
    let scratch = TempDir::with_prefix("casemate-")?;
    let mut launch = launch(folder, machine.boot, scratch.path())?;
    prepare(folder, machine.boot, &mut launch)?;
    let tpm = match machine.boot.has_tpm() {
        true => Some(start_tpm(hardware, scratch.path(), &launch.tpm).await?),
        false => None,
    };
    let qemu = held::command(&hardware.qemu)
        .args(qemu::arguments(machine, &launch))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let watch = Watch {
        speaks: folder.manifest().debug_console,
        hardware,
        ready: false,
        failure: None,
    };
    let ended = watch.until_end(qemu, stop, &mut show).await;
    // The TPM ends with the connection; it is given up only after QEMU is gone.
    drop(tpm);
    ended
}

/// A software TPM, and its state held against a second one.
struct Tpm {
    _program: Child,
    _state: File,
}

async fn start_tpm(hardware: &Hardware, scratch: &Path, socket: &Path) -> Result<Tpm, RunError> {
    let state = match &hardware.tpm_state {
        Some(state) => state.clone(),
        None => scratch.join("tpm"),
    };
    fs::create_dir_all(&state)?;
    // swtpm itself notices a second one only when QEMU speaks to it.
    let lock = File::create(state.join("casemate.lock"))?;
    lock.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => RunError::TpmBusy(state.clone()),
        TryLockError::Error(error) => RunError::Io(error),
    })?;
    let mut tpm = held::command(Path::new("swtpm"))
        .args(["socket", "--tpm2", "--terminate", "--tpmstate"])
        .arg(format!("dir={}", state.display()))
        .args(["--ctrl", &format!("type=unixio,path={}", socket.display())])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;
    let end = Instant::now() + Duration::from_secs(TPM_SECONDS);
    while !socket.exists() {
        if let Some(status) = tpm.try_wait()? {
            return Err(match held::not_started(status) {
                Some(error) => RunError::Start("swtpm".into(), error),
                None => RunError::Tpm(state),
            });
        }
        if Instant::now() > end {
            return Err(RunError::Tpm(state));
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(Tpm {
        _program: tpm,
        _state: lock,
    })
}

/// One machine that runs.
struct Watch<'a> {
    speaks: bool,
    hardware: &'a Hardware,
    ready: bool,
    failure: Option<Failure>,
}

impl Watch<'_> {
    async fn until_end(
        mut self,
        mut qemu: Child,
        stop: impl Future<Output = ()>,
        show: &mut impl FnMut(&str),
    ) -> Result<Ended, RunError> {
        let mut output = qemu
            .stdout
            .take()
            .ok_or_else(|| RunError::Io(io::ErrorKind::BrokenPipe.into()))?;
        let (mut console, mut buffer) = (Console::default(), [0; 4096]);
        let late = sleep(self.hardware.limit);
        tokio::pin!(stop, late);
        loop {
            tokio::select! {
                read = output.read(&mut buffer) => {
                    let count = read?;
                    for line in console.lines(buffer.get(..count).unwrap_or_default()) {
                        self.hear(&line, show);
                    }
                    if count == 0 {
                        break;
                    }
                }
                () = &mut stop => {
                    end(&mut qemu).await?;
                    return Ok(if self.ready { Ended::Served } else { Ended::Stopped });
                }
                () = &mut late, if self.speaks && !self.ready => {
                    end(&mut qemu).await?;
                    return Err(RunError::TooLate(self.hardware.limit.as_secs()));
                }
            }
            if self.ready && self.hardware.until_ready {
                end(&mut qemu).await?;
                return Ok(Ended::Served);
            }
            if self.failure.is_some() {
                // What the guest still prints is of no use; it has this long to power off.
                let power_off = Duration::from_secs(POWER_OFF_SECONDS);
                let _ = timeout(power_off, qemu.wait()).await;
                end(&mut qemu).await?;
                break;
            }
        }
        if let Some(line) = console.rest() {
            self.hear(&line, show);
        }
        let status = qemu.wait().await?;
        match (self.failure, self.ready) {
            (Some(failure), _) => Ok(Ended::Failed(failure)),
            (None, true) => Ok(Ended::Served),
            (None, false) if status.success() => Ok(Ended::Silent),
            (None, false) => Err(match held::not_started(status) {
                Some(error) => RunError::Start(self.hardware.qemu.display().to_string(), error),
                None => RunError::Qemu(status),
            }),
        }
    }

    fn hear(&mut self, line: &str, show: &mut impl FnMut(&str)) {
        show(line);
        match Said::by(line) {
            Said::Ready(_) => self.ready = true,
            Said::Failed(failure) => self.failure = Some(failure),
            Said::Other => {}
        }
    }
}

/// Ends QEMU, which may have ended by itself.
async fn end(qemu: &mut Child) -> io::Result<()> {
    if qemu.try_wait()?.is_none() {
        qemu.kill().await?;
    }
    Ok(())
}
