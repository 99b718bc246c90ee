//! The first process: makes a machine of what the host gave, closes it, starts the server in a process without rights, and stays to
//! answer for the machine. Whatever goes wrong is one line on the console, and the machine stops with nothing released.

use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use casemate::config::{GuestConfig, Loaded};
use casemate::harden::SYSCTLS;
use casemate::serve::ServeError;
use casemate_attestation::{EvidenceProvider, Platform, UnixTime};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Resource, Rlimit};
use rustix::rand::GetRandomFlags;
use rustix::system::RebootCommand;
use rustix::time::Timespec;

use crate::console::Console;
use crate::disk::{self, SERVER_ID};
use crate::failure::{Failure, What, one_line};
use crate::machine::{self, Tree};
use crate::network::{self, Lease};
use crate::{attester, clock, command_line, modules, mounts, server};

/// How long the kernel's random numbers may take to be ready.
const RANDOM_SECONDS_MAX: u64 = 30;
/// What the process that looks may write.
const FINDINGS_BYTES_MAX: u64 = 256 * 1024;
/// The longest wait of the loop, when nothing is due.
const LONG: Duration = Duration::from_secs(86_400);
/// How long a server may take to end once its socket is closed.
const END_SECONDS_MAX: u64 = 30;

/// Runs the machine. Comes back only where the kernel does not stop.
pub fn run() {
    // Nothing can be said before it is known whether anybody should hear it.
    let told =
        mounts::proc().map(|()| std::fs::read_to_string("/proc/cmdline").unwrap_or_default());
    let line = told.as_deref().unwrap_or_default().to_owned();
    let others = mounts::others();
    let console = Console::open(command_line::has_console(&line));
    let ended = told.and(others).and_then(|()| machine(&console, &line));
    if let Err(failure) = ended {
        console.line(&failure.to_string());
    }
    console.line("casemate: power off");
    // What the console still holds is written by then.
    std::thread::sleep(Duration::from_millis(200));
    let _ = rustix::system::reboot(RebootCommand::PowerOff);
}

/// Reads the image's configuration.
///
/// # Errors
/// [`What::Config`].
pub fn read_config() -> Result<Loaded<GuestConfig>, Failure> {
    Loaded::<GuestConfig>::read(&server::config_path()).map_err(|error| {
        let hint = "correct guest.toml and build the image again: docs/formats/guest.md";
        Failure::new(What::Config, error, hint)
    })
}

fn machine(console: &Console, line: &str) -> Result<(), Failure> {
    let tree = Tree::at(Path::new("/"));
    let reviewed = command_line::review(line)?;
    let config = read_config()?;
    machine::check_processor_and_memory(&tree)?;
    wait_for_random()?;
    for released in machine::release_others(&tree)? {
        console.line(&format!("casemate: driver taken away: {released}"));
    }
    modules::load(Path::new(modules::LIST))?;
    mounts::configfs()?;
    machine::bind(&tree)?;
    clock::check(&config.clock, UnixTime::from(std::time::SystemTime::now()))?;
    mounts::writable()?;
    let disks = disk::find(&tree, &config.disk)?;
    for (name, node) in &disks {
        disk::look(&tree, name, node)?;
    }
    disk::offer(&disks)?;
    let lease = network::start(&config.network)?;
    let provider = provider(&config)?;
    close(&tree, &config)?;
    look(console, reviewed.debug)?;
    serve(&*provider, lease)
}

/// The kernel's numbers come from the processor's own; nothing is done before they are ready.
fn wait_for_random() -> Result<(), Failure> {
    let begun = Instant::now();
    let mut byte = [0; 1];
    loop {
        match rustix::rand::getrandom(&mut byte, GetRandomFlags::NONBLOCK) {
            Ok(_) => return Ok(()),
            Err(_) if begun.elapsed().as_secs() < RANDOM_SECONDS_MAX => {
                std::thread::sleep(Duration::from_millis(100));
            }
            Err(error) => {
                let found = format!("the kernel has no random numbers: {error}");
                return Err(Failure::new(
                    What::Entropy,
                    found,
                    "start the machine with a processor that has RDRAND",
                ));
            }
        }
    }
}

/// The machine's own device, asked by this process alone.
fn provider(config: &GuestConfig) -> Result<Arc<dyn EvidenceProvider>, Failure> {
    let platform = config.server.attestation.platform;
    casemate::serve::evidence_provider(&config.server)
        .map_err(|error| no_provider(platform, &error))
}

fn no_provider(platform: Platform, error: &ServeError) -> Failure {
    let (what, hint) = match (error, platform) {
        (ServeError::Device(_), Platform::Tpm) => (
            What::Tpm,
            "start the machine with a TPM 2.0 that nobody else asks: -device tpm-crb",
        ),
        (ServeError::Device(_) | ServeError::NoProvider(_), _) => (
            What::Attest,
            "start the machine as the guest that [server.attestation] `platform` names",
        ),
        _ => (
            What::Config,
            "correct the file that is named, and build the image again",
        ),
    };
    Failure::new(what, error, hint)
}

/// Closes what the whole machine can do. Nothing of it can be opened again.
fn close(tree: &Tree, config: &GuestConfig) -> Result<(), Failure> {
    let open = |what: &str, error: &io::Error| {
        let found = format!("{what}: {error}");
        Failure::new(What::Harden, found, "use a Debian kernel of 6.12 or newer")
    };
    mounts::seal_root()?;
    let port = config.server.server.listen.port();
    if port < 1024 {
        let first = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
        tree.write(first, &port.to_string())
            .map_err(|error| open(first, &error))?;
    }
    for knob in SYSCTLS {
        let path = format!("/proc/sys/{}", knob.name);
        let set = tree.write(&path, knob.value);
        let set = set.and_then(|()| tree.attribute(&path));
        match set {
            Ok(value) if value == knob.value => {}
            Ok(value) => {
                let found = format!("{} stays {value}", knob.name);
                return Err(Failure::new(
                    What::Harden,
                    found,
                    "use a Debian kernel of 6.12 or newer",
                ));
            }
            Err(error) => return Err(open(knob.name, &error)),
        }
    }
    let lockdown = "/sys/kernel/security/lockdown";
    if !tree
        .attribute(lockdown)
        .is_ok_and(|text| text.contains("[confidentiality]"))
    {
        tree.write(lockdown, "confidentiality")
            .map_err(|error| open("lockdown", &error))?;
    }
    let _ = rustix::system::reboot(RebootCommand::CadOff);
    casemate::secrets::forbid_core_dumps().map_err(|error| open("core dumps", &error))?;
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    rustix::process::setrlimit(Resource::Memlock, unlimited)
        .map_err(|error| open("locked memory", &error.into()))?;
    casemate::secrets::no_new_privileges().map_err(|error| open("no new privileges", &error))
}

/// This program again, as nobody, with one end of a socket or nothing as its standard input.
fn start(verb: &str, input: Stdio, out: Stdio) -> Result<Child, Failure> {
    bare("/proc/self/exe")
        .arg0("casemate")
        .arg(verb)
        .stdin(input)
        .stdout(out)
        .uid(SERVER_ID)
        .gid(SERVER_ID)
        .spawn()
        .map_err(|error| {
            Failure::new(
                What::Harden,
                format!("no process for {verb}: {error}"),
                "give the machine more memory",
            )
        })
}

/// A program without anything that this process was given: names on the kernel's command line become variables of the first one.
fn bare(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().current_dir("/");
    command
}

/// Has a process that is closed as the server will be try what it must not be able to do.
fn look(console: &Console, debug: bool) -> Result<(), Failure> {
    let mut child = start("probe", Stdio::null(), Stdio::piped())?;
    let mut text = String::new();
    if let Some(out) = child.stdout.take() {
        // What was not read is missed below.
        let _ = out.take(FINDINGS_BYTES_MAX).read_to_string(&mut text);
    }
    let status = child.wait();
    let lines: Vec<&str> = text.lines().collect();
    if debug {
        lines
            .iter()
            .for_each(|line| console.line(&one_line(line, 300)));
    }
    if let Some(open) = lines.iter().find(|line| line.starts_with("FAIL ")) {
        return Err(Failure::new(
            What::Harden,
            one_line(open, 300),
            "use a Debian kernel of 6.12 or newer",
        ));
    }
    let passed = lines
        .iter()
        .filter(|line| line.starts_with("PASS "))
        .count();
    match status {
        Ok(status) if status.success() && passed > SYSCTLS.len() => {
            console.line(&format!("casemate: closed, {passed} properties hold"));
            Ok(())
        }
        _ => Err(Failure::new(
            What::Harden,
            "nobody could look whether the machine is closed",
            "give the machine more memory",
        )),
    }
}

/// Answers for the machine until the server ends.
fn serve(provider: &dyn EvidenceProvider, mut lease: Option<Lease>) -> Result<(), Failure> {
    let lost = |error: io::Error| Failure::new(What::Server, error, "start the machine again");
    let (mut own, other) = UnixStream::pair().map_err(lost)?;
    let child = start("serve", Stdio::from(OwnedFd::from(other)), Stdio::inherit())?;
    loop {
        let wait = lease.as_ref().map_or(LONG, Lease::due_in);
        if is_asked(&own, wait).map_err(lost)? {
            match attester::answer(&mut own, provider) {
                Ok(()) => {}
                // The other end is gone with its process, or it asked what is no question.
                Err(_) => return ended(child),
            }
        } else if let Some(lease) = &mut lease
            && lease.due_in().is_zero()
        {
            lease.renew()?;
        }
    }
}

/// Whether a question, or the end, is there before `wait` is over.
fn is_asked(stream: &UnixStream, wait: Duration) -> io::Result<bool> {
    let mut waiting = [PollFd::new(stream, PollFlags::IN)];
    let wait = Timespec::try_from(wait).map_err(io::Error::other)?;
    match poll(&mut waiting, Some(&wait)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Waits for the server, and says why it ended where it could not say so itself.
fn ended(mut child: Child) -> Result<(), Failure> {
    let begun = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if begun.elapsed().as_secs() < END_SECONDS_MAX => {
                std::thread::sleep(Duration::from_millis(20))
            }
            _ => {
                let found = "the server does not answer and does not end";
                return Err(Failure::new(What::Server, found, "start the machine again"));
            }
        }
    };
    of_status(status)
}

fn of_status(status: ExitStatus) -> Result<(), Failure> {
    match (status.code(), status.signal()) {
        // It said itself why.
        (Some(0 | 1), _) => Ok(()),
        (_, Some(9)) => {
            let found = "the server was killed by the kernel";
            Err(Failure::new(
                What::Memory,
                found,
                "give the machine more memory, or the model less: [server.limits] cache_tokens",
            ))
        }
        _ => Err(Failure::new(
            What::Server,
            format!("the server ended with {status}"),
            "report it: this is a fault of the program",
        )),
    }
}

#[cfg(test)]
mod tests {
    use casemate::serve::DeviceError;

    use super::*;

    #[test]
    fn b20_a_child_gets_nothing_of_the_environment_that_the_kernel_made() {
        assert!(std::env::vars_os().count() > 0, "this process has some");
        let shown = bare("/usr/bin/env").output().unwrap();
        assert_eq!(String::from_utf8_lossy(&shown.stdout), "");
    }

    #[test]
    fn a_device_that_is_busy_or_gone_is_told_by_the_platforms_word() {
        let device = "/dev/tpmrm0";
        let why = "No such file or directory".to_owned();
        let (waited_ms, asked) = (30_000, 60);
        for (error, text) in [
            (
                DeviceError::Unavailable { device, why },
                "No such file or directory",
            ),
            (
                DeviceError::StayedBusy {
                    device,
                    waited_ms,
                    asked,
                },
                "stayed busy for 30000 ms, over 60 requests",
            ),
        ] {
            let error = ServeError::Device(error);
            for (platform, what) in [(Platform::Tpm, What::Tpm), (Platform::Snp, What::Attest)] {
                let failure = no_provider(platform, &error);
                assert_eq!(failure.what(), what);
                assert!(failure.to_string().contains(text), "{failure}");
            }
        }
        let file = std::path::PathBuf::from("collateral.json");
        let failure = no_provider(Platform::Tpm, &ServeError::NoCertificate(file));
        assert_eq!(failure.what(), What::Config);
    }

    #[test]
    fn an_end_is_told_where_the_server_could_not_tell_it() {
        let status = ExitStatus::from_raw;
        assert_eq!(of_status(status(0)), Ok(()));
        assert_eq!(of_status(status(1 << 8)), Ok(()));
        assert_eq!(of_status(status(9)).unwrap_err().what(), What::Memory);
        assert_eq!(of_status(status(11)).unwrap_err().what(), What::Server);
        assert_eq!(
            of_status(status(101 << 8)).unwrap_err().what(),
            What::Server
        );
    }

    #[test]
    fn a_question_is_noticed_and_so_is_the_end_of_the_other_side() {
        let (own, other) = UnixStream::pair().unwrap();
        assert!(!is_asked(&own, Duration::from_millis(1)).unwrap());
        drop(other);
        assert!(is_asked(&own, Duration::from_secs(5)).unwrap());
    }
}
