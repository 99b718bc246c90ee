//! What is predicted of an image moves with every byte of it; and Debian's own packages give an image that is predicted whole.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use casemate_image::ImageError;
use casemate_image::deb::Package;
use casemate_image::firmware::{self, Firmware, Purpose};
use casemate_image::guest::{Configuration, Guest, LoadOrder, command_line};
use casemate_image::kernel::{self, Kernel};
use casemate_image::pins::Pins;
use casemate_image::prediction::{Files, Shapes, Tpm};
use casemate_image::program::Program;
use casemate_image::uki::{self, Parts};

use crate::support;

fn firmware(release: &str) -> Firmware {
    Firmware {
        purpose: Purpose::Tpm,
        release: release.into(),
        package: "ovmf".into(),
        files: vec![b"code".to_vec(), b"variables".to_vec()],
    }
}

#[test]
fn b20_a_byte_of_kernel_initrd_configuration_or_line_is_another_measurement() {
    let other_kernel = support::pe(&[(".text", b"Kernel")]);
    let kernel = support::kernel();
    let of = |kernel: &[u8], initrd: &[u8], command_line: &str| {
        let files = Files {
            kernel,
            initrd,
            command_line,
        };
        let direct = files.tpm(&firmware("2025.02")).unwrap();
        let parts = Parts {
            stub: &support::stub("257"),
            command_line,
            initrd,
            kernel,
        };
        let image = uki::unified(&parts).unwrap();
        let unified = Tpm::unified(&image, uki::release(parts.stub).unwrap()).unwrap();
        assert_eq!(
            (direct.zero.as_slice(), unified.zero.as_slice()),
            (&[8, 11, 12][..], &[8, 12][..])
        );
        (direct.registers, unified.registers)
    };
    let right = of(&kernel, b"initrd", "quiet");
    assert_eq!(right, of(&kernel, b"initrd", "quiet"));
    for (kernel, initrd, line) in [
        (&other_kernel, b"initrd", "quiet"),
        (&kernel, b"initrD", "quiet"),
        (&kernel, b"initrd", "quieT"),
    ] {
        let other = of(kernel, initrd, line);
        assert!(other.0 != right.0 && other.1 != right.1);
    }
}

#[test]
fn firmware_of_a_release_that_nobody_looked_at_is_not_predicted() {
    let files = Files {
        kernel: &support::kernel(),
        initrd: b"",
        command_line: "",
    };
    let last = files.tpm(&firmware("2022.11")).unwrap();
    let first = files.tpm(&firmware("2026.08")).unwrap();
    assert!(last.registers[&9] != first.registers[&9] && last.registers[&4] == first.registers[&4]);
    let unknown = files.tpm(&firmware("2027.02"));
    assert_eq!(unknown, Err(ImageError::FirmwareRelease("2027.02".into())));
}

/// The folder of scripts/image-inputs, when it was run here.
fn inputs() -> Option<(PathBuf, Pins)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/image-inputs");
    let pins = fs::read_to_string(folder.join("pins"));
    if pins.is_err() {
        println!("SKIP Debian's packages: run scripts/image-inputs");
    }
    Some((folder, Pins::read(&pins.ok()?).unwrap()))
}

fn package(
    folder: &Path,
    pins: &Pins,
    beginning: &str,
    wanted: fn(&str) -> bool,
) -> Option<Package> {
    let listed = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap());
    let Some(name) = listed.into_iter().find(|name| name.starts_with(beginning)) else {
        println!("SKIP {beginning}: scripts/image-inputs could not fetch it");
        return None;
    };
    let bytes = fs::read(folder.join(&name)).unwrap();
    Some(Package::read(pins.check(&name, &bytes).unwrap(), wanted).unwrap())
}

#[test]
fn debians_own_packages_become_an_image_that_is_predicted_whole() {
    let Some((folder, pins)) = inputs() else {
        return;
    };
    let Some(package_of_kernel) = package(&folder, &pins, "linux-image-", kernel::is_wanted) else {
        return;
    };
    let kernel = Kernel::new(vec![package_of_kernel]).unwrap();
    let modules = Guest::modules(&kernel).unwrap();
    let order = LoadOrder::of(&kernel, &modules);
    let text = "[network]\n[disk]\n[clock]\n[server]\n";
    let configuration = Configuration::read(text.as_bytes()).unwrap();
    let (program, trust) = (support::program(), BTreeMap::new());
    let program = Program::read(&program).unwrap();
    let guest = Guest::new(program, &kernel, &modules, &order, &configuration, &trust).unwrap();
    let names: Vec<_> = guest.module_names().collect();
    let position = |name: &str| names.iter().position(|it| *it == name);
    for (needed, by) in [
        ("net_failover", "virtio_net"),
        ("failover", "net_failover"),
        ("configfs", "sev_guest"),
    ] {
        assert!(
            position(needed) < position(by) && position(needed).is_some(),
            "{names:?}"
        );
    }
    let line = command_line(false);
    let initrd = guest.initrd(0);
    let files = Files {
        kernel: kernel.image(),
        initrd: &initrd,
        command_line: &line,
    };
    let firmware = |beginning: &str, purpose| {
        let found = package(&folder, &pins, beginning, firmware::is_wanted)?;
        Some(Firmware::new(purpose, &found).unwrap())
    };
    if let Some(found) = firmware("ovmf-amdsev_", Purpose::Snp) {
        let shapes = Shapes {
            models: vec!["EPYC-v4".into()],
            processors: vec![1, 2],
            features: vec![1],
        };
        let digests = files.snp(&found, &shapes).unwrap().digests;
        assert!(digests.len() == 2 && digests[0].digest != digests[1].digest);
        let (address, page) = files.snp_hash_page(found.code()).unwrap();
        assert!(address.is_multiple_of(4096) && page.len() == 4096);
        let mut altered = found.clone();
        altered.files[0][0] ^= 1;
        assert_ne!(files.snp(&altered, &shapes).unwrap().digests, digests);
    }
    if let Some(found) = firmware("ovmf_", Purpose::Tpm) {
        assert_eq!(files.tpm(&found).unwrap().zero, [8, 11, 12]);
    }
    if let Some(found) = firmware("ovmf-generic_", Purpose::Tdx) {
        let tdx = files.tdx(&found).unwrap();
        assert_ne!(tdx.mrtd, tdx.mrtd_two_pass);
    }
    let wanted = |path: &str| path.ends_with("/linuxx64.efi.stub");
    if let Some(found) = package(&folder, &pins, "systemd-boot-efi_", wanted) {
        let stub = found.files.values().next().unwrap();
        let parts = Parts {
            stub,
            command_line: &line,
            initrd: &initrd,
            kernel: kernel.image(),
        };
        let image = uki::unified(&parts).unwrap();
        assert_eq!(
            Tpm::unified(&image, uki::release(stub).unwrap())
                .unwrap()
                .zero,
            [8, 12]
        );
    }
}
