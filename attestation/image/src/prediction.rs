//! What a machine will measure of an image, for each way in which it is booted.

use std::collections::BTreeMap;

use casemate_measure::boot::{DirectBoot, Registers, Stub, unified_registers};
use casemate_measure::registers::Hash;
use casemate_measure::snp::{CpuModel, Hypervisor, KernelHashes, Shape, SnpFirmware};
use casemate_measure::tdx::{self, PageOrder};
use serde::{Deserialize, Serialize};

use crate::firmware::Firmware;
use crate::{ImageError, sha256};

/// The three files that are booted.
#[derive(Debug, Clone, Copy)]
pub struct Files<'a> {
    /// The kernel.
    pub kernel: &'a [u8],
    /// The initrd.
    pub initrd: &'a [u8],
    /// The kernel's command line.
    pub command_line: &'a str,
}

/// Shapes of machines: every combination is predicted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shapes {
    /// Models of processors as QEMU names them.
    pub models: Vec<String>,
    /// Numbers of virtual processors.
    pub processors: Vec<u32>,
    /// SEV_FEATURES that hosts turn on.
    pub features: Vec<u64>,
}

/// Launch digests of SEV-SNP guests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snp {
    /// SHA-256 of the firmware.
    pub firmware: String,
    /// One for each shape.
    pub digests: Vec<SnpDigest>,
}

/// The launch digest of one shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnpDigest {
    /// Model as QEMU names it.
    pub cpu: String,
    /// Virtual processors.
    pub vcpus: u32,
    /// SEV_FEATURES, as `0x1`.
    pub features: String,
    /// 48 bytes in hexadecimal.
    pub digest: String,
}

/// Registers of a trust domain. RTMR0 depends on the host; RTMR3 stays zero.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tdx {
    /// SHA-256 of the firmware.
    pub firmware: String,
    /// With hosts that measure each page when they add it.
    pub mrtd: String,
    /// With older hosts.
    pub mrtd_two_pass: String,
    /// Firmware's view of the kernel.
    pub rtmr1: String,
    /// Load options and initrd.
    pub rtmr2: String,
}

/// TPM registers of the SHA-256 bank after one way of booting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tpm {
    /// `direct` or `uki`.
    pub boot: String,
    /// The release of firmware (direct) or of the stub (uki) whose rules these are.
    pub release: String,
    /// Values in hexadecimal by number.
    pub registers: BTreeMap<u8, String>,
    /// Registers that must be zero, because nothing may be passed in that way.
    pub zero: Vec<u8>,
}

impl Files<'_> {
    /// # Errors
    /// Firmware that would not hold these files to their hashes, or a shape that no machine has.
    pub fn snp(&self, firmware: &Firmware, shapes: &Shapes) -> Result<Snp, ImageError> {
        let read = SnpFirmware::read(firmware.code())?;
        let hashes = self.hashes();
        let mut digests = Vec::new();
        for cpu in &shapes.models {
            let model = CpuModel::named(cpu)?;
            for &processors in &shapes.processors {
                for &features in &shapes.features {
                    let hypervisor = Hypervisor::Qemu;
                    let shape = Shape {
                        processors,
                        model,
                        features,
                        hypervisor,
                    };
                    digests.push(SnpDigest {
                        cpu: cpu.clone(),
                        vcpus: processors,
                        features: format!("{features:#x}"),
                        digest: hex::encode(read.launch_digest(&shape, Some(&hashes))?),
                    });
                }
            }
        }
        let firmware = sha256(firmware.code());
        Ok(Snp { firmware, digests })
    }

    /// The page of hashes that QEMU gives to this firmware, and its address in guest memory.
    ///
    /// # Errors
    /// Firmware without a place for it.
    pub fn snp_hash_page(&self, firmware: &[u8]) -> Result<(u32, Vec<u8>), ImageError> {
        let read = SnpFirmware::read(firmware)?;
        let page = read.hash_page(&self.hashes())?;
        let table = read.hash_table.unwrap_or_default();
        Ok((table & !0xfff, page))
    }

    fn hashes(&self) -> KernelHashes {
        KernelHashes::of(self.kernel, self.initrd, self.command_line)
    }

    /// # Errors
    /// Firmware without a trust domain's metadata, or of a release that is not known.
    pub fn tdx(&self, firmware: &Firmware) -> Result<Tdx, ImageError> {
        let mrtd = |order| tdx::launch_digest(firmware.code(), order).map(hex::encode);
        let registers = self.direct(firmware)?.runtime_registers()?;
        let [rtmr1, rtmr2] = registers.map(hex::encode);
        Ok(Tdx {
            firmware: sha256(firmware.code()),
            mrtd: mrtd(PageOrder::SinglePass)?,
            mrtd_two_pass: mrtd(PageOrder::TwoPass)?,
            rtmr1,
            rtmr2,
        })
    }

    /// Registers after a direct boot.
    ///
    /// # Errors
    /// Firmware of a release that is not known.
    pub fn tpm(&self, firmware: &Firmware) -> Result<Tpm, ImageError> {
        let registers = self.direct(firmware)?.registers(Hash::Sha256)?;
        Ok(Tpm::new("direct", &firmware.release, &registers))
    }

    fn direct(&self, firmware: &Firmware) -> Result<DirectBoot<'_>, ImageError> {
        Ok(DirectBoot {
            kernel: self.kernel,
            initrd: self.initrd,
            command_line: self.command_line,
            load_options: firmware.load_options()?,
        })
    }
}

impl Tpm {
    /// Registers after a boot of a unified kernel image.
    ///
    /// # Errors
    /// An image that is not one.
    pub fn unified(image: &[u8], stub: Stub) -> Result<Self, ImageError> {
        let registers = unified_registers(image, stub, Hash::Sha256)?;
        let release = match stub {
            Stub::V252 => "252",
            Stub::V257 => "257",
            Stub::V262 => "262",
        };
        Ok(Self::new("uki", release, &registers))
    }

    fn new(boot: &str, release: &str, registers: &Registers) -> Self {
        let is_zero = |value: &[u8]| value.iter().all(|byte| *byte == 0);
        let zero = registers.iter().filter(|(_, value)| is_zero(value));
        let value = |(number, value): (&u8, &Vec<u8>)| (*number, hex::encode(value));
        Self {
            boot: boot.to_owned(),
            release: release.to_owned(),
            registers: registers.iter().map(value).collect(),
            zero: zero.map(|(number, _)| *number).collect(),
        }
    }
}
