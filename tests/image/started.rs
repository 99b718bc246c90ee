//! Machines that really start, under emulation: their registers are those that were predicted, and firmware of SEV-SNP holds
//! files to the predicted page of hashes. One at a time.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use casemate_image::prediction::Files;
use serde_json::Value;

use crate::place::{Place, casemate_in, ended, inputs};

/// How long a machine may take on a busy computer; alone it takes ten seconds.
pub const LIMIT_SECONDS: &str = "400";

/// Held while a machine runs, by whichever test process has it.
pub struct OnlyOne(#[expect(dead_code, reason = "the lock goes with the file")] File);

impl OnlyOne {
    pub fn wait(inputs: &Path) -> Self {
        let file = File::create(inputs.join("one-machine")).unwrap();
        file.lock().unwrap();
        Self(file)
    }
}

/// QEMU of scripts/image-inputs.
pub fn qemu(inputs: &Path) -> Option<PathBuf> {
    let program = inputs.join("qemu/bin/qemu-system-x86_64");
    if !program.exists() {
        println!("SKIP no QEMU: scripts/image-inputs could not get one");
    }
    program.exists().then_some(program)
}

/// Whether there is a software TPM, said aloud where not.
pub fn has_swtpm() -> bool {
    let mut command = Command::new("swtpm_setup");
    let asked = command
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if asked.is_err() {
        println!("SKIP swtpm is missing: apt-get install swtpm swtpm-tools");
    }
    asked.is_ok()
}

/// A program that prints the machine's registers and powers off.
fn probe() -> Option<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let (source, out) = ("tests/image/probe.c", folder.path().join("probe"));
    let made = Command::new("cc")
        .args(["-static", "-O2", "-o"])
        .args([out.as_path(), Path::new(source)])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::null())
        .status();
    if !made.is_ok_and(|status| status.success()) {
        println!("SKIP no C compiler with a static library");
        return None;
    }
    Some(fs::read(out).unwrap())
}

/// Registers as the machine printed them, and as the manifest predicts them.
fn compare(place: &Place, said: &str, way: &str) {
    let manifest = fs::read(place.path("image/manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let ways = manifest["tpm"].as_array().unwrap();
    let predicted = &ways.iter().find(|it| it["boot"] == way).unwrap()["registers"];
    let printed = said.lines().filter_map(|line| line.split_once("register "));
    let printed: BTreeMap<_, _> = printed
        .filter_map(|(_, rest)| rest.split_once(' '))
        .collect();
    assert_eq!(printed.len(), 5, "{said}");
    for (number, value) in printed {
        let value = value.trim().to_lowercase();
        assert_eq!(
            predicted[number].as_str(),
            Some(value.as_str()),
            "{way}, register {number}\n{said}"
        );
    }
}

#[test]
fn the_registers_of_a_booted_machine_are_those_that_were_predicted() {
    let (Some(inputs), Some(program)) = (inputs(), probe()) else {
        return;
    };
    let Some(qemu) = qemu(&inputs) else {
        return;
    };
    if !has_swtpm() {
        return;
    }
    let place = Place::new(&program);
    let Some(output) = place.build("image", &["--console"]) else {
        return;
    };
    assert_eq!(ended(&output).0, 0, "{}", ended(&output).1);
    let _one = OnlyOne::wait(&inputs);
    for (boot, way) in [("direct", "direct"), ("uki", "uki")] {
        let qemu = qemu.to_str().unwrap();
        let machine = [
            "image",
            "boot",
            "--image",
            "image",
            "--qemu",
            qemu,
            "--boot",
            boot,
            "--limit",
            LIMIT_SECONDS,
        ];
        let (code, said) = ended(&casemate_in(place.0.path(), &machine));
        assert_eq!(code, 0, "{said}");
        compare(&place, &said, way);
    }
}

/// Files for the firmware of SEV-SNP, and the page of hashes that it is given.
struct Trial<'a> {
    qemu: &'a Path,
    image: PathBuf,
    page: Vec<u8>,
    address: u32,
}

impl Trial<'_> {
    /// Whether the guest says that it is there within a time.
    fn starts(
        &self,
        kernel: &[u8],
        initrd: &[u8],
        line: &str,
        page: &[u8],
        within: Duration,
    ) -> bool {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, bytes).unwrap();
            path
        };
        let (kernel, initrd, page) = (
            file("kernel", kernel),
            file("initrd", initrd),
            file("page", page),
        );
        let mut machine = Command::new(self.qemu)
            .args([
                "-nodefaults",
                "-no-user-config",
                "-no-reboot",
                "-display",
                "none",
                "-serial",
                "stdio",
            ])
            .args([
                "-machine",
                "q35,accel=tcg",
                "-cpu",
                "max",
                "-m",
                "512M",
                "-append",
                line,
            ])
            .arg("-bios")
            .arg(self.image.join("firmware-snp.fd"))
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(initrd)
            .arg("-device")
            .arg(format!(
                "loader,addr={:#x},force-raw=on,file={}",
                self.address,
                page.display()
            ))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = machine.stdout.take().unwrap();
        let (sender, said) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            let (mut text, mut buffer) = (Vec::new(), [0; 1024]);
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                text.extend_from_slice(&buffer[..count]);
                if String::from_utf8_lossy(&text).contains("casemate: READY") {
                    let _ = sender.send(());
                    return;
                }
            }
        });
        let started = said.recv_timeout(within).is_ok();
        machine.kill().unwrap();
        machine.wait().unwrap();
        reader.join().unwrap();
        started
    }
}

#[test]
fn b23_firmware_of_snp_starts_our_files_and_no_altered_ones() {
    let (Some(inputs), Some(program)) = (inputs(), probe()) else {
        return;
    };
    let Some(qemu) = qemu(&inputs) else {
        return;
    };
    let place = Place::new(&program);
    let Some(output) = place.build("image", &["--console"]) else {
        return;
    };
    assert_eq!(ended(&output).0, 0, "{}", ended(&output).1);
    let image = place.path("image");
    if !image.join("firmware-snp.fd").exists() {
        return;
    }
    let read = |name: &str| fs::read(image.join(name)).unwrap();
    let (kernel, initrd, line) = (read("vmlinuz"), read("initrd.cpio"), read("cmdline"));
    let line = String::from_utf8(line).unwrap();
    let files = Files {
        kernel: &kernel,
        initrd: &initrd,
        command_line: &line,
    };
    let (address, page) = files.snp_hash_page(&read("firmware-snp.fd")).unwrap();
    let trial = Trial {
        qemu: &qemu,
        image,
        page,
        address,
    };
    let _one = OnlyOne::wait(&inputs);
    let begun = Instant::now();
    let limit = Duration::from_secs(LIMIT_SECONDS.parse().unwrap());
    assert!(
        trial.starts(&kernel, &initrd, &line, &trial.page, limit),
        "ours do not start"
    );
    // Refusals are silent: three times as long as the right files took is long enough to have started.
    let within = (begun.elapsed() * 3)
        .max(Duration::from_secs(20))
        .min(limit);
    let changed = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        let last = bytes.len() - 600;
        bytes[last] ^= 1;
        bytes
    };
    assert!(
        !trial.starts(&kernel, &changed(&initrd), &line, &trial.page, within),
        "another initrd"
    );
    assert!(
        !trial.starts(&kernel, &initrd, &format!("{line} "), &trial.page, within),
        "another line"
    );
    assert!(
        !trial.starts(&changed(&kernel), &initrd, &line, &trial.page, within),
        "another kernel"
    );
    assert!(
        !trial.starts(&kernel, &initrd, &line, &[0; 4096], within),
        "no hashes"
    );
}
