//! Machines that lack something, or were given something else: each says what, with its exit code, and powers off. None is given keys
//! before it looked at what it has.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::place::ended;
use crate::served::team;
use crate::started::LIMIT_SECONDS;
use crate::team::Team;

/// Firmware that starts at once and measures nothing, for machines that stop before anything is proven.
const QUICK: &str = "if=pflash,*) word=\"if=none,id=unused$n,${word#*unit=?,}\" ;;";
const DISK: &str = " --disk model.sealed";

/// A machine in a network where nobody answers. It waits most of its time, and so beside the others.
fn without_dhcp(team: &Team) -> Child {
    let cases = format!("{QUICK}\nuser,id=network*) word=hubport,id=network,hubid=0 ;;");
    let qemu = team.host("silent-network", &cases, "");
    Command::new(env!("CARGO_BIN_EXE_casemate"))
        .args([
            "image",
            "boot",
            "--image",
            "image",
            "--memory",
            "512",
            "--disk",
            "model.sealed",
        ])
        .args(["--limit", LIMIT_SECONDS, "--qemu"])
        .arg(qemu)
        .current_dir(team.place.0.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// A clock as QEMU is given it, so many days from now.
fn clock(days: i32) -> String {
    let date = Command::new("date")
        .args(["-u", "-d", &format!("{days} days"), "+-rtc base=%FT%T"])
        .output()
        .unwrap();
    String::from_utf8(date.stdout).unwrap().trim().to_owned()
}

/// What a machine says, with its exit code.
fn says((found, said): &(i32, String), code: i32, word: &str, parts: &[&str]) {
    let line = format!("casemate: FAIL {word} ");
    let line = said.lines().find(|it| it.contains(&line));
    let whole = line.is_some_and(|line| parts.iter().all(|part| line.contains(part)));
    assert!(*found == code && whole, "{word} {parts:?}: {found}\n{said}");
}

/// A QEMU with quick firmware, with more changes.
fn quick(team: &Team, name: &str, cases: &str, more: &str) -> PathBuf {
    team.host(name, &format!("{QUICK}\n{cases}"), more)
}

/// A disk `large-model` whose header promises 2 GiB of weights, which is all that a machine knows of a package before it has keys. No
/// machine is so small instead: how little memory a kernel starts with is another matter in each version.
fn larger_than_the_machine(team: &Team) {
    const WEIGHTS: u64 = 2 << 30;
    // PK-1: the length of the key id, after magic, version, length, package id and epoch; after the key id, algorithms and the length
    // of chunks stands the length of the sealed weights, which PK-23 gives.
    const KEY_ID: usize = 40;
    let mut package = fs::read(team.place.path("model.sealed")).unwrap();
    let key_id = u32::from_be_bytes(package[KEY_ID..KEY_ID + 4].try_into().unwrap()) as usize;
    let at = KEY_ID + 4 + key_id + 8 + 4;
    let sealed = u64::from_be_bytes(package[at..at + 8].try_into().unwrap());
    let large = WEIGHTS + 16 * (WEIGHTS >> 20);
    package[at..at + 8].copy_from_slice(&large.to_be_bytes());
    let path = team.place.path("large-model");
    let len = package.len() as u64 - sealed + large;
    fs::write(&path, package).unwrap();
    let disk = fs::OpenOptions::new().write(true).open(&path).unwrap();
    disk.set_len(len).unwrap();
}

/// Machines that stop before they ask anybody for anything.
fn what_is_missing_or_wrong_at_the_start(team: &Team, plain: &Path) {
    let stops = |qemu: &Path, more: &str| team.stops_on(qemu, "image", more);
    says(&stops(plain, ""), 3, "disk", &["no virtio disk is there"]);
    let other = stops(plain, " --disk model.sealed --serial another");
    says(
        &other,
        3,
        "disk",
        &["no disk has the serial casemate-model", "another"],
    );
    fs::write(team.place.path("no-model"), [7; 1 << 20]).unwrap();
    let garbage = stops(plain, " --disk no-model");
    says(&garbage, 30, "package", &["not a Casemate package"]);
    let early = quick(team, "early", "", "-rtc base=2020-01-01");
    says(
        &stops(&early, DISK),
        12,
        "clock",
        &["days before 2026-01-01"],
    );
    let late = quick(team, "late", "", "-rtc base=2036-02-01");
    says(
        &stops(&late, DISK),
        12,
        "clock",
        &["was to be used before 2036-01-01"],
    );
    larger_than_the_machine(team);
    let little = stops(plain, " --disk large-model");
    says(
        &little,
        20,
        "memory",
        &["its model needs 2112 MiB and ", " MiB are free"],
    );
    // Another device stands where the TPM was; it gets no driver.
    let no_tpm = quick(team, "no-tpm", "tpm-crb,*) word=virtio-rng-pci ;;", "");
    let no_tpm = stops(&no_tpm, DISK);
    says(&no_tpm, 20, "tpm", &["start the machine with a TPM 2.0"]);
}

/// Machines that prove themselves and are given keys: what they find then stops them before they serve.
fn what_keys_do_not_help(team: &Team) {
    let mut package = fs::read(team.place.path("model.sealed")).unwrap();
    let middle = package.len() / 2;
    package[middle] ^= 1;
    fs::write(team.place.path("altered-model"), package).unwrap();
    let altered = team.stops("image", " --disk altered-model");
    says(&altered, 30, "package", &["model default"]);
    let tomorrow = team.host("tomorrow", "", &clock(1));
    let wrong = team.stops_on(&tomorrow, "image", DISK);
    says(
        &wrong,
        12,
        "clock",
        &["s from the broker's, which may be 300 s"],
    );
    for (_, said) in [altered, wrong] {
        assert!(!said.contains("casemate: READY"), "{said}");
    }
}

#[test]
fn a_machine_that_lacks_something_says_what_and_is_given_nothing() {
    let Some((team, _one)) = team() else {
        return;
    };
    let broker = team.broker();
    let silent = without_dhcp(&team);
    let plain = quick(&team, "plain", "", "");
    what_is_missing_or_wrong_at_the_start(&team, &plain);
    let silent = ended(&silent.wait_with_output().unwrap());
    says(&silent, 1, "dhcp", &["nobody offers an address"]);
    assert_eq!(team.released(), 0, "nobody was given keys");
    what_keys_do_not_help(&team);
    assert_eq!(team.released(), 2);
    drop(broker);
    let alone = team.stops_on(&plain, "image", DISK);
    says(
        &alone,
        1,
        "broker",
        &["cannot reach the broker", "start the broker first"],
    );
}
