//! `casemate measure` as an officer uses it: from files to a section of reference values that the organisation signs.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::place::{Place, casemate, text};

/// The launch vectors' files; without them the test says so, and fails where everything must be there.
fn vectors() -> Option<Value> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../shared/evidence/snp-launch/sev-snp-measure/vectors.json");
    let Ok(bytes) = fs::read(&file) else {
        assert!(std::env::var_os("CI").is_none(), "no {}", file.display());
        println!("SKIP no {}", file.display());
        return None;
    };
    Some(serde_json::from_slice(&bytes).unwrap())
}

#[test]
fn b23_a_predicted_launch_is_signed_and_a_newer_one_stands_beside_it() {
    let Some(document) = vectors() else {
        return;
    };
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/evidence/snp-launch/sev-snp-measure");
    let place = Place::new();
    let measure = |inputs: &Value, base: Option<&str>| {
        let file = |key: &str| folder.join(inputs[key].as_str().unwrap());
        let mut measure = casemate();
        measure.args(["measure", "snp", "--release", "trial", "--cpu", "EPYC-v4"]);
        measure.arg("--firmware").arg(file("ovmf"));
        measure.arg("--kernel").arg(file("kernel"));
        measure.arg("--initrd").arg(file("initrd"));
        measure.args([
            "--command-line",
            inputs["append"].as_str().unwrap_or_default(),
        ]);
        measure.args(["--vcpus", &inputs["vcpus"].to_string()]);
        measure.args(["--features", &inputs["guest_features"].to_string()]);
        measure.args(base.map(|file| ["--base", file]).into_iter().flatten());
        let output = measure.current_dir(place.path("")).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        fs::write(place.path("section.json"), &output.stdout).unwrap();
        let section: Value = serde_json::from_slice(&output.stdout).unwrap();
        let all = section["snp"]["measurements"].as_array().unwrap().clone();
        all.iter()
            .map(|one| one["measurement"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    // EPYC-v4's signature, QEMU, the file's own digest: what the command measures by itself.
    let mut direct = document["vectors"].as_array().unwrap().iter().filter(|it| {
        it["digest"].is_string()
            && it["vmm"] == "qemu"
            && ["ovmf", "kernel", "initrd"]
                .iter()
                .all(|key| it[*key].is_string())
            && it["ovmf_hash"].is_null()
            && matches!(it["vcpu_signature"].as_u64(), None | Some(8_392_466))
    });
    let first = direct.next().expect("a vector of a direct boot");
    let digest = |it: &Value| it["digest"].as_str().unwrap().to_owned();
    let second = direct
        .find(|it| digest(it) != digest(first))
        .expect("another one");

    assert_eq!(measure(first, None), [digest(first)]);
    let sign = ["org", "reference", "org", "--section", "section.json"];
    place.command(&sign);
    let signed = |it: &Value| {
        let document = fs::read(place.path("org/reference.json")).unwrap();
        let document: Value = serde_json::from_slice(&document).unwrap();
        let payload = STANDARD.decode(document["payload"].as_str().unwrap());
        String::from_utf8(payload.unwrap())
            .unwrap()
            .contains(&digest(it))
    };
    assert!(signed(first) && !signed(second));

    fs::rename(place.path("section.json"), place.path("old.json")).unwrap();
    assert_eq!(
        measure(second, Some("old.json")),
        [digest(first), digest(second)]
    );
    place.command(&sign);
    assert!(signed(first) && signed(second));
}

#[test]
fn what_cannot_be_predicted_is_refused_by_name() {
    let place = Place::new();
    fs::write(place.path("nothing"), [0; 8192]).unwrap();
    let refused = |words: &[&str], code: i32, word: &str| {
        let mut measure = casemate();
        measure
            .args(["measure"])
            .args(words)
            .current_dir(place.path(""));
        let output = measure.output().unwrap();
        let said = text(&output);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(word) && !said.contains("panicked"), "{said}");
        assert!(output.stdout.is_empty(), "{said}");
    };
    let snp = |firmware, cpu, vcpus| {
        [
            "snp",
            "--firmware",
            firmware,
            "--cpu",
            cpu,
            "--vcpus",
            vcpus,
            "--features",
            "0x1",
            "--release",
            "r",
        ]
    };
    refused(&snp("absent", "EPYC-v4", "1"), 3, "absent");
    refused(&snp("nothing", "EPYC-v4", "1"), 30, "firmware");
    let uki = ["tpm", "--uki", "nothing", "--stub", "257", "--release", "r"];
    refused(&uki, 30, "PE");
    refused(
        &["tpm", "--uki", "nothing", "--stub", "255", "--release", "r"],
        2,
        "252, 257 and 262",
    );
}
