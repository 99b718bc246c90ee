//! `casemate image build`: the same bytes on two paths, and a named error with its exit code for every bad input.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::place::{CONFIGURATION, Place, casemate_in, ended, inputs, package, program};

/// Every file below a folder, by its path in it.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            let inside = files(&path).into_iter();
            found.extend(inside.map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else {
            found.insert(name, fs::read(&path).unwrap());
        }
    }
    found
}

#[test]
fn two_builds_on_two_paths_give_the_same_bytes_and_a_changed_configuration_others() {
    let (first, second) = (Place::new(&program()), Place::new(&program()));
    let Some(output) = first.build("image", &[]) else {
        return;
    };
    assert_eq!(ended(&output).0, 0, "{}", ended(&output).1);
    assert_eq!(
        second.build("other-name", &[]).unwrap().status.code(),
        Some(0)
    );
    let (one, two) = (
        files(&first.path("image")),
        files(&second.path("other-name")),
    );
    let names: Vec<_> = one.keys().map(String::as_str).collect();
    for name in [
        "cmdline",
        "initrd.cpio",
        "manifest.json",
        "reference/tpm.json",
        "sbom.json",
        "uki.efi",
        "vmlinuz",
    ] {
        assert!(names.contains(&name), "{names:?}");
    }
    for (name, bytes) in &one {
        assert!(two.get(name) == Some(bytes), "{name} differs");
    }
    assert_eq!(one.len(), two.len());
    assert_eq!(
        one["cmdline"],
        b"panic=-1 quiet lockdown=confidentiality init_on_free=1"
    );
    let output = ended(&output).1;
    let digest = casemate_image::sha256(&one["initrd.cpio"]);
    assert!(
        output.contains(&format!("{digest}  initrd.cpio")),
        "{output}"
    );

    fs::write(
        second.path("guest.toml"),
        CONFIGURATION.replace("2026-01-01", "2026-01-02"),
    )
    .unwrap();
    assert_eq!(second.build("changed", &[]).unwrap().status.code(), Some(0));
    assert_eq!(
        second
            .build("console", &["--console"])
            .unwrap()
            .status
            .code(),
        Some(0)
    );
    let (changed, console) = (
        files(&second.path("changed")),
        files(&second.path("console")),
    );
    assert!(
        changed["reference/tpm.json"] != two["reference/tpm.json"]
            && changed["vmlinuz"] == two["vmlinuz"]
    );
    let manifest = |files: &BTreeMap<String, Vec<u8>>| {
        serde_json::from_slice::<serde_json::Value>(&files["manifest.json"]).unwrap()
    };
    let (plain, trial) = (manifest(&two), manifest(&console));
    assert_eq!(
        (&plain["debug_console"], &trial["debug_console"]),
        (&false.into(), &true.into())
    );
    for way in [0, 1] {
        assert_ne!(
            plain["tpm"][way]["registers"]["9"],
            trial["tpm"][way]["registers"]["9"]
        );
    }
}

#[test]
fn the_list_of_parts_has_the_crates_of_this_program_and_of_no_other() {
    let (first, second) = (Place::new(&program()), Place::new(&program()));
    let digest = casemate_image::sha256(&program());
    let list = format!(
        "casemate/crates/v1 {digest}\nlinked ring 0.17.14 {digest} Apache-2.0 AND ISC\nbuilding cc 1.2.3 {digest} MIT/Apache-2.0\n"
    );
    let build = |place: &Place, list: &str| {
        fs::write(place.path("list"), list).unwrap();
        place.build("image", &["--crates", "list"])
    };
    let (code, said) = match build(&first, &list.replace(&digest[..8], "00000000")) {
        Some(output) => ended(&output),
        None => return,
    };
    let refused = said.contains("the list of crates is of the program 00000000");
    assert!(code == 10 && refused, "{code} {said}");
    let (code, said) = ended(&build(&first, &format!("{list}linked ring\n")).unwrap());
    assert!(
        code == 30 && said.contains("line 4 of the list of crates"),
        "{code} {said}"
    );
    for place in [&first, &second] {
        let (code, said) = ended(&build(place, &list).unwrap());
        assert!(
            code == 0 && !said.contains("names no crates"),
            "{code} {said}"
        );
    }
    let read = |place: &Place| fs::read(place.path("image/sbom.json")).unwrap();
    assert_eq!(read(&first), read(&second));
    let parts: serde_json::Value = serde_json::from_slice(&read(&first)).unwrap();
    let parts = parts["components"].as_array().unwrap().iter();
    let own = parts.clone().find(|it| it["name"] == "program").unwrap();
    let names = own["components"].as_array().unwrap().iter();
    let names: Vec<_> = names
        .map(|it| (&it["name"], &it["hashes"][0]["content"]))
        .collect();
    let digest = serde_json::Value::from(digest);
    assert_eq!(
        names,
        [
            (&"/init".into(), &digest),
            (&"ring".into(), &digest),
            (&"cc".into(), &digest)
        ]
    );
    let (_, said) = ended(&first.build("without", &[]).unwrap());
    assert!(said.contains("the list of parts names no crates"), "{said}");
}

#[test]
fn what_was_built_is_signed_as_reference_values() {
    let place = Place::new(&program());
    let Some(output) = place.build("image", &[]) else {
        return;
    };
    assert_eq!(ended(&output).0, 0, "{}", ended(&output).1);
    let run = |arguments: &[&str]| ended(&casemate_in(place.0.path(), arguments));
    assert_eq!(run(&["org", "init", "acme", "--name", "acme"]).0, 0);
    for section in ["tpm.json", "snp.json"] {
        let file = format!("image/reference/{section}");
        if place.path(&file).exists() {
            let (code, said) = run(&["org", "reference", "acme", "--section", &file]);
            assert_eq!(code, 0, "{said}");
        }
    }
}

#[test]
fn inputs_that_are_not_the_pinned_ones_are_refused() {
    let place = Place::new(&program());
    let Some(inputs) = inputs() else {
        return;
    };
    let Some(kernel) = package(&inputs, "linux-image-") else {
        return;
    };
    let name = kernel.file_name().unwrap().to_str().unwrap();
    let mut altered = fs::read(&kernel).unwrap();
    let middle = altered.len() / 2;
    altered[middle] ^= 1;
    fs::write(place.path(name), &altered).unwrap();
    fs::write(place.path("other.deb"), &altered).unwrap();
    let pins = inputs.join("pins");
    let build = |kernel: &str| {
        let pins = pins.to_str().unwrap();
        let all = [
            "image",
            "build",
            "--config",
            "guest.toml",
            "--program",
            "program",
            "--pins",
            pins,
        ];
        let more = ["--kernel", kernel, "--release", "test", "--out", "image"];
        ended(&casemate_in(place.0.path(), &[&all[..], &more].concat()))
    };
    let (code, said) = build(name);
    assert!(
        code == 10 && said.contains("is not the pinned file"),
        "{code} {said}"
    );
    let (code, said) = build("other.deb");
    assert!(
        code == 10 && said.contains("the pins do not name"),
        "{code} {said}"
    );
    assert!(!place.path("image").exists());
}

#[test]
fn every_bad_input_has_its_name_and_exit_code() {
    let place = Place::new(&program());
    fs::write(place.path("kernel.deb"), "no package").unwrap();
    let digest = casemate_image::sha256(b"no package");
    fs::write(place.path("pins"), format!("{digest}  kernel.deb\n")).unwrap();
    fs::create_dir(place.path("there")).unwrap();
    fs::write(place.path("script"), "#!/bin/sh\n").unwrap();
    let build = |changed: &[(&str, &str)]| {
        let mut options = BTreeMap::from([
            ("--config", "guest.toml"),
            ("--program", "program"),
            ("--pins", "pins"),
            ("--kernel", "kernel.deb"),
            ("--release", "test"),
            ("--out", "image"),
        ]);
        options.extend(changed.iter().copied());
        let options: Vec<_> = options
            .into_iter()
            .flat_map(|(name, value)| [name, value])
            .collect();
        ended(&casemate_in(
            place.0.path(),
            &[&["image", "build"][..], &options].concat(),
        ))
    };
    for (changed, code, what) in [
        (
            ("--kernel", "kernel.deb"),
            30,
            "kernel.deb: not a Debian package",
        ),
        (("--kernel", "none.deb"), 3, "cannot read none.deb"),
        (("--pins", "guest.toml"), 30, "of the pins is not SHA-256"),
        (("--out", "there"), 2, "there is there already"),
        (("--features", "x"), 2, "features are a number"),
    ] {
        let (found, said) = build(&[changed]);
        assert!(
            found == code && said.contains(what),
            "{changed:?}: {found} {said}"
        );
    }
    assert!(!place.path("image").exists());
}

#[test]
fn a_program_or_configuration_that_cannot_be_a_guest_is_refused() {
    let place = Place::new(b"#!/bin/sh\n");
    let Some(output) = place.build("image", &[]) else {
        return;
    };
    let (code, said) = ended(&output);
    assert!(
        code == 30 && said.contains("no x86-64 ELF program"),
        "{code} {said}"
    );
    fs::write(place.path("program"), program()).unwrap();
    for (text, what) in [
        (
            CONFIGURATION.replace("[clock]", "[watch]"),
            "no table [clock]",
        ),
        (
            CONFIGURATION.replace("10.0.2.2:7440", "broker:7440"),
            "an image asks nobody for names",
        ),
        (
            CONFIGURATION.replace("trust/release.key", "trust/none.key"),
            "trust/none.key: the configuration names it",
        ),
    ] {
        fs::write(place.path("guest.toml"), text).unwrap();
        let (code, said) = ended(&place.build("image", &[]).unwrap());
        assert!(code == 3 && said.contains(what), "{code} {said}");
    }
    fs::write(place.path("guest.toml"), CONFIGURATION).unwrap();
    fs::write(
        place.path("trust/release.key"),
        "-----BEGIN PRIVATE KEY-----",
    )
    .unwrap();
    let (code, said) = ended(&place.build("image", &[]).unwrap());
    assert!(code == 3 && said.contains("private key"), "{code} {said}");
}
