//! What `casemate image boot` starts ends with it, also when it is killed; and a TPM or a QEMU that it does not get is named. The
//! programs that it starts are stand-ins here: they write down which process they are, and sleep.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::machine::image;
use crate::place::ended;

const QEMU: &str =
    "#!/bin/sh\necho $$ > FOLDER/new && mv FOLDER/new FOLDER/qemu.pid\nexec sleep 600\n";
/// Makes the socket that its last word names.
const SWTPM: &str = "#!/bin/sh\nfor word; do :; done\necho $$ > FOLDER/swtpm.pid\n: > \"${word#*path=}\"\nexec sleep 600\n";

/// A folder with programs, an image, and the state of a TPM.
struct Host {
    folder: TempDir,
    image: TempDir,
}

impl Host {
    fn new(qemu: &str, swtpm: &str) -> Self {
        let (folder, image) = (tempfile::tempdir().unwrap(), image());
        for (name, text) in [("qemu", qemu), ("swtpm", swtpm)] {
            let file = folder.path().join(name);
            let here = folder.path().to_str().unwrap();
            fs::write(&file, text.replace("FOLDER", here)).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self { folder, image }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// `casemate image boot` with this QEMU, which finds our `swtpm` before any other.
    fn boot(&self, qemu: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_casemate"));
        command
            .args(["image", "boot", "--image"])
            .arg(self.image.path())
            .args(["--qemu", qemu, "--tpm-state", &self.path("state")])
            .env("PATH", format!("{}:/usr/bin:/bin", self.path("")))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// The process that a stand-in wrote down, as soon as it did.
    fn process(&self, name: &str) -> u32 {
        let file = self.path(&format!("{name}.pid"));
        let read = || fs::read_to_string(&file).ok()?.trim().parse().ok();
        let begun = Instant::now();
        loop {
            if let Some(id) = read() {
                return id;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "{name} does not start"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Whether a process runs no more; one that nobody asked for its end is over, too.
fn is_over(id: u32) -> bool {
    let status = fs::read_to_string(Path::new("/proc").join(id.to_string()).join("status"));
    status.map_or(true, |status| {
        status.lines().any(|line| line.starts_with("State:\tZ"))
    })
}

fn signal(boot: &Child, signal: Signal) {
    let id = Pid::from_raw(boot.id().cast_signed()).unwrap();
    kill_process(id, signal).unwrap();
}

#[test]
fn what_was_started_ends_with_a_boot_that_is_stopped_or_killed() {
    for end in [Signal::TERM, Signal::KILL] {
        let host = Host::new(QEMU, SWTPM);
        let mut boot = host.boot(&host.path("qemu")).spawn().unwrap();
        let started = [host.process("swtpm"), host.process("qemu")];
        assert!(started.iter().all(|id| !is_over(*id)), "they sleep");
        signal(&boot, end);
        boot.wait().unwrap();
        let begun = Instant::now();
        while !started.iter().all(|id| is_over(*id)) {
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "{end:?}: something is left running"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn a_tpm_that_another_machine_has_is_not_given_to_a_second_one() {
    let host = Host::new(QEMU, SWTPM);
    let mut first = host.boot(&host.path("qemu")).spawn().unwrap();
    host.process("qemu");
    let (code, said) = ended(&host.boot(&host.path("qemu")).output().unwrap());
    assert!(
        code == 20 && said.contains("is another machine's that runs"),
        "{code} {said}"
    );
    signal(&first, Signal::KILL);
    first.wait().unwrap();
    // Nothing keeps the state of a machine that is gone.
    let (code, said) = ended(&host.boot("/bin/false").output().unwrap());
    assert!(
        code == 1 && said.contains("QEMU ended with exit status: 1"),
        "{code} {said}"
    );
}

#[test]
fn a_program_that_cannot_be_started_is_named() {
    let host = Host::new(QEMU, SWTPM);
    for qemu in ["no-such-qemu", "/dev/null", "/"] {
        let (code, said) = ended(&host.boot(qemu).output().unwrap());
        let named = said.contains(&format!("cannot start {qemu}: "))
            && said.contains("hint: apt-get install");
        assert!(code == 20 && named, "{code} {said}");
    }
    fs::remove_file(host.path("swtpm")).unwrap();
    let mut without = host.boot(&host.path("qemu"));
    without.env("PATH", host.path(""));
    let (code, said) = ended(&without.output().unwrap());
    assert!(
        code == 20 && said.contains("cannot start swtpm: "),
        "{code} {said}"
    );
    let host = Host::new(QEMU, "#!/bin/sh\necho no disk >&2\nexit 1\n");
    let (code, said) = ended(&host.boot(&host.path("qemu")).output().unwrap());
    let told = said.contains("swtpm) did not start with the state in") && said.contains("no disk");
    assert!(code == 20 && told, "{code} {said}");
}

#[test]
fn nobody_but_its_parent_starts_a_held_program() {
    let held = |by: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_casemate"));
        let command = command.args(["image", "held", "--by", by, "--", "echo", "started"]);
        ended(&command.output().unwrap())
    };
    assert_eq!(
        held(&std::process::id().to_string()),
        (0, "started\n".into())
    );
    assert_eq!(held("1"), (126, String::new()));
}
