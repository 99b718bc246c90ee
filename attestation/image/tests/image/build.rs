//! Images out of small inputs: what is in them, that they are the same twice, and what is refused.

use std::collections::BTreeMap;

use casemate_image::crates::Crates;
use casemate_image::deb::Package;
use casemate_image::guest::{Configuration, Guest, LoadOrder, Origin, command_line};
use casemate_image::kernel::{self, Kernel};
use casemate_image::manifest::Input;
use casemate_image::pins::Pins;
use casemate_image::program::Program;
use casemate_image::sbom::sbom;
use casemate_image::{ImageError, sha256};

use crate::support::{self, VERSION, kernel_deb, module, modules, xz};

const CONFIGURATION: &str = "[network]\nmode = \"dhcp\"\n[disk]\nmodel = \"casemate-model\"\n[clock]\n\
    [server.trust]\nrelease_key = \"trust/release.pub\"\nclient_authority = \"/etc/casemate/trust/clients.pem\"\n";

fn read(bytes: &[u8]) -> Result<Package, ImageError> {
    let pins = Pins::read(&format!("{}  kernel.deb\n", sha256(bytes)))?;
    Package::read(pins.check("kernel.deb", bytes)?, kernel::is_wanted)
}

fn kernel_of(modules: &[(&str, Vec<u8>)], built_in: &str) -> Result<Kernel, ImageError> {
    Kernel::new(vec![read(&kernel_deb(modules, built_in))?])
}

fn trust() -> BTreeMap<String, Vec<u8>> {
    [
        ("release.pub", "00"),
        ("clients.pem", "a certificate"),
        ("other.pem", "not named"),
    ]
    .map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()))
    .into()
}

/// The initrd of a program and a configuration.
fn initrd(program: &[u8], configuration: &str, epoch: u32) -> Vec<u8> {
    let kernel = kernel_of(&modules(), "").unwrap();
    let loaded = Guest::modules(&kernel).unwrap();
    let order = LoadOrder::of(&kernel, &loaded);
    let configuration = Configuration::read(configuration.as_bytes()).unwrap();
    let (program, trust) = (Program::read(program).unwrap(), trust());
    let guest = Guest::new(program, &kernel, &loaded, &order, &configuration, &trust);
    guest.unwrap().initrd(epoch)
}

/// An entry of an archive: name, mode, inode, time, contents.
type Entry = (String, u32, u32, u32, Vec<u8>);

/// Reads an archive back, by the kernel's own rules.
fn entries(archive: &[u8]) -> Vec<Entry> {
    let mut found = Vec::new();
    let mut at = 0;
    loop {
        assert_eq!(&archive[at..at + 6], b"070701");
        let number = |index: usize| {
            let digits = &archive[at + 6 + index * 8..at + 14 + index * 8];
            u32::from_str_radix(str::from_utf8(digits).unwrap(), 16).unwrap()
        };
        let (name_size, size) = (number(11) as usize, number(6) as usize);
        let name = str::from_utf8(&archive[at + 110..at + 109 + name_size]).unwrap();
        let data = (at + 110 + name_size).next_multiple_of(4);
        if name == "TRAILER!!!" {
            assert!(archive[data..].iter().all(|byte| *byte == 0));
            return found;
        }
        assert_eq!(
            [number(2), number(3), number(12)],
            [0; 3],
            "owner, group, checksum"
        );
        let contents = archive[data..data + size].to_vec();
        found.push((name.to_owned(), number(1), number(0), number(5), contents));
        at = (data + size).next_multiple_of(4);
    }
}

#[test]
fn the_initrd_holds_one_program_signed_modules_and_what_the_configuration_names() {
    let program = support::program();
    let archive = initrd(&program, CONFIGURATION, 1_700_000_000);
    let entries = entries(&archive);
    let names: Vec<_> = entries.iter().map(|it| (it.0.as_str(), it.1)).collect();
    let module = |name: &str| (format!("lib/modules/{VERSION}/{name}.ko.xz"), 0o100_444);
    let names_of_modules = [
        "configfs",
        "failover",
        "net_failover",
        "sev-guest",
        "tdx-guest",
        "tsm",
        "virtio_blk",
        "virtio_net",
    ];
    let modules = names_of_modules.map(module);
    let folder = format!("lib/modules/{VERSION}");
    let mut expected = vec![
        ("dev", 0o40_555),
        ("etc", 0o40_555),
        ("etc/casemate", 0o40_555),
        ("etc/casemate/guest.toml", 0o100_444),
        ("etc/casemate/modules", 0o100_444),
        ("etc/casemate/trust", 0o40_555),
        ("etc/casemate/trust/clients.pem", 0o100_444),
        ("etc/casemate/trust/release.pub", 0o100_444),
        ("init", 0o100_555),
        ("lib", 0o40_555),
        ("lib/modules", 0o40_555),
        (folder.as_str(), 0o40_555),
    ];
    expected.extend(modules.iter().map(|(name, mode)| (name.as_str(), *mode)));
    expected.extend([
        ("proc", 0o40_555),
        ("run", 0o40_755),
        ("sys", 0o40_555),
        ("tmp", 0o41_777),
    ]);
    assert_eq!(names, expected);
    for (inode, entry) in (1..).zip(&entries) {
        assert_eq!((entry.2, entry.3), (inode, 1_700_000_000), "{}", entry.0);
    }
    let contents = |name: &str| entries.iter().find(|it| it.0 == name).unwrap().4.clone();
    assert_eq!(contents("init"), program);
    assert_eq!(
        contents("etc/casemate/guest.toml"),
        CONFIGURATION.as_bytes()
    );
    let order = String::from_utf8(contents("etc/casemate/modules")).unwrap();
    let order: Vec<_> = order
        .lines()
        .map(|line| line.rsplit('/').next().unwrap())
        .collect();
    assert_eq!(
        order,
        [
            "failover.ko.xz",
            "net_failover.ko.xz",
            "virtio_net.ko.xz",
            "virtio_blk.ko.xz",
            "configfs.ko.xz",
            "tsm.ko.xz",
            "sev-guest.ko.xz",
            "tdx-guest.ko.xz",
        ]
    );
    assert!(archive.len().is_multiple_of(512));
}

#[test]
fn the_same_inputs_give_the_same_bytes_and_others_give_others() {
    let program = support::program();
    let right = initrd(&program, CONFIGURATION, 0);
    assert_eq!(right, initrd(&program, CONFIGURATION, 0));
    assert_ne!(right, initrd(&program, CONFIGURATION, 1));
    assert_ne!(
        right,
        initrd(&program, &CONFIGURATION.replace("dhcp", "dhcP"), 0)
    );
    let mut other = program.clone();
    *other.last_mut().unwrap() ^= 1;
    assert_ne!(right, initrd(&other, CONFIGURATION, 0));
}

#[test]
fn only_an_image_for_trials_lets_the_host_read() {
    assert_eq!(
        command_line(false),
        "panic=-1 quiet lockdown=confidentiality init_on_free=1"
    );
    assert_eq!(
        command_line(true),
        "console=ttyS0 panic=-1 quiet lockdown=confidentiality init_on_free=1"
    );
}

#[test]
fn every_file_is_in_the_list_of_parts_once_with_its_digest() {
    let bytes = kernel_deb(&modules(), "");
    let package = read(&bytes).unwrap();
    let inputs = [Input::of(&package)];
    let kernel = Kernel::new(vec![package]).unwrap();
    let loaded = Guest::modules(&kernel).unwrap();
    let order = LoadOrder::of(&kernel, &loaded);
    let configuration = Configuration::read(CONFIGURATION.as_bytes()).unwrap();
    let (program, trust) = (support::program(), trust());
    let program = Program::read(&program).unwrap();
    let guest = Guest::new(program, &kernel, &loaded, &order, &configuration, &trust).unwrap();
    let digest = sha256(b"crate");
    let crates = format!(
        "casemate/crates/v1 {}\nlinked ring 0.17.14 {digest} Apache-2.0 AND ISC\nlinked casemate 0.1.0 own MIT\n\
        building cc 1.2.3+4 {digest} MIT/Apache-2.0\nsystem glibc 2.36 {digest} LGPL-2.1-or-later\n",
        sha256(program.bytes())
    );
    let crates = Crates::read(&crates, program.bytes()).unwrap();
    let list = sbom("1", &guest, &kernel, Some(&crates), &inputs);
    assert_eq!(list, sbom("1", &guest, &kernel, Some(&crates), &inputs));
    let of_program = list["components"].as_array().unwrap();
    let of_program = of_program
        .iter()
        .find(|it| it["name"] == "program")
        .unwrap();
    let libraries = of_program["components"].as_array().unwrap().iter();
    let libraries: Vec<_> = libraries.filter(|it| it["type"] == "library").collect();
    let names: Vec<_> = libraries
        .iter()
        .map(|it| it["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["casemate", "ring", "cc", "glibc"]);
    assert_eq!(
        *libraries[2],
        serde_json::json!({
            "type": "library",
            "bom-ref": "excluded cc 1.2.3+4",
            "name": "cc",
            "version": "1.2.3+4",
            "scope": "excluded",
            "hashes": [{"alg": "SHA-256", "content": digest}],
            "purl": "pkg:cargo/cc@1.2.3%2B4",
            "licenses": [{"expression": "MIT OR Apache-2.0"}],
        })
    );
    assert!(libraries[0].get("purl").is_none() && libraries[3].get("purl").is_none());
    let mut listed = BTreeMap::new();
    for component in list["components"].as_array().unwrap() {
        let inside = component["components"].as_array().unwrap().iter();
        for file in inside.filter(|it| it["type"] == "file") {
            let digest = file["hashes"][0]["content"].as_str().unwrap().to_owned();
            let name = file["name"].as_str().unwrap().to_owned();
            assert_eq!(listed.insert(name, digest), None);
        }
    }
    let mut expected: BTreeMap<_, _> = entries(&guest.initrd(0))
        .into_iter()
        .filter(|entry| entry.1 & 0o100_000 != 0)
        .map(|entry| (format!("/{}", entry.0), sha256(&entry.4)))
        .collect();
    expected.insert("vmlinuz".into(), sha256(kernel.image()));
    assert_eq!(listed, expected);
    let purl = "pkg:deb/debian/linux-image-6.12.117+deb13-cloud-amd64@6.12.117-1?arch=amd64";
    assert_eq!(list["components"][0]["purl"], purl);
    let own: Vec<_> = guest
        .files()
        .filter(|it| *it.2 == Origin::Program)
        .collect();
    assert_eq!(own.len(), 1);
}

#[test]
fn what_is_not_pinned_or_altered_by_one_byte_is_refused() {
    let bytes = kernel_deb(&modules(), "");
    let pins = Pins::read(&format!("# kernel\n\n{}  kernel.deb\n", sha256(&bytes))).unwrap();
    assert!(pins.check("kernel.deb", &bytes).is_ok());
    assert_eq!(
        pins.check("other.deb", &bytes).unwrap_err(),
        ImageError::NotPinned("other.deb".into())
    );
    let mut altered = bytes.clone();
    altered[100] ^= 1;
    let refused = pins.check("kernel.deb", &altered).unwrap_err();
    assert!(matches!(refused, ImageError::OtherThanPinned { name, .. } if name == "kernel.deb"));
    let digest = sha256(b"");
    for line in [
        "x",
        &digest,
        &format!("{digest} one"),
        &format!("{digest}  a/b"),
        &format!("{}  a", digest.to_uppercase()),
    ] {
        assert_eq!(Pins::read(line), Err(ImageError::PinLine(1)), "{line}");
    }
    let twice = format!("{digest}  a\n{digest}  a\n");
    assert_eq!(Pins::read(&twice), Err(ImageError::PinnedTwice("a".into())));
}

#[test]
fn packages_are_read_however_they_are_packed_and_damage_is_an_error() {
    let files: [(&str, &[u8]); 2] = [
        ("boot/vmlinuz-6.12.1", b"kernel"),
        ("etc/passwd", b"not wanted"),
    ];
    let plain: fn(&[u8]) -> Vec<u8> = <[u8]>::to_vec;
    for packed in [support::XZ, (".zst", support::zstd), ("", plain)] {
        let package = read(&support::deb("linux", "1:6.12.1+ds-2", packed, &files)).unwrap();
        assert_eq!(
            package.files,
            [("boot/vmlinuz-6.12.1".to_owned(), b"kernel".to_vec())].into()
        );
        assert_eq!(
            (package.name.as_str(), package.upstream_version()),
            ("linux", "6.12.1")
        );
    }
    let right = support::deb("linux", "1", support::XZ, &files);
    for length in 0..right.len() - 1 {
        assert!(read(&right[..length]).is_err(), "{length}");
    }
    let whole = read(&right).unwrap();
    for at in 0..right.len() {
        let mut damaged = right.clone();
        damaged[at] ^= 0x41;
        if let Ok(package) = read(&damaged) {
            assert_eq!(package.files, whole.files, "{at}");
        }
    }
    let unknown = support::deb("linux", "1", (".lz4", plain), &files);
    assert_eq!(
        read(&unknown),
        Err(ImageError::Package(
            "it has no control.tar, .xz or .zst".into()
        ))
    );
}

#[test]
fn modules_come_after_what_they_need_and_only_signed_ones_of_this_kernel() {
    let mut all = modules();
    let missing = |error| match error {
        ImageError::ModuleMissing {
            module, needed_by, ..
        } => (module, needed_by),
        other => panic!("{other}"),
    };
    let failover = all.remove(2);
    let error = Guest::modules(&kernel_of(&all, "").unwrap()).unwrap_err();
    assert_eq!(
        missing(error),
        ("failover".into(), ", which net_failover needs".into())
    );
    let kernel = kernel_of(&all, "kernel/net/core/failover.ko\n").unwrap();
    assert_eq!(
        Guest::modules(&kernel).unwrap().len(),
        7,
        "part of the kernel itself"
    );
    all.push(failover);
    all.retain(|it| !it.0.contains("virtio_blk"));
    let error = Guest::modules(&kernel_of(&all, "").unwrap()).unwrap_err();
    assert_eq!(missing(error), ("virtio_blk".into(), String::new()));

    let with = |bytes: Vec<u8>| {
        let all = [all.clone(), vec![("drivers/block/virtio_blk.ko.xz", bytes)]].concat();
        let kernel = kernel_of(&all, "").unwrap();
        Guest::modules(&kernel).map(|it| it.len())
    };
    let refused = |what| {
        let module = "virtio_blk".into();
        Err(ImageError::Module { module, what })
    };
    assert_eq!(with(xz(&module("", VERSION, true))), Ok(8));
    let unsigned = refused("is not signed: the guest's kernel loads signed modules alone");
    assert_eq!(with(xz(&module("", VERSION, false))), unsigned);
    let foreign = refused("was built for another kernel");
    assert_eq!(with(xz(&module("", "6.12.1", true))), foreign);
    assert_eq!(
        with(xz(support::SIGNED)),
        refused("has no section .modinfo")
    );
    assert_eq!(
        with(b"not packed".to_vec()),
        refused("is damaged, or has more than 64 MiB")
    );
    let cycle = with(xz(&module("virtio_blk", VERSION, true)));
    assert_eq!(cycle, Err(ImageError::ModuleCycle("virtio_blk".into())));
}

#[test]
fn one_kernel_is_taken_and_it_has_the_drivers_of_guests() {
    let none = support::deb("x", "1", support::XZ, &[("etc/x", b"")]);
    assert_eq!(
        Kernel::new(vec![read(&none).unwrap()]),
        Err(ImageError::Kernels(0))
    );
    let one = read(&kernel_deb(&modules(), "")).unwrap();
    assert_eq!(
        Kernel::new(vec![one.clone(), one]),
        Err(ImageError::Kernels(2))
    );
    for (version, works) in [
        ("6.1.0-1", false),
        ("6.11.9", false),
        ("6.12.0", true),
        ("7.3.4", true),
        ("x", false),
    ] {
        let path = format!("usr/lib/modules/{version}/vmlinuz");
        let package = support::deb("linux-binary", "1", support::XZ, &[(&path, b"kernel")]);
        let kernel = Kernel::new(vec![read(&package).unwrap()]);
        assert_eq!(kernel.is_ok(), works, "{version}");
    }
}

#[test]
fn a_program_that_needs_other_files_is_refused() {
    let program = support::program();
    assert_eq!(
        Program::read(&program).unwrap().compilers(),
        ["rustc version 1.95.0 (test)"]
    );
    let refused = |bytes: &[u8]| match Program::read(bytes).map(|_| ()) {
        Err(ImageError::Program(what)) => what,
        other => panic!("{other:?}"),
    };
    assert!(refused(&support::dynamic_program()).contains("crt-static"));
    assert_eq!(refused(b"#!/bin/sh\n"), "it is no x86-64 ELF program");
    assert_eq!(
        refused(&module("", VERSION, false)),
        "it is no x86-64 ELF program"
    );
}

#[test]
fn a_configuration_has_its_tables_and_names_public_files_alone() {
    let read = |text: &str| Configuration::read(text.as_bytes());
    let named: Vec<_> = read(CONFIGURATION)
        .unwrap()
        .trust()
        .iter()
        .cloned()
        .collect();
    assert_eq!(named, ["clients.pem", "release.pub"]);
    for (text, what) in [
        ("[network]\n[disk]\n[clock]\n", "it has no table [server]"),
        (
            "[network]\n[disk]\n[clock]\n[server]\n[shell]\n",
            "there is no table [shell]",
        ),
        (
            "network = 1\n[disk]\n[clock]\n[server]\n",
            "it has no table [network]",
        ),
    ] {
        assert_eq!(read(text), Err(ImageError::Configuration(what.into())));
    }
    assert!(read("[network\n").is_err() && Configuration::read(b"\xff").is_err());

    let kernel = kernel_of(&modules(), "").unwrap();
    let loaded = Guest::modules(&kernel).unwrap();
    let order = LoadOrder::of(&kernel, &loaded);
    let program = support::program();
    let program = Program::read(&program).unwrap();
    let with = |text: &str, trust: &BTreeMap<String, Vec<u8>>| {
        let configuration = read(text).unwrap();
        Guest::new(program, &kernel, &loaded, &order, &configuration, trust)
            .map(|_| ())
            .unwrap_err()
    };
    let error = |name: &str, what| ImageError::Trust {
        name: name.into(),
        what,
    };
    let mut files = trust();
    files.remove("release.pub");
    let missing = error(
        "release.pub",
        "the configuration names it, but it is not there",
    );
    assert_eq!(with(CONFIGURATION, &files), missing);
    files.insert(
        "release.pub".into(),
        b"-----BEGIN PRIVATE KEY-----".to_vec(),
    );
    let secret = error(
        "release.pub",
        "it holds a private key, and an image is public",
    );
    assert_eq!(with(CONFIGURATION, &files), secret);
    let escaping = CONFIGURATION.replace("trust/release.pub", "trust/../../init");
    files.insert("../../init".into(), Vec::new());
    let outside = error(
        "../../init",
        "it lies in a folder; put it into trust/ itself",
    );
    assert_eq!(with(&escaping, &files), outside);
    let dots = CONFIGURATION.replace("trust/release.pub", "trust/..");
    files.insert("..".into(), Vec::new());
    assert_eq!(
        with(&dots, &files),
        ImageError::Name("etc/casemate/trust/..".into())
    );
}
