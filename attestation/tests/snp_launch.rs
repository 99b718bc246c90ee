//! From what a guest is launched with to the digest that its report shows: every launch vector of the shared evidence.
//!
//! Firmware tables, kernel hashes and processor states are those of the crate `sev`. The chain over pages is written down here
//! (SEV-SNP ABI 1.58, §8.17), because the crate gives its own out for files and for QEMU and EC2 only.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use ring::digest::{SHA256, SHA384, digest};
use serde_json::Value;
use sev::measurement::ovmf::{OVMF, OvmfSevMetadataSectionDesc, SectionType};
use sev::measurement::sev_hashes::SevHashes;
use sev::measurement::snp::{SnpMeasurementArgs, snp_calc_launch_digest};
use sev::measurement::vcpu_types::CpuType;
use sev::measurement::vmsa::{GuestFeatures, VMMType, VMSA};
use sev::parser::ByteParser as _;

use common::shared;

const PAGE: usize = 4096;
const VMSA_GPA: u64 = 0xffff_ffff_f000;

/// PAGE_TYPE of PAGE_INFO.
#[derive(Clone, Copy)]
enum PageType {
    Normal = 1,
    Vmsa = 2,
    Zero = 3,
    Unmeasured = 4,
    Secrets = 5,
    Cpuid = 6,
}

/// The digest so far, and each step that led to it.
struct Chain {
    digest: [u8; 48],
    steps: Vec<(u8, u64, [u8; 48], [u8; 48])>,
}

impl Chain {
    fn starting_at(digest: [u8; 48]) -> Self {
        Self {
            digest,
            steps: Vec::new(),
        }
    }

    fn page(&mut self, kind: PageType, gpa: u64, contents: [u8; 48]) {
        let mut info = [self.digest, contents].concat();
        info.extend_from_slice(&0x70_u16.to_le_bytes());
        info.extend_from_slice(&[kind as u8, 0, 0, 0, 0, 0]);
        info.extend_from_slice(&gpa.to_le_bytes());
        self.digest = sha384(&info);
        self.steps.push((kind as u8, gpa, contents, self.digest));
    }

    fn data(&mut self, kind: PageType, gpa: u64, bytes: &[u8]) {
        for (page, gpa) in bytes.chunks(PAGE).zip((gpa..).step_by(PAGE)) {
            assert_eq!(page.len(), PAGE);
            self.page(kind, gpa, sha384(page));
        }
    }

    fn empty(&mut self, kind: PageType, gpa: u64, size: u32) {
        let end = gpa + u64::from(size);
        for gpa in (gpa..end).step_by(PAGE) {
            self.page(kind, gpa, [0; 48]);
        }
    }

    /// One section of the firmware's metadata.
    fn section(&mut self, section: &OvmfSevMetadataSectionDesc, vmm: Vmm, hashes: Option<&[u8]>) {
        let (gpa, size) = (u64::from(section.gpa), section.size);
        match (section.section_type, hashes) {
            (SectionType::SnpSecMemory, _) if vmm == Vmm::Gce => {
                self.empty(PageType::Unmeasured, gpa, size);
            }
            (SectionType::SnpSecMemory | SectionType::SvsmCaa, _)
            | (SectionType::SnpKernelHashes, None) => self.empty(PageType::Zero, gpa, size),
            (SectionType::SnpKernelHashes, Some(page)) => self.data(PageType::Normal, gpa, page),
            (SectionType::SnpSecrets, _) => self.page(PageType::Secrets, gpa, [0; 48]),
            (SectionType::Cpuid, _) if vmm == Vmm::Ec2 => {}
            (SectionType::Cpuid, _) => self.page(PageType::Cpuid, gpa, [0; 48]),
        }
    }

    fn sections(
        &mut self,
        sections: &[OvmfSevMetadataSectionDesc],
        vmm: Vmm,
        hashes: Option<&[u8]>,
    ) {
        for section in sections {
            self.section(section, vmm, hashes);
        }
        let cpuid = |section: &&OvmfSevMetadataSectionDesc| {
            vmm == Vmm::Ec2 && section.section_type == SectionType::Cpuid
        };
        for section in sections.iter().filter(cpuid) {
            self.page(PageType::Cpuid, u64::from(section.gpa), [0; 48]);
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Vmm {
    Qemu,
    Ec2,
    Gce,
}

/// States of processors at launch, one page each.
fn processors(vmm: Vmm, reset: u32, kind: CpuType, features: u64, count: u64) -> Vec<Vec<u8>> {
    let base = if vmm == Vmm::Ec2 {
        VMMType::EC2
    } else {
        VMMType::QEMU
    };
    let features = GuestFeatures::from_bytes(&features.to_le_bytes()).unwrap();
    let state = VMSA::new(u64::from(reset), kind, base, Some(count), features);
    let mut pages = state.pages(usize::try_from(count).unwrap()).unwrap();
    // Offsets in the save area (APM volume 2, table B-4).
    let (g_pat, rdx, mxcsr, fcw) = (0x268, 0x310, 0x408, 0x410);
    for page in &mut pages {
        if vmm != Vmm::Qemu {
            page[rdx..rdx + 8].copy_from_slice(&0x600_u64.to_le_bytes());
        }
        if vmm == Vmm::Gce {
            page[g_pat..g_pat + 8].copy_from_slice(&0x0007_0106_u64.to_le_bytes());
            page[mxcsr..mxcsr + 4].fill(0);
            page[fcw..fcw + 2].fill(0);
        }
    }
    pages
}

/// One vector's inputs, as the crate `sev` takes them.
struct Launch<'a> {
    inputs: &'a Value,
    folder: &'a Path,
}

impl Launch<'_> {
    fn file(&self, key: &str) -> Option<PathBuf> {
        let name = self.inputs[key].as_str()?;
        Some(self.folder.join(name))
    }

    fn vmm(&self) -> Vmm {
        match self.inputs["vmm"].as_str().unwrap() {
            "qemu" => Vmm::Qemu,
            "ec2" => Vmm::Ec2,
            "gce" => Vmm::Gce,
            other => panic!("a hypervisor that is not known here: {other}"),
        }
    }

    fn kind(&self) -> CpuType {
        match self.inputs["vcpu_signature"].as_i64() {
            Some(signature) => CpuType::try_from(i32::try_from(signature).unwrap()).unwrap(),
            None => CpuType::EpycV4,
        }
    }

    fn number(&self, key: &str) -> u64 {
        self.inputs[key].as_u64().unwrap()
    }

    /// The whole chain, or what the firmware lacks.
    fn chain(&self) -> Result<Chain, String> {
        let firmware = OVMF::new(self.file("ovmf").unwrap()).unwrap();
        let mut chain = Chain::starting_at([0; 48]);
        match self.inputs["ovmf_hash"].as_str() {
            Some(hash) => chain.digest = hex::decode(hash).unwrap().try_into().unwrap(),
            None => chain.data(PageType::Normal, firmware.gpa(), firmware.data()),
        }
        let hashes = self.file("kernel").map(|kernel| {
            let append = self.inputs["append"].as_str();
            SevHashes::new(kernel, self.file("initrd"), append).unwrap()
        });
        if hashes.is_some() && !firmware.has_metadata_section(SectionType::SnpKernelHashes) {
            return Err("kernel hashes section".into());
        }
        let page = hashes.map(|hashes| {
            let table = firmware.sev_hashes_table_gpa().unwrap();
            let offset = usize::try_from(table).unwrap() % PAGE;
            hashes.construct_page(offset).unwrap()
        });
        chain.sections(firmware.metadata_items(), self.vmm(), page.as_deref());
        let reset = firmware.sev_es_reset_eip().unwrap();
        let (features, count) = (self.number("guest_features"), self.number("vcpus"));
        for page in processors(self.vmm(), reset, self.kind(), features, count) {
            chain.data(PageType::Vmsa, VMSA_GPA, &page);
        }
        Ok(chain)
    }

    /// What the crate alone makes of it.
    fn by_the_crate(&self) -> Result<String, String> {
        let features = self.number("guest_features").to_le_bytes();
        snp_calc_launch_digest(SnpMeasurementArgs {
            vcpus: u32::try_from(self.number("vcpus")).unwrap(),
            vcpu_type: self.kind(),
            ovmf_file: self.file("ovmf").unwrap(),
            guest_features: GuestFeatures::from_bytes(&features).unwrap(),
            kernel_file: self.file("kernel"),
            initrd_file: self.file("initrd"),
            append: self.inputs["append"].as_str(),
            ovmf_hash_str: self.inputs["ovmf_hash"].as_str(),
            vmm_type: Some(VMMType::QEMU),
        })
        .map(sev::measurement::snp::SnpLaunchDigest::get_hex_ld)
        .map_err(|error| error.to_string())
    }
}

fn sha384(bytes: &[u8]) -> [u8; 48] {
    digest(&SHA384, bytes).as_ref().try_into().unwrap()
}

fn json(file: &Path) -> Value {
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

#[test]
fn every_launch_vector_gives_its_digest_or_its_error() {
    let Some(folder) = shared("snp-launch/sev-snp-measure") else {
        return;
    };
    let document = json(&folder.join("vectors.json"));
    let vectors = document["vectors"].as_array().unwrap();
    let expected = json(&folder.join("expected.json"));
    assert_eq!(
        vectors.len(),
        usize::try_from(expected["count"].as_u64().unwrap()).unwrap()
    );
    for inputs in vectors {
        let name = inputs["name"].as_str().unwrap();
        let folder = folder.as_path();
        let launch = Launch { inputs, folder };
        let found = launch.chain().map(|chain| hex::encode(chain.digest));
        let Some(digest) = inputs["digest"].as_str() else {
            let (error, crates) = (found.unwrap_err(), launch.by_the_crate().unwrap_err());
            let reason = inputs["error"].as_str().unwrap();
            assert!(reason.contains(&error), "{name}: {reason}");
            assert!(crates.contains("SNP_KERNEL_HASHES"), "{name}: {crates}");
            continue;
        };
        assert_eq!(found.unwrap(), digest, "{name}");
        if launch.vmm() == Vmm::Qemu {
            assert_eq!(launch.by_the_crate().unwrap(), digest, "{name}");
        }
    }
}

#[test]
fn every_step_of_the_traced_launch_is_the_same() {
    let Some(folder) = shared("snp-launch/sev-snp-measure") else {
        return;
    };
    let trace = json(&folder.join("trace.json"));
    let launch = Launch {
        inputs: &trace["inputs"],
        folder: &folder,
    };
    let chain = launch.chain().unwrap();
    let steps = trace["steps"].as_array().unwrap();
    assert_eq!(chain.steps.len(), steps.len());
    for ((kind, gpa, contents, digest), step) in chain.steps.iter().zip(steps) {
        assert_eq!(u64::from(*kind), step["page_type"].as_u64().unwrap());
        assert_eq!(format!("{gpa:#x}"), step["gpa"].as_str().unwrap());
        let found = [hex::encode(contents), hex::encode(digest)];
        let expected = ["contents_digest", "ld_after"].map(|key| step[key].as_str().unwrap());
        assert_eq!(found, expected, "{step}");
    }
}

/// A table of hashes as QEMU writes it, where the files themselves are not at hand.
fn table(command_line: [u8; 32], initrd: [u8; 32], kernel: [u8; 32]) -> Vec<u8> {
    // GUIDs as they lie in memory: of the table, the command line, the initrd and the kernel.
    let guids = [
        "06d63894224fc94cb479a793d411fd21",
        "d82dd09720bd944caa78e7714d36ab2a",
        "31f7ba442f3ad74b9af141e29169781d",
        "3794e74dd2ab7f42b835d5b172d2045b",
    ]
    .map(|guid| hex::decode(guid).unwrap());
    let [header, entries @ ..] = guids;
    let mut out = [header, 168_u16.to_le_bytes().to_vec()].concat();
    for (guid, hash) in entries.iter().zip([command_line, initrd, kernel]) {
        out.extend_from_slice(guid);
        out.extend_from_slice(&50_u16.to_le_bytes());
        out.extend_from_slice(&hash);
    }
    out
}

#[test]
fn b23_the_digest_in_a_signed_report_is_that_of_its_launch_and_of_no_other() {
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

/// The digest of a launch that is described by hashes of its parts.
fn launch_by_hashes(inputs: &Value) -> [u8; 48] {
    let number = |key: &str| inputs[key].as_u64().unwrap();
    let text = |key: &str| inputs[key].as_str().unwrap();
    let hash = |key: &str| -> [u8; 32] { hex::decode(text(key)).unwrap().try_into().unwrap() };
    let line = [text("base_cmdline").as_bytes(), b"\0"].concat();
    let line = digest(&SHA256, &line).as_ref().try_into().unwrap();
    let table = table(line, hash("initrd_hash"), hash("kernel_hash"));
    let offset = usize::try_from(number("sev_hashes_table_gpa")).unwrap() % PAGE;
    let mut page = vec![0; PAGE];
    page[offset..offset + table.len()].copy_from_slice(&table);
    let sections: Vec<_> = inputs["ovmf_sections"]
        .as_array()
        .unwrap()
        .iter()
        .map(|section| OvmfSevMetadataSectionDesc {
            gpa: u32::try_from(section["gpa"].as_u64().unwrap()).unwrap(),
            size: u32::try_from(section["size"].as_u64().unwrap()).unwrap(),
            section_type: match section["section_type"].as_u64().unwrap() {
                1 => SectionType::SnpSecMemory,
                2 => SectionType::SnpSecrets,
                3 => SectionType::Cpuid,
                4 => SectionType::SvsmCaa,
                16 => SectionType::SnpKernelHashes,
                other => panic!("a section that is not known here: {other}"),
            },
        })
        .collect();
    let start = hex::decode(text("ovmf_hash")).unwrap().try_into().unwrap();
    let mut chain = Chain::starting_at(start);
    chain.sections(&sections, Vmm::Qemu, Some(&page));
    let reset = u32::try_from(number("sev_es_reset_eip")).unwrap();
    let kind = CpuType::try_from(text("vcpu_type")).unwrap();
    let (features, count) = (number("guest_features"), number("vcpus"));
    for page in processors(Vmm::Qemu, reset, kind, features, count) {
        chain.data(PageType::Vmsa, VMSA_GPA, &page);
    }
    chain.digest
}
