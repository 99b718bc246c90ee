//! The state that a hypervisor gives a processor before its first instruction, which is measured as a page of its own.
//!
//! Offsets are those of the save area (AMD64 APM volume 2, table B-4); values are those that QEMU, EC2 and GCE are known to set.

use crate::{MeasureError, PAGE};

/// Where the first processor begins.
const RESET_VECTOR: u32 = 0xffff_fff0;
/// Most processors that are predicted for; QEMU's q35 starts fewer.
const PROCESSORS_MAX: u32 = 4096;

/// Who launches the guest: the initial state of processors differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hypervisor {
    /// QEMU with KVM.
    Qemu,
    /// Amazon EC2.
    Ec2,
    /// Google Compute Engine.
    Gce,
}

/// The signature that CPUID leaf 1 gives in EAX, and that QEMU puts into RDX at reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuModel(u32);

impl CpuModel {
    /// By the signature itself.
    #[must_use]
    pub const fn from_signature(signature: u32) -> Self {
        Self(signature)
    }

    /// By QEMU's name; upper and lower case are the same.
    ///
    /// # Errors
    /// [`MeasureError::Model`].
    pub fn named(name: &str) -> Result<Self, MeasureError> {
        let unknown = || MeasureError::Model(name.chars().take(40).collect());
        let lower = name.to_ascii_lowercase();
        let (generation, version) = match lower.rsplit_once("-v") {
            Some((generation, version)) => (generation, version.parse().map_err(|_| unknown())?),
            None => (lower.as_str(), 1_u8),
        };
        // Family, model, stepping, and how many versions QEMU has of it.
        let (family, model, stepping, versions) = match generation {
            "epyc" => (23, 1, 2, 5),
            "epyc-ibpb" if generation == lower => (23, 1, 2, 1),
            "epyc-rome" => (23, 49, 0, 5),
            "epyc-milan" => (25, 1, 1, 3),
            "epyc-genoa" => (25, 17, 0, 2),
            "epyc-turin" => (26, 0, 0, 2),
            _ => return Err(unknown()),
        };
        if !(1..=versions).contains(&version) {
            return Err(unknown());
        }
        Ok(Self(signature(family, model, stepping)))
    }

    /// The signature.
    #[must_use]
    pub const fn signature(self) -> u32 {
        self.0
    }
}

/// CPUID leaf 1, EAX: families from 15 on are written as 15 and the rest.
const fn signature(family: u32, model: u32, stepping: u32) -> u32 {
    ((family - 15) << 20) | ((model >> 4) << 16) | (15 << 8) | ((model & 15) << 4) | stepping
}

/// One shape of machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Virtual processors.
    pub processors: u32,
    /// Their model.
    pub model: CpuModel,
    /// SEV_FEATURES of the save area; bit 0 says SNP. The host's kernel decides which more are on.
    pub features: u64,
    /// Who launches.
    pub hypervisor: Hypervisor,
}

impl Shape {
    /// State pages in the order of processors; those after the first begin at `reset_address`, or are not measured when it is 0.
    pub(crate) fn pages(&self, reset_address: u32) -> Result<Vec<Vec<u8>>, MeasureError> {
        if self.processors == 0 || self.processors > PROCESSORS_MAX {
            return Err(MeasureError::Processors(self.processors));
        }
        if self.features & 1 == 0 {
            return Err(MeasureError::Features(self.features));
        }
        let mut pages = vec![self.page(RESET_VECTOR)];
        if reset_address != 0 {
            let other = self.page(reset_address);
            pages.extend((1..self.processors).map(|_| other.clone()));
        }
        Ok(pages)
    }

    fn page(&self, start: u32) -> Vec<u8> {
        let first = start == RESET_VECTOR;
        let (code, stack, task) = match self.hypervisor {
            Hypervisor::Qemu | Hypervisor::Gce => (0x9b, 0x93, 0x8b),
            Hypervisor::Ec2 if first => (0x9a, 0x92, 0x83),
            Hypervisor::Ec2 => (0x9b, 0x92, 0x83),
        };
        let (rdx, mxcsr, fcw) = match self.hypervisor {
            Hypervisor::Qemu => (u64::from(self.model.signature()), 0x1f80, 0x37f),
            Hypervisor::Ec2 | Hypervisor::Gce => (0x600, 0, 0),
        };
        let pat = match self.hypervisor {
            Hypervisor::Gce => 0x0007_0106,
            Hypervisor::Qemu | Hypervisor::Ec2 => 0x0007_0406_0007_0406,
        };
        // ES, CS, SS, DS, FS, GS, GDTR, LDTR, IDTR, TR.
        let attributes = [0x93, code, stack, 0x93, 0x93, 0x93, 0, 0x82, 0, task];
        let mut area = SaveArea::default();
        for (at, attribute) in (0..).step_by(16).zip(attributes) {
            area.put(at + 2, &u16::to_le_bytes(attribute));
            area.put(at + 4, &0xffff_u32.to_le_bytes());
        }
        area.put(0x10, &0xf000_u16.to_le_bytes());
        area.number(0x18, u64::from(start & 0xffff_0000));
        area.number(0xd0, 0x1000); // EFER
        area.number(0x148, 0x40); // CR4
        area.number(0x158, 0x10); // CR0
        area.number(0x160, 0x400); // DR7
        area.number(0x168, 0xffff_0ff0); // DR6
        area.number(0x170, 2); // RFLAGS
        area.number(0x178, u64::from(start & 0xffff)); // RIP
        area.number(0x268, pat);
        area.number(0x310, rdx);
        area.number(0x3b0, self.features);
        area.number(0x3e8, 1); // XCR0
        area.put(0x408, &u32::to_le_bytes(mxcsr));
        area.put(0x410, &u16::to_le_bytes(fcw));
        area.0
    }
}

/// One page, zero where nothing is set.
struct SaveArea(Vec<u8>);

impl Default for SaveArea {
    fn default() -> Self {
        Self(vec![0; PAGE])
    }
}

impl SaveArea {
    /// Offsets are constants of this file, all within the page.
    fn put(&mut self, at: usize, bytes: &[u8]) {
        for (to, from) in self.0.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    }

    fn number(&mut self, at: usize, value: u64) {
        self.put(at, &value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_those_of_qemu_and_nothing_near_them() {
        let signature = |name| CpuModel::named(name).map(CpuModel::signature);
        assert_eq!(signature("EPYC-v4"), Ok(8_392_466));
        assert_eq!(signature("epyc-rome"), Ok(8_589_072));
        for name in [
            "",
            "EPYC-v0",
            "EPYC-v6",
            "EPYC-Genoa-v",
            "EPYC-IBPB-v1",
            "host",
            "EPYC-v4-v4",
        ] {
            assert_eq!(
                signature(name),
                Err(MeasureError::Model(name.into())),
                "{name}"
            );
        }
    }
}
