//! Launch digests: every shared vector, every step of the traced launch, the launch of a signed report, and the crate `sev` beside.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

use std::fs;
use std::path::{Path, PathBuf};

use casemate_measure::MeasureError;
use casemate_measure::snp::{
    CpuModel, Hypervisor, KernelHashes, Section, Shape, SnpFirmware, Step,
};
use ring::digest::{SHA256, digest};
use serde_json::Value;
use sev::measurement::snp::{SnpMeasurementArgs, snp_calc_launch_digest};
use sev::measurement::vcpu_types::CpuType;
use sev::measurement::vmsa::{GuestFeatures, VMMType};
use sev::parser::ByteParser as _;

/// A folder of the shared evidence; without it the test says so, and fails where everything must be there.
fn shared(name: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/evidence");
    let folder = root.join(name);
    if folder.is_dir() {
        return Some(folder);
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "no shared evidence: {name}"
    );
    println!("SKIP: no shared evidence: {name}");
    None
}

fn json(file: &Path) -> Value {
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

struct Vector<'a> {
    inputs: &'a Value,
    folder: &'a Path,
}

impl Vector<'_> {
    fn file(&self, key: &str) -> Option<PathBuf> {
        Some(self.folder.join(self.inputs[key].as_str()?))
    }

    fn shape(&self) -> Shape {
        let signature = self.inputs["vcpu_signature"].as_u64().unwrap_or(8_392_466);
        Shape {
            processors: u32::try_from(self.inputs["vcpus"].as_u64().unwrap()).unwrap(),
            model: CpuModel::from_signature(u32::try_from(signature).unwrap()),
            features: self.inputs["guest_features"].as_u64().unwrap(),
            hypervisor: match self.inputs["vmm"].as_str().unwrap() {
                "qemu" => Hypervisor::Qemu,
                "ec2" => Hypervisor::Ec2,
                "gce" => Hypervisor::Gce,
                other => panic!("a hypervisor that is not known here: {other}"),
            },
        }
    }

    fn steps(&self) -> Result<Vec<Step>, MeasureError> {
        let mut firmware = SnpFirmware::read(&fs::read(self.file("ovmf").unwrap()).unwrap())?;
        if let Some(hash) = self.inputs["ovmf_hash"].as_str() {
            firmware.digest = hex::decode(hash).unwrap().try_into().unwrap();
        }
        let hashes = self.file("kernel").map(|kernel| {
            let initrd = self.file("initrd").map(|file| fs::read(file).unwrap());
            let line = self.inputs["append"].as_str().unwrap_or_default();
            KernelHashes::of(
                &fs::read(kernel).unwrap(),
                &initrd.unwrap_or_default(),
                line,
            )
        });
        firmware.steps(&self.shape(), hashes.as_ref())
    }

    /// What the crate `sev` makes of a launch by QEMU.
    fn by_sev(&self) -> Option<String> {
        let shape = self.shape();
        let features = shape.features.to_le_bytes();
        let kind = CpuType::try_from(i32::try_from(shape.model.signature()).unwrap()).unwrap();
        let arguments = SnpMeasurementArgs {
            vcpus: shape.processors,
            vcpu_type: kind,
            ovmf_file: self.file("ovmf").unwrap(),
            guest_features: GuestFeatures::from_bytes(&features).unwrap(),
            kernel_file: self.file("kernel"),
            initrd_file: self.file("initrd"),
            append: self.inputs["append"].as_str(),
            ovmf_hash_str: self.inputs["ovmf_hash"].as_str(),
            vmm_type: Some(VMMType::QEMU),
        };
        let digest = snp_calc_launch_digest(arguments).unwrap();
        (shape.hypervisor == Hypervisor::Qemu).then(|| digest.get_hex_ld())
    }
}

#[test]
fn every_launch_vector_gives_its_digest_or_its_error() {
    let Some(folder) = shared("snp-launch/sev-snp-measure") else {
        return;
    };
    let document = json(&folder.join("vectors.json"));
    let expected = json(&folder.join("expected.json"));
    let vectors = document["vectors"].as_array().unwrap();
    assert_eq!(vectors.len() as u64, expected["count"].as_u64().unwrap());
    for inputs in vectors {
        let name = inputs["name"].as_str().unwrap();
        let vector = Vector {
            inputs,
            folder: &folder,
        };
        let found = vector.steps();
        let Some(digest) = inputs["digest"].as_str() else {
            assert_eq!(found, Err(MeasureError::NoKernelHashes), "{name}");
            let reason = inputs["error"].as_str().unwrap();
            assert!(reason.contains("kernel hashes section"), "{name}: {reason}");
            continue;
        };
        let found = hex::encode(found.unwrap().last().unwrap().digest);
        assert_eq!(found, digest, "{name}");
        if let Some(other) = vector.by_sev() {
            assert_eq!(other, digest, "{name}");
        }
    }
}

#[test]
fn every_step_of_the_traced_launch_is_the_same() {
    let Some(folder) = shared("snp-launch/sev-snp-measure") else {
        return;
    };
    let trace = json(&folder.join("trace.json"));
    let vector = Vector {
        inputs: &trace["inputs"],
        folder: &folder,
    };
    let found = vector.steps().unwrap();
    // The trace begins with the image's own page, which the firmware's digest already holds.
    let steps = trace["steps"].as_array().unwrap();
    let image = steps.len() - found.len();
    assert_eq!(image, 1);
    let firmware = SnpFirmware::read(&fs::read(vector.file("ovmf").unwrap()).unwrap()).unwrap();
    assert_eq!(
        hex::encode(firmware.digest),
        steps[0]["ld_after"].as_str().unwrap()
    );
    for (step, expected) in found.iter().zip(&steps[image..]) {
        assert_eq!(
            u64::from(step.page_type),
            expected["page_type"].as_u64().unwrap()
        );
        assert_eq!(
            format!("{:#x}", step.address),
            expected["gpa"].as_str().unwrap()
        );
        let texts = ["contents_digest", "ld_after"].map(|key| expected[key].as_str().unwrap());
        assert_eq!(
            [step.contents, step.digest].map(hex::encode),
            texts,
            "{expected}"
        );
    }
}

/// The digest of a launch that is described by hashes of its parts.
fn launch_by_hashes(inputs: &Value) -> [u8; 48] {
    let number = |value: &Value| u32::try_from(value.as_u64().unwrap()).unwrap();
    let text = |key: &str| inputs[key].as_str().unwrap();
    let hash = |key: &str| -> [u8; 32] { hex::decode(text(key)).unwrap().try_into().unwrap() };
    let line = [text("base_cmdline").as_bytes(), b"\0"].concat();
    let hashes = KernelHashes {
        kernel: hash("kernel_hash"),
        initrd: hash("initrd_hash"),
        command_line: digest(&SHA256, &line).as_ref().try_into().unwrap(),
    };
    let section = |it: &Value| {
        let [kind, gpa, size] = ["section_type", "gpa", "size"].map(|key| number(&it[key]));
        Section::new(kind, gpa, size).unwrap()
    };
    let sections = inputs["ovmf_sections"].as_array().unwrap();
    let firmware = SnpFirmware {
        digest: hex::decode(text("ovmf_hash")).unwrap().try_into().unwrap(),
        sections: sections.iter().map(section).collect(),
        reset_address: number(&inputs["sev_es_reset_eip"]),
        hash_table: Some(number(&inputs["sev_hashes_table_gpa"])),
    };
    let shape = Shape {
        processors: number(&inputs["vcpus"]),
        model: CpuModel::named(text("vcpu_type")).unwrap(),
        features: inputs["guest_features"].as_u64().unwrap(),
        hypervisor: Hypervisor::Qemu,
    };
    firmware.launch_digest(&shape, Some(&hashes)).unwrap()
}

#[test]
fn b23_a_launch_of_a_signed_report_is_predicted_and_every_change_moves_it() {
    let Some(folder) = shared("snp-launch/from-a-signed-report") else {
        return;
    };
    let (inputs, expected) = (
        json(&folder.join("launch-inputs.json")),
        json(&folder.join("expected.json")),
    );
    let report = fs::read(folder.join(expected["report"].as_str().unwrap())).unwrap();
    let digest = launch_by_hashes(&inputs);
    assert_eq!(hex::encode(digest), expected["digest"].as_str().unwrap());
    assert_eq!(digest, report[0x90..0xC0]);
    for (key, other) in [
        ("base_cmdline", Value::from("console=ttyS0 init=/bin/sh")),
        ("kernel_hash", inputs["initrd_hash"].clone()),
        ("initrd_hash", inputs["kernel_hash"].clone()),
        ("vcpus", Value::from(3)),
        ("vcpu_type", Value::from("EPYC-Milan")),
        ("guest_features", Value::from(33)),
    ] {
        let mut altered = inputs.clone();
        altered[key] = other;
        assert_ne!(launch_by_hashes(&altered), report[0x90..0xC0], "{key}");
    }
}

#[test]
fn b22_firmware_that_believes_its_host_is_another_launch_and_takes_no_kernel() {
    let Some(folder) = shared("snp-launch/sev-snp-measure") else {
        return;
    };
    let read = |name: &str| fs::read(folder.join(name)).unwrap();
    let (strict, trusting) = (
        read("ovmf_AmdSev_suffix.bin"),
        read("ovmf_OvmfX64_suffix.bin"),
    );
    let shape = Shape {
        processors: 1,
        model: CpuModel::named("EPYC-v4").unwrap(),
        features: 1,
        hypervisor: Hypervisor::Qemu,
    };
    let hashes = KernelHashes::of(b"kernel", b"initrd", "quiet");
    let launch = |image: &[u8], hashes: Option<&KernelHashes>| {
        SnpFirmware::read(image).and_then(|firmware| firmware.launch_digest(&shape, hashes))
    };
    let right = launch(&strict, Some(&hashes)).unwrap();
    for at in (0..strict.len()).step_by(16) {
        let mut altered = strict.clone();
        altered[at] ^= 1;
        assert_ne!(launch(&altered, Some(&hashes)), Ok(right), "{at}");
    }
    // The general build takes kernel and command line from the host without a word; with our digest it can never start.
    assert_eq!(
        launch(&trusting, Some(&hashes)),
        Err(MeasureError::NoKernelHashes)
    );
    assert_ne!(launch(&trusting, None), Ok(right));
}

#[test]
fn damaged_firmware_and_shapes_that_cannot_start_are_refused_by_name() {
    let Some(folder) = shared("snp-launch/sev-snp-measure") else {
        return;
    };
    let image = fs::read(folder.join("ovmf_AmdSev_suffix.bin")).unwrap();
    let firmware = SnpFirmware::read(&image).unwrap();
    let shape = Shape {
        processors: 1,
        model: CpuModel::named("EPYC-v4").unwrap(),
        features: 1,
        hypervisor: Hypervisor::Qemu,
    };
    let launch = |shape| firmware.launch_digest(&shape, None);
    let none = Shape {
        processors: 0,
        ..shape
    };
    assert_eq!(launch(none), Err(MeasureError::Processors(0)));
    let many = Shape {
        processors: 4097,
        ..shape
    };
    assert_eq!(launch(many), Err(MeasureError::Processors(4097)));
    let plain = Shape {
        features: 0x20,
        ..shape
    };
    assert_eq!(launch(plain), Err(MeasureError::Features(0x20)));

    let short = SnpFirmware::read(&image[1..]);
    assert_eq!(short, Err(MeasureError::FirmwareSize(4095)));
    assert_eq!(
        SnpFirmware::read(&[0; 4096]),
        Err(MeasureError::NoGuidTable)
    );
    // Whatever byte is damaged, there is an answer and no panic; and the digest is never that of the whole image.
    for at in 0..image.len() {
        for damage in [0xff, 0x80, 0x01] {
            let mut damaged = image.clone();
            damaged[at] ^= damage;
            if let Ok(read) = SnpFirmware::read(&damaged) {
                assert_ne!(read.digest, firmware.digest, "{at}");
            }
        }
    }
}
