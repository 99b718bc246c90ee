//! Reports as the test chip writes them: well-formed by default, with every field open to a test.

use crate::digest::{ChipId, Measurement};
use crate::snp::{Product, REPORT_BYTES, TcbLayout, TcbVersion};

/// The fields of a report. The default of [`TestChip::template`](super::TestChip::template) passes every rule.
#[derive(Debug, Clone)]
pub struct ReportTemplate {
    /// VERSION.
    pub version: u32,
    /// GUEST_SVN.
    pub guest_svn: u32,
    /// POLICY.
    pub policy: u64,
    /// VMPL.
    pub vmpl: u32,
    /// SIGNATURE_ALGO.
    pub signature_algorithm: u32,
    /// PLATFORM_INFO.
    pub platform_info: u64,
    /// AUTHOR_KEY_EN, MASK_CHIP_KEY and SIGNING_KEY.
    pub flags: u32,
    /// REPORT_DATA.
    pub report_data: [u8; 64],
    /// MEASUREMENT.
    pub measurement: Measurement,
    /// HOST_DATA.
    pub host_data: [u8; 32],
    /// CPUID family, model and stepping; written from version 3 on.
    pub cpuid: [u8; 3],
    /// CHIP_ID.
    pub chip_id: ChipId,
    /// CURRENT_TCB.
    pub current_tcb: TcbVersion,
    /// REPORTED_TCB.
    pub reported_tcb: TcbVersion,
    /// COMMITTED_TCB.
    pub committed_tcb: TcbVersion,
    /// LAUNCH_TCB.
    pub launch_tcb: TcbVersion,
    /// LAUNCH_MIT_VECTOR and CURRENT_MIT_VECTOR; written from version 5 on.
    pub mitigations: (u64, u64),
}

impl ReportTemplate {
    /// The bytes, not yet signed.
    pub(super) fn encode(&self) -> Vec<u8> {
        let [family, model, _] = self.cpuid;
        let layout = Product::from_cpuid(family, model).map_or(TcbLayout::Legacy, TcbLayout::of);
        let mut out = vec![0; REPORT_BYTES];
        let mut put = |offset: usize, bytes: &[u8]| {
            for (to, from) in out.iter_mut().skip(offset).zip(bytes) {
                *to = *from;
            }
        };
        put(0x00, &self.version.to_le_bytes());
        put(0x04, &self.guest_svn.to_le_bytes());
        put(0x08, &self.policy.to_le_bytes());
        put(0x30, &self.vmpl.to_le_bytes());
        put(0x34, &self.signature_algorithm.to_le_bytes());
        put(0x38, &self.current_tcb.encode(layout));
        put(0x40, &self.platform_info.to_le_bytes());
        put(0x48, &self.flags.to_le_bytes());
        put(0x50, &self.report_data);
        put(0x90, self.measurement.as_bytes());
        put(0xc0, &self.host_data);
        put(0x180, &self.reported_tcb.encode(layout));
        put(0x1a0, self.chip_id.as_bytes());
        put(0x1e0, &self.committed_tcb.encode(layout));
        put(0x1f0, &self.launch_tcb.encode(layout));
        if self.version >= 3 {
            put(0x188, &self.cpuid);
        }
        if self.version >= 5 {
            put(0x1f8, &self.mitigations.0.to_le_bytes());
            put(0x200, &self.mitigations.1.to_le_bytes());
        }
        out
    }
}
