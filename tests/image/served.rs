//! From a bare image to a served member: the machine quotes its TPM to the broker outside, gets its keys, opens the sealed model
//! from its disk and answers. One byte of kernel, initrd, command line or configuration, and the broker gives nothing.

use std::fs;
use std::path::Path;

use casemate_image::manifest::{Manifest, Written};

use crate::place::{CONFIGURATION, ended, inputs};
use crate::started::{OnlyOne, has_swtpm, qemu};
use crate::team::Team;

/// The guest's own program, where it was built.
fn program() -> Option<Vec<u8>> {
    let built = "target/x86_64-unknown-linux-gnu/release/casemate-guest";
    let program = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(built));
    if program.is_err() {
        println!("SKIP the guest's program: run scripts/build-guest");
    }
    program.ok()
}

/// A team with an image for trials, whose measurements it signed.
pub fn team() -> Option<(Team, OnlyOne)> {
    let (inputs, program) = (inputs()?, program()?);
    let qemu = qemu(&inputs)?;
    if !has_swtpm() {
        return None;
    }
    let one = OnlyOne::wait(&inputs);
    let team = Team::new(&program, qemu);
    build(&team, "image")?;
    team.done("org reference acme --section image/reference/tpm.json");
    Some((team, one))
}

fn build(team: &Team, out: &str) -> Option<()> {
    let built = team.place.build(out, &["--console"])?;
    assert_eq!(ended(&built).0, 0, "{}", ended(&built).1);
    Some(())
}

/// The image with one file changed, and a manifest that says so: `casemate image boot` starts it, and the broker is to notice.
fn altered(team: &Team, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> &'static str {
    const OUT: &str = "altered";
    let (from, to) = (team.place.path("image"), team.place.path(OUT));
    let _ = fs::remove_dir_all(&to);
    fs::create_dir(&to).unwrap();
    let manifest = fs::read(from.join("manifest.json")).unwrap();
    let mut manifest: Manifest = serde_json::from_slice(&manifest).unwrap();
    for name in manifest.files.keys() {
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
    let mut bytes = fs::read(from.join(name)).unwrap();
    change(&mut bytes);
    manifest.files.insert(name.into(), Written::of(&bytes));
    if name == "cmdline" {
        manifest.command_line = String::from_utf8(bytes.clone()).unwrap();
    }
    fs::write(to.join(name), bytes).unwrap();
    fs::write(
        to.join("manifest.json"),
        serde_json::to_vec(&manifest).unwrap(),
    )
    .unwrap();
    OUT
}

#[test]
fn b20_a_measured_machine_is_served_and_serves_and_one_byte_more_is_refused_its_keys() {
    let Some((team, _one)) = team() else {
        return;
    };
    let _broker = team.broker();
    let disk = " --disk model.sealed";
    {
        let machine = team.serves("image", disk);
        let verified = team.done("verify --config connect.toml --explain");
        // The registers that were predicted, the log that explains them, and what both are worth where the TPM is a program.
        for (id, text) in [
            ("P4", "5 of them as expected"),
            ("L2", "replay gives the quoted PCR 4, PCR 9"),
            ("L3", "5 claims hash to what was measured"),
        ] {
            let pass = format!("PASS evidence.{id} ");
            let line = verified.lines().find(|line| line.starts_with(&pass));
            let good = |line: &str| line.contains(" asserted ") && line.contains(text);
            assert!(line.is_some_and(good), "{id}: {verified}");
        }
        assert!(verified.contains("NOT CONFIDENTIAL"), "{verified}");
        let answer = team.ask();
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.contains("\"content\":"),
            "{answer}"
        );
        // Without its TPM the machine proves nothing to anybody any more.
        machine.end_child("swtpm");
        let (code, said) = ended(&team.run("verify --config connect.toml --explain"));
        let refused = said.contains("evidence_unavailable") && said.contains("VERDICT REFUSED");
        assert!(code == 1 && refused, "{code} {said}");
    }
    let refused = |image: &str, what: &str| {
        let (code, said) = team.stops(image, disk);
        assert!(
            code == 10 && said.contains("casemate: FAIL refused"),
            "{what}: {code}\n{said}"
        );
    };
    // A byte of the message for machines without firmware, one of a file's time, and one space more.
    refused(
        altered(&team, "vmlinuz", |bytes| bytes[0x30] ^= 1),
        "kernel",
    );
    refused(
        altered(&team, "initrd.cpio", |bytes| bytes[53] = b'1'),
        "initrd",
    );
    refused(
        altered(&team, "cmdline", |bytes| bytes.push(b' ')),
        "command line",
    );
    let longer = "not_after = \"2036-01-02\"";
    team.configure(&CONFIGURATION.replace("not_after = \"2036-01-01\"", longer));
    build(&team, "other").unwrap();
    refused("other", "configuration");
}
