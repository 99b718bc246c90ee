//! `casemate host check` on trees of files that a machine's kernel would show.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use crate::place::{casemate, ended};

fn tree(files: &[(&str, &str)]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    root
}

const MILAN: &str = "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel name\t: AMD EPYC 7763\n\
    flags\t\t: fpu sev sev_es sev_snp\n\nprocessor\t: 1\n";
const QEMU: &str = "Package: qemu-utils\nStatus: install ok installed\nVersion: 1:5.0\n\n\
    Package: qemu-system-x86\nStatus: install ok installed\nVersion: 1:10.1.0+ds-1\n";

fn snp_host() -> Vec<(&'static str, &'static str)> {
    vec![
        ("proc/cpuinfo", MILAN),
        (
            "proc/cmdline",
            "BOOT_IMAGE=/vmlinuz root=/dev/sda1 ro quiet",
        ),
        ("proc/sys/kernel/osrelease", "6.12.117+deb13-amd64\n"),
        ("sys/module/kvm_amd/parameters/sev_snp", "Y\n"),
        ("dev/kvm", ""),
        ("dev/sev", ""),
        ("var/lib/dpkg/status", QEMU),
    ]
}

fn tdx_host() -> Vec<(&'static str, &'static str)> {
    vec![
        (
            "proc/cpuinfo",
            "vendor_id\t: GenuineIntel\ncpu family\t: 6\nflags\t: fpu tdx_host_platform\n",
        ),
        ("proc/sys/kernel/osrelease", "6.16.1"),
        ("sys/module/kvm_intel/parameters/tdx", "Y"),
        ("dev/kvm", ""),
        ("dev/sgx_enclave", ""),
        ("run/tdx-qgs/qgs.socket", ""),
        ("var/lib/dpkg/status", QEMU),
    ]
}

/// Exit code, and id with outcome of each line.
fn check(root: &Path, platform: &str) -> (i32, Vec<(String, String)>) {
    let output = casemate(&[
        "host",
        "check",
        "--platform",
        platform,
        "--json",
        "--root",
        root.to_str().unwrap(),
    ]);
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let lines = said["checks"].as_array().unwrap().iter().map(|line| {
        let fails = line["outcome"] == "FAIL" || line["outcome"] == "SKIP";
        assert_eq!(
            fails,
            line["hint"].is_string(),
            "one hint where something is missing, {line}"
        );
        (
            line["id"].as_str().unwrap().to_owned(),
            line["outcome"].as_str().unwrap().to_owned(),
        )
    });
    (output.status.code().unwrap(), lines.collect())
}

fn failed(lines: &[(String, String)]) -> Vec<&str> {
    lines
        .iter()
        .filter(|it| it.1 == "FAIL")
        .map(|it| it.0.as_str())
        .collect()
}

#[test]
fn a_host_that_has_everything_passes_and_firmware_that_is_not_installed_is_a_skip() {
    for (platform, files) in [("snp", snp_host()), ("tdx", tdx_host())] {
        let (code, lines) = check(tree(&files).path(), platform);
        assert_eq!((code, failed(&lines)), (0, vec![]), "{lines:?}");
        assert!(lines.contains(&(format!("{platform}.firmware"), "SKIP".into())));
        assert!(lines.contains(&("host.bios".into(), "INFO".into())));
    }
}

#[test]
fn each_thing_that_snp_needs_is_missed_by_its_name() {
    for (path, text, id) in [
        (
            "proc/cpuinfo",
            "vendor_id\t: AuthenticAMD\ncpu family\t: 23\nflags\t: sev_snp\n",
            "snp.processor",
        ),
        (
            "proc/cpuinfo",
            "vendor_id\t: AuthenticAMD\ncpu family\t: 25\nflags\t: sev sev_es\n",
            "snp.bios",
        ),
        ("proc/cmdline", "quiet iommu=pt", "snp.iommu"),
        ("proc/sys/kernel/osrelease", "6.10.9", "snp.kernel"),
        ("sys/module/kvm_amd/parameters/sev_snp", "N", "snp.module"),
        (
            "var/lib/dpkg/status",
            "Package: qemu-system-x86\nStatus: install ok installed\nVersion: 1:7.2+dfsg-7\n",
            "snp.qemu",
        ),
        (
            "var/lib/dpkg/status",
            "Package: qemu-system-x86\nStatus: deinstall ok config-files\nVersion: 1:11.1\n",
            "snp.qemu",
        ),
        (
            "usr/share/ovmf/OVMF.amdsev.fd",
            "no firmware",
            "snp.firmware",
        ),
    ] {
        let root = tree(&[&snp_host()[..], &[(path, text)]].concat());
        let (code, lines) = check(root.path(), "snp");
        assert_eq!((code, failed(&lines)), (20, vec![id]), "{path}");
    }
    for (path, id) in [
        ("dev/sev", "snp.device"),
        ("dev/kvm", "host.kvm"),
        ("sys/module/kvm_amd/parameters/sev_snp", "snp.module"),
    ] {
        let root = tree(&snp_host());
        fs::remove_file(root.path().join(path)).unwrap();
        let (code, lines) = check(root.path(), "snp");
        assert_eq!((code, failed(&lines)), (20, vec![id]), "{path}");
    }
}

#[test]
fn each_thing_that_tdx_needs_is_missed_by_its_name() {
    for (path, text, id) in [
        (
            "proc/cpuinfo",
            "vendor_id\t: GenuineIntel\nflags\t: fpu\n",
            "tdx.bios",
        ),
        ("proc/sys/kernel/osrelease", "6.12.1", "tdx.kernel"),
        ("sys/module/kvm_intel/parameters/tdx", "N", "tdx.module"),
        (
            "var/lib/dpkg/status",
            "Package: qemu-system-x86\nStatus: install ok installed\nVersion: 1:10.0.2\n",
            "tdx.qemu",
        ),
        ("usr/share/ovmf/OVMF.fd", "no firmware", "tdx.firmware"),
    ] {
        let root = tree(&[&tdx_host()[..], &[(path, text)]].concat());
        let (code, lines) = check(root.path(), "tdx");
        assert_eq!((code, failed(&lines)), (20, vec![id]), "{path}");
    }
    for (path, id) in [
        ("dev/sgx_enclave", "tdx.sgx"),
        ("run/tdx-qgs/qgs.socket", "tdx.quotes"),
    ] {
        let root = tree(&tdx_host());
        fs::remove_file(root.path().join(path)).unwrap();
        assert_eq!(failed(&check(root.path(), "tdx").1), [id]);
    }
}

#[test]
fn a_tpm_of_the_machine_is_told_from_a_programs_and_its_worth_is_said() {
    let files = [
        ("dev/kvm", ""),
        ("var/lib/dpkg/status", QEMU),
        ("usr/bin/swtpm", ""),
        ("sys/class/tpm/tpm0/tpm_version_major", "2\n"),
        ("sys/firmware/efi/x", ""),
    ];
    let (code, lines) = check(tree(&files).path(), "tpm");
    assert_eq!((code, failed(&lines)), (0, vec![]), "{lines:?}");
    assert!(lines.contains(&("tpm.worth".into(), "INFO".into())));
    assert!(lines.contains(&("tpm.device".into(), "PASS".into())));
    let old = [
        &files[..],
        &[("sys/class/tpm/tpm0/tpm_version_major", "1\n")],
    ]
    .concat();
    assert_eq!(failed(&check(tree(&old).path(), "tpm").1), ["tpm.device"]);
    let (_, lines) = check(tree(&files[..2]).path(), "tpm");
    assert_eq!(failed(&lines), ["tpm.software"]);
    assert!(lines.contains(&("tpm.device".into(), "SKIP".into())));
}

#[test]
fn lines_are_for_people_and_an_empty_machine_is_ready_for_nothing() {
    let root = tree(&[]);
    let (code, said) = ended(&casemate(&[
        "host",
        "check",
        "--root",
        root.path().to_str().unwrap(),
    ]));
    assert_eq!(code, 20);
    for line in [
        "INFO host.processor unknown",
        "FAIL host.kvm there is no /dev/kvm",
        "     hint: turn on SVM (AMD) or VT-x (Intel) in the BIOS, then modprobe kvm_amd or kvm_intel",
        "SKIP tdx.firmware /usr/share/ovmf/OVMF.fd is not installed",
        "error: the host is not ready for any platform",
    ] {
        assert!(said.lines().any(|it| it == line), "{line}\n{said}");
    }
    let hostile = tree(&[("proc/cpuinfo", "vendor_id\t: A\u{1b}[2J\u{7}\n")]);
    let (_, said) = ended(&casemate(&[
        "host",
        "check",
        "--root",
        hostile.path().to_str().unwrap(),
    ]));
    assert!(!said.contains('\u{1b}'));
    let (code, said) = ended(&casemate(&["host", "check", "--root", "nowhere"]));
    assert!(code == 3 && said.contains("nowhere is no folder"), "{said}");
}
