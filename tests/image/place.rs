//! A folder with a configuration and a program, Debian's packages where they were fetched, and images out of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// A configuration whose machine has a TPM; its public files are beside it.
pub const CONFIGURATION: &str = include_str!("guest.toml");

/// `casemate` with these arguments.
pub fn casemate(arguments: &[&str]) -> Output {
    casemate_in(Path::new("."), arguments)
}

pub fn casemate_in(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_casemate"));
    command
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap()
}

/// Exit code and what was said.
pub fn ended(output: &Output) -> (i32, String) {
    let text = [&output.stdout, &output.stderr].map(|it| String::from_utf8_lossy(it).into_owned());
    (output.status.code().unwrap_or(-1), text.concat())
}

/// The folder of scripts/image-inputs, when it was run.
pub fn inputs() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/image-inputs");
    let there = folder.join("pins").exists();
    if !there {
        println!("SKIP Debian's packages: run scripts/image-inputs");
    }
    there.then_some(folder)
}

/// A fetched package by the beginning of its name.
pub fn package(folder: &Path, beginning: &str) -> Option<PathBuf> {
    let files = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path());
    let mut files = files.filter(|file| {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with(beginning) && name.ends_with(".deb")
    });
    let found = files.next();
    if found.is_none() {
        println!("SKIP {beginning}: scripts/image-inputs could not fetch it");
    }
    found
}

/// A place with `guest.toml`, its public file and a static program.
pub struct Place(pub TempDir);

impl Place {
    pub fn new(program: &[u8]) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::create_dir(place.path("trust")).unwrap();
        for name in ["broker-ca.pem", "client-ca.pem", "release.key"] {
            fs::write(place.path("trust").join(name), name).unwrap();
        }
        fs::write(place.path("guest.toml"), CONFIGURATION).unwrap();
        fs::write(place.path("program"), program).unwrap();
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Builds an image of fetched packages, with what `more` says; `None` when packages are missing.
    pub fn build(&self, out: &str, more: &[&str]) -> Option<Output> {
        let inputs = inputs()?;
        let [kernel, stub, tpm] =
            ["linux-image-", "systemd-boot-efi_", "ovmf_"].map(|it| package(&inputs, it));
        let (kernel, stub, tpm) = (kernel?, stub?, tpm?);
        let snp = package(&inputs, "ovmf-amdsev_");
        let pins = inputs.join("pins");
        let mut arguments = vec![
            "image",
            "build",
            "--config",
            "guest.toml",
            "--program",
            "program",
            "--release",
            "test",
        ];
        let named = [
            ("--pins", &pins),
            ("--kernel", &kernel),
            ("--stub", &stub),
            ("--tpm-firmware", &tpm),
        ];
        let named = named
            .into_iter()
            .chain(snp.as_ref().map(|file| ("--snp-firmware", file)));
        arguments.extend(named.flat_map(|(option, file)| [option, file.to_str().unwrap()]));
        arguments.extend(["--out", out]);
        arguments.extend(more);
        Some(casemate_in(self.0.path(), &arguments))
    }
}

/// A program for x86-64 that is static and does nothing: one loadable header and no code.
pub fn program() -> Vec<u8> {
    let mut bytes = vec![0; 120];
    bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    for (at, number) in [(16, 2_u16), (18, 62), (52, 64), (54, 56), (56, 1)] {
        bytes[at..at + 2].copy_from_slice(&number.to_le_bytes());
    }
    bytes[32] = 64;
    bytes[64] = 1;
    bytes
}
