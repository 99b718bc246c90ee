//! What `casemate image boot` prints and refuses without starting anything, on an image of a few bytes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use casemate_image::manifest::{FORMAT, Manifest, Written};
use tempfile::TempDir;

use crate::place::{casemate, ended};

/// An image's folder whose files are names.
pub fn image() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let names = [
        "vmlinuz",
        "initrd.cpio",
        "cmdline",
        "uki.efi",
        "firmware-snp.fd",
        "firmware-tdx.fd",
        "firmware-tpm.fd",
        "firmware-tpm-variables.fd",
    ];
    let mut files = BTreeMap::new();
    for name in names {
        fs::write(folder.path().join(name), name).unwrap();
        files.insert(name.to_owned(), Written::of(name.as_bytes()));
    }
    let manifest = Manifest {
        format: FORMAT.into(),
        release: "test".into(),
        debug_console: true,
        kernel: "6.12.0".into(),
        command_line: "quiet it's".into(),
        epoch: 0,
        program: String::new(),
        compilers: vec![],
        configuration: String::new(),
        modules: vec![],
        inputs: vec![],
        files,
        snp: None,
        tdx: None,
        tpm: vec![],
    };
    write(folder.path(), &manifest);
    folder
}

fn write(folder: &Path, manifest: &Manifest) {
    fs::write(
        folder.join("manifest.json"),
        serde_json::to_vec(manifest).unwrap(),
    )
    .unwrap();
}

fn boot(image: &Path, more: &[&str]) -> (i32, String) {
    let image = image.to_str().unwrap();
    ended(&casemate(
        &[&["image", "boot", "--image", image][..], more].concat(),
    ))
}

#[test]
fn command_lines_name_the_platform_and_only_the_devices_that_the_guest_binds() {
    let image = image();
    let printed = |platform: &str, more: &[&str]| {
        let asked = [
            "--print",
            "qemu",
            "--platform",
            platform,
            "--disk",
            "a,b",
            "--forward",
            "9443:8443",
        ];
        let (code, said) = boot(image.path(), &[&asked[..], more].concat());
        assert_eq!(code, 0, "{said}");
        said
    };
    let (snp, tdx, tpm) = (
        printed("snp", &["--vcpus", "4"]),
        printed("tdx", &[]),
        printed("tpm", &[]),
    );
    for said in [&snp, &tdx, &tpm] {
        for part in [
            "-nodefaults",
            "-no-reboot",
            "-append 'quiet it'\\''s'",
            "file=a,,b",
            "serial=casemate-model",
            "hostfwd=tcp:127.0.0.1:9443-:8443",
            "virtio-net-pci",
        ] {
            assert!(said.contains(part), "{part}\n{said}");
        }
        let devices = said.matches("-device ").count();
        assert_eq!(
            devices,
            if said.contains("tpm-crb") { 3 } else { 2 },
            "{said}"
        );
    }
    for (said, parts) in [
        (
            &snp,
            vec![
                "sev-snp-guest",
                "kernel-hashes=on",
                "policy=0x30000",
                "-smp 4",
                "-cpu EPYC-v4",
                "firmware-snp.fd",
            ],
        ),
        (
            &tdx,
            vec![
                "tdx-guest",
                "kernel-irqchip=split",
                "-cpu host",
                "firmware-tdx.fd",
                "quote-generation-socket",
            ],
        ),
        (
            &tpm,
            vec![
                "tpm-crb",
                "if=pflash,unit=0",
                "accel=tcg",
                "firmware-tpm.fd",
            ],
        ),
    ] {
        for part in parts {
            assert!(said.contains(part), "{part}\n{said}");
        }
    }
    assert!(
        snp.contains("accel=kvm")
            && snp.contains("iommu_platform=true")
            && !tpm.contains("iommu_platform")
    );
    let unified = printed("tpm", &["--boot", "uki"]);
    assert!(unified.contains("file=fat:") && !unified.contains("-kernel"));
}

#[test]
fn domains_of_libvirt_are_well_formed_and_say_the_same() {
    let image = image();
    for (platform, parts) in [
        (
            "snp",
            vec![
                "<launchSecurity type='sev-snp' kernelHashes='yes'>",
                "<loader readonly='yes' type='rom'>",
            ],
        ),
        (
            "tdx",
            vec![
                "<launchSecurity type='tdx'>",
                "<cpu mode='host-passthrough'/>",
            ],
        ),
        ("tpm", vec!["<tpm model='tpm-crb'>", "<nvram format='raw'>"]),
    ] {
        let asked = [
            "--print",
            "libvirt",
            "--platform",
            platform,
            "--disk",
            "a'<b",
            "--forward",
            "9443:8443",
        ];
        let (code, said) = boot(image.path(), &asked);
        assert_eq!(code, 0, "{said}");
        let common = [
            "<cmdline>quiet it&apos;s</cmdline>",
            "<source file='a&apos;&lt;b'/>",
            "<range start='9443' to='8443'/>",
        ];
        for part in parts.into_iter().chain(common) {
            assert!(said.contains(part), "{part}\n{said}");
        }
        let mut open = Vec::new();
        for tag in said.split('<').skip(1) {
            let tag = tag.split('>').next().unwrap();
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name.to_owned()), "{said}");
            } else if !tag.ends_with('/') {
                open.push(tag.split(' ').next().unwrap().to_owned());
            }
        }
        assert!(open.is_empty(), "{open:?}");
    }
}

#[test]
fn an_altered_image_is_not_started() {
    let image = image();
    fs::write(image.path().join("initrd.cpio"), "initrd.cpiO").unwrap();
    let (code, said) = boot(image.path(), &["--qemu", "false"]);
    assert!(
        code == 10 && said.contains("initrd.cpio is not the file that was built"),
        "{code} {said}"
    );
    fs::remove_file(image.path().join("initrd.cpio")).unwrap();
    let (code, said) = boot(image.path(), &["--qemu", "false"]);
    assert!(code == 3 && said.contains("cannot read"), "{code} {said}");
    fs::write(image.path().join("manifest.json"), "{}").unwrap();
    let (code, said) = boot(image.path(), &[]);
    assert!(
        code == 30 && said.contains("is no manifest of an image"),
        "{code} {said}"
    );
    let (code, said) = boot(Path::new("nowhere"), &[]);
    assert!(
        code == 3 && said.contains("cannot read nowhere/manifest.json"),
        "{code} {said}"
    );
}

#[test]
fn what_is_missing_to_start_a_machine_is_named() {
    let image = image();
    let trial = ["--boot", "snp-trial", "--qemu", "no-such-qemu"];
    let (code, said) = boot(image.path(), &trial);
    assert!(
        code == 30 && said.contains("the firmware cannot be given hashes"),
        "{code} {said}"
    );
    let (code, said) = boot(image.path(), &["--disk", "no-such-disk", "--qemu", "false"]);
    assert!(
        code == 3 && said.contains("the disk no-such-disk cannot be read"),
        "{code} {said}"
    );
    for (more, what) in [
        (["--memory", "64"], "64 is not in 128.."),
        (["--vcpus", "0"], "0 is not in 1.."),
        (["--serial", "a,b"], "a serial number is"),
        (["--cpu", "max,x"], "a name is letters"),
        (["--forward", "1"], "a forward is HOST_PORT:GUEST_PORT"),
    ] {
        let (code, said) = boot(image.path(), &more);
        assert!(code == 2 && said.contains(what), "{more:?} {code} {said}");
    }
    let manifest = fs::read(image.path().join("manifest.json")).unwrap();
    let mut manifest: Manifest = serde_json::from_slice(&manifest).unwrap();
    manifest.files.remove("uki.efi");
    write(image.path(), &manifest);
    let (code, said) = boot(image.path(), &["--boot", "uki", "--qemu", "false"]);
    assert!(
        code == 3 && said.contains("the image has no uki.efi: build it with --stub"),
        "{code} {said}"
    );
}

#[test]
fn a_unit_starts_the_machine_and_tries_again_only_where_that_helps() {
    let image = image();
    let unit = |more: &[&str]| {
        let path = image.path().to_str().unwrap();
        ended(&casemate(
            &[&["image", "unit", "--image", path][..], more].concat(),
        ))
    };
    let (code, said) = unit(&[
        "--disk",
        "/srv/model",
        "--forward",
        "8443:8443",
        "--tpm-state",
        "/var/lib/casemate/tpm",
    ]);
    assert_eq!(code, 0, "{said}");
    for part in [
        "User=casemate",
        "--disk /srv/model --serial casemate-model",
        "--forward 127.0.0.1:8443:8443",
        "ReadWritePaths=/var/lib/casemate/tpm",
        "RestartPreventExitStatus=2 3 10 12 20 30",
        "DevicePolicy=closed",
    ] {
        assert!(said.contains(part), "{part}\n{said}");
    }
    assert!(!said.contains("/dev/kvm"));
    assert!(
        unit(&["--accelerator", "kvm"])
            .1
            .contains("DeviceAllow=/dev/kvm rw")
    );
    let (code, said) = unit(&["--disk", "/srv/a b"]);
    assert!(
        code == 2 && said.contains("choose a plainer path"),
        "{said}"
    );
    assert_eq!(unit(&["--user", "root;"]).0, 2);
}
