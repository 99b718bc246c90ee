//! Registers of boots: small images made here, an image that others signed, and systemd-measure and sev-snp-measure beside.
//!
//! `scripts/measure-references` fetches what is compared with; a test says SKIP for what is not there.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use casemate_measure::MeasureError;
use casemate_measure::boot::{
    DirectBoot, LoadOptions, Stub, fold, section_events, unified_registers,
};
use casemate_measure::pe::PeImage;
use casemate_measure::registers::Hash;
use casemate_measure::snp::{CpuModel, Hypervisor, KernelHashes, Shape, SnpFirmware};

/// A PE32+ image with these sections, each as long in memory as its data and filled up to 512 bytes in the file.
fn image(sections: &[(&str, &[u8])]) -> Vec<u8> {
    let mut head = vec![0_u8; 1024];
    head[..2].copy_from_slice(b"MZ");
    head[0x3c] = 0x40;
    head[0x40..0x44].copy_from_slice(b"PE\0\0");
    head[0x46] = u8::try_from(sections.len()).unwrap();
    head[0x54] = 240; // optional header
    head[0x58..0x5a].copy_from_slice(&0x20b_u16.to_le_bytes());
    head[0x58 + 60..0x58 + 64].copy_from_slice(&1024_u32.to_le_bytes());
    head[0x58 + 108] = 16; // directories
    let mut body = Vec::new();
    for (index, (name, data)) in sections.iter().enumerate() {
        let entry = 0x58 + 240 + index * 40;
        head[entry..entry + name.len()].copy_from_slice(name.as_bytes());
        let padded = data.len().next_multiple_of(512);
        let numbers = [(8, data.len()), (16, padded), (20, 1024 + body.len())];
        for (at, number) in numbers {
            let number = u32::try_from(number).unwrap().to_le_bytes();
            head[entry + at..entry + at + 4].copy_from_slice(&number);
        }
        body.extend_from_slice(data);
        body.resize(body.len() + padded - data.len(), 0);
    }
    [head, body].concat()
}

fn unified(line: &str, extra: &[(&str, &[u8])]) -> Vec<u8> {
    let kernel = image(&[(".text", b"kernel")]);
    let mut sections: Vec<(&str, &[u8])> = vec![
        (".sbat", b"sbat,1"),
        (".cmdline", line.as_bytes()),
        (".initrd", b"initrd"),
        (".linux", &kernel),
    ];
    sections.extend_from_slice(extra);
    image(&sections)
}

fn found(name: &str) -> Option<PathBuf> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../target/measure")
        .join(name);
    if !file.exists() {
        println!("SKIP: no {name}: run scripts/measure-references");
    }
    file.exists().then_some(file)
}

#[test]
fn b23_kernel_initrd_and_command_line_each_move_a_register() {
    let boot = |kernel: &[u8], initrd: &[u8], command_line: &str| {
        let kernel = &image(&[(".text", kernel)]);
        let load_options = LoadOptions::InitrdLast;
        let boot = DirectBoot {
            kernel,
            initrd,
            command_line,
            load_options,
        };
        (
            boot.registers(Hash::Sha256).unwrap(),
            boot.runtime_registers().unwrap(),
        )
    };
    let (right, rtmrs) = boot(b"kernel", b"initrd", "quiet");
    let numbers: Vec<_> = right.keys().copied().collect();
    assert_eq!(numbers, [4, 8, 9, 11, 12]);
    for zero in [8, 11, 12] {
        assert_eq!(right[&zero], [0; 32]);
    }
    let (other, moved) = boot(b"Kernel", b"initrd", "quiet");
    assert!(other[&4] != right[&4] && other[&9] == right[&9]);
    assert!(moved[0] != rtmrs[0] && moved[1] == rtmrs[1]);
    for (initrd, line) in [(b"Initrd", "quiet"), (b"initrd", "quieT")] {
        let (other, moved) = boot(b"kernel", initrd, line);
        assert!(other[&4] == right[&4] && other[&9] != right[&9]);
        assert!(moved[0] == rtmrs[0] && moved[1] != rtmrs[1]);
    }
}

#[test]
fn a_unified_image_is_measured_by_its_stubs_rules() {
    let all = [Stub::V252, Stub::V257, Stub::V262];
    let of = |line, stub| unified_registers(&unified(line, &[]), stub, Hash::Sha256).unwrap();
    let [old, middle, new] = all.map(|stub| of("quiet", stub));
    assert!(
        old[&4] == middle[&4] && middle[&4] != new[&4],
        "kernel inside"
    );
    assert!(old[&11] != middle[&11] && middle[&11] == new[&11], ".sbat");
    for stub in all {
        let (right, other) = (of("quiet", stub), of("quieT", stub));
        assert!(
            [4, 9, 11]
                .iter()
                .all(|number| right[number] != other[number])
        );
        assert!([8, 12].iter().all(|number| right[number] == [0; 32]));
        let osrel = unified("quiet", &[(".osrel", b"ID=x")]);
        let refused = unified_registers(&osrel, stub, Hash::Sha256);
        assert_eq!(
            refused,
            Err(MeasureError::UnexpectedSection(".osrel".into()))
        );
    }
    let two_lines = unified("quiet\ninit=/bin/sh", &[]);
    let refused = unified_registers(&two_lines, Stub::V257, Hash::Sha256);
    assert_eq!(refused, Err(MeasureError::CommandLine));
}

#[test]
fn headers_that_lie_are_refused_and_nothing_panics() {
    let right = unified("quiet", &[]);
    let digest = |bytes: &[u8]| PeImage::read(bytes)?.authenticode(Hash::Sha256);
    let value = digest(&right).unwrap();
    // The checksum, and where a certificate table of no bytes would lie.
    let (checksum, nowhere) = (0x58 + 64..0x58 + 68, 232..236);
    for at in 0..1024 {
        for damage in [0xff, 0x01] {
            let mut damaged = right.clone();
            damaged[at] ^= damage;
            let found = digest(&damaged);
            let uncounted = checksum.contains(&at) || nowhere.contains(&at);
            assert_eq!(found == Ok(value.clone()), uncounted, "{at}");
            let _ = unified_registers(&damaged, Stub::V257, Hash::Sha256);
        }
    }
    for length in 0..right.len() {
        assert_ne!(digest(&right[..length]), Ok(value.clone()), "{length}");
    }
}

#[test]
fn the_digest_of_a_signed_image_is_what_its_signature_names() {
    let Some(file) = found("signed.efi") else {
        return;
    };
    let bytes = fs::read(file).unwrap();
    let pe = PeImage::read(&bytes).unwrap();
    let digest = pe.authenticode(Hash::Sha256).unwrap();
    let certificates = pe.certificates().unwrap();
    assert!(certificates.windows(32).any(|window| window == digest));
    let mut altered = bytes.clone();
    altered[0x2000] ^= 1;
    let other = PeImage::read(&altered)
        .unwrap()
        .authenticode(Hash::Sha256)
        .unwrap();
    assert!(!certificates.windows(32).any(|window| window == other));
}

#[test]
fn register_11_is_what_systemd_measure_calculates() {
    let tool = Path::new("/usr/lib/systemd/systemd-measure");
    if !tool.exists() {
        println!("SKIP: no systemd-measure: it is part of Debian's package systemd");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let parts = [
        ("linux", "kernel"),
        ("cmdline", "quiet lockdown=confidentiality"),
        ("initrd", "files"),
    ];
    for (name, text) in parts {
        fs::write(folder.path().join(name), text).unwrap();
    }
    for (bank, hash) in [("sha256", Hash::Sha256), ("sha384", Hash::Sha384)] {
        let mut command = Command::new(tool);
        command.args(["calculate", "--json=short", "--phase=:"]);
        for (name, _) in parts {
            command.arg(format!("--{name}={}", folder.path().join(name).display()));
        }
        let answer = command.arg(format!("--bank={bank}")).output().unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&answer.stdout).unwrap();
        let named = parts.map(|(name, text)| (format!(".{name}"), text));
        let sections = named
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_bytes()));
        let value = fold(hash, &section_events(sections, hash));
        assert_eq!(
            answer[bank][0]["hash"].as_str(),
            Some(hex::encode(value).as_str())
        );
    }
}

#[test]
fn launch_digests_are_those_of_sev_snp_measure() {
    let evidence = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared/evidence/snp-launch/sev-snp-measure");
    let (Some(tool), true) = (found("venv/bin/sev-snp-measure"), evidence.is_dir()) else {
        return;
    };
    let firmware = evidence.join("ovmf_AmdSev_suffix.bin");
    let [kernel, initrd] = ["kernel.bin", "initrd.bin"].map(|name| evidence.join(name));
    let read = SnpFirmware::read(&fs::read(&firmware).unwrap()).unwrap();
    let line = "quiet  lockdown=confidentiality ";
    let hashes = KernelHashes::of(
        &fs::read(&kernel).unwrap(),
        &fs::read(&initrd).unwrap(),
        line,
    );
    for (cpu, processors, features) in [
        ("EPYC-v4", 1, 1),
        ("EPYC-Genoa", 5, 0x21),
        ("EPYC-Milan-v2", 2, 1),
    ] {
        let answer = Command::new(&tool)
            .args([
                "--mode",
                "snp",
                "--output-format",
                "hex",
                "--vcpu-type",
                cpu,
                "--append",
                line,
            ])
            .args([
                "--vcpus",
                &processors.to_string(),
                "--guest-features",
                &format!("{features:#x}"),
            ])
            .args([
                Path::new("--ovmf"),
                &firmware,
                Path::new("--kernel"),
                &kernel,
            ])
            .args([Path::new("--initrd"), &initrd])
            .output()
            .unwrap();
        let model = CpuModel::named(cpu).unwrap();
        let hypervisor = Hypervisor::Qemu;
        let shape = Shape {
            processors,
            model,
            features,
            hypervisor,
        };
        let digest = hex::encode(read.launch_digest(&shape, Some(&hashes)).unwrap());
        assert_eq!(
            String::from_utf8_lossy(&answer.stdout).trim(),
            digest,
            "{answer:?}"
        );
    }
}
